# SPDX-License-Identifier: GPL-3.0-or-later
"""How much GPU memory a model needs: weights, KV cache and an allowance, with the arithmetic as text. Pure.

weights   the tensors as they lie in memory, divided over the cards. Certain, unless quantisation on load changes them
cache     layer by layer: elements per token x bytes of the KV type x tokens that the layer keeps x requests at once
allowance CUDA context and libraries, logits and activations of one batch. It is not measured: prefer the engine's own figure
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Dict, List, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.weights import model_facts as kinds
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import Layer, ModelFacts

MIB = 1024 * 1024

# Bytes per element of a KV type; ggml's q8_0 and q4_0 keep a scale for each 32 elements.
KV_BYTES: Dict[str, float] = {
    "f32": 4.0,
    "float32": 4.0,
    "f16": 2.0,
    "half": 2.0,
    "float16": 2.0,
    "bf16": 2.0,
    "bfloat16": 2.0,
    "auto": 2.0,
    "fp8": 1.0,
    "fp8_e4m3": 1.0,
    "fp8_e5m2": 1.0,
    "fp8_inc": 1.0,
    "fp8_per_token_head": 1.0,
    "fp8_ds_mla": 656 / 576,  # vLLM: a latent of DeepSeek-V3.2 with its scales and its part in 16 bits
    "mxfp8": 33 / 32,
    "int8": 1.0,
    "int8_per_token_head": 1.0,
    "int4_per_token_head": 0.5,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
    "nvfp4": 36 / 64,
    "fp4_e2m1": 36 / 64,  # SGLang: a scale for each 16 elements
    "fp4_mx_block16": 36 / 64,
    "nvfp4_4over6": 36 / 64,
}

CONTEXT_MIB = 512  # a CUDA context with cuBLAS and the engine's kernels, on each card
# CUDA graphs and the profiled step of vLLM and SGLang, from one measured run: Qwen3-8B on an A10 held 20,272 tokens (kaito#2156)
GRAPHS_MIB = {"vllm": 700, "sglang": 700}
LOGIT_TOKENS = 512  # llama.cpp's ubatch; the other engines split long prompts too
WEIGHTS_SHARE = 0.05  # activations and fragmentation, as a share of the weights
# What quantisation on load makes of one element of a linear layer, in bytes; the scales come on top.
LOADED_BYTES = {
    "bitsandbytes": 0.5,
    "fp8": 1.0,
    "fp8_per_tensor": 1.0,
    "fp8_per_block": 1.0,
    "fp8_per_channel": 1.0,
    "nvfp4_per_token": 0.5,
    "nvfp4_online": 0.5,
    "w8a8_fp8": 1.0,
    "w8a8_int8": 1.0,
    "mxfp8": 1.0,
    "int8_per_channel_weight_only": 1.0,
    "experts_int8": 1.0,
    "mxfp4": 0.5,
    "int4wo": 0.5,
    "int8wo": 1.0,
    "int8dq": 1.0,
    "fp8wo": 1.0,
    "fp8dq": 1.0,
}
PLAIN = ("f32", "f16", "bf16")
# Tokens of one step, where the arguments do not say: vLLM's max_num_batched_tokens (get_batch_defaults), by the memory of a card
# in MiB, and llama.cpp's ubatch.
VLLM_BATCHES = ((160 * 1024, 16384), (70 * 1024, 8192), (0, 2048))
BATCH_TOKENS = {"vllm": VLLM_BATCHES[-1][1], "llama_cpp": 512}
# The engine that a format is for, where none is named.
FORMAT_ENGINES = {"safetensors": "vllm", "gguf": "llama_cpp"}


@dataclass(frozen=True)
class Split:
    """How an engine uses its cards. tensor: layers cut into slices. pipeline: layers one after the other. data: copies.

    experts: ranks that divide the routed experts; 0 for those that divide the layers. attention: copies of the attention among
    the tensor ranks, each with requests of its own. context: ranks that divide the tokens of one sequence.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    experts: int = 0
    attention: int = 1
    context: int = 1

    @property
    def cards(self) -> int:
        return self.tensor * self.pipeline * self.data


@dataclass(frozen=True)
class Loading:
    """What the arguments of an engine say about memory.

    batch_tokens: tokens of one step; None for the engine's default. value_dtype: the KV type of values, where it is another one
    (llama.cpp). dtype: auto, or the type that plain weights are converted to. quantization: quantisation on load. swa_full:
    layers with a window keep every token. speculative: layers for speculative decoding are loaded.
    """

    engine: str = ""
    batch_tokens: Optional[int] = None
    value_dtype: Optional[str] = None
    dtype: str = "auto"
    quantization: Optional[str] = None
    swa_full: bool = False
    speculative: bool = False


