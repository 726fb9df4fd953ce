# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a running process has loaded the live files, and for how long a candidate must still be observed."""

from __future__ import annotations

import time
from typing import Mapping, Optional

from ansible_collections.anvil.serving.plugins.module_utils.promotion.crash_loops import (
    find_loop,
    observe_longer,
    started_since,
    time_to_trust,
)
from ansible_collections.anvil.serving.plugins.module_utils.promotion.journal import DONE, Journal
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import (
    OBSERVATION,
    ContainerState,
    ValidatedCandidate,
)
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica_group import ReplicaGroup
from ansible_collections.anvil.serving.plugins.module_utils.promotion.request import PromotionRequest
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import Snapshot


def is_loaded(journal: Optional[Journal], snapshot: Snapshot, state: ContainerState, replica: str = "") -> bool:
    """Whether the running process has certainly read the live files.

    Without a journal, or with one about another revision (a pointer moved by hand), the age of the files decides.
    """
    replica = replica or snapshot.place.replica
    if journal is None or journal.new != snapshot.live_of(replica) or not snapshot.is_ours:
        return state.has_loaded(snapshot.newest_change())
    if journal.state == DONE and state.is_up and journal.signalled.get(replica) == state.started_at:
        return True
    return state.has_loaded(journal.moved_at(replica))


def has_earlier_evidence(
    group: ReplicaGroup,
    snapshot: Snapshot,
    journal: Optional[Journal],
    states: Mapping[str, ContainerState],
    candidate: ValidatedCandidate,
    now: float,
) -> bool:
    """Whether a process of the same image has already run long enough on the candidate's startup files.

    That is a revision that was observed in full, or a process that runs now. A restart loop on these files, now or earlier,
    outweighs both. now: seconds since the epoch.
    """
    if find_earlier_life(group, snapshot, candidate):
        return False
    startup_files, image = group.first.select_startup_files(candidate.files), candidate.meta.get("image")
    proven = any(
        meta.get("proved_by") == image and group.first.select_startup_files(snapshot.files_of(revision)) == startup_files
        for revision, meta in ((each, snapshot.meta_of(each)) for each in snapshot.revisions)
    )
    for replica in group.replicas:
        state, live = states[replica.name], snapshot.live_of(replica.name)
        live_files = snapshot.files_of(live) if live else snapshot.observed()
        if state.image_id == image and group.first.select_startup_files(live_files) == startup_files:
            since = started_since(journal, snapshot, replica.name)
            if find_loop(replica.name, state, since, now) is not None:
                return False
            has_run_long = state.status == "running" and now - state.started_at >= max(OBSERVATION, time_to_trust(state, since))
            proven = proven or (has_run_long and is_loaded(journal, snapshot, state, replica.name))
    return proven


def find_earlier_life(group: ReplicaGroup, snapshot: Snapshot, candidate: ValidatedCandidate) -> float:
    """Mean life (seconds) of the processes that ended on the candidate's startup files with this image; 0 if none did."""
    startup_files, image = group.first.select_startup_files(candidate.files), candidate.meta.get("image")
    lives, proved_at = [(0.0, 0.0)], 0.0
    for revision in snapshot.revisions:
        meta = snapshot.meta_of(revision)
        looped, proved = meta.get("looped"), meta.get("proved_at")
        if group.first.select_startup_files(snapshot.files_of(revision)) != startup_files:
            continue
        if meta.get("proved_by") == image and isinstance(proved, (int, float)):
            proved_at = max(proved_at, proved)
        if isinstance(looped, dict) and looped.get("image") == image:
            lives.append((float(looped.get("at") or 0), float(looped.get("life") or 0)))
    at, life = max(lives)
    return life if at > proved_at else 0.0


def choose_observation(
    group: ReplicaGroup,
    snapshot: Snapshot,
    journal: Optional[Journal],
    states: Mapping[str, ContainerState],
    candidate: ValidatedCandidate,
    request: PromotionRequest,
) -> float:
    """Seconds for which the candidate must be observed: 0 where no replica runs, or where there is earlier evidence."""
    if not (request.reload and any(state.is_up for state in states.values())):
        return 0.0
    life = find_earlier_life(group, snapshot, candidate)
    if life:
        return max(request.observation, observe_longer(life))
    return 0.0 if has_earlier_evidence(group, snapshot, journal, states, candidate, time.time()) else request.observation
