# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The metrics of watch: what is read from each engine, Prometheus' conventions, and the table of docs/watch.md."""

from __future__ import annotations

import re

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.watch import counters
from ansible_collections.anvil.serving.plugins.module_utils.watch.exposition import (
    COUNTER,
    ENGINE_HISTOGRAMS,
    ENGINE_METRICS,
    METRICS,
)
from conftest import REPO

# As vLLM writes it, with two engines behind one server; SGLang, with labels of its own.
VLLM = """\
vllm:num_requests_running{engine="0",model_name="m"} 1.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 4.0
vllm:generation_tokens_total{engine="0",model_name="m"} 10.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 3.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 4.0
vllm:num_preemptions_total{engine="0",model_name="m"} 2.0
vllm:e2e_request_latency_seconds_bucket{engine="0",le="0.3",model_name="m"} 1.0
vllm:e2e_request_latency_seconds_bucket{engine="1",le="0.3",model_name="m"} 2.0
vllm:e2e_request_latency_seconds_bucket{engine="0",le="+Inf",model_name="m"} 5.0
vllm:e2e_request_latency_seconds_bucket{engine="1",le="+Inf",model_name="m"} 2.0
vllm:e2e_request_latency_seconds_sum{engine="0",model_name="m"} 7.5
vllm:e2e_request_latency_seconds_count{engine="0",model_name="m"} 5.0
vllm:e2e_request_latency_seconds_count{engine="1",model_name="m"} 2.0
"""
BLOCKS = 'vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="573"} 1.0\n'
TOKENS = 'vllm:cache_config_info{block_size="8",engine="0",kv_cache_size_tokens="463459",num_gpu_blocks="320"} 1.0\n'
SGLANG = """\
sglang:num_running_reqs{model_name="m",tp_rank="0"} 2.0
sglang:num_queue_reqs{model_name="m",tp_rank="0"} 7.0
sglang:token_usage{model_name="m",tp_rank="0"} 0.5
sglang:max_total_num_tokens{model_name="m",tp_rank="0"} 16384.0
sglang:generation_tokens_total{model_name="m"} 12.0
sglang:num_requests_total{is_streaming="true",model_name="m"} 2.0
sglang:num_requests_total{is_streaming="false",model_name="m"} 3.0
sglang:time_to_first_token_seconds_bucket{le="0.1",model_name="m"} 1.0
sglang:time_to_first_token_seconds_bucket{le="+Inf",model_name="m"} 5.0
sglang:time_to_first_token_seconds_sum{model_name="m"} 2.5
sglang:time_to_first_token_seconds_count{model_name="m"} 5.0
"""


def test_figures_of_vllm_are_added_up_over_its_engines() -> None:
    found = counters.read_metrics("vllm", VLLM)
    assert found is not None
    assert (found.values[counters.FINISHED], found.values[counters.PREEMPTED]) == (7, 2)
    assert found.histograms[counters.DURATION] == counters.Histogram({"0.3": 3, "+Inf": 7}, 7.5, 7)
    assert counters.FIRST_TOKEN not in found.histograms and counters.KV_TOKENS not in found.values


@pytest.mark.parametrize(
    ("cache", "tokens"),
    [(BLOCKS, 573 * 16), (TOKENS, 463459), (BLOCKS.replace('"573"', '"None"'), None), (BLOCKS + BLOCKS, 2 * 573 * 16)],
)
def test_the_size_of_vllms_cache(cache: str, tokens: float | None) -> None:
    found = counters.read_metrics("vllm", VLLM + cache)
    assert found is not None and found.values.get(counters.KV_TOKENS) == tokens


def test_figures_of_sglang() -> None:
    found = counters.read_metrics("sglang", SGLANG)
    assert found is not None
    assert (found.values[counters.KV_TOKENS], found.values[counters.FINISHED], found.values[counters.WAITING]) == (16384, 5, 7)
    assert found.histograms[counters.FIRST_TOKEN] == counters.Histogram({"0.1": 1, "+Inf": 5}, 2.5, 5)


@pytest.mark.parametrize(
    "line",
    [
        'vllm:e2e_request_latency_seconds_bucket{le="1\\" 2",model_name="m"} 1.0',
        'vllm:e2e_request_latency_seconds_bucket{le="nan"} 1.0',
        'vllm:e2e_request_latency_seconds_bucket{le="-1"} 1.0',
        'vllm:e2e_request_latency_seconds_bucket{model_name="m"} 1.0',
    ],
)
def test_a_bucket_that_is_no_number_is_left_out(line: str) -> None:
    found = counters.read_metrics("vllm", VLLM + line + "\n")
    assert found is not None and set(found.histograms[counters.DURATION].buckets) == {"0.3", "+Inf"}


def test_a_server_cannot_make_us_pass_on_thousands_of_buckets() -> None:
    lines = "".join(f'vllm:e2e_request_latency_seconds_bucket{{le="{number}"}} 1.0\n' for number in range(1, 5000))
    found = counters.read_metrics("vllm", VLLM + lines)
    assert found is not None and len(found.histograms[counters.DURATION].buckets) == counters.MOST_BUCKETS


def test_names_follow_prometheus_conventions() -> None:
    assert set(ENGINE_METRICS.values()) | set(ENGINE_HISTOGRAMS.values()) <= set(METRICS)
    for name, (kind, about) in METRICS.items():
        assert re.fullmatch(r"(anvil|process)_[a-z0-9_]+", name) and about.endswith(".")
        assert name.endswith("_total") == (kind == COUNTER), name
        assert not re.search(r"_(ms|mib|percent|minutes)(_|$)", name), name


def test_the_table_of_the_documentation_lists_every_metric_once() -> None:
    text = (REPO / "docs" / "watch.md").read_text()
    section = text[text.index("## Metrics") : text.index("## Settings")]
    assert sorted(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == sorted(METRICS)
