# SPDX-License-Identifier: GPL-3.0-or-later
"""Which files a promotion makes live, and whether they are live already."""

from __future__ import annotations

from dataclasses import replace
from typing import Dict, Mapping, Optional

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.promotion.crash_loops import started_since, time_to_trust
from ansible_collections.anvil.serving.plugins.module_utils.promotion.file_sources import (
    RENDERED,
    Choice,
    FileSource,
    KeptFile,
    choose_given,
    choose_rendered,
    parse_sources,
)
from ansible_collections.anvil.serving.plugins.module_utils.promotion.history import resolve_revision
from ansible_collections.anvil.serving.plugins.module_utils.promotion.journal import Journal, shorten_revision
from ansible_collections.anvil.serving.plugins.module_utils.promotion.loaded_revision import is_loaded
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import ContainerState
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica_group import ReplicaGroup
from ansible_collections.anvil.serving.plugins.module_utils.promotion.request import PromotionRequest
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import Snapshot, hash_revision


def select_candidate(group: ReplicaGroup, request: PromotionRequest, snapshot: Snapshot, journal: Optional[Journal]) -> Choice:
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
        return Choice(files, sources=parse_sources(snapshot.meta_of(revision)))
    if request.replace_all:
        return Choice(group.first.adapt_files(request.files), tuple(request.files))
    base = select_base(snapshot, journal)
    recorded = _read_sources(base, snapshot, journal)
    if not request.is_rendered:
        choice = choose_given(base, recorded, request.files)
    else:
        choice = choose_rendered(base, recorded, request.files, request.overruled, group.first.is_rendered)
    # What only the inventory renders is no reason to refuse a promoted config that does not read it.
    spare = [name for name, source in choice.sources.items() if source.kind == RENDERED]
    choice = replace(choice, files=group.first.adapt_files(choice.files, spare))
    left = journal.find_left(hash_revision(choice.files)) if journal is not None and request.is_rendered else None
    if left is not None and left.by and base and not request.may_repeat and choice.files != base:
        reason = FileSource("rolled back", left.at, left.by).as_text()
        kept = [
            KeptFile(name, reason, base.get(name, b""), content, was_rolled_back=True)
            for name, content in choice.files.items()
            if base.get(name) != content
        ]
        return Choice(base, sources=recorded, kept=(*choice.kept, *kept))
    return choice


def _read_sources(base: Mapping[str, bytes], snapshot: Snapshot, journal: Optional[Journal]) -> Dict[str, FileSource]:
    """The recorded sources of the files of the last verified state; not of one that was changed in the volume since."""
    revision = journal.old if journal is not None and journal.in_flight else snapshot.live
    if revision is None:
        return {}
    files = snapshot.files_of(revision)
    sources = parse_sources(snapshot.meta_of(revision))
    return {name: source for name, source in sources.items() if name in base and base[name] == files.get(name)}


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
    choice: Choice,
) -> bool:
    """Whether nothing is to be done: the candidate is live, nothing is in flight, every replica has loaded it and is healthy."""
    if request.plain_layout:
        requested = {**snapshot.observed(), **request.files}
        return not request.rollback_to and not snapshot.inner and snapshot.observed() == requested
    if not snapshot.is_ours or (journal is not None and journal.in_flight) or request.validate_only:
        return False
    if choice.has_new_owner:
        return False
    return is_live(group, snapshot, journal, states, request, choice)


def is_live(
    group: ReplicaGroup,
    snapshot: Snapshot,
    journal: Optional[Journal],
    states: Mapping[str, ContainerState],
    request: PromotionRequest,
    choice: Choice,
) -> bool:
    """Whether every replica has loaded these files and is healthy."""
    revision = hash_revision(choice.files)
    for replica in group.replicas:
        if snapshot.live_of(replica.name) != revision:
            return False
        state = states[replica.name]
        if request.reload and state.is_up:
            trust = time_to_trust(state, started_since(journal, snapshot, replica.name))
            if not is_loaded(journal, snapshot, state, replica.name) or not replica.is_healthy(state, trust):
                return False
        # The next start reads the live files: they must have been validated by the image that will start.
        elif snapshot.meta_of(revision).get("image") != replica.find_image():
            return False
    return True
