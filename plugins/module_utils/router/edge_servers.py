# SPDX-License-Identifier: GPL-3.0-or-later
"""The servers behind the edge, as HAProxy's ``show stat`` lists them. Pure."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import List

UP, MAINT = "UP", "MAINT"


@dataclass(frozen=True)
class Server:
    """A replica as the edge sees it.

    status: HAProxy's word (UP, DOWN, MAINT, DRAIN, NOLB). sessions: requests in flight. queued: requests that wait for it.
    """

    name: str
    status: str
    sessions: int
    queued: int
    backend: str = ""


def parse_servers(text: str) -> List[Server]:
    """The servers in an answer to ``show stat``, by name. Raises ``ValueError`` for any other text."""
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines or not lines[0].startswith("# "):
        raise ValueError(text.strip()[:200] or "nothing")
    found = []
    for row in csv.DictReader([lines[0][2:], *lines[1:]]):
        if row.get("svname") in ("FRONTEND", "BACKEND", None):
            continue
        found.append(
            Server(
                name=str(row["svname"]),
                # "UP 2/3": it still gets requests, and has failed some checks
                status=str(row["status"]).split(" ", maxsplit=1)[0],
                sessions=int(row["scur"] or 0),
                queued=int(row["qcur"] or 0),
                backend=str(row["pxname"]),
            )
        )
    return sorted(found, key=lambda server: server.name)
