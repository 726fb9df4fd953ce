# SPDX-License-Identifier: GPL-3.0-or-later
"""The compatibility check of a whole plan, before anything is downloaded: weights on this host, or still on the hub."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import Settings, read_settings
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin, read_allowed
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.core.findings import (
    DOUBTFUL,
    IMPOSSIBLE,
    UNKNOWN,
    Finding,
    select_refused,
    unknown,
)
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.host.nvidia_stack import read_driver
from ansible_collections.anvil.serving.plugins.module_utils.weights.candidate import Candidate
from ansible_collections.anvil.serving.plugins.module_utils.weights.card_facts import describe_cards, describe_reported_cards
from ansible_collections.anvil.serving.plugins.module_utils.weights.compatibility import judge_candidates
from ansible_collections.anvil.serving.plugins.module_utils.weights.fetch_errors import REFUSALS, FetchError
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import resolve_path
from ansible_collections.anvil.serving.plugins.module_utils.weights.source import FetchOptions, Source
from ansible_collections.anvil.serving.plugins.module_utils.weights.weights_on_host import (
    ServeWeights,
    describe_elsewhere,
    judge_absence,
    name_other_source,
    origin_of_repository,
    path_below_mount,
    place_findings,
    read_config_file,
    read_weights,
)


@dataclass(frozen=True)
class ExpectedModel:
    """A model that the role ``models`` will bring. target: its folder on this host."""

    target: str
    name: str
    source: Source


def read_expected_models(
    docker: DockerEngine, models: Sequence[Mapping[str, Any]], folder: str, volume: str
) -> List[ExpectedModel]:
    """The repositories of a ``models_list``. Nothing is created, and the hub is not contacted."""
    root = resolve_path(docker, None if folder else volume, folder or ".", create=False, predict=True)
    return [
        ExpectedModel(
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
class JudgementInput:
    """What a plan is judged by.

    paths: serve -> weights on this host. allowed: the policy; None takes the plan's. gpus, cuda: as anvil_host_info returns
    them; None takes this host's. hub: how to read repositories that are not here yet; None: do not. expected: models that will
    be brought.
    """

    paths: Mapping[str, str]
    allowed: Optional[Tuple[Origin, ...]] = None
    gpus: Optional[Sequence[Mapping[str, Any]]] = None
    cuda: Optional[str] = None
    hub: Optional[FetchOptions] = None
    expected: Tuple[ExpectedModel, ...] = ()


def _find_expected_model(
    docker: DockerEngine, serve: Mapping[str, Any], expected: Sequence[ExpectedModel]
) -> Optional[Tuple[ExpectedModel, str]]:
    """The model that will bring the weights of a serve, and the path in it that the serve loads."""
    model = os.path.normpath(str(serve["model"]))
    for mount in serve.get("mounts") or []:
        below = path_below_mount(mount, model)
        if below is None:
            continue
        volume = mount["source"] if mount["kind"] == "volume" else None
        try:
            root = resolve_path(docker, volume, "." if volume else str(mount["source"]), create=False, predict=True)
        except AnvilError:
            continue
        path = os.path.normpath(os.path.join(root, below))
        for entry in expected:
            if path == entry.target or path.startswith(entry.target + "/"):
                return entry, os.path.relpath(path, entry.target)
    return None


def _read_weights_on_hub(source: Source, name: str, inside: str, options: Optional[FetchOptions]) -> ServeWeights:
    """What a repository holds, from its headers. A hub that cannot be reached is a note, not a problem."""
    pinned = Origin(source.repo, source.revision)
    if options is None:
        return ServeWeights(origin=pinned)
    from ansible_collections.anvil.serving.plugins.module_utils.weights.repository_preview import read_repository_model

    try:
        facts, preview = read_repository_model(source, options, name, inside)
    except FetchError as exc:
        if exc.kind in REFUSALS:
            return ServeWeights(origin=pinned, problems=exc.problems)
        note = "{0}: {1} ({2})".format(source.repo, exc.problems[0].what, exc.problems[0].why)
        return ServeWeights(origin=pinned, notes=(note,))
    except AnvilError as exc:
        return ServeWeights(origin=pinned, problems=exc.problems)
    note = "{0}: judged by its headers on the hub at {1}".format(source.repo, preview.commit)
    return ServeWeights(facts, Origin(source.repo, preview.commit), notes=(note,), fetch_bytes=preview.size)


def _read_serve_weights(
    docker: DockerEngine, serve: Mapping[str, Any], settings: Settings, given: JudgementInput
) -> ServeWeights:
    model = str(serve["model"])
    found = read_weights(docker, serve, settings, given.paths.get(serve["name"]))
    if found is not None:
        return found
    origin = origin_of_repository(model, settings)
    if name_other_source(model, settings):
        return describe_elsewhere(model, settings)
    if origin is not None:
        source = Source("hub", repo=model, revision=origin.revision or "main")
        return replace(
            _read_weights_on_hub(source, model, ".", given.hub), origin=origin, findings=judge_absence(model, settings)
        )
    expected = _find_expected_model(docker, serve, given.expected)
    if expected is None:
        return ServeWeights()
    entry, inside = expected
    return _read_weights_on_hub(entry.source, entry.name, inside, given.hub)


def _find_verdict(name: str, found: Sequence[Finding]) -> str:
    """The worst verdict on a serve. What was not judged is no verdict."""
    where = "serve {0}".format(name)
    mine = {one.verdict for one in found if one.problem.where == where or one.problem.where.startswith(where + ":")}
    return IMPOSSIBLE if IMPOSSIBLE in mine else DOUBTFUL if DOUBTFUL in mine else "fits"


def judge_plan(docker: DockerEngine, plan: Mapping[str, Any], given: JudgementInput, mode: str) -> Dict[str, Any]:
    """Judge all serves of a plan. Returns what anvil_compatibility returns; the mode says which findings fail the module."""
    candidates: List[Candidate] = []
    found: List[Finding] = []
    fetch_bytes: Dict[str, int] = {}
    for serve in plan["serves"]:
        args = tuple(str(word) for word in serve.get("args") or ())
        environment = {str(name): str(value) for name, value in (serve.get("environment") or {}).items()}
        settings = read_settings(str(serve["engine"]), args, environment)
        weights = _read_serve_weights(docker, serve, settings, given)
        where = "serve {0}".format(serve["name"])
        found += [unknown(note, where) for note in weights.notes]
        found += place_findings(weights, where)
        fetch_bytes[serve["name"]] = weights.fetch_bytes
        candidates.append(
            Candidate(
                serve=serve["name"],
                engine=serve["engine"],
                model=serve["model"],
                origin=weights.origin,
                cards=tuple(serve.get("gpu_uuids") or ()),
                args=args,
                claim_mib=int(serve.get("vram_mib") or 0),
                claim_by_card=serve.get("vram_by_card") or {},
                facts=weights.facts,
                environment=environment,
                config=read_config_file(docker, serve, settings),
                targets=tuple(str(mount["target"]) for mount in serve.get("mounts") or ()),
                secrets=tuple(serve.get("secrets") or ()),
                entrypoint=tuple(serve.get("entrypoint") or ()),
            )
        )
    allowed = given.allowed if given.allowed is not None else read_allowed(plan.get("models_allowed"))
    driver = read_driver() if given.gpus is None else None
    cards = describe_reported_cards(given.gpus) if given.gpus is not None else describe_cards(driver.cards if driver else ())
    report = judge_candidates(candidates, cards, allowed, given.cuda or (driver.cuda if driver else None))
    found += report.findings
    told = [finding for finding in found if finding.verdict != UNKNOWN]
    result: Dict[str, Any] = {
        "changed": False,
        "fits": not told,
        "findings": [finding.as_dict() for finding in told],
        "notes": [finding.as_text() for finding in found if finding.verdict == UNKNOWN],
        "serves": {
            name: {"verdict": _find_verdict(name, found), **row, "fetch_bytes": fetch_bytes[name]}
            for name, row in report.rows.items()
        },
    }
    refused = select_refused(found, mode)
    if refused:
        result["problems"] = tuple(refused)
    return result
