# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports of this host that a process outside Docker holds, and which process that is."""

from __future__ import annotations

import glob
import os
import socket
from typing import Dict, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service

LISTENING = "0A"
# The Docker Engine runs this program for each published port. One without a container is left over from a Docker Engine that
# was killed while it started the container: its next start takes the port again, and the start after that frees it.
DOCKER_PROXY = "docker-proxy"


def find_busy_ports(services: Sequence[Service], listed: Sequence[Mapping[str, object]]) -> Dict[Tuple[str, int], str]:
    """Address -> its holder, for the ports that these services publish and no listed container holds."""
    held = {port.get("PublicPort") for entry in listed for port in _ports(entry)}
    busy = {}
    for service in services:
        for bind, port, _target in service.ports:
            if port in held or port == 0:
                continue
            family = socket.AF_INET6 if ":" in bind else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((bind, port))
                except OSError as exc:
                    busy[(bind, port)] = describe_holder(find_listener(port), str(exc.strerror))
    return busy


def _ports(entry: Mapping[str, object]) -> Sequence[Mapping[str, object]]:
    found = entry.get("Ports")
    return found if isinstance(found, list) else ()


def describe_holder(found: Optional[Tuple[str, int]], otherwise: str) -> str:
    """found: name and pid of a process. otherwise: what is known where the process is unknown."""
    if found is None:
        return "a process outside Docker ({0})".format(otherwise)
    name, pid = found
    if name == DOCKER_PROXY:
        return (
            "the Docker Engine itself, for a container that does not exist ({0}, pid {1}): the Docker Engine was killed while "
            "it started that container; to free the port: systemctl restart docker".format(name, pid)
        )
    return "a process outside Docker ({0}, pid {1})".format(name, pid)


def find_listener(port: int, proc: str = "/proc") -> Optional[Tuple[str, int]]:
    """Name and pid of the process that listens on a TCP port; None where it cannot be read (another user's process)."""
    sockets = {"socket:[{0}]".format(inode) for family in ("tcp", "tcp6") for inode in _inodes(proc, family, port)}
    for path in glob.iglob(os.path.join(proc, "[0-9]*", "fd", "*")) if sockets else ():
        try:
            if os.readlink(path) in sockets:
                pid = path[len(proc) :].split("/")[1]
                with open(os.path.join(proc, pid, "comm"), encoding="utf-8") as handle:
                    return handle.read().strip(), int(pid)
        except OSError:  # the process has ended meanwhile
            continue
    return None


def descends_from(pid: int, ancestor: int, proc: str = "/proc") -> bool:
    """Whether a process is this ancestor or a descendant of it: so a process of a container, by the container's first process."""
    seen = set()
    while pid > 1 and pid not in seen:
        if pid == ancestor:
            return True
        seen.add(pid)
        try:
            with open(os.path.join(proc, str(pid), "stat"), encoding="utf-8", errors="replace") as handle:
                # The name stands in brackets and may hold blanks; state and parent follow it.
                pid = int(handle.read().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):  # the process has ended meanwhile
            return False
    return False


def _inodes(proc: str, family: str, port: int) -> Sequence[str]:
    try:
        with open(os.path.join(proc, "net", family), encoding="utf-8") as handle:
            rows = [line.split() for line in handle][1:]
    except OSError:
        return ()
    return [row[9] for row in rows if row[3] == LISTENING and int(row[1].rpartition(":")[2], 16) == port]
