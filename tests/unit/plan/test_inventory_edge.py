# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The edge of a host: when there is one, where it listens, what passes, and which client may use what."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import build_plan
from planning import FAST, HEAVY, ROUTER, TWO_REPLICAS, changed, plan, problems

TLS = ("anvil_edge", {"tls": {"certificate": "/etc/tls/host.pem", "key": "/etc/tls/host.key"}})
WIDE = [(HEAVY + "publish", "10.0.0.5"), (HEAVY + "api_key", "hf_token"), TLS]
ALICE = ("anvil_clients", {"alice": {"keys": ["hf_token"]}})
BOTH_FRONTS = {"router": "some", "serve-heavy": "all"}
GATEWAY = (ROUTER + "image", "anvil.local/router:2.0.2")


def fronts(*changes, **options):
    edge = plan(*changes, **options).edge
    return {front.name: (front.bind, front.port, front.tls) for front in edge.fronts} if edge else None


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ([], None),
        ([(HEAVY + "publish", "127.0.0.2")], None),
        ([TWO_REPLICAS], {"router": ("127.0.0.1", 8000, False)}),
        ([ALICE], {"router": ("127.0.0.1", 8000, False)}),
        ([("anvil_edge", {})], {"router": ("127.0.0.1", 8000, False)}),
        ([TLS], {"router": ("127.0.0.1", 8000, True)}),
        ([(ROUTER + "publish", "0.0.0.0:443"), TLS], {"router": ("0.0.0.0", 443, True)}),
        ([(ROUTER + "publish", "10.0.0.5:80"), (ROUTER + "insecure", True), TLS], {"router": ("10.0.0.5", 80, False)}),
        (WIDE, {"router": ("127.0.0.1", 8000, True), "serve-heavy": ("10.0.0.5", 30002, True)}),
        (
            [*WIDE[1:], (HEAVY + "publish", "[::]:443"), (HEAVY + "insecure", True)],
            {"router": ("127.0.0.1", 8000, True), "serve-heavy": ("[::]", 443, False)},
        ),
        (  # neither anvil_edge nor clients
            [(HEAVY + "publish", "10.0.0.5"), (HEAVY + "api_key", "hf_token"), (HEAVY + "insecure", True)],
            {"router": ("127.0.0.1", 8000, False), "serve-heavy": ("10.0.0.5", 30002, False)},
        ),
    ],
)
def test_an_edge_is_there_where_clients_come_from_outside_or_have_names(changes, found):
    assert fronts(*changes) == found


def test_a_published_serve_never_takes_the_router_away():
    made = plan((HEAVY + "publish", "10.0.0.5"), (HEAVY + "api_key", "hf_token"), (HEAVY + "insecure", True))
    assert [one.container for one in made.edge.replicas] == [made.router.container]


def test_a_host_without_a_router_has_an_edge_for_its_published_serves():
    variables = changed(*WIDE)
    del variables["anvil_router"]
    made = build_plan("h", variables, {"router_token": "file", "hf_token": "vault"})
    assert (made.router, made.edge.container, made.edge.replicas) == (None, "anvil-edge", ())
    assert [front.name for front in made.edge.fronts] == ["serve-heavy"]
    heavy = made.serves[0]
    assert (heavy.bind, heavy.port, heavy.published.bind) == ("127.0.0.1", 30002, "10.0.0.5")


def test_what_has_no_effect_is_told():
    variables = changed(("anvil_edge", {}), ALICE, (FAST + "paths", ["GET /metrics"]))
    del variables["anvil_router"]
    made = build_plan("h", variables, {"router_token": "file", "hf_token": "vault"})
    assert made.edge is None
    for key in ("anvil_clients", "anvil_serves.fast.paths"):
        assert any(note.startswith(key + ": it has no effect") for note in made.notes), made.notes


def test_plain_http_beyond_loopback_is_told_every_time():
    made = plan((ROUTER + "publish", "0.0.0.0:80"), (ROUTER + "insecure", True))
    assert any("anvil_router.publish" in note and "plain HTTP" in note for note in made.notes)


def test_a_prefix_is_part_of_the_paths_and_what_is_written_passes_too():
    made = plan(*WIDE, (HEAVY + "args", ["--root-path", "/qwen"]), (HEAVY + "paths", ["POST /tokenize", "GET /metrics"]))
    routes = made.edge.find_front("serve-heavy").routes
    assert {("POST", "/tokenize"), ("GET", "/metrics"), ("GET", "/v1/models")} <= set(routes)
    made = plan((FAST + "publish", "10.0.0.5"), (FAST + "api_key", "hf_token"), TLS, (FAST + "args", ["--api-prefix", "/qwen"]))
    front = made.edge.find_front("serve-fast")
    assert ("POST", "/qwen/v1/chat/completions") in front.routes and front.serve.check_path == "/qwen/health"


