# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The model of a serve: options of llama.cpp, servers with several models, TensorRT-LLM."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_tiers import read_context_limit
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import render_models, render_serves
from planning import FACTS, FAST, HEAVY, deploy_mode, plan, problems


def wheres(found: Any) -> list[str]:
    return [problem.where for problem in found]


SEVERAL = [
    (FAST + "model", None),
    (FAST + "args", []),
    (FAST + "models", {"small": {"model": "/models/s.gguf", "launch": {"context": 2048}}, "big": {"model": "/models/b.gguf"}}),
]


def test_launch_becomes_arguments_of_llama_cpp() -> None:
    launch = {"context": 32768, "gpu_layers": 99, "threads": 8, "batch": 512, "ubatch": 256, "flash_attn": True, "mmap": False}
    made = plan((FAST + "args", ["-np", "2"]), (FAST + "launch", launch))
    serve = next(serve for serve in made.serves if serve.name == "fast")
    told = "--ctx-size 32768 --n-gpu-layers 99 --threads 8 --batch-size 512 --ubatch-size 256 --flash-attn on -np 2"
    assert " ".join(serve.args) == told and read_context_limit(serve) == 16384
    # Its flag changed between releases; a variable that a release does not know is overlooked.
    assert (serve.environment["LLAMA_ARG_LOAD_MODE"], serve.environment["LLAMA_ARG_NO_MMAP"]) == ("none", "1")


def test_launch_of_the_engine_is_laid_under_that_of_the_serve() -> None:
    below = {"llama_cpp": {"launch": {"threads": 4, "flash_attn": "auto"}}}
    made = plan(("anvil_engines", below), (FAST + "launch", {"threads": 2}))
    serve = next(serve for serve in made.serves if serve.name == "fast")
    assert serve.args[:4] == ("--threads", "2", "--flash-attn", "auto")


def test_further_keys_come_from_a_file_beside_the_first() -> None:
    words = ["--api-key-file", "/run/keys"]
    secrets = {"router_token": None, "hf_token": None, "k": None}
    changes = [(FAST + "args", words), (FAST + "api_key", "k"), ("anvil_secrets", secrets)]
    made = plan(*changes, facts={**FACTS, "k": "vault"})
    serve = next(serve for serve in made.serves if serve.name == "fast")
    assert serve.args == tuple(words) and serve.api_key == "k" and serve.secrets["LLAMA_API_KEY"] == "k"


@pytest.mark.parametrize(
    ("path", "value", "where"),
    [
        (FAST + "launch", {"context": 8192}, FAST + "launch.context"),  # -c is in args too
        (FAST + "launch", {"flash_attn": "maybe"}, FAST + "launch.flash_attn"),
        (FAST + "launch", {"ubatch": 512, "batch": 256}, FAST + "launch.ubatch"),
        (FAST + "launch", {"ctx": 1}, FAST + "launch.ctx"),
        (FAST + "launch", {"mmap": "no"}, FAST + "launch.mmap"),
        (HEAVY + "launch", {"context": 8192}, HEAVY + "launch"),
    ],
)
def test_mistakes_in_launch(path: str, value: Any, where: str) -> None:
    assert wheres(problems((path, value))) == [where]


