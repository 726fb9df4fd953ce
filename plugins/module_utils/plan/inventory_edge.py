# SPDX-License-Identifier: GPL-3.0-or-later
"""Check ``anvil_router.replicas`` and ``anvil_router.edge``: several routers behind HAProxy."""

from __future__ import annotations

import ipaddress
from typing import Optional

from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import SMALL_PIDS, EdgePlan, ReplicaPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_engines import read_memory, read_pids
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    ABSOLUTE,
    CONTAINER,
    CONTAINER_RULE,
    NO_SPACE,
    UNREAD,
    Section,
    read_image,
    shorten,
)

EDGE_HEALTH = ("process", "tiers")
DEFAULT_SUBNET = "10.87.213.0/28"
DEFAULT_EDGE_IMAGE = "anvil.local/edge:1"
MAX_REPLICAS = 4
EDGE_KEYS = ("image", "container", "subnet", "certificates", "health", "mem_limit", "pids_limit")


def read_edge(router: Section, container: str, generation: str) -> Optional[EdgePlan]:
    """The edge and the replicas behind it; None if the router is a single container."""
    count = router.read_integer("replicas", 1, MAX_REPLICAS) or 1
    check, path = router.check, router.path_of("edge")
    if count == 1:
        if router.has("edge") and router.raw["edge"] is not UNREAD and not router.has("replicas"):
            check.add_problem(path, "a router with one replica has no edge", "set replicas: 2, or remove edge")
        return None
    section = check.read_mapping(path, router.raw.get("edge"), "edge: {image: anvil.local/edge:1}") or Section(check, path, {})
    section.check_keys(EDGE_KEYS)
    subnet = _read_subnet(section, count)
    name = section.read_text("container", CONTAINER_RULE, CONTAINER) or container + "-edge"
    return EdgePlan(
        image=(read_image(section) if section.has("image") else DEFAULT_EDGE_IMAGE) or "",
        container=name,
        volume=name + "-cfg",
        network=container + "-edge",
        subnet=str(subnet),
        address=str(subnet.network_address + 2),
        certificates=(
            section.read_text("certificates", "an absolute path on the host, such as /etc/anvil-tls", ABSOLUTE) or ""
        ).rstrip("/"),
        # A gateway router answers 503 until its tiers were checked once; this health check triggers that.
        check_tiers=(section.read_choice("health", EDGE_HEALTH) or ("tiers" if generation == "gateway" else "process"))
        == "tiers",
        replicas=tuple(
            ReplicaPlan(
                service="router-{0}".format(number),
                container="{0}-{1}".format(container, number),
                address=str(subnet.network_address + 2 + number),
            )
            for number in range(1, count + 1)
        ),
        mem_limit=read_memory(section) or "",
        pids_limit=read_pids(section) or SMALL_PIDS,
    )


def _read_subnet(section: Section, replicas: int) -> ipaddress.IPv4Network:
    """The network of the edge and the replicas. The bridge has the first address; the last one is broadcast."""
    text = (
        section.read_text("subnet", "an IPv4 network of private addresses, such as " + DEFAULT_SUBNET, NO_SPACE) or DEFAULT_SUBNET
    )
    path, rule = section.path_of("subnet"), "use a private network that nothing else on the host uses, such as " + DEFAULT_SUBNET
    try:
        subnet = ipaddress.IPv4Network(text)
    except ValueError as exc:
        section.check.add_problem(path, "{0!r} is not an IPv4 network".format(shorten(text)), rule, str(exc))
        return ipaddress.IPv4Network(DEFAULT_SUBNET)
    if not subnet.is_private:
        section.check.add_problem(path, "{0} is not a network of private addresses".format(subnet), rule)
    elif subnet.num_addresses < replicas + 4:
        section.check.add_problem(path, "{0} has too few addresses for {1} replicas".format(subnet, replicas), rule)
    else:
        return subnet
    return ipaddress.IPv4Network(DEFAULT_SUBNET)
