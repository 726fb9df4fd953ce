# SPDX-License-Identifier: GPL-3.0-or-later
"""When a serve on demand was idle for so long that it is stopped: it leaves the rotation, is looked at again, stops. Pure.

A serve whose engine reports no counters is never idle. A token of watch's own probe is no request.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.watch.liveness import Counters

LEAVE, RETURN, STOP = "leave", "return", "stop"


@dataclass(frozen=True)
class Idleness:
    """since: of the last request that was seen, by the monotonic clock. leaving: when it left the rotation. probed: watch sent a
    request of its own since the last look."""

    incarnation: str = ""
    since: Optional[float] = None
    progress: str = ""
    leaving: Optional[float] = None
    probed: bool = False


def follow(
    before: Idleness, incarnation: str, counters: Optional[Counters], probed: bool, now: float, limit: float, leave: float
) -> Tuple[Idleness, str]:
    """What is known after a look at a serve that lives, and what to do: LEAVE, RETURN, STOP or nothing (empty).

    counters: of this look. probed: whether a probe was sent in it. limit: seconds without a request. leave: seconds out of
    rotation before the stop, so that whoever asks for its state has seen it.
    """
    if counters is None:
        return Idleness(incarnation), RETURN if before.leaving is not None else ""
    fresh = before.incarnation != incarnation or before.since is None
    own = probed or before.probed
    asked = counters.running + counters.waiting > 0 or (counters.progress != before.progress and not own)
    if fresh or asked:
        known = Idleness(incarnation, now, counters.progress, None, probed)
        return known, RETURN if before.leaving is not None else ""
    known = replace(before, progress=counters.progress, probed=probed)
    if before.leaving is not None:
        return known, STOP if now - before.leaving >= leave and not probed else ""
    if now - (before.since or now) >= limit:
        return replace(known, leaving=now), LEAVE
    return known, ""


def describe_seconds(seconds: float) -> str:
    whole = int(seconds)
    return "{0} min".format(whole // 60) if whole >= 60 and whole % 60 == 0 else "{0} s".format(whole)
