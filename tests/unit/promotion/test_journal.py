# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal is read back as it was written, and nothing else is taken for one."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.promotion.journal import (
    DONE,
    GOING_BACK,
    SWITCHING,
    WRITTEN,
    Journal,
    VerifiedRevision,
    parse_journal,
)
from hypothesis import given
from hypothesis import strategies as st

A, B = "a" * 64, "b" * 64


@given(
    st.builds(
        Journal,
        st.sampled_from([SWITCHING, GOING_BACK, WRITTEN, DONE]),
        st.none() | st.just(A),
        st.none() | st.just(B),
        st.floats(0, 1e10),
        st.text(),
        st.lists(st.builds(VerifiedRevision, st.sampled_from([A, B]), st.floats(0, 1e10))).map(tuple),
    )
)
def test_a_journal_reads_back_as_it_was_written(record: Journal) -> None:
    assert parse_journal(record.as_bytes(), "") == record


STRANGE = [
    b"{}",
    b"[]",
    b"null",
    b'{"schema": 1}',
    b'{"schema": 1, "state": "x"}',
    b'{"schema": 2, "state": "done", "old": null, "new": null, "at": 0, "owner": "", "history": []}',
    b'{"schema": 1, "state": "done", "old": null, "new": null, "at": 0, "owner": "", "history": [1]}',
]


@given(st.binary() | st.sampled_from(STRANGE))
def test_a_journal_of_somebody_else_is_an_error_and_never_nothing_in_flight(content: bytes) -> None:
    with pytest.raises(AnvilError, match="journal"):
        parse_journal(content, "")
