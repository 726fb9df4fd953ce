# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who reaches whom: a serve has a network of its own, and with mounted weights no other machine answers it. Real traffic."""

from __future__ import annotations

import os
import subprocess
import urllib.request

from serving import PYTHON_IMAGE, Field, actions, scripted

CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), 1); print('reached')"
RESOLVE = """
import socket, time
start = time.time()
try:
    found = bool(socket.gethostbyname("{0}"))
except OSError:
    found = False
print(found, "quick" if time.time() - start < 2 else "slow")
"""


def reaches(field: Field, container: str, host: str, port: int) -> bool:
    argv = ["exec", container, "python3", "-c", CONNECT, host, str(port)]
    done = subprocess.run(
        ["docker", *argv], capture_output=True, text=True, check=False, env={**os.environ, **field.bed.environment}
    )
    return "reached" in done.stdout


def address(field: Field, container: str) -> str:
    return field.bed.docker("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", container).strip()


def test_a_closed_serve_is_reached_by_host_and_router_and_reaches_neither_other_machines_nor_other_serves(
    field: Field, outside: str
) -> None:
    field.edit("heavy", network="bed-serve-heavy", closed=True, dns=("127.0.0.1",), **scripted())
    field.edit("fast", network="bed-open-fast", **scripted())
    field.bed.docker("network", "create", "bed-clients")
    field.bed.docker("run", "-d", "--name", "peer", "--network", "bed-clients", "--entrypoint", "sleep", PYTHON_IMAGE, "300")
    field.add(**{"x-anvil": {"peers": {"peer": "router", "absent": "router"}}})
    assert {name: action for name, (action, _why) in actions(field.run()).items()} == {"heavy": "create", "fast": "create"}
    for port in (30002, 30003):  # readiness, status and the clients of this host
        assert urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5).status == 200
    assert reaches(field, "bed-fast", outside, 8000)
    assert not reaches(field, "bed-heavy", outside, 8000)
    assert not reaches(field, "bed-heavy", address(field, "bed-fast"), 30003)
    assert not reaches(field, "bed-fast", address(field, "bed-heavy"), 30002)
    assert reaches(field, "peer", "bed-heavy", 30002)  # by its name: the router was attached before the serve started
    assert field.bed.docker("exec", "bed-heavy", "python3", "-c", RESOLVE.format("router")).startswith("True")
    assert field.bed.docker("exec", "bed-heavy", "python3", "-c", RESOLVE.format("example.com")).split() == ["False", "quick"]
    assert field.bed.docker("exec", "bed-heavy", "cat", "/proc/net/if_inet6").count("\n") <= 1  # no address but its own loopback
    assert field.run()["changed"] is False


def test_a_network_that_lets_a_closed_serve_out_is_named(field: Field) -> None:
    field.bed.docker("network", "create", "bed-serve-heavy")
    field.edit("heavy", network="bed-serve-heavy", closed=True)
    answer = field.run()
    assert answer["failed"] and "the network is not closed" in answer["msg"], answer["msg"]
    assert "it is not ours" in answer["msg"] and "egress: true" in answer["msg"]
