# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a hung serve is restarted now, later, or not again: the budget of restarts and the pauses between them. Pure.

Times are seconds since 1970, since a budget outlives the process. A clock that was set back makes no restart free.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence, Tuple

HOUR = 3600.0
# The pause before the second, third, … restart of an hour.
PAUSES = (60.0, 300.0, 900.0)
RESTART, WAIT, GIVE_UP = "restart", "wait", "give_up"


@dataclass(frozen=True)
class Decision:
    """act: RESTART, WAIT or GIVE_UP."""

    act: str
    why: str = ""


def keep_recent(restarts: Sequence[float], now: float) -> Tuple[float, ...]:
    """The restarts of the last hour. A time in the future counts as now."""
    return tuple(min(one, now) for one in restarts if one > now - HOUR)


def decide(restarts: Sequence[float], now: float, per_hour: int, in_vain: int = 0) -> Decision:
    """What to do about a serve that is hung. in_vain: restarts in a row after which it never gave a token."""
    recent = keep_recent(restarts, now)
    if in_vain >= per_hour:
        return Decision(GIVE_UP, "{0} restarts in a row after which no token came".format(in_vain))
    if len(recent) >= per_hour:
        return Decision(GIVE_UP, "{0} restarts in the last hour (watch_restarts_per_hour)".format(len(recent)))
    if recent:
        pause = PAUSES[min(len(recent), len(PAUSES)) - 1]
        left = max(recent) + pause - now
        if left > 0:
            return Decision(WAIT, "the next restart is due in {0:.0f} s".format(left))
    return Decision(RESTART, "restart {0} of at most {1} in an hour".format(len(recent) + 1, per_hour))
