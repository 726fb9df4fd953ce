# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Topologies of today's gateway routers: audio, limits of tiers, custom engines, two ports, a claim for each card, names."""

from __future__ import annotations

import pytest
from planning import BIG, DROP, FAST, HEAVY, ROUTER, SMALL, plan, problems

GATEWAY = ((ROUTER + "image", "anvil.local/router:2.0.2"), (ROUTER + "profile", []))
CUSTOM = {
    "engine": "custom",
    "image": "ghcr.io/example/tei:1.9",
    "kind": "embeddings",
    "port": 30010,
    "container_port": 80,
    "ready_path": "/health",
    "served_name": "qwen3-embed",
    "args": ["--model-id", "Qwen/Qwen3-Embedding-8B"],
}
WHISPER = {
    "engine": "custom",
    "image": "ghcr.io/example/whisper:1",
    "kind": "transcription",
    "port": 30011,
    "publish": "172.17.0.1",
    "insecure": True,
    "api_key": "hf_token",
    "key_env": "API_KEY",
}
SPEAK = {**WHISPER, "kind": "speech", "port": 30012}
TIER = {"serve": "heavy"}


def with_serves(*changes, **serves):
    return plan(*GATEWAY, *((f"anvil_serves.{name}", serve) for name, serve in serves.items()), *changes)


def noted(made, *words):
    return any(all(word in note for word in words) for note in made.notes)


def test_a_custom_engine_is_started_and_asked_as_the_inventory_says():
    made = with_serves(embed=CUSTOM)
    serve = next(serve for serve in made.serves if serve.name == "embed")
    assert (serve.port, serve.inner_port, serve.ready_path, serve.kind) == (30010, 80, "/health", "embeddings")
    assert (serve.entrypoint, serve.args, serve.model) == ((), ("--model-id", "Qwen/Qwen3-Embedding-8B"), "")
    assert [(tier.id, tier.base_url, tier.model) for tier in made.router.purposes] == [
        ("embed", "http://anvil-embed:80/v1", "qwen3-embed")
    ]


@pytest.mark.parametrize(
    ("changes", "path", "identity"),
    [
        ({"ready_path": "/health"}, "/health", False),
        ({}, "/v1/models", True),
        ({"api_key": "hf_token", "key_env": "API_KEY"}, "", False),  # the router's check carries no key
    ],
)
def test_the_router_checks_a_custom_server_by_what_is_known_of_it(changes, path, identity):
    mine = {key: value for key, value in {**CUSTOM, "kind": "chat"}.items() if key != "ready_path"}
    tier = next(tier for tier in with_serves(own={**mine, **changes}).router.tiers if tier.id == "own")
    assert (tier.health_path, tier.model_identity) == (path, identity)


def test_a_custom_server_reads_its_api_key_from_the_variable_that_the_inventory_names():
    serve = next(serve for serve in with_serves(hear=WHISPER).serves if serve.name == "hear")
    assert (serve.api_key, serve.secrets) == ("hf_token", {"API_KEY": "hf_token"})


@pytest.mark.parametrize(
    ("change", "key", "what"),
    [
        ({"kind": None}, "kind", "engine custom and no kind"),
        ({"image": None}, "image", "has no image"),
        ({"port": None}, "port", "has no port"),
        ({"ready_path": "health"}, "ready_path", "'health' is not valid"),
        ({"container_port": 70000}, "container_port", "out of range"),
        ({"api_key": "hf_token"}, "api_key", "from which variable"),
        ({"publish": "10.0.0.5", "insecure": True}, "publish", "without an API key"),
        ({"gpu_memory_utilization": 0.5}, "gpu_memory_utilization", "engine custom has no gpu_memory_utilization"),
        ({"models": {"a": {}}}, "models", "for engine llama_cpp only"),
    ],
)
def test_a_mistake_in_a_custom_serve_is_told_at_its_key(change, key, what):
    found = problems(*GATEWAY, ("anvil_serves.own", {**CUSTOM, **change}))
    assert [(one.where, what in one.what) for one in found] == [(f"anvil_serves.own.{key}", True)], found


def test_the_keys_of_a_custom_engine_are_for_no_other():
    found = problems((HEAVY + "ready_path", "/health"), (HEAVY + "key_env", "KEY"))
    assert [one.where for one in found] == [HEAVY + "ready_path", HEAVY + "key_env"]


