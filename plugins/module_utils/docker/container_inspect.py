# SPDX-License-Identifier: GPL-3.0-or-later
"""Reads the description of an inspected container: its times as numbers, and the addresses at which this host reaches it"""

from __future__ import annotations

import datetime
import re
from typing import Any, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.addresses import is_on_network, pack_address
from ansible_collections.anvil.serving.plugins.module_utils.docker import documents

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(?:([+-])(\d\d):(\d\d))?", re.ASCII)


def parse_moment(text: str) -> Optional[float]:
    """A time such as ``2026-07-04T10:00:00.123456789Z`` in seconds since 1970; None for the zero time and for anything else.

    Podman writes local time with its offset: ``2026-07-04T12:00:00.5+02:00``.
    """
    match = _TIME.match(text)
    if not match or text.startswith("0001-"):
        return None
    try:
        moment = datetime.datetime.strptime(match.group(1), "%Y-%m-%dT%H:%M:%S").replace(tzinfo=datetime.timezone.utc)
    except ValueError:
        return None
    offset = 60.0 * (60 * int(match.group(4) or 0) + int(match.group(5) or 0))
    return moment.timestamp() + float(match.group(2) or 0) - (-offset if match.group(3) == "-" else offset)


def parse_timestamp(text: str) -> Optional[int]:
    """As ``parse_moment``, in whole seconds."""
    moment = parse_moment(text)
    return None if moment is None else int(moment)


def published_address(bind: str, port: int) -> Tuple[str, int]:
    """The address at which this host reaches a port published on ``bind``: loopback for a wildcard. An IPv6
    address has no brackets."""
    packed = pack_address(bind or "0.0.0.0")
    if packed is None or any(packed):
        return bind.strip("[]"), port
    return "127.0.0.1" if len(packed) == 4 else "::1", port


def list_published(found: Mapping[str, Any]) -> List[Tuple[str, int]]:
    """The addresses at which this host reaches the published TCP ports of an inspected container, by the container's port."""
    ports = documents.read_container(found)["NetworkSettings"]["Ports"]
    tcp = sorted((name for name in ports if name.endswith("/tcp")), key=documents.read_number)
    numbers = [(binding["HostIp"], documents.read_number(binding["HostPort"])) for name in tcp for binding in ports[name]]
    return [published_address(bind, port) for bind, port in numbers if port]


def list_exposed(config: Mapping[str, Any]) -> List[int]:
    """The TCP ports that the ``Config`` of a container or an image exposes."""
    return sorted(documents.read_number(name) for name in config.get("ExposedPorts") or () if name.endswith("/tcp"))


def find_endpoint(found: Mapping[str, Any]) -> Optional[Tuple[str, int]]:
    """The address at which a host reaches its inspected container; ``None`` if there is none.

    It is the first published port, otherwise the container's own address with its first exposed port.
    """
    document = documents.read_container(found)
    for address in list_published(document):
        return address
    exposed = list_exposed(document["Config"])
    if not exposed:
        return None
    if document["HostConfig"]["NetworkMode"] == "host":
        return ("127.0.0.1", exposed[0])
    for attached in document["NetworkSettings"]["Networks"].values():
        if attached["IPAddress"] and not is_elsewhere(attached):
            return (attached["IPAddress"], exposed[0])
    return None


def is_elsewhere(attached: Mapping[str, Any]) -> bool:
    """Whether this host is not on a network of a container, as with rootless Docker and Docker Desktop.

    A request to the container's address, with its token, would then leave the host, and another machine may answer.
    """
    prefix = documents.read_number(attached.get("IPPrefixLen"))
    return is_on_network(str(attached.get("IPAddress") or ""), prefix) is False
