"""Checks before a model is downloaded: whether the policy allows it, and what its headers on the hub describe."""

from __future__ import annotations

import hashlib
import json
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bed import Bed, Gpu
from harness import run_module
from hub import Hub
from pulling import Puller

MIB = 1024 * 1024
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "max_position_embeddings": 4096,
    "vocab_size": 100,
}
ADA = Gpu("GPU-11111111-1111-1111-1111-111111111111", "NVIDIA L40S", 46068, compute_cap="8.9")


def safetensors(dtype: str, size: int, width: int = 1, padding: int = 0) -> bytes:
    """A safetensors file with one tensor; padding: the number of spaces after its header."""
    shape = [size // width]
    header = json.dumps({"a.weight": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}).encode() + b" " * padding
    return len(header).to_bytes(8, "little") + header + bytes(size)


def gguf(vocabulary: int, elements: int) -> bytes:
    """A GGUF 3 file with a vocabulary of 20-byte tokens and one F32 tensor."""

    def text(word: bytes) -> bytes:
        return struct.pack("<Q", len(word)) + word

    tokens = b"".join(text(b"%020d" % number) for number in range(vocabulary))
    values = [
        text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama"),
        text(b"llama.context_length") + struct.pack("<II", 4, 2048),
        text(b"llama.block_count") + struct.pack("<II", 4, 1),
        text(b"tokenizer.ggml.tokens") + struct.pack("<IIQ", 9, 8, vocabulary) + tokens,
    ]
    tensor = text(b"token_embd.weight") + struct.pack("<IQIQ", 1, elements, 0, 0)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(values)) + b"".join(values) + tensor
    return head + bytes(-len(head) % 32) + bytes(4 * elements)


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()
    yield made
    made.close()


@pytest.fixture
def puller(bed: Bed, hub: Hub, tmp_path: Path) -> Puller:
    return Puller(hub, tmp_path / "models")


# -------------------------------------------------------------------------------------------------------------- policy


def test_a_model_that_is_not_allowed_is_refused_before_any_request(puller: Puller, hub: Hub) -> None:
    commit = hub.add("org/name", {"config.json": b"{}"})
    allowed = [{"repo": "org/name", "revision": commit}]
    other = [{"repo": "org/other", "revision": commit}]
    older = [{"repo": "org/name", "revision": "0" * 40}]
    for check in (True, False):
        for policy, revision in ((other, commit), (other, "main"), (older, commit), ([], "main")):
            refused = puller.run(check=check, allowed=policy, revision=revision)
            assert refused["failed"] and "the model is not allowed" in refused["msg"], refused
    assert hub.requests == [] and not puller.folder.exists()

    moved = puller.run(allowed=older)  # the policy applies to the branch's commit, which only the hub knows
    assert moved["failed"] and f"allowed at {'0' * 40}; this is {commit}" in moved["msg"]
    assert hub.fetched("config.json") == [] and not puller.target.exists()

    assert puller.run(allowed=allowed)["commit"] == commit
    assert not puller.run(allowed=allowed)["changed"]
    assert "the model is not allowed" in puller.run(allowed=older)["msg"]  # downloaded already, and no longer allowed
    assert "the model is not allowed" in puller.run(state="verified", allowed=older)["msg"]
    assert not puller.run(state="verified", allowed=allowed)["failed"]
    assert puller.run(state="absent", allowed=older)["changed"]


