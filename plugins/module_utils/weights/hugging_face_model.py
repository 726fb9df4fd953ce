# SPDX-License-Identifier: GPL-3.0-or-later
"""The facts of a Hugging Face model folder, from config.json and the headers of its safetensors files."""

from __future__ import annotations

import os
import re
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_files import open_file
from ansible_collections.anvil.serving.plugins.module_utils.weights.attention_layers import read_attention
from ansible_collections.anvil.serving.plugins.module_utils.weights.checkpoint_quantisation import name_method, name_quantisation
from ansible_collections.anvil.serving.plugins.module_utils.weights.context_length import LENGTHS, extend_length
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import ModelFacts
from ansible_collections.anvil.serving.plugins.module_utils.weights.safetensors_header import read_safetensors
from ansible_collections.anvil.serving.plugins.module_utils.weights.text_config import read_mistral_params, read_text_config
from ansible_collections.anvil.serving.plugins.module_utils.weights.weight_files import (
    Tensor,
    find_dominant_type,
    read_count,
    read_first_count,
    read_json,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.weight_parts import measure_safetensors

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
        if bits and tensor.dtype in ("I32", "U32") and tensor.name.endswith((".qweight", ".weight_packed", ".weight")):
            factor = 32 // bits
        elif tensor.dtype == "U8" and tensor.name.endswith((".weight", "_packed", "_blocks")):
            factor = 8 // (bits or 4)
        total += tensor.elements * max(1, factor)
    return total


# PyTorch's own files of weights; others of its files hold the state of a training.
PICKLES = re.compile(r"(?:pytorch_model|model|consolidated)[-.\w]*\.(?:bin|pt)")
_DTYPE_NAMES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}
_PLAIN_NAMES = {"F32": "f32", "F16": "f16", "BF16": "bf16", "F8_E4M3": "fp8", "F8_E5M2": "fp8", "F64": "f64", "I8": "int8"}


# Classes that generate text although their names end like those of models without a head.
_CHAT_CLASSES = (
    "AquilaModel",
    "ChatGLMModel",
    "UltravoxModel",
    "MiDashengLMModel",
    "MossAudioModel",
    "Qwen2_5OmniModel",
    "NVLM_D_Model",
)


def _read_index(path: str, names: Sequence[str]) -> Tuple[List[str], List[str]]:
    """The files that an index names: those that are there, and those that are missing."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise fail("not a usable index", where=path, why="weight_map is missing", hint="fetch the file again")
    wanted = sorted({str(name) for name in weight_map.values()})
    stray = [name for name in wanted if "/" in name or name in ("", ".", "..")]
    if stray:
        raise fail(
            "not a usable index",
            where=path,
            why="weight_map names the file {0!r}, which is not in the folder of the index".format(stray[0]),
            hint="do not use this model: its files must lie in one folder",
        )
    return [name for name in wanted if name in names], [name for name in wanted if name not in names]


def choose_safetensors(folder: str, names: Sequence[str]) -> Tuple[List[str], List[str]]:
    """The safetensors files of the model that are there, and those that are missing.

    Mistral's consolidated files beside others are the same weights once more, and an adapter is no part of the model.
    """
    found = [name for name in names if name.endswith(".safetensors") and not name.startswith("adapter_")]
    converted = [name for name in found if not name.startswith("consolidated")]
    for index in ("model.safetensors.index.json", "consolidated.safetensors.index.json"):
        # The files of the other format may be left out on purpose: an index of converted files is then of no use.
        of_others = converted if index.startswith("consolidated") else [name for name in found if name not in converted]
        if index in names and (not of_others or (converted and index.startswith("model"))):
            return _read_index(os.path.join(folder, index), names)
    return converted or found, []


def _read_tensors(folder: str, files: Sequence[str], indexed: bool) -> List[Tensor]:
    """The tensors of all files. Where no index tells copies from parts, one that several files hold is loaded once."""
    if indexed or len(files) == 1:
        return [tensor for name in files for tensor in read_safetensors(os.path.join(folder, name))]
    tensors: Dict[str, Tensor] = {}
    for name in files:
        for tensor in read_safetensors(os.path.join(folder, name)):
            known = tensors.get(tensor.name)
            if known is None or known.size < tensor.size:
                tensors[tensor.name] = tensor
    return list(tensors.values())


# The end of a class -> the kind of its answers, the first that fits: vLLM's defaults (_SUFFIX_TO_DEFAULTS of config/model.py).
_KINDS_BY_ENDING = (
    (("ForCausalLM", "LMHeadModel", "ChatModel"), "text"),
    (("RewardModel", "ForRewardModeling", "ClassificationModel", "ForTokenClassification"), "score"),
    (("ForAudioClassification", "ForImageClassification", "ForVideoClassification"), "score"),
    (("ForRanking",), "rerank"),
    (("Model", "ForMaskedLM", "ForTextEncoding", "ForRetrieval", "ColBERT", "GritLM"), "embeddings"),
)
# Late interaction: a vector for each token (ColQwen3, ColPali).
_COL = re.compile(r"Col[A-Z].*(?<!CausalLM)")
# Classes that write down speech, and nothing else.
_TRANSCRIBERS = (
    "WhisperForConditionalGeneration",
    "CohereAsrForConditionalGeneration",
    "FireRedASR2ForConditionalGeneration",
    "FunASRForConditionalGeneration",
    "MossTranscribeDiarizeForConditionalGeneration",
    "ParakeetForCTC",
)


def _read_block(quantisation: Any) -> Optional[int]:
    sizes = quantisation.get("weight_block_size") if isinstance(quantisation, Mapping) else None
    return read_count(sizes[0]) if isinstance(sizes, list) and sizes else None


def _find_kind(architecture: Any, config: Mapping[str, Any], names: Sequence[str]) -> str:
    """text, embeddings, rerank, score or transcription: by the class, or as a folder of sentence-transformers."""
    word = architecture if isinstance(architecture, str) else ""
    if word.endswith("ForSequenceClassification"):
        labels = config.get("id2label")
        # A class with one label scores pairs of texts; one with several names them.
        return "rerank" if config.get("num_labels") == 1 or (isinstance(labels, Mapping) and len(labels) == 1) else "score"
    if "modules.json" in names:
        return "embeddings"
    if word in _TRANSCRIBERS:
        return "transcription"
    if word in _CHAT_CLASSES:
        return "text"
    if _COL.fullmatch(word):
        return "embeddings"
    return next((kind for endings, kind in _KINDS_BY_ENDING if word.endswith(endings)), "text")


def _measure_pickles(folder: str, names: Sequence[str]) -> Tuple[List[str], List[str], int]:
    """PyTorch's own files, which are not read: those that are there, those that are missing, and their size."""
    index = "pytorch_model.bin.index.json"
    if index in names:
        files, missing = _read_index(os.path.join(folder, index), names)
    else:
        files, missing = [name for name in names if PICKLES.fullmatch(name)], []
    size = 0
    for name in files:
        stream, length = open_file(os.path.join(folder, name))
        stream.close()
        size += length
    return files, missing, size


