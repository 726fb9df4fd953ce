# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The compatibility gate before anything is there: whole plans, with weights that are still on the hub."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin, read_allowed
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, problems_as_dicts
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.host.nvidia_stack import read_driver
from ansible_collections.anvil.serving.plugins.module_utils.weights.compatibility import Candidate, CardFacts, judge
from ansible_collections.anvil.serving.plugins.module_utils.weights.compatibility_on_host import (
    Found,
    describe_card,
    describe_cards,
    inside,
    look_here,
    named_origin,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.hub import REFUSALS, HubError
from ansible_collections.anvil.serving.plugins.module_utils.weights.hub_preview import inspect_repository
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import resolve_place
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_store import Fetching, Source


@dataclass(frozen=True)
class Entry:
    """A model that the role ``models`` will bring: where it will lie on this host, and where it comes from."""

    target: str
    name: str
    source: Source


def read_entries(engine: DockerEngine, models: Sequence[Mapping[str, Any]], folder: str, volume: str) -> List[Entry]:
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


def _expected(engine: DockerEngine, serve: Mapping[str, Any], entries: Sequence[Entry]) -> Optional[Tuple[Entry, str]]:
    """The entry that will bring the weights of a serve, and what of it the serve loads."""
    model = os.path.normpath(str(serve["model"]))
    for mount in serve.get("mounts") or []:
        below = inside(mount, model)
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


def _find(engine: DockerEngine, serve: Mapping[str, Any], args: Sequence[str], asked: Asked) -> Found:
    model = str(serve["model"])
    found = look_here(engine, serve, args, asked.paths.get(serve["name"]))
    if found is not None:
        return found
    origin = named_origin(model, args)
    if origin is not None:
        source = Source("hub", repo=model, revision=origin.revision or "main")
        return replace(_look_at_hub(Entry("", model, source), ".", asked), origin=origin)
    expected = _expected(engine, serve, asked.entries)
    return _look_at_hub(*expected, asked) if expected else Found()


def _supplied_cards(gpus: Sequence[Mapping[str, Any]]) -> List[CardFacts]:
    """Cards, and MIG devices with the capability of their card, as anvil_host_info tells them."""
    found = []
    for gpu in gpus:
        for one in (gpu, *(gpu.get("mig_devices") or ())):
            found.append(
                describe_card(str(one["uuid"]), gpu.get("name"), gpu.get("compute_capability"), one.get("vram_total_mib"))
            )
    return found


def judge_plan(engine: DockerEngine, plan: Mapping[str, Any], asked: Asked, enforce: bool) -> Dict[str, Any]:
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
    cards = _supplied_cards(asked.gpus) if asked.gpus is not None else describe_cards(driver.cards if driver else ())
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
