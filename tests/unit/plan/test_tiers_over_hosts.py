# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Tiers with backends on other hosts: which there are, where each is reached, with which key, and what cannot be a tier."""

from __future__ import annotations

import copy

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import build_plan
from ansible_collections.anvil.serving.plugins.module_utils.plan.fleet import FarHost, Fleet
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import list_selectors, render_host

FACTS = dict.fromkeys(("gateway_key", "router_token", "own_key", "other_key"), "file")
LLAMA = {"engine": "llama_cpp", "image": "i:1", "model": "/m/fast.gguf", "volumes": ["models:/m:ro"], "served_name": "qwen"}
SERVE = {**LLAMA, "port": 30003, "publish": "0.0.0.0:30103", "args": ["-c", "8192"]}
VLLM = {"engine": "vllm", "image": "i:1", "model": "Qwen/Qwen3", "served_name": ["other", "qwen"], "port": 30003,
        "publish": "0.0.0.0:30103", "args": ["--max-model-len", "4096"]}  # fmt: skip
FAR = {
    "anvil_secrets": dict.fromkeys(FACTS),
    "anvil_edge": {"tls": {"certificate": "/t/host.pem"}},
    "anvil_clients": {"gateways": {"keys": ["gateway_key"]}},
    "anvil_serves": {"fast": SERVE},
}
BACKENDS = [{"serve": "fast", "hosts": "gpu"}]
NEAR = {
    "anvil_secrets": dict.fromkeys(FACTS),
    "anvil_edge": {"ca": "/t/ca.pem"},
    "anvil_router": {"image": "r:0.13.2", "token": "router_token", "tiers": [{"id": "chat", "backends": BACKENDS}]},
}
GROUPS = {"all": ["gw", "gpu1", "gpu2"], "gpu": ["gpu1", "gpu2"], "nobody": []}
HERE = {**LLAMA, "port": 30003, "api_key": "own_key"}


def change(variables, **changes):
    """Set keys of a copy: ``a__b=value`` sets ``variables["a"]["b"]``; None removes it."""
    made = copy.deepcopy(variables)
    for path, value in changes.items():
        *head, last = path.split("__")
        inner = made
        for step in head:
            inner = inner[step]
        if value is None:
            del inner[last]
        else:
            inner[last] = value
    return made


def tiers(*backends, **keys):
    return {"anvil_router__tiers": [{"id": "chat", "backends": list(backends), **keys}]}


def plan(near=NEAR, gpu1=FAR, gpu2=FAR, addresses=None):
    far = {"gpu1": gpu1, "gpu2": gpu2}

    def read_host(name):
        address = (addresses or {}).get(name, name + ".example.org")
        return FarHost(build_plan(name, far[name], FACTS, secrets_required=False), address)

    return build_plan("gw", near, FACTS, fleet=Fleet("gw", list(GROUPS["all"]), GROUPS, read_host))


def servers(made):
    return {one.name: (one.address, one.port, one.server_name) for one in made.edge.tiers[0].backends}


def problems(**hosts):
    with pytest.raises(AnvilError) as raised:
        plan(**hosts)
    return raised.value.problems


def test_a_tier_over_hosts_is_one_address_for_the_router_and_a_server_for_each_host():
    made = plan()
    tier = made.router.tiers[0]
    assert (tier.base_url, tier.model, tier.context_limit, tier.health_path, tier.key_secret) == (
        "http://10.87.213.2:19001/v1", "qwen", 8192, "/healthz", "")  # fmt: skip
    assert servers(made) == {
        "gpu1:fast": ("gpu1.example.org", 30103, "gpu1.example.org"),
        "gpu2:fast": ("gpu2.example.org", 30103, "gpu2.example.org"),
    }
    rendered = render_host(made)
    assert rendered["edge"]["servers"]["tier-chat"] == "gateway_key"
    assert (rendered["edge"]["ca"], rendered["backend_hosts"]) == ("/t/ca.pem", ["gpu1", "gpu2"])
    assert "gateway_key" not in rendered["router"]["compose"] and "gateway_key" not in rendered["edge"]["config"]


