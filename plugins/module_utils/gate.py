# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The compatibility gate on a host: finds the weights of a plan's serves and the cards, and lets ``compatibility`` judge."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.capability import find_capability
from ansible_collections.anvil.serving.plugins.module_utils.compatibility import Candidate, CardFacts, judge, read_flag
from ansible_collections.anvil.serving.plugins.module_utils.engine import Engine
from ansible_collections.anvil.serving.plugins.module_utils.errors import AnvilError, Problem, problems_as_dicts
from ansible_collections.anvil.serving.plugins.module_utils.gpu import Card
from ansible_collections.anvil.serving.plugins.module_utils.hub import REFUSALS, HubError
from ansible_collections.anvil.serving.plugins.module_utils.modelfile import ModelFacts, read_model
from ansible_collections.anvil.serving.plugins.module_utils.models import (
    Fetching,
    Source,
    origin_of,
    read_manifest,
    resolve_place,
)
from ansible_collections.anvil.serving.plugins.module_utils.nvidia import read_driver
from ansible_collections.anvil.serving.plugins.module_utils.peek import inspect_repository
from ansible_collections.anvil.serving.plugins.module_utils.policy import Origin, read_allowed
from ansible_collections.anvil.serving.plugins.module_utils.spec import Service


def describe_card(uuid: str, name: Optional[str], version: Optional[str], vram_mib: Optional[int]) -> CardFacts:
    """A card with what the capability table says of it; ``version`` is its compute capability, such as 12.0."""
    row = find_capability(version)
    sm = int(version.replace(".", "")) if version and version.replace(".", "").isdigit() else None
    can = None if row is None else frozenset(word for word in ("bf16", "int8", "fp8") if getattr(row, word))
    if row is not None and can is not None and row.fp4:
        can |= {"nvfp4", "mxfp4"}
    return CardFacts(uuid, name or "", sm, vram_mib, can, frozenset(row.emulated if row else ()))


def _supplied_cards(gpus: Sequence[Mapping[str, Any]]) -> List[CardFacts]:
    """Cards, and MIG devices with the capability of their card, as anvil_host_info tells them."""
    found = []
    for gpu in gpus:
        for one in (gpu, *(gpu.get("mig_devices") or ())):
            found.append(
                describe_card(str(one["uuid"]), gpu.get("name"), gpu.get("compute_capability"), one.get("vram_total_mib"))
            )
    return found


def _describe_cards(cards: Sequence[Card]) -> List[CardFacts]:
    return _supplied_cards([asdict(card) for card in cards])


def _inside(mount: Mapping[str, Any], path: str) -> Optional[str]:
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


def find_weights(engine: Engine, serve: Mapping[str, Any]) -> Optional[str]:
    """Where the weights of a serve of the plan lie on this host; ``None`` if they are not here."""
    model = str(serve["model"])
    for mount in serve.get("mounts") or []:
        volume = mount["source"] if mount["kind"] == "volume" else None
        try:
            root = resolve_place(engine, volume, "." if volume else str(mount["source"]), create=False)
        except AnvilError:
            continue  # a volume that is not there holds no weights
        if model.startswith("/"):
            below = _inside(mount, os.path.normpath(model))
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
class Entry:
    """A model that the role ``models`` will bring: where it will lie on this host, and where it comes from."""

    target: str
    name: str
    source: Source


def read_entries(engine: Engine, models: Sequence[Mapping[str, Any]], folder: str, volume: str) -> List[Entry]:
    """The hub's repositories of a ``models_list``; nothing is created and nobody asked."""
    root = resolve_place(engine, None if folder else volume, folder or ".", create=False, predict=True)
    return [
        Entry(
            os.path.join(root, str(model.get("name") or model["repo"])),
            str(model.get("name") or model["repo"]),
            Source(
                "hub",
                repo=str(model["repo"]),
                revision=str(model.get("revision") or "main"),
                allow=tuple(model.get("allow") or ()),
                ignore=tuple(model.get("ignore") or ()),
            ),
        )
        for model in models
        if model.get("repo")
    ]


@dataclass(frozen=True)
class Asked:
    """What a judgement goes by. paths: serve -> weights on this host; gpus, cuda: as anvil_host_info tells them, None for
    this host's own. hub: how to look at repositories that are not here yet; None: do not.
    """

    paths: Mapping[str, str]
    allowed: Optional[Tuple[Origin, ...]] = None
    gpus: Optional[Sequence[Mapping[str, Any]]] = None
    cuda: Optional[str] = None
    hub: Optional[Fetching] = None
    entries: Tuple[Entry, ...] = ()


@dataclass(frozen=True)
class Found:
    """What became known of a serve's weights; fetch: bytes that are still to be downloaded."""

    facts: Optional[ModelFacts] = None
    origin: Optional[Origin] = None
    problems: Tuple[Problem, ...] = ()
    notes: Tuple[str, ...] = ()
    fetch: int = 0


def _expected(engine: Engine, serve: Mapping[str, Any], entries: Sequence[Entry]) -> Optional[Tuple[Entry, str]]:
    """The entry that will bring the weights of a serve, and what of it the serve loads."""
    model = os.path.normpath(str(serve["model"]))
    for mount in serve.get("mounts") or []:
        below = _inside(mount, model)
        if below is None:
            continue
        volume = mount["source"] if mount["kind"] == "volume" else None
        try:
            root = resolve_place(engine, volume, "." if volume else str(mount["source"]), create=False, predict=True)
        except AnvilError:
            continue
        path = os.path.normpath(os.path.join(root, below))
        for entry in entries:
            if path == entry.target or path.startswith(entry.target + "/"):
                return entry, os.path.relpath(path, entry.target)
    return None


