"""Timestamps and addresses of inspected containers."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import find_endpoint, parse_timestamp

EXPOSED = {"ExposedPorts": {"8000/tcp": {}}}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1970-01-01T00:01:00.123456789Z", 60), ("0001-01-01T00:00:00Z", None), ("", None), ("2026-11-21T04:20:19Z", 1795234819)],
)
def test_a_timestamp_is_whole_seconds_and_the_zero_time_is_none(text: str, seconds: int | None) -> None:
    assert parse_timestamp(text) == seconds


@pytest.mark.parametrize(
    ("ports", "config", "mode", "networks", "expected"),
    [
        ({"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "9000"}]}, {}, "bridge", {}, ("127.0.0.1", 9000)),
        ({"8000/tcp": [{"HostIp": "0.0.0.0", "HostPort": "9000"}]}, {}, "bridge", {}, ("127.0.0.1", 9000)),
        ({"8000/tcp": [{"HostIp": "::", "HostPort": "9000"}]}, {}, "bridge", {}, ("::1", 9000)),
        ({"8000/tcp": [{"HostIp": "0:0:0:0:0:0:0:0", "HostPort": "9000"}]}, {}, "bridge", {}, ("::1", 9000)),
        ({"8000/tcp": [{"HostIp": "fd00::7", "HostPort": "9000"}]}, {}, "bridge", {}, ("fd00::7", 9000)),
        ({"8000/tcp": None, "53/udp": [{"HostIp": "", "HostPort": "1"}]}, {}, "none", {}, None),
        ({}, {"ExposedPorts": {"8000/tcp": {}}}, "host", {}, ("127.0.0.1", 8000)),
        ({}, {"ExposedPorts": {"8000/tcp": {}}}, "x", {"x": {"IPAddress": "172.18.0.2"}}, ("172.18.0.2", 8000)),
        # This host is on the network, or is not (rootless Docker, Docker Desktop): another machine may answer there.
        ({}, EXPOSED, "x", {"x": {"IPAddress": "127.9.0.2", "IPPrefixLen": 8}}, ("127.9.0.2", 8000)),
        ({}, EXPOSED, "x", {"x": {"IPAddress": "203.0.113.9", "IPPrefixLen": 24}}, None),
        ({}, EXPOSED, "x", {"x": {"IPAddress": "203.0.113.9", "IPPrefixLen": None}}, ("203.0.113.9", 8000)),
        ({}, {"ExposedPorts": {"8000/tcp": {}}}, "none", {"none": {"IPAddress": ""}}, None),
        (None, {}, "bridge", None, None),
    ],
)
def test_the_endpoint_is_a_published_port_or_the_containers_address(
    ports: Any, config: Any, mode: str, networks: Any, expected: tuple[str, int] | None
) -> None:
    found = {
        "NetworkSettings": {"Ports": ports, "Networks": networks},
        "Config": config,
        "HostConfig": {"NetworkMode": mode},
    }
    assert find_endpoint(found) == expected