@pytest.mark.parametrize("image", ["r:0.13.2", "r:2.0.2"])
def test_engines_may_be_mixed_if_they_share_a_name_of_the_model(image):
    made = plan(near=change(NEAR, anvil_router__image=image), gpu2=change(FAR, anvil_serves__fast=VLLM))
    tier = made.router.tiers[0]
    # The least that any backend can do.
    assert (tier.model, tier.context_limit, tier.tool_support) == ("qwen", 4096, False)
    assert 'base_url = "http://10.87.213.2:19001/v1"' in render_host(made)["router_files"]["config"]


def test_a_serve_of_the_gateway_is_a_backend_like_the_others():
    near = change(NEAR, anvil_serves={"fast": HERE}, **tiers({"serve": "fast", "hosts": ["gpu", "gw"]}))
    made = plan(near)
    assert list(servers(made)) == ["gpu1:fast", "gpu2:fast", "gw:fast"]
    rendered = render_host(made)
    config = rendered["edge"]["config"]
    assert "    server gw:fast 127.0.0.1:20001 maxconn 256\n" in config
    # It gets its own key, as a published serve does, and the edge is in its network.
    assert rendered["edge"]["servers"] == {"routers": "router_token", "serve-fast": "own_key", "tier-chat": "gateway_key"}
    assert made.serves[0].network in rendered["router"]["compose"]
    assert "chat" in list_selectors(made)


def test_a_tier_may_have_backends_on_the_gateway_only():
    made = plan(change(NEAR, anvil_edge=None, anvil_serves={"fast": HERE}, **tiers({"serve": "fast"})))
    assert list(servers(made)) == ["gw:fast"] and render_host(made)["edge"]["servers"].get("tier-chat") is None


@pytest.mark.parametrize(
    ("edge", "publish", "address", "found"),
    [
        ({}, "0.0.0.0:30103", "gpu1.lan", ("gpu1.lan", "gpu1.lan")),
        ({"address": "edge.lan"}, "0.0.0.0:30103", "gpu1.lan", ("edge.lan", "edge.lan")),
        ({"address": "10.0.0.9", "server_name": "x.lan"}, "0.0.0.0:30103", "gpu1.lan", ("10.0.0.9", "x.lan")),
        ({"server_name": "x.lan"}, "0.0.0.0:30103", "192.0.2.1", ("192.0.2.1", "x.lan")),
        # Ansible may reach the host at another address than the one that it publishes.
        ({"server_name": "x.lan"}, "10.0.0.5:30103", "192.0.2.1", ("10.0.0.5", "x.lan")),
        ({}, "10.0.0.5:30103", "gpu1.lan", ("gpu1.lan", "gpu1.lan")),
    ],
)
def test_where_the_edge_of_another_host_is_reached(edge, publish, address, found):
    far = change(FAR, anvil_edge={**FAR["anvil_edge"], **edge}, anvil_serves__fast__publish=publish)
    made = plan(change(NEAR, **tiers({"serve": "fast", "hosts": "gpu1"})), gpu1=far, addresses={"gpu1": address})
    assert servers(made)["gpu1:fast"] == (found[0], 30103, found[1])


def test_the_gateway_presents_the_first_key_that_it_has():
    far = change(
        FAR, anvil_clients__gateways__keys=["new_key", "gateway_key"], anvil_secrets={"new_key": None, "gateway_key": None}
    )
    near = change(NEAR, **tiers({"serve": "fast", "hosts": "gpu1"}))
    assert plan(near, gpu1=far).edge.tiers[0].key == "gateway_key"


def test_without_clients_there_the_key_of_the_serve_opens_its_edge():
    far = change(FAR, anvil_clients=None, anvil_serves__fast__api_key="other_key")
    assert plan(change(NEAR, **tiers({"serve": "fast", "hosts": "gpu1"})), gpu1=far).edge.tiers[0].key == "other_key"


def test_a_group_names_the_hosts_that_have_the_serve():
    made = plan(gpu2=change(FAR, anvil_serves={}))
    assert list(servers(made)) == ["gpu1:fast"]
    assert any("hosts without a serve fast are left out: gpu2" in note for note in made.notes)


