# SPDX-License-Identifier: GPL-3.0-or-later
"""Bring a router's containers up: replicas are replaced one by one behind the edge, and what an earlier inventory left goes."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any, Dict, List, Mapping, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.promotion.volume_writer import (
    block_promotions,
    forget_replicas,
)
from ansible_collections.anvil.serving.plugins.module_utils.router.edge import Edge
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_servers import UP
from ansible_collections.anvil.serving.plugins.module_utils.router.tier_report import read_own_token
from ansible_collections.anvil.serving.plugins.module_utils.router.tier_transitions import TransitionApi
from ansible_collections.anvil.serving.plugins.module_utils.serves import verbs
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Project, ServeOptions
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import ProjectState

RECREATE = "recreate"
POLL = 0.5


@dataclass(frozen=True)
class Deployment:
    """The request: the router's project, its edge (a container; empty: none), and the volume of its files.

    drain_timeout: seconds for the requests in flight of a replica. start_timeout: seconds until the edge must see it UP.
    """

    project: Project
    edge: str
    volume: str
    drain_timeout: float
    start_timeout: float
    lock_timeout: float


def bring_up(docker: DockerEngine, request: Deployment, check: bool) -> Dict[str, Any]:
    """Converge the containers of a router; returns what anvil_serve returns, with ``rolled`` and ``removed``."""
    orphans = ProjectState(docker, request.project).list_orphans()
    edge_runs = is_up(docker, request.edge)
    predicted: Dict[str, Any] = {"problems": [], "serves": {}}
    if check or edge_runs:
        predicted = verbs.apply_state(docker, request.project, ServeOptions(), check=True)
    rolling = [] if predicted["problems"] else choose_rolling(predicted["serves"], request.edge, edge_runs)
    if check:
        notes = [text for text in predicted["warnings"] if "is not in the inventory any more" not in text]
        changed = predicted["changed"] or bool(orphans)
        return {**predicted, "warnings": notes, "changed": changed, "rolled": rolling, "removed": orphans}
    done = {name: _replace(docker, request, name, predicted["serves"][name]["container"]) for name in rolling}
    result = verbs.apply_state(docker, request.project, ServeOptions(), check=False)
    failed = bool(result["problems"])
    removed = [] if failed else remove_leftovers(docker, request, orphans)
    return {
        **result,
        "changed": result["changed"] or bool(done or removed),
        "serves": {name: done.get(name, serve) for name, serve in result["serves"].items()},
        "warnings": [text for text in result["warnings"] if not any(name in text for name in removed)],
        "rolled": rolling,
        "removed": removed,
    }


def is_up(docker: DockerEngine, container: str) -> bool:
    inspected = docker.inspect_container(container) if container else None
    return inspected is not None and inspected["State"]["Status"] == "running"


def choose_rolling(serves: Mapping[str, Mapping[str, Any]], edge: str, edge_runs: bool) -> List[str]:
    """The services to replace one by one, if a replica that takes requests has to be recreated.

    Those that are down come first: while none of the others is up, the one that takes requests is not replaced.
    """
    replicas = {name: serve for name, serve in serves.items() if serve["container"] != edge and serve["state"] != "absent"}
    down = [name for name, serve in replicas.items() if serve["state"] in ("exited", "created", "dead")]
    taking = [name for name, serve in replicas.items() if name not in down and serve["action"] == RECREATE]
    if not edge or not edge_runs or not taking or len(replicas) < 2:
        return []
    return [*(name for name in down if replicas[name]["action"] != "none"), *taking]


def _replace(docker: DockerEngine, request: Deployment, service: str, container: str) -> Dict[str, Any]:
    """Replace one replica while it gets no requests; the edge must see it UP before the next one.

    A replica that fails is left as it is, and ends the roll: the others still run on what they had.
    """
    edge = Edge(docker, request.edge)
    only = replace(request.project, only=(service,))
    others = [server.name for server in edge.read_servers() if server.name != container]
    with block_promotions(docker, others, request.lock_timeout):
        if edge.find_server(container, edge.read_servers()).status == UP:
            edge.drain(container, request.drain_timeout)
        try:
            result = verbs.apply_state(docker, only, ServeOptions(), check=False)
            if result["problems"]:
                raise AnvilError(*result["problems"])
        finally:
            # Also after a failure: otherwise the replica would stay drained. Its health check decides whether it gets requests.
            edge.readmit(container, request.start_timeout)
    return dict(result["serves"][service])


def remove_leftovers(docker: DockerEngine, request: Deployment, orphans: List[str]) -> List[str]:
    """Remove containers of the router's project that the inventory no longer has, and their pointers in the volume.

    A router first ends the requests that it still has: the edge sends it no new ones since its configuration changed.
    """
    problems: List[Problem] = []
    removed = []
    for name in orphans:
        try:
            _wait_idle(docker, name, request.drain_timeout)
            docker.stop_container(name)
            docker.remove_container(name)
            removed.append(name)
        except AnvilError as exc:
            problems += exc.problems
    if removed:
        containers = [service.container for service in request.project.services.values()]
        forget_replicas(docker, request.volume, containers, removed, request.lock_timeout)
    if problems:
        raise AnvilError(*problems)
    return removed


def _wait_idle(docker: DockerEngine, container: str, timeout: float) -> None:
    """Wait until a router has no request in flight, for ``timeout`` seconds at most. One that cannot say so is not waited for."""
    deadline = time.monotonic() + timeout
    inspected = docker.inspect_container(container)
    while inspected is not None and inspected["State"]["Status"] == "running" and time.monotonic() < deadline:
        if not _count_requests(docker, container, inspected):
            return
        time.sleep(POLL)
        inspected = docker.inspect_container(container)


def _count_requests(docker: DockerEngine, container: str, inspected: Mapping[str, Any]) -> int:
    """The requests in flight of a router; 0 for a container that has no such API, such as an edge."""
    try:
        rows: Tuple[Mapping[str, Any], ...] = tuple(TransitionApi(docker, container, read_own_token(inspected)).read_tiers(""))
    except AnvilError:
        return 0
    return sum(int(row.get("active_requests") or 0) for row in rows)
