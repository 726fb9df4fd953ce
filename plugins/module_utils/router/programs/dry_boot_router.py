# SPDX-License-Identifier: GPL-3.0-or-later
"""The first process of a dry boot's container: it starts the router as its child and sends it requests from inside.

The first line of standard input is JSON with the router's ``argv`` and ``port``. Each further line is a request, answered by
one line of JSON with ``exit``, the router's exit code or null. It ends, and the container with it, when its input ends.
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List, Optional

LARGEST_ANSWER = 1048576


def connect(address: List[Any]) -> Optional[str]:
    """Why nothing accepts a connection at ``[host, port]``; None if something does."""
    try:
        socket.create_connection((address[0], address[1]), 1.0).close()
        return None
    except OSError as exc:
        return "{0}: {1}".format(type(exc).__name__, exc)


def send_request(port: int, asked: Dict[str, Any]) -> Dict[str, Any]:
    """One HTTP request to the router; status 0 if it does not answer, with the reason as body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=asked["timeout"])
    body = None if asked["body"] is None else asked["body"].encode("utf-8")
    try:
        connection.request(asked["method"], asked["path"], body=body, headers=asked["headers"])
        reply = connection.getresponse()
        return {"status": reply.status, "body": reply.read(LARGEST_ANSWER).decode("utf-8", "replace")}
    except (OSError, http.client.HTTPException) as exc:
        return {"status": 0, "body": "{0}: {1}".format(type(exc).__name__, exc)}
    finally:
        connection.close()


def answer(port: int, asked: Dict[str, Any]) -> Dict[str, Any]:
    """``connect``: a list of addresses to try; otherwise an HTTP request to the router."""
    if "connect" in asked:
        with ThreadPoolExecutor(16) as pool:
            return {"connect": list(pool.map(connect, asked["connect"]))}
    return send_request(port, asked)


def main() -> None:
    lines: queue.Queue[bytes] = queue.Queue()

    def listen() -> None:
        for line in sys.stdin.buffer:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    start = json.loads(lines.get())
    try:
        child = subprocess.Popen(start["argv"], stdin=subprocess.DEVNULL, stdout=2, stderr=2)
    except OSError as exc:
        sys.stderr.write("{0}: {1}\n".format(type(exc).__name__, exc))
        sys.stderr.flush()
        os._exit(127)
    while True:
        said = answer(start["port"], json.loads(lines.get()))
        sys.stdout.write(json.dumps({**said, "exit": child.poll()}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
