# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The edge: the HAProxy in front of the router's replicas, spoken to through its runtime API.

The runtime API is a unix socket inside the edge's container (level admin, so it is never published). It is reached by
``perl`` there, executed by the engine: perl-base is essential in Debian, so it is in our image and in the public one,
which have neither socat nor python. One word costs one exec.
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
import tarfile
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import published_address
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.volume_writer import block_promotions
from ansible_collections.anvil.serving.plugins.module_utils.serves import readiness
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import ObservedContainer, observe_container

# Where the edge's process listens for the runtime API; templates/edge/haproxy.cfg.j2 says the same.
SOCKET = "/tmp/haproxy.sock"
CONFIG = "/etc/anvil-edge/haproxy.cfg"
# Where it mounts its certificates.
TLS_FOLDER = "/etc/anvil-tls"
UP, MAINT = "UP", "MAINT"
# Seconds between two looks. Each is a process in the edge's container, so a long wait looks less often.
POLL, LONGEST_POLL = 0.1, 1.0
# Of a command that the engine runs in a container nothing may arrive, exit code 0 or not: seen on a busy host. So often the
# servers are asked for, which are never nothing.
LOST_ANSWERS = 4
REVISION = re.compile(r"description anvil ([0-9a-f]{64})")

# The command arrives as a word of its own: no shell, nothing to quote.
SPEAK = r"""
use Socket;
socket(my $socket, PF_UNIX, SOCK_STREAM, 0) or die "socket: $!\n";
connect($socket, sockaddr_un($ARGV[0])) or die "$ARGV[0]: $!\n";
defined(syswrite($socket, "$ARGV[1]\n")) or die "write: $!\n";
print while <$socket>;
"""


@dataclass(frozen=True)
class Server:
    """A replica as the edge sees it.

    status: HAProxy's word (UP, DOWN, MAINT, DRAIN, NOLB). sessions: requests it is carrying. queued: requests that wait
    for it.
    """

    name: str
    status: str
    sessions: int
    queued: int
    backend: str = ""


