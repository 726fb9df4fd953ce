# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Render the plan of an edge: HAProxy's configuration, and its maps of clients. Pure; no file holds a secret."""

from __future__ import annotations

import hashlib
import math
from dataclasses import asdict
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.plan.edge_plan import MONITORING, EdgePlan, FrontPlan, TierFront
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_backends import is_address
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_clients import name_front
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_edge import METRICS_PORT, PLAIN_PORT
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_layout import (
    CA_NAME,
    CONFIG_FOLDER,
    SOCKET_PATH,
    WATCH_MOUNT,
    WATCH_SOCKET,
    name_certificate,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.templating import render_template

# Seconds that the edge waits beyond the time that a tier may take for one answer.
EDGE_MARGIN = 30
# Bytes: HAProxy's buffer; a body that is certainly in it as a whole, and the same where the client does not say its length.
BUFFER, READABLE, READABLE_UNSIZED = 1024 * 1024, 900_000, 256 * 1024
# Seconds: headers, and a body that fits the buffer, must have arrived.
HEADER_TIMEOUT, BODY_TIMEOUT = 10, 30
# Without a router: seconds for one answer of a serve.
ANSWER_TIMEOUT = 300

_TEXT = r'"(?:[^"\\]++|\\(?s:.))*+"'
_OTHER_KEY = r'"(?!model")[^"\\]*+"'
_VALUE = (
    r'(?<v>\s*+(?:' + _TEXT + r'|[^][{}",:\s]++|(?<b>[{[](?:[^][{}"]++|' + _TEXT + r'|(?&b))*+[]}]))\s*+)'
)  # fmt: skip
# A whole JSON object whose top level has the key "model" exactly once, with a text without escapes, and no key with escapes. The
# body must match: whatever HAProxy's regular expressions give up on (depth, size) is refused.
ONE_MODEL = (
    r'^\s*+\{(?:\s*+' + _OTHER_KEY + r'\s*+:' + _VALUE + r',)*+\s*+"model"\s*+:\s*+"[^"\\]++"\s*+(?:,\s*+' + _OTHER_KEY
    + r'\s*+:(?&v))*+\}\s*+$'
)  # fmt: skip


def render_edge_config(plan: HostPlan, edge: EdgePlan) -> str:
    """haproxy.cfg of the edge."""
    router = plan.router
    values = {
        "socket": SOCKET_PATH,
        "shared": CONFIG_FOLDER,
        "private": CONFIG_FOLDER + "/private",
        "longest": (router.request_timeout if router else ANSWER_TIMEOUT) + EDGE_MARGIN,
        "buffer": BUFFER,
        "header_timeout": HEADER_TIMEOUT,
        "body_timeout": BODY_TIMEOUT,
        "readable": READABLE,
        "readable_unsized": READABLE_UNSIZED,
        "one_model": ONE_MODEL,
        "limits": edge.limits,
        "fronts": [_lay_out_front(edge, front) for front in edge.fronts],
        "check_path": "/v1/health/tiers" if edge.check_tiers else "/healthz",
        "check_token": edge.check_tiers and bool(router and router.token),
        "router_key": bool(router and router.token),
        "replicas": edge.replicas,
        "serves": _lay_out_serves(edge),
        "address": edge.address,
        "tiers": [_lay_out_tier(edge, tier) for tier in edge.tiers],
        "locals": edge.locals,
        "metrics_port": METRICS_PORT if edge.metrics else 0,
        "watch_socket": f"{WATCH_MOUNT}/{WATCH_SOCKET}" if edge.find_front(MONITORING) else "",
    }

    def lay_out(revision: str) -> str:
        return render_template("edge/haproxy.cfg.j2", plan=plan, edge={**values, "revision": revision})

    # The running process reports this hash (show info), which proves that it has read this file.
    return lay_out(hashlib.sha256(lay_out("").encode()).hexdigest())


def _lay_out_serves(edge: EdgePlan) -> list[dict[str, Any]]:
    """The backends of single serves: those that are published, and those that only the tiers of this host use."""
    targets = {front.backend: (front.key, front.serve) for front in edge.fronts if front.serve}
    targets = {**{one.backend: (one.key, one.serve) for one in edge.locals}, **targets}
    return [
        {
            "backend": backend,
            "has_key": bool(key),
            "server_options": " ssl verify none" if serve.tls else "",
            **asdict(serve),
        }
        for backend, (key, serve) in targets.items()
    ]


def _lay_out_tier(edge: EdgePlan, tier: TierFront) -> dict[str, Any]:
    """A tier over hosts, with its backends as HAProxy's servers."""
    ports = {one.backend: one.inner_port for one in edge.locals}
    servers = []
    for one in tier.backends:
        address, options = f"{one.address}:{one.port}", ""
        if not one.address:
            address = f"127.0.0.1:{ports[name_front(one.serve)]}"
        elif one.server_name:
            names = f"sni str({one.server_name}) check-sni {one.server_name} verifyhost {one.server_name}"
            options = f" ssl verify required ca-file {CONFIG_FOLDER}/{CA_NAME} {names} alpn http/1.1"
        # A name is asked again all the time; an address needs no question.
        named = bool(one.address) and not is_address(one.address)
        options += " resolvers hosts init-addr libc,none" if named else ""
        servers.append({"name": one.name, "address": address, "options": options, "max_requests": one.max_requests})
    return {
        "name": tier.name,
        "tier": tier.tier,
        "inner_port": tier.inner_port,
        "has_key": bool(tier.key),
        "queue": tier.queue,
        "slow_start": tier.slow_start,
        "servers": servers,
    }


def _lay_out_front(edge: EdgePlan, front: FrontPlan) -> dict[str, Any]:
    """A front end, with its paths grouped by the methods that they take."""
    methods: dict[str, list[str]] = {}
    for method, path in front.routes:
        methods.setdefault(path, []).append(method)
    groups: dict[tuple[str, ...], list[str]] = {}
    for path, allowed in methods.items():
        groups.setdefault(tuple(allowed), []).append(path)
    routes = [
        {"number": number, "methods": " ".join(allowed), "allow": ", ".join(allowed), "paths": paths}
        for number, (allowed, paths) in enumerate(groups.items())
    ]
    secure = "".join(f" crt {name_certificate(number)}" for number in range(len(edge.certificates)))
    return {
        **asdict(front),
        "routes": routes,
        "origins": edge.origins,
        "bind_options": f" ssl{secure} alpn h2,http/1.1" if front.tls else "",
        # Containers of this host reach the router without TLS: no certificate names the edge's container.
        "plain_port": PLAIN_PORT if front.tls and not front.serve else 0,
    }


def render_edge_maps(edge: EdgePlan) -> dict[str, str]:
    """The files beside haproxy.cfg: what each client may use, and how much. File -> text."""
    clients = edge.clients
    limited = [(client.name, client.requests_per_minute) for client in clients if client.requests_per_minute]
    names = [client.name for client in clients]
    files = {
        "access.map": [f"{client.name}@{front} {kind}" for client in clients for front, kind in sorted(client.access.items())],
        "models.map": [f"{client.name}@{model} 1" for client in clients for model in client.models],
        "rates.map": [f"{name} {rate}" for name, rate in limited],
        # Seconds until the next request may pass, if a client sends at its highest rate.
        "pauses.map": [f"{name} {math.ceil(60 / rate)}" for name, rate in limited],
        "concurrency.map": [f"{one.name} {one.concurrent_requests}" for one in clients if one.concurrent_requests],
    }
    if edge.metrics or edge.find_front(MONITORING):
        files["clients.txt"] = [line for metric in METRICS.items() for line in _lay_out_metric(*metric, names)]
    return {name: "".join(line + "\n" for line in lines) for name, lines in files.items()}


# Metric -> (type, help, column of the table of clients)
METRICS = {
    "anvil_edge_client_requests_total": ("counter", "Requests of a client since the last reload", "http_req_cnt"),
    "anvil_edge_client_admitted_total": ("counter", "Requests of a client that its limits let pass", "gpc0"),
    "anvil_edge_client_requests_in_flight": ("gauge", "Requests of a client at this moment", "conn_cur"),
    "anvil_edge_client_sent_kib_total": ("counter", "KiB sent to a client since the last reload", "kbytes_out"),
}


def _lay_out_metric(name: str, described: tuple[str, str, str], clients: list[str]) -> list[str]:
    kind, text, column = described
    rows = [f'{name}{{client="{client}"}} %[str({client}),table_{column}(clients)]' for client in clients]
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *rows]


def describe_edge(plan: HostPlan, edge: EdgePlan) -> dict[str, Any]:
    """The parameters of ``anvil_router_edge``. Secrets appear by name: ``clients`` and ``servers`` say which, and for what."""
    return {
        "container": edge.container,
        "image": edge.image,
        "volume": edge.volume,
        "writer_image": edge.writer_image,
        "config": render_edge_config(plan, edge),
        "maps": render_edge_maps(edge),
        "certificates": [asdict(each) for each in edge.certificates],
        "clients": {client.name: list(client.keys) for client in edge.clients},
        "servers": {
            **{one.backend: one.key for one in edge.locals if one.key},
            **{front.backend: front.key for front in edge.fronts if front.key},
            **{tier.name: tier.key for tier in edge.tiers if tier.key},
        },
        "ca": edge.ca,
    }
