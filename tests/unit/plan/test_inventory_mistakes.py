# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One row for each mistake that an inventory can contain: where it is reported, and the words."""

from __future__ import annotations

import pytest
from planning import BIG, DROP, FAST, HEAVY, HF, PROFILE_ROW, ROUTER, TWO_REPLICAS, problems

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
    "the edge of a router": (
        [(ROUTER + "edge", {"certificates": "/x"})],
        ROUTER + "edge",
        "edge is that of the host",
        "anvil_edge",
    ),
    "unknown edge key": ([("anvil_edge", {"certificates": "/x"})], "anvil_edge.certificates", "unknown key", "tls"),
    "edge subnet": ([("anvil_edge", {"subnet": "10.1.1.1/28"})], "anvil_edge.subnet", "not an IPv4 network", "10.87.213.0/28"),
    "public subnet": ([("anvil_edge", {"subnet": "8.8.8.0/28"})], "anvil_edge.subnet", "private", "10.87.213.0/28"),
    "small subnet": ([TWO_REPLICAS, ("anvil_edge", {"subnet": "10.1.1.0/30"})], "anvil_edge.subnet", "too few", "private"),
    "relative certificate": ([("anvil_edge", {"tls": {"certificate": "x"}})], "anvil_edge.tls.certificate", "'x'", "absolute"),
    "a key without its certificate": (
        [("anvil_edge", {"tls": [{"key": "/x"}]})],
        "anvil_edge.tls[0].certificate",
        "is missing",
        "host.pem",
    ),
    "edge health": ([("anvil_edge", {"health": "tier"})], "anvil_edge.health", "'tier'", "did you mean tiers?"),
    "edge image": ([("anvil_edge", {"image": "haproxy"})], "anvil_edge.image", "neither a tag nor a digest", "sha256"),
    "an origin with a path": (
        [("anvil_edge", {"cors": ["https://a/b"]})],
        "anvil_edge.cors[0]",
        "'https://a/b'",
        "without a path",
    ),
    "every origin": ([("anvil_edge", {"cors": ["*"]})], "anvil_edge.cors[0]", "'*'", "origin"),
    "metrics for all": ([("anvil_edge", {"metrics": "0.0.0.0:1"})], "anvil_edge.metrics", "need no key", "loopback"),
    "a client without keys": ([("anvil_clients", {"al": {}})], "anvil_clients.al.keys", "no key", "al_key"),
    "a client with a clear key": ([("anvil_clients", {"al": {"keys": [HF]}})], "anvil_clients.al.keys[0]", "the value", "never"),
    "a key of two clients": (
        [("anvil_clients", {"al": {"keys": ["hf_token"]}, "bo": {"keys": ["hf_token"]}})],
        "anvil_clients.bo.keys",
        "also the key of al",
        "of its own",
    ),
    "a client of no tier": (
        [("anvil_clients", {"al": {"keys": ["hf_token"], "tiers": ["havy"]}})],
        "anvil_clients.al.tiers[0]",
        "havy is neither",
        "heavy",
    ),
    "a limit of nothing": (
        [("anvil_clients", {"al": {"keys": ["hf_token"], "requests_per_minute": 0}})],
        "anvil_clients.al.requests_per_minute",
        "out of range",
        "1 to",
    ),
    "a path with dots": ([(ROUTER + "paths", ["GET /v1/../x"])], ROUTER + "paths[0]", "not valid", "without query"),
    "an escaped path": ([(ROUTER + "paths", ["GET /%2e"])], ROUTER + "paths[0]", "not valid", "without query"),
    "a path without a method": ([(ROUTER + "paths", ["/metrics"])], ROUTER + "paths[0]", "'/metrics'", "POST /tokenize"),
    "container of a replica": (
        [TWO_REPLICAS, (FAST + "container", "anvil-router-2")],
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
        "serve heavy 60000 + serve fast 50000 = 110000 MiB; the GPU has 97887 - 2048 reserve = 95839 MiB",
        "smaller vram_mib",
    ),
    "VRAM of one": (
        [(HEAVY + "vram_mib", 96000)],
        HEAVY + "vram_mib",
        "96000 MiB; the GPU has 97887 - 2048 reserve",
        "95839 MiB",
    ),
    "VRAM without GPU": ([(HEAVY + "gpus", DROP)], HEAVY + "vram_mib", "no GPU", "gpus"),
    "args as text": ([(HEAVY + "args", "--a b")], HEAVY + "args", "one piece of text", "[--a, b]"),
    "args with a boolean": ([(HEAVY + "args", ["--a", True])], HEAVY + "args[1]", "the boolean true", "quotes"),
    "two words in one": ([(HEAVY + "args", ["--max-num-seqs 4"])], HEAVY + "args[0]", "one argument", "--max-num-seqs, 4"),
    "args set the port": ([(HEAVY + "args", ["--port", "1"])], HEAVY + "args[0]", "--port", "key port"),
    "args set the name": (
        [(HEAVY + "args", ["--served_model_name=x"])],
        HEAVY + "args[0]",
        "served-model",
        "served_name",
    ),
    "args set the beginning of a name": (
        [(HEAVY + "args", ["--served-model", "x"])],
        HEAVY + "args[0]",
        "--served-model-name",
        "served_name",
    ),
    "args set the beginning of a port": ([(HEAVY + "args", ["--por=1"])], HEAVY + "args[0]", "--port itself", "key port"),
    "args name a file of a hub": ([(FAST + "args", ["-hff", "a.gguf"])], FAST + "args[0]", "-hff itself", "key model"),
    "args name a repository of Docker": (
        [(FAST + "args", ["--docker-repo", "ai/x"])],
        FAST + "args[0]",
        "--docker-repo",
        "key model",
    ),
    "args name a model of llama-server": (
        [(FAST + "args", ["--fim-qwen-1.5b-default"])],
        FAST + "args[0]",
        "1.5b-default itself",
        "model",
    ),
    "a variable names a repository": (
        [(FAST + "environment", {"LLAMA_ARG_HF_REPO": "a/b"})],
        FAST + "environment.LLAMA_ARG_HF_REPO",
        "another model",
        "remove it",
    ),
    "a variable names a URL": (
        [(FAST + "environment", {"LLAMA_ARG_MODEL_URL": "https://a/b.gguf"})],
        FAST + "environment.LLAMA_ARG_MODEL_URL",
        "another model",
        "remove it",
    ),
    "a serve that speaks gRPC": ([(HEAVY + "args", ["--grpc"])], HEAVY + "args", "not answer HTTP", "remove --grpc"),
    "a serve without a server": ([(HEAVY + "args", ["--headless"])], HEAVY + "args", "not answer HTTP", "remove --headless"),
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
    "keys in args": ([(FAST + "args", ["--api-keys", "sekret99"])], FAST + "args[0]", "--api-keys", "secrets"),
    "password in one word": (
        [(HEAVY + "environment", {"PGPASSWORD": "sekret99"})],
        HEAVY + "environment.PGPASSWORD",
        "clear",
        "PG",
    ),
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
    "unknown security key": (
        [(HEAVY + "security", {"privileged": True})],
        HEAVY + "security.privileged",
        "unknown key",
        "no_new_privileges",
    ),
    "unknown capability": ([(HEAVY + "security", {"cap_drop": ["NET"]})], HEAVY + "security.cap_drop[0]", "'NET'", "NET_RAW"),
    "user with a space": ([(HEAVY + "security", {"user": "a b"})], HEAVY + "security.user", "'a b'", "10001:10001"),
    "relative tmpfs": ([(HEAVY + "security", {"tmpfs": ["x"]})], HEAVY + "security.tmpfs[0]", "'x'", "absolute"),
    "shm size": ([(HEAVY + "shm_size", "lots")], HEAVY + "shm_size", "'lots'", "16g"),
    "restart": ([(HEAVY + "restart", "allways")], HEAVY + "restart", "'allways'", "always"),
    "time-out": ([(HEAVY + "ready_timeout", 0)], HEAVY + "ready_timeout", "0 is out", "seconds"),
    "not an address": ([(HEAVY + "publish", "localhost")], HEAVY + "publish", "'localhost'", "127.0.0.1"),
    "serve beyond loopback": (
        [(HEAVY + "publish", "10.0.0.5"), (HEAVY + "insecure", True)],
        HEAVY + "publish",
        "beyond loopback",
        "api_key",
    ),
    "serve on every address": (
        [(HEAVY + "publish", "0.0.0.0"), (HEAVY + "insecure", True), (HEAVY + "api_key", "hf_token")],
        HEAVY + "publish",
        "where the serve itself listens",
        "0.0.0.0:30102",
    ),
    "serve without TLS": (
        [(HEAVY + "publish", "10.0.0.5"), (HEAVY + "api_key", "hf_token")],
        HEAVY + "publish",
        "without TLS",
        "insecure: true",
    ),
    "serve on loopback with another port": (
        [(HEAVY + "publish", "127.0.0.1:1")],
        HEAVY + "publish",
        "listens on its own port",
        "without a port",
    ),
    "router without TLS": ([(ROUTER + "publish", "0.0.0.0:8000")], ROUTER + "publish", "without TLS", "anvil_edge"),
    "router beyond loopback": (
        [(ROUTER + "publish", "0.0.0.0:8000"), (ROUTER + "insecure", True), ("anvil_secrets", {"hf_token": None})],
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
        [(HEAVY + "gpu_memory_utilization", "derive"), (HEAVY + "args", ["--device-memory-utilization", "0.5"])],
        HEAVY + "gpu_memory_utilization",
        "also in args",
        "one of the two",
    ),
    "idle of a resident serve": ([(HEAVY + "idle", "30m")], HEAVY + "idle", "only for a serve on demand", "on_demand"),
    "idle without a unit that is known": (
        [(HEAVY + "idle", "30 weeks"), (HEAVY + "residency", "on_demand")],
        HEAVY + "idle",
        "'30 weeks'",
        "30m",
    ),
    "residency": ([(HEAVY + "residency", "on-demand")], HEAVY + "residency", "'on-demand'", "on_demand"),
    "tag of a serve's name": ([(HEAVY + "tags", ["fast"])], HEAVY + "tags", "the name of a serve", "another tag"),
    "empty preset": ([(ROUTER + "presets", {"chat": []})], ROUTER + "presets.chat", "no tier", "remove the preset"),
}


