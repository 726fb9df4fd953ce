# SPDX-License-Identifier: GPL-3.0-or-later
"""The states restarted, recreated and adopted: their decisions, and the steps of an adoption.

    old container    is renamed to NAME-before-adoption and stopped, so that its name, ports and GPUs are free
    new container    is created by Docker Compose, waited for and watched
    if it is ready   the old container is removed; its anonymous volumes stay
    if it is not     the new container is removed; the old one gets its name back and is started if it ran before

A run that is killed in between leaves the old container under the name NAME-before-adoption; the next run continues.
"""

from __future__ import annotations

from typing import Dict, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves import decisions
from ansible_collections.anvil.serving.plugins.module_utils.serves.decisions import REQUESTED, Decision
from ansible_collections.anvil.serving.plugins.module_utils.serves.drift import hide_secrets
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import HOLDING, ObservedContainer
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import GRACE_SECONDS, Outcome, ServeOptions
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import ProjectState, read_container

KEPT_SUFFIX = "-before-adoption"


def decide_replacement(
    state: ProjectState, services: Sequence[Service], outcomes: Dict[str, Outcome], options: ServeOptions
) -> None:
    """Change the decisions of ``up`` into those of the state that the operator requested.

    A serve that differs is recreated where a restart was requested: a restart would run its old configuration again.
    """
    sources = _sources(services, options) if options.state == "adopted" else {}
    for service in services:
        outcome = outcomes[service.name]
        decision = outcome.decision
        if options.state == "restarted" and decision.action == decisions.NONE and outcome.seen is not None:
            outcome.decision = Decision(decisions.RESTART, (REQUESTED,))
        elif options.state == "recreated" and outcome.seen is not None:
            reasons = tuple(sorted({REQUESTED, *decision.reasons}))
            outcome.decision = Decision(decisions.RECREATE, reasons, decision.changes)
        elif options.state == "adopted":
            old = _find_adopted(state, service, sources)
            if old is not None:
                outcome.decision, outcome.replaces = _decide_adoption(state, service, old), old
                outcome.seen = outcome.seen or old


def _sources(services: Sequence[Service], options: ServeOptions) -> Dict[str, str]:
    """Serve -> the container it adopts, where the names differ."""
    if not options.containers:
        return {}
    if len(services) != 1 or len(options.containers) != 1:
        raise fail(
            "it is not clear which container becomes which serve",
            where="containers",
            why="containers names {1} containers for {0} serves".format(len(services), len(options.containers)),
            hint="adopt one at a time: ansible-playbook playbooks/adopt.yml -e serves=SERVE -e container=NAME\n"
            "without container, each serve adopts the container that has the serve's own container name",
        )
    return {services[0].name: options.containers[0]}


def _find_adopted(state: ProjectState, service: Service, sources: Dict[str, str]) -> Optional[ObservedContainer]:
    """The container to adopt: by its name, or by the name under which a killed run has kept it."""
    name = sources.get(service.name, service.container)
    for candidate in (name, service.container + KEPT_SUFFIX):
        seen = state.find_by_name(candidate)
        if seen is not None and not state.is_ours(seen):
            return seen
    if name != service.container and state.find_container(service) is None:
        raise fail(
            "there is no container {0} to adopt".format(name),
            where="serve " + service.name,
            hint="docker ps --all on the host lists the names",
        )
    return None


def _decide_adoption(state: ProjectState, service: Service, old: ObservedContainer) -> Decision:
    changes = state.diff_container(service, old)
    reasons = {change.reason for change in changes} | {"foreign_project" if old.project else "by_hand"}
    return Decision(decisions.ADOPT, tuple(sorted(reasons)), tuple(changes))


def _describe(old: ObservedContainer) -> str:
    return "container {0} of image {1} ({2})".format(
        old.name, old.image, "project " + old.project if old.project else "no compose project"
    )


def set_aside(docker: DockerEngine, service: Service, old: ObservedContainer) -> None:
    """Free the name, ports and GPUs of the old container, and keep the container."""
    kept = service.container + KEPT_SUFFIX
    if old.name != kept:
        docker.rename_container(old.id, kept)
    if old.state in HOLDING:
        docker.stop_container(old.id, GRACE_SECONDS)


def put_back(docker: DockerEngine, service: Service, old: ObservedContainer) -> Problem:
    """Give the old container its name back and start it if it ran before; returns the problem to report."""
    kept = service.container + KEPT_SUFFIX
    name = service.container if old.name == kept else old.name
    by_hand = "docker rename {0} {1} && docker start {1}".format(kept, name)
    where, ran = "serve " + service.name, old.state in HOLDING
    try:
        new = read_container(docker, service.container)
        if new is not None and new.id != old.id:
            docker.remove_container(new.id)
        docker.rename_container(old.id, name)
        if ran:
            docker.start_container(old.id)
        seen = read_container(docker, old.id)
    except AnvilError as exc:
        return Problem(
            "the adoption failed, and the old container could not be put back",
            where,
            "{0} is kept as {1}: {2}".format(_describe(old), kept, exc.as_text()),
            "put it back by hand: " + by_hand,
        )
    state = "gone" if seen is None else seen.state
    end = "runs again" if ran and state == "running" else "is back ({0})".format(state)
    return Problem(
        "the adoption failed; the old container {0}".format(end),
        where,
        "{0}, command: {1}".format(_describe(old), " ".join(hide_secrets([*old.entrypoint, *old.command])) or "-"),
        "correct the serve in the inventory, then adopt again; the old container is unchanged",
    )


def remove_kept(docker: DockerEngine, old: ObservedContainer) -> None:
    """Remove the old container after the new one is ready. Its anonymous volumes stay: they may hold data."""
    docker.remove_container(old.id, volumes=False)