def test_a_policy_for_models_needs_the_model_of_a_custom_serve():
    found = problems(*GATEWAY, ("anvil_models_allowed", [{"sha256": "a" * 64}]), ("anvil_serves.own", CUSTOM))
    assert any(one.where == "anvil_serves.own.model" and "names no model" in one.what for one in found)


def test_host_and_container_may_have_different_ports():
    made = plan((HEAVY + "container_port", 8000))
    assert made.router.tiers[0].base_url == "http://anvil-heavy:8000/v1"
    assert plan((HEAVY + "container_port", 30003)).serves[0].port == 30002  # two containers may use one port


def test_audio_is_routed_by_its_purpose_at_an_address_that_the_router_accepts():
    router = with_serves(
        (ROUTER + "tiers", [TIER, {"serve": "hear"}, {"serve": "speak", "sample_rate": 24000}, {"serve": "mac"}]),
        ("anvil_external", {"mac": {"port": 8081, "kind": "transcription", "served_name": "whisper"}}),
        hear=WHISPER,
        speak=SPEAK,
    ).router
    assert [(tier.id, tier.base_url, tier.default, tier.sample_rate) for tier in router.audio] == [
        ("hear", "http://172.17.0.1:30011/v1", True, 0),  # the first of two is the default
        ("speak", "http://172.17.0.1:30012/v1", True, 24000),
        ("mac", "http://host.docker.internal:8081/v1", False, 0),
    ]
    assert router.extra_hosts == ("host.docker.internal:host-gateway",)
    assert [tier.id for tier in router.tiers] == ["heavy"] and router.routes == {"heavy": "heavy"}


def test_of_two_tiers_for_one_kind_of_audio_one_may_be_marked_as_the_default():
    tiers = [TIER, {"serve": "hear"}, {"serve": "more", "default": True}]
    made = with_serves((ROUTER + "tiers", tiers), hear=WHISPER, more={**WHISPER, "port": 30013})
    assert [tier.id for tier in made.router.audio if tier.default] == ["more"]
    tiers = [TIER, {"serve": "hear", "default": True}, {"serve": "more", "default": True}]
    both = [("anvil_serves.hear", WHISPER), ("anvil_serves.more", {**WHISPER, "port": 30013})]
    (found,) = problems(*GATEWAY, *both, (ROUTER + "tiers", tiers))
    assert "hear and more are all the default for transcription" in found.what


@pytest.mark.parametrize(
    ("serve", "why"),
    [
        ({**WHISPER, "publish": "127.0.0.1"}, "publish: 172.17.0.1"),
        ({**WHISPER, "publish": "203.0.113.7"}, "publish: 172.17.0.1"),
        (SPEAK, "set sample_rate"),
    ],
)
def test_audio_that_the_router_cannot_have_is_left_out_with_what_it_needs(serve, why):
    made = with_serves(sound=serve)
    assert made.router.audio == () and noted(made, "tier sound is left out", why)


@pytest.mark.parametrize(("image", "limit"), [("2.0.2", 4), ("2.0.2", "auto"), ("0.13.2", 4)])
def test_a_tier_limits_the_requests_to_its_serve(image, limit):
    tiers = [{**TIER, "max_concurrency": limit}, {"serve": "fast"}]
    made = plan((ROUTER + "image", "anvil.local/router:" + image), (ROUTER + "tiers", tiers))
    assert [tier.max_concurrency for tier in made.router.tiers] == [limit, None]


@pytest.mark.parametrize(
    ("image", "tier", "what"),
    [
        ("2.0.2", {"max_concurrency": 0}, "out of range"),
        ("2.0.2", {"max_concurrency": "many"}, "must be a whole number"),
        ("0.13.2", {"max_concurrency": "auto"}, "only for a gateway router"),
        ("2.0.2", {"sample_rate": 24000}, "only for tiers for speech"),
        ("2.0.2", {"default": True}, "only for tiers for audio"),
    ],
)
def test_a_key_of_a_tier_that_its_router_does_not_have_is_told(image, tier, what):
    (found,) = problems((ROUTER + "image", "anvil.local/router:" + image), (ROUTER + "tiers", [{**TIER, **tier}]))
    assert what in found.what


def test_a_limit_is_for_tiers_for_chat():
    found = problems(
        *GATEWAY, ("anvil_serves.embed", CUSTOM), (ROUTER + "tiers", [TIER, {"serve": "embed", "max_concurrency": 4}])
    )
    assert ["embeddings" in one.what and "only for tiers for chat" in one.what for one in found] == [True]


BOTH = (HEAVY + "gpus", ["big", "small"])