def test_without_names_a_secret_opens_what_it_is_for():
    clients = {client.name: client for client in plan(*WIDE).edge.clients}
    assert {name: client.access for name, client in clients.items()} == {
        "secret:router_token": {"router": "all"},
        "secret:hf_token": {"serve-heavy": "all"},
    }


def test_with_names_the_secrets_of_servers_open_nothing():
    made = plan(*WIDE[:1], TLS, ALICE)  # a serve that has no key of its own
    assert [client.name for client in made.edge.clients] == ["alice"]
    assert made.edge.clients[0].access == {"router": "all", "serve-heavy": "all"}


@pytest.mark.parametrize(
    ("more", "tiers", "access", "models"),
    [
        ([], ["heavy"], BOTH_FRONTS, {"heavy"}),
        ([], ["fast"], {"router": "some"}, {"fast"}),
        ([(ROUTER + "presets", {"chat": ["fast"], "review": ["fast", "heavy"]})], ["fast"], {"router": "some"}, {"chat", "fast"}),
        ([GATEWAY, (ROUTER + "routes", {"a": "fast", "b": "heavy"})], ["fast"], {"router": "some"}, {"a", "fast"}),
        ([(ROUTER + "tiers", [{"id": "t", "serve": "heavy"}, {"id": "fast"}])], ["t"], BOTH_FRONTS, {"t"}),
        ([(ROUTER + "tiers", [{"id": "t", "serve": "fast"}])], ["heavy"], {"serve-heavy": "all"}, set()),
        ([], [], {}, set()),
    ],
)
def test_tiers_of_a_client_are_front_ends_and_names_of_models(more, tiers, access, models):
    serve = [(HEAVY + "publish", "10.0.0.5"), TLS]
    made = plan(*serve, *more, ("anvil_clients", {"bob": {"keys": ["hf_token"], "tiers": tiers}}))
    (bob,) = made.edge.clients
    assert (bob.access, set(bob.models)) == (access, models)
    router = made.edge.find_front("router")
    assert router.reads_model is (access.get("router") == "some") and router.needs_key


def test_an_engine_without_a_key_may_be_published_to_named_clients():
    sglang = [(HEAVY + "engine", "sglang"), (HEAVY + "args", []), (HEAVY + "publish", "10.0.0.5"), TLS]
    assert [problem.what for problem in problems(*sglang)] == [
        "the serve is published on 10.0.0.5, beyond loopback, without an API key"
    ]
    front = plan(*sglang, ALICE).edge.find_front("serve-heavy")
    assert front.needs_key and not front.key


def test_an_unread_router_makes_no_mistakes_of_clients():
    clients = ("anvil_clients", {"bob": {"keys": ["hf_token"], "tiers": ["x"]}})
    found = problems((ROUTER + "tiers", [{"id": "x", "serve": "havy"}]), clients)
    assert [problem.where for problem in found] == [ROUTER + "tiers[0].serve"]


def test_an_external_server_is_asked_over_https_with_its_own_authority():
    gpu1 = {"host": "gpu1.example", "port": 443, "api_key": "hf_token", "tls": {"ca": "/etc/tls/ca.pem"}}
    made = plan(("anvil_external", {"far": gpu1}))
    assert [tier.base_url for tier in made.router.tiers if tier.id == "far"] == ["https://gpu1.example:443/v1"]
    assert made.router.ca == "/etc/tls/ca.pem"
    assert plan(("anvil_external", {"far": {**gpu1, "tls": True}})).router.ca == ""
    assert plan(("anvil_external", {"far": {**gpu1, "tls": False}})).router.tiers[-1].base_url == "http://gpu1.example:443/v1"
    two = {"far": gpu1, "near": {**gpu1, "host": "gpu2.example", "tls": {"ca": "/etc/tls/other.pem"}}}
    assert [one.where for one in problems(("anvil_external", two))] == ["anvil_external.near.tls"]
    here = {"port": 8081, "tls": True}
    assert [one.where for one in problems(("anvil_external", {"mac": here}))] == ["anvil_external.mac.tls"]
    assert [one.where for one in problems(("anvil_external", {"far": {**gpu1, "tls": {"cert": "/x"}}}))] == [
        "anvil_external.far.tls.cert"
    ]


def test_a_single_router_has_no_address_of_a_replica() -> None:
    single, several = plan(ALICE).edge.replicas, plan((ROUTER + "replicas", 4)).edge.replicas
    assert [(one.service, one.container) for one in single] == [("router", "anvil-router")]
    assert {one.address for one in single}.isdisjoint(one.address for one in several)
