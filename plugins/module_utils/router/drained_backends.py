# SPDX-License-Identifier: GPL-3.0-or-later
"""Which backends of tiers are drained: a mark at their lines in the edge's configuration, which a promotion keeps. Pure."""

from __future__ import annotations

import re
from typing import Dict, List, Mapping

DRAINED, TEMPORARY = " disabled", " disabled # until its host has had its turn"
# ``server HOST:SERVE …``: no other server of an edge has a colon in its name.
SERVER = re.compile(r"(    server (([^\s:]+):\S+) .*?)( disabled( #.*)?)?")


def mark_drained(config: str, marks: Mapping[str, str]) -> str:
    """The configuration in which exactly these backends get no request. marks: backend -> DRAINED or TEMPORARY."""

    def mark(line: str) -> str:
        found = SERVER.fullmatch(line)
        return found[1] + marks.get(found[2], "") if found else line

    return "\n".join(mark(line) for line in config.split("\n"))


def list_drained(config: str) -> Dict[str, str]:
    """The backends that are marked as drained, each with its mark."""
    found = (SERVER.fullmatch(line) for line in config.split("\n"))
    return {match[2]: TEMPORARY if match[5] else DRAINED for match in found if match and match[4]}


def list_kept(config: str) -> Dict[str, str]:
    """The marks that a promotion of another configuration keeps: those of operators."""
    return {name: mark for name, mark in list_drained(config).items() if mark == DRAINED}


def list_backends(config: str) -> Dict[str, List[str]]:
    """Host -> its backends in tiers over hosts."""
    hosts: Dict[str, List[str]] = {}
    for line in config.split("\n"):
        found = SERVER.fullmatch(line)
        if found and found[2] not in hosts.setdefault(found[3], []):
            hosts[found[3]].append(found[2])
    return hosts
