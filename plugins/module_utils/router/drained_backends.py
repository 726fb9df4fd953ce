# SPDX-License-Identifier: GPL-3.0-or-later
"""Which backends of tiers are drained: a mark at their lines in the edge's configuration, which a promotion keeps. Pure."""

from __future__ import annotations

import re
from typing import Collection, Dict, List, Set

MARK = " disabled"
# ``server HOST:SERVE …``: no other server of an edge has a colon in its name.
SERVER = re.compile(r"    server (([^\s:]+):\S+) .*")


def mark_drained(config: str, names: Collection[str]) -> str:
    """The configuration in which exactly these backends get no request."""

    def mark(line: str) -> str:
        found = SERVER.fullmatch(line)
        if not found:
            return line
        return (line[: -len(MARK)] if line.endswith(MARK) else line) + (MARK if found[1] in names else "")

    return "\n".join(mark(line) for line in config.split("\n"))


def list_drained(config: str) -> Set[str]:
    """The backends that are marked as drained."""
    found = (SERVER.fullmatch(line) for line in config.split("\n") if line.endswith(MARK))
    return {match[1] for match in found if match}


def list_backends(config: str) -> Dict[str, List[str]]:
    """Host -> its backends in tiers over hosts."""
    hosts: Dict[str, List[str]] = {}
    for line in config.split("\n"):
        found = SERVER.fullmatch(line)
        if found and found[1] not in hosts.setdefault(found[2], []):
            hosts[found[2]].append(found[1])
    return hosts
