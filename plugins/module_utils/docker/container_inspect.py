# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the description of an inspected container: its times as numbers, and the address of its server. Pure."""

from __future__ import annotations

import datetime
import re
from typing import Any, Mapping, Optional, Tuple


def parse_timestamp(text: str) -> Optional[int]:
    """A time such as ``2026-07-04T10:00:00.123456789Z`` in seconds since 1970; None for no time and for the zero time."""
    match = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)", text)
    if not match or text.startswith("0001-"):
        return None
    moment = datetime.datetime.strptime(match.group(1), "%Y-%m-%dT%H:%M:%S")
    return int(moment.replace(tzinfo=datetime.timezone.utc).timestamp())


def published_address(bind: str, port: int) -> Tuple[str, int]:
    """The address at which this host reaches a port published on ``bind``: loopback for a wildcard."""
    return ("127.0.0.1" if bind in ("", "0.0.0.0") else "[::1]" if bind == "::" else bind, port)


def find_endpoint(found: Mapping[str, Any]) -> Optional[Tuple[str, int]]:
    """The address at which a host reaches its inspected container; ``None`` if there is none.

    It is the first published port, otherwise the container's own address with its first exposed port.
    """
    network = found.get("NetworkSettings") or {}
    ports = network.get("Ports") or {}
    tcp = sorted((int(name.split("/")[0]), bound) for name, bound in ports.items() if name.endswith("/tcp"))
    for _private, bound in tcp:
        for binding in bound or ():
            return published_address(str(binding.get("HostIp", "")), int(binding["HostPort"]))
    exposed = sorted(
        int(name.split("/")[0]) for name in (found.get("Config") or {}).get("ExposedPorts") or {} if name.endswith("/tcp")
    )
    if not exposed:
        return None
    if str((found.get("HostConfig") or {}).get("NetworkMode")) == "host":
        return ("127.0.0.1", exposed[0])
    for attached in (network.get("Networks") or {}).values():
        if attached.get("IPAddress"):
            return (str(attached["IPAddress"]), exposed[0])
    return None
