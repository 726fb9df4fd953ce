# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first process of a dry boot: it starts a router, sends it requests, and exits when its input closes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.core.program_source import read_source
from ansible_collections.anvil.serving.plugins.module_utils.router.programs import dry_boot_router

ROUTER = """
import http.server, sys

class Echo(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body == b"end":
            import os
            os._exit(7)
        self.send_response(201)
        self.end_headers()
        self.wfile.write(self.path.encode() + b" " + body + b" " + self.headers["X-Key"].encode())
    def log_message(self, *_): pass

server = http.server.HTTPServer(("127.0.0.1", 0), Echo)
print(server.server_port, file=sys.stderr, flush=True)
server.serve_forever()
"""


@contextmanager
def started(argv: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    program = [sys.executable, "-c", read_source(dry_boot_router)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(program, start_new_session=True, **pipes)
    send(process, {"argv": argv, "port": 0})
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # ends the child too, which keeps standard error open
        process.communicate()


def send(process: subprocess.Popen[bytes], line: dict[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(line).encode() + b"\n")
    process.stdin.flush()


def ask(process: subprocess.Popen[bytes], line: dict[str, Any]) -> dict[str, Any]:
    send(process, line)
    assert process.stdout is not None
    answer: dict[str, Any] = json.loads(process.stdout.readline())
    return answer


def test_requests_reach_the_router_and_a_lost_connection_is_reported() -> None:
    with subprocess.Popen([sys.executable, "-c", ROUTER], stderr=subprocess.PIPE) as router:
        assert router.stderr is not None
        port = int(router.stderr.readline())
        asked = {"method": "POST", "path": "/x", "body": "hello", "headers": {"X-Key": "k"}, "timeout": 5}
        assert dry_boot_router.answer(port, asked) == {"status": 201, "body": "/x hello k"}
        assert dry_boot_router.answer(port, {"connect": [["127.0.0.1", port]]}) == {"connect": [None]}
        lost = dry_boot_router.answer(port, {**asked, "body": "end"})
        assert lost["status"] == 0 and lost["body"]
        assert router.wait(10) == 7
        (refused,) = dry_boot_router.answer(port, {"connect": [["127.0.0.1", port]]})["connect"]
        assert "refused" in refused


def test_each_answer_reports_whether_the_router_has_exited() -> None:
    with started([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        assert ask(process, {"connect": []}) == {"connect": [], "exit": None}
    with started([sys.executable, "-c", "raise SystemExit(3)"]) as process:
        while (answer := ask(process, {"connect": []}))["exit"] is None:
            pass
        assert answer["exit"] == 3


def test_it_exits_when_its_input_closes() -> None:
    with started([sys.executable, "-c", "import time; time.sleep(5)"]) as process:
        ask(process, {"connect": []})
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        assert process.wait(10) == 0


def test_a_command_that_cannot_be_started_is_an_error() -> None:
    with started(["/nowhere"]) as process:
        assert process.wait(10) == 127
        assert process.stderr is not None and b"FileNotFoundError" in process.stderr.read()