def test_each_card_may_have_a_claim_of_its_own():
    serve = plan(BOTH, (HEAVY + "vram_mib", {"big": 60000, "small": 12000})).serves[0]
    assert (serve.vram_mib, serve.vram_by_card) == (60000, {BIG: 60000, SMALL: 12000})
    (found,) = problems(BOTH, (HEAVY + "vram_mib", {"big": 60000, "small": 12608}))
    assert found.where == "anvil_gpus.small" and "serve heavy 12608 + serve fast 20000 = 32608 MiB" in found.what


@pytest.mark.parametrize(
    ("claims", "where", "what"),
    [
        ({"big": 1000}, "vram_mib", "no claim for GPU small"),
        ({"big": 1000, "small": 0}, "vram_mib.small", "out of range"),
        ({"big": 1000, "small": None}, "vram_mib.small", "GPU small has no claim"),
        ({"big": 1000, "small": 9, "huge": 1}, "vram_mib.huge", "does not use GPU 'huge'"),
    ],
)
def test_a_mistake_in_the_claim_of_one_card_is_told_there(claims, where, what):
    (found,) = problems(BOTH, (HEAVY + "vram_mib", claims))
    assert found.where == HEAVY + where and what in found.what


NO_CLAIM = (HEAVY + "vram_mib", DROP)
SHARES = [
    (HEAVY + "gpu_memory_utilization", 0.55),
    (HEAVY + "args", ["--gpu-memory-utilization", "0.55"]),
    (HEAVY + "args", ["--gpu_memory_utilization=0.55"]),
]


@pytest.mark.parametrize("share", SHARES)
def test_without_a_claim_a_serve_claims_the_share_that_its_engine_takes(share):
    made = plan(NO_CLAIM, share)
    assert made.serves[0].vram_mib == 53838  # 0.55 of 97887
    assert noted(made, "vram_mib is not set", "0.55", "53838 MiB of big")
    both = plan(NO_CLAIM, share, BOTH, (FAST + "vram_mib", 14000))
    assert both.serves[0].vram_by_card == {BIG: 53838, SMALL: 17934}


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize(("claim", "told"), [(20000, "33838 MiB more"), (80000, "26162 MiB of the claim"), (54000, "")])
def test_a_claim_that_the_share_contradicts_is_told(share, claim, told):
    made = plan(share, (HEAVY + "vram_mib", claim))
    assert made.serves[0].vram_mib == claim
    assert noted(made, "anvil_serves.heavy.vram_mib", "is 53838 MiB, but the claim is", told) is bool(told)


def test_a_share_beyond_the_budget_claims_the_budget_and_is_told():
    made = plan(NO_CLAIM, (HEAVY + "gpu_memory_utilization", 0.99))
    assert made.serves[0].vram_mib == 95839 and noted(made, "96909 MiB, more than its budget", "the reserve is not kept free")


@pytest.mark.parametrize(
    "changes",
    [
        [(HEAVY + "args", ["--gpu-memory-utilization", "0.55", "--kv-cache-memory-bytes", "8g"])],  # then the share has no effect
        [(HEAVY + "engine", "sglang"), (HEAVY + "args", ["--mem-fraction-static", "0.55"])],  # only weights and KV cache
        [(HEAVY + "args", ["--gpu-memory-utilization", "soon"])],
    ],
)
def test_a_share_that_does_not_bound_the_engine_claims_nothing(changes):
    assert plan(NO_CLAIM, *changes).serves[0].vram_mib == 95839


@pytest.mark.parametrize(
    "name", ["gpt-oss-120b", "openai/gpt-oss-120b", "qwen3:8b", "gemma@q4_k_m", "/models/x", "C++", "Модель"]
)
def test_a_name_that_engines_and_routers_take_is_taken(name):
    made = plan((HEAVY + "served_name", name))
    assert made.serves[0].served_name == name and noted(made, "no usual name") is (name == "Модель")


@pytest.mark.parametrize(
    ("serve", "name", "what"),
    [
        (HEAVY, "--trust-remote-code", "takes it for a flag"),
        (HEAVY, "-", "takes it for a flag"),
        (HEAVY, "a\u200bb", "cannot be printed"),
        (HEAVY, "a\x1b[31m", "cannot be printed"),
        (HEAVY, "a b", "is not valid"),
        (FAST, "fast,small", "does not take ','"),
    ],
)
def test_a_name_that_is_none_is_refused(serve, name, what):
    (found,) = problems((serve + "served_name", name))
    assert found.where == serve + "served_name" and what in found.what