@dataclass(frozen=True)
class Estimate:
    """MiB on *each* of ``cards`` cards. arithmetic: how the numbers were computed, line by line.

    weights_certain: at least ``weights_mib`` lie on one of the cards, whatever the engine does. cache_certain: the layers, the
    tokens and the KV type are known, so ``cache_mib`` is what the engine must hold. notes: what is not known.
    """

    total_mib: int
    weights_mib: int
    cache_mib: int
    allowance_mib: int
    context: int
    concurrency: int
    kv_dtype: str
    cards: int
    weights_certain: bool
    cache_certain: bool
    arithmetic: Tuple[str, ...]
    notes: Tuple[str, ...] = ()

    def as_dict(self) -> Dict[str, Any]:
        plain = asdict(self)
        plain["arithmetic"], plain["notes"] = list(self.arithmetic), list(self.notes)
        return plain


@dataclass(frozen=True)
class _Need:
    """The bytes of a part, what its line says, and whether the bytes are certain. notes: what is not known."""

    count: float
    text: str
    certain: bool = True
    notes: Tuple[str, ...] = ()


def choose_batch_tokens(vram_mib: int, is_small: bool = False) -> int:
    """vLLM's default for the tokens of one step. is_small: a card that vLLM counts as small whatever its memory (A100, GB10)."""
    if is_small and vram_mib < VLLM_BATCHES[0][0]:
        return VLLM_BATCHES[-1][1]
    return next(tokens for least, tokens in VLLM_BATCHES if vram_mib >= least)


