# SPDX-License-Identifier: GPL-3.0-or-later
"""One promotion under the lock: recover, validate, write the revision, switch, close the journal."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.side_containers import describe_owner
from ansible_collections.anvil.serving.plugins.module_utils.promotion.candidate import is_up_to_date, select_candidate
from ansible_collections.anvil.serving.plugins.module_utils.promotion.crash_loops import (
    CrashLoop,
    find_loops,
    observe_longer,
)
from ansible_collections.anvil.serving.plugins.module_utils.promotion.file_sources import (
    PROMOTED,
    Choice,
    describe_new_owner,
)
from ansible_collections.anvil.serving.plugins.module_utils.promotion.history import (
    choose_pruned,
    find_way_back,
    list_history,
)
from ansible_collections.anvil.serving.plugins.module_utils.promotion.journal import (
    DONE,
    SWITCHING,
    WRITTEN,
    Journal,
    parse_journal,
    shorten_revision,
)
from ansible_collections.anvil.serving.plugins.module_utils.promotion.loaded_revision import (
    choose_observation,
    find_earlier_life,
    has_earlier_evidence,
    is_loaded,
)
from ansible_collections.anvil.serving.plugins.module_utils.promotion.recovery import FINISH, UNDO, decide_recovery
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import DryBoot, ValidatedCandidate
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica_group import ReplicaGroup
from ansible_collections.anvil.serving.plugins.module_utils.promotion.request import PromotionRequest
from ansible_collections.anvil.serving.plugins.module_utils.promotion.result import (
    PromotionNotes,
    PromotionResult,
    unchanged_result,
)
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revision_store import RevisionStore
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import Place, Snapshot, hash_revision
from ansible_collections.anvil.serving.plugins.module_utils.promotion.rollout import Rollout
from ansible_collections.anvil.serving.plugins.module_utils.promotion.volume_writer import Writer


class PromotionRun:
    """The steps of one promotion, from the lock to the last line of the journal."""

    def __init__(self, group: ReplicaGroup, place: Place, request: PromotionRequest, writer: Writer) -> None:
        self.group = group
        self.place = place
        self.request = request
        self.writer = writer
        self.notes = PromotionNotes(warnings=list(writer.notes))
        self.store = RevisionStore(writer, place, [replica.name for replica in group.replicas], self.notes.actions)
        self.rollout = Rollout(group, place, request, self.store, self.notes)
        self.dry_boot: Optional[DryBoot] = None
        self.choice = Choice({})

    def run(self, validated: Optional[ValidatedCandidate], dry_boot: Optional[DryBoot]) -> PromotionResult:
        """validated, dry_boot: what was found out before the lock was taken; used if the same files are still the candidate."""
        if dry_boot is not None:
            self.notes.warnings.extend(dry_boot.confirm())
        self.writer.sweep()
        snapshot, journal = self._read()
        self.choice = self._choose(snapshot, journal)
        # Another run may have promoted the same files while this one waited for the lock.
        if self._is_done(snapshot, journal):
            return unchanged_result(snapshot, journal, self.choice.kept)
        if journal is not None:
            self.store.continue_journal(journal)
        if self.request.only_restores_plain_files and journal is not None and not journal.in_flight:
            return self._restore_plain_files(unchanged_result(snapshot, journal))
        files = self.choice.files
        live = [snapshot.live_of(replica.name) for replica in self.group.replicas]
        reached = journal.new if journal is not None and journal.new in live else live[0]
        recovery = decide_recovery(journal, reached, hash_revision(files), self.rollout.states[self.group.first.name])
        if recovery.reason:
            self.notes.warnings.append(recovery.reason)
            self.rollout.put_drained_first()
        if journal is not None and recovery.action == FINISH:
            before = snapshot.files_of(journal.old) if journal.old else {}
            meta = self.store.metas.get(journal.new or "", {})
            is_proven, life = meta.get("proved_by") == meta.get("image"), self.store.earlier_life(journal.new)
            self.rollout.observation = observe_longer(life) if life else 0.0 if is_proven else self.request.observation
            return self._roll_out(journal.old, journal.new, before, files)
        if journal is not None and recovery.action == UNDO:
            self.rollout.undo(journal, snapshot)
            snapshot, journal = self._read()
            # Select again: no file of the undone switch may stay in the candidate.
            if not self.request.rollback_to:
                self.choice = self._choose(snapshot, journal)
            if self._is_done(snapshot, journal):
                return self._with_notes(replace(unchanged_result(snapshot, journal), changed=True))
        if self.request.only_restores_plain_files:
            return self._restore_plain_files(unchanged_result(snapshot, journal))
        candidate = self._validate(self.choice, validated, dry_boot, snapshot, journal)
        self.notes.warnings.extend(candidate.warnings)
        self.notes.actions.append("validated")
        result = self._switch(snapshot, journal, candidate)
        return self._restore_plain_files(result) if self.request.plain_layout else result

    def _choose(self, snapshot: Snapshot, journal: Optional[Journal]) -> Choice:
        if self.request.only_restores_plain_files:
            return Choice({})
        return select_candidate(self.group, self.request, snapshot, journal)

    def _is_done(self, snapshot: Snapshot, journal: Optional[Journal]) -> bool:
        return is_up_to_date(self.group, snapshot, journal, self.rollout.states, self.request, self.choice)

    def _read(self) -> Tuple[Snapshot, Optional[Journal]]:
        self.rollout.states = self.group.read_states()
        snapshot = self.store.read()
        journal = parse_journal(snapshot.journal, "volume " + self.place.volume, self.request.discard_journal)
        for replica in self.group.replicas:
            live = snapshot.live_of(replica.name)
            if live is not None:
                replica.apply_meta(self.store.metas.get(live, {}), is_candidate=False)
        return snapshot, journal

    def _validate(
        self,
        choice: Choice,
        validated: Optional[ValidatedCandidate],
        dry_boot: Optional[DryBoot],
        snapshot: Snapshot,
        journal: Optional[Journal],
    ) -> ValidatedCandidate:
        """The validated candidate: the one known already if it is about the same files. Sets for how long it is observed."""
        states = self.rollout.states
        is_proven = dry_boot is not None and dry_boot.is_faithful and dry_boot.observation > 0
        if validated is None or validated.input_hash != hash_revision(choice.files):
            validated = self.group.first.validate(choice)
            if dry_boot is not None:
                dry_boot.close()
                dry_boot = None
            observation = choose_observation(self.group, snapshot, journal, states, validated, self.request)
            again = self.group.first.start_dry_boot(validated, observation)
            if again is not None:
                try:
                    self.notes.warnings.extend(again.confirm())
                finally:
                    again.close()
            is_proven = again is not None and again.is_faithful and observation > 0
        self.dry_boot = dry_boot
        self.rollout.observation = choose_observation(self.group, snapshot, journal, states, validated, self.request)
        is_proven = is_proven and not find_earlier_life(self.group, snapshot, validated)
        # Noted in the revision: the process that is the evidence now is replaced before the next promotion.
        if is_proven or has_earlier_evidence(self.group, snapshot, journal, states, validated, time.time()):
            self.rollout.observation = 0.0
            return replace(validated, meta={**validated.meta, "proved_by": validated.meta.get("image")})
        return validated

    def _switch(self, snapshot: Snapshot, journal: Optional[Journal], candidate: ValidatedCandidate) -> PromotionResult:
        before = snapshot.observed()
        new = hash_revision(candidate.files)
        replicas, rollout, store = self.group.replicas, self.rollout, self.store
        rollout.states = self.group.read_states()  # the processes of a restart loop change meanwhile
        loops = find_loops([each.name for each in replicas], rollout.states, snapshot, journal, time.time())
        self.notes.warnings.extend(loop.text for loop in loops)
        is_live = snapshot.is_ours and all(snapshot.live_of(replica.name) == new for replica in replicas)
        if is_live and not rollout.is_any_up():
            # Everything is in place; only the image that starts next had not validated it.
            self._write_revision(snapshot, candidate)
            unchanged = unchanged_result(snapshot, journal, self.choice.kept)
            return self._with_notes(replace(unchanged, changed=self.choice.has_new_owner))
        is_healthy = not loops and all(
            rollout.is_up(replica)
            and is_loaded(journal, snapshot, rollout.states[replica.name], replica.name)
            and replica.is_healthy(rollout.states[replica.name], 0.0)
            for replica in replicas
        )
        if journal is not None and journal.state == WRITTEN and is_healthy:
            # The replicas were started after the promotion that wrote these files, and they are healthy.
            store.record_verified(snapshot.live, journal.at)
        old = store.lay_out(snapshot)
        self._write_revision(snapshot, candidate)
        if new == old and is_healthy and all(snapshot.live_of(replica.name) in (None, new) for replica in replicas):
            # Only the layout of the volume changed; the running replicas have read these very bytes.
            store.record_verified(new, snapshot.newest_plain())
            store.moved.clear()
            done = store.write_journal(DONE, old, new, journal.at if journal else snapshot.newest_plain())
            return self._close(done, before, candidate.files)
        if self.dry_boot is not None:
            self.notes.warnings.extend(self.dry_boot.confirm())
            self.dry_boot.close()
        way_back = old
        if loops and is_live:
            way_back = find_way_back(snapshot, journal, rollout.states[self.group.first.name].image_id) or old
        try:
            store.reserve_way_back(way_back)
        except AnvilError as exc:
            # What is live is bad already: to leave it is worth a try without the room.
            if not loops and not self.request.rollback_to:
                raise
            self.notes.warnings.append(exc.problems[0].as_text())
        for loop in loops:
            looping = snapshot.live_of(loop.replica)
            if looping in snapshot.revisions:
                store.mark_looped(looping, rollout.states[loop.replica].image_id, loop.noted_life)
        store.moved.clear()
        store.signalled.clear()
        store.were_up = tuple(replica.name for replica in replicas if rollout.is_up(replica))
        unhealthy = tuple(replica.name for replica in replicas if rollout.states[replica.name].is_unhealthy)
        store.were_unhealthy = tuple(dict.fromkeys((*store.were_unhealthy, *unhealthy)))
        if loops and is_live and self.request.reload:
            return self._restart_looping(snapshot, candidate, loops, way_back)
        store.write_journal(SWITCHING, old, new, self.writer.now())
        if new != old:
            self.notes.actions.append("switched from {0} to {1}".format(shorten_revision(old), shorten_revision(new)))
        return self._roll_out(old, new, before, candidate.files)

    def _restart_looping(
        self, snapshot: Snapshot, candidate: ValidatedCandidate, loops: Sequence[CrashLoop], way_back: Optional[str]
    ) -> PromotionResult:
        """Start the live revision again and observe it for longer than its processes lived; if it fails too, go back."""
        live = snapshot.live
        self.rollout.observation = max(loop.observation for loop in loops)
        if way_back != live:
            self.store.forget_verified(live)
        self.store.write_journal(SWITCHING, way_back, live, self.writer.now())
        try:
            return self._roll_out(live, live, candidate.files, candidate.files, way_back)
        except AnvilError as exc:
            what = "the live revision {0} does not keep running".format(shorten_revision(live))
            why = "; ".join(loop.text for loop in loops)
            raise AnvilError(Problem(what, where="volume " + self.place.volume, why=why), *exc.problems) from exc

    def _write_revision(self, snapshot: Snapshot, candidate: ValidatedCandidate) -> None:
        """Write the candidate, with the source of each file; a roll back changes no source."""
        origin, meta = PROMOTED, dict(candidate.meta)
        if not self.request.rollback_to and not self.request.replace_all:
            meta["origin"] = self.choice.origin
            meta["sources"] = self.choice.sources_as_meta(self.writer.now(), self.request.by or describe_owner())
        self.store.write_revision(snapshot, candidate.files, origin, meta)
        if self.choice.has_new_owner and snapshot.live == hash_revision(candidate.files):
            self.notes.actions.append(describe_new_owner(self.choice))

    def _roll_out(
        self,
        old: Optional[str],
        new: Optional[str],
        before: Mapping[str, bytes],
        after: Mapping[str, bytes],
        way_back: Optional[str] = None,
    ) -> PromotionResult:
        """way_back: the revision to make live after a failure, where that is not ``old``, because ``old`` fails too."""
        self.rollout.switch_all(way_back or old, new, is_live=way_back is not None)
        at = min(self.store.moved.values())
        self.store.forget_left(new)
        if self.request.rollback_to and old != new:
            self.store.record_left(old, at, self.request.by or describe_owner())
        if not self.rollout.proofs:
            status = ", ".join(sorted({state.status for state in self.rollout.states.values()}))
            why = "not loaded: the container is " + status if self.request.reload else "not loaded (reload: false)"
            self.notes.actions.append(why)
            return self._close(self.store.write_journal(WRITTEN, old, new, at), before, after)
        self.notes.actions += ["reloaded", "verified"]
        self.store.record_verified(new, at)
        return self._close(self.store.write_journal(DONE, old, new, at), before, after)

    def _close(self, journal: Journal, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> PromotionResult:
        """Prune, and put the result together."""
        snapshot = self.writer.read()
        pruned = choose_pruned(snapshot, journal, self.request.keep)
        for name in pruned:
            self.store.remove_revision(name)
            self.notes.actions.append("pruned " + shorten_revision(name))
        if self.request.replace_all:
            # A removed file must not stay as a link that leads nowhere: some programs read whole folders.
            self.store.remove_links(name for name in self.place.names if name not in after and name in snapshot.stock)
        proofs = list(self.rollout.proofs.values())
        return self._with_notes(
            PromotionResult(
                changed=True,
                kept=self.choice.kept,
                old=journal.old,
                new=journal.new,
                before=before,
                after=after,
                reloaded=bool(proofs),
                proof=proofs[-1] if proofs else None,
                history=tuple(row for row in list_history(snapshot, journal) if row["revision"] not in pruned),
            )
        )

    def _restore_plain_files(self, result: PromotionResult) -> PromotionResult:
        self.store.restore_plain_files()
        actions = (*result.actions, "restored plain files in the volume")
        return replace(result, changed=True, actions=actions, warnings=tuple(self.notes.warnings))

    def _with_notes(self, result: PromotionResult) -> PromotionResult:
        return replace(result, actions=tuple(self.notes.actions), warnings=tuple(self.notes.warnings))
