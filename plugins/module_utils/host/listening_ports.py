# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports of this host that a process holds outside the published ports of containers, and which process that is.

A process of a container with the host's network is such a process too; it is named by its container.
"""

from __future__ import annotations

import errno
import glob
import os
import re
import socket
from dataclasses import dataclass
from typing import Any, Callable, Collection, Dict, List, Mapping, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.addresses import (
    Port,
    addresses_overlap,
    list_ports,
    pack_address,
    ports_overlap,
)
from ansible_collections.anvil.serving.plugins.module_utils.docker import documents
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service
from ansible_collections.anvil.serving.plugins.module_utils.host.rootless_engine import LOWEST_FREE, find_lowest_port

# The states in /proc/net of a socket that holds its port: a TCP socket that listens, a UDP socket that is bound.
HOLDING = {"tcp": "0A", "udp": "07"}
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
# The Docker Engine runs this program for each published port. One without a container is left over from a Docker Engine that
# was killed while it started the container: its next start takes the port again, and the start after that frees it.
DOCKER_PROXY = "docker-proxy"
_CONTAINER = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Listener:
    """A process that holds a port. container: the id of the container that it runs in; empty outside containers."""

    name: str
    pid: int
    container: str = ""


def list_published(entry: Mapping[str, Any]) -> List[Port]:
    """The ports that a container of the Docker Engine's list holds on the host now; a stopped container holds none."""
    listed = documents.read_listed_container(entry)["Ports"]
    return [(port["IP"], port["PublicPort"], port["Type"] or "tcp") for port in listed if port["PublicPort"]]


def find_busy_ports(
    services: Sequence[Service], listed: Sequence[Mapping[str, Any]], leaving: Collection[str] = ()
) -> Dict[Port, str]:
    """Port -> its holder, for the ports that these services publish and no listed container publishes.

    leaving: ids of containers that are about to be removed; what their processes hold becomes free.
    """
    held = [port for entry in listed for port in list_published(entry)]
    busy = {}
    for wanted in dict.fromkeys(port for service in services for port in list_ports(service.ports)):
        if any(ports_overlap(wanted, port) for port in held):
            continue
        error = _try_to_bind(wanted)
        if error is None or error.errno != errno.EADDRINUSE:
            continue  # this user may not bind the port, or the host lacks the address: nobody holds it
        found = find_listener(wanted)
        if not _is_leaving(found, listed, leaving):
            busy[wanted] = describe_holder(found, str(error.strerror), _find_name(found, listed), _list_on_host_network(listed))
    return busy


def find_held_ports(numbers: Sequence[int], listed: Sequence[Mapping[str, Any]]) -> Dict[int, str]:
    """Number -> its holder, for the TCP ports that a container publishes or a process of this host holds on any address."""
    published = {port[1] for entry in listed for port in list_published(entry) if port[2] == "tcp"}
    held = {}
    for number in numbers:
        wanted = ("0.0.0.0", number, "tcp")
        error = None if number in published else _try_to_bind(wanted)
        if number in published:
            held[number] = "a container"
        elif error is not None and error.errno == errno.EADDRINUSE:
            found = find_listener(wanted)
            held[number] = describe_holder(found, str(error.strerror), _find_name(found, listed), _list_on_host_network(listed))
    return held


def find_missing_addresses(services: Sequence[Service]) -> Dict[str, str]:
    """Address -> why no server can listen on it: the host does not have it."""
    missing = {}
    published = {bind for service in services for bind, _port, _protocol in list_ports(service.ports)}
    used = {str((service.anvil.get("fabric") or {}).get("address") or "").strip("[]") for service in services} - {""}
    for bind in sorted(published | used):
        packed = pack_address(bind)
        if packed is None or not any(packed):
            continue
        error = _try_to_bind((bind, 0, "tcp"))
        if error is not None and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            missing[bind] = str(error.strerror)
    return missing


def find_missing_interfaces(services: Sequence[Service]) -> Dict[str, str]:
    """Network interface that a service uses and this host does not have -> those that it has."""
    named = {str((service.anvil.get("fabric") or {}).get("interface") or "") for service in services} - {""}
    here = {name for _number, name in socket.if_nameindex()} if named else set()
    return {name: ", ".join(sorted(here)) for name in named - here}


def find_barred_ports(services: Sequence[Service], read_info: Callable[[], Mapping[str, Any]]) -> Dict[Port, str]:
    """Port -> why the Docker Engine of this host may not publish it: it runs without root, and the port is a privileged one.

    read_info: reads the description of the engine; called only where a port below 1024 is published.
    """
    low = sorted({port for service in services for port in list_ports(service.ports) if 0 < port[1] < LOWEST_FREE})
    first = find_lowest_port(read_info()) if low else 0
    why = "the Docker Engine runs without root, and net.ipv4.ip_unprivileged_port_start is {0}".format(first)
    return {port: why for port in low if port[1] < first}


