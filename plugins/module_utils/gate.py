# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The compatibility gate on a host: finds the weights of a plan's serves and the cards, and lets ``compatibility`` judge."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.capability import find_capability
from ansible_collections.anvil.serving.plugins.module_utils.compatibility import Candidate, CardFacts, judge, read_flag
from ansible_collections.anvil.serving.plugins.module_utils.engine import Engine
from ansible_collections.anvil.serving.plugins.module_utils.errors import AnvilError, Problem, problems_as_dicts
from ansible_collections.anvil.serving.plugins.module_utils.gpu import read_cards
from ansible_collections.anvil.serving.plugins.module_utils.modelfile import ModelFacts, read_model
from ansible_collections.anvil.serving.plugins.module_utils.models import resolve_place


def describe_card(uuid: str, name: Optional[str], version: Optional[str], vram_mib: Optional[int]) -> CardFacts:
    """A card with what the capability table says of it; ``version`` is its compute capability, such as 12.0."""
    row = find_capability(version)
    sm = int(version.replace(".", "")) if version and version.replace(".", "").isdigit() else None
    can = None if row is None else frozenset(word for word in ("bf16", "int8", "fp8") if getattr(row, word))
    if row is not None and can is not None and row.fp4:
        can |= {"nvfp4", "mxfp4"}
    return CardFacts(uuid, name or "", sm, vram_mib, can, frozenset(row.emulated if row else ()))


def _supplied_cards(gpus: Sequence[Mapping[str, Any]]) -> List[CardFacts]:
    return [
        describe_card(str(gpu["uuid"]), gpu.get("name"), gpu.get("compute_capability"), gpu.get("vram_total_mib")) for gpu in gpus
    ]


def _host_cards() -> List[CardFacts]:
    found = read_cards() or []
    return [describe_card(card.uuid, card.name, card.compute_capability, card.vram_total_mib) for card in found]


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


def judge_plan(
    engine: Engine,
    plan: Mapping[str, Any],
    paths: Mapping[str, str],
    allowed: Optional[Sequence[Mapping[str, str]]],
    gpus: Optional[Sequence[Mapping[str, Any]]],
    enforce: bool,
) -> Dict[str, Any]:
    """Judge all serves of a plan. paths: serve -> weights on this host; gpus: cards as anvil_host_info tells them."""
    candidates: List[Candidate] = []
    unreadable: List[Problem] = []
    for serve in plan["serves"]:
        facts, problems = _read_facts(paths.get(serve["name"]) or find_weights(engine, serve))
        unreadable += problems
        args = tuple(str(word) for word in serve.get("args") or ())
        candidates.append(
            Candidate(
                serve=serve["name"],
                engine=serve["engine"],
                model=serve["model"],
                revision=read_flag(args, "--revision") or "",
                cards=tuple(serve.get("gpu_uuids") or ()),
                args=args,
                claim_mib=int(serve.get("vram_mib") or 0),
                facts=facts,
            )
        )
    report = judge(candidates, _supplied_cards(gpus) if gpus is not None else _host_cards(), allowed)
    problems = (*unreadable, *report.problems)
    result: Dict[str, Any] = {
        "changed": False,
        "fits": not problems,
        "findings": problems_as_dicts(problems),
        "notes": list(report.notes),
        "serves": {name: dict(row) for name, row in report.rows.items()},
    }
    if enforce and problems:
        result["problems"] = problems
    return result


def _read_facts(path: Optional[str]) -> Tuple[Optional[ModelFacts], Tuple[Problem, ...]]:
    if path is None:
        return None, ()
    try:
        return read_model(path), ()
    except AnvilError as exc:
        return None, exc.problems
