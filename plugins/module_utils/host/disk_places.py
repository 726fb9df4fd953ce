# SPDX-License-Identifier: GPL-3.0-or-later
"""The disks that serving fills, with their free space: images and logs of the Docker Engine, weights, and our own files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Dict, List, Sequence, Tuple

# A disk is low where less than this part of it is free, or less than so many bytes on a very large one.
LOW_PART, LOW_BYTES = 0.05, 50 << 30
DOCKER, WEIGHTS, DATA = "docker", "weights", "data"


@dataclass(frozen=True)
class Disk:
    """place: what the folder is for. Bytes; free: for a user that is not root."""

    place: str
    folder: str
    free: int
    size: int
    device: int = 0

    @property
    def is_low(self) -> bool:
        return self.free < min(self.size * LOW_PART, LOW_BYTES)


def read_disks(places: Sequence[Tuple[str, str]]) -> List[Disk]:
    """places: (place, folder). A folder that does not exist counts as its nearest parent; one that cannot be read is left out."""
    found = []
    for place, folder in dict.fromkeys(places):
        there = folder
        while there and there != "/" and not os.path.isdir(there):
            there = os.path.dirname(there)
        try:
            seen = os.statvfs(there or "/")
            found.append(
                Disk(place, folder, seen.f_bavail * seen.f_frsize, seen.f_blocks * seen.f_frsize, os.stat(there or "/").st_dev)
            )
        except OSError:
            continue
    return [disk for disk in found if disk.size]


def describe_low(disks: Sequence[Disk]) -> List[str]:
    """A line for each disk that is nearly full, once for each file system."""
    low: Dict[int, List[Disk]] = {}
    for disk in disks:
        if disk.is_low:
            low.setdefault(disk.device, []).append(disk)
    return [
        "disk: {0} has {1:.1f} of {2:.1f} GiB free ({3}); ansible-playbook playbooks/prune.yml lists what can go".format(
            some[0].folder, some[0].free / (1 << 30), some[0].size / (1 << 30), ", ".join(sorted({disk.place for disk in some}))
        )
        for some in low.values()
    ]
