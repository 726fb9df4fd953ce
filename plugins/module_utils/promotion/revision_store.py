# SPDX-License-Identifier: GPL-3.0-or-later
"""Every change of a config volume during a promotion: revisions, pointers, the journal, and the layout of the volume.

Each change is one fsynced rename; docs/promotion.md says what a crash after each one leaves behind.
"""

from __future__ import annotations

import json
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.side_containers import describe_owner
from ansible_collections.anvil.serving.plugins.module_utils.promotion.journal import (
    Journal,
    LeftRevision,
    VerifiedRevision,
    shorten_revision,
)
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import (
    HOME,
    JOURNAL,
    META,
    RESERVE,
    REVISIONS,
    Place,
    Snapshot,
    hash_revision,
)
from ansible_collections.anvil.serving.plugins.module_utils.promotion.volume_writer import Writer

HISTORY_LENGTH = 100
# Bytes for a journal of the greatest length beside the one that it replaces, a meta.json and the links.
RESERVED = 49152


class RevisionStore:
    """The volume under the lock, with what the next journal entry says. replicas: their names, the first one first.

    metas: revision -> its meta.json. history, moved, signalled, were_up, were_unhealthy, left: as in ``Journal``.
    """

    def __init__(self, writer: Writer, place: Place, replicas: Sequence[str], actions: List[str]) -> None:
        self.writer = writer
        self.place = place
        self.replicas = tuple(replicas)
        self.actions = actions
        self.metas: Dict[str, Mapping[str, Any]] = {}
        self.history: Tuple[VerifiedRevision, ...] = ()
        self.moved: Dict[str, float] = {}
        self.signalled: Dict[str, float] = {}
        self.were_up: Tuple[str, ...] = ()
        self.were_unhealthy: Tuple[str, ...] = ()
        self.left: Tuple[LeftRevision, ...] = ()

    def read(self) -> Snapshot:
        snapshot = self.writer.read()
        self.metas.update({name: snapshot.meta_of(name) for name in snapshot.revisions})
        return snapshot

    def continue_journal(self, journal: Journal) -> None:
        """Keep what the journal recorded for the entries that follow."""
        self.history, self.moved, self.signalled = journal.history, dict(journal.moved), dict(journal.signalled)
        self.were_up = journal.were_up if journal.in_flight else ()
        self.were_unhealthy = journal.were_unhealthy if journal.in_flight else ()
        self.left = journal.left

    # ------------------------------------------------------------------------------------------------------- revisions

    def write_revision(self, snapshot: Snapshot, files: Mapping[str, bytes], origin: str, meta: Mapping[str, Any]) -> str:
        """Write a revision once; of one that is held intact only the meta.json is updated. Returns its name."""
        revision = hash_revision(files)
        folder = "{0}/{1}".format(REVISIONS, revision)
        held = snapshot.meta_of(revision)
        known = {
            "schema": 1,
            "origin": origin,
            "created_at": self.writer.now(),
            "owner": describe_owner(),
            **held,
            **meta,
        }
        content = _encode_meta(known)
        self.metas[revision] = known
        if held and hash_revision(snapshot.files_of(revision)) == revision:
            if known != held:
                self.writer.put_file("{0}/{1}".format(folder, META), content)
        else:
            self.writer.put_folder(folder, {**files, META: content})
        return revision

    def mark_proven(self, revision: str) -> None:
        """Note in the revision's meta.json that it was observed in full: it need not be observed so long again."""
        meta = {**self.metas[revision], "proved_at": self.writer.now()}
        self._update_meta(revision, {**meta, "proved_by": meta.get("image")})

    def mark_looped(self, revision: str, image: str, life: float) -> None:
        """Note in the revision's meta.json that its processes kept ending after ``life`` seconds on average."""
        looped = {"image": image, "life": life, "at": self.writer.now()}
        self._update_meta(revision, {**self.metas.get(revision, {}), "looped": looped, "proved_by": None})

    def earlier_life(self, revision: Optional[str]) -> float:
        """The mean life (seconds) that ``mark_looped`` noted, if the revision was not observed in full since; else 0."""
        meta = self.metas.get(revision or "", {})
        return float((meta.get("looped") or {}).get("life") or 0) if meta.get("proved_by") is None else 0.0

    def _update_meta(self, revision: str, meta: Mapping[str, Any]) -> None:
        self.metas[revision] = meta
        self.writer.put_file("{0}/{1}/{2}".format(REVISIONS, revision, META), _encode_meta(meta))

    def remove_revision(self, revision: str) -> None:
        self.writer.remove("{0}/{1}".format(REVISIONS, revision))

    # ------------------------------------------------------------------------------------------- pointers and journal

    def reserve_way_back(self, revision: Optional[str]) -> None:
        """Reserve what it takes to make ``revision`` live again if the volume is full then. Raises where there is no room."""
        links = {self.place.link_of(name): "../revisions/" + revision for name in self.replicas} if revision else {}
        try:
            self.writer.reserve(RESERVE, RESERVED, links)
        except AnvilError as exc:
            hint = "free some room in the volume; nothing was switched"
            where = "volume " + self.place.volume
            raise fail("there is no room for the way back", where=where, why=exc.problems[0].why, hint=hint) from exc

    def point_to(self, replica: str, revision: Optional[str]) -> float:
        """Move a replica's pointer, the one act that makes files live. Returns when, by the Docker host's clock."""
        link = self.place.link_of(replica)
        at = self.writer.remove(link) if revision is None else self.writer.put_link(link, "../revisions/" + revision)
        self.moved[replica] = at
        self.signalled.pop(replica, None)
        return at

    def write_journal(self, state: str, old: Optional[str], new: Optional[str], at: float) -> Journal:
        journal = Journal(
            state=state,
            old=old,
            new=new,
            at=at,
            owner=describe_owner(),
            history=self.history,
            moved={name: when for name, when in self.moved.items() if name in self.replicas and when >= at},
            signalled={name: when for name, when in self.signalled.items() if name in self.replicas},
            were_up=self.were_up,
            were_unhealthy=self.were_unhealthy,
            left=self.left,
        )
        self.writer.put_file(JOURNAL, journal.as_bytes())
        return journal

    def record_verified(self, revision: Optional[str], at: float) -> None:
        """Add a revision to the history that the next journal entry holds."""
        if revision is not None:
            others = [verified for verified in self.history if verified.revision != revision]
            self.history = (*others, VerifiedRevision(revision, at))[-HISTORY_LENGTH:]

    def forget_verified(self, revision: Optional[str]) -> None:
        """What was verified too early is none to go back to."""
        self.history = tuple(verified for verified in self.history if verified.revision != revision)

    def record_left(self, revision: Optional[str], at: float, by: str = "") -> None:
        """Note that a roll back left a revision. by: who asked for it; empty: it failed."""
        if revision is not None:
            others = [each for each in self.left if each.revision != revision]
            self.left = (*others, LeftRevision(revision, at, by))[-HISTORY_LENGTH:]

    def forget_left(self, revision: Optional[str]) -> None:
        """A revision that is promoted again may be gone back to again."""
        self.left = tuple(each for each in self.left if each.revision != revision)

    # ---------------------------------------------------------------------------------------------------------- layout

    def lay_out(self, snapshot: Snapshot) -> Optional[str]:
        """Bring the volume into its layout; every replica reads the same bytes at any moment. Returns the live revision."""
        observed = snapshot.observed()
        old = hash_revision(observed) if observed else None
        if old is not None and (old != snapshot.live or not snapshot.is_ours):
            self.write_revision(snapshot, observed, "taken over", {})
            # Stock paths that already lead through the pointer give the same bytes before and after it moves.
            self.point_to(self.place.replica, old)
            self.actions.append("took over the live files as revision " + shorten_revision(old))
            if not any(verified.revision == old for verified in self.history):
                self.record_verified(old, snapshot.newest_plain())
        elif old is None and snapshot.live is not None:
            self.point_to(self.place.replica, None)
        for name in self.replicas[1:]:
            # A new replica starts on the files that the others read.
            if old is not None and snapshot.live_of(name) is None:
                self.point_to(name, old)
        for name in self.place.names:
            if not snapshot.is_linked(name):
                self.writer.put_link(name, self.place.stock_target(name))
        return old

    def remove_links(self, names: Iterable[str]) -> None:
        """Remove these stock paths: their files are no longer live."""
        for name in names:
            self.writer.remove(name)

    def restore_plain_files(self) -> None:
        """Leave plain files with the same bytes and remove ``.anvil``; one rename for each file."""
        files = self.writer.read().observed()
        for name in self.place.names:
            if name in files:
                self.writer.put_file(name, files[name])
            else:
                self.writer.remove(name)
        self.writer.remove(HOME)


def _encode_meta(meta: Mapping[str, Any]) -> bytes:
    return json.dumps(meta, indent=1, sort_keys=True).encode("utf-8")
