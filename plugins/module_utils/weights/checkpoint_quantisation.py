# SPDX-License-Identifier: GPL-3.0-or-later
"""How a checkpoint is quantised, and its KV cache, by config.json and modelopt's hf_quant_config.json. Pure."""

from __future__ import annotations

import re
from typing import Any, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.weights.weight_files import read_count, read_first_count

# Of several quantisations in one checkpoint, the one that asks the most of a card comes first.
_STRICTEST = ("nvfp4", "mxfp4", "fp8", "int8", "int4")
_BITS = {"mxfp4": 4, "mxfp8": 8, "fp8": 8, "fbgemm_fp8": 8, "awq": 4, "gptq": 4}


def _name_group(group: Any, form: str) -> Optional[Tuple[str, int]]:
    """The quantisation of one group of compressed-tensors, and its bits."""
    if not isinstance(group, Mapping):
        return None
    weights = group.get("weights")
    weights = weights if isinstance(weights, Mapping) else {}
    form = str(group.get("format") or form)
    for word in ("nvfp4", "mxfp4"):
        if word in form:
            return word, 4
    bits, kind = read_count(weights.get("num_bits")), weights.get("type")
    if kind == "float" and bits in (4, 8):
        return ("fp8", 8) if bits == 8 else ("nvfp4", 4)
    if not bits:
        return None
    return ("int{0}".format(bits) if group.get("input_activations") else "w{0}a16".format(bits)), bits


def _name_compressed_tensors(raw: Mapping[str, Any]) -> Tuple[Optional[str], Optional[int]]:
    """The strictest quantisation of all groups: the engine runs every one of them."""
    groups, form = raw.get("config_groups"), str(raw.get("format", ""))
    found: List[Tuple[str, int]] = []
    for group in groups.values() if isinstance(groups, Mapping) else ():
        named = _name_group(group, form)
        if named is not None:
            found.append(named)
    if not found:
        return _name_group({}, form) or (None, None)
    return min(found, key=lambda named: _STRICTEST.index(named[0]) if named[0] in _STRICTEST else len(_STRICTEST))


def _name_quark(raw: Mapping[str, Any]) -> Tuple[Optional[str], Optional[int]]:
    """AMD's Quark: the type of the weights of most layers, and whether their inputs are quantised too."""
    whole = raw.get("global_quant_config")
    whole = whole if isinstance(whole, Mapping) else {}
    weight = whole.get("weight")
    weight = next((one for one in weight if isinstance(one, Mapping)), None) if isinstance(weight, list) else weight
    word = str(weight.get("dtype", ""))[:20] if isinstance(weight, Mapping) else ""
    if word.startswith("fp8"):
        return "fp8", 8
    if word.startswith(("fp4", "mxfp4")):
        return "mxfp4", 4
    match = re.fullmatch(r"u?int([48])", word)
    if match:
        return "int8" if match[1] == "8" and whole.get("input_tensors") else "w{0}a16".format(match[1]), int(match[1])
    return "quark", None


def _name_cache(raw: Mapping[str, Any]) -> Optional[str]:
    """The type of the KV cache that the checkpoint asks for; None for none. A word that is not known stays as it is."""
    algorithm = raw.get("kv_cache_quant_algo")
    if algorithm:
        word = str(algorithm).lower()[:40]
        return None if word in ("auto", "none") else word
    scheme = raw.get("kv_cache_scheme")
    if not isinstance(scheme, Mapping):
        return None
    bits, kind = read_count(scheme.get("num_bits")), str(scheme.get("type", ""))[:20]
    return "fp8" if (bits, kind) == (8, "float") else "{0}{1}".format(kind or "?", bits or "?")


def name_method(config: Mapping[str, Any], hf_quant: Mapping[str, Any]) -> str:
    """The quantisation method of a checkpoint, as vLLM looks for it; empty for none."""
    if isinstance(hf_quant.get("quantization"), Mapping):
        return "modelopt"
    raw = config.get("quantization_config")
    if not isinstance(raw, Mapping):
        raw = config.get("compression_config")
    word = raw.get("quant_method") if isinstance(raw, Mapping) else None
    if not word and isinstance(raw, Mapping) and (raw.get("load_in_4bit") is True or raw.get("load_in_8bit") is True):
        return "bitsandbytes"  # written before the method had a name
    return (word if isinstance(word, str) else "").lower()[:40].replace("compressed_tensors", "compressed-tensors")


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
    cache = _name_cache(inner if isinstance(inner, Mapping) else raw)
    method = name_method(config, hf_quant)
    modelopt = inner if isinstance(inner, Mapping) else raw if method.startswith("modelopt") else {}
    if modelopt:
        algorithm = str(modelopt.get("quant_algo") or "").lower().replace("-", "_")
        layers = modelopt.get("quantized_layers")
        if algorithm == "mixed_precision" and isinstance(layers, Mapping):
            algorithm = " ".join({str(one.get("quant_algo")).lower() for one in layers.values() if isinstance(one, Mapping)})
        word = next((name for name in ("nvfp4", "mxfp4", "fp8") if name in algorithm), algorithm)
        return word or None, 4 if "4" in word else 8 if "8" in word else None, cache
    if method == "compressed-tensors":
        return (*_name_compressed_tensors(raw), cache)
    if method == "quark":
        return (*_name_quark(raw), cache)
    mlx = raw or config.get("quantization")
    if not method and isinstance(mlx, Mapping) and "group_size" in mlx and read_count(mlx.get("bits")):
        return "mlx", read_count(mlx.get("bits")), cache
    if method in ("bitsandbytes", "bnb"):
        return ("bnb-4bit", 4, cache) if raw.get("load_in_4bit") or raw.get("_load_in_4bit") else ("bnb-8bit", 8, cache)
    bits = read_first_count(raw, "bits", "w_bit", "num_bits") or _BITS.get(method)
    return ("fp8" if method == "fbgemm_fp8" else method) or None, bits, cache
