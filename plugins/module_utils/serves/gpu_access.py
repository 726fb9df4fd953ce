# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether running containers still reach their GPUs: one question inside each container that may have lost them.

With cgroup v2, the systemd cgroup driver and the legacy runtime hook, ``systemctl daemon-reload`` takes the GPUs away from
running containers (NVIDIA/nvidia-container-toolkit issues 48 and 1227): systemd writes the device rules anew and knows nothing
of those that the hook added. What is loaded goes on; the next CUDA context fails. A new container has its GPUs again.
"""

from __future__ import annotations

import os
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
    """Whether systemd was reloaded after the container was started, as far as that can be known. Costs no request."""
    if not is_local(docker.docker_host) or not os.path.isdir(SYSTEMD):
        return False
    times = [os.stat(path).st_mtime for path in GENERATORS if os.path.isdir(path)]
    return not times or max(times) > (parse_moment(seen.started_at) or 0.0)


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
