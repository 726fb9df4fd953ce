"""The compatibility check: engine x quantisation x card x memory, every finding at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin
from ansible_collections.anvil.serving.plugins.module_utils.weights.card_facts import CardFacts
from ansible_collections.anvil.serving.plugins.module_utils.weights.compatibility import Candidate, judge_candidates
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import FULL, Attention, Layer, ModelFacts

GIB = 1024**3
TABLE = {
    75: {"int8"},
    80: {"int8", "bf16"},
    86: {"int8", "bf16"},
    89: {"int8", "bf16", "fp8"},
    90: {"int8", "bf16", "fp8"},
    100: {"int8", "bf16", "fp8", "nvfp4", "mxfp4"},
    120: {"int8", "bf16", "fp8", "nvfp4", "mxfp4"},
}


def card(sm: int, uuid: str = "GPU-1", vram: int = 97887) -> CardFacts:
    emulated = frozenset({"fp8"} if sm < 89 else ()) | frozenset({"mxfp4", "nvfp4"} if 80 <= sm < 100 else ())
    return CardFacts(uuid, f"card of sm_{sm}", sm, vram, frozenset(TABLE[sm]) if sm in TABLE else None, emulated)


def model(quantisation: str, form: str = "safetensors", gib: float = 8, **more: Any) -> ModelFacts:
    facts = ModelFacts("/models/m", form, ("m",), int(gib * GIB), quantisation=quantisation, context_length=32768)
    return replace(facts, attention=Attention((Layer(FULL, 32, 8, 128, 128),)), vocabulary=1000, **more)


def serve(facts: ModelFacts | None, engine: str = "vllm", name: str = "heavy", args: str = "", **more: Any) -> Candidate:
    return replace(Candidate(name, engine, "org/name", None, ("GPU-1",), tuple(args.split()), 0, facts), **more)


def whats(*candidates: Candidate, cards: tuple[CardFacts, ...] = (card(120),), **more: Any) -> list[str]:
    return [problem.what for problem in judge_candidates(candidates, cards, **more).problems]


@pytest.mark.parametrize(
    ("quantisation", "runs_on", "not_on"),
    [("nvfp4", (100, 120), (75, 80, 89, 90)), ("fp8", (89, 90, 100, 120), (75, 80, 86)), ("bf16", (80, 120), (75,))],
)
def test_a_quantisation_needs_its_card(quantisation: str, runs_on: tuple[int, ...], not_on: tuple[int, ...]) -> None:
    for sm in runs_on:
        assert whats(serve(model(quantisation)), cards=(card(sm),)) == []
    for sm in not_on:
        assert whats(serve(model(quantisation)), cards=(card(sm),)) == [f"{quantisation} weights do not run on this card"]


def test_every_card_of_a_serve_is_looked_at_not_only_the_first() -> None:
    two = serve(model("nvfp4"), cards=("GPU-1", "GPU-2"))
    report = judge_candidates([two], [card(120), card(89, "GPU-2")])
    assert [("GPU-2" in p.why, "sm_100" in p.why) for p in report.problems] == [(True, True)]


def test_mxfp4_is_read_by_cards_that_do_not_compute_in_it() -> None:
    report = judge_candidates([serve(model("mxfp4"))], [card(90)])
    assert report.problems == ()
    assert "computes in 16 bits" in report.notes[0]


def test_an_unknown_card_is_not_taken_for_another() -> None:
    report = judge_candidates([serve(model("nvfp4"))], [card(999)])
    assert report.problems == ()
    assert "are unknown" in report.notes[0]


@pytest.mark.parametrize(
    ("engine", "form", "fits"),
    [
        ("llama_cpp", "gguf", True),
        ("vllm", "gguf", False),
        ("sglang", "gguf", False),
        ("llama_cpp", "safetensors", False),
        ("vllm", "trtllm", False),
        ("sglang", "safetensors", True),
        ("trtllm", "safetensors", True),
        ("trtllm", "gguf", False),
    ],
)
def test_gguf_is_for_llama_cpp_only(engine: str, form: str, fits: bool) -> None:
    trt = {"label": "sm120_trt-llm-1.0_cuda12.9", "sm": 120} if form == "trtllm" else None
    assert (whats(serve(model("f16", form, trt=trt), engine)) == []) is fits


def test_a_gguf_of_any_quantisation_runs_on_an_old_card() -> None:
    assert whats(serve(model("IQ2_XS", "gguf"), "llama_cpp"), cards=(card(75),)) == []


@pytest.mark.parametrize(
    ("trt", "cards", "what"),
    [
        ({"label": "sm90_trt-llm-0.17.0_cuda12.8", "sm": 90}, (card(90),), None),
        ({"label": "sm90_trt-llm-0.17.0_cuda12.8", "sm": 90}, (card(89),), "the TensorRT-LLM engine was built for another card"),
        (
            {"label": None, "sm": None},
            (card(90),),
            "it is unknown which card the TensorRT-LLM engine was built for",
        ),
        ({"label": "x", "sm": 90, "world_size": 2}, (card(90),), "the TensorRT-LLM engine was built for another number of cards"),
    ],
)
def test_a_tensorrt_engine_runs_on_the_card_it_was_built_for(trt: dict[str, Any], cards: Any, what: str | None) -> None:
    assert whats(serve(model("fp8", "trtllm", trt=trt), "trtllm"), cards=cards) == ([what] if what else [])


@pytest.mark.parametrize(
    ("built", "host", "what"),
    [
        ("12.8", "12.8", None),
        ("12.8.1", "12.8", None),
        ("12.8", "13.0", "the TensorRT-LLM engine was built for another CUDA"),
        ("13.0", "12.8", "the TensorRT-LLM engine was built for another CUDA"),
        ("12.8", None, None),
    ],
)
def test_a_tensorrt_engine_wants_the_cuda_it_was_built_for(built: str, host: str | None, what: str | None) -> None:
    label = f"sm90_trt-llm-0.17.0_cuda{built}"
    engine = serve(model("fp8", "trtllm", trt={"label": label, "sm": 90, "cuda": built}), "trtllm")
    report = judge_candidates([engine], [card(90)], cuda=host)
    assert [problem.what for problem in report.problems] == ([what] if what else [])
    assert any("is not known" in note for note in report.notes) is (host is None)


@pytest.mark.parametrize(
    ("shares", "fine"),
    [
        ((0.9,), True),
        ((0.95,), True),
        ((0.7, 0.2), True),
        ((0.7, 0.3), False),
        ((None, 0.2), False),
        ((0.9, 0.9), False),
        ((1.5,), False),
    ],
)
def test_shares_of_a_card_add_up(shares: tuple[float | None, ...], fine: bool) -> None:
    serves = [
        serve(None, name=f"s{n}", args="" if share is None else f"--gpu-memory-utilization {share}")
        for n, share in enumerate(shares)
    ]
    assert (whats(*serves) == []) is fine


def test_a_model_that_does_not_fit_is_refused_with_the_arithmetic() -> None:
    report = judge_candidates([serve(model("bf16", gib=80), args="--max-model-len 32768")], [card(120)])
    (problem,) = report.problems
    assert problem.what == "the model does not fit its share of the card"
    assert "97,887 MiB x 0.9" in problem.why
    assert "weights: 85,899,345,920 bytes" in problem.why
    assert whats(serve(model("bf16", gib=80), args="--gpu-memory-utilization=0.97 --max-model-len 1024")) == []
    both = (card(120), card(120, "GPU-2"))
    assert whats(serve(model("bf16", gib=80), cards=("GPU-1", "GPU-2")), cards=both) == []
    assert whats(serve(model("bf16", gib=8), claim_mib=4096)) == ["the model does not fit its share of the card"]


@pytest.mark.parametrize(
    ("flag", "quantisation", "fits"),
    [
        ("awq", "bf16", False),
        ("awq_marlin", "awq", True),
        ("modelopt_fp4", "nvfp4", True),
        ("fp8", "bf16", True),
        ("gptq", "awq", False),
    ],
)
def test_a_flag_must_suit_the_weights_as_they_are(flag: str, quantisation: str, fits: bool) -> None:
    assert (whats(serve(model(quantisation), args=f"--quantization {flag}")) == []) is fits


NAME = Origin("org/name", "a" * 40)
FILE = Origin(sha256="c" * 64)


@pytest.mark.parametrize(
    ("allowed", "origin", "why"),
    [
        (None, None, None),
        ((NAME, FILE), NAME, None),
        ((NAME, FILE), FILE, None),
        ((), NAME, "org/name is not in anvil_models_allowed"),
        ((FILE,), NAME, "org/name is not in anvil_models_allowed"),
        ((NAME,), FILE, f"sha256 {'c' * 64} is not in anvil_models_allowed"),
        ((NAME,), Origin("org/name", "b" * 40), f"allowed at {'a' * 40}; this is {'b' * 40}"),
        ((NAME,), Origin("org/name", "main"), "this is main"),
        ((NAME,), Origin("org/name"), "this is no revision"),
        ((NAME,), None, ""),
        ((NAME,), Origin(), ""),
    ],
)
def test_only_what_is_allowed_may_run(allowed: Any, origin: Origin | None, why: str | None) -> None:
    problems = judge_candidates([serve(None, origin=origin)], (card(120),), allowed).problems
    assert [why in problem.why for problem in problems] == ([] if why is None else [True])


def test_all_findings_come_at_once() -> None:
    bad = serve(model("nvfp4", gib=90, missing=("model-2",), kind="adapter"), args="--max-model-len 99999 --quantization awq")
    found = whats(bad, serve(None, name="tool"), cards=(card(80),), allowed=())
    assert len(found) == 9
    assert len(set(found)) == 8


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ("--max-model-len 33k", "33000 tokens requested"),
        ("--max-model-len=32.8k", "32800 tokens requested"),
        ("--max_model_len 33K", "33792 tokens requested"),
        ("--max-model-len 32K", None),
        ("--max-model-len auto", None),
    ],
)
def test_a_context_is_read_as_vllm_reads_it(args: str, why: str | None) -> None:
    problems = judge_candidates([serve(model("bf16", gib=1), args=args)], [card(120)]).problems
    assert [str(why) in problem.why for problem in problems] == ([] if why is None else [True])
