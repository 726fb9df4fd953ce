"""Which lines of progress are shown, and when."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.plugin_utils.report.progress import LineSelector, is_progress_on


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_terminal_shows_every_line_once() -> None:
    selector = LineSelector("box", True, Clock())
    assert selector.select(["a: pulling (2 s)"]) == ["[box] a: pulling (2 s)"]
    assert selector.select(["a: pulling (2 s)"]) == []
    assert selector.select(["a: pulling (2 s)", "a: loading (4 s)", "b: ready (4 s)"]) == [
        "[box] a: loading (4 s)",
        "[box] b: ready (4 s)",
    ]


def test_a_log_has_at_most_one_line_in_ten_seconds_with_the_latest_of_each() -> None:
    clock, told = Clock(), ["a: pulling (2 s)"]
    selector = LineSelector("box", False, clock)
    shown = []
    for second in range(60):
        clock.now = float(second)
        told.append(f"a: loading {second} ({second} s)")
        fresh = selector.select(told)
        assert len(fresh) <= 1
        shown += [second] * len(fresh)
    assert shown == [0, 10, 20, 30, 40, 50]
    clock.now = 100.0
    assert selector.select([*told, "b: ready (99 s)", "a: ready (99 s)"]) == ["[box] a: ready (99 s); b: ready (99 s)"]


def test_how_serves_ended_is_told_only_where_something_was_told() -> None:
    serves = {"a": {"action": "create", "state": "restart_loop"}, "b": {"action": "none", "state": "running"}}
    selector = LineSelector("box", True, Clock())
    assert selector.describe_ends(serves) == []
    selector.select(["a: loading (2 s)"])
    assert selector.describe_ends(serves) == ["[box] a: restart loop"]


@pytest.mark.parametrize(
    ("word", "wanted"), [("yes", True), ("", True), ("no", False), ("OFF", False), (" 0 ", False), ("quiet", False)]
)
def test_how_to_ask_for_quiet(word: str, wanted: bool) -> None:
    assert is_progress_on(word) is wanted
