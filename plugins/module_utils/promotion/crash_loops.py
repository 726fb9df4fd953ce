# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a container is in a restart loop: how often its restart policy started it, and how long its processes live. Pure."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import List, Mapping, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.promotion.journal import Journal
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import ContainerState
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import Snapshot

# A process that the restart policy started is not trusted before it is this old, or twice the mean life (seconds).
SHORTEST_TRUST, LONGEST_TRUST = 10.0, 60.0
# Restarts that are further apart on average are single failures (seconds).
LONGEST_LIFE = 120.0
# Restarts are reported for so long (seconds).
REPORTED = 3600.0


@dataclass(frozen=True)
class CrashLoop:
    """A replica whose processes keep ending. life: mean seconds from one start to the next; 0: not known. text: the evidence."""

    replica: str
    life: float
    text: str

    @property
    def noted_life(self) -> float:
        """The mean life for the revision's meta.json, never 0."""
        return self.life or SHORTEST_TRUST / 2

    @property
    def observation(self) -> float:
        """Seconds for which a new process must be observed before it has outlived the earlier ones."""
        return observe_longer(self.life)


def observe_longer(life: float) -> float:
    """Seconds for which a process must run after others on the same files that lived for ``life`` seconds on average."""
    return min(LONGEST_TRUST, max(SHORTEST_TRUST, 2 * life))


def started_since(journal: Optional[Journal], snapshot: Snapshot, replica: str) -> float:
    """When the replica was first started on its live files, as far as the journal tells (seconds since the epoch); else 0."""
    return journal.moved_at(replica) if journal is not None and journal.new == snapshot.live_of(replica) else 0.0


def mean_life(state: ContainerState, since: float) -> float:
    """Mean seconds from one start to the next; 0 where that is not known, or so long that the failures are single ones."""
    if not state.restarts or not 0 < since < state.started_at:
        return 0.0
    mean = (state.started_at - since) / state.restarts
    return mean if mean <= LONGEST_LIFE else 0.0


def time_to_trust(state: ContainerState, since: float) -> float:
    """Seconds that the running process must have lived: more than those before it, if the restart policy started it."""
    return observe_longer(mean_life(state, since)) if state.restarts else 0.0


def is_certain_loop(state: ContainerState) -> bool:
    """Whether no process runs, because the restart policy waits for the next attempt or has given up."""
    return state.status == "restarting" or state.gave_up


def find_loop(replica: str, state: ContainerState, since: float, now: float) -> Optional[CrashLoop]:
    """The restart loop that a replica is in, or may be in: its process is not older than those before it became."""
    is_young = state.status == "running" and now - state.started_at < time_to_trust(state, since)
    if not is_certain_loop(state) and not is_young:
        return None
    certainty = "is" if is_certain_loop(state) or state.restarts > 1 else "may be"
    text = "{0} {1} in a restart loop: {2}".format(replica, certainty, describe(state, since, now))
    return CrashLoop(replica, mean_life(state, since), text)


def find_loops(
    replicas: Sequence[str], states: Mapping[str, ContainerState], snapshot: Snapshot, journal: Optional[Journal], now: float
) -> List[CrashLoop]:
    """The restart loops of all replicas."""
    found = [find_loop(name, states[name], started_since(journal, snapshot, name), now) for name in replicas]
    return [loop for loop in found if loop is not None]


def describe(state: ContainerState, since: float, now: float) -> str:
    """``restarted 3 times since 06:21:07 UTC, every 12 s on average; running for 4 s``."""
    times = "restarted {0} time{1}".format(state.restarts, "" if state.restarts == 1 else "s")
    life = mean_life(state, since)
    if life:
        begin = datetime.datetime.fromtimestamp(since, datetime.timezone.utc)
        times += " since {0:%Y-%m-%d %H:%M:%S} UTC, every {1:.0f} s on average".format(begin, life)
    if state.gave_up:
        return "{0}; its restart policy has given up (exit code {1})".format(times, state.exit_code)
    if state.status != "running":
        return "{0}; {1} (exit code {2})".format(times, state.status, state.exit_code)
    return "{0}; running for {1:.0f} s".format(times, max(0.0, now - state.started_at))


def describe_restarts(replica: str, state: ContainerState, since: float, now: float) -> str:
    """A warning about a replica that its restart policy started lately, a loop or not; empty if there is nothing to say."""
    loop = find_loop(replica, state, since, now)
    if loop is not None:
        return loop.text
    if not state.restarts or state.status != "running" or now - state.started_at > REPORTED:
        return ""
    return "{0} ended by itself and was started again: {1}".format(replica, describe(state, since, now))
