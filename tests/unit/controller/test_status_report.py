"""Status: how it is laid out as text and as a page."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.plugin_utils.report import status_report


def card(*holders: tuple[str, int | None], used: int | None = 250, total: int | None = 1000) -> dict[str, Any]:
    rows = [{"name": n, "kind": "serve", "state": "running", "vram_mib": mib, "container": n} for n, mib in holders]
    return {"uuid": "GPU-a", "name": "Big", "vram_used_mib": used, "vram_total_mib": total, "holders": rows}


@pytest.mark.parametrize(
    ("holders", "percents", "over"),
    [
        ((), [], False),
        ((("a", 500), ("b", 250)), [50, 25], False),
        ((("a", 900), ("b", 900)), [50, 50], True),
        ((("a", None),), [25], False),
        ((("a", 500), ("b", None)), [50, status_report.LEAST_PERCENT], False),
    ],
)
def test_the_pieces_of_a_bar(holders: tuple[tuple[str, int | None], ...], percents: list[float], over: bool) -> None:
    layout = status_report.lay_out_bar(card(*holders))
    assert [piece["percent"] for piece in layout["pieces"]] == percents
    assert (layout["overcommitted"], layout["used_percent"]) == (over, 25)
    assert sum(percents) + layout["free_percent"] == pytest.approx(100)


def test_a_card_that_does_not_tell_its_memory_still_has_a_bar() -> None:
    layout = status_report.lay_out_bar(card(("a", 5), ("b", None), used=None, total=None))
    assert [piece["percent"] for piece in layout["pieces"]] == [50, 50] and layout["used_percent"] is None


@pytest.mark.parametrize(("seconds", "text"), [(-5, "0 s"), (59, "59 s"), (60, "1 min"), (7500, "2 h 5 min"), (90000, "1 d 1 h")])
def test_spans(seconds: int, text: str) -> None:
    assert status_report.format_duration(seconds) == text


EVIL = "<script>alert(1)</script>\"'&"


def look(**more: Any) -> dict[str, Any]:
    serve = {"state": "ready", "ready": True, "health": "", "reasons": ["command", "gpu"], "gpu_uuids": ["GPU-a"]}
    detail = {"since": 940, "restarts": 2, "ports": [30002], "model": "o/" + EVIL, "served_name": "m", "vram_mib": 500}
    trial = {
        "name": "trial",
        "containers": ["x"],
        "state": "loading",
        "ready": False,
        "created": 900,
        "expires": 1060,
        "ports": [30010],
    }
    trial |= {"gpu_uuids": [], "served_name": "t", "health": "", "since": 970, "restarts": 0}
    told = {
        "now": 1000,
        "serves": {"heavy": serve},
        "details": {"heavy": detail},
        "gpus": [card(("heavy", 500))],
        "experiments": [trial],
    }
    return {**told, "squatters": {"heavy": ["container x (no compose project, running)"]}, "orphans": ["old"], **more}


def report(**more: Any) -> dict[str, Any]:
    plan = {"gpus": {"big": {"uuid": "GPU-a"}}}
    return status_report.report_host(
        "box", plan, look(**more), {"skipped": True}, {"skipped": True}, {"retired": [{"name": "gone"}]}
    )


def test_the_table_of_a_host() -> None:
    text = status_report.render_table([report()])
    lines = text.splitlines()
    assert lines[0] == "box" and "  retired: experiment gone, its time to live was over" in lines
    heads = next(line for line in lines if "STATE" in line)
    heavy = next(line for line in lines if line.startswith("  heavy "))
    for head, cell in (("STATE", "ready"), ("SINCE", "1 min"), ("DRIFT", "command, gpu"), ("GPU", "big 0.2/1.0 GiB")):
        assert heavy[heads.index(head) :].startswith(cell), heavy
    assert heavy.endswith("2") and "30002" in heavy
    assert "trial: expires in 1 min" in text
    assert "heavy: squatter: container x" in text and "orphan: container old" in text


def test_a_server_of_somebody_else_is_told_as_such() -> None:
    mac = {"state": "silent", "ready": False, "why": "nothing answers", "port": 8081, "served_name": "qwen", "managed": False}
    told = report(externals={"mac": mac, "nas": {**mac, "state": "answers", "ready": True, "why": ""}})
    rows = {row["serve"]: row for row in told["rows"]}
    assert [rows[name]["tone"] for name in ("mac", "nas")] == ["bad", "good"]
    assert (rows["mac"]["drift"], rows["mac"]["port"], rows["mac"]["model"]) == ("not managed", "8081", "qwen")
    assert "mac: nothing answers" in told["notes"] and "mac (external)" in status_report.render_table([told])
    assert ">external</span>" in status_report.render_page([told], 1000)


def test_a_host_that_does_not_answer_is_a_sentence_and_hides_no_other() -> None:
    silent = status_report.report_host("dark", {}, {"msg": "the engine\ndoes not answer"}, {}, {}, {})
    text = status_report.render_table([silent, report()])
    assert "dark\n  the engine\n  does not answer" in text and "heavy" in text
    assert "does not answer" in status_report.render_page([silent, report()], 1000)


def test_the_page_needs_nothing_else_and_nothing_in_it_is_code() -> None:
    page = status_report.render_page([report()], 1000)
    assert "<script" not in page and "&lt;script&gt;" in page
    assert not re.search(r"""(src|href)\s*=|url\(|@import|https?:""", page)
    assert 'role="img" aria-label="0.2 of 1.0 GiB used; held by heavy (serve, 0.5 GiB claimed)"' in page
    assert "prefers-color-scheme: dark" in page and 'lang="en"' in page


def test_logs_mark_the_stream() -> None:
    told = {"logs": {"heavy": [{"stream": "stdout", "line": "a"}, {"stream": "stderr", "line": "b"}], "x": []}}
    assert status_report.render_logs("box", told).splitlines() == ["box", "  heavy | a", "  heavy ! b", "  x       (nothing)"]
    assert status_report.render_logs("box", {"skipped": True}) == "box\n  nothing to read"


def test_a_tier_that_gets_no_requests_is_noted_for_each_router() -> None:
    quiesced = {"state": "quiesced", "ready": True, "in_flight": 2, "reason": "new-image"}
    down = {"state": "admitted", "ready": False, "in_flight": 0, "reason": "health_http_503"}
    fine = {**down, "ready": True, "reason": ""}
    tiers = {"heavy": {"r-1": quiesced, "r-2": fine}, "fast": {"r-1": down}}
    assert status_report.list_tier_notes({"tiers": tiers}) == [
        "tier fast: r-1 sends it no requests: health_http_503",
        "tier heavy is quiesced in r-1 (new-image), with 2 requests in flight",
    ]
    assert status_report.list_tier_notes({"trouble": "no engine"}) == ["router: no engine"]
    assert status_report.list_tier_notes({"skipped": True}) == []
