# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The router: tiers, routes, the measured profile, replicas and the edge."""

from __future__ import annotations

import datetime

import pytest
from planning import HEAVY, PROFILE_ROW, ROUTER, TWO_REPLICAS, plan, problems


def test_the_router_gets_a_tier_for_each_serve_with_the_context_its_arguments_tell():
    router = plan().router
    assert [(tier.id, tier.base_url, tier.context_limit, tier.tool_support, tier.key_env) for tier in router.tiers] == [
        ("heavy", "http://anvil-heavy:30002/v1", 131072, True, "ANVIL_HEAVY_KEY"),
        ("fast", "http://anvil-fast:30003/v1", 2048, True, "ANVIL_FAST_KEY"),
    ]
    assert router.token == "router_token"
    assert set(router.presets) == {"planning", "quick-edit", "review", "chat", "chat-fast", "long-context"}
    assert set(router.presets.values()) == {("heavy", "fast")}


@pytest.mark.parametrize(("text", "tokens"), [("32k", 32000), ("32K", 32768), ("25.6k", 25600), ("auto", 8192)])
def test_vllm_writes_contexts_in_thousands(text, tokens):
    assert plan((HEAVY + "args", ["--max-model-len=" + text])).router.tiers[0].context_limit == tokens


def test_a_key_of_a_serve_reaches_its_tier():
    tier = plan((HEAVY + "api_key", "hf_token")).router.tiers[0]
    assert tier.key_secret == "hf_token"


