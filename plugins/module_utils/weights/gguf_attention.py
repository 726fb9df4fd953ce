# SPDX-License-Identifier: GPL-3.0-or-later
"""The attention memory of each layer, from the header of a GGUF file, as llama.cpp allocates it. Pure.

Sources: create_memory and load_arch_hparams of llama.cpp (llama-model.cpp, llama-hparams.cpp, models/*.cpp, as vendored by
llama-cpp-python 0.3.36; Kimi K3 and RWKV as of b11434). A header with a key that speaks of a memory which is not known makes the
layout unknown.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.weights import model_facts as kinds
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import Attention, Layer
from ansible_collections.anvil.serving.plugins.module_utils.weights.weight_files import read_count, read_first_count

LAYER_LIMIT = 4096

# Architectures whose layers have a window: every n-th layer has full attention; "first" where it is the first of each n, and
# 0 where the header must hold the pattern. Other architectures keep every token, whatever their header says of a window.
_WINDOWS: Dict[str, Tuple[int, str]] = {
    "afmoe": (4, ""),
    "cohere2": (4, ""),
    "cohere2moe": (4, "first"),
    "exaone-moe": (4, ""),
    "exaone4": (4, ""),
    "gemma2": (2, ""),
    "gemma3": (6, ""),
    "gemma3n": (5, ""),
    "gemma4": (0, ""),
    "gpt-oss": (2, ""),
    "granite_swa": (0, ""),
    "laguna": (4, "first"),
    "llama4": (4, ""),
    "maple": (0, ""),
    "mellum": (4, ""),
    "mimo2": (0, ""),
    "muse-glimmer": (4, ""),
    "olmo2": (4, ""),
    "plamo3": (8, ""),
    "smallthinker": (4, "first"),
    "spark2_5": (0, ""),
    "step35": (0, ""),
}
# Windows that a header may leave out, or that llama.cpp does not take from it.
_WINDOW_TOKENS = {"gemma2": 4096}
_FIXED_WINDOWS = {"llama4": 8192, "smallthinker": 4096}

# Architectures that keep nothing: encoders, and diffusion models.
_NO_CACHE = re.compile(
    r"bert|^gemma-embedding$|^wavtokenizer-dec$|^dream$|^llada(-moe)?$|^rnd1$|^t5encoder$|^clip$",
)
_RECURRENT = ("mamba", "mamba2")
# Architectures that run their layers num_loops times, with a cache for each time.
_LOOPED = ("nanbeige",)
_RWKV = ("rwkv6", "rwkv7", "rwkv6qwen2", "arwkv7")
# Every n-th layer has attention where neither the header's list nor its interval says so; the others are recurrent.
_INTERVALS = {"qwen3next": 4, "qwen35": 4, "qwen35moe": 4, "minimax-01": 8}
# Architectures whose layers without KV heads are recurrent.
_HEADLESS_RECURRENT = (
    "jamba",
    "granitehybrid",
    "plamo2",
    "lfm2",
    "lfm2moe",
    "kimi-linear",
    "kimi-k3",
    "bailingmoe3",
    "nemotron_h",
    "nemotron_h_moe",
)
# The end of a key that speaks of a memory. With one that is not read here, the layout is unknown.
_MEMORY = re.compile(
    r"^(ssm|kda|wkv|shortconv|ple)\.|^attention\.(sliding|indexer|recurrent|shared_kv|compress|cross|kv_lora|.*_swa$|.*chunk)"
    r"|token_shift|full_attention_interval|time_mix|hyper_connection|compress"
)


@dataclass(frozen=True)
class _Header:
    """The metadata of one architecture, by the end of its keys."""

    architecture: str
    values: Mapping[str, Any]

    def number(self, *keys: str) -> int:
        return read_first_count(self.values, *keys) or 0

    def each(self, key: str, layers: int, default: Optional[List[int]] = None) -> Optional[List[int]]:
        """The number of each layer: GGUF writes one for all, or a list. Shorter lists are filled up with 0."""
        value = self.values.get(key)
        if isinstance(value, list):
            counts = [int(item) if isinstance(item, bool) else read_count(item) for item in value[:layers]]
            if any(count is None for count in counts):
                return None
            return [count or 0 for count in counts] + [0] * (layers - len(counts))
        count = read_count(value)
        return default if count is None else [count] * layers


def _find_windows(header: _Header, layers: int) -> Optional[List[bool]]:
    """Which layers have a window; None where the architecture needs a pattern and the header has none."""
    known = _WINDOWS.get(header.architecture)
    window = header.number("attention.sliding_window")
    if header.architecture in ("lfm2", "lfm2moe"):
        return [window > 0] * layers  # of the layers that are not recurrent
    if known is None or (not window and header.architecture not in (*_WINDOW_TOKENS, *_FIXED_WINDOWS)):
        return [False] * layers
    if header.architecture == "llama4" and header.values.get("attention.sliding_window") == 0:
        return [False] * layers
    if header.architecture == "smallthinker" and not window:
        return [False] * layers
    period, first = known
    pattern = header.values.get("attention.sliding_window_pattern")
    if isinstance(pattern, list):
        return [bool(word) for word in pattern[:layers]] + [False] * (layers - len(pattern))
    period = read_count(pattern) or period
    if not period:
        return None
    return [(number % period != 0) if first else (number % period < period - 1) for number in range(layers)]


def _find_recurrent(header: _Header, layers: int, kv_heads: List[int]) -> List[bool]:
    if header.architecture in (*_RECURRENT, *_RWKV) or header.architecture == "falcon-h1":
        return [True] * layers
    if header.architecture in _HEADLESS_RECURRENT:
        forward = header.each("feed_forward_length", layers) or [0] * layers
        plain = header.architecture.startswith("nemotron")  # its layers of experts have no KV heads either
        return [heads == 0 and not (plain and forward[number]) for number, heads in enumerate(kv_heads)]
    if header.architecture in _INTERVALS:
        chosen = header.each("attention.recurrent_layers", layers)
        if chosen is not None:
            return [bool(word) for word in chosen]
        interval = header.number("full_attention_interval") or _INTERVALS[header.architecture]
        return [(number + 1) % interval != 0 for number in range(layers)]
    return [False] * layers


def _read_state(header: _Header, heads: int, key: int) -> int:
    """Bytes of the recurrent state of one sequence in one layer; llama.cpp keeps it in 32 bits (n_embd_r, n_embd_s)."""
    kernel, inner = header.number("ssm.conv_kernel"), header.number("ssm.inner_size")
    if header.architecture in _RWKV:  # the tokens before, and a matrix for each head
        return (
            header.number("embedding_length") * ((header.number("token_shift_count") or 2) + header.number("wkv.head_size")) * 4
        )
    if header.number("shortconv.l_cache"):
        return header.number("embedding_length") * (header.number("shortconv.l_cache") - 1) * 4
    if header.number("kda.head_dim"):
        head = header.number("kda.head_dim")
        return (3 * max(kernel - 1, 0) * heads * head + head * head * heads) * 4
    if header.architecture == "minimax-01":
        return key * key * heads * 4
    depth, groups = header.number("ssm.state_size"), header.number("ssm.group_count")
    return (max(kernel - 1, 0) * (inner + 2 * groups * depth) + depth * inner) * 4


def _find_strange(header: _Header) -> Tuple[str, ...]:
    """Keys that speak of a memory which the architecture is not known to have."""
    name, strange = header.architecture, []
    hybrid = name in (*_RECURRENT, *_INTERVALS, *_HEADLESS_RECURRENT, "falcon-h1")
    latent = header.number("attention.key_length_mla") > 0
    for key in header.values:
        if not _MEMORY.search(key):
            continue
        if key.startswith(("ssm.", "kda.", "shortconv.")) and hybrid:
            continue
        if name in _RWKV and key in ("wkv.head_size", "token_shift_count", "time_mix_extra_dim", "time_decay_extra_dim"):
            continue
        if key in ("full_attention_interval", "attention.recurrent_layers") and name in _INTERVALS:
            continue
        if key.startswith("attention.sliding") and name not in ("deepseek4", "dots3note", "glm5-next"):
            continue  # an architecture that is not in the table keeps every token
        if key.endswith(("key_length_swa", "value_length_swa")) or key == "attention.shared_kv_layers":
            continue
        if key == "attention.kv_lora_rank" or (
            key.startswith("attention.indexer.") and name in ("deepseek32", "glm-dsa") and latent
        ):
            continue
        strange.append(key)
    return tuple(sorted(strange))


def read_gguf_attention(architecture: str, meta: Mapping[str, Any]) -> Optional[Attention]:
    """The layers of a model; None where its header does not describe them."""
    start = architecture + "."
    header = _Header(architecture, {key[len(start) :]: value for key, value in meta.items() if key.startswith(start)})
    everything = header.number("block_count")
    layers = everything - header.number("nextn_predict_layers")  # a draft has a cache of its own
    if not 0 < layers <= LAYER_LIMIT:
        return None
    if _NO_CACHE.search(architecture):
        return Attention((Layer(kinds.NONE, layers),))
    strange = _find_strange(header)
    if strange:
        return Attention((Layer(kinds.UNKNOWN, layers),), strange)
    heads = header.each("attention.head_count", layers, [0] * layers)
    kv_heads = header.each("attention.head_count_kv", layers, heads)
    if not heads or not kv_heads:
        return None
    most = max(heads)
    key = header.number("attention.key_length") or (header.number("embedding_length") // most if most else 0)
    value = header.number("attention.value_length") or (header.number("embedding_length") // most if most else 0)
    windows, recurrent = _find_windows(header, layers), _find_recurrent(header, layers, kv_heads)
    if windows is None:
        return Attention((Layer(kinds.UNKNOWN, layers),), ("attention.sliding_window_pattern",))
    tokens = _FIXED_WINDOWS.get(architecture) or header.number("attention.sliding_window") or _WINDOW_TOKENS.get(architecture, 0)
    full = Layer(kinds.FULL, 1, 0, key, value)
    if header.number("attention.key_length_mla"):
        full = Layer(kinds.MLA, 1, 1, key)
    index = header.number("attention.indexer.key_length")
    own_index = header.each("attention.indexer.types", layers, [1] * layers) or []
    window = replace(
        full,
        kind=kinds.CHUNKED if architecture == "llama4" else kinds.WINDOW,
        key=header.number("attention.key_length_swa") or key,
        value=header.number("attention.value_length_swa") or value,
        window=tokens,
    )
    linear = Layer(kinds.LINEAR, state=_read_state(header, most, key))
    cached = 20 if architecture == "gemma3n" else layers - header.number("attention.shared_kv_layers")
    counts: Dict[Layer, int] = {}
    for number in range(layers):
        mine: List[Layer] = []
        if recurrent[number]:
            mine.append(linear)
        if number >= cached:
            mine.append(Layer(kinds.SHARED))
        elif kv_heads[number] and (not recurrent[number] or architecture == "falcon-h1"):
            layer = window if windows[number] else full
            # The indexer's keys lie in a second cache of the same type.
            extra = index if index and own_index[number] else 0
            mine.append(
                replace(layer, key=layer.key + extra) if layer.kind == kinds.MLA else replace(layer, kv_heads=kv_heads[number])
            )
        for layer in mine or [Layer(kinds.NONE)]:
            counts[layer] = counts.get(layer, 0) + 1
    loops = header.number("num_loops") if architecture in _LOOPED else 1
    if loops * layers > LAYER_LIMIT:
        return Attention((Layer(kinds.UNKNOWN, layers),), ("num_loops",))
    found = tuple(replace(layer, count=count * max(loops, 1)) for layer, count in counts.items())
    if any(layer.kv_heads and not layer.elements for layer in found):
        return None
    return Attention(found)
