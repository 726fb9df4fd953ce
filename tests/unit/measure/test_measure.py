# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a measurement sends, what it reads from aiperf's files, and which limits hold."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.measure.gate import check_gate, describe_check, parse_gate
from ansible_collections.anvil.serving.plugins.module_utils.measure.load_plan import (
    LoadSettings,
    LoadTarget,
    check_settings,
    describe_loads,
    plan_loads,
)
from ansible_collections.anvil.serving.plugins.module_utils.measure.load_results import LoadResult, read_load_result
from ansible_collections.anvil.serving.plugins.module_utils.measure.load_targets import list_targets
from ansible_collections.anvil.serving.plugins.module_utils.measure.measured_serve import list_differences

TIERS = [
    {"id": "heavy", "base_url": "http://anvil-heavy:30002/v1", "model": "gpt", "kind": "chat", "serve": "heavy"},
    {"id": "fast", "base_url": "http://anvil-fast:30003/api/v1", "model": "qwen", "kind": "chat", "serve": "fast"},
]
PROFILE = {"tiers": TIERS, "presets": {"heavy": ["heavy"], "fast": ["fast"]}, "routes": {}}
GATEWAY = {"tiers": TIERS, "presets": {}, "routes": {"llm.primary": "heavy", "fast": "fast"}}
LOAD = plan_loads([LoadTarget("heavy", "http://r:8000", "heavy")], LoadSettings((4,)))[0]


@pytest.mark.parametrize(
    ("router", "via", "wanted", "expected"),
    [
        (PROFILE, "router", [], [("fast", "http://r:8000", "fast"), ("heavy", "http://r:8000", "heavy")]),
        (GATEWAY, "router", [], [("fast", "http://r:8000", "fast"), ("heavy", "http://r:8000", "llm.primary")]),
        (GATEWAY, "tiers", ["fast"], [("fast", "http://anvil-fast:30003/api", "qwen")]),
        (PROFILE, "tiers", ["heavy"], [("heavy", "http://anvil-heavy:30002", "gpt")]),
    ],
)
def test_a_tier_is_asked_by_the_name_that_leads_to_it(router: Any, via: str, wanted: list[str], expected: list[Any]) -> None:
    targets = list_targets(router, "r", via, wanted)
    assert [(one.tier, one.url, one.model) for one in targets] == expected


def test_every_unknown_tier_is_named() -> None:
    with pytest.raises(AnvilError) as caught:
        list_targets(PROFILE, "r", "router", ["heavy", "slow", "none"])
    assert [problem.where for problem in caught.value.problems] == ["tiers: slow", "tiers: none"]


def test_one_load_for_each_number_of_requests_in_flight() -> None:
    settings = LoadSettings((8, 1, 8), requests=4)
    loads = plan_loads([LoadTarget("heavy", "http://r:8000", "heavy")], settings)
    assert [load.concurrency for load in loads] == [1, 8]
    counts = [load.argv[load.argv.index("--request-count") + 1] for load in loads]
    assert counts == ["4", "8"]  # a load has at least as many requests as are in flight
    assert "2 loads on heavy: concurrency 1, 8" in describe_loads(loads, settings)


def test_every_number_out_of_range_is_named() -> None:
    with pytest.raises(AnvilError) as caught:
        check_settings(LoadSettings((0, 1), requests=0, timeout=1))
    assert [problem.where for problem in caught.value.problems] == ["concurrency", "requests", "timeout"]
    with pytest.raises(AnvilError):
        check_settings(LoadSettings(()))


EXPORT = {
    "request_count": {"unit": "requests", "avg": 3.0},
    "error_request_count": {"unit": "requests", "avg": 1.0},
    "benchmark_duration": {"unit": "sec", "avg": 2.5},
    "time_to_first_token": {"unit": "ms", "avg": 100.0, "p50": 90.0, "p95": 250.0},
    "request_latency": {"unit": "ms", "p50": 400.0, "p95": 900.0},
    "output_token_throughput": {"unit": "tokens/sec", "avg": 51.5},
    "error_summary": [{"error_details": {"code": 503, "type": "Busy", "message": "no tier"}, "count": 1}],
}


def test_an_export_becomes_a_result() -> None:
    result = read_load_result(LOAD, 0, 9.0, json.dumps(EXPORT), "", [])
    assert (result.requests, result.errors, result.error_rate, result.seconds) == (4, 1, 0.25, 2.5)
    assert (result.ttft_p95_s, result.latency_p95_s, result.tokens_per_second) == (0.25, 0.9, 51.5)
    assert result.requests_per_second is None and result.problem == "503 Busy: no tier"


@pytest.mark.parametrize(
    ("code", "export", "records", "log", "requests", "problem"),
    [
        (None, "", "", [], 0, "not finished within 9 s"),
        (
            1,
            "",
            '{"error": {"code": 401, "type": "Unauthorized", "message": "no key"}}\n{"err',
            [],
            1,
            "401 Unauthorized: no key",
        ),
        (1, "", "", ["starting", "│ Reason: no such host │", "Log File: x"], 0, "Reason: no such host"),
        (127, "", "", [], 0, "aiperf ended with 127"),
        (0, "not json", "", [], 0, "aiperf ended with 0"),
        (0, "[]", "[1]\n", [], 0, "aiperf ended with 0"),
    ],
)
def test_a_load_without_numbers_says_why(
    code: int | None, export: str, records: str, log: list[str], requests: int, problem: str
) -> None:
    result = read_load_result(LOAD, code, 9.0, export, records, log)
    assert (result.requests, result.error_rate, result.ttft_p95_s, result.problem) == (requests, 1.0, None, problem)


