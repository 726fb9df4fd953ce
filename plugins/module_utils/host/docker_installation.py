# SPDX-License-Identifier: GPL-3.0-or-later
"""How the Docker Engine of a host is installed: as a package, as a snap, rootless, or as Docker Desktop; and where it then reads
its daemon.json and how it is restarted.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Mapping, Tuple

PACKAGE, SNAP, ROOTLESS, DESKTOP = "package", "snap", "rootless", "docker_desktop"
DEFAULT_DAEMON_JSON = "/etc/docker/daemon.json"
SNAP_DAEMON_JSON = "/var/snap/docker/current/config/daemon.json"
# They exist where the program is installed, whether or not it runs.
DESKTOP_PLACES = ("/mnt/wsl/docker-desktop", "/opt/docker-desktop")
SNAP_PLACE = "/var/snap/docker/current"


@dataclass(frozen=True)
class Installation:
    """daemon_json: empty where the Docker Engine reads no such file of this host. restart: a command line; empty: the default of
    the host."""

    kind: str
    daemon_json: str = DEFAULT_DAEMON_JSON
    restart: Tuple[str, ...] = ()
    pid_file: str = "/var/run/docker.pid"


def read_installation(engine_info: Mapping[str, Any]) -> str:
    """The kind of a Docker Engine, from its own description; ``package`` is every other one."""
    if engine_info.get("OperatingSystem") == "Docker Desktop":
        return DESKTOP
    if "name=rootless" in (engine_info.get("SecurityOptions") or ()):
        return ROOTLESS
    return SNAP if str(engine_info.get("DockerRootDir") or "").startswith("/var/snap/") else PACKAGE


def find_installation() -> str:
    """The kind of a Docker Engine that does not answer; empty where none is known to be installed."""
    if any(os.path.exists(place) for place in DESKTOP_PLACES):
        return DESKTOP
    return SNAP if os.path.exists(SNAP_PLACE) else ""


def describe_installation(kind: str) -> Installation:
    if kind == DESKTOP:
        return Installation(kind, daemon_json="")
    if kind == SNAP:
        return Installation(kind, SNAP_DAEMON_JSON, ("snap", "restart", "docker"), "/run/snap.docker/docker.pid")
    if kind == ROOTLESS:
        folder = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
        path = os.path.join(folder, "docker", "daemon.json")
        pid_file = os.path.join(os.environ.get("XDG_RUNTIME_DIR") or "/run/user/{0}".format(os.getuid()), "docker.pid")
        return Installation(kind, path, ("systemctl", "--user", "restart", "docker"), pid_file)
    return Installation(kind)
