# SPDX-License-Identifier: GPL-3.0-or-later
"""Check ``anvil_router`` and decide every default of the router."""

from __future__ import annotations

import re
from typing import Any, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import HOST_GATEWAY
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import SMALL_PIDS, ExternalPlan, RouterPlan, TierPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_audio import place_audio_tiers
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_edge import read_edge
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_engines import read_memory, read_pids
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
    UNREAD,
    InventoryCheck,
    Section,
    describe_value,
    is_loopback,
    read_address,
    read_image,
    shorten,
)

DEFAULT_PUBLISH = "127.0.0.1:8000"
FILES_FROM = ("inventory", "promoted")
ROUTER_KEYS = (
    "image",
    "container",
    "volume",
    "publish",
    "token",
    "tiers",
    "presets",
    "profile",
    "ready_timeout",
    "request_timeout",
    "mem_limit",
    "pids_limit",
    "replicas",
    "edge",
    "generation",
    "routes",
    "profile_from",
    "config_from",
)


def _read_publish(section: Section) -> Optional[Tuple[str, int]]:
    """Where clients reach the router: (address, port)."""
    value = section.raw.get("publish", DEFAULT_PUBLISH)
    value = DEFAULT_PUBLISH if value is None else value
    path, rule = section.path_of("publish"), "use address:port, such as " + DEFAULT_PUBLISH
    if value is UNREAD:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        section.check.add_problem(path, "must be text, not {0}".format(describe_value(value)), rule)
        return None
    head, _colon, tail = str(value).rpartition(":")
    if not head or not re.fullmatch(r"[0-9]{1,7}", tail) or (":" in head and not re.fullmatch(r"\[.*\]", head)):
        section.check.add_problem(path, "{0!r} is not an address and a port".format(shorten(str(value))), rule)
        return None
    bind = read_address(section.check, path, head)
    if not 1 <= int(tail) <= 65535:
        section.check.add_problem(path, "port {0} is out of range".format(tail), "use a port from 1 to 65535")
        return None
    return (bind, int(tail)) if bind else None


def _extra_hosts(tiers: Sequence[TierPlan]) -> Tuple[str, ...]:
    """Entries for ``/etc/hosts`` that the router's container needs to reach the host itself."""
    return (HOST_GATEWAY + ":host-gateway",) if any("//{0}:".format(HOST_GATEWAY) in tier.base_url for tier in tiers) else ()


def read_router(
    check: InventoryCheck, value: Any, named: Optional[Sequence[str]], serves: Sequence[TierBackend], secrets: InventorySecrets
) -> Optional[RouterPlan]:
    section = check.read_mapping(("anvil_router",), value, "anvil_router: {image: …, token: router_token}")
    if section is None:
        return None
    section.check_keys(ROUTER_KEYS)
    image = read_image(section)
    if not section.has("image"):
        check.add_problem(
            section.path_of("image"), "the router has no image", "set it to repository/name:tag or repository/name@sha256:…"
        )
    address = _read_publish(section)
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
    every, found = read_tiers(section, names, {serve.name: serve for serve in serves})
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
        edge=read_edge(section, container, generation),
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
