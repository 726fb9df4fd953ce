"""Kinds of serves on the real vLLM for CPUs, and what it refuses before it starts. Only `make vllm` runs these tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from bed import Bed
from cpuvllm import IMAGE
from hfmodel import write_model
from serving import UNCHANGED, Field, actions

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
    field.edit("heavy", engine="vllm", image=IMAGE, served_name="heavy", warmup=True, ready_timeout=240, **shared)
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
