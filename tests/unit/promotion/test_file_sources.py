# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which file becomes live, the inventory's or the one that an operator promoted, and whose it is then."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.promotion.file_sources import (
    PROMOTED,
    RENDERED,
    FileSource,
    choose_given,
    choose_rendered,
    describe_new_owner,
    parse_sources,
)

HEAD = b"# Rendered"
OURS, MINE = FileSource(RENDERED, 1.0, "jo"), FileSource(PROMOTED, 1_783_159_200.0, "jo")


def is_rendered(_name: str, content: bytes) -> bool:
    return content.startswith(HEAD)


@pytest.mark.parametrize(
    ("live", "source", "inventory", "overruled", "result", "kind"),
    [
        (None, None, b"new", (), b"new", RENDERED),
        (b"old", OURS, b"new", (), b"new", RENDERED),
        (b"same", OURS, b"same", (), b"same", RENDERED),
        (b"measured", MINE, b"new", (), b"measured", PROMOTED),
        (b"measured", MINE, b"new", ("f",), b"new", RENDERED),
        (b"same", MINE, b"same", (), b"same", PROMOTED),
        (b"same", MINE, b"same", ("f",), b"same", RENDERED),
        # No source is recorded: a volume of an earlier release, or changed by hand.
        (b"same", None, b"same", (), b"same", RENDERED),
        (b"other", None, b"new", (), b"other", PROMOTED),
        (HEAD + b" before", None, b"new", (), b"new", RENDERED),
        (b"other", None, b"new", ("f",), b"new", RENDERED),
    ],
)
def test_what_an_inventory_makes_live(
    live: bytes | None, source: FileSource | None, inventory: bytes, overruled: tuple[str, ...], result: bytes, kind: str
) -> None:
    base = {} if live is None else {"f": live}
    choice = choose_rendered(base, {"f": source} if source else {}, {"f": inventory}, overruled, is_rendered)
    assert choice.files == {"f": result} and choice.sources["f"].kind == kind
    assert [each.name for each in choice.kept] == (["f"] if result != inventory else [])
    assert choice.given == (("f",) if kind == RENDERED else ())
    again = choose_rendered(choice.files, choice.sources, {"f": inventory}, overruled, is_rendered)
    assert again.files == choice.files and not again.renewed and not again.has_new_owner


def test_only_a_file_that_changes_hands_is_a_change_although_its_bytes_are_live() -> None:
    def taken(source: dict[str, FileSource], overruled: tuple[str, ...] = ()) -> bool:
        return choose_rendered({"f": b"x"}, source, {"f": b"x"}, overruled, is_rendered).has_new_owner

    assert not taken({}) and not taken({"f": OURS}) and not taken({"f": MINE}) and taken({"f": MINE}, ("f",))
    back = choose_rendered({"f": b"x"}, {"f": MINE}, {"f": b"x"}, ("f",), is_rendered)
    assert describe_new_owner(back) == "f belongs to the inventory from now on"
    mine = choose_given({"f": b"x", "g": b"y"}, {"f": OURS, "g": OURS}, {"f": b"x"})
    assert mine.has_new_owner and mine.sources == {"f": FileSource(PROMOTED), "g": OURS} and mine.origin == PROMOTED
    assert describe_new_owner(mine) == "f belongs to the volume from now on"
    again = choose_given({"f": b"x", "g": b"y"}, {"f": MINE, "g": OURS}, {"f": b"x"})
    assert not again.has_new_owner and again.sources["f"] == MINE


def test_a_source_survives_its_file_and_says_since_when_it_is_live() -> None:
    choice = choose_given({"g": b"y"}, {"g": OURS}, {"f": b"x"})
    meta = {"sources": choice.sources_as_meta(1_783_159_200.0, "jo")}
    assert parse_sources(meta) == {"f": MINE, "g": OURS}
    assert parse_sources(meta)["f"].as_text() == "promoted 2026-07-04 10:00 UTC by jo"
    assert FileSource(PROMOTED).as_text() == "of unknown origin"


@pytest.mark.parametrize("meta", [{}, {"sources": []}, {"sources": {"f": 1}}, {"sources": {"f": {"kind": "else"}}}])
def test_a_source_that_cannot_be_read_is_none(meta: dict[str, object]) -> None:
    assert parse_sources(meta) == {}
