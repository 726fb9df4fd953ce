# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a Prometheus reads the metrics of a host: on the host itself, and from another host. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.plan.edge_plan import MONITORING, EdgePlan

WATCH, EDGE, CLIENTS = "anvil-watch", "anvil-edge", "anvil-clients"


@dataclass(frozen=True)
class Target:
    """address: empty for the one by which the host is reached."""

    job: str
    address: str
    port: int
    path: str


def list_scraped(edge: EdgePlan | None, watch_port: int) -> dict[str, list[dict[str, Any]]]:
    """``here``: on the host itself; ``away``: from others, which reach its edge only. watch_port: 0 for a host without watch."""
    here = [Target(WATCH, "127.0.0.1", watch_port, "/metrics")] if watch_port else []
    away: list[Target] = []
    if edge and edge.metrics:
        here += [Target(EDGE, *edge.metrics, "/metrics"), Target(CLIENTS, *edge.metrics, "/clients")]
    front = edge.find_front(MONITORING) if edge else None
    if front:
        away += [Target(WATCH, "", front.port, "/watch")] if watch_port else []
        away += [Target(EDGE, "", front.port, "/metrics"), Target(CLIENTS, "", front.port, "/clients")]
    return {"here": [asdict(one) for one in here], "away": [asdict(one) for one in away]}
