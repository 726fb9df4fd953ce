# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests to a real server on this machine, and to an address where nothing listens."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.http_request import Reply, request_http, send_request

GET = "GET / Connection=close - -"


class Echo(BaseHTTPRequestHandler):
    """Answers with the request that it received."""

    def do_GET(self) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        sent = [self.headers.get(name) or "-" for name in ("Connection", "Content-Type", "Authorization")]
        body = f"{self.command} {self.path} Connection={' '.join(sent)} {content}".strip().encode()
        self.send_response(418)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, *_message: object) -> None:
        pass


@pytest.fixture(name="address")
def served_address(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, int]]:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with HTTPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield ("127.0.0.1", server.server_port)
        server.shutdown()
        thread.join()


def test_the_status_and_the_body_are_returned_and_no_proxy_is_used(address: tuple[str, int]) -> None:
    assert request_http(address, "GET", "/", 5.0) == Reply(418, GET)


def test_a_body_is_sent_as_json_and_a_token_as_bearer_token(address: tuple[str, int]) -> None:
    reply = request_http(address, "POST", "/v1", 5.0, body={"a": 1}, token="key")
    assert reply.body == 'POST /v1 Connection=close application/json Bearer key {"a": 1}'


def test_only_the_given_headers_are_sent(address: tuple[str, int]) -> None:
    reply = send_request(address, "POST", "/", 5.0, headers={"Content-Type": "text/plain"}, content="\u00e4".encode())
    assert reply.body == "POST / Connection=- text/plain - \u00e4"


def test_no_response_is_a_reply_with_status_0() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        reply = request_http(unused.getsockname(), "GET", "/", 5.0)
    assert reply.status == 0 and reply.body.startswith("ConnectionRefusedError: ")
