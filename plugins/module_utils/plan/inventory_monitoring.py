# SPDX-License-Identifier: GPL-3.0-or-later
"""Check ``anvil_edge.monitoring``: where a Prometheus of another host reads the metrics of a host, and with which keys."""

from __future__ import annotations

from typing import Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.plan.edge_plan import MONITORING, ClientPlan, FrontPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_publish import split_address
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_secrets import InventorySecrets
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import NO_SPACE, Section

EXAMPLE = "monitoring: {publish: 0.0.0.0:9443, keys: [prometheus_key]}"
KEYS = ("publish", "keys")
# In the edge's container.
MONITORING_PORT = 8405
# The metrics of the edge, of its clients, and of watch.
PATHS = ("/metrics", "/clients", "/watch")


def read_monitoring(section: Section) -> Optional[FrontPlan]:
    """The front end, without TLS as yet; None where the host has none. Its keys are in ``list_readers``."""
    if not section.has("monitoring"):
        return None
    inner = section.check.read_mapping(section.path_of("monitoring"), section.raw["monitoring"], EXAMPLE)
    if inner is None:
        return None
    inner.check_keys(KEYS)
    text = inner.read_text("publish", "an address and a port, such as 0.0.0.0:9443", NO_SPACE)
    if not text:
        inner.add_problem("publish", "the address of the metrics is missing", "write " + EXAMPLE)
        return None
    where = split_address(Section(section.check, inner.path, {}), text, None, "write " + EXAMPLE, "publish")
    if where is None:
        return None
    return FrontPlan(
        name=MONITORING,
        backend="watch",
        bind=where[0],
        port=where[1],
        inner_port=MONITORING_PORT,
        tls=False,
        needs_key=True,
        routes=tuple(("GET", path) for path in PATHS),
    )


def list_readers(section: Section, secrets: InventorySecrets, clients: Sequence[ClientPlan]) -> Tuple[ClientPlan, ...]:
    """A client for each key, which opens the metrics and nothing else."""
    raw = section.raw.get("monitoring")
    given = raw.get("keys") if isinstance(raw, dict) else None
    path = (*section.path_of("monitoring"), "keys")
    listed = section.check.read_list(path, given, EXAMPLE) if given else ()
    if not listed and isinstance(raw, dict):
        section.check.add_problem(path, "no key opens the metrics", "write " + EXAMPLE, "a front end of an edge needs a key")
    found = []
    for where, value in listed or ():
        key = secrets.read_secret_name(where, value)
        owner = next((client.name for client in clients if key in client.keys), "")
        if key and owner:
            what = "secret {0} is also a key of {1}".format(key, owner)
            section.check.add_problem(where, what, "give the monitoring a key of its own")
        elif key:
            found.append(ClientPlan(MONITORING + ":" + key, (key,), access={MONITORING: "all"}))
    return tuple(found)
