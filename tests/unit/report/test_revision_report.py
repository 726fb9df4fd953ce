"""What a run in waves left on every host, from the results of its tasks."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.plugin_utils.report.revision_report import HostTurn, describe_turn, lay_out_turns

OLD, NEW = "a" * 64, "b" * 64
PROMOTED = {"changed": True, "revision": {"old": OLD, "new": NEW}}
KEPT = {"changed": False, "revision": {"old": OLD, "new": OLD}}
SILENT = {"unreachable": True, "msg": "no route to host"}
SKIPPED = {"skipped": True}


def look(revision: str | None, in_flight: str = "") -> dict[str, Any]:
    return {"router": {"revision": revision, "in_flight": in_flight}}


@pytest.mark.parametrize(
    ("turn", "failure", "undone", "seen", "expected"),
    [
        (PROMOTED, "", SKIPPED, look(NEW), (OLD, NEW, "promoted", "")),
        (PROMOTED, "", {}, SKIPPED, (OLD, NEW, "promoted", "")),  # a single host: nothing is read again
        (KEPT, "", SKIPPED, look(OLD), (OLD, OLD, "unchanged", "")),
        ({"changed": True, "revision": {"old": None, "new": NEW}}, "", SKIPPED, look(NEW), ("no file", NEW, "promoted", "")),
        (PROMOTED, "", {"changed": True}, look(OLD), (OLD, OLD, "rolled back", "")),
        ({"changed": True}, "", SKIPPED, look(OLD), (OLD, OLD, "promoted", "")),  # a restart changes no revision
        ({"failed": True, "msg": "bad"}, "bad", SKIPPED, look(OLD), (OLD, OLD, "failed", "bad")),
        (SILENT, "no route to host", SKIPPED, SILENT, ("unknown", "unknown", "did not answer in its turn", "no route to host")),
        (SILENT, "no route to host", SKIPPED, look(NEW), ("unknown", NEW, "did not answer in its turn", "no route to host")),
        ({}, "", {}, look(OLD), (OLD, OLD, "untouched", "")),
        ({}, "", {}, look(None), ("no file", "no file", "untouched", "")),
        (SKIPPED, "", SKIPPED, SKIPPED, ("-", "-", "no router", "")),
        ({}, "", SKIPPED, SKIPPED, ("-", "-", "no router", "")),
    ],
)
def test_each_outcome(turn: Any, failure: str, undone: Any, seen: Any, expected: tuple[str, ...]) -> None:
    assert describe_turn("gpu-1", "promoted", turn, failure, undone, seen) == HostTurn("gpu-1", *expected)


@pytest.mark.parametrize(
    ("turn", "undone", "outcome", "trouble"),
    [
        (PROMOTED, SKIPPED, "promoted", "unknown (promoted): no route to host"),
        (PROMOTED, SILENT, "not rolled back", "was promoted, and could not be rolled back: no route to host"),
        ({}, {}, "untouched", "unknown (untouched): no route to host"),
    ],
)
def test_a_host_that_does_not_answer_at_the_end_counts_as_failed(turn: Any, undone: Any, outcome: str, trouble: str) -> None:
    told = describe_turn("gpu-1", "promoted", turn, "", undone, SILENT)
    assert (told.live, told.outcome) == ("unknown", outcome) and told.trouble.endswith(trouble)


def test_a_promotion_that_was_interrupted_is_named() -> None:
    told = describe_turn("gpu-1", "promoted", SILENT, "gone", {}, look(OLD, "switching"))
    assert told.outcome == "did not answer in its turn; interrupted at switching, the next promotion finishes it or undoes it"


def test_the_table_has_a_line_for_each_host() -> None:
    turns = [HostTurn("gpu-1", OLD, NEW, "promoted"), HostTurn("gpu-10", OLD, OLD, "untouched")]
    assert lay_out_turns(turns).splitlines() == [
        "  HOST    BEFORE        LIVE          OUTCOME",
        "  gpu-1   aaaaaaaaaaaa  bbbbbbbbbbbb  promoted",
        "  gpu-10  aaaaaaaaaaaa  aaaaaaaaaaaa  untouched",
    ]