def test_moments_that_yaml_read_become_text_again():
    moment = datetime.datetime(2026, 7, 4, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
    rows = plan((ROUTER + "profile", [{**PROFILE_ROW, "last_measured": moment}])).router.profile
    assert rows[0].last_measured == "2026-07-04T00:00:00Z"


GATEWAY = (ROUTER + "image", "anvil.local/router:2.0.2")


@pytest.mark.parametrize(
    ("image", "generation"),
    [
        ("anvil.local/router:0.13.2", "profile"),
        ("anvil.local/router:2.0.2", "gateway"),
        ("r:5000/router:v0.35.1-cuda", "gateway"),
        ("r:5000/router:2", "profile"),
        ("r:5000/router:2.0.2@sha256:" + "a" * 64, "gateway"),
        ("r:5000/router@sha256:" + "a" * 64, "profile"),
    ],
)
def test_the_generation_of_a_router_is_told_by_its_tag(image, generation):
    made = plan((ROUTER + "image", image))
    assert made.router.generation == generation and "is not supported" not in str(made.notes)


@pytest.mark.parametrize("tag", ["0.11.9", "0.14.0", "0.34.2"])
def test_a_version_of_neither_generation_is_named(tag):
    found = plan((ROUTER + "image", "r:5000/router:" + tag))
    assert "anvil-serving {0}.{1} is not supported".format(*tag.split(".")) in str(found.notes)
    assert "not supported" not in str(plan((ROUTER + "image", "r/router:" + tag), (ROUTER + "generation", "profile")).notes)


@pytest.mark.parametrize(
    ("engine", "given", "path", "identity"),
    [
        ("vllm", {}, "/health", True),
        ("sglang", {}, "/v1/models", True),
        ("llama_cpp", {}, "/health", True),
        ("vllm", {"health_path": False}, "", False),
        ("vllm", {"health_path": "/ready", "model_identity": False}, "/ready", False),
        ("", {}, "", False),
        ("", {"health_path": "/v1/models"}, "/v1/models", False),
        ("", {"health_path": "/v1/models", "model_identity": True}, "/v1/models", True),
    ],
)
def test_a_tier_is_checked_as_its_engine_can_be(engine, given, path, identity):
    """Of a server that is not managed here nothing is known: a wrong check would take it out of service for ever."""
    external = ("anvil_external", {"mac": {"port": 8081}})
    name = {"": "mac", "llama_cpp": "fast"}.get(engine, "heavy")
    serve = [] if name == "fast" else [external] if not engine else [(HEAVY + "engine", engine), (HEAVY + "args", [])]
    tier = plan(*serve, (ROUTER + "tiers", [{"id": "t", "serve": name, **given}])).router.tiers[0]
    assert (tier.health_path, tier.model_identity) == (path, identity)


@pytest.mark.parametrize(
    ("given", "where", "said"),
    [
        ({"health_path": "health"}, "health_path", "a path such as /health"),
        ({"health_path": "//x"}, "health_path", "a path such as /health"),
        ({"health_path": "/x?y"}, "health_path", "a path such as /health"),
        ({"health_path": False, "model_identity": True}, "model_identity", "the tier has no health_path"),
    ],
)
def test_a_check_that_the_router_would_refuse_is_told(given, where, said):
    found = problems((ROUTER + "tiers", [{"id": "t", "serve": "heavy", **given}]))
    assert any(each.where.endswith(where) and said in each.as_text() for each in found), found


def test_a_gateway_router_has_a_route_for_each_tier_and_those_that_are_named():
    router = plan(GATEWAY, (ROUTER + "routes", {"llm.Primary": "heavy"})).router
    assert (router.generation, router.routes) == ("gateway", {"heavy": "heavy", "fast": "fast", "llm.Primary": "heavy"})
    assert plan(GATEWAY, TWO_REPLICAS).edge.check_tiers
    assert plan((ROUTER + "generation", "profile"), GATEWAY).router.routes == {}


@pytest.mark.parametrize(
    ("given", "where", "said"),
    [
        ([GATEWAY, (ROUTER + "presets", {"chat": ["heavy"]})], "presets", "a gateway router has no presets"),
        ([GATEWAY, (ROUTER + "profile", [{"tier": "heavy"}])], "profile", "a gateway router has no profile"),
        ([GATEWAY, (ROUTER + "routes", {"a": "hevy"})], "routes.a", "unknown tier 'hevy'"),
        ([GATEWAY, (ROUTER + "routes", {"HEAVY": "heavy"})], "routes.HEAVY", "the route HEAVY exists already"),
        ([GATEWAY, (ROUTER + "routes", {"-a": "heavy"})], "routes.-a", "is not a valid name for a route"),
        ([GATEWAY, (ROUTER + "routes", {"a": 1})], "routes.a", "must be the id of a tier, not the number 1"),
        ([(ROUTER + "routes", {"a": "heavy"})], "routes", "a profile router has no routes"),
        ([(ROUTER + "generation", "new")], "generation", "unknown generation"),
    ],
)
def test_what_the_generations_do_not_share_is_told(given, where, said):
    found = {problem.where: problem.what for problem in problems(*given)}
    assert said in found[ROUTER + where]


def test_replicas_and_the_edge_have_every_default_decided() -> None:
    edge = plan(TWO_REPLICAS).edge
    assert [(one.service, one.container, one.address) for one in edge.replicas] == [
        ("router-1", "anvil-router-1", "10.87.213.3"),
        ("router-2", "anvil-router-2", "10.87.213.4"),
    ]
    assert (edge.image, edge.container, edge.network) == ("anvil.local/edge:1", "anvil-router-edge", "anvil-router-edge")
    assert (edge.subnet, edge.address, edge.certificates, edge.check_tiers) == ("10.87.213.0/28", "10.87.213.2", (), False)
    assert plan().edge is None and plan((ROUTER + "replicas", 1)).edge is None


EMBED = "anvil_serves.fast.args"


def test_a_profile_router_leaves_out_what_is_not_for_chat_with_a_note():
    found = plan((EMBED, ["--embeddings"]))
    assert [tier.id for tier in found.router.tiers] == ["heavy"] and found.router.purposes == ()
    assert set(found.router.presets.values()) == {("heavy",)}
    assert any("tier fast is left out: serve fast is for embeddings" in note for note in found.notes)


def test_a_gateway_router_routes_embeddings_by_the_name_of_the_model():
    router = plan((ROUTER + "image", "anvil.local/router:2.0.2"), (ROUTER + "profile", []), (EMBED, ["--embeddings"])).router
    assert [tier.id for tier in router.tiers] == ["heavy"] and router.routes == {"heavy": "heavy"}
    assert [(tier.id, tier.kind, tier.model, tier.base_url) for tier in router.purposes] == [
        ("fast", "embeddings", "fast", "http://anvil-fast:30003/v1")
    ]


def test_what_is_written_takes_precedence_over_the_flags():
    router = plan((EMBED, ["--embeddings"]), ("anvil_serves.fast.kind", "chat")).router
    assert [tier.id for tier in router.tiers] == ["heavy", "fast"]


def test_a_kind_that_no_router_routes_is_left_out_with_a_note():
    found = plan((ROUTER + "image", "anvil.local/router:2.0.2"), (ROUTER + "profile", []), ("anvil_serves.fast.kind", "score"))
    assert found.router.purposes == () and any("is for score, which a gateway router does not route" in n for n in found.notes)


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        ((ROUTER + "presets", {"chat": ["fast"]}), "presets", "tier fast is for embeddings, not for chat"),
        ((ROUTER + "profile", [{**PROFILE_ROW, "tier": "fast"}]), "profile", "tier fast is for embeddings, not for chat"),
        ((ROUTER + "tiers", [{"serve": "fast"}]), "tiers", "the router has no tier for chat"),
        (("anvil_serves.fast.kind", "poetry"), "kind", "unknown kind: 'poetry'"),
    ],
)
def test_a_tier_that_is_not_for_chat_has_no_place_among_those_that_are(change, where, what):
    found = problems((EMBED, ["--embeddings"]), change)
    assert any(where in problem.where and what in problem.what for problem in found), found
