# SPDX-License-Identifier: GPL-3.0-or-later
"""Restart a router replica by replica, each drained first, as ``anvil_router_restart`` does."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Dict, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import find_endpoint
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.promotion.crash_loops import observe_longer
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import ContainerState
from ansible_collections.anvil.serving.plugins.module_utils.promotion.volume_writer import block_promotions
from ansible_collections.anvil.serving.plugins.module_utils.router.container_state import ProcessWatch, read_container_state
from ansible_collections.anvil.serving.plugins.module_utils.router.edge import Edge
from ansible_collections.anvil.serving.plugins.module_utils.serves import readiness
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import ObservedContainer, observe_container


@dataclass(frozen=True)
class RestartTimeouts:
    """Seconds: for requests in flight to end, for the process to end, for it to answer again, for a promotion to end.

    settle: for which it must then stay up; longer where its restart policy has started it before.
    """

    drain: float
    grace: int
    start: float
    lock: float
    settle: float = 2.0


def check_replicas(docker: DockerEngine, edge: str, replicas: Sequence[str]) -> None:
    """Raise one ``AnvilError`` with every replica that does not exist, or that the edge does not know. Changes nothing."""
    problems = [
        Problem(
            "the replica cannot be restarted",
            where="container " + replica,
            why="No such container: " + replica,
            hint="ansible-playbook playbooks/router_status.yml shows the replicas of this host",
        )
        for replica in replicas
        if docker.inspect_container(replica) is None
    ]
    if edge:
        front = Edge(docker, edge)
        servers = front.read_servers()
        for replica in replicas:
            try:
                front.find_server(replica, servers)
            except AnvilError as exc:
                problems.extend(exc.problems)
    if problems:
        raise AnvilError(*problems)


def restart_replicas(docker: DockerEngine, edge: str, replicas: Sequence[str], timeouts: RestartTimeouts) -> Dict[str, float]:
    """Restart replica by replica, each drained first and readmitted before the next; returns the seconds of each.

    Without an edge there is one container: it is restarted, and ``/healthz`` must answer. The first failure ends the restart;
    the replicas after it are not touched. Each must stay up for the settle time before the next. No promotion of their files
    runs meanwhile.
    """
    check_replicas(docker, edge, replicas)
    seconds: Dict[str, float] = {}
    with block_promotions(docker, replicas, timeouts.lock):
        for replica in replicas:
            began = time.monotonic()
            before = read_container_state(docker.inspect_container(replica))
            if edge:
                _restart_behind_edge(docker, Edge(docker, edge), replica, timeouts)
            else:
                _restart_alone(docker, replica, timeouts)
            _watch_settle(docker, replica, before, timeouts)
            seconds[replica] = round(time.monotonic() - began, 3)
    return seconds


def _restart_behind_edge(docker: DockerEngine, edge: Edge, replica: str, timeouts: RestartTimeouts) -> None:
    edge.drain(replica, timeouts.drain)
    try:
        docker.restart_container(replica, timeouts.grace)
    finally:
        # Also after a failure: otherwise the replica would stay drained. Its health check decides whether it gets requests.
        edge.readmit(replica, timeouts.start)


def _watch_settle(docker: DockerEngine, replica: str, before: ContainerState, timeouts: RestartTimeouts) -> None:
    """Raise an ``AnvilError`` if the restarted process does not stay up, or the health check of its image fails."""
    first = read_container_state(docker.inspect_container(replica))
    watch = ProcessWatch(first, before.is_unhealthy)
    watch.note_answer(first)
    settle = timeouts.settle
    if settle and (before.restarts or before.gave_up):
        settle = max(settle, observe_longer(0.0))  # it was in a restart loop, or failed once
    began = time.monotonic()
    while True:
        now = read_container_state(docker.inspect_container(replica))
        fault = watch.find_fault(now)
        if fault:
            raise fail(
                "the router did not stay up after the restart",
                where="container " + replica,
                why=fault,
                hint="no file was changed by the restart. ansible-playbook playbooks/router_logs.yml shows more; "
                "ansible-playbook playbooks/rollback.yml goes back to the files before the last promotion",
                log=docker.read_log(replica, 15),
            )
        passed = time.monotonic() - began
        if passed >= settle and (not watch.find_doubt(now) or passed > max(settle, timeouts.start)):
            return
        time.sleep(0.1)


def _restart_alone(docker: DockerEngine, replica: str, timeouts: RestartTimeouts) -> None:
    docker.restart_container(replica, timeouts.grace)
    raw = docker.inspect_container(replica)
    address = find_endpoint(raw or {})
    if not address:
        return
    probe = readiness.ReadinessProbe(replica, replica, "health", address, "", timeouts.start)

    def inspect(name: str) -> Optional[ObservedContainer]:
        found = docker.inspect_container(name)
        return None if found is None else observe_container(found)

    verdict, _seconds = readiness.wait_ready([probe], inspect, time.monotonic, time.sleep)[replica]
    if verdict.outcome != readiness.READY:
        log = docker.read_log(replica, 15)
        what = "the router did not come up after the restart: " + verdict.state
        raise fail(
            what, where="container " + replica, why=verdict.why, hint="ansible-playbook playbooks/router_logs.yml", log=log
        )
