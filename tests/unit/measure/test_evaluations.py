# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The evaluations of a router's image: their command lines, what they found, and what a measured profile changes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.measure.evaluations import (
    EvaluationData,
    list_checks,
    plan_evaluations,
    read_evidence,
    read_metrics,
)
from ansible_collections.anvil.serving.plugins.module_utils.measure.load_plan import LoadTarget
from ansible_collections.anvil.serving.plugins.module_utils.measure.profile_difference import (
    compare_profiles,
    fit_tiers,
    format_profile,
    parse_profile,
    read_measured,
)
from ansible_collections.anvil.serving.plugins.module_utils.measure.staleness import describe_stale

ROUTER = [LoadTarget("heavy", "http://r:8000", "heavy")]
DIRECT = [LoadTarget("heavy", "http://anvil-heavy:30002", "gpt")]
DATA = EvaluationData("[router]", {"2026-07-04-planning/prompts/1.txt": "Plan."})


def test_preflight_asks_the_router_and_calibrate_the_serve() -> None:
    preflight, calibrate = plan_evaluations(["preflight", "calibrate"], "profile", ROUTER, DIRECT, DATA)
    assert "http://r:8000/v1" in preflight.argv and preflight.tier == "heavy"
    assert "heavy=http://anvil-heavy:30002/v1" in calibrate.argv and calibrate.tier == ""
    assert sorted(calibrate.files.values()) == ["Plan.", "[router]"]


@pytest.mark.parametrize(("generation", "action"), [("profile", "run"), ("gateway", "capacity")])
def test_the_benchmark_has_another_name_in_each_generation(generation: str, action: str) -> None:
    (one,) = plan_evaluations(["benchmark"], generation, ROUTER, DIRECT, DATA)
    assert one.argv[1:4] == ("eval", "benchmark", action)


@pytest.mark.parametrize(
    ("context", "given", "words"),
    [
        (0, EvaluationData(), []),
        (131072, EvaluationData(), ["--max-model-len", "131072", "--margin", "1024"]),
        (2048, EvaluationData(), ["--max-model-len", "2048", "--margin", "512"]),
        (0, EvaluationData(input_tokens=256, output_tokens=16), ["--ctx-tokens", "256", "--max-tokens", "16"]),
    ],
)
def test_the_benchmark_stays_within_the_context_of_the_tier(context: int, given: EvaluationData, words: list[str]) -> None:
    target = LoadTarget("heavy", "http://r:8000", "heavy", context)
    (one,) = plan_evaluations(["benchmark"], "gateway", [target], DIRECT, given)
    argv = list(one.argv)
    assert argv[argv.index("--concurrency") + 2 : argv.index("--json-out")] == words


BENCHMARK = {"requests": 4, "completed": 4, "metrics": {"ttft_p95_ms": 1500.0, "throughput_tok_s": 40, "e2e_p95_ms": None}}


@pytest.mark.parametrize(
    ("evidence", "passed", "metrics"),
    [
        (BENCHMARK, True, {"benchmark_ttft_p95_s": 1.5, "benchmark_tokens_per_second_min": 40}),
        # The profile router's command ends with 0 although no request was answered, and reports 0 seconds.
        ({**BENCHMARK, "completed": 0}, False, {}),
        ({**BENCHMARK, "completed": 3}, False, {}),
        ({**BENCHMARK, "requests": 0, "completed": 0}, False, {}),
    ],
)
def test_a_benchmark_passes_if_every_request_was_answered(
    evidence: dict[str, Any], passed: bool, metrics: dict[str, float]
) -> None:
    (check,) = list_checks("benchmark", evidence)
    assert check["passed"] == passed and read_metrics("benchmark", evidence) == metrics
    assert list_checks("benchmark", {}) == [] and read_metrics("benchmark", None) == {}


def test_a_preflight_is_measured_by_the_part_of_its_checks_that_pass() -> None:
    told = {"results": [{"name": "a", "passed": True}, {"name": "b"}, {"name": "c"}]}
    assert read_metrics("preflight", told) == {"preflight_min": 0.3333} and read_metrics("preflight", {}) == {}