def _mib(count: float) -> int:
    return int(-(-count // MIB))


def _read_kv_width(word: str, notes: List[str]) -> float:
    """Bytes of one element of a KV type. A word that is not known counts as 16 bits."""
    if word not in KV_BYTES:
        note = "the KV type {0!r} is not known: counted as 2 bytes for each element".format(word)
        if note not in notes:
            notes.append(note)
    return KV_BYTES.get(word, 2.0)


def count_kept_tokens(layer: Layer, tokens: int, batch_tokens: int, loading: Loading) -> int:
    """The tokens of one sequence that a layer keeps.

    vLLM keeps the window before the first token of a step, and the tokens of the step (SlidingWindowSpec); llama.cpp pads the
    same to 256 cells (llama_kv_cache_iswa).
    """
    if layer.kind == kinds.CROSS:
        return layer.window
    if layer.kind in (kinds.FULL, kinds.MLA) or not layer.window:
        return tokens
    if loading.swa_full:
        return tokens
    if loading.engine == "llama_cpp":
        return min(tokens, -(-(layer.window + batch_tokens) // 256) * 256)
    before = layer.window - 1 if layer.kind == kinds.WINDOW else layer.window
    return min(tokens, before + batch_tokens)


def _estimate_weights(facts: ModelFacts, split: Split, loading: Loading) -> _Need:
    parts = facts.parts
    count, terms = float(facts.weights_bytes), ["{0:,} bytes".format(facts.weights_bytes)]

    def leave_out(size: float, why: str) -> None:
        nonlocal count
        if size:
            count -= size
            terms.append("{0} {1:,} {2}".format("-" if size > 0 else "+", round(abs(size)), why))

    if not loading.speculative:
        leave_out(parts.idle, "that are not loaded")
    if loading.engine == "llama_cpp":
        leave_out(parts.host, "in the host's memory")
    notes: List[str] = []
    if loading.engine in ("vllm", "sglang"):
        # Floats get the type of the model: 16 bits, unless 32 are asked for.
        if loading.dtype in ("float32", "float"):
            leave_out(-parts.narrow, "because 16-bit weights become 32-bit")
        else:
            leave_out(parts.wide // 2, "because 32-bit weights become 16-bit")
        if loading.quantization and facts.quantisation in PLAIN:
            # A method with its settings, such as int4wo-128.
            width = LOADED_BYTES.get(loading.quantization.partition("-")[0])
            if width is None:
                notes.append(
                    "how {0} packs the weights while it loads them is not known: counted as they are on disk".format(
                        loading.quantization
                    )
                )
            elif parts.linear_elements:
                packed = parts.linear_elements * (2 - width)
                leave_out(packed, "because {0} packs the linear layers".format(loading.quantization))
    experts, heads = min(float(parts.experts), count), min(float(parts.attention), max(0.0, count - parts.experts))
    each = (
        (count - experts - heads) / split.tensor
        + heads * split.attention / split.tensor
        + experts / (split.experts or split.tensor)
    ) / split.pipeline
    over = " on each of {0} cards".format(split.cards) if split.cards > 1 else ""
    return _Need(each, "weights: {0}{1} = {2:,} MiB".format(" ".join(terms), over, _mib(each)), not notes, tuple(notes))


def _estimate_cache(facts: ModelFacts, tokens: int, requests: int, kv_type: str, split: Split, loading: Loading) -> _Need:
    attention = facts.attention
    if attention is None:
        return _Need(0, "cache: not counted, because the headers do not give its shape", False, ("the KV cache is not known",))
    if not attention.exact:
        words = ", ".join(attention.unknown) or "?"
        return _Need(
            0, "cache: not counted, because its layers are not known: " + words, False, ("layers that are not known: " + words,)
        )
    grows = any(layer.kind in (kinds.FULL, kinds.MLA, kinds.WINDOW, kinds.CHUNKED) for layer in attention.layers)
    if grows and not tokens:
        return _Need(0, "cache: not counted, because the context is not known", False, ("the context is not known",))
    notes: List[str] = []
    key_width = _read_kv_width(kv_type, notes)
    value_width = _read_kv_width(loading.value_dtype or kv_type, notes)
    loading = replace(loading, engine=loading.engine or FORMAT_ENGINES.get(facts.format, ""))
    batch_tokens = loading.batch_tokens or BATCH_TOKENS.get(loading.engine, LOGIT_TOKENS)
    total, lines = 0.0, []
    for layer in attention.layers:
        if layer.kind in (kinds.SHARED, kinds.NONE):
            continue
        if layer.kind == kinds.LINEAR:
            total += layer.count * layer.state / split.tensor
            lines.append("{0} x {1:,} bytes of state".format(layer.count, layer.state))
            continue
        kept = count_kept_tokens(layer, tokens, batch_tokens, loading)
        heads = max(1, -(-layer.kv_heads * split.attention // split.tensor))
        each = heads * (layer.key * key_width + layer.value * value_width) + layer.token_bytes
        if kv_type.endswith("_per_token_head"):
            each += heads * 8  # a 32-bit scale for the key and one for the value
        total += layer.count * kept / split.context * each
        shape = "{0} heads x ({1} K + {2} V)".format(heads, layer.key, layer.value) if layer.value else "{0}".format(layer.key)
        lines.append("{0} {1} layers x {2:,} tokens x {3}".format(layer.count, layer.kind, kept, shape))
    per_rank = -(-requests // (split.data * split.attention))
    count = total * per_rank / split.pipeline
    words = kv_type if loading.value_dtype in (None, kv_type) else "{0}, values {1}".format(kv_type, loading.value_dtype)
    text = "cache: ({0}), {1} ({2:g} bytes), x {3} requests{4} = {5:,} MiB".format(
        " + ".join(lines) or "no layer has one",
        words,
        key_width,
        per_rank,
        " / {0} pipeline stages".format(split.pipeline) if split.pipeline > 1 else "",
        _mib(count),
    )
    return _Need(count, text, not notes, tuple(notes))


def estimate_vram(
    facts: ModelFacts,
    context: Optional[int] = None,
    concurrency: int = 1,
    kv_dtype: str = "auto",
    split: Split = Split(),
    loading: Loading = Loading(),
) -> Estimate:
    """The memory that each card needs for ``concurrency`` requests of ``context`` tokens (default: the model's own context).

    kv_dtype: auto takes what the checkpoint says, else 16 bits. An unknown KV type or layer is a note, never an error. Raises
    AnvilError for a number below 1.
    """
    if (context is not None and context < 1) or min(concurrency, split.tensor, split.pipeline, split.data, split.context) < 1:
        raise fail(
            "context, concurrency and cards must be at least 1", where="estimate", hint="correct the option that is below 1"
        )
    kv_type = (facts.kv_quantisation or "auto") if kv_dtype == "auto" else kv_dtype
    tokens = context or facts.context_length or 0
    weights = _estimate_weights(facts, split, loading)
    cache = _estimate_cache(facts, tokens, concurrency, kv_type, split, loading)
    logits = LOGIT_TOKENS * (facts.vocabulary or 0) * 4
    graphs = GRAPHS_MIB.get(loading.engine, 0)
    allowance = (CONTEXT_MIB + graphs) * MIB + logits + WEIGHTS_SHARE * weights.count
    total = _mib(weights.count) + _mib(cache.count) + _mib(allowance)
    lines = (
        weights.text,
        cache.text,
        "allowance: {0} MiB context{1} + {2} tokens x {3:,} vocabulary x 4 bytes + {4:.0%} of the weights = {5:,} MiB".format(
            CONTEXT_MIB,
            " + {0} MiB CUDA graphs".format(graphs) if graphs else "",
            LOGIT_TOKENS,
            facts.vocabulary or 0,
            WEIGHTS_SHARE,
            _mib(allowance),
        ),
        "total{0}: {1:,} MiB".format(" on each of {0} cards".format(split.cards) if split.cards > 1 else "", total),
    )
    return Estimate(
        total_mib=total,
        weights_mib=_mib(weights.count),
        cache_mib=_mib(cache.count),
        allowance_mib=_mib(allowance),
        context=tokens,
        concurrency=concurrency,
        kv_dtype=kv_type,
        cards=split.cards,
        weights_certain=weights.certain,
        cache_certain=cache.certain,
        arithmetic=lines,
        notes=(*weights.notes, *cache.notes),
    )
