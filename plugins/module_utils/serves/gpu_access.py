# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether running containers still reach their GPUs: one question inside each container that may have lost them.

With cgroup v2, the systemd cgroup driver and the legacy runtime hook, ``systemctl daemon-reload`` takes the GPUs away from
running containers (NVIDIA/nvidia-container-toolkit issues 48 and 1227): systemd writes the device rules anew and knows nothing
of those that the hook added. What is loaded goes on; the next CUDA context fails. A new container has its GPUs again.
"""

from __future__ import annotations

import os
import stat
import threading
from typing import Dict, Mapping, Optional

from ansible_collections.anvil.serving.plugins.module_utils.docker.connection import is_local
from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import parse_moment
from ansible_collections.anvil.serving.plugins.module_utils.docker.containers import CommandResult
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import ObservedContainer

# Seconds for the answers of all containers together. nvidia-smi takes seconds where persistence mode is off.
PATIENCE = 5.0
# systemd removes and writes these folders at each reload, so their time is that of the last one.
SYSTEMD, GENERATORS = "/run/systemd/system", ("/run/systemd/generator", "/run/systemd/generator.late")
PROC, CGROUPS = "/proc", "/sys/fs/cgroup"
# Opens the device nodes; nvidia-smi answers where there are none (WSL2).
QUESTION = (
    "export LC_ALL=C; found=; "
    "for node in /dev/nvidiactl /dev/nvidia[0-9]*; do "
    '[ -c "$node" ] || continue; found=1; said=$( (exec 3<>"$node") 2>&1) || { echo "$said"; exit 3; }; '
    'done; [ -n "$found" ] && exit 0; '
    "command -v nvidia-smi >/dev/null 2>&1 || exit 4; exec nvidia-smi -L"
)
# What is certain. Anything else (no shell, no permission for the container's user, a driver that was updated) is unknown.
LOST = ("Operation not permitted", "Failed to initialize NVML: Unknown Error", "No devices were found")


def is_suspect(docker: DockerEngine, seen: ObservedContainer) -> bool:
    """Whether a container may have lost its GPUs, by what costs no request.

    Its cgroup denies the device; or systemd was reloaded after the container was started, as far as that can be known. Without
    systemd, anything may have written the device rules anew: where they cannot be read (cgroup v2), the container is asked.
    """
    if not is_local(docker.docker_host):
        return False
    denied = is_device_denied(seen.pid)
    if denied or not os.path.isdir(SYSTEMD):
        return denied is not False
    times = [os.stat(path).st_mtime for path in GENERATORS if os.path.isdir(path)]
    return not times or max(times) > (parse_moment(seen.started_at) or 0.0)


def is_device_denied(pid: int) -> Optional[bool]:
    """Whether the cgroup of a process denies it NVIDIA's control device. False too where it has no such device; None: unknown."""
    try:
        node = os.lstat("{0}/{1}/root/dev/nvidiactl".format(PROC, pid))
        if not stat.S_ISCHR(node.st_mode):
            return False
        with open("{0}/{1}/cgroup".format(PROC, pid), encoding="ascii", errors="replace") as handle:
            paths = [line.rstrip("\n").split(":", 2)[2] for line in handle if line.split(":", 2)[1] == "devices"]
    except (OSError, IndexError):
        return False
    try:
        with open("{0}/devices{1}/devices.list".format(CGROUPS, paths[0]), encoding="ascii", errors="replace") as handle:
            return not is_allowed(handle.read(), os.major(node.st_rdev), os.minor(node.st_rdev))
    except (OSError, IndexError):
        return None


def is_allowed(rules: str, major: int, minor: int) -> bool:
    """Whether the rules of a cgroup (the text of ``devices.list``) let its processes read and write a character device."""
    for rule in rules.splitlines():
        kind, _space, rest = rule.partition(" ")
        numbers, _space, access = rest.partition(" ")
        first, _colon, second = numbers.partition(":")
        named = first in ("*", str(major)) and second in ("*", str(minor))
        if kind in ("a", "c") and named and {"r", "w"} <= set(access):
            return True
    return False


def judge_output(result: Optional[CommandResult]) -> str:
    """The evidence that the GPUs are lost, in one line; empty where they are there, or where nothing is certain."""
    if result is None or result.exit_code == 0:
        return ""
    lines = [line.strip() for line in result.output.splitlines() if any(word in line for word in LOST)]
    return lines[0] if lines else ""


def find_lost(docker: DockerEngine, containers: Mapping[str, ObservedContainer]) -> Dict[str, str]:
    """Ask containers (by the name of their serve) at the same time; returns the evidence of each that has lost its GPUs.

    A container that does not answer within ``PATIENCE`` is not among them.
    """
    found: Dict[str, str] = {}

    def ask(name: str, container: str) -> None:
        evidence = judge_output(docker.ask_inside(container, ["sh", "-c", QUESTION], PATIENCE))
        if evidence:
            found[name] = evidence

    threads = [threading.Thread(target=ask, args=(name, seen.id), daemon=True) for name, seen in containers.items()]
    docker.api_version  # noqa: B018  (asked once, before the threads need it)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    return dict(found)