ROWS = {
    "unknown tier": ([{**PROFILE_ROW, "tier": "hevy"}], "[0].tier", "'hevy'", "heavy"),
    "work class": ([{**PROFILE_ROW, "work_class": "plan"}], "[0].work_class", "'plan'", "planning"),
    "decision": ([{**PROFILE_ROW, "decision": "yes"}], "[0].decision", "'yes'", "allow-with-verify"),
    "score": ([{**PROFILE_ROW, "quality_score": 1.1}], "[0].quality_score", "1.1", "0 to 1"),
    "no number": ([{**PROFILE_ROW, "quality_score": float("nan")}], "[0].quality_score", "nan", "0 to 1"),
    "twice": ([PROFILE_ROW, PROFILE_ROW], "[1]", "anvil_router.profile[0]", "one row"),
    "count": ([{**PROFILE_ROW, "sample_n": -1}], "[0].sample_n", "-1", "from 0"),
    "moment": ([{**PROFILE_ROW, "last_measured": "May"}], "[0].last_measured", "'May'", "2026"),
    "missing": ([{key: PROFILE_ROW[key] for key in PROFILE_ROW if key != "tier"}], "[0].tier", "no tier", "profile:"),
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


def test_a_mistake_in_the_defaults_of_an_engine_is_reported_once_for_all_its_serves():
    found = problems(("anvil_engines", {"vllm": {"volumes": ["nonsense"]}}))
    assert [problem.where for problem in found] == ["anvil_engines.vllm.volumes[0]"]
