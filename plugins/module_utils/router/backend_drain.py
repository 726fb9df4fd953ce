# SPDX-License-Identifier: GPL-3.0-or-later
"""Drain and readmit the backends of a host at the edge of a gateway, as ``anvil_router_backends`` does.

The edge's live configuration says which backends are drained, so that a reload, a restart and a promotion keep them drained. The
running process is told through its runtime API: nothing is reloaded.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.promotion.candidate import select_base
from ansible_collections.anvil.serving.plugins.module_utils.promotion.journal import parse_journal
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica_group import ReplicaGroup
from ansible_collections.anvil.serving.plugins.module_utils.promotion.request import PromotionRequest
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import Snapshot
from ansible_collections.anvil.serving.plugins.module_utils.promotion.volume_reader import read_snapshot
from ansible_collections.anvil.serving.plugins.module_utils.router.drained_backends import (
    DRAINED,
    TEMPORARY,
    list_backends,
    list_drained,
    mark_drained,
)
from ansible_collections.anvil.serving.plugins.module_utils.router.edge import Edge
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_container import EdgeContainer
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_layout import CONFIG_FOLDER, CONFIG_NAME, CONFIG_PATH
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_servers import MAINT, UP, Server
from ansible_collections.anvil.serving.plugins.module_utils.router.router_promotion import promote_group
from ansible_collections.anvil.serving.plugins.module_utils.router.router_settings import RouterSettings

POLL = 0.25


@dataclass(frozen=True)
class DrainRequest:
    """hosts: whose backends are drained or readmitted. drain_timeout: seconds for their requests to end. up_timeout: seconds
    until a readmitted one must be up. last: also the last backend of a tier that is up may be drained. temporary: drained until
    the next promotion of the edge's configuration; what an operator drained is neither changed nor readmitted.
    """

    container: str
    volume: str
    image: str
    writer_image: str
    hosts: Sequence[str]
    drained: bool
    drain_timeout: float
    up_timeout: float
    lock_timeout: float
    last: bool = False
    temporary: bool = False


class MarkedEdge(EdgeContainer):
    """The edge in a promotion that changes only which backends are drained: its process is told, and not reloaded."""

    def __init__(self, docker: DockerEngine, settings: RouterSettings, request: PromotionRequest, drain: DrainRequest) -> None:
        super().__init__(docker, settings, request)
        self.drain = drain

    def adapt_files(self, files: Mapping[str, bytes], spare: Sequence[str] = ()) -> Dict[str, bytes]:
        """The live files of this moment with other marks: another run may have promoted since the request was made."""
        live = read_live_files(self.docker, self.settings)
        config = live[CONFIG_NAME].decode("utf-8")
        return {**live, CONFIG_NAME: mark_drained(config, choose_drained(config, self.drain)).encode("utf-8")}

    def reload(self, patient: bool) -> bool:
        tell_process(self.edge)
        return False


def change_backends(docker: DockerEngine, request: DrainRequest, check_mode: bool) -> Dict[str, Any]:
    """Drain or readmit; returns what ``anvil_router_backends`` returns."""
    edge = Edge(docker, request.container)
    inspected = docker.inspect_container(request.container)
    if inspected is None or docker.read_archive(request.container, CONFIG_PATH) is None:
        return {"changed": False, "backends": [], "seconds": 0.0}  # no edge sends requests to any host
    config = edge.read_config()
    names = sorted({name for host in request.hosts for name in list_backends(config).get(host, ())})
    is_running = str(inspected["State"]["Status"]) == "running"
    servers = [server for server in edge.read_backends() if server.name in names] if is_running else []
    marks = choose_drained(config, request)
    is_marked = marks == list_drained(config)
    is_told = all((server.status == MAINT) == (server.name in marks) for server in servers)
    result = {"changed": not (is_marked and is_told), "backends": names, "seconds": 0.0}
    if request.drained and names and is_running and not request.last:
        _check_rest(edge, names)
    if check_mode or not names:
        return result
    began = time.monotonic()
    if not is_marked:
        _promote_marks(docker, request, is_running)
    if is_running:
        tell_process(edge)
        if request.drained:
            _await_drained(edge, names, request, began)
        else:
            _await_up(edge, [name for name in names if name not in marks], request, began)
    return {**result, "seconds": round(time.monotonic() - began, 3)}


def choose_drained(config: str, request: DrainRequest) -> Dict[str, str]:
    """The marks that the configuration has to have."""
    marks = list_drained(config)
    for name in [name for host in request.hosts for name in list_backends(config).get(host, ())]:
        if request.temporary and marks.get(name) == DRAINED:
            continue
        if request.drained:
            marks[name] = TEMPORARY if request.temporary else DRAINED
        else:
            marks.pop(name, None)
    return marks


def read_live_files(docker: DockerEngine, settings: RouterSettings) -> Dict[str, bytes]:
    """The files of the edge's live revision; of an interrupted promotion those before it."""
    snapshot: Snapshot = read_snapshot(docker, settings.container, settings.place_for((CONFIG_NAME,)))
    journal = parse_journal(snapshot.journal, "volume " + settings.volume)
    if journal is not None and journal.in_flight:
        return select_base(snapshot, journal)
    return snapshot.files_of(snapshot.live) if snapshot.live else snapshot.observed()


