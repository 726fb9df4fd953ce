# SPDX-License-Identifier: GPL-3.0-or-later
"""The disk on which the Docker Engine keeps images: whether it is about to be full, asked while an image is pulled or built."""

from __future__ import annotations

import os
from typing import Any, List, Mapping

from ansible_collections.anvil.serving.plugins.module_utils.core.disk_space import count_free_bytes
from ansible_collections.anvil.serving.plugins.module_utils.docker.connection import is_local

# A Docker Engine without any room can neither start containers nor write their logs (bytes).
STAYS_FREE = 256 << 20
CONTAINERD = "/var/lib/containerd"


class EngineDisk:
    """folders: where the Docker Engine writes images; none where it runs on another machine, or keeps them out of sight."""

    def __init__(self, docker_host: str, info: Mapping[str, Any]) -> None:
        places: List[str] = [str(info.get("DockerRootDir") or "")]
        if "io.containerd.snapshotter" in str(info.get("DriverStatus") or ""):
            places.append(CONTAINERD)
        self.folders = [place for place in places if place and is_local(docker_host) and os.path.isdir(place)]

    def describe_shortage(self) -> str:
        """Why nothing more can be written; empty where there is room."""
        for folder in self.folders:
            free = count_free_bytes(folder)
            if free < STAYS_FREE:
                text = "no space left for it: {0} MiB are free in {1}, and {2} MiB are to stay free"
                return text.format(free >> 20, folder, STAYS_FREE >> 20)
        return ""
