# SPDX-License-Identifier: GPL-3.0-or-later
"""Networks and volumes of a project that its compose file declares external: those that the host lacks are created."""

from __future__ import annotations

from typing import Any, List, Mapping, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import LABEL_PREFIX, Service
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.networks_and_volumes import MASQUERADE

MANAGED = LABEL_PREFIX + "managed"


def ensure_networks_and_volumes(
    docker: DockerEngine, services: Sequence[Service], every: Sequence[Service], check: bool
) -> List[str]:
    """Create what is missing; returns what was created, or in check mode would be.

    services: those that start. every: all of the project; Docker Compose starts none if the network of another one is missing.
    """
    created = []
    subnets = {name: str(subnet) for service in every for name, subnet in (service.anvil.get("subnets") or {}).items()}
    closed = {str(name) for service in every for name in service.anvil.get("closed") or ()}
    internal = {str(name) for service in every for name in service.anvil.get("internal") or ()}
    of_serves = {network for service in every if "peers" in service.anvil for network in service.networks}
    for network in sorted({network for service in every for network in service.networks}):
        found = docker.inspect_network(network)
        subnet = subnets.get(network, "")
        difference = "" if found is None else _describe_difference(found, subnet, network in closed & of_serves)
        if found is not None and not difference:
            continue
        if found is not None:
            _check_removable(docker, network, found, difference)
            if not check:
                docker.remove_network(network)
        created.append("network " + network)
        if not check:
            options = {"closed": network in closed, "internal": network in internal}
            docker.create_network(network, {MANAGED: "true"}, subnet, **options)
    if not check:
        _connect_peers(docker, services)
    volumes = {mount.source for service in services for mount in service.mounts if mount.kind == "volume"}
    for volume in sorted(volumes):
        if docker.inspect_volume(volume) is None:
            created.append("volume " + volume)
            if not check:
                docker.create_volume(volume, {MANAGED: "true"})
    return created


def _connect_peers(docker: DockerEngine, services: Sequence[Service]) -> None:
    """Attach the routers that run to the networks of the serves that start, so that they reach them at once.

    The compose file of the router names these networks too; it is recreated later in the run.
    """
    wanted = [
        (network, container, alias)
        for service in services
        for container, alias in dict(service.anvil.get("peers") or {}).items()
        for network in service.networks
    ]
    running = {name: entry for entry in docker.list_containers() for name in entry.get("Names") or ()} if wanted else {}
    for network, container, alias in wanted:
        entry = running.get("/" + container)
        if entry is not None and network not in ((entry.get("NetworkSettings") or {}).get("Networks") or {}):
            docker.connect_network(network, container, [alias])


def _list_subnets(found: Mapping[str, Any]) -> List[str]:
    return [str(pool.get("Subnet")) for pool in (found.get("IPAM") or {}).get("Config") or []]


def _describe_difference(found: Mapping[str, Any], subnet: str, closed: bool) -> str:
    """How a network differs from what the inventory says; empty where it does not. Docker cannot change either of the two."""
    present = _list_subnets(found)
    if subnet and subnet not in present:
        return "the network has {0}; the inventory says {1}".format(", ".join(present) or "no subnet", subnet)
    if closed and (found.get("Options") or {}).get(MASQUERADE) != "false":
        return "it lets its containers reach other machines: it has no option {0}=false".format(MASQUERADE)
    return ""


def _check_removable(docker: DockerEngine, network: str, found: Mapping[str, Any], difference: str) -> None:
    """One of ours that no container has is created again; else it is an error."""
    attached = sorted(
        str(entry["Names"][0]).lstrip("/")
        for entry in docker.list_containers()
        if network in entry["NetworkSettings"]["Networks"] and entry["Names"]
    )
    if (found.get("Labels") or {}).get(MANAGED) and not attached:
        return
    edge = "inventory says" in difference
    raise fail(
        "the network has a different subnet than the inventory" if edge else "the network is not closed",
        where="network " + network,
        why="{0}; its containers: {1}".format(difference, ", ".join(attached) or "none, but it is not ours"),
        hint="take them down (a router: ansible-playbook playbooks/router_down.yml -e confirm=true); "
        "the next site.yml creates the network again\nor change anvil_edge.subnet"
        if edge
        else "take its containers down; the next run creates a network of ours again. Remove one that is not ours, or choose "
        "another anvil_network\nor set egress: true of the serve",
    )
