# SPDX-License-Identifier: GPL-3.0-or-later
"""Verify the serves that were started: settings as requested, no restart while they settle; finish or undo an adoption."""

from __future__ import annotations

import functools
import time
from typing import Any, Collection, Dict, List, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import read_settings
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves import effective_settings, engine_report, readiness
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import ObservedContainer
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import (
    LOG_LINES,
    Outcome,
    Project,
    ServeOptions,
    build_probe,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import ProjectState, read_container


def verify_serves(
    state: ProjectState,
    started: Sequence[Service],
    outcomes: Dict[str, Outcome],
    options: ServeOptions,
    replacing: Collection[str] = (),
) -> None:
    """started: the serves that this run started, or tried to start. replacing: those that replace a revision that was ready;
    they are watched while they settle. Findings go into their outcomes."""
    docker, project = state.docker, state.project
    for service in started:
        outcome = outcomes[service.name]
        outcome.seen = read_container(docker, service.container)
        problem = _find_ignored_settings(project, service) if outcome.ready else None
        if problem is not None:
            outcome.fail("setting_ignored", problem)
    _keep_reports(project, started, outcomes)
    watched = [
        one for one in started if options.state != "up" or outcomes[one.name].replaces is not None or one.name in replacing
    ]
    _watch_settled(docker, watched, outcomes, options.settle)
    for service in started:
        outcome = outcomes[service.name]
        if outcome.replaces is None:
            continue
        from ansible_collections.anvil.serving.plugins.module_utils.serves import adoption

        if outcome.ready is False:
            outcome.problems.append(adoption.put_back(docker, project, service))
            outcome.seen = read_container(docker, service.container)
        else:
            adoption.finish(docker, project, service, outcome.replaces)
    _record_mounted_files(state)
    if project.history is not None or options.keep_revisions:
        _record_weights(state, started, outcomes)


def _record_weights(state: ProjectState, started: Sequence[Service], outcomes: Dict[str, Outcome]) -> None:
    """Record the weights that the ready serves have loaded."""
    from ansible_collections.anvil.serving.plugins.module_utils.serves.served_weights import record_started

    ready = {}
    for service in started:
        seen = outcomes[service.name].seen
        if seen is not None and outcomes[service.name].ready is not False:
            ready[service.name] = seen
    kept = {str(entry["Id"]) for entry in state.listed} | {seen.id for seen in ready.values()}
    record_started(state.docker, state.project.directory, ready, started, kept)


def _keep_reports(project: Project, started: Sequence[Service], outcomes: Dict[str, Outcome]) -> None:
    """Keep what each ready engine reports of its KV cache: later it may sleep."""
    found: Dict[str, Dict[str, Any]] = {}
    for service in started:
        probe, seen = build_probe(project, service), outcomes[service.name].seen
        if probe is None or seen is None or not outcomes[service.name].ready:
            continue
        engine = str(service.anvil.get("engine", ""))
        settings = read_settings(engine, service.command or (), service.environment)
        get = functools.partial(_read_path, probe)
        tokens, context = engine_report.read_tokens(engine, settings, probe.served_name, get)
        if tokens is not None or context is not None:
            found[service.name] = {"container_id": seen.id, "kv_tokens": tokens, "context": context}
    engine_report.keep_reports(project.directory, found, project.services)


def _read_path(probe: readiness.ReadinessProbe, path: str) -> str:
    answer = readiness.request_path(probe, path)
    return answer.text if answer.status == 200 else ""


def _find_ignored_settings(project: Project, service: Service) -> Optional[Problem]:
    """A flag that the server accepted and did not follow."""
    probe = build_probe(project, service)
    engine = str(service.anvil.get("engine", ""))
    settings = read_settings(engine, service.command or (), service.environment)
    found: List[effective_settings.Difference] = []
    if probe is not None and engine == "vllm":
        found = effective_settings.compare_vllm(settings, probe.served_name, readiness.request_state(probe).text)
    if probe is not None and engine == "llama_cpp":
        found = effective_settings.compare_llama(settings, readiness.request_path(probe, "/props").text)
    if not found:
        return None
    return Problem(
        what="the server is up but ignored a setting",
        where="serve " + service.name,
        why="; ".join(difference.as_text() for difference in found),
        hint="set a value that the model and the GPU allow; the serve's log says why the flag was ignored",
    )


def _watch_settled(docker: DockerEngine, started: Sequence[Service], outcomes: Dict[str, Outcome], settle: float) -> None:
    watched: Dict[str, ObservedContainer] = {}
    for service in started:
        outcome = outcomes[service.name]
        if outcome.ready is not False and outcome.seen is not None:
            watched[service.name] = outcome.seen
    if not watched or settle <= 0:
        return
    lost = readiness.watch_settled(watched, lambda name: read_container(docker, name), time.monotonic, time.sleep, settle)
    for name, verdict in lost.items():
        problem = Problem(
            what="the serve was ready, then failed within {0:g} s: {1}".format(settle, verdict.state),
            where="serve " + name,
            why=verdict.why,
            hint="read the end of its log below",
            log=tuple(docker.read_log(watched[name].id, LOG_LINES)),
        )
        outcomes[name].fail(verdict.state, problem)


def _record_mounted_files(state: ProjectState) -> None:
    """Record the content that single mounted files had when the containers of the project were created."""
    from ansible_collections.anvil.serving.plugins.module_utils.docker.mounted_files import list_mounted_files, record_files

    services = state.project.services
    if not any(list_mounted_files(service.mounts) for service in services.values()):
        return
    fresh = ProjectState(state.docker, state.project)
    seen = {name: fresh.find_container(service) for name, service in services.items()}
    ours = {found.id: services[name].mounts for name, found in seen.items() if found is not None and fresh.is_ours(found)}
    record_files(state.project.directory, ours)
