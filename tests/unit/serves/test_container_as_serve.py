"""Serves offered for containers that people started by hand: each offer is valid and contains no secret."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import build_plan
from ansible_collections.anvil.serving.plugins.module_utils.serves.container_as_serve import offer_serve
from ansible_collections.anvil.serving.plugins.plugin_utils.report.offered_inventory import lay_out_offer, write_offers

CARD = "GPU-04d3b6e7-5691-3e86-1d34-c37999440cf1"
KEY = "sk-aaaabbbbccccddddeeee"


def container(*command: str, entrypoint: tuple[str, ...] = (), image: str = "vllm/vllm-openai:v1", **more: Any) -> dict[str, Any]:
    ports = {f"{more.pop('port', 8000)}/tcp": [{"HostIp": "127.0.0.1", "HostPort": "30002"}]}
    host = {"PortBindings": ports, "IpcMode": "private", "ShmSize": 1 << 26, **more.pop("host", {})}
    config = {"Image": image, "Cmd": list(command), "Entrypoint": list(entrypoint), "Env": more.pop("env", [])}
    return {"Id": "a" * 64, "Name": "/old", "Config": config, "HostConfig": host, "Mounts": more.pop("mounts", [])}


VLLM = ("python3", "-m", "vllm.entrypoints.openai.api_server")
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vllm serve": (
        container("org/m", "--served-model-name", "s", "t", "--max-model-len", "32768", entrypoint=("vllm", "serve")),
        {"engine": "vllm", "model": "org/m", "served_name": "s", "port": 30002, "args": ["--max-model-len", "32768"]},
    ),
    "vllm's api server with a key": (
        container("--model=org/m", "--port", "8000", "--api-key", KEY, "--enable-prefix-caching", entrypoint=VLLM),
        {"engine": "vllm", "model": "org/m", "api_key": "mine_api_key", "args": ["--enable-prefix-caching"]},
    ),
    "one word for a shell, with variables": (
        container(
            f"pip install x && exec vllm serve $MODEL --port ${{PORT:-8000}} --api-key {KEY} --dtype half 2>&1 | tee /log",
            entrypoint=("/bin/bash", "-lc"),
            env=["MODEL=org/m"],
        ),
        {"engine": "vllm", "model": "org/m", "api_key": "mine_api_key", "args": ["--dtype", "half"], "port": 30002},
    ),
    "variables before the server, and an init": (
        container("--", "/usr/bin/env", "VLLM_USE_V1=1", f"A_TOKEN={KEY}", "vllm", "serve", "org/m",
                  entrypoint=("/usr/bin/tini",)),
        {"engine": "vllm", "model": "org/m", "environment": {"VLLM_USE_V1": "1"}, "secrets": {"A_TOKEN": "mine_a_token"}},
    ),
    "sglang": (
        container("python3", "-m", "sglang.launch_server", "--model-path", "org/m", "--host", "0.0.0.0", "--port", "8000",
                  "--tp", "2", image="lmsysorg/sglang:v1", host={"ShmSize": 32 << 30}),
        {"engine": "sglang", "model": "org/m", "args": ["--tp", "2"], "shm_size": "32768m"},
    ),
    "llama.cpp with a token of the hub": (
        container("-m", "/m/x.gguf", "-hft", "hf_secret-of-no-shape", "-c", "-1", "-ngl", "99", image="ggml-org/llama.cpp:server",
                  entrypoint=("/app/llama-server",), port=8080,
                  mounts=[{"Type": "bind", "Source": "/srv/m", "Destination": "/m", "RW": False},
                          {"Type": "volume", "Name": "b" * 64, "Destination": "/cache", "RW": True}]),
        {"engine": "llama_cpp", "model": "/m/x.gguf", "args": ["-c", "-1", "-ngl", "99"], "volumes": ["/srv/m:/m:ro"],
         "secrets": {"HF_TOKEN": "mine_hf_token"}},
    ),
    "a range of ports, of which the Docker Engine chose one": (
        {**container("org/m", entrypoint=("vllm", "serve"), host={"PortBindings": {"8000/tcp": [{"HostPort": "30000-30009"}]}}),
         "NetworkSettings": {"Ports": {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": "30002"}]}}},
        {"engine": "vllm", "port": 30002},
    ),
    "a model after a flag": (
        container("vllm", "serve", "--port", "8000", "org/m"),
        {"engine": "vllm", "model": "org/m", "port": 30002},
    ),
    "llama.cpp by its variables": (
        container(image="ggml-org/llama.cpp:server", entrypoint=("/app/llama-server",), port=8081,
                  env=["LLAMA_ARG_MODEL=/m/x.gguf", "LLAMA_ARG_PORT=8081", "LLAMA_ARG_HOST=0.0.0.0", "LLAMA_ARG_CTX_SIZE=4096"]),
        {"engine": "llama_cpp", "model": "/m/x.gguf", "port": 30002, "environment": {"LLAMA_ARG_CTX_SIZE": "4096"}},
    ),
    "llama.cpp by flags, which count before its variables": (
        container("-m", "/m/y.gguf", image="ggml-org/llama.cpp:server", entrypoint=("/app/llama-server",), port=8080,
                  env=["LLAMA_ARG_MODEL=/m/x.gguf"]),
        {"engine": "llama_cpp", "model": "/m/y.gguf", "environment": None},
    ),
    "llama.cpp's image with all tools": (
        container("--server", "-m", "/m/x.gguf", "-c", "8", image="ggml-org/llama.cpp:full",
                  entrypoint=("/app/tools.sh",), port=8080),
        {"engine": "llama_cpp", "model": "/m/x.gguf", "args": ["-c", "8"]},
    ),
    "an ordinary token, limits, and two secrets of one name": (
        container("org/m", "--eos-token", "2", "--api-key", KEY, entrypoint=("vllm", "serve"), env=["API_KEY=another-secret"],
                  host={"Memory": 8 << 30, "PidsLimit": 512, "ShmSize": "x", "RestartPolicy": "always", "Devices": "x"}),
        {"engine": "vllm", "args": ["--eos-token", "2"], "mem_limit": "8192m", "pids_limit": 512, "api_key": "mine_api_key",
         "secrets": {"API_KEY": "mine_api_key_2"}},
    ),
    "trtllm": (
        container("trtllm-serve", "org/m", "--host", "0.0.0.0", image="nvcr.io/nvidia/tensorrt-llm/release:1"),
        {"engine": "trtllm", "model": "org/m"},
    ),
    "the flags of an image's own entrypoint": (
        container("--model", "org/m", image="ghcr.io/me/vllm-patched:1", entrypoint=("/entry.sh",)),
        {"engine": "vllm", "model": "org/m"},
    ),
    "secrets of the environment": (
        container("org/m", entrypoint=("vllm", "serve"), env=[f"VLLM_API_KEY={KEY}", "HF_TOKEN=abc", "PLAIN=1", "PATH=/bin"]),
        {"api_key": "mine_api_key", "secrets": {"HF_TOKEN": "mine_hf_token"}, "environment": {"PLAIN": "1"}},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_container_becomes_a_serve_that_the_inventory_accepts(name: str) -> None:
    raw, expected = CASES[name]
    offer = offer_serve("mine", raw, (), {}, {CARD: 32607}, [CARD])
    assert {key: offer.serve.get(key) for key in expected} == expected
    text = lay_out_offer("mine", offer.as_dict())
    assert KEY not in text and "secret-of-no-shape" not in text and "abc" not in json.dumps(offer.as_dict())
    secrets = {"anvil_secrets": dict.fromkeys(offer.secrets, "x")}
    plan = build_plan("h", {**yaml.safe_load(text), **secrets}, dict.fromkeys(offer.secrets, "vault"))
    (serve,) = plan.serves
    assert serve.gpu_uuids == (CARD,) and serve.bind == "127.0.0.1" and serve.container == "old"


def test_a_command_of_an_unknown_engine_is_noted_without_its_secrets() -> None:
    offer = offer_serve("mine", container("serve.py", "--api-key", "s3cret", image="me/own:1"))
    assert "engine" not in offer.serve and "serve.py --api-key <hidden>" in offer.notes[0]


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (
            [
                "bash",
                "-c",
                "set -e\npip install x && export HF_TOKEN=sekret-9 && exec python3 -m sglang.launch_server --model m",
            ],
            "of the command, write environment or an image for it: set -e ; pip install x && export HF_TOKEN=<hidden> &&",
        ),
        (
            ["llama-server", "-mu", "https://store.example/m.gguf?token=sekret-9"],
            "secret: -mu https://store.example/m.gguf?token=<hidden>",
        ),
        (["numactl", "--cpunodebind=0", "vllm", "serve", "m"], "write environment or an image for it: numactl --cpunodebind=0"),
        (
            ["sh", "-c", "vllm serve a --port 8000 & vllm serve b --api-key sekret-9 & wait"],
            "starts another server too, which needs a serve of its own: & vllm serve b --api-key <hidden>",
        ),
        (["python3", "-m", "llama_cpp.server", "--model", "/m.gguf", "--n_ctx", "4096"], "use engine custom"),
        (["python", "-c", "import os; os.environ['HF_TOKEN'] = 'sekret-9'"], "of no engine that is known"),
    ],
)
def test_omitted_options_are_noted_without_their_secrets(words: list[str], note: str) -> None:
    offer = offer_serve("mine", container(*words)).as_dict()
    assert any(note in one for one in offer["notes"]) and "sekret-9" not in json.dumps(offer)


def test_host_networking_and_an_address_beyond_loopback_are_noted() -> None:
    raw = container("org/m", "--port", "9001", entrypoint=("vllm", "serve"), host={"NetworkMode": "host", "PortBindings": {}})
    offer = offer_serve("mine", raw, uuids=["0"])
    assert offer.serve["port"] == 9001 and any("0.0.0.0" in note for note in offer.notes)
    assert any("0 is no card" in note for note in offer.notes)


def test_a_value_that_looks_like_a_template_is_marked_unsafe() -> None:
    raw = container("org/m", "--chat-template", "{{ lookup('pipe', 'id') }}", entrypoint=("vllm", "serve"))
    assert '!unsafe "{{ lookup' in lay_out_offer("mine", offer_serve("mine", raw).as_dict())


def test_an_edited_file_is_never_replaced(tmp_path: Path) -> None:
    assert write_offers(tmp_path, {"a": "one\n"}, check=True) == ([str(tmp_path / "a.yml")], True)
    assert write_offers(tmp_path, {"a": "one\n"}, check=False)[1] and not write_offers(tmp_path, {"a": "one\n"}, check=False)[1]
    with pytest.raises(AnvilError, match="exists and has another content"):
        write_offers(tmp_path, {"a": "two\n", "b": "x\n"}, check=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.yml"]