def read_hugging_face_model(folder: str, names: Sequence[str]) -> ModelFacts:
    """The model of a folder with safetensors files and config.json, or Mistral's params.json. names: the files of the folder."""
    if "config.json" in names:
        config = read_json(os.path.join(folder, "config.json"))
    else:
        config = read_mistral_params(read_json(os.path.join(folder, "params.json")))
    quant_file = os.path.join(folder, "hf_quant_config.json")
    hf_quant = read_json(quant_file) if "hf_quant_config.json" in names else {}
    files, missing = choose_safetensors(folder, names)
    pickled = 0
    if not files and not missing:
        files, missing, pickled = _measure_pickles(folder, names)
    tensors = [] if pickled else _read_tensors(folder, files, any(name.endswith(".safetensors.index.json") for name in names))
    text = read_text_config(config)
    tied = text.get("tie_word_embeddings", config.get("tie_word_embeddings")) is True
    quantisation, bits, cache = name_quantisation(config if config.get("quantization_config") else text, hf_quant)
    dominant = find_dominant_type(tensors)
    notes = ["the weights are in PyTorch's own format: their headers were not read"] if pickled else []
    if quantisation is None and pickled:
        word = text.get("torch_dtype") or text.get("dtype")
        quantisation = _DTYPE_NAMES.get(word) if isinstance(word, str) else None
    elif quantisation is None:
        quantisation = _PLAIN_NAMES.get(dominant or "", dominant)
    elif (
        dominant in ("BF16", "F16", "F32")
        and bits
        and not any(t.dtype in ("U8", "I8", "I32", "U32", "F4") or t.dtype.startswith("F8") for t in tensors)
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
    return ModelFacts(
        path=folder,
        format="pytorch" if pickled else "safetensors",
        files=tuple(files),
        weights_bytes=pickled or sum(tensor.size for tensor in tensors),
        name=config.get("_name_or_path") or None,
        architecture=named,
        parameters=_count_parameters(tensors, bits) if not missing and not pickled else None,
        quantisation=quantisation,
        kv_quantisation=cache,
        quant_method=name_method(config if config.get("quantization_config") else text, hf_quant) or None,
        context_length=extend_length(read_first_count(text, *LENGTHS), text),
        layers=read_count(text.get("num_hidden_layers")),
        embedding_length=read_count(text.get("hidden_size")),
        vocabulary=read_count(text.get("vocab_size")),
        experts=read_first_count(text, "num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
        heads=read_count(text.get("num_attention_heads")),
        block=_read_block(config.get("quantization_config") or text.get("quantization_config")),
        width=read_first_count(text, "moe_intermediate_size", "expert_ffn_hidden_size", "intermediate_size"),
        attention=read_attention(text),
        parts=measure_safetensors(tensors, read_count(text.get("num_hidden_layers")), tied),
        chat_template=chat,
        kind=_find_kind(named, config, names),
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
