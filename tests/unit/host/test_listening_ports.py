"""Who holds a port: a real socket of this process, and what is said of each kind of holder."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.host import listening_ports


@pytest.mark.parametrize(("family", "address"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_the_process_that_listens_is_found(family: socket.AddressFamily, address: str) -> None:
    with socket.socket(family) as server:
        server.bind((address, 0))
        port = server.getsockname()[1]
        assert listening_ports.find_listener(port) is None  # bound, and not yet listening
        server.listen()
        assert listening_ports.find_listener(port) == (Path("/proc/self/comm").read_text().strip(), os.getpid())
    assert listening_ports.find_listener(port) is None


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (None, "a process outside Docker (Address already in use)"),
        (("nginx", 7), "a process outside Docker (nginx, pid 7)"),
        (("docker-proxy", 7), "to free the port: systemctl restart docker"),
    ],
)
def test_what_is_said_of_the_holder(found: tuple[str, int] | None, words: str) -> None:
    assert words in listening_ports.describe_holder(found, "Address already in use")
