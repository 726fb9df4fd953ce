# SPDX-License-Identifier: GPL-3.0-or-later
"""Check how a serve or a router is published: ``publish``, ``insecure``, ``paths``. Beyond loopback only the edge listens."""

from __future__ import annotations

import re
from typing import Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.public_routes import Route
from ansible_collections.anvil.serving.plugins.module_utils.core.addresses import addresses_overlap
from ansible_collections.anvil.serving.plugins.module_utils.plan.edge_plan import Published
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    UNREAD,
    Section,
    describe_value,
    is_loopback,
    read_address,
    shorten,
)

PUBLISH_KEYS = ("publish", "insecure", "paths")
ROUTE = re.compile(r"(GET|HEAD|POST|PUT|PATCH|DELETE) (/[A-Za-z0-9._~!$&'()*+,=:@/-]*)")
ROUTE_RULE = "a method and a path, such as POST /tokenize; without query, %-escapes, // and dots as a folder"
LOOPBACK = "127.0.0.1"


def split_address(
    section: Section, value: str, port: Optional[int], rule: str, key: str = "publish"
) -> Optional[Tuple[str, int]]:
    """``ADDRESS:PORT``, or ``ADDRESS`` where a port is known otherwise: (address, port). key: the key that holds it."""
    path, head, tail = section.path_of(key), value, str(port)
    if re.fullmatch(r"\[.*\]:[^:]*|[^:\[\]]*:[^:]*", value):
        head, _colon, tail = value.rpartition(":")
    elif port is None:
        tail = ""
    if not head or not re.fullmatch(r"[0-9]{1,7}", tail):
        section.check.add_problem(path, "{0!r} is not an address and a port".format(shorten(value)), rule)
        return None
    bind = read_address(section.check, path, head)
    if not 0 <= int(tail) <= 65535 or (tail == "0" and port is None):
        section.check.add_problem(path, "port {0} is out of range".format(tail), "use a port from 1 to 65535")
        return None
    return (bind, int(tail)) if bind else None


def read_paths(section: Section) -> Tuple[Route, ...]:
    """The requests that pass an edge besides those that it knows."""
    found = []
    listed = section.check.read_list(section.path_of("paths"), section.raw.get("paths"), 'paths: ["POST /tokenize"]')
    for path, value in listed or ():
        text = section.check.match_text(path, value, ROUTE, ROUTE_RULE)
        match = ROUTE.fullmatch(text or "")
        if match and ("//" in match[2] or any(part in (".", "..") for part in match[2].split("/"))):
            section.check.add_problem(path, "{0!r} is not valid".format(shorten(text or "")), "use " + ROUTE_RULE)
        elif match:
            found.append((match[1], match[2]))
    return tuple(dict.fromkeys(found))


def read_serve_publish(section: Section, port: int, can_be_asked: bool, key_hint: str) -> Tuple[str, Optional[Published]]:
    """Where the serve itself listens on its host (loopback), and where the edge does for it (None: nowhere).

    can_be_asked: an edge can tell its clients, by ``api_key`` or by ``anvil_clients``; key_hint: how to make it so.
    """
    insecure, paths = bool(section.read_boolean("insecure")), read_paths(section)
    value = section.raw.get("publish")
    address = None
    if value is not None and value is not UNREAD:
        rule = "an IP address of this host, such as 10.0.0.5, or one with the port of the edge, such as 10.0.0.5:30102"
        text = section.read_text("publish", rule)
        address = split_address(section, text, port, "use " + rule) if text else None
    bind, outer = address or (LOOPBACK, port)
    if is_loopback(bind):
        for key in ("insecure", "paths"):
            if section.has(key):
                section.add_note(key, "it has no effect: the serve is not published beyond loopback")
        if outer != port:
            what = "a serve on loopback listens on its own port, {0}".format(port)
            section.add_problem("publish", what, "write the address without a port")
        return bind, None
    if not can_be_asked:
        what = "the serve is published on {0}, beyond loopback, without an API key".format(bind)
        section.add_problem("publish", what, key_hint, "everyone who can reach the port could use the GPU")
    if outer == port and addresses_overlap(bind, LOOPBACK):
        section.add_problem(
            "publish",
            "{0} includes {1}:{2}, where the serve itself listens".format(bind, LOOPBACK, port),
            'write the address of this host that clients use, such as publish: "10.0.0.5", or another port for the edge, such as '
            'publish: "{0}:{1}"'.format(bind, port + 100 if port + 100 < 65536 else port - 100),
            "the edge publishes a serve beyond loopback, and the serve stays on loopback",
        )
    return LOOPBACK, Published(bind, outer, insecure, paths)


def read_router_publish(section: Section, default: str) -> Optional[Tuple[str, int]]:
    """Where clients reach the router: (address, port)."""
    value = section.raw.get("publish")
    value = default if value is None else value
    rule = "use address:port, such as " + default
    if value is UNREAD:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        section.add_problem("publish", "must be text, not {0}".format(describe_value(value)), rule)
        return None
    return split_address(section, str(value), None, rule)
