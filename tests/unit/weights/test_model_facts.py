"""Facts about weights, read from their headers for every format, and the arithmetic of the memory they need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.weights.checkpoint_quantisation import name_quantisation
from ansible_collections.anvil.serving.plugins.module_utils.weights.memory_estimate import Split, estimate_vram
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_folder import find_models, read_model
from weightfiles import hf_folder, write_gguf

MIB = 1024 * 1024

LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "vocab_size": 128256,
}
GPT_OSS_120B = {
    "architectures": ["GptOssForCausalLM"],
    "hidden_size": 2880,
    "head_dim": 64,
    "num_attention_heads": 64,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "layer_types": ["sliding_attention", "full_attention"] * 18,
    "sliding_window": 128,
    "max_position_embeddings": 131072,
    "vocab_size": 201088,
    "num_local_experts": 128,
    "quantization_config": {"quant_method": "mxfp4"},
}
DEEPSEEK = {
    "architectures": ["DeepseekV3ForCausalLM"],
    "hidden_size": 7168,
    "num_attention_heads": 128,
    "num_hidden_layers": 61,
    "num_key_value_heads": 128,
    "kv_lora_rank": 512,
    "qk_rope_head_dim": 64,
}


@pytest.mark.parametrize(
    ("config", "per_token"),
    [
        (LLAMA_8B, 131072),  # the published 128 KiB per token of Llama 3 8B
        (GPT_OSS_120B, 73728),
        (DEEPSEEK, 70272),  # 68.6 KiB, DeepSeek-V3's report says 70 KB
        ({**LLAMA_8B, "full_attention_interval": 4, "linear_num_heads": 32, "linear_head_dim": 128}, 32768),
        ({**LLAMA_8B, "full_attention_interval": 4}, None),  # the state of the other layers is not known
        ({"text_config": LLAMA_8B}, 131072),
    ],
)
def test_kv_bytes_per_token(tmp_path: Path, config: dict[str, Any], per_token: int | None) -> None:
    facts = read_model(str(hf_folder(tmp_path / "m", config)))
    assert facts.as_dict()["kv_bytes_per_token"] == per_token


def test_the_arithmetic_of_the_estimate_adds_up(tmp_path: Path) -> None:
    facts = read_model(str(hf_folder(tmp_path / "m", LLAMA_8B, **{"w.weight": ("BF16", [4096, 1024 * 1024], 8192 * MIB)})))
    estimate = estimate_vram(facts, context=8192, concurrency=4)
    assert estimate.weights_mib == 8192
    assert estimate.cache_mib == 8192 * 4 * 131072 // MIB == 4096
    assert estimate.total_mib == estimate.weights_mib + estimate.cache_mib + estimate.allowance_mib
    assert "8,589,934,592 bytes = 8,192 MiB" in estimate.arithmetic[0]
    assert estimate.arithmetic[1] == (
        "cache: (32 full layers x 8,192 tokens x 8 heads x (128 K + 128 V)), auto (2 bytes), x 4 requests = 4,096 MiB"
    )
    assert estimate.weights_certain and estimate.cache_certain
    assert estimate.arithmetic[-1] == f"total: {estimate.total_mib:,} MiB"

    assert estimate_vram(facts, context=8192, concurrency=4, kv_dtype="fp8").cache_mib == 2048
    halved = estimate_vram(facts, context=8192, concurrency=4, split=Split(tensor=2))
    assert (halved.weights_mib, halved.cache_mib) == (4096, 2048)
    # 8 KV heads on 16 cards are copied, not divided further
    assert estimate_vram(facts, context=8192, concurrency=16, split=Split(tensor=16)).cache_mib == 2048
    # with data parallel each rank holds all weights and its part of the requests; pipeline stages hold a part of the layers
    copied = estimate_vram(facts, context=8192, concurrency=4, split=Split(data=2))
    assert (copied.weights_mib, copied.cache_mib) == (8192, 2048)
    staged = estimate_vram(facts, context=8192, concurrency=4, split=Split(pipeline=4))
    assert (staged.weights_mib, staged.cache_mib) == (2048, 1024)


def test_an_unknown_kv_type_is_a_note(tmp_path: Path) -> None:
    facts = read_model(str(hf_folder(tmp_path / "m", LLAMA_8B)))
    estimate = estimate_vram(facts, context=8192, kv_dtype="fp7")
    assert (estimate.cache_mib, estimate.cache_certain) == (1024, False)
    assert "fp7" in estimate.notes[0]


def test_a_window_limits_the_cache(tmp_path: Path) -> None:
    facts = read_model(str(hf_folder(tmp_path / "m", GPT_OSS_120B)))
    estimate = estimate_vram(facts, context=131072, concurrency=1)
    assert estimate.cache_mib == -(-(18 * 1024 * 131072 + 18 * 1024 * (127 + 2048)) * 2 // MIB)


@pytest.mark.parametrize(
    ("config", "modelopt", "wanted"),
    [
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {
                    "group_0": {"weights": {"num_bits": 8, "type": "float"}},
                    "group_1": {"format": "nvfp4-pack-quantized", "weights": {"num_bits": 4, "type": "float"}},
                },
            },
            {},
            ("nvfp4", 4, None),  # the group with the highest demands on a card
        ),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}},
                "kv_cache_scheme": {"num_bits": 8, "type": "float"},
            },
            {},
            ("fp8", 8, "fp8"),
        ),
        ({"quant_method": "fp8", "kv_cache_scheme": {"num_bits": 8, "type": "int"}}, {}, ("fp8", 8, "int8")),
        ({}, {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "NVFP4_AFFINE"}}, ("nvfp4", 4, "nvfp4_affine")),
        ({}, {"quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "auto"}}, ("fp8", 8, None)),
        ({"quant_method": "awq", "bits": 4}, {}, ("awq", 4, None)),
        ({"quant_method": "gptq", "bits": 8}, {}, ("gptq", 8, None)),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, {}, ("fp8", 8, None)),
        ({"quant_method": "fbgemm_fp8"}, {}, ("fp8", 8, None)),
        ({"quant_method": "mxfp4"}, {}, ("mxfp4", 4, None)),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, {}, ("bnb-4bit", 4, None)),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, {}, ("bnb-4bit", 4, None)),
        ({"quant_method": "mxfp8"}, {}, ("mxfp8", 8, None)),
        ({"quant_method": ["gptq"], "bits": 4}, {}, (None, 4, None)),
        ({}, {"quantization": {"quant_algo": "NVFP4", "kv_cache_quant_algo": "FP8"}}, ("nvfp4", 4, "fp8")),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, {}, ("nvfp4", 4, None)),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, {}, ("fp8", 8, None)),
        (
            {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "config_groups": {"g": {}}},
            {},
            ("nvfp4", 4, None),
        ),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 8, "type": "float"}}}},
            {},
            ("fp8", 8, None),
        ),
        (
            {"quant_method": "compressed-tensors", "config_groups": {"g": {"weights": {"num_bits": 4, "type": "int"}}}},
            {},
            ("w4a16", 4, None),
        ),
        ({}, {}, (None, None, None)),
    ],
)
def test_quantisation_is_named(config: dict[str, Any], modelopt: dict[str, Any], wanted: tuple[Any, ...]) -> None:
    assert name_quantisation({"quantization_config": config}, modelopt) == wanted


def test_packed_parameters_are_counted_once_and_scales_are_not(tmp_path: Path) -> None:
    nvfp4 = {
        "a.weight": ("U8", [64, 32], 2048),
        "a.weight_scale": ("F8_E4M3", [64, 4], 256),
        "n.weight": ("BF16", [64], 128),
    }
    folder = hf_folder(tmp_path / "m", LLAMA_8B, **nvfp4)
    (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": {"quant_algo": "NVFP4"}}))
    facts = read_model(str(folder))
    assert (facts.parameters, facts.quantisation) == (64 * 64 + 64, "nvfp4")
    awq = {"a.qweight": ("I32", [64, 8], 2048), "a.qzeros": ("I32", [1, 8], 32), "a.scales": ("F16", [1, 64], 128)}
    facts = read_model(
        str(hf_folder(tmp_path / "n", {**LLAMA_8B, "quantization_config": {"quant_method": "awq", "bits": 4}}, **awq))
    )
    assert (facts.parameters, facts.quantisation) == (64 * 64, "awq")


def test_a_config_that_claims_an_absent_quantisation_is_detected(tmp_path: Path) -> None:
    config = {**LLAMA_8B, "quantization_config": {"quant_method": "awq", "bits": 4}}
    facts = read_model(str(hf_folder(tmp_path / "Llama-AWQ", config)))
    assert facts.quantisation == "bf16"
    assert "no tensor is quantised" in facts.notes[0]


def test_an_index_names_the_files_that_are_missing(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path / "m", LLAMA_8B)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"a": "model.safetensors", "b": "model-00002.safetensors"}})
    )
    facts = read_model(str(folder))
    assert (facts.missing, facts.parameters) == (("model-00002.safetensors",), None)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../etc/passwd"}}))
    with pytest.raises(AnvilError, match="not a usable index"):
        read_model(str(folder))


@pytest.mark.parametrize(
    "name", ["qwen2.5-0.5b-instruct-iq4_xs.gguf", "DeepSeek-R1-Distill-Qwen-1.5B-Q2_K.gguf", "whatever", "model.GGUF.bak"]
)
def test_a_gguf_is_recognised_by_its_header_for_any_file_name(tmp_path: Path, name: str) -> None:
    path = write_gguf(tmp_path / name, quant=gguf.GGMLQuantizationType.Q8_0, file_type=gguf.LlamaFileType.MOSTLY_IQ4_XS)
    facts = read_model(str(path))
    assert (facts.architecture, facts.quantisation, facts.layers, facts.kv_heads) == ("llama", "IQ4_XS", 2, 2)
    assert facts.context_length == 4096
    assert facts.vocabulary == 3
    assert facts.as_dict()["kv_bytes_per_token"] == 2 * 2 * 2 * (32 + 32)


def test_a_gguf_that_claims_an_absent_quantisation_is_detected(tmp_path: Path) -> None:
    facts = read_model(str(write_gguf(tmp_path / "m.gguf", file_type=gguf.LlamaFileType.MOSTLY_Q4_K_M)))
    assert facts.quantisation == "F32"
    assert "no tensor is quantised" in facts.notes[0]


@pytest.mark.parametrize(
    ("arch", "values", "kind"),
    [("bert", {"pooling_type": gguf.PoolingType.MEAN}, "embeddings"), ("clip", {}, "mmproj"), ("llama", {}, "text")],
)
def test_embeddings_and_projectors_are_distinguished(tmp_path: Path, arch: str, values: dict[str, Any], kind: str) -> None:
    assert read_model(str(write_gguf(tmp_path / "m.gguf", arch=arch, **values))).kind == kind


def test_head_counts_may_differ_from_layer_to_layer(tmp_path: Path) -> None:
    w = gguf.GGUFWriter(str(tmp_path / "m.gguf"), "gemma3n")
    w.add_block_count(3)
    w.add_embedding_length(256)
    w.add_head_count([8, 8, 4])
    w.add_head_count_kv([2, 4, 0])
    w.add_tensor("t", np.zeros((4,), np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    facts = read_model(str(tmp_path / "m.gguf"))
    assert facts.attention is not None
    assert facts.attention.bytes_per_token == 2 * (2 + 4 + 0) * (32 + 32)


def split_gguf(folder: Path, count: int) -> None:
    for number in range(count):
        w = gguf.GGUFWriter(str(folder / f"m-{number + 1:05d}-of-{count:05d}.gguf"), "llama")
        w.add_uint16("split.no", number)
        w.add_uint16("split.count", count)
        w.add_tensor(f"t{number}", np.zeros((32,), np.float32))
        w.write_header_to_file()
        w.write_kv_data_to_file()
        w.write_tensors_to_file()
        w.close()


def test_split_files_are_one_model(tmp_path: Path) -> None:
    split_gguf(tmp_path, 3)
    facts = read_model(str(tmp_path))
    assert (facts.splits, facts.parameters, len(facts.files), facts.missing) == (3, 96, 3, ())
    (tmp_path / "m-00002-of-00003.gguf").unlink()
    assert read_model(str(tmp_path)).missing == ("m-00002-of-00003.gguf",)
    (tmp_path / "m-00001-of-00003.gguf").rename(tmp_path / "renamed.gguf")
    with pytest.raises(AnvilError, match="split model whose file was renamed"):
        read_model(str(tmp_path / "renamed.gguf"))


def trt_engine(folder: Path, **mapping: int) -> Path:
    folder.mkdir(parents=True)
    config = {
        "version": "0.17.0",
        "pretrained_config": {
            "architecture": "LlamaForCausalLM",
            "dtype": "bfloat16",
            "hidden_size": 4096,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
            "quantization": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
            "mapping": {"world_size": 1, **mapping},
        },
        "build_config": {"max_seq_len": 8192, "max_batch_size": 16},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "rank0.engine").write_bytes(b"x" * 1000)
    return folder


def test_the_build_settings_of_a_tensorrt_engine_are_read(tmp_path: Path) -> None:
    facts = read_model(str(trt_engine(tmp_path / "sm90_trt-llm-0.17.0_cuda12.8", world_size=2)))
    assert (facts.format, facts.quantisation, facts.kv_quantisation, facts.context_length) == ("trtllm", "fp8", "fp8", 8192)
    assert facts.trt is not None
    assert (facts.trt["sm"], facts.trt["cuda"], facts.trt["version"], facts.trt["max_batch_size"]) == (90, "12.8", "0.17.0", 16)
    assert facts.missing == ("rank1.engine",)
    assert estimate_vram(facts, concurrency=2).kv_dtype == "fp8"


def test_discovery_describes_every_model_and_names_broken_files(tmp_path: Path) -> None:
    write_gguf(tmp_path / "one.gguf")
    split_gguf(tmp_path, 2)
    hf_folder(tmp_path / "org" / "name", LLAMA_8B)
    trt_engine(tmp_path / "sm89_trt-llm-1.0.0_cuda12.6")
    (tmp_path / "notes.txt").write_text("no model")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF")
    found, broken = find_models(str(tmp_path))
    assert sorted(facts.format for facts in found) == ["gguf", "gguf", "safetensors", "trtllm"]
    assert [error.problems[0].where for error in broken] == [str(tmp_path / "cut.gguf")]


def test_a_folder_with_two_models_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "one.gguf")
    write_gguf(tmp_path / "two.gguf")
    with pytest.raises(AnvilError, match="it is not clear which model to use"):
        read_model(str(tmp_path))


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnvilError, match="there is no model here"):
        read_model(str(tmp_path))
