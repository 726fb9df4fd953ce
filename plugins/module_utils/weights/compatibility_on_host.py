# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The compatibility gate on a host: finds the weights of the serves that are about to start, and lets ``compatibility`` judge.

Nobody but this host is asked; ``forecast`` judges what is not here yet.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.card_capabilities import find_capability
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import read_flag
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.service import Service
from ansible_collections.anvil.serving.plugins.module_utils.weights.compatibility import Candidate, CardFacts, judge
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import origin_of, read_manifest, resolve_place
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import ModelFacts, read_model

if TYPE_CHECKING:
    from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card


def describe_card(uuid: str, name: Optional[str], version: Optional[str], vram_mib: Optional[int]) -> CardFacts:
    """A card with what the capability table says of it; ``version`` is its compute capability, such as 12.0."""
    row = find_capability(version)
    sm = int(version.replace(".", "")) if version and version.replace(".", "").isdigit() else None
    can = None if row is None else frozenset(word for word in ("bf16", "int8", "fp8") if getattr(row, word))
    if row is not None and can is not None and row.fp4:
        can |= {"nvfp4", "mxfp4"}
    return CardFacts(uuid, name or "", sm, vram_mib, can, frozenset(row.emulated if row else ()))


def describe_cards(cards: Sequence[Card]) -> List[CardFacts]:
    """Cards, and MIG devices with the capability of their card."""
    found = []
    for card in cards:
        parts = [(card.uuid, card.vram_total_mib), *((one.uuid, one.vram_total_mib) for one in card.mig_devices)]
        found += [describe_card(uuid, card.name, card.compute_capability, vram_mib) for uuid, vram_mib in parts]
    return found


def inside(mount: Mapping[str, Any], path: str) -> Optional[str]:
    """What ``path`` of a container is below the source of one of its mounts."""
    target = os.path.normpath(str(mount["target"]))
    if path != target and not path.startswith(target.rstrip("/") + "/"):
        return None
    return os.path.relpath(path, target)


def _cached_snapshot(folder: str, model: str) -> Optional[str]:
    """The snapshot of a repository in a Hugging Face cache: the one that refs/main names, or the only one."""
    home = os.path.join(folder, "models--" + model.replace("/", "--"))
    try:
        snapshots = sorted(os.listdir(os.path.join(home, "snapshots")))
    except OSError:
        return None
    try:
        with open(os.path.join(home, "refs", "main"), encoding="ascii") as stream:
            named = stream.read().strip()
    except (OSError, ValueError):
        named = ""
    chosen = named if named in snapshots else snapshots[0] if len(snapshots) == 1 else None
    return os.path.join(home, "snapshots", chosen) if chosen else None


def find_weights(engine: DockerEngine, serve: Mapping[str, Any]) -> Optional[str]:
    """Where the weights of a serve of the plan lie on this host; ``None`` if they are not here."""
    model = str(serve["model"])
    for mount in serve.get("mounts") or []:
        volume = mount["source"] if mount["kind"] == "volume" else None
        try:
            root = resolve_place(engine, volume, "." if volume else str(mount["source"]), create=False)
        except AnvilError:
            continue  # a volume that is not there holds no weights
        if model.startswith("/"):
            below = inside(mount, os.path.normpath(model))
            found = os.path.join(root, below) if below is not None else None
            if found is not None and os.path.exists(found):
                return os.path.normpath(found)
        else:
            for cache in (os.path.join(root, "hub"), root):
                found = _cached_snapshot(cache, model)
                if found is not None:
                    return found
    return None


def _find_manifest(path: str) -> Optional[Dict[str, Any]]:
    """The manifest of the model that a file or folder belongs to: names have at most four parts, and files some more."""
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    for _level in range(8):
        manifest = read_manifest(folder)
        if manifest is not None or folder == os.path.dirname(folder):
            return manifest
        folder = os.path.dirname(folder)
    return None


@dataclass(frozen=True)
class Found:
    """What became known of a serve's weights; fetch: bytes that are still to be downloaded."""

    facts: Optional[ModelFacts] = None
    origin: Optional[Origin] = None
    problems: Tuple[Problem, ...] = ()
    notes: Tuple[str, ...] = ()
    fetch: int = 0


def named_origin(model: str, args: Sequence[str]) -> Optional[Origin]:
    """The origin of a repository that the engine is told by name, whatever its main is today; None for a path."""
    return None if model.startswith("/") else Origin(model, read_flag(args, "--revision") or "")


def look_here(engine: DockerEngine, serve: Mapping[str, Any], args: Sequence[str], path: Optional[str] = None) -> Optional[Found]:
    """What the weights of a serve of the plan hold; None: they are not on this host. path: where they lie, if that is known."""
    path = path or find_weights(engine, serve)
    if path is None:
        return None
    origin = named_origin(str(serve["model"]), args)
    if origin is None:
        manifest = _find_manifest(path)
        origin = origin_of(manifest) if manifest else None
    try:
        return Found(read_model(path), origin)
    except AnvilError as exc:
        return Found(None, origin, exc.problems)


def judge_services(
    engine: DockerEngine,
    services: Sequence[Service],
    starting: Sequence[str],
    cards: Sequence[Card],
    allowed: Optional[Tuple[Origin, ...]],
) -> Tuple[List[Problem], List[str]]:
    """Judge the services that are about to start beside those that run; what is wrong, and what could not be judged."""
    candidates: List[Candidate] = []
    problems: List[Problem] = []
    for service in services:
        if "model" not in service.anvil:
            continue
        model, words = str(service.anvil["model"]), tuple(service.command or ())
        mounts = [{"kind": mount.kind, "source": mount.source, "target": mount.target} for mount in service.mounts]
        found = Found()
        if service.name in starting:
            found = look_here(engine, {"model": model, "mounts": mounts}, words) or Found(origin=named_origin(model, words))
        problems += [replace(problem, where="serve {0}: {1}".format(service.name, problem.where)) for problem in found.problems]
        candidates.append(
            Candidate(
                serve=service.name,
                engine=str(service.anvil.get("engine", "")),
                model=model,
                origin=found.origin,
                cards=service.gpu_uuids,
                args=words,
                claim_mib=int(service.anvil.get("vram_mib") or 0),
                facts=found.facts,
            )
        )
    cuda = None
    if any(candidate.facts is not None and candidate.facts.trt for candidate in candidates):
        # The driver is asked once more only for engines that name their CUDA.
        from ansible_collections.anvil.serving.plugins.module_utils.host.nvidia_stack import read_driver

        driver = read_driver()
        cuda = driver.cuda if driver else None
    report = judge(candidates, describe_cards(cards), allowed, cuda, only=starting)
    return problems + list(report.problems), list(report.notes)