def test_a_plan_that_knows_no_other_host_leaves_such_tiers_out():
    near = change(
        NEAR, anvil_serves={"fast": HERE}, anvil_router__tiers=[{"id": "own", "serve": "fast"}, NEAR["anvil_router"]["tiers"][0]]
    )
    assert [tier.id for tier in build_plan("gw", near, FACTS).router.tiers] == ["own"]


TWO = {"serve": "fast", "hosts": "gpu"}
SLOW = {**SERVE, "port": 30004, "publish": "0.0.0.0:30104", "served_name": "slow"}
ONLY_SLOW = {"anvil_clients__gateways__tiers": ["slow"], "anvil_serves__slow": SLOW}
AUTO = {"anvil_router__image": "r:2.0.2", **tiers(TWO, max_concurrency="auto")}
# Name -> (host -> changes, the mistake, the way out)
MISTAKES = {
    "unknown group": ({"near": tiers({"serve": "fast", "hosts": "gpus"})}, "no host and no group 'gpus'", "gpu"),
    "no such serve": ({"near": tiers({"serve": "slow", "hosts": "gpu"})}, "no host of gpu has a serve slow", "fast"),
    "host without it": ({"near": tiers({"serve": "slow", "hosts": "gpu1"})}, "host gpu1 has no serve slow", "fast"),
    "wrong inventory": ({"gpu2": {"anvil_serves__fast__port": 0}}, "inventory of host gpu2 has mistakes", "-l gpu2"),
    "not published": ({"gpu2": {"anvil_serves__fast__publish": None}}, "fast of host gpu2 is not reachable", ":30103"),
    "no such client": ({"near": {"anvil_router__client": "gw9"}}, "host gpu1 has no client gw9", "anvil_clients"),
    "no access": ({"gpu1": ONLY_SLOW}, "client gateways may not use serve fast of host gpu1", "add fast"),
    "no key": ({"near": {"anvil_secrets": {"router_token": None}}}, "not have the key of host gpu1", "gateway_key"),
    "no ca": ({"near": {"anvil_edge": {}}}, "no file of certificates is named", "anvil_edge.ca"),
    "other models": ({"gpu2": {"anvil_serves__fast__served_name": "else"}}, "no common name of a model", "served_name"),
    "model that one lacks": ({"near": tiers(TWO, model="gpt")}, "have no model 'gpt'", ""),
    "other kinds": ({"gpu2": {"anvil_serves__fast__args": ["--embeddings"]}}, "different kinds", "tiers of their own"),
    "other keys": ({"gpu2": {"anvil_clients__gateways__keys": ["other_key"]}}, "different keys", "the same key"),
    "serve and backends": ({"near": tiers(TWO, serve="fast")}, "either a serve or backends", "backends"),
    "auto": ({"near": AUTO}, "auto is not for a tier", "max_requests"),
    "nothing runs": ({"near": tiers()}, "no backend that runs", "backends:"),
    "unknown key": ({"near": tiers({"serve": "fast", "host": "gpu"})}, "unknown key", "hosts"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_what_cannot_be_a_tier_is_refused_with_the_host_and_a_way_out(name):
    changes, what, hint = MISTAKES[name]
    bases = {"near": NEAR, "gpu1": FAR, "gpu2": FAR}
    found = problems(**{host: change(bases[host], **given) for host, given in changes.items()})
    match = [one for one in found if what in one.what]
    assert match and hint in match[0].hint, [(one.where, one.what, one.hint) for one in found]


def test_an_address_without_a_name_for_its_certificate_is_refused():
    with pytest.raises(AnvilError) as raised:
        plan(addresses={"gpu1": "192.0.2.1"})
    assert [(one.where, one.hint) for one in raised.value.problems] == [
        ("anvil_router.tiers[0].backends[0].hosts", "set anvil_edge.server_name on gpu1 to a name in its certificate")
    ]


def test_a_mistake_of_another_host_is_told_with_its_first_reasons():
    found = problems(gpu2=change(FAR, anvil_serves__fast__port=0, anvil_serves__fast__engine="x"))
    assert len(found) == 1
    assert "anvil_serves.fast" in found[0].why and found[0].where == "anvil_router.tiers[0].backends[0].hosts"
