# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a folder or file of weights holds, by its headers and never by its name: architecture, size, quantisation, cache.

Three kinds: GGUF files (with their splits), Hugging Face folders (safetensors and config.json), TensorRT-LLM engines.
What a header does not say stays None.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.weights.headers import (
    FILE_TYPES,
    GgufHeader,
    Tensor,
    read_gguf,
    read_json,
    read_safetensors,
)

SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
TRT_LABEL = re.compile(r"sm(?P<sm>\d+)_trt-llm-(?P<version>[\d.]+).*_cuda(?P<cuda>[\d.]+)")
ENGINE_FILE = re.compile(r"rank\d+\.engine")


@dataclass(frozen=True)
class KvShape:
    """What one token leaves in the attention cache, in elements over all layers.

    full: of the layers that remember every token. windowed: of those that remember the last ``window`` tokens only.
    text: how the numbers came about.
    """

    full: int
    windowed: int = 0
    window: int = 0
    text: str = ""


@dataclass(frozen=True)
class ModelFacts:
    """One model. Sizes in bytes; ``quantisation`` in lower case for Hugging Face methods (nvfp4, fp8, awq), as ggml
    writes it for GGUF (Q4_K_M, IQ4_XS); ``missing``: files that the others say belong to it.
    """

    path: str
    format: str
    files: Tuple[str, ...]
    weights_bytes: int
    name: Optional[str] = None
    architecture: Optional[str] = None
    parameters: Optional[int] = None
    quantisation: Optional[str] = None
    kv_quantisation: Optional[str] = None
    context_length: Optional[int] = None
    layers: Optional[int] = None
    embedding_length: Optional[int] = None
    vocabulary: Optional[int] = None
    experts: Optional[int] = None
    kv_heads: Optional[int] = None
    kv: Optional[KvShape] = None
    chat_template: bool = False
    kind: str = "text"
    splits: int = 1
    missing: Tuple[str, ...] = ()
    trt: Optional[Mapping[str, Any]] = None
    notes: Tuple[str, ...] = ()

    def as_dict(self) -> Dict[str, Any]:
        plain = asdict(self)
        plain["kv_bytes_per_token"] = None if self.kv is None else 2 * (self.kv.full + self.kv.windowed)
        return plain


def _integer(value: Any) -> Optional[int]:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _first(values: Mapping[str, Any], *keys: str) -> Optional[int]:
    for key in keys:
        found = _integer(values.get(key))
        if found is not None:
            return found
    return None


