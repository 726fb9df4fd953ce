# SPDX-License-Identifier: GPL-3.0-or-later
"""What watch answers on loopback: ``/metrics``, ``/alive/NAME`` (200 or 503), ``/state`` as JSON."""

from __future__ import annotations

import json
import os
import socket
import stat
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable, Mapping, Tuple
from urllib.parse import unquote

# A client that sends nothing is dropped after so many seconds.
CLIENT_SECONDS = 10


def build_listener(
    address: Tuple[str, int], metrics: Callable[[], str], states: Callable[[], Mapping[str, Tuple[bool, str]]]
) -> ThreadingHTTPServer:
    """A server that ``serve_forever`` runs. states: serve -> whether it is in rotation, and its state. Raises OSError."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 32

    return Server(address, _build_handler(metrics, states))


def build_socket_listener(path: str, metrics: Callable[[], str]) -> ThreadingHTTPServer:
    """The same for the edge of the host, on a Unix socket, with ``/metrics`` only. Raises OSError."""

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_UNIX
        daemon_threads = True

        def server_bind(self) -> None:
            self.socket.bind(path)
            os.chmod(path, 0o666)  # noqa: S103  # the edge runs as another user; loopback tells every user the same

        def finish_request(self, request: Any, client_address: Any) -> None:
            super().finish_request(request, ("edge", 0))

    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    if os.path.lexists(path) and stat.S_ISSOCK(os.lstat(path).st_mode):
        os.unlink(path)  # of a process before this one
    return Server(path, _build_handler(metrics, dict))  # type: ignore[arg-type]


def _build_handler(metrics: Callable[[], str], states: Callable[[], Mapping[str, Tuple[bool, str]]]) -> Any:
    class Handler(BaseHTTPRequestHandler):
        timeout = CLIENT_SECONDS
        server_version, sys_version = "anvil-watch", ""

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                self._answer(200, metrics(), "text/plain; version=0.0.4; charset=utf-8")
            elif path == "/state":
                rows = {name: {"in_rotation": good, "state": state} for name, (good, state) in states().items()}
                self._answer(200, json.dumps(rows, indent=1, sort_keys=True) + "\n", "application/json")
            elif path.startswith("/alive/"):
                found = states().get(unquote(path[len("/alive/") :]))
                status = 404 if found is None else 200 if found[0] else 503
                self._answer(status, "unknown serve\n" if found is None else found[1] + "\n", "text/plain; charset=utf-8")
            else:
                self._answer(404, "there are /metrics, /state and /alive/NAME\n", "text/plain; charset=utf-8")

        def do_HEAD(self) -> None:
            self.do_GET()

        def _answer(self, status: int, text: str, kind: str) -> None:
            content = text.encode("utf-8")
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Requests are not logged."""

    return Handler
