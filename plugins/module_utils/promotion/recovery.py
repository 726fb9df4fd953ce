# SPDX-License-Identifier: GPL-3.0-or-later
"""What the next run does about a promotion that was interrupted: finish it, or undo it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from ansible_collections.anvil.serving.plugins.module_utils.promotion.journal import (
    GOING_BACK,
    SWITCHING,
    Journal,
    shorten_revision,
)
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import ContainerState

NOTHING, FINISH, UNDO = "nothing", "finish", "undo"


@dataclass(frozen=True)
class Recovery:
    """action: ``nothing``, ``finish`` or ``undo``. reload: whether the container must read its files again.

    reason: a warning for the operator.
    """

    action: str
    reload: bool = False
    reason: str = ""


def decide_recovery(journal: Optional[Journal], live: Optional[str], candidate: Optional[str], state: ContainerState) -> Recovery:
    """An interrupted switch to the revision that is requested now is finished; any other is undone.

    live: the revision that the replica's pointer names. candidate: the revision that is requested now.
    """
    if journal is None or not journal.in_flight:
        return Recovery(NOTHING)
    owner, old, new = journal.owner or "unknown", shorten_revision(journal.old), shorten_revision(journal.new)
    if journal.state == GOING_BACK:
        reason = "the roll back from {0} to {1} by {2} was interrupted: this run continues it".format(new, old, owner)
        return Recovery(UNDO, reload=state.is_up, reason=reason)
    reason = "the promotion from {0} to {1} by {2} was interrupted: this run {{0}} it".format(old, new, owner)
    if journal.state == SWITCHING and live == journal.new and candidate == journal.new:
        return Recovery(FINISH, reload=state.is_up, reason=reason.format("finishes"))
    return Recovery(UNDO, reload=state.may_have_loaded(journal.at), reason=reason.format("undoes"))
