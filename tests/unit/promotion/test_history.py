# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which revision a roll back goes to, and which ones are pruned."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.promotion.history import choose_pruned, list_history, resolve_revision
from ansible_collections.anvil.serving.plugins.module_utils.promotion.journal import (
    DONE,
    SWITCHING,
    Journal,
    LeftRevision,
    VerifiedRevision,
    parse_journal,
)
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import Entry, Place, Snapshot
from hypothesis import given
from hypothesis import strategies as st

PLACE = Place("cfg", "/etc/anvil", "router", ("config.toml", "profile.json"))
A, B, C, D = ("a" * 64, "b" * 64, "c" * 64, "d" * 64)


def journal(state: str, old: str | None = A, new: str | None = B, history: tuple[VerifiedRevision, ...] = ()) -> Journal:
    return Journal(state, old, new, 1000.0, "host pid 1", history)


def volume(live: str | None, *revisions: str) -> Snapshot:
    inner = {f".anvil/revisions/{name}": Entry("folder") for name in revisions}
    if live:
        inner[".anvil/live/router"] = Entry("link", target="../revisions/" + live)
    return Snapshot(PLACE, {}, inner, {})


HISTORY = (VerifiedRevision(A, 1.0), VerifiedRevision(B, 2.0), VerifiedRevision(C, 3.0))


def test_previous_is_what_was_verified_live_before() -> None:
    assert resolve_revision("previous", volume(C, A, B, C), journal(DONE, B, C, HISTORY)) == B


def test_previous_skips_what_was_pruned() -> None:
    assert resolve_revision("previous", volume(C, A, C), journal(DONE, B, C, HISTORY)) == A


def test_previous_leads_further_back_after_a_roll_back_and_never_to_what_failed() -> None:
    left = (LeftRevision(C, 4.0, "jo"),)
    back = Journal(DONE, C, B, 4.0, "host pid 1", (*HISTORY, VerifiedRevision(B, 4.0)), left=left)
    assert resolve_revision("previous", volume(B, A, B, C), back) == A
    assert [row["revision"] for row in list_history(volume(B, A, B, C), back) if row["rolled_back"]] == [C]
    assert parse_journal(back.as_bytes(), "cfg") == back
    failed = Journal(DONE, D, A, 4.0, "host pid 1", HISTORY[:1], left=(LeftRevision(D, 4.0),))
    with pytest.raises(AnvilError, match="no previous revision"):
        resolve_revision("previous", volume(A, A, D), failed)


def test_previous_of_an_interrupted_switch_is_before_its_base() -> None:
    assert resolve_revision("previous", volume(D, A, B, C, D), journal(SWITCHING, C, D, HISTORY)) == B


@pytest.mark.parametrize("asked", ["previous", "ffff", "a"])
def test_what_cannot_be_gone_back_to_is_told_with_what_is_held(asked: str) -> None:
    other = "a" * 63 + "b"
    with pytest.raises(AnvilError, match="a" * 12):
        resolve_revision(asked, volume(A, A, other), journal(DONE, None, A, (VerifiedRevision(A, 1.0),)))


def test_the_history_begins_with_the_live_revision() -> None:
    rows = list_history(volume(B, A, B, C), journal(DONE, C, B, HISTORY))
    assert [row["revision"] for row in rows] == [B, C, A]


@given(st.sets(st.sampled_from([A, B, C, D, "e" * 64, "f" * 64])), st.integers(2, 8))
def test_pruning_keeps_the_live_revision_and_the_one_before(held: set[str], keep: int) -> None:
    held |= {A, B}
    pruned = choose_pruned(volume(B, *held), journal(DONE, A, B, HISTORY), keep)
    assert not {A, B} & set(pruned)
    assert len(held) - len(pruned) == min(len(held), keep)
