# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The edge: the HAProxy in front of the router's replicas, spoken to through its runtime API.

The runtime API is a unix socket inside the edge's container (level admin, so it is never published). It is reached by
``perl`` there, executed by the engine: perl-base is essential in Debian, so it is in our image and in the public one,
which have neither socat nor python. One word costs one exec (about 60 ms).
"""

from __future__ import annotations

import csv
import time
from dataclasses import dataclass
from typing import List

from ansible_collections.anvil.serving.plugins.module_utils.engine import Engine
from ansible_collections.anvil.serving.plugins.module_utils.errors import fail

# Where the edge's process listens for the runtime API; templates/edge/haproxy.cfg.j2 says the same.
SOCKET = "/tmp/haproxy.sock"
CONFIG = "/etc/anvil-edge/haproxy.cfg"
UP, MAINT = "UP", "MAINT"
POLL = 0.1

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
                status=str(row["status"]).split(" ")[0],
                sessions=int(row["scur"] or 0),
                queued=int(row["qcur"] or 0),
                backend=str(row["pxname"]),
            )
        )
    return sorted(found, key=lambda server: server.name)


class Edge:
    """The runtime API of one edge container. Every method may raise ``AnvilError``: no edge, no answer, no such server."""

    def __init__(self, engine: Engine, container: str) -> None:
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
        said = self.ask("show stat -1 4 -1")
        try:
            return parse_servers(said)
        except (ValueError, KeyError) as exc:
            raise fail(
                "the edge told something else than its servers", where="container " + self.container, why=str(exc)
            ) from exc

    def _find(self, name: str) -> Server:
        servers = self.read_servers()
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
        found = self._find(server)
        if found.status == UP and not any(other.status == UP for other in self.read_servers() if other.name != server):
            raise fail(
                "{0} cannot be drained: no other replica is up".format(server),
                where="container " + self.container,
                hint="look at the other replicas first: docker logs NAME",
            )
        self._set(found, "state maint")
        while True:
            now = self._find(server)
            if now.status == MAINT and now.sessions == 0 and now.queued == 0:
                return round(time.monotonic() - began, 3)
            if time.monotonic() - began > timeout:
                self._set(found, "state ready")
                raise fail(
                    "{0} was not drained within {1:g} s".format(server, timeout),
                    where="container " + self.container,
                    why="{0} requests in flight, {1} queued".format(now.sessions, now.queued),
                    hint="it gets requests again; allow more time than the longest stream takes",
                )
            time.sleep(POLL)

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
            time.sleep(POLL)
