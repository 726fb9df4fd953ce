# SPDX-License-Identifier: GPL-3.0-or-later
"""The edge, the HAProxy in front of the router's replicas: read its servers, drain and readmit them, reload it.

HAProxy's runtime API is a unix socket inside the edge's container (level admin, so it is never published). Commands are sent by
``perl`` in that container: perl-base is essential in Debian, so our image and the public one have it, and have neither socat
nor python. One command costs one ``docker exec``.
"""

from __future__ import annotations

import io
import re
import tarfile
import time
from typing import Dict, List, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.plan.edge_plan import TIER_PREFIX
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_layout import (
    CONFIG_PATH,
    SOCKET_PATH,
    parse_config_hash,
)
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_servers import MAINT, UP, Server, parse_servers

# Seconds between two readings. Each starts a process in the edge's container, so a long wait reads less often.
POLL, LONGEST_POLL = 0.1, 1.0
# The backends of serves and of tiers over hosts: they are no replicas.
SERVES = ("serve-", TIER_PREFIX)
# On a busy host the output of a command in a container is sometimes lost although it ends with exit code 0. The list of
# servers is never empty, so an empty answer is read again this often.
READ_ATTEMPTS = 4
# The first address on which a configuration listens, if clients connect to it with TLS.
TLS_BIND = re.compile(r"\A(?:(?!\n    bind ).)*\n    bind :\d+ ssl crt ", re.DOTALL)

SEE_LOGS = "ansible-playbook playbooks/router_logs.yml"