def test_files_and_archives_are_allowed_by_their_checksum(puller: Puller, hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    archive = tmp_path / "m.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(tmp_path / "config.json", "config.json")
    right = hashlib.sha256(archive.read_bytes()).hexdigest()
    by_hand = {"repo": None, "name": "m", "copy_from": str(archive)}
    assert "origin of the weights is unknown" in puller.run(**by_hand, allowed=[{"sha256": right}])["msg"]
    assert "not allowed" in puller.run(**by_hand, sha256=right, allowed=[{"sha256": "0" * 64}])["msg"]
    assert puller.run(**by_hand, sha256=right, allowed=[{"sha256": right}])["changed"]
    incomplete = puller.run(**by_hand, allowed=[{"repo": "org/name"}])
    assert incomplete["failed"] and "revision" in incomplete["msg"]


def test_the_origin_of_weights_at_a_path_is_read_from_their_manifest(puller: Puller, hub: Hub) -> None:
    commit = hub.add("org/name", {"m.gguf": gguf(2, 64)})
    assert puller.run()["changed"]
    mount = {"kind": "bind", "source": str(puller.folder), "target": "/models", "read_only": True}
    serve = {"name": "a", "engine": "llama_cpp", "model": "/models/org/name/m.gguf", "mounts": [mount], "args": []}

    def judge(policy: list[dict[str, str]] | None, **plan: Any) -> list[str]:
        told = run_module("anvil_compatibility", plan={"serves": [serve], **plan}, models_allowed=policy, gpus=[], enforce=False)
        assert not told["failed"], told
        return [finding["what"] for finding in told["findings"]]

    assert judge([{"repo": "org/name", "revision": commit}]) == []
    assert judge([{"repo": "org/name", "revision": "0" * 40}]) == ["the model is not allowed"]
    assert judge(None, models_allowed=[]) == ["the model is not allowed"]  # the policy of the inventory's plan
    beside, record = puller.target / ".anvil-model.json", puller.record / "manifest.json"
    beside.write_text(beside.read_text().replace(commit, "0" * 40))  # a container may write this copy: it says nothing
    assert judge([{"repo": "org/name", "revision": "0" * 40}]) == ["the model is not allowed"]
    record.unlink()
    assert judge([{"repo": "org/name", "revision": "0" * 40}]) == [
        "the origin of the weights is unknown, so they are not allowed"
    ]


# ---------------------------------------------------------------------------------------------------------- inspection


def test_a_repository_is_described_by_its_headers_alone(puller: Puller, hub: Hub) -> None:
    shards = {
        f"model-0000{n}-of-00002.safetensors": safetensors("BF16", 6 * MIB, 2, padding) for n, padding in ((1, 0), (2, 2 * MIB))
    }
    index = {"weight_map": {f"t{n}": name for n, name in enumerate(shards)}}
    files = {"config.json": json.dumps(LLAMA).encode(), "model.safetensors.index.json": json.dumps(index).encode(), **shards}
    commit = hub.add("org/name", {**files, "tokenizer.json": bytes(5 * MIB), "consolidated.safetensors": bytes(9 * MIB)})
    told = run_module("anvil_model_info", repo="org/name", endpoint=hub.endpoint, context=1024)
    assert not told["failed"], told
    (model,) = told["models"]
    assert (model["architecture"], model["quantisation"], model["weights_bytes"]) == ("LlamaForCausalLM", "bf16", 12 * MIB)
    assert model["path"] == f"org/name@{commit}" and told["commit"] == commit and model["missing"] == []
    assert told["bytes"] == sum(len(content) for content in files.values()) + 14 * MIB
    asked = {name: hub.fetched(name) for name in (*shards, "tokenizer.json", "consolidated.safetensors")}
    second = 8 + len(shards["model-00002-of-00002.safetensors"]) - 6 * MIB - 8
    assert asked == {
        "model-00001-of-00002.safetensors": [f"bytes=0-{MIB - 1}"],
        "model-00002-of-00002.safetensors": [f"bytes=0-{MIB - 1}", f"bytes={MIB}-{second - 1}"],
        "tokenizer.json": [],
        "consolidated.safetensors": [],
    }
    assert not puller.folder.exists()


def test_a_repository_in_mistrals_own_format_is_described(puller: Puller, hub: Hub) -> None:
    params = {"dim": 1024, "n_layers": 2, "head_dim": 128, "n_heads": 8, "n_kv_heads": 2, "vocab_size": 100}
    hub.add("org/name", {"params.json": json.dumps(params).encode(), "consolidated.safetensors": safetensors("BF16", 2 * MIB, 2)})
    told = run_module("anvil_model_info", repo="org/name", endpoint=hub.endpoint, context=1024)
    assert not told["failed"], told
    assert (told["models"][0]["layers"], told["models"][0]["kv_bytes_per_token"]) == (2, 2 * 2 * 256 * 2)


def test_a_gguf_with_a_large_vocabulary_is_fetched_until_its_header_is_complete(puller: Puller, hub: Hub) -> None:
    large = gguf(80_000, 4 * MIB)  # a header of 2.1 MiB, 16 MiB of data
    hub.add("org/name", {"a-Q8_0.gguf": large, "b-Q4_K_M.gguf": gguf(2, MIB), "README.md": b"x"})
    info = {"repo": "org/name", "endpoint": hub.endpoint}
    several = run_module("anvil_model_info", **info)
    assert several["failed"] and "a-Q8_0.gguf, b-Q4_K_M.gguf" in several["msg"] and "anvil-preview" not in several["msg"]
    for one in ({"path": "a-Q8_0.gguf"}, {"allow": ["*Q8_0*"]}):
        hub.requests.clear()
        told = run_module("anvil_model_info", **info, **one)
        assert (told["models"][0]["vocabulary"], told["models"][0]["parameters"]) == (80_000, 4 * MIB)
        assert hub.fetched("a-Q8_0.gguf") == [f"bytes=0-{MIB - 1}", f"bytes={MIB}-{16 * MIB - 1}"]
        assert hub.fetched("b-Q4_K_M.gguf") == []


def test_a_file_on_the_hub_that_is_not_a_model_is_reported_without_our_folder(puller: Puller, hub: Hub) -> None:
    hub.add("org/name", {"config.json": b"{}", "model.safetensors": b"version https://git-lfs" + bytes(5000)})
    told = run_module("anvil_model_info", repo="org/name", endpoint=hub.endpoint)
    assert told["failed"] and "not a usable safetensors file" in told["msg"] and "anvil-preview" not in told["msg"]
    assert "org/name/model.safetensors" in told["msg"]


def test_weights_that_are_only_on_the_hub_are_checked(puller: Puller, hub: Hub, clean_bed: Bed, tmp_path: Path) -> None:
    clean_bed.write_gpus((ADA,))
    config = json.dumps(LLAMA).encode()
    nvfp4 = {"config.json": config, "hf_quant_config.json": b'{"quantization": {"quant_algo": "NVFP4"}}'}
    hub.add("org/nvfp4", {**nvfp4, "model.safetensors": safetensors("U8", 3 * MIB)})
    hub.add("org/single", {"m.gguf": gguf(10, MIB)})
    mount = {"kind": "volume", "source": "anvil-models", "target": "/models", "read_only": True}
    common = {"mounts": [mount], "gpu_uuids": [ADA.uuid], "args": []}
    serves = [
        {"name": "fast", "engine": "sglang", "model": "org/nvfp4", **common},
        {"name": "tool", "engine": "vllm", "model": "/models/single", **common, "args": ["--gpu-memory-utilization", "0"]},
        {"name": "gone", "engine": "vllm", "model": "org/gone", **common, "args": ["--gpu-memory-utilization", "0"]},
    ]
    ask = {"plan": {"serves": serves}, "models": [{"repo": "org/single", "name": "single"}], "enforce": False}
    told = run_module("anvil_compatibility", endpoint=hub.endpoint, **ask)
    found = {(finding["what"], finding["where"].split(":")[0]) for finding in told["findings"]}
    assert found >= {
        ("nvfp4 weights may not run on this card", "serve fast"),
        ("vllm serves gguf weights of some architectures only", "serve tool"),
        ("there is no such repository", "serve gone"),
    }
    assert told["serves"]["fast"]["fetch_bytes"] > 3 * MIB and told["serves"]["tool"]["format"] == "gguf"
    assert hub.fetched("model.safetensors") == [f"bytes=0-{MIB - 1}"]
    assert clean_bed.docker("volume", "ls", "--quiet") == ""

    for unreachable in ({"endpoint": "http://127.0.0.1:9"}, {"client": "/no/python"}):
        told = run_module("anvil_compatibility", **ask, **unreachable)
        assert not any("nvfp4" in finding["what"] for finding in told["findings"])
        assert sum("the hub cannot be reached" in note or "client is missing" in note for note in told["notes"]) == 3
    hub.requests.clear()
    run_module("anvil_compatibility", endpoint=hub.endpoint, inspect=False, **ask)
    assert hub.requests == []
