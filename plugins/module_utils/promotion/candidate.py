# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files a promotion makes live, and whether they are live already."""

from __future__ import annotations

from typing import Dict, Mapping, Optional

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.promotion.history import resolve_revision
from ansible_collections.anvil.serving.plugins.module_utils.promotion.journal import Journal, shorten_revision
from ansible_collections.anvil.serving.plugins.module_utils.promotion.loaded_revision import is_loaded
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import ContainerState
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica_group import ReplicaGroup
from ansible_collections.anvil.serving.plugins.module_utils.promotion.request import PromotionRequest
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import Snapshot, hash_revision


def select_candidate(
    group: ReplicaGroup, request: PromotionRequest, snapshot: Snapshot, journal: Optional[Journal]
) -> Dict[str, bytes]:
    """The files to make live: those of a held revision for a roll back, else the given ones with the live ones kept."""
    if request.rollback_to:
        revision = resolve_revision(request.rollback_to, snapshot, journal)
        files = snapshot.files_of(revision)
        if hash_revision(files) != revision:
            raise fail(
                "the files of the revision do not match its sha256",
                where="volume {0}, revision {1}".format(snapshot.place.volume, shorten_revision(revision)),
                why="they were changed in the volume after they were promoted",
                hint="roll back to another revision, or promote the files again",
            )
        return files
    kept = {} if request.replace_all else select_base(snapshot, journal)
    return group.first.adapt_files({**kept, **request.files})


def select_base(snapshot: Snapshot, journal: Optional[Journal]) -> Dict[str, bytes]:
    """The files of the last verified state; those of an interrupted switch were never proven."""
    if journal is not None and journal.in_flight:
        return snapshot.files_of(journal.old) if journal.old else {}
    return snapshot.observed()


def is_up_to_date(
    group: ReplicaGroup,
    snapshot: Snapshot,
    journal: Optional[Journal],
    states: Mapping[str, ContainerState],
    request: PromotionRequest,
) -> bool:
    """Whether nothing is to be done: the candidate is live, nothing is in flight, every replica has loaded it and is healthy."""
    if request.plain_layout:
        requested = {**snapshot.observed(), **request.files}
        return not request.rollback_to and not snapshot.inner and snapshot.observed() == requested
    if not snapshot.is_ours or (journal is not None and journal.in_flight) or request.validate_only:
        return False
    revision = hash_revision(select_candidate(group, request, snapshot, journal))
    for replica in group.replicas:
        if snapshot.live_of(replica.name) != revision:
            return False
        state = states[replica.name]
        if request.reload and state.is_up:
            if not is_loaded(journal, snapshot, state, replica.name) or not replica.is_healthy(state):
                return False
        # The next start reads the live files: they must have been validated by the image that will start.
        elif snapshot.meta_of(revision).get("image") != replica.find_image():
            return False
    return True
