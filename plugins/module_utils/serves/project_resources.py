# SPDX-License-Identifier: GPL-3.0-or-later
"""Networks and volumes of a project that its compose file declares external: those that the host lacks are created."""

from __future__ import annotations

from typing import Any, List, Mapping, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import LABEL_PREFIX, Service
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine

MANAGED = LABEL_PREFIX + "managed"


def ensure_networks_and_volumes(docker: DockerEngine, services: Sequence[Service], check: bool) -> List[str]:
    """Create what is missing; returns what was created, or in check mode would be."""
    created = []
    subnets = {name: str(subnet) for service in services for name, subnet in (service.anvil.get("subnets") or {}).items()}
    closed = {str(name) for service in services for name in service.anvil.get("closed") or ()}
    internal = {str(name) for service in services for name in service.anvil.get("internal") or ()}
    for network in sorted({network for service in services for network in service.networks}):
        found = docker.inspect_network(network)
        subnet = subnets.get(network, "")
        if found is not None and not _has_other_subnet(found, subnet):
            continue
        if found is not None:
            _check_removable(docker, network, found, subnet)
            if not check:
                docker.remove_network(network)
        created.append("network " + network)
        if not check:
            options = {"closed": network in closed, "internal": network in internal}
            docker.create_network(network, {MANAGED: "true"}, subnet, **options)
    volumes = {mount.source for service in services for mount in service.mounts if mount.kind == "volume"}
    for volume in sorted(volumes):
        if docker.inspect_volume(volume) is None:
            created.append("volume " + volume)
            if not check:
                docker.create_volume(volume, {MANAGED: "true"})
    return created


def _has_other_subnet(found: Mapping[str, Any], subnet: str) -> bool:
    return bool(subnet) and subnet not in _list_subnets(found)


def _list_subnets(found: Mapping[str, Any]) -> List[str]:
    return [str(pool.get("Subnet")) for pool in (found.get("IPAM") or {}).get("Config") or []]


def _check_removable(docker: DockerEngine, network: str, found: Mapping[str, Any], subnet: str) -> None:
    """Docker cannot change the subnet of a network. One of ours that no container has is created again; else it is an error."""
    attached = sorted(
        str(entry["Names"][0]).lstrip("/")
        for entry in docker.list_containers()
        if network in entry["NetworkSettings"]["Networks"] and entry["Names"]
    )
    if (found.get("Labels") or {}).get(MANAGED) and not attached:
        return
    raise fail(
        "the network has a different subnet than the inventory",
        where="network " + network,
        why="the network has {0}; the inventory says {1}; its containers: {2}".format(
            ", ".join(_list_subnets(found)) or "no subnet", subnet, ", ".join(attached) or "none, but it is not ours"
        ),
        hint="take them down (a router: ansible-playbook playbooks/router_down.yml -e confirm=true); "
        "the next site.yml creates the network again\nor change anvil_edge.subnet",
    )
