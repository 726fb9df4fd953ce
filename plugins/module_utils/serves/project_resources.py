# SPDX-License-Identifier: GPL-3.0-or-later
"""Networks and volumes of a project that its compose file declares external: those that the host lacks are created."""

from __future__ import annotations

from typing import Any, List, Mapping, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import LABEL_PREFIX, Service
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine


def ensure_networks_and_volumes(docker: DockerEngine, services: Sequence[Service], check: bool) -> List[str]:
    """Create what is missing; returns what was created, or in check mode would be."""
    created = []
    subnets = {name: str(subnet) for service in services for name, subnet in (service.anvil.get("subnets") or {}).items()}
    for network in sorted({network for service in services for network in service.networks}):
        found = docker.inspect_network(network)
        if found is not None:
            _check_subnet(network, found, subnets.get(network, ""))
            continue
        created.append("network " + network)
        if not check:
            docker.create_network(network, {LABEL_PREFIX + "managed": "true"}, subnets.get(network, ""))
    volumes = {mount.source for service in services for mount in service.mounts if mount.kind == "volume"}
    for volume in sorted(volumes):
        if docker.inspect_volume(volume) is None:
            created.append("volume " + volume)
            if not check:
                docker.create_volume(volume, {LABEL_PREFIX + "managed": "true"})
    return created


def _check_subnet(network: str, found: Mapping[str, Any], subnet: str) -> None:
    """Docker cannot change the subnet of a network: the operator has to remove it."""
    present = [str(pool.get("Subnet")) for pool in (found.get("IPAM") or {}).get("Config") or []]
    if subnet and subnet not in present:
        raise fail(
            "the network has a different subnet than the inventory",
            where="network " + network,
            why="the network has {0}; the inventory says {1}".format(", ".join(present) or "no subnet", subnet),
            hint="stop its containers and remove it (docker network rm {0}), or change anvil_router.edge.subnet".format(network),
        )
