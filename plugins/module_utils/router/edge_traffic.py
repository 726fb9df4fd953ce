# SPDX-License-Identifier: GPL-3.0-or-later
"""The edge in a promotion of its replicas: it drains and readmits them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import List

from ansible_collections.anvil.serving.plugins.module_utils.router.edge import Edge
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_servers import MAINT


@dataclass(frozen=True)
class EdgeTraffic:
    """The edge in a promotion of its replicas (``replica.TrafficControl``). drain_timeout, up_timeout: seconds."""

    edge: Edge
    drain_timeout: float
    up_timeout: float

    def find_drained(self) -> List[str]:
        return [server.name for server in self.edge.read_servers() if server.status == MAINT]

    def drain(self, replica: str) -> None:
        self.edge.drain(replica, self.drain_timeout)

    def readmit(self, replica: str) -> None:
        self.edge.readmit(replica, self.up_timeout)