def tell_process(edge: Edge) -> None:
    """Bring the running process to what the written configuration says of each backend."""
    drained = list_drained(edge.read_config())
    commands: List[str] = []
    for server in edge.read_backends():
        if server.name in drained and server.status != MAINT:
            commands.append("set server {0}/{1} state maint".format(server.backend, server.name))
        elif server.name not in drained and server.status == MAINT:
            # HAProxy takes a server that leaves maintenance for up. "health down" makes it wait for its health check.
            place = "{0}/{1}".format(server.backend, server.name)
            commands += ["set server {0} state ready".format(place), "set server {0} health down".format(place)]
    answer = edge.send_command("; ".join(commands)).strip() if commands else ""
    if answer:
        raise fail("the edge refused to change the state of a backend", where=edge.where, why=answer)


def _promote_marks(docker: DockerEngine, request: DrainRequest, is_running: bool) -> None:
    settings = RouterSettings(
        container=request.container,
        volume=request.volume,
        mount=CONFIG_FOLDER,
        image=request.image,
        dry_boot=False,
        settle=0.0,
        start_timeout=15.0,
        validator=("haproxy", "-c", "-f", CONFIG_PATH),
        reload_signal="SIGUSR2",
    )
    promotion = PromotionRequest(
        files=read_live_files(docker, settings),
        reload=is_running,
        replace_all=True,
        writer_image=request.writer_image,
        lock_wait=request.lock_timeout,
        observation=0.0,
    )
    promote_group(docker, settings, promotion, ReplicaGroup((MarkedEdge(docker, settings, promotion, request),)))


def _check_rest(edge: Edge, names: Sequence[str]) -> None:
    """Refuse to drain the last backend of a tier that is up."""
    servers = edge.read_backends()
    problems = []
    for backend in sorted({server.backend for server in servers}):
        mine = [server for server in servers if server.backend == backend]
        taken = [server for server in mine if server.name in names]
        rest = [server for server in mine if server.name not in names]
        if any(server.status == UP for server in taken) and not any(server.status == UP for server in rest):
            problems.append(
                Problem(
                    "{0} would have no backend that is up".format(backend),
                    edge.where,
                    ", ".join("{0} is {1}".format(server.name, server.status) for server in mine),
                    "bring another backend up first, or drain this one all the same with -e last=true",
                )
            )
    if problems:
        raise AnvilError(*problems)


def _await_drained(edge: Edge, names: Sequence[str], request: DrainRequest, began: float) -> None:
    while True:
        busy = [server for server in edge.read_backends() if server.name in names and (server.sessions or server.queued)]
        left = request.drain_timeout - (time.monotonic() - began)
        if not busy:
            # Requests from before a reload are in a process of its own, which ends with the last of them.
            edge.await_one_process(max(0.0, left))
            return
        if left < 0:
            raise fail(
                "{0} still has requests after {1:g} s".format(_name(busy), request.drain_timeout),
                where=edge.where,
                why=", ".join("{0}: {1} in flight".format(server.name, server.sessions) for server in busy),
                hint="it gets no new requests. Run again with a longer -e drain_timeout=SECONDS, or readmit it: "
                "ansible-playbook playbooks/readmit_host.yml -e host=" + ",".join(request.hosts),
            )
        time.sleep(POLL)


def _await_up(edge: Edge, names: Sequence[str], request: DrainRequest, began: float) -> None:
    while True:
        down = [server for server in edge.read_backends() if server.name in names and server.status != UP]
        if not down:
            return
        if time.monotonic() - began > request.up_timeout:
            raise fail(
                "{0} did not come up at the gateway within {1:g} s".format(_name(down), request.up_timeout),
                where=edge.where,
                why=", ".join("{0} is {1}".format(server.name, server.status) for server in down),
                hint="it gets requests as soon as its health check passes. ansible-playbook playbooks/status.yml -l {0} shows "
                "its serves".format(",".join(request.hosts)),
            )
        time.sleep(POLL)


def _name(servers: Sequence[Server]) -> str:
    return " and ".join(sorted({server.name for server in servers}))
