"""The memory that a model needs: tokens that layers keep, KV types, the split over the cards, and weights in memory."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.weights import model_facts as kinds
from ansible_collections.anvil.serving.plugins.module_utils.weights.memory_estimate import (
    Loading,
    Split,
    choose_batch_tokens,
    estimate_vram,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import Attention, Layer, ModelFacts
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_folder import find_models, read_model
from weightfiles import hf_folder, sparse_safetensors, write_gguf

MIB = 1024 * 1024
GEMMA = Attention((Layer(kinds.FULL, 10, 4, 512, 512), Layer(kinds.WINDOW, 50, 16, 256, 256, 1024)))
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "hidden_size": 1024,
    "max_position_embeddings": 4096,
}


def facts_of(*layers: Layer, **more: Any) -> ModelFacts:
    facts = ModelFacts("/m", "safetensors", ("m",), 1024 * MIB, attention=Attention(layers), context_length=131072)
    return replace(facts, **more)


@pytest.mark.parametrize(
    ("loading", "kept"),
    [
        (Loading("vllm"), 1023 + 2048),
        (Loading("vllm", batch_tokens=8192), 1023 + 8192),
        (Loading("llama_cpp"), 1536),
        (Loading("llama_cpp", batch_tokens=2048), 3072),
        (Loading("llama_cpp", swa_full=True), 262144),
    ],
)
def test_a_window_layer_also_keeps_the_tokens_of_a_step(loading: Loading, kept: int) -> None:
    estimate = estimate_vram(facts_of(*GEMMA.layers), 262144, loading=loading)
    assert estimate.cache_mib == -(-(10 * 4096 * 262144 + 50 * 8192 * kept) * 2 // MIB)
    assert f"50 window layers x {kept:,} tokens" in estimate.arithmetic[1]


@pytest.mark.parametrize(
    ("vram_mib", "is_small", "tokens"),
    [(24564, False, 2048), (81559, False, 8192), (81920, True, 2048), (143771, False, 8192), (183359, False, 16384)],
)
def test_the_batch_tokens_of_vllm_depend_on_the_card(vram_mib: int, is_small: bool, tokens: int) -> None:
    assert choose_batch_tokens(vram_mib, is_small) == tokens


def test_the_estimate_matches_the_log_of_llama_cpp_for_gpt_oss_20b() -> None:
    # llama_kv_cache: 3072 MiB of 131072 cells and 18 MiB of 768 cells, with the default ubatch of 512
    layers = (Layer(kinds.FULL, 12, 8, 64, 64), Layer(kinds.WINDOW, 12, 8, 64, 64, 128))
    assert estimate_vram(facts_of(*layers), 131072, loading=Loading("llama_cpp")).cache_mib == 3072 + 18


def test_a_context_shorter_than_the_window_limits_the_cache() -> None:
    estimate = estimate_vram(facts_of(*GEMMA.layers), 512, loading=Loading("vllm"))
    assert estimate.cache_mib == (10 * 4096 + 50 * 8192) * 512 * 2 // MIB


@pytest.mark.parametrize(
    ("layer", "mib"),
    [
        (Layer(kinds.CROSS, 32, 20, 64, 64, 1500), 235),  # Whisper: 1500 tokens of the encoder for any text
        (Layer(kinds.LINEAR, 48, state=3 * MIB), 144),  # one state for each sequence of any length
        (Layer(kinds.SHARED, 40), 0),
        (Layer(kinds.NONE, 40), 0),
        (Layer(kinds.MLA, 61, 1, 576), 8784),
        (Layer(kinds.MLA, 61, 1, 576, token_bytes=132), 9791),
    ],
)
def test_each_kind_of_layer_has_its_cache_size(layer: Layer, mib: int) -> None:
    assert estimate_vram(facts_of(layer), 131072).cache_mib == mib


def test_heads_are_divided_over_tensor_ranks_and_a_latent_is_copied() -> None:
    latent, heads = facts_of(Layer(kinds.MLA, 61, 1, 576)), facts_of(Layer(kinds.FULL, 36, 8, 128, 128))
    assert estimate_vram(latent, 131072, split=Split(tensor=8)).cache_mib == 8784
    assert estimate_vram(heads, 131072, split=Split(tensor=8)).cache_mib == 18432 // 8
    assert estimate_vram(heads, 131072, split=Split(tensor=4, pipeline=2)).cache_mib == 18432 // 8
    assert estimate_vram(heads, 131072, split=Split(tensor=8, attention=8)).cache_mib == 18432


def test_experts_are_divided_over_all_ranks_with_expert_parallelism() -> None:
    facts = facts_of(Layer(kinds.NONE), parts=replace(ModelFacts("", "", (), 0).parts, experts=768 * MIB))
    assert estimate_vram(facts, split=Split(tensor=2, data=4)).weights_mib == 512
    assert estimate_vram(facts, split=Split(tensor=2, data=4, experts=8)).weights_mib == (256 // 2) + (768 // 8)
    copied = replace(facts, parts=replace(facts.parts, attention=128 * MIB))
    assert estimate_vram(copied, split=Split(tensor=4, attention=2)).weights_mib == (128 // 4) + (128 // 2) + (768 // 4)


@pytest.mark.parametrize(
    ("word", "mib"),
    [
        ("auto", 18432),
        ("fp8", 9216),
        ("half", 18432),
        ("nvfp4", 5184),
        ("int8_per_token_head", 9504),
        ("q8_0", 9792),
    ],
)
def test_the_kv_type_decides_the_cache_size(word: str, mib: int) -> None:
    estimate = estimate_vram(facts_of(Layer(kinds.FULL, 36, 8, 128, 128)), 131072, kv_dtype=word)
    assert (estimate.cache_mib, estimate.cache_certain, estimate.notes) == (mib, True, ())


def test_keys_and_values_may_have_different_types() -> None:
    facts = facts_of(Layer(kinds.FULL, 36, 8, 128, 128))
    estimate = estimate_vram(facts, 131072, kv_dtype="q8_0", loading=Loading("llama_cpp", value_dtype="q4_0"))
    assert estimate.cache_mib == int(18432 / 2 * (34 / 64 + 18 / 64))


def test_the_kv_type_of_the_checkpoint_applies_unless_a_flag_overrides_it() -> None:
    facts = facts_of(Layer(kinds.FULL, 36, 8, 128, 128), kv_quantisation="fp8")
    assert estimate_vram(facts, 131072).cache_mib == 9216
    assert estimate_vram(facts, 131072, kv_dtype="bfloat16").cache_mib == 18432


def test_an_unknown_layer_is_not_counted_and_not_certain() -> None:
    facts = replace(facts_of(), attention=Attention((Layer(kinds.UNKNOWN, 40),), ("spiral_attention",)))
    estimate = estimate_vram(facts, 131072)
    assert (estimate.cache_mib, estimate.cache_certain, estimate.weights_certain) == (0, False, True)
    assert estimate.notes == ("layers that are not known: spiral_attention",)


TENSORS = {
    "model.embed_tokens.weight": ("BF16", [1024, 1024], 2 * MIB),
    "model.layers.0.mlp.up_proj.weight": ("BF16", [8192, 1024], 16 * MIB),
    "model.layers.0.mlp.experts.0.up_proj.weight": ("BF16", [1024, 1024], 2 * MIB),
    "model.layers.0.input_layernorm.weight": ("F32", [MIB], 4 * MIB),
    "model.layers.2.mlp.up_proj.weight": ("BF16", [4096, 1024], 8 * MIB),  # a draft layer: the model has two layers
    "lm_head.weight": ("BF16", [1024, 1024], 2 * MIB),
}


@pytest.mark.parametrize(
    ("loading", "mib"),
    [
        (Loading(), 26),  # without the draft layer
        (Loading("vllm"), 24),  # 32-bit tensors are loaded with 16 bits
        (Loading("vllm", speculative=True), 32),
        (Loading("vllm", dtype="float32"), 48),
        (Loading("vllm", quantization="fp8"), 15),
        (Loading("vllm", quantization="bitsandbytes"), 24 - 13.5),
        (Loading("sglang", quantization="int4wo-128"), 24 - 13.5),
    ],
)
def test_weights_are_counted_with_their_size_in_memory(tmp_path: Path, loading: Loading, mib: float) -> None:
    facts = read_model(str(hf_folder(tmp_path / "m", LLAMA, **TENSORS)))
    estimate = estimate_vram(facts, loading=loading)
    assert (estimate.weights_mib, estimate.weights_certain) == (-int(-mib // 1), True), estimate.arithmetic[0]
    assert facts.parts.experts == 2 * MIB


def test_an_unknown_quantisation_on_load_is_a_note(tmp_path: Path) -> None:
    facts = read_model(str(hf_folder(tmp_path / "m", LLAMA, **TENSORS)))
    estimate = estimate_vram(facts, loading=Loading("vllm", quantization="torchao"))
    assert (estimate.weights_mib, estimate.weights_certain) == (24, False)
    assert "torchao" in estimate.notes[0]


def test_an_output_head_that_is_tied_to_the_embedding_is_loaded_once(tmp_path: Path) -> None:
    facts = read_model(str(hf_folder(tmp_path / "m", {**LLAMA, "tie_word_embeddings": True}, **TENSORS)))
    assert facts.parts.idle == (2 + 8) * MIB


def test_experts_and_attention_are_recognised_by_tensor_names(tmp_path: Path) -> None:
    names = {
        "model.layers.0.block_sparse_moe.input_linear.weight": "experts",  # GraniteMoe: one tensor holds all of them
        "model.layers.0.moe.up_proj.weight": "experts",  # Step-3
        "model.layers.0.mlp.experts.5.down_proj.weight": "experts",
        "model.layers.0.mlp.shared_experts.up_proj.weight": "",
        "model.layers.0.mlp.up_proj.weight": "",
        "model.layers.0.self_attn.q_proj.weight": "attention",
        "transformer.h.0.attn.c_proj.weight": "attention",
    }
    tensors = {name: ("BF16", [1024, 1024], 2 * MIB) for name in names}
    parts = read_model(str(hf_folder(tmp_path / "m", LLAMA, **tensors))).parts
    for part in ("experts", "attention"):
        assert getattr(parts, part) == 2 * MIB * list(names.values()).count(part), part


def test_the_speech_parts_of_an_omni_model_are_not_loaded(tmp_path: Path) -> None:
    speaks = {
        "thinker.model.layers.0.w.weight": ("BF16", [1024, 1024], 2 * MIB),
        "talker.w.weight": ("BF16", [1024, 1024], 2 * MIB),
    }
    facts = read_model(str(hf_folder(tmp_path / "m", LLAMA, **speaks)))
    assert estimate_vram(facts, loading=Loading("vllm")).weights_mib == 2


def test_llama_cpp_keeps_the_token_embedding_in_the_hosts_memory(tmp_path: Path) -> None:
    facts = replace(read_model(str(write_gguf(tmp_path / "m.gguf"))), weights_bytes=10 * MIB)
    split = replace(facts, parts=replace(facts.parts, host=3 * MIB))
    assert estimate_vram(split, loading=Loading("llama_cpp")).weights_mib == 7


def test_the_allowance_is_not_optimistic() -> None:
    # kaito#2156: Qwen3-8B on an A10 (23,028 MiB): vLLM's own maximum was 20,272 tokens
    facts = facts_of(Layer(kinds.FULL, 36, 8, 128, 128), weights_bytes=16381470720, vocabulary=151936)
    estimate = estimate_vram(facts, 20272, loading=Loading("vllm"))
    assert int(23028 * 0.90) <= estimate.total_mib <= int(23028 * 0.92)


PARAMS = {"dim": 1024, "n_layers": 2, "head_dim": 128, "n_heads": 8, "n_kv_heads": 2, "vocab_size": 100}
WEIGHTS = {"w.weight": ("BF16", [1024, 1024], 2 * MIB)}


def test_weights_in_mistrals_own_format_are_a_model(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text(json.dumps(PARAMS))
    sparse_safetensors(tmp_path / "consolidated.safetensors", WEIGHTS)
    facts = read_model(str(tmp_path))
    assert (facts.files, facts.quantisation, facts.layers) == (("consolidated.safetensors",), "bf16", 2)
    assert facts.attention == Attention((Layer(kinds.FULL, 2, 2, 128, 128),))
    assert [found.path for found in find_models(str(tmp_path))[0]] == [str(tmp_path)]


def test_an_index_of_absent_files_is_ignored_if_another_format_is_complete(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00001.safetensors"}}')
    assert read_model(str(folder)).missing == ("model-00001-of-00001.safetensors",)
    sparse_safetensors(folder / "consolidated.safetensors", WEIGHTS)  # vLLM: --load-format mistral
    facts = read_model(str(folder))
    assert (facts.files, facts.missing) == (("consolidated.safetensors",), ())
    (folder / "consolidated.safetensors").unlink()
    (folder / "model.safetensors.index.json").rename(folder / "consolidated.safetensors.index.json")
    assert read_model(str(folder)).missing == ("model-00001-of-00001.safetensors",)


def test_the_same_weights_in_a_second_format_count_once(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path / "m", LLAMA, **WEIGHTS)
    (folder / "params.json").write_text(json.dumps(PARAMS))
    for name in ("consolidated.safetensors", "adapter_model.safetensors"):
        sparse_safetensors(folder / name, {"layers.0.wq.weight": ("BF16", [1024, 1024], 2 * MIB)})
    sparse_safetensors(folder / "model.copy.safetensors", WEIGHTS)  # the same tensor once more
    facts = read_model(str(folder))
    assert facts.weights_bytes == 2 * MIB


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [("ChatGLMModel", "text"), ("QWenLMHeadModel", "text"), ("InternVLChatModel", "text"), ("Qwen2Model", "embeddings")],
)
def test_a_class_that_ends_with_model_is_not_always_an_embedder(tmp_path: Path, architecture: str, kind: str) -> None:
    assert read_model(str(hf_folder(tmp_path / "m", {**LLAMA, "architectures": [architecture]}))).kind == kind


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({"architectures": ["BertModel"]}, "embeddings"),
        ({"architectures": ["XLMRobertaModel"]}, "embeddings"),
        ({"architectures": ["Gemma3TextModel"]}, "embeddings"),
        ({"architectures": ["HF_ColBERT"]}, "embeddings"),
        ({"architectures": ["AquilaModel"]}, "text"),
        ({"architectures": ["XLMRobertaForSequenceClassification"], "id2label": {"0": "LABEL_0"}}, "rerank"),
        ({"architectures": ["LlamaForSequenceClassification"], "num_labels": 1}, "rerank"),
        ({"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "1": "b"}}, "score"),
        ({"architectures": ["BertForTokenClassification"]}, "score"),
        ({"architectures": ["Qwen2ForProcessRewardModel"]}, "score"),
        ({"architectures": ["JinaVLForRanking"]}, "rerank"),
        ({"architectures": ["ColModernVBertForRetrieval"]}, "embeddings"),
        ({"architectures": ["ColQwen3_5"]}, "embeddings"),
        ({"architectures": ["CohereForCausalLM"]}, "text"),
        ({"architectures": ["WhisperForConditionalGeneration"]}, "transcription"),
        ({"architectures": ["FunASRForConditionalGeneration"]}, "transcription"),
        ({"architectures": ["Qwen3ASRForConditionalGeneration"]}, "text"),
        ({"architectures": ["ASTForAudioClassification"]}, "score"),
        ({"architectures": ["VoxtralForConditionalGeneration"]}, "text"),
        ({"architectures": [5]}, "text"),
    ],
)
def test_the_class_decides_the_kind_of_a_model(tmp_path: Path, config: dict[str, Any], kind: str) -> None:
    assert read_model(str(hf_folder(tmp_path / "m", {**LLAMA, **config}))).kind == kind


def test_a_folder_of_sentence_transformers_is_an_embedder(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path / "m", {**LLAMA, "architectures": ["Qwen3ForCausalLM"]})
    (folder / "modules.json").write_text("[]")
    assert read_model(str(folder)).kind == "embeddings"


@pytest.mark.parametrize(
    ("quantisation", "found"),
    [
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "fp8_e4m3"}}}, "fp8"),
        ({"quant_method": "quark", "global_quant_config": {"weight": [{"dtype": "fp4"}]}}, "mxfp4"),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "int8"}, "input_tensors": {}}}, "w8a16"),
        (
            {"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "int8"}, "input_tensors": {"dtype": "int8"}}},
            "int8",
        ),
        ({"quant_method": "quark", "global_quant_config": {"weight": {"dtype": "uint4"}}}, "w4a16"),
        ({"quant_method": "quark", "global_quant_config": 5}, "quark"),
        ({"group_size": 64, "bits": 4, "mode": "affine"}, "mlx"),
        ({"quant_method": "exl2", "bits": 4.0}, "exl2"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8_AWQ"}, "w4a8_awq"),
        (
            {
                "quant_method": "modelopt",
                "quant_algo": "MIXED_PRECISION",
                "quantized_layers": {"a": {"quant_algo": "FP8"}, "b": {"quant_algo": "NVFP4"}},
            },
            "nvfp4",
        ),
        ({"quant_method": None}, "U8"),
    ],
)
def test_the_quantisation_of_a_checkpoint_is_found(tmp_path: Path, quantisation: dict[str, Any], found: str) -> None:
    tensors = {"a.weight": ("U8", [1024, 1024], MIB)}
    facts = read_model(str(hf_folder(tmp_path / "m", {**LLAMA, "quantization_config": quantisation}, **tensors)))
    assert facts.quantisation == found


def test_mlx_weights_name_their_quantisation_under_another_key(tmp_path: Path) -> None:
    packed = {"a.weight": ("U32", [1024, 1024], 4 * MIB), "b.weight": ("BF16", [1024, 1024], 2 * MIB)}
    folder = hf_folder(tmp_path / "m", {**LLAMA, "quantization": {"group_size": 64, "bits": 4}}, **packed)
    facts = read_model(str(folder))
    assert (facts.quantisation, facts.parameters) == ("mlx", 8 * MIB + MIB)


def test_weights_in_pytorchs_own_format_are_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "torch_dtype": "float16"}))
    (tmp_path / "training_args.bin").write_bytes(b"x" * 5)
    for number in (1, 2):
        (tmp_path / f"pytorch_model-0000{number}-of-00002.bin").write_bytes(b"x" * 100)
    facts = read_model(str(tmp_path))
    assert (facts.format, facts.weights_bytes, facts.quantisation, facts.parameters) == ("pytorch", 200, "f16", None)
    index = {"weight_map": {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00003-of-00003.bin"}}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    facts = read_model(str(tmp_path))
    assert (facts.weights_bytes, facts.missing) == (100, ("pytorch_model-00003-of-00003.bin",))
    sparse_safetensors(tmp_path / "model.safetensors", WEIGHTS)  # vLLM loads these where both are there
    assert read_model(str(tmp_path)).format == "safetensors"


def test_two_hundred_models_are_judged_in_two_seconds(tmp_path: Path) -> None:
    for number in range(100):
        write_gguf(tmp_path / f"{number}.gguf")
        hf_folder(tmp_path / "hub" / str(number), LLAMA, **TENSORS)
    started = time.process_time()
    found, broken = find_models(str(tmp_path))
    for facts in found:
        estimate_vram(facts, 8192).as_dict()
    spent = time.process_time() - started
    assert (len(found), broken) == (200, [])
    assert spent <= 2.0