def result(tier: str, concurrency: int, **values: Any) -> LoadResult:
    known = {"requests": 8, "errors": 0, "error_rate": 0.0, "seconds": 1.0, "ttft_p95_s": 0.3, "tokens_per_second": 100.0}
    return LoadResult(tier, concurrency, **{**known, **values})


MEASURED = [result("heavy", 1), result("heavy", 8, ttft_p95_s=3.0, tokens_per_second=400.0), result("fast", 1)]


@pytest.mark.parametrize(
    ("document", "broken"),
    [
        ({"tiers": {"heavy": {"ttft_p95_s": 3.0}}}, []),
        ({"tiers": {"heavy": {"ttft_p95_s": 1}}}, ["heavy, concurrency 8: ttft_p95_s is 3, allowed is at most 1"]),
        ({"tiers": {"heavy": {"ttft_p95_s": 1, "concurrency": 1}}}, []),
        ({"tiers": {"heavy": {"tokens_per_second_min": 200, "concurrency": [8]}}}, []),
        ({"default": {"tokens_per_second_min": 100}, "tiers": {"heavy": {"error_rate_max": 0}}}, []),
        (
            {"default": {"tokens_per_second_min": 101}, "tiers": {"heavy": {"error_rate_max": 0}}},
            ["fast, concurrency 1: tokens_per_second is 100, allowed is at least 101".replace("second is", "second_min is")],
        ),
        (
            {"tiers": {"fast": {"ttft_p95_s": 1, "concurrency": 4}}},
            ["fast, concurrency 4: ttft_p95_s is not known (this load was not measured), allowed is at most 1"],
        ),
        (
            {"tiers": {"gone": {"ttft_p95_s": 1}}},
            ["gone: ttft_p95_s is not known (this load was not measured), allowed is at most 1"],
        ),
        (
            {"tiers": {"fast": {"latency_p95_s": 1}}},
            ["fast, concurrency 1: latency_p95_s is not known (no value), allowed is at most 1"],
        ),
    ],
)
def test_which_limits_do_not_hold(document: Any, broken: list[str]) -> None:
    checks = check_gate(parse_gate(document, "slo.yaml"), MEASURED)
    assert checks and [describe_check(one) for one in checks if not one.holds] == broken


@pytest.mark.parametrize(
    ("document", "where"),
    [
        (None, ["slo.yaml"]),
        ([], ["slo.yaml"]),
        ({"tier": {}}, ["slo.yaml"]),
        ({"tiers": 4}, ["slo.yaml: tiers"]),
        (
            {"default": {"ttft_p95": 1}, "tiers": {"a": {"ttft_p95_s": "1"}, "b": 2, "c": {"error_rate_max": 5}}},
            ["tiers.a.ttft_p95_s", "tiers.b", "tiers.c.error_rate_max", "default.ttft_p95"],
        ),
        ({"tiers": {"a": {"ttft_p95_s": float("nan"), "concurrency": [0]}}}, ["tiers.a.ttft_p95_s", "tiers.a.concurrency"]),
        ({"tiers": {"a": {}}}, ["tiers.a"]),
    ],
)
def test_every_mistake_of_a_gate_is_named(document: Any, where: list[str]) -> None:
    with pytest.raises(AnvilError) as caught:
        parse_gate(document, "slo.yaml")
    assert [problem.where.replace("slo.yaml: ", "") for problem in caught.value.problems] == [
        one.replace("slo.yaml: ", "") for one in where
    ]


def test_a_fact_that_is_not_known_does_not_differ() -> None:
    measured = {"image": "sha256:1", "arguments": ["-c", "4096"], "cards": ["RTX GPU-1"], "driver": ""}
    assert list_differences(measured, {**measured, "driver": "580"}) == []
    assert list_differences(measured, {**measured, "image": "sha256:2", "cards": ["RTX GPU-2"]}) == ["image", "cards"]


EVALUATED = {"heavy": {"preflight_min": 0.5, "benchmark_ttft_p95_s": 3.0, "quality_min.planning": 0.9, "quality_min.chat": 0.6}}


@pytest.mark.parametrize(
    ("limits", "broken"),
    [
        ({"preflight_min": 0.5, "benchmark_ttft_p95_s": 3}, []),
        ({"preflight_min": 1}, ["heavy: preflight_min is 0.5, allowed is at least 1"]),
        ({"benchmark_ttft_p95_s": 2}, ["heavy: benchmark_ttft_p95_s is 3, allowed is at most 2"]),
        ({"quality_min": 0.8}, ["heavy: quality_min.chat is 0.6, allowed is at least 0.8"]),
        ({"quality_min": {"planning": 0.8}}, []),
        (
            {"quality_min": {"review": 0.8}},
            ["heavy: quality_min.review is not known (no evaluation of this run measured it), allowed is at least 0.8"],
        ),
        (
            {"ttft_p95_s": 1, "preflight_min": 0},
            ["heavy: ttft_p95_s is not known (this load was not measured), allowed is at most 1"],
        ),
    ],
)
def test_what_the_evaluations_found_is_held_against_the_gate(limits: dict[str, Any], broken: list[str]) -> None:
    gate = parse_gate({"tiers": {"heavy": limits}}, "slo.yaml")
    assert [describe_check(check) for check in check_gate(gate, [], EVALUATED) if not check.holds] == broken


def test_a_limit_on_evaluations_does_not_hold_without_one() -> None:
    gate = parse_gate({"default": {"quality_min": 0.5, "benchmark_latency_p95_s": 9}}, "slo.yaml")
    texts = [describe_check(check) for check in check_gate(gate, MEASURED) if not check.holds]
    assert texts and all("no evaluation of this run measured it" in text for text in texts)
