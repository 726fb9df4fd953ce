"""Three verdicts, and what each mode does with them."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.findings import (
    doubtful,
    impossible,
    select_refused,
    tell_others,
    unknown,
)

FOUND = [impossible("a", "serve x", "proof", "type"), doubtful("b", "serve x", "1 + 1 = 2"), unknown("c", "serve x", "no card")]


@pytest.mark.parametrize(
    ("mode", "refused", "told"), [("enforce", "a", "bc"), ("strict", "ab", "c"), ("warn", "", "abc"), ("off", "", "abc")]
)
def test_a_mode_refuses_verdicts_and_tells_the_others(mode: str, refused: str, told: str) -> None:
    assert "".join(problem.what for problem in select_refused(FOUND, mode)) == refused
    assert tell_others(FOUND, mode) == [one.as_text() for one in FOUND if one.problem.what in told]


def test_a_finding_says_its_verdict_and_a_note_is_one_line() -> None:
    assert [one.as_text().splitlines()[0] for one in FOUND] == [
        "impossible: serve x: a",
        "doubtful: serve x: b",
        "serve x: c (no card)",
    ]
    assert FOUND[1].as_dict() == {
        "verdict": "doubtful",
        "what": "b",
        "where": "serve x",
        "why": "1 + 1 = 2",
        "hint": "",
        "log": [],
    }
