# SPDX-License-Identifier: GPL-3.0-or-later
"""What each engine counts, read from its ``/metrics`` or ``/slots``: requests, tokens, KV cache, what moves with a token. Pure.

Sources: vLLM's ``vllm/v1/metrics/loggers.py`` and SGLang's ``srt/metrics/collector.py``; llama.cpp's ``/metrics`` (with
``--metrics``), where ``n_decode_total`` moves with every batch and the tokens only at the end of a request; its ``/slots``.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.watch.liveness import Counters

SAMPLE = re.compile(r"^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{([^}\n]*)\})? +([0-9.eE+-]+)", re.MULTILINE)
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
RUNNING, WAITING, KV_USE, PROMPT, GENERATED = "running", "waiting", "kv_use", "prompt", "generated"
KV_TOKENS, FINISHED, PREEMPTED = "kv_tokens", "finished", "preempted"
PROMPT_SECONDS, GENERATION_SECONDS = "prompt_seconds", "generation_seconds"
DURATION, FIRST_TOKEN = "duration", "first_token"
# vLLM writes the size of its KV cache as labels: in tokens, or (older, and wrong for hybrid models) in blocks.
VLLM_CACHE, CACHE_TOKENS, CACHE_BLOCKS, BLOCK_SIZE = (
    "vllm:cache_config_info",
    "kv_cache_size_tokens",
    "num_gpu_blocks",
    "block_size",
)
# The most buckets of a histogram that are passed on.
MOST_BUCKETS = 64


@dataclass(frozen=True)
class EngineMetrics:
    """The names of an engine's metrics. moves: those of which any change proves a computed token. histograms: word -> name."""

    names: Mapping[str, Tuple[str, ...]]
    moves: Tuple[str, ...]
    histograms: Mapping[str, str] = field(default_factory=dict)


METRICS: Mapping[str, EngineMetrics] = {
    "vllm": EngineMetrics(
        {
            RUNNING: ("vllm:num_requests_running",),
            WAITING: ("vllm:num_requests_waiting",),
            KV_USE: ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),
            PROMPT: ("vllm:prompt_tokens_total",),
            GENERATED: ("vllm:generation_tokens_total",),
            FINISHED: ("vllm:request_success_total",),
            PREEMPTED: ("vllm:num_preemptions_total",),
        },
        ("vllm:generation_tokens_total", "vllm:prompt_tokens_total", "vllm:iteration_tokens_total_sum"),
        {DURATION: "vllm:e2e_request_latency_seconds", FIRST_TOKEN: "vllm:time_to_first_token_seconds"},
    ),
    "sglang": EngineMetrics(
        {
            RUNNING: ("sglang:num_running_reqs",),
            WAITING: ("sglang:num_queue_reqs",),
            KV_USE: ("sglang:token_usage",),
            PROMPT: ("sglang:prompt_tokens_total",),
            GENERATED: ("sglang:generation_tokens_total",),
            KV_TOKENS: ("sglang:max_total_num_tokens",),
            FINISHED: ("sglang:num_requests_total",),
            PREEMPTED: ("sglang:num_retracted_requests_total",),
        },
        ("sglang:generation_tokens_total", "sglang:prompt_tokens_total", "sglang:num_used_tokens"),
        {DURATION: "sglang:e2e_request_latency_seconds", FIRST_TOKEN: "sglang:time_to_first_token_seconds"},
    ),
    "llama_cpp": EngineMetrics(
        {
            RUNNING: ("llamacpp:requests_processing",),
            WAITING: ("llamacpp:requests_deferred",),
            KV_USE: ("llamacpp:kv_cache_usage_ratio",),
            PROMPT: ("llamacpp:prompt_tokens_total",),
            GENERATED: ("llamacpp:tokens_predicted_total",),
            PROMPT_SECONDS: ("llamacpp:prompt_seconds_total",),
            GENERATION_SECONDS: ("llamacpp:tokens_predicted_seconds_total",),
        },
        ("llamacpp:n_decode_total", "llamacpp:tokens_predicted_total", "llamacpp:prompt_tokens_total"),
    ),
}


@dataclass(frozen=True)
class Histogram:
    """A histogram of seconds. buckets: upper bound as the engine writes it -> observations up to it."""

    buckets: Mapping[str, float]
    total: float
    count: float


@dataclass(frozen=True)
class EngineCounters:
    """counters: for the judgement. values, histograms: figures for the metrics, by the words of this room."""

    counters: Counters
    values: Dict[str, float] = field(default_factory=dict)
    histograms: Mapping[str, Histogram] = field(default_factory=dict)


def read_metrics(engine: str, text: str) -> Optional[EngineCounters]:
    """None where the text lacks the count of running requests, or everything that moves with a token.

    The figures of several engines behind one server are added up; of their KV caches the fullest counts.
    """
    known = METRICS.get(engine)
    if known is None:
        return None
    wanted = {name for names in known.names.values() for name in names} | set(known.moves)
    parts = {name + end for name in known.histograms.values() for end in ("_sum", "_count")}
    buckets = {name + "_bucket" for name in known.histograms.values()}
    sums: Dict[str, float] = {}
    steps: Dict[str, Dict[str, float]] = {name: {} for name in buckets}
    capacity = 0.0
    for name, labels, number in SAMPLE.findall(text):
        if name in wanted or name in parts:
            value = _number(number)
            sums[name] = max(sums.get(name, 0.0), value) if name in known.names[KV_USE] else sums.get(name, 0.0) + value
        elif name in buckets:
            bound = dict(LABEL.findall(labels)).get("le", "")
            if _is_bound(bound) and (bound in steps[name] or len(steps[name]) < MOST_BUCKETS):
                steps[name][bound] = steps[name].get(bound, 0.0) + _number(number)
        elif name == VLLM_CACHE:
            capacity += _read_capacity(dict(LABEL.findall(labels)))
    values = {word: sums[name] for word, names in known.names.items() for name in names if name in sums}
    if capacity:
        values[KV_TOKENS] = capacity
    moves = {name: sums[name] for name in known.moves if name in sums}
    if RUNNING not in values or not moves:
        return None
    histograms = {
        word: Histogram(steps[name + "_bucket"], sums[name + "_sum"], sums[name + "_count"])
        for word, name in known.histograms.items()
        if "+Inf" in steps[name + "_bucket"] and name + "_sum" in sums and name + "_count" in sums
    }
    progress = json.dumps(moves, sort_keys=True)
    return EngineCounters(Counters(int(values[RUNNING]), int(values.get(WAITING, 0)), progress), values, histograms)


def _is_bound(text: str) -> bool:
    return text == "+Inf" or bool(re.fullmatch(r"[0-9.eE+-]{1,20}", text) and _number(text) > 0)


def _read_capacity(labels: Mapping[str, str]) -> float:
    """Tokens in the KV cache of one engine; 0 where vLLM does not say it."""
    tokens = _number(labels.get(CACHE_TOKENS, ""))
    return tokens or _number(labels.get(CACHE_BLOCKS, "")) * _number(labels.get(BLOCK_SIZE, ""))


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
