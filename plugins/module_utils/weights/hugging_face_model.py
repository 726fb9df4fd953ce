# SPDX-License-Identifier: GPL-3.0-or-later
"""The facts of a Hugging Face model folder, from config.json and the headers of its safetensors files."""

from __future__ import annotations

import os
from typing import Any, Iterable, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.weights.attention_layers import read_attention
from ansible_collections.anvil.serving.plugins.module_utils.weights.context_length import LENGTHS, extend_length
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import ModelFacts
from ansible_collections.anvil.serving.plugins.module_utils.weights.safetensors_header import read_safetensors
from ansible_collections.anvil.serving.plugins.module_utils.weights.text_config import read_text_config
from ansible_collections.anvil.serving.plugins.module_utils.weights.weight_files import (
    Tensor,
    find_dominant_type,
    read_count,
    read_first_count,
    read_json,
)

# Tensors that hold scales of quantised weights; they are not parameters of the model.
_SCALES = (
    "_scale",
    "_scales",
    "_scale_inv",
    "_scale_2",
    ".scales",
    ".qzeros",
    ".g_idx",
    ".zeros",
    "_zero_point",
    "_shape",
    ".absmax",
)


def _count_parameters(tensors: Iterable[Tensor], bits: Optional[int]) -> int:
    """Number of parameters. A packed tensor counts what it holds: two 4-bit values per byte, 32 / bits values per int32."""
    total = 0
    for tensor in tensors:
        if tensor.name.endswith(_SCALES) or tensor.name.endswith(("rotary_emb.inv_freq", ".nested_absmax", ".quant_map")):
            continue
        factor = 1
        if bits and tensor.dtype == "I32" and tensor.name.endswith((".qweight", ".weight_packed")):
            factor = 32 // bits
        elif tensor.dtype == "U8" and tensor.name.endswith((".weight", "_packed", "_blocks")):
            factor = 8 // (bits or 4)
        total += tensor.elements * max(1, factor)
    return total


def _name_compressed_tensors(raw: Mapping[str, Any]) -> Tuple[Optional[str], Optional[int]]:
    groups = raw.get("config_groups")
    group: Any = next(iter(groups.values()), {}) if isinstance(groups, Mapping) else {}
    weights = group.get("weights") if isinstance(group, Mapping) else None
    weights = weights if isinstance(weights, Mapping) else {}
    bits, kind = read_count(weights.get("num_bits")), weights.get("type")
    form = str(raw.get("format", ""))
    if "nvfp4" in form:
        return "nvfp4", 4
    if "mxfp4" in form:
        return "mxfp4", 4
    if kind == "float" and bits == 8:
        return "fp8", 8
    if kind == "float" and bits == 4:
        return "nvfp4", 4
    activations = group.get("input_activations") if isinstance(group, Mapping) else None
    return ("int{0}".format(bits) if activations else "w{0}a16".format(bits)) if bits else None, bits


def name_quantisation(
    config: Mapping[str, Any], hf_quant: Mapping[str, Any]
) -> Tuple[Optional[str], Optional[int], Optional[str]]:
    """Quantisation, its bits, and the quantisation of the KV cache, from config.json's quantization_config and modelopt's
    hf_quant_config.json. All None for a model that is not quantised.
    """
    inner = hf_quant.get("quantization")
    raw = config.get("quantization_config")
    if not isinstance(raw, Mapping):
        raw = config.get("compression_config")
    raw = raw if isinstance(raw, Mapping) else {}
    method = str(raw.get("quant_method", "")).lower()
    modelopt = inner if isinstance(inner, Mapping) else raw if method.startswith("modelopt") else {}
    if modelopt:
        algorithm = str(modelopt.get("quant_algo") or "").lower().replace("-", "_")
        cache = modelopt.get("kv_cache_quant_algo")
        if not cache and isinstance(modelopt.get("kv_cache_scheme"), Mapping):
            cache = "fp8"
        word = (
            "nvfp4" if "nvfp4" in algorithm else "mxfp4" if "mxfp4" in algorithm else "fp8" if "fp8" in algorithm else algorithm
        )
        bits = 4 if "4" in word else 8 if "8" in word else None
        return word or None, bits, str(cache).lower() if cache else None
    if method == "compressed-tensors":
        return (*_name_compressed_tensors(raw), None)
    if method in ("bitsandbytes", "bnb"):
        return ("bnb-4bit", 4, None) if raw.get("load_in_4bit") or raw.get("_load_in_4bit") else ("bnb-8bit", 8, None)
    bits = read_first_count(raw, "bits", "w_bit", "num_bits") or {"mxfp4": 4, "fp8": 8, "fbgemm_fp8": 8, "awq": 4, "gptq": 4}.get(
        method
    )
    return ("fp8" if method == "fbgemm_fp8" else method) or None, bits, None