def _try_to_bind(port: Port) -> Optional[OSError]:
    address, number, protocol = port
    if protocol not in KINDS:
        return None  # sctp
    packed = pack_address(address)
    family = socket.AF_INET6 if packed is not None and len(packed) == 16 else socket.AF_INET
    try:
        with socket.socket(family, KINDS[protocol]) as probe:
            if protocol == "tcp":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((address.strip("[]") or "0.0.0.0", number))
    except socket.gaierror:
        return None
    except OSError as exc:
        return exc
    return None


def _is_leaving(found: Optional[Listener], listed: Sequence[Mapping[str, Any]], leaving: Collection[str]) -> bool:
    """Whether the port becomes free with the containers that leave. Where the process cannot be read, a container with the
    host's network that leaves may be the holder."""
    if found is not None:
        return found.container in leaving
    return any(entry["HostConfig"]["NetworkMode"] == "host" for entry in listed if entry["Id"] in leaving)


def _find_name(found: Optional[Listener], listed: Sequence[Mapping[str, Any]]) -> str:
    """The name of the container of a process; empty where it runs outside the listed containers."""
    for entry in listed:
        if found is not None and found.container and entry.get("Id") == found.container:
            return str(entry["Names"][0]).lstrip("/")
    return ""


def _list_on_host_network(listed: Sequence[Mapping[str, Any]]) -> List[str]:
    """The running containers with the host's network: their ports are in no list."""
    rows = [documents.read_listed_container(entry) for entry in listed]
    return [
        row["Names"][0].lstrip("/") for row in rows if row["State"] == "running" and row["HostConfig"]["NetworkMode"] == "host"
    ]


def describe_holder(found: Optional[Listener], otherwise: str, container: str = "", candidates: Sequence[str] = ()) -> str:
    """otherwise: what is known where the process is unknown. container: the name of the container that it runs in.

    candidates: names of containers that may have the process, where it cannot be read.
    """
    if found is None:
        if candidates:
            text = "a process that this user may not read ({0}), perhaps of a container with the host's network: {1}"
            return text.format(otherwise, ", ".join(candidates))
        return "a process outside Docker ({0})".format(otherwise)
    if found.container and not container:
        text = "container {0} of another engine, such as Podman or containerd ({1}, pid {2})"
        return text.format(found.container[:12], found.name, found.pid)
    if container:
        return "container {0} with the host's network ({1}, pid {2})".format(container, found.name, found.pid)
    if found.name == DOCKER_PROXY:
        return (
            "the Docker Engine itself, for a container that does not exist ({0}, pid {1}): the Docker Engine was killed while "
            "it started that container; to free the port: systemctl restart docker".format(found.name, found.pid)
        )
    return "a process outside Docker ({0}, pid {1})".format(found.name, found.pid)


def find_listener(port: Port, proc: str = "/proc") -> Optional[Listener]:
    """The process that holds a port; None where it cannot be read (another user's process)."""
    sockets = {"socket:[{0}]".format(inode) for family in (port[2], port[2] + "6") for inode in _inodes(proc, family, port)}
    for path in glob.iglob(os.path.join(proc, "[0-9]*", "fd", "*")) if sockets else ():
        try:
            if os.readlink(path) in sockets:
                pid = path[len(proc) :].split("/")[1]
                name = _read(os.path.join(proc, pid, "comm")).strip()
                ids = _CONTAINER.findall(_read(os.path.join(proc, pid, "cgroup")))
                return Listener(name, int(pid), ids[-1] if ids else "")
        except OSError:  # the process has ended meanwhile
            continue
    return None


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as handle:
        return handle.read()


def _inodes(proc: str, family: str, port: Port) -> Sequence[str]:
    try:
        rows = [line.split() for line in _read(os.path.join(proc, "net", family)).splitlines()[1:]]
    except OSError:
        return ()
    found = []
    for row in rows:
        address, _colon, number = row[1].rpartition(":")
        if row[3] == HOLDING.get(port[2]) and int(number, 16) == port[1] and addresses_overlap(_address(address), port[0]):
            found.append(row[9])
    return found


def _address(digits: str) -> str:
    """``0100007F`` -> ``127.0.0.1``: words of four bytes, the last byte first. ``::`` may hold IPv4 too: both wildcards."""
    words = [bytes.fromhex(digits[start : start + 8])[::-1] for start in range(0, len(digits), 8)]
    packed = b"".join(words)
    text = socket.inet_ntop(socket.AF_INET6 if len(packed) == 16 else socket.AF_INET, packed)
    return "" if text == "::" else text