def test_one_server_of_several_models() -> None:
    made = plan(
        *SEVERAL,
        (FAST + "models_max", 1),
        (FAST + "idle_unload", 60),
        (FAST + "launch", {"threads": 2, "mmap": False}),
        ("anvil_router.tiers", [{"id": "heavy"}, {"id": "s", "serve": "fast"}, {"id": "b", "serve": "fast", "model": "big"}]),
    )
    serve = next(serve for serve in made.serves if serve.name == "fast")
    assert serve.args == ("--models-max", "1", "--sleep-idle-seconds", "60") and serve.served_name == "small"
    assert made.router and [tier.model for tier in made.router.tiers] == ["heavy", "small", "big"]
    text = render_models(serve)
    assert "[small]\nmodel = /models/s.gguf\nctx-size = 2048\nthreads = 2\n" in text
    assert "[big]\nmodel = /models/b.gguf\nthreads = 2\n" in text
    project = render_serves(made)
    assert project.files == {"models/fast.ini": text}
    service = project.services["fast"]
    assert service.command and service.command[:2] == ("--models-preset", "/etc/anvil-serve/models.ini")
    assert "/opt/anvil/anvil-serves/models/fast.ini" in [mount.source for mount in service.mounts]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ([(HEAVY + "models", {"a": {"model": "/a"}}), (HEAVY + "model", None)], [HEAVY + "models"]),
        ([*SEVERAL, (FAST + "model", "/models/x.gguf")], [FAST + "model"]),
        ([*SEVERAL, (FAST + "models", {"a": {}})], [FAST + "models.a.model"]),
        ([*SEVERAL, (FAST + "models", {})], [FAST + "models"]),
        ([*SEVERAL, (FAST + "models", {"a": {"model": "/models/a", "launch": {"mmap": True}}})], [FAST + "models.a.launch.mmap"]),
        ([*SEVERAL, (FAST + "served_name", "x")], [FAST + "served_name"]),
        ([(FAST + "models_max", 1)], [FAST + "models_max"]),
        (
            [*SEVERAL, ("anvil_router.tiers", [{"id": "b", "serve": "fast", "model": "bigg"}])],
            ["anvil_router.tiers[0].model"],
        ),
    ],
)
def test_mistakes_in_several_models(changes: list[tuple[str, Any]], wanted: list[str]) -> None:
    assert wheres(problems(*changes)) == wanted


def test_how_long_a_serve_is_waited_for() -> None:
    heavy, fast = plan((FAST + "ready_timeout", 60), (FAST + "ready_interval", 2), (FAST + "warmup", True)).serves
    assert (heavy.ready_timeout, heavy.interval, heavy.warmup) == (300, 5, False)
    assert (fast.ready_timeout, fast.interval, fast.warmup) == (60, 2, True)
    heavy, _fast = plan(("anvil_warmup_max_wait", 1200), ("anvil_warmup_wait_interval", 10)).serves
    assert (heavy.ready_timeout, heavy.interval) == (1200, 10)


TRT = [(HEAVY + "engine", "trtllm"), (HEAVY + "image", "nvcr.io/nvidia/tensorrt-llm/release:1.1.0")]


def test_a_serve_of_tensorrt_llm() -> None:
    engine = [(HEAVY + "model", "/engines/sm120_trt-llm-1.1.0_cuda13.0"), (HEAVY + "args", ["--max_seq_len", "8192"])]
    made = plan(*TRT, *engine)
    serve = made.serves[0]
    assert serve.served_name == "sm120_trt-llm-1.1.0_cuda13.0" and read_context_limit(serve) == 8192
    service = render_serves(made).services["heavy"]
    assert service.entrypoint == ("trtllm-serve",)
    told = "/engines/sm120_trt-llm-1.1.0_cuda13.0 --host 0.0.0.0 --port 30002 --max_seq_len 8192"
    assert " ".join(service.command or ()) == told and service.gpu_uuids
    # A release that is told a name must know the flag, so it is told one only where that was asked for.
    named = plan(*TRT, (HEAVY + "served_name", "chat"), (HEAVY + "args", [])).serves[0]
    assert named.served_name == "chat" and named.args == ("--served_model_name", "chat")
    assert plan(*TRT, (HEAVY + "args", [])).serves[0].served_name == "openai/gpt-oss-120b"


def test_tensorrt_llm_has_no_key_and_stays_on_loopback() -> None:
    assert wheres(problems(*TRT, (HEAVY + "args", []), (HEAVY + "api_key", "hf_token"))) == [HEAVY + "api_key"]
    found = problems(*TRT, (HEAVY + "args", []), (HEAVY + "publish", "10.0.0.5"), (HEAVY + "insecure", True))
    assert wheres(found) == [HEAVY + "publish"]
    changes, facts = deploy_mode("chat")
    made = plan(*changes, *TRT, (HEAVY + "args", []), facts=facts)
    assert any("heavy: trtllm takes no API key" in note for note in made.notes)