_PLAIN_NAMES = {"F32": "f32", "F16": "f16", "BF16": "bf16", "F8_E4M3": "fp8", "F8_E5M2": "fp8", "F64": "f64", "I8": "int8"}


def choose_safetensors(folder: str, names: Sequence[str]) -> Tuple[List[str], List[str]]:
    """The safetensors files of the model that are there, and those that are missing."""
    index = "model.safetensors.index.json"
    if index in names:
        weight_map = read_json(os.path.join(folder, index)).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise fail(
                "not a usable index", where=os.path.join(folder, index), why="weight_map is missing", hint="fetch the file again"
            )
        wanted = sorted({str(name) for name in weight_map.values()})
        stray = [name for name in wanted if "/" in name or name in ("", ".", "..")]
        if stray:
            raise fail(
                "not a usable index",
                where=os.path.join(folder, index),
                why="weight_map names the file {0!r}, which is not in the folder of the index".format(stray[0]),
                hint="do not use this model: its files must lie in one folder",
            )
        return [name for name in wanted if name in names], [name for name in wanted if name not in names]
    return [name for name in names if name.endswith(".safetensors")], []


def read_hugging_face_model(folder: str, names: Sequence[str]) -> ModelFacts:
    """The model of a folder with config.json and safetensors files. names: the files of the folder."""
    config = read_json(os.path.join(folder, "config.json"))
    quant_file = os.path.join(folder, "hf_quant_config.json")
    hf_quant = read_json(quant_file) if "hf_quant_config.json" in names else {}
    files, missing = choose_safetensors(folder, names)
    tensors = [tensor for name in files for tensor in read_safetensors(os.path.join(folder, name))]
    text = read_text_config(config)
    quantisation, bits, cache = name_quantisation(config if config.get("quantization_config") else text, hf_quant)
    dominant = find_dominant_type(tensors)
    notes = []
    if quantisation is None:
        quantisation = _PLAIN_NAMES.get(dominant or "", dominant)
    elif (
        dominant in ("BF16", "F16", "F32")
        and bits
        and not any(t.dtype in ("U8", "I8", "I32", "F4") or t.dtype.startswith("F8") for t in tensors)
    ):
        notes.append(
            "config.json says {0}, but no tensor is quantised: the engine would quantise the model while it loads".format(
                quantisation
            )
        )
        quantisation = _PLAIN_NAMES[dominant]
    architectures = config.get("architectures")
    named = str(architectures[0]) if isinstance(architectures, list) and architectures else config.get("model_type")
    chat = "chat_template.jinja" in names or "chat_template.json" in names
    if not chat and "tokenizer_config.json" in names:
        chat = bool(read_json(os.path.join(folder, "tokenizer_config.json")).get("chat_template"))
    embeddings = "modules.json" in names or (isinstance(named, str) and named.endswith(("Model", "ForMaskedLM")))
    return ModelFacts(
        path=folder,
        format="safetensors",
        files=tuple(files),
        weights_bytes=sum(tensor.size for tensor in tensors),
        name=config.get("_name_or_path") or None,
        architecture=named,
        parameters=_count_parameters(tensors, bits) if not missing else None,
        quantisation=quantisation,
        kv_quantisation=cache,
        context_length=extend_length(read_first_count(text, *LENGTHS), text),
        layers=read_count(text.get("num_hidden_layers")),
        embedding_length=read_count(text.get("hidden_size")),
        vocabulary=read_count(text.get("vocab_size")),
        experts=read_first_count(text, "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
        heads=read_count(text.get("num_attention_heads")),
        attention=read_attention(text),
        chat_template=chat,
        kind="embeddings" if embeddings else "text",
        splits=len(files) + len(missing),
        missing=tuple(missing),
        notes=tuple(notes),
    )


def read_safetensors_file(path: str) -> ModelFacts:
    """The facts of one safetensors file without its config: size and types, nothing about the cache."""
    tensors = read_safetensors(path)
    dominant = find_dominant_type(tensors)
    return ModelFacts(
        path=path,
        format="safetensors",
        files=(os.path.basename(path),),
        weights_bytes=sum(tensor.size for tensor in tensors),
        parameters=_count_parameters(tensors, None),
        quantisation=_PLAIN_NAMES.get(dominant or "", dominant),
        notes=("architecture, context and cache are unknown: there is no config.json",),
    )