@pytest.mark.parametrize(
    ("kinds", "generation", "data", "where"),
    [
        (["calibrate", "bootstrap"], "gateway", DATA, ["evaluate", "evaluate", "evaluate"]),
        (["calibrate"], "profile", EvaluationData(), ["eval_data"]),
        (["calibrate", "bootstrap"], "profile", DATA, ["evaluate"]),
    ],
)
def test_what_the_image_cannot_do_is_refused(kinds: list[str], generation: str, data: EvaluationData, where: list[str]) -> None:
    with pytest.raises(AnvilError) as caught:
        plan_evaluations(kinds, generation, ROUTER, DIRECT, data)
    assert [problem.where for problem in caught.value.problems] == where


@pytest.mark.parametrize("text", ["", "no json", "[]"])
def test_evidence_that_cannot_be_read_has_no_checks(text: str) -> None:
    assert read_evidence(text) is None and list_checks("preflight", read_evidence(text)) == []


def test_checks_keep_what_an_evaluation_said() -> None:
    told = {"results": [{"name": "smoke", "passed": True, "detail": "ok"}, {"name": "json"}, "x"]}
    assert list_checks("preflight", told) == [
        {"name": "smoke", "passed": True, "detail": "ok"},
        {"name": "json", "passed": False, "detail": ""},
    ]


def row(tier: str, work_class: str, decision: str, score: float) -> dict[str, Any]:
    return {"tier_id": tier, "work_class": work_class, "decision": decision, "quality_score": score, "sample_n": 4}


def test_profiles_are_compared_by_tier_and_work_class() -> None:
    live = {
        "entries": [row("heavy", "chat", "allow", 0.9), row("heavy", "planning", "deny", 0.4), row("old", "chat", "allow", 1)]
    }
    new = {
        "entries": [row("heavy", "chat", "allow", 0.9), row("heavy", "planning", "allow", 0.9), row("fast", "chat", "deny", 0.1)]
    }
    changes = [(one["tier"], one["work_class"], one["change"]) for one in compare_profiles(live, new)]
    assert changes == [
        ("fast", "chat", "added"),
        ("heavy", "chat", "none"),
        ("heavy", "planning", "changed"),
        ("old", "chat", "removed"),
    ]
    assert [one["change"] for one in compare_profiles(None, {"entries": [row("a", "chat", "allow", 1)]})] == ["added"]


def test_a_profile_remembers_what_was_measured() -> None:
    serves = {"heavy": {"image": "sha256:1", "arguments": [], "cards": [], "driver": "580"}}
    text = format_profile({"schema": "s", "entries": []}, serves)
    assert read_measured(parse_profile(text)) == serves and json.loads(text)["schema"] == "s"
    for other in ("", "[]", '{"entries": 1}', '{"entries": [], "measured": [1]}', '{"entries": [], "measured": {"heavy": 1}}'):
        assert read_measured(parse_profile(other)) == {}


def test_a_stale_tier_is_named_with_what_changed() -> None:
    assert describe_stale({"heavy": ["image", "driver"]}) == [
        "tier heavy: its rows of the live profile are stale: image, driver changed since; playbooks/measure.yml measures it again"
    ]


def test_grades_that_bootstrap_read_go_to_the_tiers_of_the_router() -> None:
    rows = [
        row("heavy-local", "planning", "allow", 0.9),
        row("fast-local", "chat", "deny", 0.1),
        row("cloud", "chat", "allow", 1),
    ]
    fitted, left_out = fit_tiers({"schema": "s", "entries": rows}, ["heavy", "fast-local"])
    assert [one["tier_id"] for one in fitted["entries"]] == ["heavy", "fast-local"] and left_out == ["cloud"]
    assert fitted["schema"] == "s" and rows[0]["tier_id"] == "heavy-local"


@pytest.mark.parametrize(
    ("evidence", "asked", "detail"),
    [
        ({"entries": [{"tier_id": "heavy"}, {"tier_id": "fast"}]}, ["heavy", "fast"], ""),
        ({"entries": [{"tier_id": "heavy"}]}, ["heavy", "fast"], "no row of fast was measured"),
        ({"entries": []}, ["heavy", "fast"], "no row of heavy, fast was measured"),
        ({"entries": []}, [], "no row of any tier was measured"),
        ({"entries": [{"tier_id": "cloud"}]}, [], ""),
    ],
)
def test_a_profile_without_rows_of_a_measured_tier_has_not_passed(
    evidence: dict[str, Any], asked: list[str], detail: str
) -> None:
    (check,) = list_checks("calibrate", evidence, asked)
    assert (check["passed"], check["detail"]) == (not detail, detail)
    assert list_checks("calibrate", None, asked) == []
