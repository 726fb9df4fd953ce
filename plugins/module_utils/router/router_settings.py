# SPDX-License-Identifier: GPL-3.0-or-later
"""Which router, edge or other container a module works on, in which volume, and with which timeouts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import Place
from ansible_collections.anvil.serving.plugins.module_utils.router.candidate_checks import CONFIG_FILE, PROFILE_FILE
from ansible_collections.anvil.serving.plugins.module_utils.router.probes import Probe


@dataclass(frozen=True)
class RouterSettings:
    """The settings of a container whose files are promoted; the names are those of the modules' options.

    image: a reference, used where no container exists. mount: where the container mounts the config volume.
    replicas: containers that share the volume, each with a pointer of its own; empty: ``container`` alone, which reads
    the stock paths. edge: the container that sends requests to the replicas. drain_timeout: seconds until requests in
    flight must have ended. grace: seconds for the process to end. start_timeout: seconds until it must answer. settle:
    seconds for which it must then stay up. environment: what a router that does not exist yet will get.
    validator, health_path, reload_signal: of a container other than a router.
    """

    container: str
    volume: str
    mount: str
    image: str = ""
    replicas: Tuple[str, ...] = ()
    edge: str = ""
    drain_timeout: float = 330.0
    grace: int = 10
    start_timeout: float = 30.0
    settle: float = 2.0
    dry_boot: bool = True
    probes: Tuple[Probe, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    validator: Tuple[str, ...] = ()
    health_path: str = ""
    reload_signal: str = ""

    @property
    def names(self) -> Tuple[str, ...]:
        """The containers that read the volume."""
        return self.replicas or (self.container,)

    def place_for(self, files: Sequence[str]) -> Place:
        """The volume with these stock files."""
        return Place(volume=self.volume, mount=self.mount, replica=self.names[0], names=tuple(files))

    @property
    def place(self) -> Place:
        return self.place_for((CONFIG_FILE, PROFILE_FILE))