def _look_at_hub(entry: Entry, inside: str, asked: Asked) -> Found:
    """What a repository holds, from its headers. Who cannot be asked is no reason against a serve."""
    pinned = Origin(entry.source.repo, entry.source.revision)
    if asked.hub is None:
        return Found(origin=pinned)
    try:
        facts, shadow = inspect_repository(entry.source, asked.hub, entry.name, inside)
    except HubError as exc:
        if exc.kind in REFUSALS:
            return Found(origin=pinned, problems=exc.problems)
        return Found(
            origin=pinned, notes=("{0}: {1} ({2})".format(entry.source.repo, exc.problems[0].what, exc.problems[0].why),)
        )
    except AnvilError as exc:
        return Found(origin=pinned, problems=exc.problems)
    note = "{0}: judged by its headers on the hub at {1}".format(entry.source.repo, shadow.commit)
    return Found(facts, Origin(entry.source.repo, shadow.commit), notes=(note,), fetch=shadow.size)


def _find(engine: Engine, serve: Mapping[str, Any], args: Sequence[str], asked: Asked) -> Found:
    model, revision = str(serve["model"]), read_flag(args, "--revision") or ""
    path = asked.paths.get(serve["name"]) or find_weights(engine, serve)
    if model.startswith("/"):
        if path is not None:
            manifest = _find_manifest(path)
            facts, problems = _read_facts(path)
            return Found(facts, origin_of(manifest) if manifest else None, problems)
        expected = _expected(engine, serve, asked.entries)
        return _look_at_hub(*expected, asked) if expected else Found()
    if path is None:
        found = _look_at_hub(Entry("", model, Source("hub", repo=model, revision=revision or "main")), ".", asked)
    else:
        facts, problems = _read_facts(path)
        found = Found(facts, problems=problems)
    return replace(found, origin=Origin(model, revision))  # what the engine was told, whatever main is today


def judge_plan(engine: Engine, plan: Mapping[str, Any], asked: Asked, enforce: bool) -> Dict[str, Any]:
    """Judge all serves of a plan."""
    candidates: List[Candidate] = []
    unreadable: List[Problem] = []
    notes: List[str] = []
    fetch: Dict[str, int] = {}
    for serve in plan["serves"]:
        args = tuple(str(word) for word in serve.get("args") or ())
        found = _find(engine, serve, args, asked)
        unreadable += [
            replace(problem, where="serve {0}: {1}".format(serve["name"], problem.where)) for problem in found.problems
        ]
        notes += ["serve {0}: {1}".format(serve["name"], note) for note in found.notes]
        fetch[serve["name"]] = found.fetch
        candidates.append(
            Candidate(
                serve=serve["name"],
                engine=serve["engine"],
                model=serve["model"],
                origin=found.origin,
                cards=tuple(serve.get("gpu_uuids") or ()),
                args=args,
                claim_mib=int(serve.get("vram_mib") or 0),
                facts=found.facts,
            )
        )
    allowed = asked.allowed if asked.allowed is not None else read_allowed(plan.get("models_allowed"))
    driver = read_driver() if asked.gpus is None else None
    cards = _supplied_cards(asked.gpus) if asked.gpus is not None else _describe_cards(driver.cards if driver else ())
    report = judge(candidates, cards, allowed, asked.cuda or (driver.cuda if driver else None))
    problems = (*unreadable, *report.problems)
    result: Dict[str, Any] = {
        "changed": False,
        "fits": not problems,
        "findings": problems_as_dicts(problems),
        "notes": [*notes, *report.notes],
        "serves": {name: {**row, "fetch_bytes": fetch[name]} for name, row in report.rows.items()},
    }
    if enforce and problems:
        result["problems"] = problems
    return result


def judge_services(
    engine: Engine,
    services: Sequence[Service],
    starting: Sequence[str],
    cards: Sequence[Card],
    allowed: Optional[Tuple[Origin, ...]],
) -> Tuple[List[Problem], List[str]]:
    """Judge the services that are about to start beside those that run; what is wrong, and what could not be judged.

    Nobody but this host is asked: what weights hold that are not here yet, ``judge_plan`` can tell.
    """
    asked = Asked({}, allowed)
    candidates: List[Candidate] = []
    problems: List[Problem] = []
    for service in services:
        if "model" not in service.anvil:
            continue
        model, words = str(service.anvil["model"]), tuple(service.command or ())
        mounts = [{"kind": mount.kind, "source": mount.source, "target": mount.target} for mount in service.mounts]
        found = Found()
        if service.name in starting:
            found = _find(engine, {"name": service.name, "model": model, "mounts": mounts}, words, asked)
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
    labelled = any(candidate.facts is not None and candidate.facts.trt for candidate in candidates)
    driver = read_driver() if labelled else None  # the driver is asked once more only for engines that name their CUDA
    report = judge(candidates, _describe_cards(cards), allowed, driver.cuda if driver else None, only=starting)
    return problems + list(report.problems), list(report.notes)


def _read_facts(path: str) -> Tuple[Optional[ModelFacts], Tuple[Problem, ...]]:
    try:
        return read_model(path), ()
    except AnvilError as exc:
        return None, exc.problems
