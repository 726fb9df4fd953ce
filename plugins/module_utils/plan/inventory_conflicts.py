# SPDX-License-Identifier: GPL-3.0-or-later
"""Check for conflicts between serves, router and edge: two owners of one port, container name or served name."""

from __future__ import annotations

from typing import Dict, List, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.addresses import addresses_overlap
from ansible_collections.anvil.serving.plugins.module_utils.plan.edge_plan import MONITORING, EdgePlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import RouterPlan, ServePlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import InventoryCheck, Path, shorten


def check_conflicts(
    check: InventoryCheck, serves: Sequence[ServePlan], router: Optional[RouterPlan], edge: Optional[EdgePlan]
) -> None:
    """Check that every port, container name and served name has one owner."""
    ports: List[Tuple[str, Path, str, int]] = [
        ("serve " + serve.name, ("anvil_serves", serve.name, "port"), serve.bind, serve.port) for serve in serves
    ]
    containers: List[Tuple[str, Path, str]] = [
        ("serve " + serve.name, ("anvil_serves", serve.name, "container"), serve.container) for serve in serves
    ]
    for serve in serves:
        for bind, port in serve.held_ports:
            ports.append(("serve " + serve.name, ("anvil_serves", serve.name, "master_port"), bind, port))
        if serve.published:
            where = ("the edge for serve " + serve.name, ("anvil_serves", serve.name, "publish"))
            ports.append((*where, serve.published.bind, serve.published.port))
    if router:
        ports.append(("the router", ("anvil_router", "publish"), router.bind, router.port))
        replicas = edge.replicas if edge else ()
        for name in [replica.container for replica in replicas] or [router.container]:
            containers.append(("the router", ("anvil_router", "container"), name))
    if edge:
        containers.append(("the edge", ("anvil_edge", "container"), edge.container))
        if edge.metrics:
            ports.append(("the metrics of the edge", ("anvil_edge", "metrics"), *edge.metrics))
        monitoring = edge.find_front(MONITORING)
        if monitoring:
            where = ("the front end of the metrics", ("anvil_edge", "monitoring", "publish"))
            ports.append((*where, monitoring.bind, monitoring.port))
    for number, (_who, path, bind, port) in enumerate(ports):
        for other, _path, taken, same in ports[:number]:
            if port and port == same and addresses_overlap(bind, taken) and not _is_told(serves, path, other):
                check.add_problem(
                    path, "port {0} on {1} is taken by {2}".format(port, bind, other), "choose another port: each needs its own"
                )
                break
    _check_unique(check, "container name {0!r} is taken by {1}", containers)
    served: List[Tuple[str, Path, str]] = [
        ("serve " + serve.name, ("anvil_serves", serve.name, "served_name"), name)
        for serve in serves
        for name in (serve.served_name, *serve.more_names)
    ]
    _check_unique(check, "served name {0!r} is taken by {1}", served)
    names = {serve.name for serve in serves} | ({"router"} if router else set())
    if edge:
        names |= {"edge", *(replica.service for replica in edge.replicas)}
    for who, path, container in containers:
        if container in names and who not in ("serve " + container, "the router", "the edge"):
            check.add_problem(
                path,
                "{0!r} is also the name of another service".format(container),
                "choose another container name",
                "on the Docker network both containers would have this name, so requests could reach either",
            )


def _is_told(serves: Sequence[ServePlan], path: Path, other: str) -> bool:
    """Whether the two are a serve and the edge in front of it: ``inventory_publish`` has said so already."""
    return any(path == ("anvil_serves", serve.name, "publish") and other == "serve " + serve.name for serve in serves)


def _check_unique(check: InventoryCheck, what: str, claims: Sequence[Tuple[str, Path, str]]) -> None:
    first: Dict[str, str] = {}
    for who, path, word in claims:
        owner = first.setdefault(word, who)
        if owner != who:
            check.add_problem(path, what.format(shorten(word), owner), "choose another name: each needs its own")
