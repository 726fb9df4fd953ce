# SPDX-License-Identifier: GPL-3.0-or-later
"""The switch to a revision, replica by replica, and the way back if one of them fails."""

from __future__ import annotations

import contextlib
from typing import Dict, List, Optional, Sequence, Set

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.promotion.crash_loops import observe_longer
from ansible_collections.anvil.serving.plugins.module_utils.promotion.journal import (
    DONE,
    GOING_BACK,
    SWITCHING,
    Journal,
    shorten_revision,
)
from ansible_collections.anvil.serving.plugins.module_utils.promotion.recovery import decide_recovery
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import ContainerState, Proof, Replica
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica_group import ReplicaGroup
from ansible_collections.anvil.serving.plugins.module_utils.promotion.request import PromotionRequest
from ansible_collections.anvil.serving.plugins.module_utils.promotion.result import PromotionNotes
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revision_store import RevisionStore
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import Place, Snapshot


class Rollout:
    """The replicas of one promotion, in the order in which they are switched.

    states: replica -> its container. proofs: replica -> its verification in this promotion. observation: seconds for which
    the next replica is observed.
    """

    def __init__(
        self, group: ReplicaGroup, place: Place, request: PromotionRequest, store: RevisionStore, notes: PromotionNotes
    ) -> None:
        self.group = group
        self.replicas = group.replicas
        self.place = place
        self.request = request
        self.store = store
        self.notes = notes
        self.states: Dict[str, ContainerState] = {}
        self.proofs: Dict[str, Proof] = {}
        self.observation = 0.0
        # The replicas that get no requests because this promotion drained them.
        self._drained: Set[str] = set()

    def is_up(self, replica: Replica) -> bool:
        """Whether the replica is to be reloaded: it runs, or an interrupted promotion left it down."""
        state = self.states[replica.name]
        left_down = replica.name in self.store.were_up and state.status == "exited"
        return self.request.reload and (state.is_up or left_down)

    def is_any_up(self) -> bool:
        return any(self.is_up(replica) for replica in self.group.replicas)

    def put_drained_first(self) -> None:
        """Start with a replica that was left drained: while it gets no requests, no other can be drained."""
        traffic = self.group.traffic
        drained = traffic.find_drained() if traffic is not None and self.is_any_up() else ()
        self.replicas = tuple(sorted(self.group.replicas, key=lambda replica: replica.name not in drained))

    # ---------------------------------------------------------------------------------------------------------- forward

    def switch_all(self, old: Optional[str], new: Optional[str], is_live: bool = False) -> None:
        """Switch replica by replica, so that a bad candidate does not get past the first.

        A failure takes back all that were switched; the ``AnvilError`` says how that went. is_live: every replica has the
        new revision already, and a failure takes all of them back.
        """
        reached: List[Replica] = []
        if is_live and old != new:
            self.store.moved = {replica.name: self.store.writer.now() for replica in self.replicas}
        failed = self.replicas[0]
        try:
            for replica in self.replicas:
                for failed in reached:
                    self._recheck(failed)
                failed = replica
                reached.append(replica)
                self._load(replica, new, patient=True, is_candidate=True)
            for failed in reached[:-1]:
                self._recheck(failed)
        except AnvilError as exc:
            raise self._go_back(self.replicas if is_live else reached, failed, old, new, exc) from exc

    def _recheck(self, replica: Replica) -> None:
        if replica.name in self.proofs:
            replica.recheck(self.proofs[replica.name])

    def _load(self, replica: Replica, revision: Optional[str], patient: bool, is_candidate: bool) -> None:
        """Switch one replica and verify it while it gets no requests."""
        traffic = self.group.traffic if self.is_up(replica) else None
        if traffic is not None and replica.name not in self._drained:
            traffic.drain(replica.name)
            self._drained.add(replica.name)
        at = self.store.point_to(replica.name, revision)
        if not self.is_up(replica):
            return
        replica.apply_meta(self.store.metas.get(revision or "", {}), is_candidate=is_candidate)
        if not replica.reload(patient):
            self.store.signalled[replica.name] = self.states[replica.name].started_at
        if revision is not None:
            life = self.store.earlier_life(revision)
            observation = self.observation if is_candidate else observe_longer(life) if life else 0.0
            unhealthy = replica.name in self.store.were_unhealthy
            self.proofs[replica.name] = replica.verify(self.place.of(replica.name), revision, at, observation, unhealthy)
            if observation:
                # The other replicas, and later promotions of the same files, need not be observed so long.
                self.observation = 0.0 if is_candidate else self.observation
                self.store.mark_proven(revision)
        if traffic is not None:
            traffic.readmit(replica.name)
            self._drained.discard(replica.name)
            self.notes.actions.append("{0} serves {1}".format(replica.name, shorten_revision(revision)))

    # ------------------------------------------------------------------------------------------------------------- back

    def _go_back(
        self, reached: Sequence[Replica], failed: Replica, old: Optional[str], new: Optional[str], cause: AnvilError
    ) -> AnvilError:
        """Undo a switch that failed, the failed replica first: while it gets no requests, no other can be drained.

        Returns the error to raise: the cause, and what is live now.
        """
        where = "volume " + self.place.volume
        try:
            if old == new:
                self.store.write_journal(DONE, old, new, self.store.writer.now())
                self._readmit([failed])
                what = "the live revision was not changed: {0}".format(shorten_revision(new))
                return AnvilError(*cause.problems, Problem(what, where=where))
            at = self._note_going_back(old, new)
            for replica in sorted(reached, key=lambda each: each is not failed):
                # A replica that could not be drained still runs on the old revision, with its requests in flight.
                if replica.name in self.store.moved:
                    self._load(replica, old, patient=replica is not failed, is_candidate=False)
            at = min(self.store.moved.values(), default=at)
            self.store.record_verified(old, at)
            self._note_failed(new, at)
            self._remove_added_links(old)
        except AnvilError as exc:
            unfinished = Problem(
                "the roll back to {0} failed too".format(shorten_revision(old)),
                where=where,
                hint="run the promotion again: it continues the roll back. By hand: docs/promotion.md, 'Recover by hand'",
            )
            return AnvilError(*cause.problems, unfinished, *exc.problems)
        what = "rolled back: the files were removed, because there were none before"
        if old is not None:
            what = "rolled back to {0}, verified".format(shorten_revision(old))
        gone_back = Problem(what, where=where, why="live now: " + shorten_revision(old))
        try:
            self.store.write_journal(DONE, new, old, at)
        except AnvilError as exc:
            hint = "free some room in the volume; the next run closes the journal"
            left = Problem("the journal was not closed", where=where, why=exc.problems[0].why, hint=hint)
            return AnvilError(*cause.problems, gone_back, left)
        return AnvilError(*cause.problems, gone_back)

    def _note_going_back(self, old: Optional[str], new: Optional[str]) -> float:
        """Write the journal. A volume without room for it does not stop the way back: the old entry names both revisions."""
        now = self.store.writer.now()
        try:
            return self.store.write_journal(GOING_BACK, old, new, now).at
        except AnvilError as exc:
            self.notes.warnings.append(exc.problems[0].as_text())
            return now

    def _remove_added_links(self, old: Optional[str]) -> None:
        """Remove the stock paths of files that the old revision does not have. A router's stay: one rename switches them."""
        if old is None:
            self.store.remove_links(self.place.names)
        elif self.request.replace_all:
            files = self.store.read().files_of(old)
            self.store.remove_links(name for name in self.place.names if name not in files)

    def undo(self, journal: Journal, snapshot: Snapshot) -> None:
        """Take back an interrupted promotion. An old revision that does not come up is a warning: a good candidate follows."""
        self.notes.actions.append("undid an interrupted promotion: {0} is live again".format(shorten_revision(journal.old)))
        with contextlib.suppress(AnvilError):
            self.store.reserve_way_back(journal.old)
        for replica in self.replicas:
            state, live = self.states[replica.name], snapshot.live_of(replica.name)
            needs_reload = decide_recovery(journal, live, None, state).reload or (self.is_up(replica) and not state.is_up)
            if live == journal.old and journal.state == SWITCHING and self.group.traffic is not None:
                needs_reload = False  # the interrupted promotion had not reached this replica
            try:
                if needs_reload and self.request.reload:
                    self._load(replica, journal.old, patient=True, is_candidate=False)
                    continue
                self.store.point_to(replica.name, journal.old)
                self._readmit([replica])
            except AnvilError as exc:
                self.notes.warnings.append(
                    "replica {0} does not come up on the old revision {1}: {2}".format(
                        replica.name, shorten_revision(journal.old), exc.problems[0].as_text()
                    )
                )
        self._remove_added_links(journal.old)
        self.proofs.clear()
        at = min(self.store.moved.values())
        self._note_failed(journal.new, at)
        self.store.write_journal(DONE, journal.new, journal.old, at)

    def _note_failed(self, revision: Optional[str], at: float) -> None:
        """A revision that was taken back and never verified is none to roll back to."""
        if not any(verified.revision == revision for verified in self.store.history):
            self.store.record_left(revision, at)

    def _readmit(self, replicas: Sequence[Replica]) -> None:
        """Send requests again to replicas that an interrupted promotion may have left drained."""
        for replica in replicas:
            if self.group.traffic is not None and self.is_up(replica):
                try:
                    self.group.traffic.readmit(replica.name)
                except AnvilError as exc:
                    self.notes.warnings.append(exc.problems[0].as_text())
