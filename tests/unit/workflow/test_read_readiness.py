# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program that reads a replica's readiness, as the module sends it: alone, by its source."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.program_source import read_source
from ansible_collections.anvil.serving.plugins.module_utils.workflow.programs import read_readiness


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503 if self.path == "/readyz" else 404)
        self.end_headers()
        self.wfile.write(b'{"status": "not ready"}' + b" " * 1000)

    def log_message(self, *_words: object) -> None:
        return


@pytest.fixture
def port() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def run(port: int) -> subprocess.CompletedProcess[str]:
    source = read_source(read_readiness).replace("PORT = 8000", f"PORT = {port}")
    return subprocess.run([sys.executable, "-I", "-c", source], capture_output=True, text=True, check=False)


def test_the_status_comes_first_and_the_body_is_cut(port: int) -> None:
    done = run(port)
    assert done.returncode == 0 and done.stdout.startswith('503 {"status": "not ready"}') and len(done.stdout) < 510
    assert read_readiness.read_readiness(port) == done.stdout.rstrip("\n")


def test_a_server_that_does_not_answer_ends_with_the_reason(port: int) -> None:
    done = run(1)
    assert done.returncode != 0 and "refused" in done.stderr and not done.stdout.startswith("200 ")
