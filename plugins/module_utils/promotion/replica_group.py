# SPDX-License-Identifier: GPL-3.0-or-later
"""The replicas that read one config volume, and one reading of that volume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import ContainerState, Replica, TrafficControl
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import Place, Snapshot
from ansible_collections.anvil.serving.plugins.module_utils.promotion.volume_reader import read_snapshot, read_unmounted_snapshot


@dataclass(frozen=True)
class ReplicaGroup:
    """The replicas in the order in which they are promoted. traffic: ``None`` where clients connect to them directly."""

    replicas: Tuple[Replica, ...]
    traffic: Optional[TrafficControl] = None

    @property
    def first(self) -> Replica:
        return self.replicas[0]

    def read_states(self) -> Dict[str, ContainerState]:
        """The state of each replica's container, by name."""
        return {replica.name: replica.read_state() for replica in self.replicas}


def read_volume(docker: DockerEngine, group: ReplicaGroup, place: Place, states: Mapping[str, ContainerState]) -> Snapshot:
    """The content of the volume, read without running anything."""
    for state in states.values():
        if state.exists:
            return read_snapshot(docker, state.container_id, place)
    return read_unmounted_snapshot(docker, group.first.find_image(), place)
