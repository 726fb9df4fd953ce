# SPDX-License-Identifier: GPL-3.0-or-later
"""The servers behind the edge and its clients, as HAProxy's ``show stat`` and ``show table`` list them. Pure."""

from __future__ import annotations

import csv
import re
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


@dataclass(frozen=True)
class ClientUse:
    """What a client did since the edge was reloaded. admitted: requests that its limits let pass."""

    name: str
    requests: int
    admitted: int
    in_flight: int


def parse_clients(text: str) -> List[ClientUse]:
    """The clients in an answer to ``show table clients``, by name."""
    found = []
    for line in text.splitlines():
        fields = dict(re.findall(r"(\w+)(?:\(\d+\))?=(\S+)", line))
        if "key" in fields:
            counts = (int(fields.get(name, 0)) for name in ("http_req_cnt", "gpc0", "conn_cur"))
            found.append(ClientUse(fields["key"], *counts))
    return sorted(found, key=lambda client: client.name)
