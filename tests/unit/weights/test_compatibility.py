"""The compatibility check: engine x quantisation x card x memory, every finding at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engine_options import OPTIONS
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin
from ansible_collections.anvil.serving.plugins.module_utils.core.findings import DOUBTFUL, IMPOSSIBLE, UNKNOWN, Finding
from ansible_collections.anvil.serving.plugins.module_utils.weights.candidate import Candidate
from ansible_collections.anvil.serving.plugins.module_utils.weights.card_facts import CardFacts, describe_card
from ansible_collections.anvil.serving.plugins.module_utils.weights.compatibility import judge_candidates
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import FULL, Attention, Layer, ModelFacts
from hypothesis import given, settings
from hypothesis import strategies as st

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


def judge(*candidates: Candidate, cards: tuple[CardFacts, ...] = (card(120),), **more: Any) -> list[Finding]:
    return list(judge_candidates(candidates, cards, **more).findings)


def verdicts(*candidates: Candidate, **more: Any) -> list[tuple[str, str]]:
    """(verdict, what) of every finding that is more than a note."""
    return [(one.verdict, one.problem.what) for one in judge(*candidates, **more) if one.verdict != UNKNOWN]


def notes(*candidates: Candidate, **more: Any) -> str:
    return "\n".join(one.as_text() for one in judge(*candidates, **more) if one.verdict == UNKNOWN)


# (engine, quantisation, --dtype) -> the verdict on cards that do not compute in the type; every newer card is fine.
@pytest.mark.parametrize(
    ("engine", "quantisation", "args", "by_card"),
    [
        ("vllm", "nvfp4", "", {75: DOUBTFUL, 80: UNKNOWN, 89: UNKNOWN, 90: UNKNOWN}),
        ("vllm", "mxfp4", "", {75: DOUBTFUL, 80: UNKNOWN, 90: UNKNOWN}),
        ("vllm", "fp8", "", {75: UNKNOWN, 80: UNKNOWN, 86: UNKNOWN}),
        ("vllm", "bf16", "", {75: DOUBTFUL}),
        ("vllm", "bf16", "--dtype half", {}),
        ("vllm", "bf16", "--dtype=float16", {}),
        ("vllm", "f16", "", {}),
        ("vllm", "bf16", "--dtype bfloat16", {75: IMPOSSIBLE}),
        ("vllm", "f16", "--dtype bfloat16", {75: IMPOSSIBLE}),
        ("vllm", "awq", "", {}),
        ("sglang", "bf16", "--dtype bfloat16", {75: UNKNOWN}),
        ("sglang", "nvfp4", "", {75: DOUBTFUL, 80: DOUBTFUL, 90: DOUBTFUL}),
        ("sglang", "fp8", "", {75: DOUBTFUL, 80: UNKNOWN, 86: UNKNOWN}),
        ("trtllm", "mxfp4", "", {80: DOUBTFUL, 90: UNKNOWN}),
        ("trtllm", "fp8", "", {86: DOUBTFUL}),
    ],
)
def test_the_card_decides_the_verdict_on_a_quantisation_type(
    engine: str, quantisation: str, args: str, by_card: dict[int, str]
) -> None:
    for sm in (75, 80, 86, 89, 90, 100, 120):
        if sm in by_card or not by_card or sm > max(by_card):
            found = [one.verdict for one in judge(serve(model(quantisation), engine, args=args), cards=(card(sm),))]
            assert found == ([by_card[sm]] if sm in by_card else []), (sm, found)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_int8_activations_are_doubtful_on_cards_after_hopper(engine: str) -> None:
    doubted = {75: False, 80: False, 90: False, 100: engine != "trtllm", 120: engine != "trtllm"}
    for sm, doubt in doubted.items():
        found = [one.verdict for one in judge(serve(model("int8"), engine), cards=(card(sm),))]
        assert found == ([DOUBTFUL] if doubt else []), sm
    assert judge(serve(model("w8a16"), engine), cards=(card(120),)) == []


@pytest.mark.parametrize(
    ("method", "quantisation", "sm", "verdict"),
    [
        ("awq", "awq", 70, DOUBTFUL),
        ("awq", "awq", 75, None),
        ("modelopt", "fp8", 80, DOUBTFUL),
        ("modelopt", "fp8", 89, None),
        ("fp8", "fp8", 80, UNKNOWN),
        ("compressed-tensors", "fp8", 80, UNKNOWN),
    ],
)
def test_some_quantisation_methods_of_vllm_need_a_minimum_card(
    method: str, quantisation: str, sm: int, verdict: str | None
) -> None:
    found = judge(serve(model(quantisation, quant_method=method)), cards=(card(sm),))
    assert [one.verdict for one in found] == ([verdict] if verdict else [])


@pytest.mark.parametrize(
    ("architecture", "engine", "args", "what"),
    [
        ("Gemma3ForConditionalGeneration", "vllm", "--dtype half", "vLLM does not run this model in float16"),
        ("Gemma2ForCausalLM", "vllm", "--dtype=float16", "vLLM does not run this model in float16"),
        ("Glm4ForCausalLM", "vllm", "--dtype float16", "vLLM does not run this model in float16"),
        ("Gemma3nForConditionalGeneration", "vllm", "--dtype half", None),
        ("Glm4MoeForCausalLM", "vllm", "--dtype half", None),
        ("Gemma3ForCausalLM", "vllm", "--dtype bfloat16", None),
        ("Gemma3ForCausalLM", "sglang", "--dtype half", None),
        ("LlamaForCausalLM", "vllm", "--dtype half", None),
    ],
)
def test_some_models_do_not_fit_float16(architecture: str, engine: str, args: str, what: str | None) -> None:
    found = verdicts(serve(model("bf16", architecture=architecture), engine, args=args))
    assert found == ([(DOUBTFUL, what)] if what else [])
    if engine == "vllm" and "half" in args and what:
        (told,) = judge(serve(model("bf16", architecture=architecture)), cards=(card(75),))
        assert told.problem.hint == "add --dtype float32 to args"


def test_bf16_on_a_card_without_it_gets_a_hint_with_the_flag() -> None:
    (found,) = judge(serve(model("bf16")), cards=(card(75),))
    assert found.problem.hint == "add --dtype half to args"


def test_every_card_of_a_serve_is_checked() -> None:
    two = serve(model("nvfp4"), "sglang", cards=("GPU-1", "GPU-2"), args="--tp 2")
    found = judge(two, cards=(card(120), card(89, "GPU-2")))
    assert [("GPU-2" in one.problem.why, "sm_100" in one.problem.why) for one in found] == [(True, True)]


def test_an_unknown_card_gives_an_unknown_verdict() -> None:
    (found,) = judge(serve(model("nvfp4")), cards=(card(999),))
    assert found.verdict == UNKNOWN and "are unknown" in found.problem.what


@pytest.mark.parametrize(
    ("engine", "form", "verdict"),
    [
        ("llama_cpp", "gguf", None),
        ("vllm", "gguf", DOUBTFUL),
        ("sglang", "gguf", DOUBTFUL),
        ("llama_cpp", "safetensors", IMPOSSIBLE),
        ("vllm", "trtllm", IMPOSSIBLE),
        ("sglang", "safetensors", None),
        ("trtllm", "safetensors", None),
        ("trtllm", "gguf", IMPOSSIBLE),
        ("vllm", "pytorch", None),
        ("sglang", "pytorch", None),
        ("llama_cpp", "pytorch", IMPOSSIBLE),
        ("vllm", "bin", UNKNOWN),
        ("other", "safetensors", UNKNOWN),
    ],
)
def test_an_engine_loads_only_its_own_formats(engine: str, form: str, verdict: str | None) -> None:
    trt = {"label": "sm120_trt-llm-1.0_cuda12.9", "sm": 120} if form == "trtllm" else None
    found = [one.verdict for one in judge(serve(model("f16", form, trt=trt), engine, args="-ngl all -c 4096"))]
    assert found == ([verdict] if verdict else [])


@pytest.mark.parametrize(
    ("engine", "quantisation", "verdict"),
    [
        ("vllm", "exl2", IMPOSSIBLE),
        ("sglang", "exl3", IMPOSSIBLE),
        ("vllm", "mlx", IMPOSSIBLE),
        ("trtllm", "mlx", IMPOSSIBLE),
        ("vllm", "eetq", DOUBTFUL),
        ("vllm", "w4a8_awq", DOUBTFUL),
        ("trtllm", "w4a8_awq", None),
        ("vllm", "auto-round", None),
        ("vllm", "torchao", None),
        ("other", "exl2", UNKNOWN),
    ],
)
def test_weights_quantised_for_another_engine_are_found(engine: str, quantisation: str, verdict: str | None) -> None:
    assert [one.verdict for one in judge(serve(model(quantisation), engine))] == ([verdict] if verdict else [])


def test_tensor_types_of_a_fork_are_doubtful_for_llama_cpp() -> None:
    facts = model("type 156", "gguf", unknown_types=("type 156",))
    assert verdicts(serve(facts, "llama_cpp")) == [(DOUBTFUL, "llama.cpp does not know the types of the tensors")]


@pytest.mark.parametrize("kind", ["mmproj", "adapter", "vocab", "imatrix", "control_vector", "codec", "draft", "other"])
def test_a_file_that_is_not_a_model_is_refused(kind: str) -> None:
    ((verdict, what),) = verdicts(serve(model("F16", "gguf", kind=kind), "llama_cpp"))
    assert verdict == IMPOSSIBLE and kind in what


@pytest.mark.parametrize(
    ("engine", "form", "kind", "args", "planned", "hint"),
    [
        ("vllm", "safetensors", "embeddings", "", "chat", "set kind: embeddings in anvil_serves.heavy"),
        ("vllm", "safetensors", "rerank", "", "chat", "set kind: rerank in anvil_serves.heavy"),
        ("vllm", "safetensors", "score", "", "chat", "set kind: score in anvil_serves.heavy"),
        ("vllm", "safetensors", "transcription", "", "chat", "set kind: transcription in anvil_serves.heavy"),
        ("vllm", "safetensors", "embeddings", "", "embeddings", None),
        ("vllm", "safetensors", "embeddings", "", "", None),  # the serve declares no kind
        ("vllm", "safetensors", "embeddings", "--runner generate", "chat", None),
        ("vllm", "safetensors", "embeddings", "--runner pooling", "embeddings", None),
        ("sglang", "safetensors", "embeddings", "", "chat", None),  # it generates text unless --is-embedding is given
        ("llama_cpp", "gguf", "embeddings", "", "chat", "add --embeddings to args"),
        ("llama_cpp", "gguf", "rerank", "", "chat", "add --reranking to args"),
        ("llama_cpp", "gguf", "rerank", "--reranking", "rerank", None),
        ("vllm", "safetensors", "text", "", "chat", None),
    ],
)
def test_a_model_that_cannot_chat_is_doubtful_for_a_chat_serve(
    engine: str, form: str, kind: str, args: str, planned: str, hint: str | None
) -> None:
    found = [
        one for one in judge(serve(model("f16", form, kind=kind), engine, args=args, kind=planned)) if one.verdict != UNKNOWN
    ]
    assert [(one.verdict, one.problem.hint) for one in found] == ([(DOUBTFUL, hint)] if hint else [])


@pytest.mark.parametrize(
    ("engine", "form", "architecture", "kind", "args", "planned", "hint"),
    [
        ("llama_cpp", "gguf", "llama", "text", "", "embeddings", "add --embeddings to args"),
        ("llama_cpp", "gguf", "bert", "embeddings", "", "embeddings", "add --embeddings to args"),
        ("llama_cpp", "gguf", "qwen3", "rerank", "", "rerank", "add --reranking to args"),
        ("llama_cpp", "gguf", "bert", "embeddings", "--embeddings", "embeddings", ""),
        ("vllm", "safetensors", "LlamaForCausalLM", "text", "", "embeddings", "add --runner pooling to args"),
        ("vllm", "safetensors", "LlamaForCausalLM", "text", "--runner pooling", "embeddings", ""),
        ("vllm", "safetensors", "LlamaForCausalLM", "text", "--config /c.yaml", "embeddings", ""),  # it may say so
        ("vllm", "safetensors", "Qwen3ForCausalLM", "embeddings", "", "embeddings", ""),
        ("sglang", "safetensors", "Qwen3ForCausalLM", "embeddings", "", "embeddings", "add --is-embedding to args"),
        ("sglang", "safetensors", "Qwen3ForCausalLM", "embeddings", "--is-embedding", "embeddings", ""),
        ("sglang", "safetensors", "XLMRobertaModel", "embeddings", "", "embeddings", ""),
        ("sglang", "safetensors", "XLMRobertaModel", "embeddings", "", "chat", "set kind: embeddings in anvil_serves.heavy"),
        ("sglang", "safetensors", "BertForSequenceClassification", "rerank", "", "chat", "set kind: rerank"),
    ],
)
def test_an_engine_that_serves_another_kind_than_planned_is_doubtful(
    engine: str, form: str, architecture: str, kind: str, args: str, planned: str, hint: str
) -> None:
    facts = model("f16", form, kind=kind, architecture=architecture)
    found = [one for one in judge(serve(facts, engine, args=args, kind=planned)) if one.verdict != UNKNOWN]
    assert [one.verdict for one in found] == ([DOUBTFUL] if hint else [])
    assert all(hint in str(one.problem.hint) for one in found)


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_an_engine_that_runs_on_the_cpu_needs_no_card(engine: str) -> None:
    two = serve(model("bf16", gib=500), engine, args="--device cpu", cards=("GPU-1", "GPU-2"))
    (found,) = judge(two, cards=(card(75), card(75, "GPU-2")))
    assert found.verdict == UNKNOWN and "--device cpu" in found.problem.what


def test_a_gguf_of_any_quantisation_runs_on_an_old_card() -> None:
    assert judge(serve(model("IQ2_XS", "gguf"), "llama_cpp", args="-ngl 99 -c 4096"), cards=(card(75),)) == []


SM90 = {"label": "sm90_trt-llm-0.17.0_cuda12.8", "sm": 90, "cuda": "12.8"}


@pytest.mark.parametrize(
    ("trt", "cards", "cuda", "found"),
    [
        (SM90, (card(90),), "12.8", []),
        (SM90, (card(89),), "12.8", [(IMPOSSIBLE, "the TensorRT-LLM engine was built for another card")]),
        ({"label": None, "sm": None}, (card(90),), "12.8", []),
        (
            {**SM90, "world_size": 2},
            (card(90),),
            "12.8",
            [(IMPOSSIBLE, "the TensorRT-LLM engine was built for another number of cards")],
        ),
        ({**SM90, "cuda": "12.8.1"}, (card(90),), "12.8", []),
        (SM90, (card(90),), "13.0", [(DOUBTFUL, "the TensorRT-LLM engine was built for another CUDA")]),
        (SM90, (card(90),), None, []),
    ],
)
def test_a_tensorrt_engine_runs_on_the_cards_it_was_built_for(trt: dict[str, Any], cards: Any, cuda: Any, found: Any) -> None:
    assert verdicts(serve(model("fp8", "trtllm", trt=trt), "trtllm"), cards=cards, cuda=cuda) == found


def test_unknown_properties_of_a_tensorrt_engine_are_notes() -> None:
    engine = serve(model("fp8", "trtllm", trt={"label": None, "sm": None}), "trtllm")
    assert "it is unknown which card" in notes(engine, cards=(card(90),))
    assert "the CUDA of the host is not known" in notes(serve(model("fp8", "trtllm", trt=SM90), "trtllm"), cards=(card(90),))


@pytest.mark.parametrize(
    ("shares", "verdict"),
    [
        (("0.9",), None),
        (("0.95",), None),
        (("0.7", "0.2"), None),
        (("0.7", "0.3"), DOUBTFUL),
        (("", "0.2"), DOUBTFUL),
        (("0.9", "0.9"), DOUBTFUL),
        (("1.5",), IMPOSSIBLE),
        (("0",), IMPOSSIBLE),
        (("-0.5",), IMPOSSIBLE),
        (("0.7 --kv-cache-memory-bytes 1G", "0.3"), None),
    ],
)
def test_the_memory_shares_of_serves_on_a_card_are_summed(shares: tuple[str, ...], verdict: str | None) -> None:
    serves = [
        serve(None, name=f"s{n}", args=f"--gpu-memory-utilization {share}" if share else "") for n, share in enumerate(shares)
    ]
    found = verdicts(*serves)
    assert (found[0][0] if found else None) == verdict


def one_card(gib: float, args: str, **more: Any) -> list[tuple[str, str]]:
    return verdicts(serve(model("bf16", gib=gib), args=args, **more))


WEIGHTS = "the weights do not fit the card"
SHARE = "the model does not fit its share of the card"


def test_only_the_weights_give_a_certain_verdict_and_findings_show_the_arithmetic() -> None:
    (found,) = judge(serve(model("bf16", gib=80), args="--max-model-len 32768"))
    assert (found.verdict, found.problem.what) == (DOUBTFUL, SHARE)
    assert "97,887 MiB x 0.9" in found.problem.why and "weights: 85,899,345,920 bytes" in found.problem.why
    assert one_card(96, "--max-model-len 1024") == [(IMPOSSIBLE, WEIGHTS)]
    assert one_card(80, "--gpu-memory-utilization 0.8 --max-model-len 1024") == [(IMPOSSIBLE, WEIGHTS)]
    assert one_card(80, "--gpu-memory-utilization=0.97 --max-model-len 1024") == []
    assert one_card(8, "--max-model-len 1024", claim_mib=4096) == [(DOUBTFUL, SHARE)]
    assert one_card(80, "--max-model-len auto --gpu-memory-utilization 0.96") == []
    assert one_card(96, "--cpu-offload-gb 20 --max-model-len 1024") == []


@pytest.mark.parametrize(
    ("quantisation", "args"),
    [
        ("bf16", "--quantization fp8"),
        ("bf16", "--quantization nvfp4_per_token"),
        ("bf16", '--quantization-config {"linear":"fp8_per_tensor"}'),
        ("bf16", "--quantization-config.linear fp8_per_tensor"),
        ("bf16", "--load-format bitsandbytes"),
        ("f32", ""),
        ("bf16", "--mm-encoder-only"),
        ("bf16", "--language-model-only"),
        ("bf16", "--offload-group-size 8"),
        ("bf16", '--hf-overrides {"num_hidden_layers":2}'),
        ("bf16", "--hf-overrides.text_config.num_hidden_layers 2"),
        ("bf16", '--limit-mm-per-prompt {"image":0,"video":0}'),
        ("bf16", "--limit-mm-per-prompt.image 0"),
    ],
)
def test_weights_that_may_shrink_during_loading_are_never_impossible(quantisation: str, args: str) -> None:
    assert IMPOSSIBLE not in [verdict for verdict, _what in verdicts(serve(model(quantisation, gib=120), args=args))]


def test_experts_that_stay_on_the_cpu_are_not_judged() -> None:
    args = "--kt-method AMXINT4 --kt-weight-path /models/kt --kt-num-gpu-experts 0"
    assert verdicts(serve(model("fp8", gib=600, experts=256), "sglang", args=args)) == []


def test_uneven_pipeline_stages_are_never_certain() -> None:
    pair = serve(model("bf16", gib=60), args="-pp 2 --max-model-len 1024", cards=("GPU-1", "GPU-2"))
    cards = (card(90), card(86, "GPU-2", 24564))
    assert verdicts(pair, cards=cards) == [(IMPOSSIBLE, WEIGHTS)]
    uneven = replace(pair, environment={"VLLM_PP_LAYER_PARTITION": "26,6"})
    assert verdicts(uneven, cards=cards) == [(DOUBTFUL, SHARE)]


def test_pickled_weights_are_never_certain() -> None:
    assert verdicts(serve(model("bf16", "pytorch", gib=120), args="--max-model-len 1024")) == [(DOUBTFUL, SHARE)]


def test_sglang_starts_with_a_cache_of_any_size() -> None:
    small = (card(86, vram=12288),)
    facts = replace(model("bf16", gib=8), context_length=131072)
    assert verdicts(serve(facts, "sglang"), cards=small) == []
    assert "does not hold one request of 131,072 tokens" in notes(serve(facts, "sglang"), cards=small)
    assert verdicts(serve(facts, "sglang", args="--context-length 131072"), cards=small) == [(DOUBTFUL, SHARE)]
    capped = serve(facts, "sglang", args="--context-length 131072 --max-total-tokens 8192")
    assert verdicts(capped, cards=small) == [] and "--max-total-tokens 8192" in notes(capped, cards=small)
    assert verdicts(serve(replace(facts, weights_bytes=12 * GIB - 1), "sglang"), cards=small) == [(DOUBTFUL, SHARE)]


def test_the_share_of_sglang_covers_only_weights_and_cache() -> None:
    facts = model("bf16", gib=16)
    cards = (card(90, vram=20480),)  # 16,384 MiB of weights and 128 MiB of cache are 0.806 of the card
    assert verdicts(serve(facts, "sglang", args="--context-length 1024 --mem-fraction-static 0.81"), cards=cards) == []
    assert verdicts(serve(facts, "sglang", args="--context-length 1024 --mem-fraction-static 0.80"), cards=cards) == [
        (DOUBTFUL, SHARE)
    ]


@pytest.mark.parametrize(
    ("engine", "flag"),
    [("vllm", "--disable-hybrid-kv-cache-manager"), ("sglang", "--disable-hybrid-swa-memory"), ("llama_cpp", "--swa-full")],
)
def test_a_flag_makes_window_layers_keep_every_token(engine: str, flag: str) -> None:
    form = "gguf" if engine == "llama_cpp" else "safetensors"
    facts = replace(model("f16", form), attention=Attention((Layer("window", 32, 8, 128, 128, 1024),)))
    sizes = []
    for args in ("", flag):
        args += " -ngl 99 -c 32768" if engine == "llama_cpp" else ""
        report = judge_candidates([serve(facts, engine, args=args)], [card(120)])
        sizes.append(report.rows["heavy"]["vram"]["cache_mib"])
    assert sizes[1] == 4096 and sizes[0] < 2000


@pytest.mark.parametrize(
    ("args", "environment", "refused"),
    [
        ("-ctv q8_0 -fa off", {}, True),
        ("-ctv q8_0", {"LLAMA_ARG_FLASH_ATTN": "0"}, True),
        ("-ctv q8_0 -fa on", {}, False),
        ("-ctv q8_0 -fa", {}, False),
        ("-ctv q8_0", {}, False),
        ("-ctk q8_0 -fa off", {}, False),
        ("-ctv f16 -fa 0", {}, False),
    ],
)
def test_llama_cpp_quantises_values_only_with_flash_attention(args: str, environment: dict[str, str], refused: bool) -> None:
    found = verdicts(serve(model("Q4_K_M", "gguf", gib=4), "llama_cpp", args=args, environment=environment))
    assert [verdict for verdict, _what in found] == ([IMPOSSIBLE] if refused else [])


def test_an_uncounted_projector_is_a_note() -> None:
    args = "-ngl 99 -c 4096 --mmproj /models/mmproj.gguf"
    assert "projector (--mmproj)" in notes(serve(model("Q4_K_M", "gguf", gib=4), "llama_cpp", args=args))


def test_a_given_cache_size_replaces_the_share() -> None:
    assert one_card(80, "--max-model-len 8192 --kv-cache-memory-bytes 2G --gpu-memory-utilization 0.5") == []
    assert one_card(80, "--max-model-len 8192 --kv-cache-memory-bytes 20G") == [(DOUBTFUL, SHARE)]
    ((verdict, what),) = one_card(8, "--max-model-len 32768 --kv-cache-memory-bytes 100M")
    assert verdict == DOUBTFUL and "one request of the full context" in what


@pytest.mark.parametrize(
    ("engine", "word", "known"),
    [
        *[("vllm", word, True) for word in ("auto", "bfloat16", "float16", "fp8", "fp8_inc", "fp8_ds_mla", "FP8_E4M3", "nvfp4")],
        *[("sglang", word, True) for word in ("bf16", "fp8_e5m2", "fp4_e2m1", "mxfp8", "fp4_mx_block16")],
        ("vllm", "turboquant_k8v4", False),
    ],
)
def test_an_unknown_kv_type_counts_as_two_bytes_with_a_note(engine: str, word: str, known: bool) -> None:
    candidate = serve(model("fp8", gib=1), engine, args=f"--kv-cache-dtype {word}")
    assert verdicts(candidate) == []
    assert ("counted as 2 bytes" in notes(candidate)) is not known


EIGHT = tuple(card(90, f"GPU-{number}", 81559) for number in range(8))


@pytest.mark.parametrize(
    ("engine", "args", "verdict"),
    [
        ("vllm", "-dp 8", None),  # tensor x data ranks divide the experts
        ("vllm", "-dp 8 --enable-expert-parallel", None),
        ("vllm", "-dp 16 -dpl 8 --enable-expert-parallel", None),
        ("vllm", "-tp 8", None),
        ("sglang", "--tp 8 --dp 8 --enable-dp-attention", None),
        ("sglang", "--tp 1 --dp 8", IMPOSSIBLE),  # each rank has a copy of everything
    ],
)
def test_ranks_share_the_experts_of_a_model(engine: str, args: str, verdict: str | None) -> None:
    facts = model("bf16", gib=230, experts=128)
    facts = replace(facts, parts=replace(facts.parts, experts=220 * GIB, attention=4 * GIB))
    found = verdicts(serve(facts, engine, args=args, cards=tuple(one.uuid for one in EIGHT)), cards=EIGHT)
    assert [verdict for verdict, _what in found] == ([verdict] if verdict else [])
    unseen = serve(model("bf16", gib=600, experts=128), "vllm", args="-dp 8", cards=tuple(one.uuid for one in EIGHT))
    assert IMPOSSIBLE not in [verdict for verdict, _what in verdicts(unseen, cards=EIGHT)]


@pytest.mark.parametrize(
    ("engine", "args", "experts", "hint"),
    [
        ("vllm", "-tp 8", 128, "add --enable-expert-parallel, or set a smaller -tp"),
        ("vllm", "-tp 2 -dp 4", 128, "add --enable-expert-parallel, or set a smaller -tp"),
        ("vllm", "-tp 8 --enable-expert-parallel", 128, None),
        ("vllm", "-tp 4 -pp 2", 128, None),
        ("sglang", "--tp 8", 128, "add --ep-size 8, or set a smaller --tp"),
        ("sglang", "--tp 8 --ep 2", 128, None),
        ("trtllm", "--tp_size 8", 128, None),
        ("vllm", "-tp 8", None, "set a smaller -tp"),
    ],
)
def test_fp8_blocks_must_divide_evenly_over_the_cards(engine: str, args: str, experts: int | None, hint: str | None) -> None:
    facts = model("fp8", gib=1, experts=experts, block=128, width=1536)
    found = judge(serve(facts, engine, args=args, cards=tuple(one.uuid for one in EIGHT)), cards=EIGHT)
    told = [(one.verdict, one.problem.hint) for one in found if one.verdict != UNKNOWN]
    assert told == ([(DOUBTFUL, hint)] if hint else [])


@pytest.mark.parametrize(
    ("engine", "word", "sm", "verdict"),
    [
        ("vllm", "nvfp4", 90, DOUBTFUL),
        ("vllm", "nvfp4", 100, None),
        ("sglang", "fp4_e2m1", 89, DOUBTFUL),
        ("vllm", "fp8", 80, None),
    ],
)
def test_a_4_bit_cache_needs_blackwell(engine: str, word: str, sm: int, verdict: str | None) -> None:
    found = verdicts(serve(model("f16"), engine, args=f"--kv-cache-dtype {word}"), cards=(card(sm),))
    assert [verdict for verdict, _what in found] == ([verdict] if verdict else [])


@pytest.mark.parametrize(
    ("version", "engine", "quantisation", "args", "what"),
    [
        ("7.0", "vllm", "bf16", "", "bf16 weights run on this card in float16 only"),
        ("7.0", "vllm", "bf16", "--dtype half", None),
        ("7.0", "vllm", "fp8", "", "fp8 weights may not run on this card"),
        ("7.0", "vllm", "gptq", "", None),
        ("7.0", "sglang", "f16", "", "the card is too old for sglang"),
        ("6.1", "vllm", "f16", "", "the card is too old for vllm"),
        ("6.1", "llama_cpp", "Q4_K_M", "-ngl 99 -c 4096", None),
    ],
)
def test_cards_older_than_the_table_are_judged(version: str, engine: str, quantisation: str, args: str, what: str | None) -> None:
    form = "gguf" if engine == "llama_cpp" else "safetensors"
    old = describe_card("GPU-1", "an old card", version, 32768)
    found = judge(serve(model(quantisation, form, gib=4), engine, args=args), cards=(old,))
    assert [(one.verdict, one.problem.what) for one in found] == ([(DOUBTFUL, what)] if what else [])


def test_a_model_with_overridden_sizes_is_not_measured() -> None:
    found = judge(serve(model("bf16", gib=600), args='--load-format dummy --hf-overrides {"num_hidden_layers":4}'))
    assert [(one.verdict, "num_hidden_layers" in one.problem.what) for one in found] == [(UNKNOWN, True)]
    scaled = '--hf-overrides {"text_config":{"rope_parameters":{"rope_type":"yarn","factor":2.0}}} --max-model-len 1024'
    assert verdicts(serve(model("bf16", gib=600), args=scaled)) == [(IMPOSSIBLE, WEIGHTS)]


TWO = (card(120), card(120, "GPU-2"))
NUMBER = "the parallel sizes do not make the number of cards"


@pytest.mark.parametrize(
    ("engine", "gib", "args", "found"),
    [
        ("vllm", 100, "-tp 2", []),
        ("vllm", 100, "-pp 2", []),
        ("vllm", 100, "-dp 2", [(IMPOSSIBLE, WEIGHTS)]),
        ("vllm", 60, "-dp 2 --max-model-len 4096", []),
        ("vllm", 8, "", [(IMPOSSIBLE, NUMBER)]),
        ("vllm", 100, "", [(IMPOSSIBLE, NUMBER), (IMPOSSIBLE, WEIGHTS)]),
        ("vllm", 100, "-tp 4", [(IMPOSSIBLE, NUMBER)]),
        ("vllm", 8, "-tp 4 --nnodes 2", []),
        ("vllm", 8, "--config /cfg/vllm.yaml", []),
        ("vllm", 8, "-tp 2 -dcp 2", []),
        ("vllm", 8, "-tp 2 -dcp 3", [(IMPOSSIBLE, "the engine refuses its parallel sizes")]),
        ("sglang", 100, "--tp 2 --dp 2 --enable-dp-attention", []),
        ("sglang", 8, "--tp 2 --dp 2", [(IMPOSSIBLE, NUMBER)]),
        ("trtllm", 100, "--tp_size 2", []),
        ("trtllm", 100, "", [(IMPOSSIBLE, NUMBER), (IMPOSSIBLE, WEIGHTS)]),
        ("other", 8, "", []),
    ],
)
def test_the_parallel_split_decides_the_memory_on_each_card(
    engine: str, gib: float, args: str, found: list[tuple[str, str]]
) -> None:
    assert verdicts(serve(model("bf16", gib=gib), engine, args=args, cards=("GPU-1", "GPU-2")), cards=TWO) == found


@pytest.mark.parametrize(
    ("heads", "kv_heads", "args", "verdict"),
    [
        (28, 4, "-tp 8", IMPOSSIBLE),
        (28, 4, "-tp 4 -pp 2", None),
        (32, 8, "-tp 8", None),
        (24, 6, "-tp 8", DOUBTFUL),
        (32, 2, "-tp 8", None),
        (None, 8, "-tp 8", None),
    ],
)
def test_heads_must_divide_evenly_over_the_cards(heads: int | None, kv_heads: int, args: str, verdict: str | None) -> None:
    cards = tuple(card(120, f"GPU-{n}") for n in range(8))
    facts = replace(model("bf16", heads=heads, layers=28), attention=Attention((Layer(FULL, 28, kv_heads, 128, 128),)))
    found = verdicts(serve(facts, args=args, cards=tuple(one.uuid for one in cards)), cards=cards)
    assert (found[0][0] if found else None) == verdict


@pytest.mark.parametrize(
    ("args", "environment", "gib", "found"),
    [
        ("", {}, 200, []),  # llama.cpp chooses unset values so that the model fits
        ("-fit on", {}, 200, []),
        ("-ngl auto", {}, 200, []),
        ("-ngl 0 -c 8192", {}, 200, []),
        ("-ngl 20 -c 8192", {}, 200, []),  # a part stays in the host's memory
        ("--cpu-moe -ngl 99 -c 8192", {}, 200, []),
        ("--fit off -c 8192", {}, 200, [(IMPOSSIBLE, "the weights do not fit the cards")]),
        ("-ngl 99", {}, 200, [(IMPOSSIBLE, "the weights do not fit the cards")]),
        ("-c 8192", {"LLAMA_ARG_N_GPU_LAYERS": "all"}, 200, [(IMPOSSIBLE, "the weights do not fit the cards")]),
        ("-c 8192 -ngl all", {"GGML_CUDA_ENABLE_UNIFIED_MEMORY": "1"}, 200, []),
        ("-ngl all -c 8192", {}, 100, []),
        ("-ngl all -c 8192 -ts 9,1", {}, 120, [(DOUBTFUL, SHARE)]),
        ("-ngl all -c 8192 -sm none", {}, 100, [(DOUBTFUL, "only one of the 2 cards is used"), (IMPOSSIBLE, WEIGHTS)]),
        ("-ngl all -c 8192 -sm none -mg 2", {}, 10, [(IMPOSSIBLE, "the main card does not exist")]),
        ("-ngl all -c 8192 -dev CUDA1", {}, 100, [(IMPOSSIBLE, WEIGHTS)]),
        ("-ngl all -c 8192 -dev Vulkan0", {}, 100, []),
    ],
)
def test_llama_cpp_splits_a_model_over_the_cards_by_default(
    args: str, environment: dict[str, str], gib: float, found: list[tuple[str, str]]
) -> None:
    facts = model("Q4_K_M", "gguf", gib=gib, layers=80)
    assert verdicts(serve(facts, "llama_cpp", args=args, environment=environment, cards=("GPU-1", "GPU-2")), cards=TWO) == found


def test_a_cache_in_the_hosts_memory_does_not_count() -> None:
    facts = replace(model("Q4_K_M", "gguf", gib=4, layers=32), context_length=131072)
    small = (card(86, vram=12288),)
    args = "-ngl 99 -c 131072"
    assert verdicts(serve(facts, "llama_cpp", args=args), cards=small) == [(DOUBTFUL, SHARE)]
    assert verdicts(serve(facts, "llama_cpp", args=args + " -nkvo"), cards=small) == []
    assert verdicts(serve(facts, "llama_cpp", args="-ngl 99"), cards=small) == []
    assert "4096 tokens were judged" in notes(serve(facts, "llama_cpp", args="-ngl 99"), cards=small)


@pytest.mark.parametrize(
    ("flag", "quantisation", "fits"),
    [
        ("awq", "bf16", False),
        ("awq_marlin", "awq", True),
        ("awq-marlin", "awq", True),
        ("modelopt_fp4", "nvfp4", True),
        ("modelopt", "nvfp4", True),
        ("fp8", "bf16", True),
        ("gptq", "awq", False),
        ("something-new", "awq", True),
    ],
)
def test_the_quantization_flag_must_match_the_weights(flag: str, quantisation: str, fits: bool) -> None:
    found = verdicts(serve(model(quantisation), args=f"--quantization {flag}"))
    assert [verdict for verdict, _what in found] == ([] if fits else [DOUBTFUL])


def test_missing_files_are_named() -> None:
    facts = model("bf16", gib=1, missing=("model-00002-of-00002.safetensors",))
    (found,) = judge(serve(facts, model="/models/m"))
    assert (found.verdict, found.problem.what) == (IMPOSSIBLE, "files of the model are missing")
    assert found.problem.why == "model-00002-of-00002.safetensors"


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
def test_only_models_of_an_allowed_origin_may_run(allowed: Any, origin: Origin | None, why: str | None) -> None:
    problems = judge_candidates([serve(None, origin=origin)], (card(120),), allowed).problems
    assert [why in problem.why for problem in problems] == ([] if why is None else [True])


def test_all_findings_are_reported_at_once_without_repetition() -> None:
    bad = serve(model("nvfp4", gib=90, kind="adapter"), "sglang", args="--context-length 99999 --quantization awq")
    found = verdicts(bad, serve(None, name="tool"), cards=(card(80),), allowed=())
    assert len(found) == 7 and len(set(found)) == 6  # both serves come from an unknown origin


YARN = '{"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":8192}'
LONGER = "the requested context is longer than the model's context"


@pytest.mark.parametrize(
    ("engine", "args", "environment", "longest"),
    [
        ("vllm", ["--max-model-len", "33k"], {}, 32768),
        ("vllm", ["--max_model_len=32.8k"], {}, 32768),
        ("vllm", ["--max-model-len", "32K"], {}, None),
        ("vllm", ["--max-model-len", "auto"], {}, None),
        ("vllm", ["--max-model-len", "131072", "--rope-scaling", YARN.replace("8192", "32768")], {}, None),
        (
            "vllm",
            ["--max-model-len", "131072", "--hf-overrides", '{"rope_parameters":{"rope_type":"yarn","factor":4.0}}'],
            {},
            None,
        ),
        ("vllm", ["--max-model-len", "131072", "--hf-overrides.rope_scaling.factor", "4"], {}, None),
        ("vllm", ["--max-model-len", "200000", "--hf-overrides.rope_scaling.factor", "4"], {}, 131072),
        ("vllm", ["--max-model-len", "131072", "--hf-overrides", '{"text_config":{"max_position_embeddings":131072}}'], {}, None),
        (
            "vllm",
            ["--max-model-len", "131072", "--hf-overrides", '{"rope_parameters":{"rope_type":"llama3","factor":8}}'],
            {},
            32768,
        ),
        ("vllm", ["--max-model-len", "131072", "--hf-overrides.rope_parameters.full_attention.factor", "4"], {}, None),
        ("vllm", ["--max-model-len", "131072"], {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"}, None),
        ("sglang", ["--context-length", "131072", "--json-model-override-args", '{"rope_scaling":{"factor":4.0}}'], {}, None),
        ("sglang", ["--context-length", "131072"], {"SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN": "1"}, None),
        ("sglang", ["--context-length", "131072"], {}, 32768),
        ("trtllm", ["--max_seq_len", "131072"], {}, 32768),
        ("llama_cpp", ["-c", "131072"], {}, None),
    ],
)
def test_a_context_beyond_the_trained_or_scaled_length_is_doubtful(
    engine: str, args: list[str], environment: dict[str, str], longest: int | None
) -> None:
    facts = model("bf16", "gguf" if engine == "llama_cpp" else "safetensors", gib=1)
    candidate = replace(serve(facts, engine), args=tuple(args), environment=environment)
    told = [one for one in judge(candidate) if one.problem.what == LONGER]
    assert [(one.verdict, f"trained for {longest}" in one.problem.why) for one in told] == ([(DOUBTFUL, True)] if longest else [])


def test_an_invalid_scaling_is_a_note() -> None:
    args = ("--max-model-len", "131072", "--hf-overrides", '{"rope_parameters":{"factor":"eight"}}')
    assert "was not understood" in notes(replace(serve(model("bf16", gib=1)), args=args))


def test_the_memory_of_a_draft_model_is_a_note() -> None:
    method = """{"method":"eagle3","model":"org/draft","num_speculative_tokens":3}"""
    for engine, args in (("vllm", ("--speculative-config", method)), ("sglang", ("--speculative-draft-model-path", "org/draft"))):
        assert "was not counted" in notes(replace(serve(model("bf16", gib=1), engine), args=args))


FLAGS = sorted({flag for table in OPTIONS.values() for option in table.values() for flag in option.flags})
VALUES = st.one_of(
    st.sampled_from(["0", "-1", "1e300", "999999999999", "nan", "none", "CUDA7", "1,,x", "{}"]), st.text(max_size=6)
)


@pytest.mark.slow
@settings(max_examples=200, deadline=1000)
@given(
    st.sampled_from(["vllm", "sglang", "trtllm", "llama_cpp", "other"]),
    st.sampled_from(["safetensors", "gguf", "trtllm"]),
    st.lists(st.tuples(st.sampled_from(FLAGS), VALUES), max_size=6),
)
def test_the_judgement_never_raises_on_any_arguments(engine: str, form: str, args: list[tuple[str, str]]) -> None:
    facts = model("bf16", form, heads=28, layers=28, trt={"sm": 120, "label": "x"} if form == "trtllm" else None)
    words = tuple(word for pair in args for word in pair)
    judge(replace(serve(facts, engine, cards=("GPU-1", "GPU-2")), args=words), cards=TWO)
