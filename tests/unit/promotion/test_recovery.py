# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the next run does about an interrupted promotion."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.promotion.journal import (
    DONE,
    GOING_BACK,
    SWITCHING,
    WRITTEN,
    Journal,
    VerifiedRevision,
)
from ansible_collections.anvil.serving.plugins.module_utils.promotion.recovery import decide_recovery
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import ContainerState

A, B, C = ("a" * 64, "b" * 64, "c" * 64)


def journal(state: str, old: str | None = A, new: str | None = B, history: tuple[VerifiedRevision, ...] = ()) -> Journal:
    return Journal(state, old, new, 1000.0, "host pid 1", history)


def up(started_at: float, status: str = "running") -> ContainerState:
    return ContainerState(exists=True, status=status, started_at=started_at)


@pytest.mark.parametrize(
    ("record", "live", "wanted", "view", "act", "reload"),
    [
        (None, None, A, up(0), "nothing", False),
        (journal(DONE), B, C, up(2000), "nothing", False),
        (journal(WRITTEN), B, C, up(2000), "nothing", False),
        # killed after the switch: the same candidate goes on, any other is first undone
        (journal(SWITCHING), B, B, up(900), "finish", True),
        (journal(SWITCHING), B, B, up(2000), "finish", True),
        (journal(SWITCHING), B, B, ContainerState(exists=False), "finish", False),
        (journal(SWITCHING), B, C, up(2000), "undo", True),
        (journal(SWITCHING), B, C, up(2000, "restarting"), "undo", True),
        # nothing had read the new files yet: no restart is needed to take them back
        (journal(SWITCHING), B, C, up(900), "undo", False),
        (journal(SWITCHING), B, C, ContainerState(exists=True, status="exited"), "undo", False),
        # killed between the journal and the switch
        (journal(SWITCHING), A, B, up(900), "undo", False),
        # started just before: it may have read the files after
        (journal(SWITCHING), B, C, up(990), "undo", True),
        (journal(GOING_BACK), A, B, up(900), "undo", True),
        (journal(GOING_BACK), B, A, up(2000), "undo", True),
    ],
)
def test_an_interrupted_promotion_is_finished_or_undone(
    record: Journal | None, live: str | None, wanted: str, view: ContainerState, act: str, reload: bool
) -> None:
    decided = decide_recovery(record, live, wanted, view)
    assert (decided.action, decided.reload) == (act, reload)
    assert bool(decided.reason) == (act != "nothing")