class Edge:
    """One edge container. Every method may raise ``AnvilError``: no container, no answer, no such server."""

    def __init__(self, docker: DockerEngine, container: str) -> None:
        self.docker = docker
        self.container = container

    @property
    def where(self) -> str:
        return "container " + self.container

    def send_command(self, command: str) -> str:
        """Send one command to the runtime API; returns its answer."""
        from ansible_collections.anvil.serving.plugins.module_utils.router.programs import edge_socket

        ran = self.docker.exec_in(self.container, ["perl", "-e", edge_socket.PERL, SOCKET_PATH, command])
        if ran.exit_code != 0:
            raise fail(
                "the edge's runtime API does not answer",
                where=self.where,
                why=ran.output.strip(),
                hint="check that it is an edge of this collection, with perl and {0}: ansible-playbook playbooks/router_logs.yml "
                "shows its log".format(SOCKET_PATH),
            )
        return ran.output

    # --------------------------------------------------------------------------------------------------------- servers

    def read_servers(self) -> List[Server]:
        """Every replica behind the edge, by name."""
        return [server for server in self.read_all_servers() if not server.backend.startswith(SERVES)]

    def read_backends(self) -> List[Server]:
        """Every backend of a tier over hosts, by name; one of several tiers is there several times."""
        return [server for server in self.read_all_servers() if server.backend.startswith(TIER_PREFIX)]

    def read_all_servers(self) -> List[Server]:
        for _attempt in range(READ_ATTEMPTS):
            answer = self.send_command("show stat -1 4 -1")
            if answer.strip():
                break
        try:
            return parse_servers(answer)
        except (ValueError, KeyError) as exc:
            raise fail("the edge did not list its servers", where=self.where, why=str(exc), hint=SEE_LOGS) from exc

    def find_server(self, name: str, servers: Sequence[Server]) -> Server:
        """The server of that name; ``AnvilError`` if there is none."""
        for server in servers:
            if server.name == name:
                return server
        raise fail(
            "the edge has no server {0!r}".format(name),
            where=self.where,
            hint="it has: " + (", ".join(server.name for server in servers) or "none"),
        )

    def _read_server(self, name: str) -> Server:
        return self.find_server(name, self.read_servers())

    def _set_state(self, server: Server, *states: str) -> None:
        commands = ["set server {0}/{1} {2}".format(server.backend, server.name, state) for state in states]
        answer = self.send_command("; ".join(commands)).strip()
        if answer:
            what = "the edge refused to change the state of {0}".format(server.name)
            raise fail(what, where=self.where, why="{0}: {1}".format("; ".join(commands), answer))

    def drain(self, name: str, timeout: float) -> float:
        """Send the server no new requests, and wait until it has none in flight; returns the seconds that took.

        Refused, with nothing changed, if it is the only one UP: its requests would have nowhere to go. If it still has
        requests after ``timeout`` seconds, it gets new ones again, and that is an ``AnvilError``.
        """
        began = time.monotonic()
        servers = self.read_servers()
        found = self.find_server(name, servers)
        if found.status == UP and not any(other.status == UP for other in servers if other.name != name):
            raise fail(
                "{0} cannot be drained: no other replica is up".format(name),
                where=self.where,
                why=", ".join("{0} is {1}".format(other.name, other.status) for other in servers if other.name != name),
                hint="bring another replica up first: ansible-playbook playbooks/router_up.yml; why it is down: " + SEE_LOGS,
            )
        self._set_state(found, "state maint")
        try:
            self._wait_drained(name, timeout)
        except AnvilError as exc:
            self._undo_drain(found, exc)
            raise
        return round(time.monotonic() - began, 3)

    def _wait_drained(self, name: str, timeout: float) -> None:
        began = time.monotonic()
        while True:
            now = self._read_server(name)
            if now.status == MAINT and now.sessions == 0 and now.queued == 0:
                return
            if time.monotonic() - began > timeout:
                raise fail(
                    "{0} was not drained within {1:g} s".format(name, timeout),
                    where=self.where,
                    why="{0} requests in flight, {1} queued".format(now.sessions, now.queued),
                    hint="set drain_timeout longer than the longest stream, then run again; the replica gets requests again",
                )
            _pause(began)

    def _undo_drain(self, server: Server, cause: AnvilError) -> None:
        """Send requests again to a server whose drain failed; if that fails too, the error says so."""
        try:
            self._set_state(server, "state ready")
        except AnvilError as exc:
            left = Problem(
                "the edge sends no more requests to {0}".format(server.name),
                where=self.where,
                why="draining it failed, and readmitting it failed too",
                hint="when the edge answers again, readmit it: ansible-playbook playbooks/router_restart.yml",
            )
            raise AnvilError(*cause.problems, *exc.problems, left) from cause

    def readmit(self, name: str, timeout: float) -> float:
        """Send the server requests again, and wait until the edge sees it UP; returns the seconds that took.

        A server that is not UP after ``timeout`` seconds is an ``AnvilError``; it stays admitted, and gets requests as
        soon as it passes its health check.
        """
        began = time.monotonic()
        # HAProxy takes a server that leaves maintenance for UP. "health down" makes it wait for the first health check.
        found = self._read_server(name)
        if found.status != UP:
            self._set_state(found, "state ready", "health down")
        while True:
            now = self._read_server(name)
            if now.status == UP:
                return round(time.monotonic() - began, 3)
            if time.monotonic() - began > timeout:
                raise fail(
                    "{0} did not come up behind the edge within {1:g} s".format(name, timeout),
                    where=self.where,
                    why="the edge reports it as " + now.status,
                    hint="see why its health check does not answer 200: " + SEE_LOGS,
                )
            _pause(began)

    def check_none_drained(self, may_rest: Sequence[str] = ()) -> None:
        """may_rest: servers of which the new configuration itself says whether they get requests."""
        drained = [each.name for each in self.read_servers() if each.status == MAINT and each.name not in may_rest]
        if drained:
            raise fail(
                "the edge is not reloaded while {0} is drained".format(", ".join(drained)),
                where=self.where,
                why="the new process would send it requests; a promotion or a restart runs, or was interrupted",
                hint="run again when it has ended; after an interruption first: ansible-playbook playbooks/router_restart.yml",
            )

    # --------------------------------------------------------------------------------------------------- configuration

    def read_info(self) -> Dict[str, str]:
        """What the running process reports of itself (``show info``), by HAProxy's names."""
        lines = [line.partition(":") for line in self.send_command("show info").splitlines()]
        return {name.strip(): value.strip() for name, colon, value in lines if colon}

    def read_loaded_hash(self) -> str:
        """The hash that the configuration in memory carries; empty if it carries none."""
        return loaded_hash(self.read_info())

    def read_written_hash(self) -> str:
        """The hash of the configuration that the container would read now."""
        return parse_config_hash(self.read_config())

    def read_config(self) -> str:
        """The configuration file in the container."""
        return self.read_file(CONFIG_PATH)

    def read_file(self, path: str) -> str:
        """A file of its revision in the container."""
        found = self.docker.read_archive(self.container, path)
        if found is not None and found[0].get("linkTarget"):
            found = self.docker.read_archive(self.container, str(found[0]["linkTarget"]))
        if found is None:
            raise fail(
                "the edge has no configuration",
                where="container {0}:{1}".format(self.container, path),
                hint="type: ansible-playbook playbooks/site.yml (it promotes one)",
            )
        with tarfile.open(fileobj=io.BytesIO(found[1]), mode="r") as archive:
            stream = archive.extractfile(archive.getmembers()[0])
            return stream.read().decode("utf-8", "replace") if stream else ""

    def has_tls(self) -> bool:
        """Whether clients connect to it with TLS."""
        return has_tls(self.read_config())

    def check_config(self) -> None:
        """Let HAProxy check the configuration file; ``AnvilError`` with its message if it refuses it."""
        ran = self.docker.exec_in(self.container, ["haproxy", "-c", "-f", CONFIG_PATH])
        if ran.exit_code != 0:
            raise fail(
                "HAProxy refuses the edge's configuration",
                where="container {0}:{1}".format(self.container, CONFIG_PATH),
                why=ran.output.strip()[-1500:],
                hint="correct the configuration or the certificates; the running edge was not changed",
            )

    def reload(self, timeout: float, may_rest: Sequence[str] = ()) -> float:
        """Make the edge read its configuration and certificates again, no connection dropped; returns the seconds it took.

        Refused while a server is in maintenance: the new process would send requests to it. The caller holds the lock of
        the replicas (``edge_traffic.ReplicaLock``), so that none is put there meanwhile.
        """
        began = time.monotonic()
        self.check_none_drained(may_rest)
        self.check_config()
        written, before = self.read_written_hash(), self.read_info().get("Pid", "")
        self.docker.signal_container(self.container, "USR2")
        while time.monotonic() - began <= timeout:
            _pause(began)
            try:
                info = self.read_info()
            except AnvilError:
                continue  # the old process has closed the socket, the new one has not opened it yet
            if info.get("Pid") != before and loaded_hash(info) == written:
                return round(time.monotonic() - began, 3)
        log = self.docker.read_log(self.container, 15)
        raise fail("the edge did not reload within {0:g} s".format(timeout), where=self.where, log=log)

    def await_one_process(self, timeout: float) -> None:
        """Wait until the process from before the last reload has ended, and all of its requests with it.

        A client that is connected and silent keeps it for the time that the configuration allows (a minute).
        """
        from ansible_collections.anvil.serving.plugins.module_utils.router.programs import edge_processes

        began = time.monotonic()
        while True:
            count = self.docker.exec_in(self.container, ["perl", "-e", edge_processes.PERL]).output.strip()
            if count == "1":
                return
            if time.monotonic() - began > timeout:
                raise fail(
                    "requests from before the reload did not end within {0:g} s".format(timeout),
                    where=self.where,
                    why="processes that take requests: {0}".format(count or "unknown"),
                    hint="set drain_timeout longer than the longest stream, then run again",
                )
            _pause(began)


def loaded_hash(info: Dict[str, str]) -> str:
    """The hash of the configuration in memory, in an answer of ``Edge.read_info``."""
    return parse_config_hash("description " + info.get("description", ""))


def has_tls(config: str) -> bool:
    """Whether the router's clients connect with TLS, by the first address on which a configuration listens."""
    return bool(TLS_BIND.search(config))


def _pause(began: float) -> None:
    """Sleep a fifth of the time that the wait has taken so far, so that its end is noticed at most that much too late."""
    time.sleep(min(LONGEST_POLL, max(POLL, (time.monotonic() - began) / 5)))
