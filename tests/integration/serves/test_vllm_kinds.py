"""Kinds of serves on the real vLLM for CPUs, and what it refuses before it starts. Only `make vllm` runs these tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.catalog.sample_requests import build_router_sample
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import build_plan
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import render_host
from bed import Bed
from cpuvllm import IMAGE
from harness import run_module
from hfmodel import write_model
from serving import UNCHANGED, Field, actions
from whispermodel import write_model as write_whisper

ROUTER = "anvil.local/router:2.0.2"
CPU = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module", autouse=True)
def vllm(bed: Bed) -> None:
    if not bed.docker("images", "--quiet", IMAGE):
        pytest.skip("the image is not built; run: make vllm")


@pytest.fixture
def heavy(field: Field, models: Path) -> Field:
    """The serve heavy on vLLM. rank: a reranker by its class. plain: a model that chats."""
    write_model(models / "plain", "the plain model answers")
    write_model(models / "rank", "the reranker answers", scores=True)
    del field.serves["fast"]
    shared: dict[str, Any] = {"entrypoint": ("vllm",), "cap_drop": (), "read_only": False, "environment": CPU, "ipc": "host"}
    field.edit("heavy", engine="vllm", image=IMAGE, served_name="heavy", warmup=True, ready_timeout=900, **shared)
    return field


EAGER = ("--enforce-eager", "--max-model-len", "512")


def test_vllm_answers_the_warm_up_of_each_kind_of_its_models(heavy: Field) -> None:
    for kind, model, words in (
        ("embeddings", "plain", ("--runner", "pooling", "--convert", "embed")),
        ("rerank", "rank", ()),
        ("score", "rank", ()),
    ):
        heavy.edit("heavy", model=f"/models/{model}", kind=kind, args=(*EAGER, *words))
        done = heavy.run()
        assert not done["failed"] and done["serves"]["heavy"]["ready"], done["msg"]
        assert actions(heavy.run()) == {"heavy": UNCHANGED}
    heavy.edit("heavy", kind="chat")
    heavy.run("down")
    failed = heavy.run()
    assert failed["failed"] and "set kind of the serve" in failed["msg"], failed["msg"]


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        ((), ""),
        (("--max-num-seqs", "3000"), ""),  # the tokens of a step are the engine's own, and depend on the card
        (("--kv-cache-dtype", "fp8", "--quantization", "fp8", "--enable-sleep-mode"), ""),  # by the card
        (("--max-num-batched-tokens", "128", "--max-num-seqs", "256"), "max_num_seqs"),
        (("--gpu-memory-utilization", "1.5"), "less than or equal to 1"),
        (("--enable-lora", "--max-loras", "4", "--max-cpu-loras", "2"), "max_cpu_loras"),
    ],
)
def test_settings_that_exclude_each_other_are_refused_before_the_start(
    heavy: Field, words: tuple[str, ...], refused: str
) -> None:
    heavy.edit("heavy", model="/models/plain", args=(*EAGER, *words))
    asked = heavy.run(check=True, engine_check="always")
    assert asked["failed"] is bool(refused), asked.get("msg")
    assert not refused or ("the engine refuses the command line" in asked["msg"] and refused in asked["msg"]), asked["msg"]


def test_a_gateway_router_gives_sound_to_a_whisper_on_vllm(clean_bed: Bed, models: Path, tmp_path: Path) -> None:
    write_whisper(models / "ear", "a tiny whisper heard this")
    write_model(models / "plain", "the plain model answers")
    bridge = clean_bed.docker("network", "inspect", "--format", "{{(index .IPAM.Config 0).Gateway}}", "bridge")
    serve: dict[str, Any] = {
        "engine": "vllm",
        "image": IMAGE,
        "entrypoint": ["vllm"],
        "volumes": [f"{models}:/models:ro"],
        "environment": CPU,
        "ipc": "host",
        "ready_timeout": 900,
        "warmup": True,
    }
    variables = {
        "anvil_root": str(tmp_path / "anvil"),
        "anvil_secrets": {"router_token": None, "ear_key": None},
        "anvil_serves": {
            "plain": {**serve, "model": "/models/plain", "port": 30002, "args": list(EAGER)},
            "ear": {
                **serve,
                "model": "/models/ear",
                "served_name": "ear",
                "kind": "transcription",
                "port": 30003,
                "publish": f"{bridge}:30013",
                "insecure": True,
                "api_key": "ear_key",
                "args": ["--enforce-eager"],
            },
        },
        "anvil_router": {
            "image": ROUTER,
            "publish": "127.0.0.1:8000",
            "tiers": [{"serve": "plain"}, {"serve": "ear"}],
        },
    }
    secrets = {"router_token": "t0ken", "ear_key": "the-key-of-the-ear"}
    rendered = render_host(build_plan("bed", variables, dict.fromkeys(secrets, "file")))
    started = run_module("anvil_serve", project=rendered["serves"], secrets=secrets)
    assert not started["failed"] and started["serves"]["ear"]["ready"], started["msg"]
    asked = {"container": "anvil-router", "image": ROUTER}
    promoted = run_module("anvil_router_promote", **asked, config=rendered["router_files"]["config"])
    assert not promoted["failed"], promoted
    edge = run_module("anvil_router_edge", **rendered["edge"], secrets=secrets, settle=0.3)
    assert not edge["failed"], edge
    up = run_module("anvil_router_up", project=rendered["router"], edge="anvil-router-edge", secrets=secrets)
    assert not up["failed"], up["msg"]
    info = run_module("anvil_router_info", **asked, token="t0ken", ask=["ear", "plain"], kinds={"ear": "transcription"})
    assert not info["failed"], info["msg"]
    assert info["answers"]["ear"]["text"] == "a transcription", info["answers"]
    body = build_router_sample("transcription", "ear")
    assert body is not None
    headers = {"Authorization": "Bearer t0ken", "Content-Type": body.content_type}
    with urlopen(Request("http://127.0.0.1:8000" + body.path, body.body, headers), timeout=60) as answer:
        assert json.load(answer)["text"].strip() == "a tiny whisper heard this"
