# SPDX-License-Identifier: GPL-3.0-or-later
"""How much GPU memory a model needs: weights, KV cache and an allowance, with the arithmetic as text. Pure.

weights   the tensors' bytes, divided over the cards (tensor parallel)
cache     elements per token x bytes of the KV type x tokens x requests at once; a layer with a window keeps only its tokens
allowance CUDA context and libraries, logits and activations of one batch. It is not measured: prefer the engine's own figure
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Dict, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import ModelFacts

MIB = 1024 * 1024

# Bytes per element of a KV type; ggml's q8_0 and q4_0 keep a scale for each 32 elements.
KV_BYTES: Dict[str, float] = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "auto": 2.0,
    "fp8": 1.0,
    "fp8_e4m3": 1.0,
    "fp8_e5m2": 1.0,
    "int8": 1.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
    "nvfp4": 36 / 64,
}

CONTEXT_MIB = 512  # a CUDA context with cuBLAS and the engine's kernels, on each card
BATCH_TOKENS = 512  # llama.cpp's ubatch; the other engines split long prompts too
WEIGHTS_SHARE = 0.05  # activations and fragmentation, as a share of the weights


@dataclass(frozen=True)
class Estimate:
    """MiB on *each* of ``cards`` cards. arithmetic: how the numbers were computed, line by line."""

    total_mib: int
    weights_mib: int
    cache_mib: int
    allowance_mib: int
    context: int
    concurrency: int
    kv_dtype: str
    cards: int
    arithmetic: Tuple[str, ...]

    def as_dict(self) -> Dict[str, Any]:
        plain = asdict(self)
        plain["arithmetic"] = list(self.arithmetic)
        return plain


def _mib(count: float) -> int:
    return int(-(-count // MIB))


def estimate_vram(
    facts: ModelFacts, context: Optional[int] = None, concurrency: int = 1, kv_dtype: str = "auto", cards: int = 1
) -> Estimate:
    """The memory that each card needs for ``concurrency`` requests of ``context`` tokens (default: the model's own context).

    Raises AnvilError for an unknown KV type. Where the headers do not give the shape of the cache, none is counted, and the
    arithmetic says so.
    """
    kv_type = (facts.kv_quantisation or "auto") if kv_dtype == "auto" else kv_dtype
    if kv_type not in KV_BYTES:
        raise fail("not a known KV type", where="kv_dtype", why=repr(kv_dtype), hint="use one of " + ", ".join(KV_BYTES))
    if (context is not None and context < 1) or concurrency < 1 or cards < 1:
        raise fail(
            "context, concurrency and cards must be at least 1", where="estimate", hint="correct the option that is below 1"
        )
    tokens = context or facts.context_length or 0
    weights = facts.weights_bytes / cards
    lines = [
        "weights: {0:,} bytes{1} = {2:,} MiB".format(
            facts.weights_bytes, " / {0} cards".format(cards) if cards > 1 else "", _mib(weights)
        )
    ]
    cache = 0.0
    if facts.kv is None or not tokens:
        lines.append("cache: not counted, because the headers do not give its shape")
    else:
        # Heads are divided over the cards; where there are fewer heads than cards, they are copied.
        share = 1 / min(cards, facts.kv_heads or 1)
        width = KV_BYTES[kv_type]
        cache = facts.kv.full * tokens * width * concurrency * share
        elements = "{0:,} tokens x {1}".format(tokens, facts.kv.full)
        if facts.kv.windowed:
            kept = min(tokens, facts.kv.window)
            cache += facts.kv.windowed * kept * width * concurrency * share
            elements = "({0} + {1:,} tokens x {2})".format(elements, kept, facts.kv.windowed)
        lines.append(
            "cache: {0} elements [{1}] x {2:g} bytes ({3}) x {4} requests{5} = {6:,} MiB".format(
                elements,
                facts.kv.text,
                width,
                kv_type,
                concurrency,
                " / {0} cards".format(round(1 / share)) if share < 1 else "",
                _mib(cache),
            )
        )
    logits = BATCH_TOKENS * (facts.vocabulary or 0) * 4
    allowance = CONTEXT_MIB * MIB + logits + WEIGHTS_SHARE * weights
    lines.append(
        "allowance: {0} MiB context + {1} tokens x {2:,} vocabulary x 4 bytes + {3:.0%} of the weights = {4:,} MiB".format(
            CONTEXT_MIB, BATCH_TOKENS, facts.vocabulary or 0, WEIGHTS_SHARE, _mib(allowance)
        )
    )
    total = _mib(weights) + _mib(cache) + _mib(allowance)
    lines.append("total{0}: {1:,} MiB".format(" on each of {0} cards".format(cards) if cards > 1 else "", total))
    return Estimate(total, _mib(weights), _mib(cache), _mib(allowance), tokens, concurrency, kv_type, cards, tuple(lines))
