# SPDX-License-Identifier: GPL-3.0-or-later
"""Check ``anvil_router`` and decide every default of the router."""

from __future__ import annotations

from typing import Any, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import HOST_GATEWAY
from ansible_collections.anvil.serving.plugins.module_utils.plan.edge_plan import SMALL_PIDS
from ansible_collections.anvil.serving.plugins.module_utils.plan.fleet import Fleet
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import ExternalPlan, RouterPlan, ServePlan, TierPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_audio import place_audio_tiers
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_backends import DEFAULT_CLIENT, FleetBackends
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_engines import read_memory, read_pids
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_publish import (
    PUBLISH_KEYS,
    read_paths,
    read_router_publish,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_purposes import sort_tiers
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_routing import (
    drop_stopped_tiers,
    read_generation,
    read_presets,
    read_profile,
    read_routes,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_secrets import InventorySecrets
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_tiers import (
    TierBackend,
    read_tiers,
    select_running_tiers,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    CONTAINER,
    CONTAINER_RULE,
    LONGEST_WAIT_SECONDS,
    NAME,
    InventoryCheck,
    is_loopback,
    read_image,
)

DEFAULT_PUBLISH = "127.0.0.1:8000"
MAX_REPLICAS = 4
# Its keys belong to the variable anvil_edge now.
MOVED_EDGE = "edge"
FILES_FROM = ("inventory", "promoted")
ROUTER_KEYS = (
    "image",
    "container",
    "volume",
    *PUBLISH_KEYS,
    "token",
    "tiers",
    "presets",
    "profile",
    "ready_timeout",
    "request_timeout",
    "mem_limit",
    "pids_limit",
    "replicas",
    "generation",
    "routes",
    "profile_from",
    "config_from",
    "client",
)


def _extra_hosts(tiers: Sequence[TierPlan]) -> Tuple[str, ...]:
    """Entries for ``/etc/hosts`` that the router's container needs to reach the host itself."""
    return (HOST_GATEWAY + ":host-gateway",) if any("//{0}:".format(HOST_GATEWAY) in tier.base_url for tier in tiers) else ()


def read_router(
    check: InventoryCheck,
    value: Any,
    named: Optional[Sequence[str]],
    serves: Sequence[TierBackend],
    secrets: InventorySecrets,
    fleet: Optional[Fleet] = None,
) -> Optional[RouterPlan]:
    """fleet: the other hosts, for tiers with backends; None: they are not asked, and such tiers are left out."""
    section = check.read_mapping(("anvil_router",), value, "anvil_router: {image: …, token: router_token}")
    if section is None:
        return None
    section.check_keys((*ROUTER_KEYS, MOVED_EDGE))
    if section.has(MOVED_EDGE):
        section.add_problem(
            MOVED_EDGE,
            "the edge is that of the host, not only of its router",
            "move these keys to the variable anvil_edge; instead of certificates, write "
            "tls: {certificate: /etc/anvil-tls/host.pem, key: /etc/anvil-tls/host.key}",
        )
    image = read_image(section)
    if not section.has("image"):
        check.add_problem(
            section.path_of("image"), "the router has no image", "set it to repository/name:tag or repository/name@sha256:…"
        )
    address = read_router_publish(section, DEFAULT_PUBLISH)
    token = section.raw.get("token")
    if token is None and "router_token" in (secrets.names or ()):
        token = "router_token"
    name = secrets.read_secret_name(section.path_of("token"), token)
    if address and not is_loopback(address[0]) and token is None and secrets.names is not None:
        check.add_problem(
            section.path_of("publish"),
            "the router is published on {0}, beyond loopback, without a token".format(address[0]),
            "set token: <name in anvil_secrets>, or publish: 127.0.0.1:PORT",
            "everyone who can reach the port could use every serve",
        )
    elif token is None and secrets.names is not None:
        check.add_note(section.path, "the router has no token, so every user of the host can use every serve")
    externals = {serve.name for serve in serves if isinstance(serve, ExternalPlan)}
    names = None if named is None else [*named, *externals]
    generation = read_generation(section, image or "")
    client = section.read_text("client", "the name of a client in anvil_clients of other hosts", NAME) or DEFAULT_CLIENT
    local = {serve.name: serve for serve in serves if isinstance(serve, ServePlan)}
    given = FleetBackends(fleet, client, secrets, local)
    every, found = read_tiers(section, names, {serve.name: serve for serve in serves}, given)
    sorted_tiers = sort_tiers(section, generation, every, found)
    ids, tiers, others = sorted_tiers.ids, sorted_tiers.chat, sorted_tiers.others
    running = select_running_tiers(section, tiers, serves)
    purposes = select_running_tiers(section, sorted_tiers.purposes, serves, required=False)
    placed = place_audio_tiers(section, sorted_tiers.audio, {serve.name: serve for serve in serves})
    audio = select_running_tiers(section, placed, serves, required=False)
    container = section.read_text("container", CONTAINER_RULE, CONTAINER) or "anvil-router"
    routes = read_routes(section, generation, ids, others)
    return RouterPlan(
        image=image or "",
        container=container,
        volume=section.read_text("volume", "the name of a volume: " + CONTAINER_RULE, CONTAINER) or "anvil-router-cfg",
        bind=address[0] if address else "127.0.0.1",
        port=address[1] if address else 0,
        token=name,
        tiers=running,
        presets=drop_stopped_tiers(read_presets(section, ids, others), tiers, running),
        profile=tuple(
            row for row in read_profile(section, ids, others) if row.tier_id in {tier.id for tier in running} or not tiers
        ),
        ready_timeout=section.read_integer("ready_timeout", 1, LONGEST_WAIT_SECONDS, "seconds") or 60,
        request_timeout=section.read_integer("request_timeout", 1, LONGEST_WAIT_SECONDS, "seconds") or 300,
        ca=next((serve.ca for serve in serves if isinstance(serve, ExternalPlan) and serve.ca), ""),
        replicas=section.read_integer("replicas", 1, MAX_REPLICAS) or 1,
        insecure=bool(section.read_boolean("insecure")),
        paths=read_paths(section),
        extra_hosts=_extra_hosts((*running, *purposes, *audio)),
        generation=generation,
        profile_from=section.read_choice("profile_from", FILES_FROM) or "promoted",
        config_from=section.read_choice("config_from", FILES_FROM) or "promoted",
        mem_limit=read_memory(section) or "",
        pids_limit=read_pids(section) or SMALL_PIDS,
        routes={name: tier for name, tier in routes.items() if tier in {tier.id for tier in running} or not tiers},
        purposes=purposes,
        audio=audio,
    )
