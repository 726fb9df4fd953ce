# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs in a container of an image that was built: prints the packages in it as one line of JSON.

Distribution packages are read from dpkg's list, Python packages from the folders that hold ``*.dist-info``.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Dict, List, Tuple

STATUS = "/var/lib/dpkg/status"
SKIPPED = ("/proc", "/sys", "/dev", "/tmp")


def read_headers(path: str) -> Dict[str, str]:
    """The first lines of a file, as ``Name: value``, up to the first empty line."""
    found: Dict[str, str] = {}
    with open(path, encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if not line.strip():
                break
            name, colon, value = line.partition(":")
            if colon and not line.startswith((" ", "\t")):
                found.setdefault(name, value.strip())
    return found


def list_distribution() -> List[Tuple[str, str, str]]:
    try:
        with open(STATUS, encoding="utf-8", errors="replace") as handle:
            blocks = handle.read().split("\n\n")
    except OSError:
        return []
    found = []
    for block in blocks:
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and not line.startswith(" "))
        if fields.get("Package") and "installed" in fields.get("Status", "installed"):
            found.append(("deb", fields["Package"], fields.get("Version", "")))
    return found


def list_python() -> List[Tuple[str, str, str]]:
    found = set()
    for place, folders, _files in os.walk("/"):
        folders[:] = [name for name in folders if os.path.join(place, name) not in SKIPPED]
        for name in folders:
            if name.endswith(".dist-info"):
                try:
                    headers = read_headers(os.path.join(place, name, "METADATA"))
                except OSError:
                    continue
                if headers.get("Name"):
                    found.add(("pypi", headers["Name"], headers.get("Version", "")))
    return sorted(found)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(list_distribution() + list_python()) + "\n")
