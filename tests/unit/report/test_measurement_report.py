# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The report of a measurement: its table, and its page with plots."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

from ansible_collections.anvil.serving.plugins.module_utils.measure.gate import parse_gate
from ansible_collections.anvil.serving.plugins.plugin_utils.report.measurement_report import (
    draw_lines,
    render_measurement_page,
    render_measurement_table,
    report_measurement,
    round_up,
)


def load(tier: str, concurrency: int, ttft: float | None, problem: str = "") -> dict[str, Any]:
    return {"tier": tier, "concurrency": concurrency, "requests": 8, "errors": 0, "error_rate": 0.0, "seconds": 2.0,
            "ttft_p50_s": ttft, "ttft_p95_s": ttft, "latency_p50_s": ttft, "latency_p95_s": ttft, "tokens_per_second": 123.4,
            "tokens_per_second_per_request": 20.0, "requests_per_second": 4.0, "problem": problem}  # fmt: skip


LOADS = [load("heavy", 1, 0.1234), load("heavy", 8, 2.0), load("<fast>", 1, None, "503 <busy>")]
SERVES = {"heavy": {"image": "sha256:1", "arguments": ["-c", "4096"], "cards": ["RTX GPU-1"], "driver": "580"}}
HOST = report_measurement(
    "box", {"plan": "3 loads", "loads": LOADS, "serves": SERVES}, parse_gate({"default": {"ttft_p95_s": 1}}, "slo.yaml")
)


def test_the_table_shows_every_load_and_what_does_not_hold() -> None:
    text = render_measurement_table([HOST])
    assert re.search(r"heavy +8 +8 +0 +2 +2 +2 +123 +4\n", text), text
    assert re.search(r"<fast> +1 +8 +0 +- ", text)
    assert "<fast>, in flight 1: 503 <busy>" in text and "gate: 1 of 3 limits hold" in text
    assert "gate: heavy, concurrency 8: ttft_p95_s is 2, allowed is at most 1" in text


def test_the_page_is_self_contained_and_escapes_what_serves_say() -> None:
    page = render_measurement_page([HOST], 0.0)
    assert "<fast>" not in page and "&lt;fast&gt;" in page and "503 &lt;busy&gt;" in page
    assert not re.search(r"(src|href)=|url\(|@import|<script", page)
    assert "prefers-color-scheme: dark" in page and page.count('<svg class="plot"') == 3
    ElementTree.fromstring(re.search(r'<svg class="plot".*?</svg>', page, re.DOTALL).group())  # type: ignore[union-attr]
    assert "does not hold" in page and "GPU-1" in page


EVALUATED = {
    "evaluations": [
        {"name": "eval preflight of heavy", "kind": "preflight", "tier": "heavy", "passed": False, "log": ["x"], "checks": [
            {"name": "smoke", "passed": True, "detail": "ok"}, {"name": "json", "passed": False, "detail": "<no json>"}]},
        {"name": "eval calibrate", "kind": "calibrate", "tier": "", "passed": False, "checks": [], "log": ["no judge"]},
    ],
    "difference": [
        {"tier": "heavy", "work_class": "planning", "change": "changed", "live": None,
         "measured": {"decision": "allow", "quality_score": 0.9, "sample_n": 4}},
        {"tier": "old", "work_class": "chat", "change": "removed", "measured": None,
         "live": {"decision": "deny", "quality_score": 0.1, "sample_n": 2}},
    ],
}  # fmt: skip


def test_evaluations_and_the_difference_of_profiles_are_shown() -> None:
    host = report_measurement("box", {}, None, EVALUATED)
    text = render_measurement_table([host])
    for line in (
        "preflight of heavy: 1 of 2 checks pass",
        "  json: <no json>",
        "calibrate: failed",
        "  no judge",
        "profile: heavy, planning: changed: allow 0.9 (4 samples), live is nothing",
        "profile: old, chat: removed: nothing, live is deny 0.1 (2 samples)",
    ):
        assert line in text, text
    page = render_measurement_page([host], 0.0)
    assert "&lt;no json&gt;" in page and page.count("<rect") == 1


def test_a_plot_has_one_point_for_each_known_value_within_its_area() -> None:
    plot = draw_lines(LOADS, "ttft_p95_s")
    assert [(line["tier"], len(line["points"])) for line in plot["lines"]] == [("heavy", 2), ("<fast>", 0)]
    low, high = plot["lines"][0]["points"]
    assert low["x"] < high["x"] and low["y"] > high["y"] and plot["marks"][0]["y"] == plot["base"]
    assert [level["text"] for level in plot["levels"]] == ["1", "8"]


def test_the_scale_of_a_plot_ends_at_a_round_number() -> None:
    assert [round_up(value) for value in (1.0, 1.1, 3.0, 7.0, 9.0, 450.0)] == [1.0, 2.0, 4.0, 8.0, 10.0, 800.0]
    assert abs(round_up(0.027) - 0.04) < 1e-9
