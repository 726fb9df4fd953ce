# SPDX-License-Identifier: GPL-3.0-or-later
"""One HTTP request to an address, with or without TLS, never through a proxy. A failed connection is a reply with status 0."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Tuple

# More of a response body than this is not read (bytes).
BODY_LIMIT = 4 * 1024 * 1024


@dataclass(frozen=True)
class Reply:
    """status 0: there was no response, and ``body`` holds the reason."""

    status: int
    body: str


@dataclass(frozen=True)
class Tls:
    """How a server is verified. server_name: the name sent as SNI, and the one in its certificate if ``context`` checks names."""

    context: ssl.SSLContext
    server_name: str = ""


class _TlsConnection(http.client.HTTPConnection):
    """HTTP over TLS to an address that need not be the name in the certificate."""

    def __init__(self, endpoint: Tuple[str, int], timeout: float, tls: Tls) -> None:
        super().__init__(endpoint[0], endpoint[1], timeout=timeout)
        self._tls = tls

    def connect(self) -> None:
        super().connect()
        self.sock = self._tls.context.wrap_socket(self.sock, server_hostname=self._tls.server_name or None)


def request_http(
    endpoint: Tuple[str, int],
    method: str,
    path: str,
    timeout: float,
    *,
    body: Optional[Mapping[str, Any]] = None,
    token: str = "",
    tls: Optional[Tls] = None,
) -> Reply:
    """Send ``body`` as JSON, with ``token`` as bearer token where there is one. timeout: seconds."""
    headers: Dict[str, str] = {"Connection": "close"}
    if body is not None:
        headers["Content-Type"] = "application/json"
    if token:
        headers["Authorization"] = "Bearer " + token
    content = None if body is None else json.dumps(body).encode("utf-8")
    return send_request(endpoint, method, path, timeout, headers=headers, content=content, tls=tls)


def send_request(
    endpoint: Tuple[str, int],
    method: str,
    path: str,
    timeout: float,
    *,
    headers: Mapping[str, str],
    content: Optional[bytes] = None,
    tls: Optional[Tls] = None,
    whole: bool = False,
) -> Reply:
    """Send exactly these headers and this content. timeout: seconds without a byte; with ``whole``, until the body ends too."""
    deadline = time.monotonic() + timeout
    address = (endpoint[0].strip("[]"), endpoint[1])
    connection = _TlsConnection(address, timeout, tls) if tls else http.client.HTTPConnection(*address, timeout=timeout)
    try:
        connection.request(method, path, body=content, headers=dict(headers))
        sock = connection.sock
        response = connection.getresponse()
        content = _read_until(response, sock, deadline) if whole else response.read(BODY_LIMIT)
        return Reply(response.status, content.decode("utf-8", "replace"))
    except (OSError, http.client.HTTPException) as exc:
        return Reply(0, "{0}: {1}".format(type(exc).__name__, exc))
    finally:
        connection.close()


def _read_until(response: http.client.HTTPResponse, sock: socket.socket, deadline: float) -> bytes:
    """The body. A server that sends a byte now and then is cut off at the deadline. Raises TimeoutError."""
    pieces, left = [], BODY_LIMIT
    while left > 0:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("timed out")
        if not response.isclosed():
            sock.settimeout(remaining)
        piece = response.read1(min(left, 65536))
        if not piece:
            break
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)