def parse_servers(text: str) -> List[Server]:
    """The servers in an answer to ``show stat``. Raises ``ValueError`` where it is no such answer."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or not lines[0].startswith("# "):
        raise ValueError(text.strip()[:200] or "nothing")
    found = []
    for row in csv.DictReader([lines[0][2:], *lines[1:]]):
        if row.get("svname") in ("FRONTEND", "BACKEND", None):
            continue
        found.append(
            Server(
                name=str(row["svname"]),
                # "UP 2/3": it still gets requests, and has failed some checks
                status=str(row["status"]).split(" ", maxsplit=1)[0],
                sessions=int(row["scur"] or 0),
                queued=int(row["qcur"] or 0),
                backend=str(row["pxname"]),
            )
        )
    return sorted(found, key=lambda server: server.name)


class Edge:
    """The runtime API of one edge container. Every method may raise ``AnvilError``: no edge, no answer, no such server."""

    def __init__(self, engine: DockerEngine, container: str) -> None:
        self.engine = engine
        self.container = container

    def ask(self, command: str) -> str:
        """One command of the runtime API, and its answer."""
        ran = self.engine.exec_in(self.container, ["perl", "-e", SPEAK, SOCKET, command])
        if ran.exit_code != 0:
            raise fail(
                "the edge's runtime API does not answer",
                where="container " + self.container,
                why=ran.output.strip(),
                hint="is it an edge of this collection, with perl and {0}? docker logs {1}".format(SOCKET, self.container),
            )
        return ran.output

    def read_servers(self) -> List[Server]:
        """Every replica behind the edge, by name."""
        for _again in range(LOST_ANSWERS):
            said = self.ask("show stat -1 4 -1")
            if said.strip():
                break
        try:
            return parse_servers(said)
        except (ValueError, KeyError) as exc:
            raise fail(
                "the edge told something else than its servers", where="container " + self.container, why=str(exc)
            ) from exc

    def _find(self, name: str) -> Server:
        return self.pick(name, self.read_servers())

    def pick(self, name: str, servers: Sequence[Server]) -> Server:
        """The server of that name; an AnvilError where there is none."""
        for server in servers:
            if server.name == name:
                return server
        raise fail(
            "the edge has no server {0!r}".format(name),
            where="container " + self.container,
            hint="it has: " + (", ".join(server.name for server in servers) or "none"),
        )

    def _set(self, server: Server, *states: str) -> None:
        commands = ["set server {0}/{1} {2}".format(server.backend, server.name, state) for state in states]
        said = self.ask("; ".join(commands)).strip()
        if said:
            what = "the edge refused to change {0}".format(server.name)
            raise fail(what, where="container " + self.container, why="{0}: {1}".format("; ".join(commands), said))

    def drain(self, server: str, timeout: float) -> float:
        """Give the server no more requests, and wait until it carries none; returns the seconds that took.

        Refused, with nothing changed, where it is the only one UP: its requests would have nowhere to go. If it still
        carries requests after ``timeout`` seconds it gets requests again, and that is an ``AnvilError``.
        """
        began = time.monotonic()
        servers = self.read_servers()
        found = self.pick(server, servers)
        if found.status == UP and not any(other.status == UP for other in servers if other.name != server):
            raise fail(
                "{0} cannot be drained: no other replica is up".format(server),
                where="container " + self.container,
                hint="look at the other replicas first: docker logs NAME",
            )
        self._set(found, "state maint")
        try:
            self._wait_drained(server, timeout)
        except AnvilError as exc:
            self._undo_drain(found, exc)
            raise
        return round(time.monotonic() - began, 3)

    def _wait_drained(self, server: str, timeout: float) -> None:
        began = time.monotonic()
        while True:
            now = self._find(server)
            if now.status == MAINT and now.sessions == 0 and now.queued == 0:
                return
            if time.monotonic() - began > timeout:
                raise fail(
                    "{0} was not drained within {1:g} s".format(server, timeout),
                    where="container " + self.container,
                    why="{0} requests in flight, {1} queued".format(now.sessions, now.queued),
                    hint="it gets requests again; allow more time than the longest stream takes",
                )
            _pause(began)

    def _undo_drain(self, server: Server, cause: AnvilError) -> None:
        """A drain that failed, for whatever reason, takes nobody out of service; where that fails too, it is said."""
        try:
            self._set(server, "state ready")
        except AnvilError as exc:
            left = Problem(
                "{0} gets no requests any more".format(server.name),
                where="container " + self.container,
                why="its drain failed, and so did taking it back",
                hint="when the edge answers again: router_restart.yml drains and readmits every replica",
            )
            raise AnvilError(*cause.problems, *exc.problems, left) from cause

    def readmit(self, server: str, timeout: float) -> float:
        """Give the server requests again, and wait until the edge sees it UP; returns the seconds that took.

        A server that is not UP after ``timeout`` seconds is an ``AnvilError``; it stays admitted, and gets requests as
        soon as it passes its health check.
        """
        began = time.monotonic()
        # HAProxy takes a server that leaves maintenance for UP; down, it gets its first request after its first check.
        found = self._find(server)
        if found.status != UP:
            self._set(found, "state ready", "health down")
        while True:
            now = self._find(server)
            if now.status == UP:
                return round(time.monotonic() - began, 3)
            if time.monotonic() - began > timeout:
                raise fail(
                    "{0} did not come up behind the edge within {1:g} s".format(server, timeout),
                    where="container " + self.container,
                    why="the edge sees it " + now.status,
                    hint="does its health check answer 200? docker logs " + server,
                )
            _pause(began)

    def read_facts(self) -> Dict[str, str]:
        """What the running process tells of itself (``show info``), by HAProxy's names."""
        lines = [line.partition(":") for line in self.ask("show info").splitlines()]
        return {name.strip(): value.strip() for name, colon, value in lines if colon}

    def loaded_revision(self) -> str:
        """The hash that the configuration in memory carries; empty where it carries none."""
        return find_revision("description " + self.read_facts().get("description", ""))

    def written_revision(self) -> str:
        """The hash of the configuration that the container would read now."""
        return find_revision(self.written_config())

    def written_config(self) -> str:
        found = self.engine.read_archive(self.container, CONFIG)
        if found is not None and found[0].get("linkTarget"):
            found = self.engine.read_archive(self.container, str(found[0]["linkTarget"]))
        if found is None:
            raise fail("the edge has no configuration", where="container {0}:{1}".format(self.container, CONFIG))
        with tarfile.open(fileobj=io.BytesIO(found[1]), mode="r") as archive:
            stream = archive.extractfile(archive.getmembers()[0])
            return stream.read().decode("utf-8", "replace") if stream else ""

    def is_encrypted(self) -> bool:
        """Whether clients speak TLS with it."""
        return " ssl crt " in self.written_config()

    def check_config(self) -> None:
        """Let the edge's own program read what is written; an ``AnvilError`` with its words if it refuses."""
        ran = self.engine.exec_in(self.container, ["haproxy", "-c", "-f", CONFIG])
        if ran.exit_code != 0:
            raise fail(
                "HAProxy refuses the edge's configuration",
                where="container {0}:{1}".format(self.container, CONFIG),
                why=ran.output.strip()[-1500:],
                hint="the running edge was left as it is",
            )

    def check_undrained(self) -> None:
        busy = [server.name for server in self.read_servers() if server.status == MAINT]
        if busy:
            raise fail(
                "the edge is not reloaded while {0} is drained".format(", ".join(busy)),
                where="container " + self.container,
                hint="a promotion or a restart is under way, or was interrupted: run again when it has ended, or promote again",
            )

    def reload(self, timeout: float) -> float:
        """Have the edge read its configuration and certificates anew, no connection dropped; returns the seconds it took.

        Refused while a server is in maintenance: the new process would give requests to it. Whoever calls this holds the
        door, so that none is put there meanwhile.
        """
        began = time.monotonic()
        self.check_undrained()
        self.check_config()
        wanted, before = self.written_revision(), self.read_facts().get("Pid", "")
        self.engine.signal_container(self.container, "USR2")
        while time.monotonic() - began <= timeout:
            _pause(began)
            try:
                facts = self.read_facts()
            except AnvilError:
                continue  # the old process has let go of the socket, the new one has not taken it yet
            if facts.get("Pid") != before and find_revision("description " + facts.get("description", "")) == wanted:
                return round(time.monotonic() - began, 3)
        log = self.engine.read_log(self.container, 15)
        raise fail("the edge did not reload within {0:g} s".format(timeout), where="container " + self.container, log=log)


