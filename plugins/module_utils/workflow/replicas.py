# SPDX-License-Identifier: GPL-3.0-or-later
"""Replace the replicas of a workflow one by one: each is drained before it is replaced, and ready before the next one is."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import List, Mapping, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.program_source import read_source
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.router.edge import Edge
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_servers import MAINT
from ansible_collections.anvil.serving.plugins.module_utils.serves import decisions, verbs
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import LOG_LINES, ServeOptions
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_resources import ensure_networks_and_volumes
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import read_container
from ansible_collections.anvil.serving.plugins.module_utils.workflow.deployment import Deployment

REPLACED = (decisions.CREATE, decisions.RECREATE, decisions.START, decisions.UNPAUSE)
POLL = 0.2


def converge_services(docker: DockerEngine, deployment: Deployment, names: Sequence[str], lock: Optional[int]) -> None:
    """Converge these services and no others. Raises AnvilError for those that do not come up."""
    if not names:
        return
    # Compose wants every network of its file, also those of services that are not started now.
    services = list(deployment.project.services.values())
    ensure_networks_and_volumes(docker, services, services, False)
    done = verbs.apply_state_locked(docker, replace(deployment.project, only=tuple(names)), ServeOptions(), lock)
    if done["problems"]:
        raise AnvilError(*done["problems"])


def roll_replicas(docker: DockerEngine, deployment: Deployment, actions: Mapping[str, str], lock: Optional[int]) -> List[str]:
    """Replace the services that the replicas depend on, then the replicas; returns the replicas that were replaced, in order.

    actions: service -> its action, as the prediction has it.
    """
    behind = [name for name in deployment.project.services if name not in deployment.replicas and name != "edge"]
    converge_services(docker, deployment, [name for name in behind if actions[name] in REPLACED], lock)
    edge = _find_running_edge(docker, deployment.edge)
    # Replicas that serve no request come first, so that another replica is up when one that does is replaced.
    order = sorted(
        (name for name in deployment.replicas if actions[name] in REPLACED),
        key=lambda name: actions[name] == decisions.RECREATE,
    )
    if edge is None:
        converge_services(docker, deployment, order, lock)
        return order
    for name in order:
        container = deployment.project.services[name].container
        known = any(server.name == container for server in edge.read_servers())
        if known:
            edge.drain(container, deployment.drain_timeout)
        converge_services(docker, deployment, [name], lock)
        _await_replica(docker, deployment, container)
        if known:
            edge.readmit(container, deployment.ready_timeout)
    _readmit_drained(edge, deployment)
    return order


def _readmit_drained(edge: Edge, deployment: Deployment) -> None:
    """A run that was killed may have left a replica drained."""
    containers = [deployment.project.services[name].container for name in deployment.replicas]
    for server in edge.read_servers():
        if server.status == MAINT and server.name in containers:
            edge.readmit(server.name, deployment.ready_timeout)


def _find_running_edge(docker: DockerEngine, container: str) -> Optional[Edge]:
    raw = docker.inspect_container(container)
    return Edge(docker, container) if raw is not None and raw["State"]["Status"] == "running" else None


def _await_replica(docker: DockerEngine, deployment: Deployment, container: str) -> None:
    """Wait until the replica answers that it is ready. Raises AnvilError where it does not."""
    from ansible_collections.anvil.serving.plugins.module_utils.workflow.programs import read_readiness

    command = ["python3", "-I", "-c", read_source(read_readiness)]
    deadline = time.monotonic() + deployment.ready_timeout
    seen = ""
    while time.monotonic() < deadline:
        observed = read_container(docker, container)
        if observed is None or observed.state in ("exited", "dead") or observed.restarts >= 3:
            seen = "its process ended"
            break
        try:
            seen = docker.exec_in(container, command).output.strip()[-500:]
        except AnvilError as exc:
            seen = exc.problems[0].why
        if seen.startswith("200 "):
            return
        time.sleep(POLL)
    raise fail(
        "the new replica did not get ready",
        where="container " + container,
        why="time limit: {0:g} s (workflow_ready_timeout); the last answer of /readyz: {1}".format(
            deployment.ready_timeout, seen or "none"
        ),
        hint="correct what the log below shows, then run again; the other replicas keep answering, and this one gets no requests",
        log=docker.read_log(container, LOG_LINES),
    )
