"""docs/seeds.md: every quoted sentence has a test that exists, or a mark that says why it has none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conftest import REPO

PAGE = (REPO / "docs/seeds.md").read_text()
MARKS = ("In part", "Other way", "Not yet", "Not testable")
TEST = re.compile(r"`([\w/]+\.py)::(\w+)`")


def read_entries() -> dict[str, str]:
    """Each quoted sentence, and what stands below it."""
    found: dict[str, str] = {}
    sentence = ""
    for block in PAGE.split("\n\n"):
        if block.startswith("> "):
            sentence = " ".join(line.removeprefix("> ") for line in block.splitlines())
            found[sentence] = ""
        elif sentence and not block.startswith("#"):
            found[sentence] += block + "\n"
    return found


ENTRIES = read_entries()


@pytest.mark.parametrize("sentence", ENTRIES)
def test_a_sentence_of_a_seed_has_tests_that_exist_or_says_why_not(sentence: str) -> None:
    below = ENTRIES[sentence]
    named = TEST.findall(below)
    missing = [f"{file}::{name}" for file, name in named if not has_test(REPO / "tests" / file, name)]
    assert not missing, "write the new names of these tests into docs/seeds.md"
    assert named or "**Not yet**" in below or "**Not testable**" in below
    assert set(re.findall(r"\*\*(.+?)\*\*", below)) <= set(MARKS)


def has_test(file: Path, name: str) -> bool:
    return file.is_file() and re.search(rf"^ *def {name}\(", file.read_text(), flags=re.MULTILINE) is not None


def test_both_seeds_are_there_and_no_test_is_named_elsewhere() -> None:
    assert [line for line in PAGE.splitlines() if line.startswith("## ")] == [
        "## ADR-0002: model serves are Docker-Compose-defined",
        "## ADR-0012: management flows through verbs",
    ]
    assert len(ENTRIES) > 40
    assert len(TEST.findall(PAGE)) == sum(len(TEST.findall(below)) for below in ENTRIES.values())
