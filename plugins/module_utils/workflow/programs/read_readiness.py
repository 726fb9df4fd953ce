# SPDX-License-Identifier: GPL-3.0-or-later
"""Prints the HTTP status of a replica's readiness path, and the beginning of its body. Runs inside the replica's container,
because a replica behind the edge publishes no port.
"""

from __future__ import annotations

import http.client
import sys

PORT = 8000


def read_readiness(port: int = PORT) -> str:
    """``200 {"status": "ready", …}``. Raises OSError where the server does not answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return "{0} {1}".format(answer.status, answer.read(500).decode("utf-8", "replace"))
    finally:
        connection.close()


if __name__ == "__main__":
    sys.stdout.write(read_readiness() + "\n")
