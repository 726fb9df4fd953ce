# SPDX-License-Identifier: GPL-3.0-or-later
"""What each engine counts, read from its ``/metrics`` or ``/slots``: requests, tokens, KV cache, what moves with a token. Pure.

Sources: vLLM's and SGLang's Prometheus metrics; llama.cpp's ``/metrics`` (with ``--metrics``), where ``n_decode_total`` moves
with every batch and the tokens only at the end of a request; its ``/slots``.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.watch.liveness import Counters

SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{[^}\n]*\})? +([0-9.eE+-]+)", re.MULTILINE)
RUNNING, WAITING, KV_USE, PROMPT, GENERATED = "running", "waiting", "kv_use", "prompt", "generated"


@dataclass(frozen=True)
class EngineMetrics:
    """The names of an engine's metrics. moves: those of which any change proves a computed token."""

    names: Mapping[str, Tuple[str, ...]]
    moves: Tuple[str, ...]


METRICS: Mapping[str, EngineMetrics] = {
    "vllm": EngineMetrics(
        {
            RUNNING: ("vllm:num_requests_running",),
            WAITING: ("vllm:num_requests_waiting",),
            KV_USE: ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
            PROMPT: ("vllm:prompt_tokens_total",),
            GENERATED: ("vllm:generation_tokens_total",),
        },
        ("vllm:generation_tokens_total", "vllm:prompt_tokens_total", "vllm:iteration_tokens_total_sum"),
    ),
    "sglang": EngineMetrics(
        {
            RUNNING: ("sglang:num_running_reqs",),
            WAITING: ("sglang:num_queue_reqs",),
            KV_USE: ("sglang:token_usage",),
            PROMPT: ("sglang:prompt_tokens_total",),
            GENERATED: ("sglang:generation_tokens_total",),
        },
        ("sglang:generation_tokens_total", "sglang:prompt_tokens_total", "sglang:num_used_tokens"),
    ),
    "llama_cpp": EngineMetrics(
        {
            RUNNING: ("llamacpp:requests_processing",),
            WAITING: ("llamacpp:requests_deferred",),
            KV_USE: ("llamacpp:kv_cache_usage_ratio",),
            PROMPT: ("llamacpp:prompt_tokens_total",),
            GENERATED: ("llamacpp:tokens_predicted_total",),
        },
        ("llamacpp:n_decode_total", "llamacpp:tokens_predicted_total", "llamacpp:prompt_tokens_total"),
    ),
}


@dataclass(frozen=True)
class EngineCounters:
    """counters: for the judgement. values: figures for the metrics, by the words of this room."""

    counters: Counters
    values: Dict[str, float] = field(default_factory=dict)


def read_metrics(engine: str, text: str) -> Optional[EngineCounters]:
    """None where the text lacks the count of running requests, or everything that moves with a token."""
    known = METRICS.get(engine)
    if known is None:
        return None
    wanted = {name for names in known.names.values() for name in names} | set(known.moves)
    sums: Dict[str, float] = {}
    for name, number in SAMPLE.findall(text):
        if name in wanted:
            value = _number(number)
            sums[name] = max(sums.get(name, 0.0), value) if name in known.names[KV_USE] else sums.get(name, 0.0) + value
    values = {word: sums[name] for word, names in known.names.items() for name in names if name in sums}
    moves = {name: sums[name] for name in known.moves if name in sums}
    if RUNNING not in values or not moves:
        return None
    progress = json.dumps(moves, sort_keys=True)
    return EngineCounters(Counters(int(values[RUNNING]), int(values.get(WAITING, 0)), progress), values)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0


def read_slots(text: str) -> Optional[EngineCounters]:
    """llama.cpp's ``/slots``. Queued requests are not in it. Each year it has the tokens elsewhere."""
    try:
        slots = json.loads(text)
        running = sum(bool(slot["is_processing"]) for slot in slots)
        parts = [
            [slot.get("id_task"), _decoded(slot), slot.get("n_past"), slot.get("n_prompt_tokens_processed")] for slot in slots
        ]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
    return EngineCounters(Counters(running, 0, json.dumps(parts)), {RUNNING: float(running)})


def _decoded(slot: Mapping[str, Any]) -> Any:
    token = slot.get("next_token")
    token = token[0] if isinstance(token, list) and token else token
    return token.get("n_decoded") if isinstance(token, dict) else slot.get("n_decoded")
