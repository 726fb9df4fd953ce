# SPDX-License-Identifier: GPL-3.0-or-later
"""The decision for every serve of a project, from what runs, the residency of each serve and the request of the operator."""

from __future__ import annotations

import time
from typing import Dict, List, Mapping, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
    NO_HEALTHCHECK,
    OFF,
    ON_DEMAND,
    Service,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves import decisions
from ansible_collections.anvil.serving.plugins.module_utils.serves.decisions import RESTS_OFF, RESTS_ON_DEMAND, Decision
from ansible_collections.anvil.serving.plugins.module_utils.serves.drift import Change
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import ObservedContainer
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Outcome, Project, ServeOptions
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_files import list_adoption_notes
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import ProjectState
from ansible_collections.anvil.serving.plugins.module_utils.serves.readiness import judge_container


def list_described(project: Project) -> List[Service]:
    """The chosen serves that the profile and the deploy mode of this host let run."""
    return [service for service in project.chosen() if project.residency(service) != OFF]


def list_left_out(project: Project) -> List[Service]:
    """The chosen serves that the profile or the deploy mode of this host leaves out."""
    return [service for service in project.chosen() if project.residency(service) == OFF]


def decide_project(state: ProjectState, options: ServeOptions, services: Sequence[Service]) -> Dict[str, Outcome]:
    """The decisions for these serves, then for those that are left out."""
    outcomes = decide_services(state, services)
    _rest_on_demand(state.project, services, outcomes)
    if options.state != "up":
        from ansible_collections.anvil.serving.plugins.module_utils.serves import replacement

        replacement.decide_replacement(state, services, outcomes, options)
    if options.state == "adopted" or list_adoption_notes(state.project):
        from ansible_collections.anvil.serving.plugins.module_utils.serves import adoption_note, replacement

        replacement.decide_adoptions(state, services, outcomes, options, adoption_note.read_notes(state.project))
    outcomes.update(decide_left_out(state))
    return outcomes


def decide_services(state: ProjectState, services: Sequence[Service], ask_all: bool = False) -> Dict[str, Outcome]:
    """What brings each serve up. ask_all: ask every serve whether it still reaches its GPUs, not only where that is in doubt."""
    outcomes = {}
    for number, service in enumerate(services, 1):
        seen = state.find_container(service)
        for following in services[number : number + 1]:
            state.announce_container(following)
        if seen is not None and not state.is_ours(seen):
            # Another container uses the name: our container is missing, and admission reports the other one.
            outcomes[service.name] = Outcome(Decision(decisions.CREATE, ("missing",)))
            continue
        seen = state.wait_out_restart(seen)
        changes = None if seen is None else state.diff_container(service, seen)
        own_check = service.healthcheck not in (None, NO_HEALTHCHECK)
        waits = bool(service.anvil.get("hosts")) and seen is not None and _is_looping(seen)
        outcomes[service.name] = Outcome(decisions.decide_up(changes, seen, state.project.name, own_check, waits), seen)
    _replace_without_gpu(state, services, outcomes, ask_all)
    return outcomes


def _is_looping(seen: ObservedContainer) -> bool:
    """Whether a container exits again and again, also at a moment when it runs."""
    verdict = judge_container(seen, time.time())
    return verdict is not None and verdict.state in ("restarting", "restart_loop")


def _replace_without_gpu(
    state: ProjectState, services: Sequence[Service], outcomes: Mapping[str, Outcome], ask_all: bool
) -> None:
    """Recreate a serve that has nothing else to do and lost its GPUs. A serve that the operator names is always asked."""
    running = {}
    for service in services:
        seen, decision = outcomes[service.name].seen, outcomes[service.name].decision
        if service.gpu_uuids and seen is not None and seen.state == "running" and decision.action == decisions.NONE:
            running[service.name] = seen
    if not running:
        return
    from ansible_collections.anvil.serving.plugins.module_utils.serves import gpu_access

    always = ask_all or bool(state.project.only)
    asked = {name: seen for name, seen in running.items() if always or gpu_access.is_suspect(state.docker, seen)}
    for name, evidence in (gpu_access.find_lost(state.docker, asked) if asked else {}).items():
        change = Change("gpu_lost", evidence, "a new container with " + ", ".join(state.project.services[name].gpu_uuids))
        outcomes[name].decision = Decision(decisions.RECREATE, ("gpu_lost",), (change,))


def _rest_on_demand(project: Project, services: Sequence[Service], outcomes: Mapping[str, Outcome]) -> None:
    """A serve on demand is started only by name; one that runs is kept as the inventory has it."""
    for service in services:
        outcome = outcomes[service.name]
        rests = outcome.seen is not None and outcome.seen.state in ("exited", "created", "dead")
        starts = outcome.decision.action in (decisions.CREATE, decisions.START)
        starts = starts or (rests and outcome.decision.action == decisions.RECREATE)
        if not project.only and starts and project.residency(service) == ON_DEMAND:
            outcome.decision = Decision(decisions.NONE, (RESTS_ON_DEMAND,))


def decide_left_out(state: ProjectState) -> Dict[str, Outcome]:
    """A container of a serve that the profile or the deploy mode leaves out is taken down."""
    outcomes = {}
    for service in list_left_out(state.project):
        seen = state.find_container(service)
        ours = seen if state.is_ours(seen) else None
        outcomes[service.name] = Outcome(Decision(decisions.EVICT if ours else decisions.NONE, (RESTS_OFF,)), ours)
        if service.name in state.project.only:
            outcomes[service.name].problems.append(
                Problem(
                    what="the serve cannot be started on this host",
                    where="serve " + service.name,
                    why="anvil_profile or anvil_deploy_mode of this host leaves it out",
                    hint="choose another anvil_profile or anvil_deploy_mode, or add the serve to the profile",
                )
            )
    return outcomes