def _listing(folder: str) -> List[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    except OSError as exc:
        raise fail("cannot read a model's folder", where=folder, why=exc.strerror or str(exc)) from exc


# ---------------------------------------------------------------------------------------------------------------- gguf


def _per_layer(value: Any, layers: int) -> Optional[List[int]]:
    """A head count for each layer: GGUF writes one number, or one for each."""
    if isinstance(value, list):
        counts = [_integer(item) for item in value]
        return [count for count in counts if count is not None] if None not in counts else None
    count = _integer(value)
    return None if count is None else [count] * layers


def _gguf_kv(architecture: str, meta: Mapping[str, Any]) -> Tuple[Optional[KvShape], Optional[int]]:
    """The cache of a GGUF model and its largest count of KV heads. llama.cpp sizes it the same way (llama-kv-cache)."""
    layers = _integer(meta.get(architecture + ".block_count"))
    width = _integer(meta.get(architecture + ".embedding_length"))
    if not layers or layers > 4096:
        return None, None
    heads = _per_layer(meta.get(architecture + ".attention.head_count"), layers)
    kv_heads = _per_layer(meta.get(architecture + ".attention.head_count_kv"), layers) or heads
    if not heads or not kv_heads or not max(heads):
        return None, None
    latent = _integer(meta.get(architecture + ".attention.kv_lora_rank"))
    rope = _integer(meta.get(architecture + ".rope.dimension_count"))
    if latent and rope and meta.get(architecture + ".attention.key_length_mla"):
        text = "{0} layers x ({1} latent + {2} rope)".format(layers, latent, rope)
        return KvShape(layers * (latent + rope), text=text), 1
    head = width // max(heads) if width else None
    key = _first(meta, architecture + ".attention.key_length") or head
    value = _first(meta, architecture + ".attention.value_length") or head
    if key is None or value is None:
        return None, None
    total = sum(kv_heads[:layers])
    even = len(set(kv_heads)) == 1
    counted = (
        "{0} layers x {1} KV heads".format(layers, kv_heads[0]) if even else "{0} KV heads over {1} layers".format(total, layers)
    )
    return KvShape(total * (key + value), text="{0} x ({1} K + {2} V)".format(counted, key, value)), max(kv_heads)


def _gguf_kind(architecture: str, meta: Mapping[str, Any]) -> str:
    general = meta.get("general.type", "model")
    if architecture == "clip" or general == "mmproj":
        return "mmproj"
    if general in ("adapter", "vocab", "imatrix"):
        return str(general)
    # BERT-like models, and any model whose header says how to pool, give embeddings.
    pooled = meta.get(architecture + ".pooling_type")
    return "embeddings" if isinstance(pooled, int) and pooled in (1, 2, 3, 4) else "text"


def _dominant(tensors: Iterable[Tensor]) -> Optional[str]:
    """The type that most elements have."""
    counts: Dict[str, int] = {}
    for tensor in tensors:
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.elements
    return max(sorted(counts), key=lambda word: counts[word]) if counts else None


def _gguf_quantisation(meta: Mapping[str, Any], tensors: Sequence[Tensor]) -> Tuple[Optional[str], Tuple[str, ...]]:
    """The name of the mix, and a note where the header names one that its own tensors do not bear out."""
    dominant = _dominant(tensors)
    claimed = FILE_TYPES.get(_first(meta, "general.file_type") or 0) if "general.file_type" in meta else None
    if claimed is None:
        return dominant, ()
    # Mixes are named for their ambition (Q4_K_M, IQ3_M): only names of what is not quantised can be held against tensors.
    plain = {"F32", "F16", "BF16"}
    if claimed in plain and dominant is not None and dominant != claimed:
        return dominant, ("general.file_type says {0}, most weights are {1}".format(claimed, dominant),)
    if claimed not in plain and {tensor.dtype for tensor in tensors} <= plain:
        return dominant, ("general.file_type says {0}, and no tensor is quantised".format(claimed),)
    return claimed, ()


def _describe_gguf(path: str, headers: Sequence[GgufHeader], files: Sequence[str], missing: Sequence[str]) -> ModelFacts:
    meta = headers[0].metadata
    tensors = [tensor for header in headers for tensor in header.tensors]
    architecture = meta.get("general.architecture")
    if not isinstance(architecture, str):
        raise fail("not a usable GGUF file", where=path, why="it names no general.architecture")
    kv, kv_heads = _gguf_kv(architecture, meta)
    quantisation, notes = _gguf_quantisation(meta, tensors)
    name = meta.get("general.name")
    return ModelFacts(
        path=path,
        format="gguf",
        files=tuple(files),
        weights_bytes=sum(header.data_bytes for header in headers),
        name=name if isinstance(name, str) else None,
        architecture=architecture,
        parameters=sum(tensor.elements for tensor in tensors),
        quantisation=quantisation,
        context_length=_integer(meta.get(architecture + ".context_length")),
        layers=_integer(meta.get(architecture + ".block_count")),
        embedding_length=_integer(meta.get(architecture + ".embedding_length")),
        vocabulary=headers[0].lengths.get("tokenizer.ggml.tokens") or _integer(meta.get(architecture + ".vocab_size")),
        experts=_integer(meta.get(architecture + ".expert_count")),
        kv_heads=kv_heads,
        kv=kv,
        chat_template=isinstance(meta.get("tokenizer.chat_template"), str),
        kind=_gguf_kind(architecture, meta),
        splits=len(files) + len(missing),
        missing=tuple(missing),
        notes=notes,
    )


def _read_gguf_model(path: str) -> ModelFacts:
    """A GGUF file and, where its header or its name says that it is one of several, the others."""
    folder, name = os.path.split(path)
    named = SPLIT.fullmatch(name)
    first = read_gguf(path)
    said = _integer(first.metadata.get("split.count")) or 0
    if said > 1 and not named:
        raise fail(
            "a split model whose file was renamed",
            where=path,
            why="its header says that it is one of {0} files".format(said),
            hint="name the files NAME-00001-of-{0:05d}.gguf and so on, as llama.cpp wants them".format(said),
        )
    if not named or (not said and int(named["count"]) == 1):
        return _describe_gguf(path, [first], [name], [])
    count = int(named["count"])
    if count > 9999 or said not in (0, count):
        raise fail(
            "a split model that contradicts itself", where=path, why="its name says {0} files, its header {1}".format(count, said)
        )
    names = ["{0}-{1:05d}-of-{2:05d}.gguf".format(named["stem"], number, count) for number in range(1, count + 1)]
    here = [part for part in names if os.path.isfile(os.path.join(folder, part))]
    headers = [first if part == name else read_gguf(os.path.join(folder, part)) for part in here]
    return _describe_gguf(path, headers, here, [part for part in names if part not in here])


# ------------------------------------------------------------------------------------------------------------- hugging face

# Tensors that scale quantised weights and are no parameters of the model.
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
    """Parameters, counting what packed tensors hold: two 4-bit values a byte, 32 / bits of them in an int32."""
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


def _compressed_tensors(raw: Mapping[str, Any]) -> Tuple[Optional[str], Optional[int]]:
    groups = raw.get("config_groups")
    group: Any = next(iter(groups.values()), {}) if isinstance(groups, Mapping) else {}
    weights = group.get("weights") if isinstance(group, Mapping) else None
    weights = weights if isinstance(weights, Mapping) else {}
    bits, kind = _integer(weights.get("num_bits")), weights.get("type")
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
    """Quantisation, its bits, and that of the KV cache, from config.json's quantization_config and modelopt's
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
        return (*_compressed_tensors(raw), None)
    if method in ("bitsandbytes", "bnb"):
        return ("bnb-4bit", 4, None) if raw.get("load_in_4bit") or raw.get("_load_in_4bit") else ("bnb-8bit", 8, None)
    bits = _first(raw, "bits", "w_bit", "num_bits") or {"mxfp4": 4, "fp8": 8, "fbgemm_fp8": 8, "awq": 4, "gptq": 4}.get(method)
    return ("fp8" if method == "fbgemm_fp8" else method) or None, bits, None


_DTYPE_WORDS = {"F32": "f32", "F16": "f16", "BF16": "bf16", "F8_E4M3": "fp8", "F8_E5M2": "fp8", "F64": "f64", "I8": "int8"}


def _hf_kv(text: Mapping[str, Any]) -> Tuple[Optional[KvShape], Optional[int]]:
    """The cache of a Hugging Face model, from its (text) config: grouped heads, latent attention, windows, hybrids."""
    layers = _first(text, "num_hidden_layers", "n_layer", "n_layers")
    heads = _first(text, "num_attention_heads", "n_head", "n_heads")
    width = _first(text, "hidden_size", "n_embd", "d_model")
    if not layers or not heads or not width:
        return None, None
    types = text.get("layer_types")
    types = types if isinstance(types, list) and len(types) == layers else ["full_attention"] * layers
    interval = _integer(text.get("full_attention_interval"))
    if interval and "layer_types" not in text:
        types = ["linear_attention" if (number + 1) % interval else "full_attention" for number in range(layers)]
    window = _integer(text.get("sliding_window")) or 0
    sliding = sum(1 for word in types if word == "sliding_attention") if window else 0
    full = sum(1 for word in types if word == "full_attention" or (word == "sliding_attention" and not window))
    latent, rope = _integer(text.get("kv_lora_rank")), _integer(text.get("qk_rope_head_dim"))
    if latent and rope:
        each, kv_heads, shape = latent + rope, 1, "({0} latent + {1} rope)".format(latent, rope)
    else:
        grouped = _first(text, "num_key_value_heads", "n_head_kv", "num_kv_heads")
        kv_heads = 1 if text.get("multi_query") is True and grouped is None else grouped or heads
        head = _first(text, "head_dim") or width // heads
        each, shape = kv_heads * head * 2, "{0} KV heads x {1} x 2 (K and V)".format(kv_heads, head)
    parts = ["{0} layers x {1}".format(full, shape)]
    if sliding:
        parts.append("{0} layers of window {1} x {2}".format(sliding, window, shape))
    if full + sliding < layers:
        parts.append("{0} layers without a cache that grows".format(layers - full - sliding))
    return KvShape(full * each, sliding * each, window if sliding else 0, " + ".join(parts)), kv_heads


def choose_safetensors(folder: str, names: Sequence[str]) -> Tuple[List[str], List[str]]:
    """The safetensors files that make up the model, and those of them that are not there."""
    index = "model.safetensors.index.json"
    if index in names:
        weight_map = read_json(os.path.join(folder, index)).get("weight_map")
        if not isinstance(weight_map, dict) or not weight_map:
            raise fail("not a usable index", where=os.path.join(folder, index), why="it has no weight_map")
        wanted = sorted({str(name) for name in weight_map.values()})
        stray = [name for name in wanted if "/" in name or name in ("", ".", "..")]
        if stray:
            raise fail("not a usable index", where=os.path.join(folder, index), why="it names {0!r}".format(stray[0]))
        return [name for name in wanted if name in names], [name for name in wanted if name not in names]
    return [name for name in names if name.endswith(".safetensors")], []


def _read_hf_model(folder: str, names: Sequence[str]) -> ModelFacts:
    config = read_json(os.path.join(folder, "config.json"))
    quant_file = os.path.join(folder, "hf_quant_config.json")
    hf_quant = read_json(quant_file) if "hf_quant_config.json" in names else {}
    files, missing = choose_safetensors(folder, names)
    tensors = [tensor for name in files for tensor in read_safetensors(os.path.join(folder, name))]
    inner = config.get("text_config")
    text: Mapping[str, Any] = {**config, **inner} if isinstance(inner, Mapping) else config
    quantisation, bits, cache = name_quantisation(config if config.get("quantization_config") else text, hf_quant)
    dominant = _dominant(tensors)
    notes = []
    if quantisation is None:
        quantisation = _DTYPE_WORDS.get(dominant or "", dominant)
    elif (
        dominant in ("BF16", "F16", "F32")
        and bits
        and not any(t.dtype in ("U8", "I8", "I32", "F4") or t.dtype.startswith("F8") for t in tensors)
    ):
        notes.append(
            "config.json says {0}, and no tensor is quantised: it would be quantised while it loads".format(quantisation)
        )
        quantisation = _DTYPE_WORDS[dominant]
    kv, kv_heads = _hf_kv(text)
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
        context_length=_first(text, "max_position_embeddings", "n_positions", "n_ctx", "seq_length", "max_seq_len"),
        layers=_first(text, "num_hidden_layers", "n_layer", "n_layers"),
        embedding_length=_first(text, "hidden_size", "n_embd", "d_model"),
        vocabulary=_first(text, "vocab_size"),
        experts=_first(text, "num_local_experts", "num_experts", "n_routed_experts"),
        kv_heads=kv_heads,
        kv=kv,
        chat_template=chat,
        kind="embeddings" if embeddings else "text",
        splits=len(files) + len(missing),
        missing=tuple(missing),
        notes=tuple(notes),
    )


# ------------------------------------------------------------------------------------------------------------ TensorRT-LLM


def _read_trt_engine(folder: str, names: Sequence[str], config: Mapping[str, Any]) -> ModelFacts:
    """A folder of rank*.engine files; the card it was built for is only in the folder's label."""
    model, build = config["pretrained_config"], config.get("build_config")
    build = build if isinstance(build, Mapping) else {}
    quant = model.get("quantization")
    quant = quant if isinstance(quant, Mapping) else {}
    mapping = model.get("mapping")
    world = (_first(mapping, "world_size") if isinstance(mapping, Mapping) else None) or 1
    wanted = ["rank{0}.engine".format(rank) for rank in range(min(world, 4096))]
    here = [name for name in wanted if name in names]
    layers, heads = _first(model, "num_hidden_layers"), _first(model, "num_attention_heads")
    width = _first(model, "hidden_size")
    kv_heads = _first(model, "num_key_value_heads") or heads
    head = _first(model, "head_size") or (width // heads if width and heads else None)
    kv = None
    if layers and kv_heads and head:
        text = "{0} layers x {1} KV heads x {2} x 2 (K and V)".format(layers, kv_heads, head)
        kv = KvShape(layers * kv_heads * head * 2, text=text)
    label = os.path.basename(os.path.normpath(folder))
    built = TRT_LABEL.fullmatch(label)
    algorithm = str(quant.get("quant_algo") or model.get("dtype") or "").lower()
    cache = quant.get("kv_cache_quant_algo")
    return ModelFacts(
        path=folder,
        format="trtllm",
        files=tuple(here),
        weights_bytes=sum(os.path.getsize(os.path.join(folder, name)) for name in here),
        architecture=model.get("architecture"),
        quantisation={"float16": "f16", "bfloat16": "bf16", "float32": "f32"}.get(algorithm, algorithm) or None,
        kv_quantisation=str(cache).lower() if cache else None,
        context_length=_first(build, "max_seq_len") or _first(model, "max_position_embeddings"),
        layers=layers,
        embedding_length=width,
        vocabulary=_first(model, "vocab_size"),
        kv_heads=kv_heads,
        kv=kv,
        splits=world,
        missing=tuple(name for name in wanted if name not in here),
        trt={
            "label": label if built else None,
            "sm": int(built["sm"]) if built else None,
            "cuda": built["cuda"] if built else None,
            "version": str(config.get("version") or (built["version"] if built else "")) or None,
            "world_size": world,
            "max_batch_size": _first(build, "max_batch_size"),
        },
    )


# ------------------------------------------------------------------------------------------------------------------ entry


def read_model(path: str) -> ModelFacts:
    """What is at a path: a GGUF file, or a folder with a model in it. Raises AnvilError where there is none."""
    if not os.path.isdir(path):
        if path.endswith(".safetensors"):
            return _read_hf_model_file(path)
        return _read_gguf_model(path)
    names = _listing(path)
    if "config.json" in names:
        config = read_json(os.path.join(path, "config.json"))
        if isinstance(config.get("pretrained_config"), dict):
            return _read_trt_engine(path, names, config)
        if any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names):
            return _read_hf_model(path, names)
    ggufs = find_ggufs(path, names)
    if len(ggufs) == 1:
        return _read_gguf_model(os.path.join(path, ggufs[0]))
    why = (
        "it holds {0} GGUF models: {1}".format(len(ggufs), ", ".join(ggufs[:8]))
        if ggufs
        else "no GGUF, safetensors or TensorRT-LLM engine"
    )
    raise fail(
        "cannot tell which model this is" if ggufs else "there is no model here",
        where=path,
        why=why,
        hint="name one of the files" if ggufs else "a folder needs config.json with *.safetensors or rank*.engine, or a *.gguf",
    )


def _read_hf_model_file(path: str) -> ModelFacts:
    """One safetensors file without its config: its size and types, and nothing about its cache."""
    tensors = read_safetensors(path)
    dominant = _dominant(tensors)
    return ModelFacts(
        path=path,
        format="safetensors",
        files=(os.path.basename(path),),
        weights_bytes=sum(tensor.size for tensor in tensors),
        parameters=_count_parameters(tensors, None),
        quantisation=_DTYPE_WORDS.get(dominant or "", dominant),
        notes=("there is no config.json to tell architecture, context and cache",),
    )


def find_ggufs(folder: str, names: Optional[Sequence[str]] = None) -> List[str]:
    """The GGUF models of a folder, one name for each: the first file of those that are split."""
    found, stems = [], set()
    for name in sorted(_listing(folder) if names is None else names):
        if not name.endswith(".gguf"):
            continue
        split = SPLIT.fullmatch(name)
        if split is None:
            found.append(name)
        elif (split["stem"], split["count"]) not in stems:
            stems.add((split["stem"], split["count"]))
            found.append(name)
    return found


def discover_models(folder: str, depth: int = 4) -> Tuple[List[ModelFacts], List[AnvilError]]:
    """Every model below a folder, and why the others could not be read."""
    found: List[ModelFacts] = []
    broken: List[AnvilError] = []
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if os.path.relpath(here, folder).count(os.sep) >= depth:
            folders[:] = []
        paths = [os.path.join(here, name) for name in find_ggufs(here, names)]
        if "config.json" in names and any(name.endswith(".safetensors") or ENGINE_FILE.fullmatch(name) for name in names):
            paths.append(here)
        for path in paths:
            try:
                found.append(read_model(path))
            except AnvilError as exc:
                broken.append(exc)
    return found, broken
