# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``anvil_edge.monitoring``: its front end, the keys that open it, and where a Prometheus reads a host."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import build_plan
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import render_host
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.scraped_targets import list_scraped
from planning import HEAVY, changed, plan, problems

TLS = {"tls": {"certificate": "/etc/tls/host.pem", "key": "/etc/tls/host.key"}}
MONITORING = {"publish": "0.0.0.0:9443", "keys": ["hf_token"]}
EDGE = ("anvil_edge", {**TLS, "monitoring": MONITORING})


def test_the_keys_open_the_metrics_and_nothing_else() -> None:
    edge = plan(EDGE).edge
    front = edge.find_front("monitoring")
    assert (front.bind, front.port, front.tls, front.needs_key) == ("0.0.0.0", 9443, True, True)
    assert [path for _method, path in front.routes] == ["/metrics", "/clients", "/watch"]
    (reader,) = [client for client in edge.clients if client.keys == ("hf_token",)]
    assert reader.access == {"monitoring": "all"}
    assert [client for client in edge.clients if "monitoring" in client.access] == [reader]


def test_a_host_without_a_router_and_published_serves_has_an_edge_for_its_metrics() -> None:
    variables = changed(EDGE)
    del variables["anvil_router"]
    made = build_plan("h", variables, {"router_token": "file", "hf_token": "vault"})
    rendered = render_host(made)
    assert [front.name for front in made.edge.fronts] == ["monitoring"] and rendered["edge_alone"]
    assert "server watch unix@/run/anvil-watch/metrics.sock" in rendered["edge"]["config"]
    assert rendered["edge"]["clients"] == {"monitoring:hf_token": ["hf_token"]}
    assert "watch-socket" in rendered["edge_alone"]["compose"]


def test_a_key_of_the_metrics_does_not_turn_the_router_into_one_for_named_clients() -> None:
    rendered = [render_host(plan(edge)) for edge in (EDGE, ("anvil_edge", TLS))]
    assert rendered[0]["router_names"] == rendered[1]["router_names"]
    assert rendered[0]["router_names"]["asked"]["edge"] == "anvil-router-edge"


def test_an_edge_without_it_stays_as_it_is() -> None:
    rendered = render_host(plan(("anvil_edge", TLS)))
    assert "watch" not in rendered["router"]["compose"] and "watch" not in rendered["edge"]["config"]


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"publish": "0.0.0.0:9443"}, "anvil_edge.monitoring.keys"),
        ({"publish": "0.0.0.0:9443", "keys": []}, "anvil_edge.monitoring.keys"),
        ({"keys": ["hf_token"]}, "anvil_edge.monitoring.publish"),
        ({"publish": "nowhere", "keys": ["hf_token"]}, "anvil_edge.monitoring.publish"),
        ({"publish": "0.0.0.0:9443", "keys": ["missing"]}, "anvil_edge.monitoring.keys[0]"),
        ({**MONITORING, "port": 1}, "anvil_edge.monitoring.port"),
    ],
)
def test_mistakes_are_told_where_they_are(given: dict[str, Any], where: str) -> None:
    assert [problem.where for problem in problems(("anvil_edge", {**TLS, "monitoring": given}))] == [where]


def test_no_tls_beyond_loopback_and_a_key_of_a_client_are_refused() -> None:
    (found,) = problems(("anvil_edge", {"monitoring": MONITORING}))
    assert found.where == "anvil_edge.monitoring.publish" and "without TLS" in found.what
    (found,) = problems(EDGE, ("anvil_clients", {"alice": {"keys": ["hf_token"]}}))
    assert found.where == "anvil_edge.monitoring.keys[0]" and "alice" in found.what


def test_a_port_that_something_else_has_is_refused() -> None:
    taken = ("anvil_edge", {**TLS, "monitoring": {**MONITORING, "publish": "0.0.0.0:30002"}})
    assert problems(taken)


def test_where_a_prometheus_reads_a_host() -> None:
    assert list_scraped(None, 0) == {"here": [], "away": []}
    here = list_scraped(None, 9419)
    assert [row["path"] for row in here["here"]] == ["/metrics"] and not here["away"]
    both = plan(("anvil_edge", {**EDGE[1], "metrics": "127.0.0.1:8404"}), (HEAVY + "port", 30002)).edge
    found = list_scraped(both, 9419)
    assert [(row["job"], row["port"], row["path"]) for row in found["away"]] == [
        ("anvil-watch", 9443, "/watch"),
        ("anvil-edge", 9443, "/metrics"),
        ("anvil-clients", 9443, "/clients"),
    ]
    assert [(row["job"], row["address"], row["port"]) for row in found["here"]] == [
        ("anvil-watch", "127.0.0.1", 9419),
        ("anvil-edge", "127.0.0.1", 8404),
        ("anvil-clients", "127.0.0.1", 8404),
    ]
    assert [row["job"] for row in list_scraped(both, 0)["away"]] == ["anvil-edge", "anvil-clients"]
