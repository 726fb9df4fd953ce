# SPDX-License-Identifier: GPL-3.0-or-later
"""Free space of a disk while something is written to it: how much is left, and whether what is still to come fits."""

from __future__ import annotations

import os
from typing import Optional

MIB = 1 << 20
# What stays free where nothing is known of the size of what comes, and nothing else was asked for (bytes).
LEAST_FREE = 64 * MIB


def count_free_bytes(folder: str) -> int:
    """Free bytes for this user on the file system of a folder, which need not exist yet."""
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    seen = os.statvfs(folder)
    return seen.f_bavail * seen.f_frsize


def find_shortage(left: Optional[int], free: int, reserve: int) -> int:
    """How many bytes are missing; 0 where what is still to come fits.

    left: bytes that are still to come; None: unknown. reserve: bytes that are to stay free. A hundredth and 1 MiB are tolerated:
    a file system needs some room of its own, and a size that is still in memory is not yet taken from the disk.
    """
    if left is None:
        return max(0, max(reserve, LEAST_FREE) - free)
    short = left + reserve - free
    return short if short > MIB + left // 100 else 0