def _pause(began: float) -> None:
    """Sleep a fifth of the time that the wait has taken so far: it is noticed at most that much too late."""
    time.sleep(min(LONGEST_POLL, max(POLL, (time.monotonic() - began) / 5)))


def find_revision(text: str) -> str:
    """The hash in a configuration's ``description anvil HASH``."""
    found = REVISION.search(text)
    return found.group(1) if found else ""


def describe_edge(engine: DockerEngine, container: str) -> Dict[str, Any]:
    """The edge and the health of each replica behind it, for ``anvil_router_info``. Absence is not a failure."""
    raw = engine.inspect_container(container)
    told: Dict[str, Any] = {
        "exists": raw is not None,
        "container": container,
        "state": "absent" if raw is None else str(raw["State"]["Status"]),
        "started_at": "" if raw is None else str(raw["State"]["StartedAt"]),
        "restarts": 0 if raw is None else int(raw.get("RestartCount") or 0),
        "image_id": "" if raw is None else str(raw["Image"]),
        "version": "",
        "loaded": None,
        "tls": False,
        "healthy": False,
        "replicas": [],
        "problem": "",
    }
    if told["state"] != "running":
        return told
    edge = Edge(engine, container)
    try:
        servers, facts = edge.read_servers(), edge.read_facts()
        written = edge.written_config()
        told["loaded"] = edge.loaded_revision() == find_revision(written)
        told["tls"] = " ssl crt " in written
    except AnvilError as exc:
        told["problem"] = exc.as_text()
        return told
    told["version"] = facts.get("Version", "")
    told["healthy"] = any(server.status == UP for server in servers)
    told["replicas"] = [
        {"name": each.name, "status": each.status, "sessions": each.sessions, "queued": each.queued} for each in servers
    ]
    return told


class Door:
    """Closed, nobody promotes, drains or restarts what is behind the edge (``promotion.Gate`` of the edge's own promotion)."""

    def __init__(self, engine: DockerEngine, container: str, wait: float) -> None:
        """wait: seconds for a promotion under way to end."""
        self.engine = engine
        self.edge = Edge(engine, container)
        self.wait = wait
        self._held = contextlib.ExitStack()

    def find_closed(self) -> Sequence[str]:
        return ()

    def close(self, replica: str = "") -> None:
        """Take the lock of the replicas' volume; an ``AnvilError`` if one of them is drained."""
        raw = self.engine.inspect_container(self.edge.container)
        if raw is None or str(raw["State"]["Status"]) != "running":
            return  # it leads nobody anywhere
        with contextlib.ExitStack() as held:
            names = [server.name for server in self.edge.read_servers()]
            held.enter_context(block_promotions(self.engine, names, self.wait))
            self.edge.check_undrained()
            self._held = held.pop_all()

    def open(self, replica: str = "") -> None:
        self._held.close()


