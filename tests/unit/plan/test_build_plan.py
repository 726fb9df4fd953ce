# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan: one row for each mistake an inventory can hold, and what is decided where it is silent."""

from __future__ import annotations

import datetime
import json

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import build_plan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_routing import guess_generation
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import UNREAD, is_secret_name
from planning import BASE, BIG, DROP, HF, plan, problems

HEAVY, FAST, ROUTER = "anvil_serves.heavy.", "anvil_serves.fast.", "anvil_router."
TWO = [(ROUTER + "replicas", 2)]

# (what is changed, where the one problem is, a piece of what, a piece of the hint)
MISTAKES = {
    "unknown key": ([(HEAVY + "gpu", ["big"])], HEAVY + "gpu", "unknown key", "did you mean gpus?"),
    "unknown variable": ([("anvil_serve", {})], "anvil_serve", "unknown variable", "anvil_serves"),
    "unknown GPU key": ([("anvil_gpus.big.vram", 1)], "anvil_gpus.big.vram", "unknown key", "vram_mib"),
    "unknown router key": ([(ROUTER + "tokens", "x")], ROUTER + "tokens", "unknown key", "token"),
    "serves as a list": ([("anvil_serves", []), ("anvil_router", DROP)], "anvil_serves", "a mapping", "heavy"),
    "unknown platform": ([("anvil_platform", "wsl")], "anvil_platform", "'wsl'", "wsl2"),
    "relative root": ([("anvil_root", "opt")], "anvil_root", "'opt'", "absolute"),
    "bad network": ([("anvil_network", "a b")], "anvil_network", "'a b'", "a-z"),
    "model not allowed": ([("anvil_models_allowed", [])], HEAVY + "model", "not allowed", "exact repository and commit"),
    "model of another commit": (
        [("anvil_models_allowed", [{"repo": "openai/gpt-oss-120b", "revision": "a" * 40}])],
        HEAVY + "model",
        "not allowed",
        "exact repository and commit",
    ),
    "a branch is no exact revision": (
        [("anvil_models_allowed", [{"repo": "a/b", "revision": "main"}]), (HEAVY + "model", "/models/heavy")],
        "anvil_models_allowed[0].revision",
        "'main'",
        "40 hexadecimal",
    ),
    "allowed without a revision": (
        [("anvil_models_allowed", [{"repo": "a/b"}]), (HEAVY + "model", "/models/heavy")],
        "anvil_models_allowed[0].revision",
        "no exact revision",
        "40 hexadecimal",
    ),
    "allowed without a name": (
        [("anvil_models_allowed", [{"revision": "a" * 40}]), (HEAVY + "model", "/models/heavy")],
        "anvil_models_allowed[0]",
        "either repo or sha256",
        "anvil_models_allowed",
    ),
    "unknown engine": ([(HEAVY + "engine", "vlm")], HEAVY + "engine", "'vlm'", "did you mean vllm?"),
    "no engine": ([(HEAVY + "engine", DROP)], HEAVY + "engine", "no engine", "sglang"),
    "unknown defaults": ([("anvil_engines", {"vlm": {}})], "anvil_engines.vlm", "'vlm'", "vllm"),
    "bad defaults": ([("anvil_engines", {"vllm": {"port": 1}})], "anvil_engines.vllm.port", "unknown key", "use one of: image"),
    "unknown GPU": ([(HEAVY + "gpus", ["bigg"])], HEAVY + "gpus[0]", "'bigg'", "did you mean big?"),
    "GPU twice": ([(HEAVY + "gpus", ["big", "big"])], HEAVY + "gpus[1]", "twice", "once"),
    "GPU as text": ([(HEAVY + "gpus", "big"), (HEAVY + "vram_mib", DROP)], HEAVY + "gpus", "a list", "[alias]"),
    "malformed UUID": ([("anvil_gpus.big.uuid", BIG[:-1])], "anvil_gpus.big.uuid", "is not valid", "nvidia-smi"),
    "no UUID": ([("anvil_gpus.big.uuid", DROP)], "anvil_gpus.big.uuid", "has no uuid", "8-4-4-4-12"),
    "no VRAM": ([("anvil_gpus.big.vram_mib", DROP)], "anvil_gpus.big.vram_mib", "has no vram_mib", "MiB"),
    "same UUID": (
        [("anvil_gpus.small.uuid", BIG.lower().replace("gpu", "GPU"))],
        "anvil_gpus.small.uuid",
        "big",
        "one alias",
    ),
    "same index": ([("anvil_gpus.small.index", 1)], "anvil_gpus.small.index", "index of big", "nvidia-smi"),
    "reserve": ([("anvil_gpus.big.reserve_mib", 97887)], "anvil_gpus.big.reserve_mib", "leaves nothing", "less"),
    "no index": ([(FAST + "gpu_pin", "index")], FAST + "gpu_pin", "small has no index", "anvil_gpus.small.index"),
    "unknown pin": ([(FAST + "gpu_pin", "uid")], FAST + "gpu_pin", "'uid'", "uuid"),
    "port twice": ([(FAST + "port", 30002)], FAST + "port", "30002 on 127.0.0.1 is taken by serve heavy", "own"),
    "port of the router": ([(FAST + "port", 8000)], "anvil_router.publish", "taken by serve fast", "own"),
    "port range": ([(FAST + "port", 65536)], FAST + "port", "65536 is out of range", "65535"),
    "port a boolean": ([(FAST + "port", True)], FAST + "port", "the boolean true", "whole number"),
    "no port": ([(FAST + "port", DROP)], FAST + "port", "no port", "30002"),
    "no replica": ([(ROUTER + "replicas", 0)], ROUTER + "replicas", "out of range", "from 1 to 4"),
    "edge of one": ([(ROUTER + "edge", {})], ROUTER + "edge", "no edge", "replicas: 2"),
    "unknown edge key": ([*TWO, (ROUTER + "edge", {"cert": "/x"})], ROUTER + "edge.cert", "unknown key", "certificates"),
    "edge subnet": (
        [*TWO, (ROUTER + "edge", {"subnet": "10.1.1.1/28"})],
        ROUTER + "edge.subnet",
        "not an IPv4 network",
        "10.87.213.0/28",
    ),
    "public subnet": ([*TWO, (ROUTER + "edge", {"subnet": "8.8.8.0/28"})], ROUTER + "edge.subnet", "private", "10.87.213.0/28"),
    "small subnet": ([*TWO, (ROUTER + "edge", {"subnet": "10.1.1.0/30"})], ROUTER + "edge.subnet", "too few", "private"),
    "relative tls": ([*TWO, (ROUTER + "edge", {"certificates": "tls"})], ROUTER + "edge.certificates", "'tls'", "absolute"),
    "edge health": ([*TWO, (ROUTER + "edge", {"health": "tier"})], ROUTER + "edge.health", "'tier'", "did you mean tiers?"),
    "edge image": (
        [*TWO, (ROUTER + "edge", {"image": "haproxy"})],
        ROUTER + "edge.image",
        "neither a tag nor a digest",
        "sha256",
    ),
    "container of a replica": (
        [*TWO, (FAST + "container", "anvil-router-2")],
        ROUTER + "container",
        "serve fast",
        "own",
    ),
    "container twice": (
        [(FAST + "container", "x1"), (HEAVY + "container", "x1")],
        FAST + "container",
        "taken by serve heavy",
        "own",
    ),
    "container of the router": ([(FAST + "container", "anvil-router")], ROUTER + "container", "serve fast", "own"),
    "container named as a serve": ([(FAST + "container", "heavy")], FAST + "container", "another service", "another"),
    "served name twice": ([(FAST + "served_name", "heavy")], FAST + "served_name", "serve heavy", "own"),
    "bad container": ([(FAST + "container", "a/b")], FAST + "container", "'a/b'", "2 to 63"),
    "bad serve name": ([("anvil_serves.Big One", {})], "anvil_serves['Big One']", "not a valid name", "a-z"),
    "serve without model": ([(HEAVY + "model", DROP)], HEAVY + "model", "no model", "Hugging Face"),
    "serve without image": ([(HEAVY + "image", DROP)], HEAVY + "image", "no image", "anvil_engines.vllm.image"),
    "image without tag": ([(HEAVY + "image", "vllm/vllm-openai")], HEAVY + "image", "neither a tag nor a digest", "sha256"),
    "bad image": ([(HEAVY + "image", "Vllm/")], HEAVY + "image", "'Vllm/'", "tag"),
    "GGUF by repository": ([(FAST + "model", "org/repo")], FAST + "model", "not a path", "gguf"),
    "VRAM of two": (
        [(FAST + "gpus", ["big"]), (FAST + "vram_mib", 50000)],
        "anvil_gpus.big",
        "serve heavy 60000 + serve fast 50000 = 110000 MiB > 97887 - 2048 = 95839 MiB",
        "smaller vram_mib",
    ),
    "VRAM of one": ([(HEAVY + "vram_mib", 96000)], HEAVY + "vram_mib", "96000 MiB > 97887 - 2048", "95839 MiB"),
    "VRAM without GPU": ([(HEAVY + "gpus", DROP)], HEAVY + "vram_mib", "no GPU", "gpus"),
    "args as text": ([(HEAVY + "args", "--a b")], HEAVY + "args", "one piece of text", "[--a, b]"),
    "args with a boolean": ([(HEAVY + "args", ["--a", True])], HEAVY + "args[1]", "the boolean true", "quotes"),
    "two words in one": ([(HEAVY + "args", ["--max-num-seqs 4"])], HEAVY + "args[0]", "one word", "--max-num-seqs, 4"),
    "args set the port": ([(HEAVY + "args", ["--port", "1"])], HEAVY + "args[0]", "--port", "key port"),
    "args set the name": (
        [(HEAVY + "args", ["--served_model_name=x"])],
        HEAVY + "args[0]",
        "served-model",
        "served_name",
    ),
    "args set the alias": ([(FAST + "args", ["-a", "x"])], FAST + "args[0]", "-a", "served_name"),
    "args in defaults": (
        [("anvil_engines", {"vllm": {"args": ["--host", "x"]}})],
        "anvil_engines.vllm.args[0]",
        "--host",
        "publish",
    ),
    "key file that the engine does not read": (
        [(HEAVY + "args", ["--api-key-file", "/k"])],
        HEAVY + "args[0]",
        "key",
        "api_key:",
    ),
    "further keys without the first": ([(FAST + "args", ["--api-key-file", "/k"])], FAST + "args[0]", "without an", "api_key:"),
    "key in args": ([(HEAVY + "args", ["--api-key=sekret99"])], HEAVY + "args[0]", "--api-key", "api_key:"),
    "token in args": ([(FAST + "args", ["--hf-token", "sekret99"])], FAST + "args[0]", "--hf-token", "HF_TOKEN"),
    "token by its shape": ([(FAST + "args", ["--x", HF])], FAST + "args[1]", "looks like a secret", "secrets"),
    "boolean in environment": (
        [(HEAVY + "environment", {"A": True})],
        HEAVY + "environment.A",
        "the boolean true",
        'in quotes: "true" or "1"',
    ),
    "list in environment": ([(HEAVY + "environment", {"A": []})], HEAVY + "environment.A", "a list", "value"),
    "secret in environment": (
        [(HEAVY + "environment", {"HF_TOKEN": "sekret99"})],
        HEAVY + "environment.HF_TOKEN",
        "in clear",
        "secrets: {HF_TOKEN",
    ),
    "key in environment": (
        [(HEAVY + "environment", {"VLLM_API_KEY": "sekret99"})],
        HEAVY + "environment.VLLM_API_KEY",
        "secret",
        "api_key:",
    ),
    "pin in environment": (
        [(HEAVY + "environment", {"CUDA_VISIBLE_DEVICES": 0})],
        HEAVY + "environment.CUDA_VISIBLE_DEVICES",
        "CUDA",
        "gpu_pin",
    ),
    "twice in environment": (
        [(HEAVY + "environment", {"A": "1"}), (HEAVY + "secrets", {"A": "hf_token"})],
        HEAVY + "secrets.A",
        "and in",
        "one",
    ),
    "unknown secret": ([(HEAVY + "secrets", {"A": "hf_tokn"})], HEAVY + "secrets.A", "'hf_tokn'", "hf_token"),
    "secret for a name": (
        [(HEAVY + "secrets", {"A": "sekret99"})],
        HEAVY + "secrets.A",
        "the value is not the name of a secret",
        "never the secret",
    ),
    "unknown key name": (
        [(HEAVY + "api_key", HF)],
        HEAVY + "api_key",
        "not the name of a secret",
        "use one of: router_token",
    ),
    "key for sglang": (
        [(HEAVY + "engine", "sglang"), (HEAVY + "api_key", "hf_token")],
        HEAVY + "api_key",
        "cannot take an API key",
        "router",
    ),
    "relative mount": ([(FAST + "volumes", ["./m:/models"])], FAST + "volumes[0]", "'./m'", "path from"),
    "Windows mount": ([(FAST + "volumes", ["D:/m:/models"])], FAST + "volumes[0]", "Windows", "/mnt/d"),
    "mount option": ([(FAST + "volumes", ["m1:/models:z"])], FAST + "volumes[0]", "'z'", "ro, rw"),
    "mount twice": ([(FAST + "volumes", ["m1:/models", "m2:/models"])], FAST + "volumes[1]", "twice", "one volume"),
    "shm with host ipc": (
        [(HEAVY + "ipc", "host"), (HEAVY + "shm_size", "1g")],
        HEAVY + "shm_size",
        "no effect",
        "ipc: private",
    ),
    "shm size": ([(HEAVY + "shm_size", "lots")], HEAVY + "shm_size", "'lots'", "16g"),
    "restart": ([(HEAVY + "restart", "allways")], HEAVY + "restart", "'allways'", "always"),
    "time-out": ([(HEAVY + "ready_timeout", 0)], HEAVY + "ready_timeout", "0 is out", "seconds"),
    "not an address": ([(HEAVY + "publish", "localhost")], HEAVY + "publish", "'localhost'", "127.0.0.1"),
    "serve beyond loopback": ([(HEAVY + "publish", "0.0.0.0")], HEAVY + "publish", "beyond loopback", "api_key"),
    "router beyond loopback": (
        [(ROUTER + "publish", "0.0.0.0:8000"), ("anvil_secrets", {"hf_token": None})],
        ROUTER + "publish",
        "beyond",
        "token",
    ),
    "router's port alone": ([(ROUTER + "publish", 8000)], ROUTER + "publish", "'8000'", "address:port"),
    "router without image": ([(ROUTER + "image", DROP)], ROUTER + "image", "no image", "tag"),
    "tier without serve": (
        [(ROUTER + "tiers", [{"id": "x", "serve": "havy"}])],
        ROUTER + "tiers[0].serve",
        "'havy'",
        "heavy",
    ),
    "two tiers of a name": (
        [(ROUTER + "tiers", [{"id": "heavy"}, {"id": "heavy", "serve": "fast"}])],
        ROUTER + "tiers[1].id",
        "two tiers",
        "own",
    ),
    "tiers that share a variable": (
        [(ROUTER + "tiers", [{"id": "a-b", "serve": "heavy"}, {"id": "a_b", "serve": "fast"}])],
        ROUTER + "tiers[1].id",
        "ANVIL_A_B_KEY",
        "punctuation",
    ),
    "tier of nothing": ([(ROUTER + "tiers", [{}])], ROUTER + "tiers[0]", "no serve", "id: heavy"),
    "no tiers": ([(ROUTER + "tiers", [])], ROUTER + "tiers", "no tier", "anvil_serves"),
    "context too long": (
        [(ROUTER + "tiers", [{"id": "heavy", "context_limit": 200000}])],
        ROUTER + "tiers[0].context_limit",
        "131072",
        "--max-model-len",
    ),
    "unknown preset": ([(ROUTER + "presets", {"chatt": ["fast"]})], ROUTER + "presets.chatt", "'chatt'", "chat"),
    "preset of unknown tier": ([(ROUTER + "presets", {"chat": ["fst"]})], ROUTER + "presets.chat[0]", "'fst'", "fast"),
    "preset names a tier twice": (
        [(ROUTER + "presets", {"chat": ["fast", "fast"]})],
        ROUTER + "presets.chat[1]",
        "twice",
        "once",
    ),
    "share of nothing": ([(HEAVY + "gpu_memory_utilization", 1.2)], HEAVY + "gpu_memory_utilization", "1.2", "at most 1"),
    "share in words": ([(HEAVY + "gpu_memory_utilization", "most")], HEAVY + "gpu_memory_utilization", "'most'", "derive"),
    "share of llama.cpp": ([(FAST + "gpu_memory_utilization", "derive")], FAST + "gpu_memory_utilization", "llama_cpp", "vllm"),
    "share twice": (
        [(HEAVY + "gpu_memory_utilization", "derive"), (HEAVY + "args", ["--gpu-memory-utilization", "0.5"])],
        HEAVY + "gpu_memory_utilization",
        "also in args",
        "one of the two",
    ),
    "residency": ([(HEAVY + "residency", "on-demand")], HEAVY + "residency", "'on-demand'", "on_demand"),
    "tag of a serve's name": ([(HEAVY + "tags", ["fast"])], HEAVY + "tags", "the name of a serve", "another tag"),
    "empty preset": ([(ROUTER + "presets", {"chat": []})], ROUTER + "presets.chat", "no tier", "remove the preset"),
}
ROW = {"tier": "heavy", "work_class": "planning", "decision": "allow", "quality_score": 0.9, "sample_n": 4}
ROWS = {
    "unknown tier": ([{**ROW, "tier": "hevy"}], "[0].tier", "'hevy'", "heavy"),
    "work class": ([{**ROW, "work_class": "plan"}], "[0].work_class", "'plan'", "planning"),
    "decision": ([{**ROW, "decision": "yes"}], "[0].decision", "'yes'", "allow-with-verify"),
    "score": ([{**ROW, "quality_score": 1.1}], "[0].quality_score", "1.1", "0 to 1"),
    "no number": ([{**ROW, "quality_score": float("nan")}], "[0].quality_score", "nan", "0 to 1"),
    "twice": ([ROW, ROW], "[1]", "anvil_router.profile[0]", "one row"),
    "count": ([{**ROW, "sample_n": -1}], "[0].sample_n", "-1", "from 0"),
    "moment": ([{**ROW, "last_measured": "May"}], "[0].last_measured", "'May'", "2026"),
    "missing": ([{key: ROW[key] for key in ROW if key != "tier"}], "[0].tier", "no tier", "profile:"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_each_mistake_is_reported_once_with_its_key_and_a_way_out(name):
    changes, where, what, hint = MISTAKES[name]
    found = problems(*changes)
    assert [problem.where for problem in found] == [where]
    assert what in found[0].what
    assert hint in found[0].hint
    assert "sekret99" not in found[0].as_text()
    assert HF not in found[0].as_text()


@pytest.mark.parametrize("name", ROWS)
def test_a_mistake_in_the_profile_is_reported(name):
    rows, where, what, hint = ROWS[name]
    found = problems((ROUTER + "profile", rows))
    assert [problem.where for problem in found] == ["anvil_router.profile" + where]
    assert what in found[0].what
    assert hint in found[0].hint


def test_all_mistakes_come_at_once():
    found = problems((HEAVY + "gpus", ["bigg"]), (FAST + "model", DROP), ("anvil_gpus.small.uuid", "x"), ("anvil_foo", 1))
    assert {problem.where for problem in found} == {
        "anvil_serves.heavy.gpus[0]",
        "anvil_serves.fast.model",
        "anvil_gpus.small.uuid",
        "anvil_foo",
    }


def test_a_mistake_in_the_defaults_of_an_engine_is_reported_once_for_all_its_serves():
    found = problems(("anvil_engines", {"vllm": {"volumes": ["nonsense"]}}))
    assert [problem.where for problem in found] == ["anvil_engines.vllm.volumes[0]"]


def test_a_secret_in_clear_is_a_mistake_even_if_nobody_uses_it_and_even_if_secrets_are_optional():
    found = problems(facts={"router_token": "file", "hf_token": "clear"}, secrets_required=False)
    assert [(problem.where, problem.what) for problem in found] == [("anvil_secrets.hf_token", "the secret is written in clear")]


def test_a_missing_secret_is_a_mistake_only_where_its_value_is_needed():
    facts = {"router_token": "File not found.", "hf_token": "File not found."}
    assert [problem.where for problem in problems(facts=facts)] == ["anvil_secrets.router_token"]
    notes = plan(facts=facts, secrets_required=False).notes
    assert any("router_token: the secret has no value yet" in note for note in notes)
    assert any("hf_token: no key uses this secret" in note for note in notes)


def test_values_of_secrets_are_cut_out_of_every_message():
    found = problems(("anvil_secrets", {"router_token": "hunter2hunter2"}), (HEAVY + "model", "a hunter2hunter2"))
    assert all("hunter2" not in problem.as_text() for problem in found)


def test_what_could_not_be_read_brings_no_further_problems():
    assert plan((HEAVY + "model", UNREAD), (HEAVY + "gpus", UNREAD), (HEAVY + "image", UNREAD), (HEAVY + "engine", UNREAD))
    for name in BASE:
        assert plan((name, UNREAD)).host == "h"


def test_two_addresses_may_share_a_port_but_not_with_every_address():
    assert plan((FAST + "port", 30002), (FAST + "publish", "127.0.0.2"))
    found = problems((FAST + "port", 30002), (FAST + "publish", "0.0.0.0"), (FAST + "api_key", "hf_token"))
    assert [problem.where for problem in found] == ["anvil_serves.fast.port"]


def test_wsl2_pins_by_uuid_and_leaves_the_v2_runner_off():
    serve = plan(("anvil_platform", "wsl2")).serves[0]
    assert serve.environment == {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": BIG,
        "VLLM_USE_V2_MODEL_RUNNER": "0",
    }
    assert serve.gpu_uuids == (BIG,)


@pytest.mark.parametrize(
    ("platform", "pin", "visible"),
    [("linux", "device_ids", ()), ("linux", "uuid", (BIG,)), ("linux", "index", ("0",)), ("wsl2", "index", ("1",))],
)
def test_an_index_counts_the_cards_that_the_container_sees(platform, pin, visible):
    serve = plan(("anvil_platform", platform), (HEAVY + "gpu_pin", pin)).serves[0]
    assert serve.cuda_visible == visible
    assert serve.environment.get("CUDA_VISIBLE_DEVICES") == (",".join(visible) or None)


def test_a_serve_without_a_claim_takes_the_whole_budget_and_a_note_says_so():
    made = plan((HEAVY + "vram_mib", DROP))
    assert made.serves[0].vram_mib == 95839
    assert any("anvil_serves.heavy" in note and "95839" in note for note in made.notes)


def test_the_share_of_a_card_is_derived_from_its_total_memory_and_rounded_down():
    derived = plan((HEAVY + "gpu_memory_utilization", "derive"), (HEAVY + "vram_mib", 86141))
    assert derived.serves[0].args[-2:] == ("--gpu-memory-utilization", "0.88")
    assert 0.88 * 97887 <= 86141  # of the total 97887 MiB: by the budget of 95839 it would have been 0.898
    whole = plan((HEAVY + "gpu_memory_utilization", "derive"), (HEAVY + "vram_mib", DROP))
    assert whole.serves[0].args[-1] == "0.979"
    two = plan((HEAVY + "gpu_memory_utilization", "derive"), (HEAVY + "gpus", ["big", "small"]), (HEAVY + "vram_mib", 9999))
    assert two.serves[0].args[-1] == "0.102"  # one flag for two cards: the larger one decides, so neither is exceeded


def test_serves_on_demand_need_room_beside_the_resident_ones_only():
    night = {**BASE["anvil_serves"]["heavy"], "port": 30009, "vram_mib": 90000, "residency": "on_demand"}
    room = plan(("anvil_serves.night", night), (HEAVY + "residency", "evictable"))
    assert [serve.residency for serve in room.serves] == ["evictable", "resident", "on_demand"]
    (problem,) = [found for found in problems(("anvil_serves.night", night)) if "over its budget" in found.what]
    assert "serve heavy 60000 + serve night 90000 = 150000 MiB > 97887 - 2048 = 95839 MiB" in problem.what


def test_the_serve_stands_above_the_defaults_of_its_engine():
    defaults = {
        "image": "a/b:1",
        "environment": {"A": "1", "B": 2},
        "volumes": ["cache:/cache", "old:/old"],
        "args": ["--one"],
        "secrets": {"HF_TOKEN": "hf_token"},
    }
    serve = plan(
        ("anvil_engines", {"vllm": defaults}),
        (HEAVY + "environment", {"B": 3.5}),
        (HEAVY + "volumes", ["/new:/old:ro"]),
        (HEAVY + "args", ["--two", 2]),
        (HEAVY + "image", DROP),
        (HEAVY + "api_key", "router_token"),
    ).serves[0]
    assert serve.image == "a/b:1"
    assert (serve.environment["A"], serve.environment["B"]) == ("1", "3.5")
    assert [(mount.kind, mount.source, mount.read_only) for mount in serve.mounts] == [
        ("volume", "cache", False),
        ("bind", "/new", True),
    ]
    assert serve.args == ("--one", "--two", "2")
    assert serve.secrets == {"HF_TOKEN": "hf_token", "VLLM_API_KEY": "router_token"}


def test_engines_bring_their_own_defaults():
    made = plan((HEAVY + "engine", "sglang"))
    assert (made.serves[0].ipc, made.serves[0].shm_size, made.serves[0].entrypoint) == ("", "16g", ())
    assert (made.serves[1].read_only, made.serves[1].cap_drop, made.serves[1].entrypoint) == (True, ("ALL",), ())
    vllm = plan().serves[0]
    assert (vllm.ipc, vllm.shm_size, vllm.entrypoint, vllm.read_only) == ("host", "", ("vllm",), False)


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
    tier = plan((HEAVY + "publish", "::"), (HEAVY + "api_key", "hf_token")).router.tiers[0]
    assert tier.key_secret == "hf_token"


def test_moments_that_yaml_read_become_text_again():
    moment = datetime.datetime(2026, 7, 4, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
    rows = plan((ROUTER + "profile", [{**ROW, "last_measured": moment}])).router.profile
    assert rows[0].last_measured == "2026-07-04T00:00:00Z"


def test_a_bare_no_is_a_restart_policy_and_digits_in_quotes_are_a_number():
    serve = plan((HEAVY + "restart", False), (HEAVY + "port", "30002")).serves[0]
    assert (serve.restart, serve.port) == ("no", 30002)


def test_the_policy_is_part_of_the_plan_and_judges_repositories_at_once():
    commit = "b" * 40
    policy = [{"repo": "openai/gpt-oss-120b", "revision": commit}, {"sha256": "c" * 64}]
    made = plan(("anvil_models_allowed", policy), (HEAVY + "args", ["--revision", commit]))
    assert [entry.as_dict() for entry in made.models_allowed] == policy
    assert plan().models_allowed is None


def test_a_host_without_anything_has_an_empty_plan():
    made = build_plan("h", {"ansible_host": "x"}, {})
    assert (made.serves, made.router) == ((), None)
    assert len(made.notes) == 1


def test_the_plan_is_plain_data():
    assert json.loads(json.dumps(plan().as_dict()))["serves"][0]["gpu_uuids"] == [BIG]


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("HF_TOKEN", True),
        ("OPENAI_API_KEY", True),
        ("db_password", True),
        ("TOKENIZERS_PARALLELISM", False),
        ("VLLM_API_KEY_FILE", False),
        ("MAX_TOKENS", False),
        ("KEYBOARD", False),
    ],
)
def test_which_names_hold_secrets(name, secret):
    assert is_secret_name(name) is secret


# ------------------------------------------------------------------------------------------- what the cards decide

LINUX = {
    "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    "FLASHINFER_CUDA_ARCH_LIST": "12.0f",
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "TORCH_CUDA_ARCH_LIST": "12.0",
}


def _heavy(*changes):
    made = plan(("anvil_gpus.big.compute_capability", "12.0"), *changes)
    return made, made.serves[0].environment


def test_the_card_decides_where_the_inventory_is_silent():
    made, environment = _heavy()
    assert environment == LINUX
    assert any(
        "anvil_serves.heavy: set from the compute capability of its cards: TORCH_CUDA_ARCH_LIST=12.0" in note
        for note in made.notes
    )
    assert any("--kv-cache-dtype fp8" in note for note in made.notes)
    assert "TORCH_CUDA_ARCH_LIST" not in made.serves[1].environment  # llama.cpp is no PyTorch


def test_what_the_inventory_says_stands():
    _made, environment = _heavy((HEAVY + "environment", {"TORCH_CUDA_ARCH_LIST": "9.0", "PYTORCH_CUDA_ALLOC_CONF": "x:1"}))
    assert environment["TORCH_CUDA_ARCH_LIST"] == "9.0" and environment["PYTORCH_CUDA_ALLOC_CONF"] == "x:1"
    assert "PYTORCH_ALLOC_CONF" not in environment and environment["FLASHINFER_CUDA_ARCH_LIST"] == "12.0f"


def test_a_kv_type_that_is_said_is_no_note():
    made, _environment = _heavy((HEAVY + "args", ["--kv-cache-dtype=auto"]))
    assert not any("half the memory" in note for note in made.notes)


def test_wsl2_has_no_expandable_segments():
    _made, environment = _heavy(("anvil_platform", "wsl2"))
    assert "PYTORCH_ALLOC_CONF" not in environment and environment["TORCH_CUDA_ARCH_LIST"] == "12.0"


def test_all_cards_of_a_serve_are_looked_at_and_not_the_first():
    both = (HEAVY + "gpus", ["big", "small"]), (HEAVY + "vram_mib", 9000), ("anvil_serves.fast.vram_mib", 9000)
    _made, environment = _heavy(*both, ("anvil_gpus.small.compute_capability", "8.9"))
    assert (environment["TORCH_CUDA_ARCH_LIST"], environment["FLASHINFER_CUDA_ARCH_LIST"]) == ("8.9 12.0", "8.9 12.0f")
    made, environment = _heavy(*both)
    assert "TORCH_CUDA_ARCH_LIST" not in environment
    assert any("not every card has a compute_capability" in note for note in made.notes)


def test_without_a_capability_nothing_is_guessed():
    assert plan().serves[0].environment == {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    made, environment = _heavy(("anvil_gpus.big.compute_capability", "13.9"))
    assert "FLASHINFER_CUDA_ARCH_LIST" not in environment
    assert any("compute capability 13.9 is unknown" in note for note in made.notes)


@pytest.mark.parametrize("value", [12.0, "sm_120", "12", ["12.0"]])
def test_a_capability_is_two_numbers_in_quotes(value):
    assert [problem.where for problem in problems(("anvil_gpus.big.compute_capability", value))] == [
        "anvil_gpus.big.compute_capability"
    ]


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
    assert guess_generation(image) == generation


def test_a_gateway_router_has_a_route_for_each_tier_and_those_that_are_named():
    router = plan(GATEWAY, (ROUTER + "routes", {"llm.Primary": "heavy"})).router
    assert (router.generation, router.routes) == ("gateway", {"heavy": "heavy", "fast": "fast", "llm.Primary": "heavy"})
    assert plan(GATEWAY, *TWO).router.edge.check_tiers
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
    edge = plan(*TWO).router.edge
    assert [(one.service, one.container, one.address) for one in edge.replicas] == [
        ("router-1", "anvil-router-1", "10.87.213.3"),
        ("router-2", "anvil-router-2", "10.87.213.4"),
    ]
    assert (edge.image, edge.container, edge.network) == ("anvil.local/edge:1", "anvil-router-edge", "anvil-router-edge")
    assert (edge.subnet, edge.address, edge.certificates, edge.check_tiers) == ("10.87.213.0/28", "10.87.213.2", "", False)
    assert plan().router.edge is None and plan((ROUTER + "replicas", 1)).router.edge is None
