# SPDX-License-Identifier: GPL-3.0-or-later
"""The memory of this host, which some GPUs share with its processors."""

from __future__ import annotations

import re
from typing import Optional


def parse_available_mib(text: str) -> Optional[int]:
    """What /proc/meminfo reports as available, in MiB: free memory and the caches that the kernel can give back."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) // 1024 if found else None


def read_available_mib() -> Optional[int]:
    """MiB that programs can still take; None: unknown."""
    try:
        with open("/proc/meminfo", encoding="utf-8") as handle:
            return parse_available_mib(handle.read())
    except OSError:
        return None
