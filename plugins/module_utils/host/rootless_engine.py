# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rootless Docker Engine of this host may not do: publish ports below 1024, limit containers, let this host into its
networks.

Seen with Docker Engine 26.1, rootlesskit 1.1 and slirp4netns 1.2 on cgroup v1: rootlesskit publishes the ports, and binds them in
the host's network with the rights of its user. The bridges are in a network namespace of rootlesskit, so a packet from the host
to the address of a container leaves the host.
"""

from __future__ import annotations

import glob
import os
import shutil
from typing import Any, List, Mapping, Optional

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.docker import documents
from ansible_collections.anvil.serving.plugins.module_utils.host.docker_installation import DESKTOP, ROOTLESS, read_installation

# Where the kernel says which ports every user may bind, and the program that publishes the ports of a rootless Docker Engine.
UNPRIVILEGED, LOWEST_FREE = "/proc/sys/net/ipv4/ip_unprivileged_port_start", 1024
ROOTLESSKIT = "rootlesskit"
CAP_NET_BIND_SERVICE = 10
PORT_HINT = (
    "let every user bind it: sysctl -w net.ipv4.ip_unprivileged_port_start={0}; keep it in /etc/sysctl.d\n"
    "or permit it to rootlesskit: setcap cap_net_bind_service=ep $(command -v rootlesskit), and restart the Docker Engine"
)


def find_lowest_port(engine_info: Mapping[str, Any], proc: str = "/proc") -> int:
    """The lowest port that the Docker Engine may publish. 0: every port, or unknown."""
    if read_installation(engine_info) != ROOTLESS:
        return 0
    may = _may_bind(proc)
    if may is None or may:
        return 0
    return documents.read_number(_read(UNPRIVILEGED).partition("\n")[0]) if os.path.exists(UNPRIVILEGED) else LOWEST_FREE


def _may_bind(proc: str) -> Optional[bool]:
    """Whether rootlesskit may bind every port: by the rights of its process, else by those of its program. None: unknown."""
    rights = [right for right in map(_read_right, _list_processes(proc)) if right is not None]
    if rights:
        return any(rights)
    program = shutil.which(ROOTLESSKIT)
    if program is None:
        return None
    try:
        return bool(os.getxattr(os.path.realpath(program), "security.capability"))
    except OSError:
        return False


def _list_processes(proc: str) -> List[str]:
    return [
        os.path.dirname(path) for path in glob.iglob(os.path.join(proc, "[0-9]*", "comm")) if _read(path).strip() == ROOTLESSKIT
    ]


def _read_right(process: str) -> Optional[bool]:
    """Whether the process in the host's network may bind ports below 1024. None: it is the child in a user namespace of its own,
    whose rights are none on the host."""
    if _read(os.path.join(process, "uid_map")).split() != _read("/proc/self/uid_map").split():
        return None
    for line in _read(os.path.join(process, "status")).splitlines():
        name, _colon, value = line.partition(":")
        if name == "CapEff":
            return bool(int(value.strip() or "0", 16) >> CAP_NET_BIND_SERVICE & 1)
    return None


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as handle:
            return handle.read()
    except OSError:  # the process has ended, or belongs to another user
        return ""


def judge_engine(engine_info: Mapping[str, Any], lowest_port: int) -> List[Problem]:
    """What to know of a Docker Engine beside its GPUs: limits that it does not keep, and what it may not do without root."""
    info, kind = documents.read_info(engine_info), read_installation(engine_info)
    found = []
    unkept = [word for word, kept in (("memory", info["MemoryLimit"]), ("processes", info["PidsLimit"])) if not kept]
    if unkept:
        by_user = kind == ROOTLESS and info["CgroupDriver"] == "none"
        why = "it runs without root and without cgroups" if by_user else "the kernel has no such limit for it"
        hint = (
            "boot the host with cgroup v2, and delegate the controllers to the user: Delegate=cpu cpuset io memory pids in\n"
            "/etc/systemd/system/user@.service.d/delegate.conf"
            if by_user
            else "turn the controllers of cgroups on in the kernel, or do not set mem_limit and pids_limit"
        )
        what = "the Docker Engine keeps no limit of {0}: it accepts mem_limit and pids_limit and ignores them"
        found.append(Problem(what.format(" and ".join(unkept)), "Docker Engine", why, hint))
    if lowest_port:
        what = "the Docker Engine cannot publish ports below {0}".format(lowest_port)
        why = "rootlesskit publishes them, and may not bind them"
        hint = "publish ports from {0} on\nor ".format(lowest_port) + PORT_HINT.format(443)
        found.append(Problem(what, "Docker Engine", why, hint))
    if kind in (ROOTLESS, DESKTOP):
        what = "this host does not reach containers at their own addresses"
        why = "its networks are in a namespace or machine of their own; only published ports are on this host"
        hint = (
            "nothing for serves, and for a router with one replica and no edge: their ports are published\n"
            "replicas behind an edge are watched and not asked; playbooks/router_status.yml shows what the edge says of them"
        )
        found.append(Problem(what, "Docker Engine", why, hint))
    return found
