"""Which lines of progress are shown, and when."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.action.anvil_serve import Teller, wants_progress
from ansible_collections.anvil.serving.plugins.module_utils.progress import Story


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_terminal_shows_every_line_once() -> None:
    teller = Teller("box", True, Clock())
    assert teller.choose(["a: pulling (2 s)"]) == ["[box] a: pulling (2 s)"]
    assert teller.choose(["a: pulling (2 s)"]) == []
    assert teller.choose(["a: pulling (2 s)", "a: loading (4 s)", "b: ready (4 s)"]) == [
        "[box] a: loading (4 s)",
        "[box] b: ready (4 s)",
    ]


def test_a_log_has_at_most_one_line_in_ten_seconds_with_the_latest_of_each() -> None:
    clock, told = Clock(), ["a: pulling (2 s)"]
    teller = Teller("box", False, clock)
    shown = []
    for second in range(60):
        clock.now = float(second)
        told.append(f"a: loading {second} ({second} s)")
        fresh = teller.choose(told)
        assert len(fresh) <= 1
        shown += [second] * len(fresh)
    assert shown == [0, 10, 20, 30, 40, 50]
    clock.now = 100.0
    assert teller.choose([*told, "b: ready (99 s)", "a: ready (99 s)"]) == ["[box] a: ready (99 s); b: ready (99 s)"]


def test_how_serves_ended_is_told_only_where_something_was_told() -> None:
    serves = {"a": {"action": "create", "state": "restart_loop"}, "b": {"action": "none", "state": "running"}}
    teller = Teller("box", True, Clock())
    assert teller.close(serves) == []
    teller.choose(["a: loading (2 s)"])
    assert teller.close(serves) == ["[box] a: restart loop"]


@pytest.mark.parametrize(
    ("word", "wanted"), [("yes", True), ("", True), ("no", False), ("OFF", False), (" 0 ", False), ("quiet", False)]
)
def test_how_to_ask_for_quiet(word: str, wanted: bool) -> None:
    assert wants_progress(word) is wanted


def test_a_story_tells_changes_only_and_nothing_of_a_serve_that_was_ready_all_along() -> None:
    story = Story()
    told = [story.tell("a", word, 1) for word in ("ready", "ready")] + [
        story.tell("b", word, 2) for word in ("loading", "loading", "ready")
    ]
    assert told == [False, False, True, False, True]
    assert story.lines == ["b: loading (2 s)", "b: ready (2 s)"]
