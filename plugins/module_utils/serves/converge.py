# SPDX-License-Identifier: GPL-3.0-or-later
"""Carry out the decisions: pull images, evict, set adopted containers aside, and create, start, unpause or restart containers.

A run that finds nothing to do never comes here.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Callable, Dict, List, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.addresses import list_ports, ports_overlap
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_cli import Compose
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service
from ansible_collections.anvil.serving.plugins.module_utils.docker.connection import is_local
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves import decisions
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import (
    GRACE_SECONDS,
    LOG_LINES,
    Outcome,
    Project,
    ServeOptions,
    build_probe,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import ProjectState, read_container

# A rare error of the Docker Engine for a container that it was starting when it was killed. A new container starts without it.
HALF_STARTED = re.compile(r"failed to create task for container: task \w+: already exists")

# The Docker Engine restarted a container of a restart loop after Compose had stopped it.
RUNS_AGAIN = re.compile(r'cannot remove container "/?([\w.-]+)": container is running')


def pull_images(docker: DockerEngine, services: Sequence[Service], outcomes: Dict[str, Outcome]) -> Dict[str, Outcome]:
    """Pull the images of these serves; returns the outcomes of those whose pull failed, each with the reason."""
    from ansible_collections.anvil.serving.plugins.module_utils.docker.engine_disk import EngineDisk
    from ansible_collections.anvil.serving.plugins.module_utils.serves.start_failures import explain_failure

    failed = {}
    disk = EngineDisk(docker.docker_host, docker.info())
    errors = {
        image: _pull_image(docker, image, disk.describe_shortage)
        for image in dict.fromkeys(service.image for service in services)
    }
    for service in services:
        if errors[service.image]:
            failed[service.name] = outcomes[service.name]
            failed[service.name].fail("", explain_failure(service, errors[service.image], image_here=False))
    return failed


def _pull_image(docker: DockerEngine, image: str, find_obstacle: Callable[[], str]) -> str:
    """The error of the registry or the Docker Engine; empty where the image was pulled."""
    try:
        docker.pull_image(image, find_obstacle)
    except AnvilError as exc:
        return exc.problems[0].why
    return ""


def apply_decisions(
    state: ProjectState, compose: Compose, starting: Sequence[Service], outcomes: Dict[str, Outcome], options: ServeOptions
) -> List[str]:
    """Carry the decisions out, with one compose command for each kind of action; returns notes for the operator.

    A serve that did not start is not ready, and its outcome has the reason.
    """
    docker = state.docker
    notes = _evict_serves(state, outcomes, options)

    def having(*actions: str) -> List[Service]:
        return [service for service in starting if outcomes[service.name].decision.action in actions]

    for service in having(decisions.ADOPT):
        from ansible_collections.anvil.serving.plugins.module_utils.serves import adoption

        old = outcomes[service.name].replaces
        if old is not None:
            adoption.set_aside(docker, state.project, service, old)
    resumed = [service for service in having(decisions.ADOPT) if outcomes[service.name].resumes]
    fresh = having(decisions.CREATE, decisions.RECREATE, decisions.ADOPT)
    failed = _bring_up(docker, compose, [service for service in fresh if service not in resumed], recreate=True)
    failed.update(_bring_up(docker, compose, resumed, recreate=False))
    failed.update(_bring_up(docker, compose, having(decisions.START), recreate=False))
    paused = having(decisions.UNPAUSE)
    if paused:
        ran = compose.unpause([service.name for service in paused])
        if ran.code != 0:
            for service in paused:
                hint = "ansible-playbook playbooks/recreate.yml -e serves={0} replaces the container".format(service.name)
                failed[service.name] = Problem("the container cannot be unpaused", "serve " + service.name, ran.text, hint)
    for service in having(decisions.RESTART):
        try:
            docker.restart_container(service.container, GRACE_SECONDS)
        except AnvilError as exc:
            failed[service.name] = replace(exc.problems[0], where="serve " + service.name)
    for name, problem in failed.items():
        outcomes[name].fail("", problem)
    return notes


def _evict_serves(state: ProjectState, outcomes: Dict[str, Outcome], options: ServeOptions) -> List[str]:
    """Take down the serves that make room, each after its requests have ended; returns a note where that is not certain."""
    docker, services = state.docker, state.project.services
    going = {name: outcome.seen for name, outcome in outcomes.items() if outcome.decision.action == decisions.EVICT}
    if not going:
        return []
    from ansible_collections.anvil.serving.plugins.module_utils.serves import draining

    counters = {name: draining.build_counter(services[name], build_probe(state.project, services[name])) for name in going}
    undrained = draining.wait_idle(counters, time.monotonic, time.sleep, options.drain_timeout)
    for name, seen in going.items():
        if seen is not None:
            # A request may have come since the last count: the server has the grace period to end it.
            docker.stop_container(seen.id, GRACE_SECONDS)
            docker.remove_container(seen.id)
        outcomes[name].state, outcomes[name].seen = "absent", None
    return draining.describe_undrained(undrained, options.drain_timeout)


def _bring_up(docker: DockerEngine, compose: Compose, services: Sequence[Service], recreate: bool) -> Dict[str, Problem]:
    """``compose up`` for several services; if that fails, one by one, so that one bad serve does not stop the others."""
    if not services:
        return {}
    names = [service.name for service in services]
    ran = compose.up(names, recreate)
    runs_again = RUNS_AGAIN.search(ran.text) if ran.code != 0 and len(names) == 1 else None
    if runs_again:
        docker.remove_container(runs_again.group(1), volumes=False)  # Compose was about to remove it
        ran = compose.up(names, recreate)
    if ran.code == 0:
        return {}
    if len(services) > 1:
        problems: Dict[str, Problem] = {}
        for service in services:
            problems.update(_bring_up(docker, compose, [service], recreate))
        return problems
    from ansible_collections.anvil.serving.plugins.module_utils.serves.start_failures import explain_failure

    service = services[0]
    seen = read_container(docker, service.container)
    image_here = docker.inspect_image(service.image) is not None
    error = seen.error if image_here and seen is not None and seen.error else ran.text
    if not recreate and HALF_STARTED.search(error):
        return _bring_up(docker, compose, services, recreate=True)
    problem = explain_failure(service, error, image_here)
    if "is taken" in problem.what:
        everything = ProjectState(docker, Project("", "", "", {}))
        problem = replace(problem, why=_describe_holders(everything, service) or problem.why)
    log = () if seen is None or not image_here else tuple(docker.read_log(seen.id, LOG_LINES))
    return {service.name: replace(problem, log=log)}


def _describe_holders(state: ProjectState, service: Service) -> str:
    """The containers that hold the name or a port of a service now."""
    found = [
        other.describe()
        for other in state.list_other_containers([])
        if (other.name == service.container and other.state != "created")
        or any(ports_overlap(wanted, held) for wanted in list_ports(service.ports) for held in other.ports)
    ]
    if not found and is_local(state.docker.docker_host):
        from ansible_collections.anvil.serving.plugins.module_utils.host.listening_ports import find_busy_ports

        found = list(dict.fromkeys(find_busy_ports([service], state.listed).values()))
    return "by " + ", ".join(found) if found else ""