def reload_edge(engine: DockerEngine, container: str, force: bool, timeout: float, wait: float, check: bool) -> Dict[str, Any]:
    """Reload the edge if it has not read what is written (or by ``force``, for a renewed certificate)."""
    edge = Edge(engine, container)
    old, new = edge.loaded_revision(), edge.written_revision()
    if old == new and not force:
        return {"changed": False, "revision": {"old": old, "new": new}, "seconds": 0.0}
    if check:
        edge.check_config()
        return {"changed": True, "revision": {"old": old, "new": new}, "seconds": 0.0}
    door = Door(engine, container, wait)
    door.close()
    try:
        return {"changed": True, "seconds": edge.reload(timeout), "revision": {"old": old, "new": new}}
    finally:
        door.open()


@dataclass(frozen=True)
class Restart:
    """How patient a restart is, in seconds: for requests in flight, for the process to end, for it to answer again, and for
    a promotion under way to end.
    """

    drain_timeout: float
    grace: int
    start_timeout: float
    lock_wait: float


def check_replicas(engine: DockerEngine, edge: str, replicas: Sequence[str]) -> None:
    """Every replica that is not there, or that the edge does not know, in one AnvilError. Touches nothing."""
    problems = [
        Problem(
            "it cannot be restarted",
            where="container " + replica,
            why="No such container: " + replica,
            hint="router_status.yml shows the replicas of this host",
        )
        for replica in replicas
        if engine.inspect_container(replica) is None
    ]
    if edge:
        behind = Edge(engine, edge)
        servers = behind.read_servers()
        for replica in replicas:
            try:
                behind.pick(replica, servers)
            except AnvilError as exc:
                problems.extend(exc.problems)
    if problems:
        raise AnvilError(*problems)


def restart_replicas(engine: DockerEngine, edge: str, replicas: Sequence[str], restart: Restart) -> Dict[str, float]:
    """Restart replica by replica, each drained first and readmitted before the next; seconds per replica.

    Without an edge there is one container: it is restarted, and ``/healthz`` must answer. The first that fails ends it;
    the others were not touched. Nobody promotes their files meanwhile.
    """
    check_replicas(engine, edge, replicas)
    seconds: Dict[str, float] = {}
    with block_promotions(engine, replicas, restart.lock_wait):
        for replica in replicas:
            began = time.monotonic()
            if edge:
                _restart_behind(engine, Edge(engine, edge), replica, restart)
            else:
                _restart_alone(engine, replica, restart)
            seconds[replica] = round(time.monotonic() - began, 3)
    return seconds


def _restart_behind(engine: DockerEngine, edge: Edge, replica: str, restart: Restart) -> None:
    edge.drain(replica, restart.drain_timeout)
    try:
        engine.restart_container(replica, restart.grace)
    finally:
        # Whatever became of it, its health check decides from here: a drained replica that nobody readmits is lost.
        edge.readmit(replica, restart.start_timeout)


def _restart_alone(engine: DockerEngine, replica: str, restart: Restart) -> None:
    engine.restart_container(replica, restart.grace)
    raw = engine.inspect_container(replica)
    bound = [b for bindings in ((raw or {}).get("NetworkSettings") or {}).get("Ports", {}).values() for b in bindings or ()]
    if not bound:
        return
    address = published_address(str(bound[0]["HostIp"]), int(bound[0]["HostPort"]))
    probe = readiness.ReadinessProbe(replica, replica, "health", address, "", restart.start_timeout)

    def inspect(name: str) -> Optional[ObservedContainer]:
        found = engine.inspect_container(name)
        return None if found is None else observe_container(found)

    verdict, _seconds = readiness.wait_ready([probe], inspect, time.monotonic, time.sleep)[replica]
    if verdict.outcome != readiness.READY:
        log = engine.read_log(replica, 15)
        raise fail("the router did not come up: " + verdict.state, where="container " + replica, why=verdict.why, log=log)
