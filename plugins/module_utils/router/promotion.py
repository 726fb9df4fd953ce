# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The promotion of a revision: what is done in which order, and what becomes of it when any of it fails.

What reads the files (a router, a proxy) is a ``Subject``: it validates, reloads and verifies in its own way. This room
owns the volume's journal, and the promise that the volume always holds either the old revision or the new one.
docs/promotion.md tells what a crash at each line leaves behind.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Dict, List, Mapping, Optional, Protocol, Sequence, Set, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.revisions import (
    HOME,
    JOURNAL,
    META,
    REVISIONS,
    Place,
    Snapshot,
    hash_revision,
)
from ansible_collections.anvil.serving.plugins.module_utils.docker.side_containers import describe_owner
from ansible_collections.anvil.serving.plugins.module_utils.docker.volume_reader import read_snapshot, read_unmounted_snapshot
from ansible_collections.anvil.serving.plugins.module_utils.docker.volume_writer import Writer, open_writer

# A process started this long before the pointer moved may still have read the files after it (seconds).
READ_LAG = 30.0
# A candidate that nothing speaks for must have lived this long: some die only after a few seconds (docs/promotion.md).
LIFETIME = 8.0
# A container whose restart policy had to start it within this many seconds is taken for a crash loop.
CRASH_WINDOW = 10.0

SWITCHING, GOING_BACK, WRITTEN, DONE = "switching", "going back", "written", "done"


# -------------------------------------------------------------------------------------------------------------- journal


@dataclass(frozen=True)
class Lived:
    """A revision that was verified live. at: when, in seconds since the epoch by the engine's clock."""

    revision: str
    at: float


@dataclass(frozen=True)
class Journal:
    """The last transaction on the volume and what was live before it.

    state: ``switching`` and ``going back`` are in flight; ``written`` is switched but not loaded by anyone; ``done`` is
    verified. old, new: revisions, ``None`` for no file. at: when the first pointer moved, or was about to (engine's clock).
    moved: replica -> when its own pointer moved. told: replica -> the start time of the process that was told to read its
    files again without being restarted. ran: the replicas that ran when it began: one that is down since is ours to start.
    """

    state: str
    old: Optional[str]
    new: Optional[str]
    at: float
    owner: str = ""
    history: Tuple[Lived, ...] = ()
    moved: Mapping[str, float] = field(default_factory=dict)
    told: Mapping[str, float] = field(default_factory=dict)
    ran: Tuple[str, ...] = ()

    def moved_at(self, replica: str) -> float:
        return self.moved.get(replica, self.at)

    @property
    def in_flight(self) -> bool:
        return self.state in (SWITCHING, GOING_BACK)

    def as_bytes(self) -> bytes:
        return json.dumps(
            {
                "schema": 1,
                "state": self.state,
                "old": self.old,
                "new": self.new,
                "at": self.at,
                "owner": self.owner,
                "history": [[lived.revision, lived.at] for lived in self.history],
                "moved": dict(self.moved),
                "told": dict(self.told),
                "ran": list(self.ran),
            },
            indent=1,
        ).encode("utf-8")


def parse_journal(content: Optional[bytes], where: str) -> Optional[Journal]:
    """The journal as read from the volume; one that cannot be understood is an error, never 'nothing in flight'."""
    if content is None:
        return None
    try:
        read = json.loads(content.decode("utf-8"))
        if read["schema"] != 1 or read["state"] not in (SWITCHING, GOING_BACK, WRITTEN, DONE):
            raise ValueError("schema {0}, state {1}".format(read["schema"], read["state"]))
        return Journal(
            state=read["state"],
            old=read["old"],
            new=read["new"],
            at=float(read["at"]),
            owner=str(read["owner"]),
            history=tuple(Lived(str(revision), float(at)) for revision, at in read["history"]),
            moved={str(replica): float(at) for replica, at in read.get("moved", {}).items()},
            told={str(replica): float(at) for replica, at in read.get("told", {}).items()},
            ran=tuple(str(replica) for replica in read.get("ran", ())),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        raise fail(
            "the journal of the volume cannot be understood",
            where=where,
            why="{0}: {1}".format(type(exc).__name__, exc),
            hint="see docs/promotion.md, 'Recover by hand': check which revision is live, then remove .anvil/journal",
        ) from exc


# -------------------------------------------------------------------------------------------------- the reader's side


@dataclass(frozen=True)
class View:
    """The container that reads the files, as the engine tells it. started_at: seconds since the epoch, 0 if never."""

    exists: bool
    status: str = "absent"
    container_id: str = ""
    image_id: str = ""
    started_at: float = 0.0
    pid: int = 0
    restarts: int = 0

    @property
    def is_up(self) -> bool:
        """Whether it runs or keeps being started: then a new revision needs a reload."""
        return self.status in ("running", "restarting")

    def is_looping(self, now: float) -> bool:
        """Whether its restart policy has had to start it just now. now: seconds since the epoch."""
        return self.status == "restarting" or (self.restarts > 0 and now - self.started_at < CRASH_WINDOW)

    def may_have_loaded(self, at: float) -> bool:
        """Whether its process may have read what became live at ``at``."""
        return self.is_up and (self.status == "restarting" or self.started_at >= at - READ_LAG)

    def has_loaded(self, at: float) -> bool:
        """Whether its process surely read what became live at ``at``."""
        return self.is_up and self.started_at > at


@dataclass(frozen=True)
class Proof:
    """A reload that held. seconds: from the reload to the end of the settle time."""

    started_at: str
    pid: int
    seconds: float


@dataclass(frozen=True)
class Verdict:
    """What a validation found out besides being content.

    asked: the hash of the files that it is about.
    files: the files to write, without those that this reader has no use for.
    meta: facts for the revision's meta.json.
    """

    asked: str
    files: Mapping[str, bytes]
    meta: Mapping[str, Any] = field(default_factory=dict)
    warnings: Tuple[str, ...] = ()


class Rehearsal(Protocol):
    """A throwaway reader of the candidate that runs on until it is closed. lifetime: seconds for which it must live."""

    lifetime: float

    def confirm(self) -> Tuple[str, ...]:
        """Wait until it is proven, once and for all, and return warnings; ``AnvilError`` if it is not."""

    def close(self) -> None: ...


class Subject(Protocol):
    """What reads the files. Every method may raise ``AnvilError``."""

    def look(self) -> View: ...

    def recall(self, meta: Mapping[str, Any], wanted: bool) -> None:
        """Take note of what a validation left in a revision's meta.json: it is that revision's turn now.

        wanted: whether it is the one that was asked for, as opposed to one that was live before.
        """

    def image_for_side_containers(self) -> str: ...

    def is_healthy(self, view: View) -> bool:
        """Whether it answers now; waits a little if it has only just started."""

    def arrange(self, files: Mapping[str, bytes]) -> Dict[str, bytes]:
        """The files as they will lie in a revision."""

    def validate(self, files: Mapping[str, bytes]) -> Verdict: ...

    def core(self, files: Mapping[str, bytes]) -> Dict[str, bytes]:
        """The files by which a process may end although it came up; the others are data that it only looks things up in."""

    def rehearse(self, verdict: Verdict, lifetime: float) -> Optional[Rehearsal]:
        """Begin to try the candidate where it can do no harm; ``None`` if that is not wanted."""

    def reload(self, patient: bool) -> bool:
        """Make it read its files. patient: whether requests in flight deserve the grace period.

        Whether it was restarted for it (as opposed to told).
        """

    def verify(self, place: Place, revision: Optional[str], switched_at: float, lifetime: float) -> Proof:
        """Prove that it came up on ``revision`` after ``switched_at`` and stays up, for ``lifetime`` seconds at least."""

    def check_still(self, proof: Proof) -> None:
        """That it is still the process that was proven, and well."""


class Gate(Protocol):
    """What leads clients to a replica."""

    def find_closed(self) -> Sequence[str]:
        """The replicas that are led no clients by intent."""

    def close(self, replica: str) -> None:
        """Send it no new request, and wait until it has answered those that it has."""

    def open(self, replica: str) -> None:
        """Send it requests again, and see it taken."""


@dataclass(frozen=True)
class Member:
    """One replica: the name of its pointer, and who reads through it."""

    name: str
    subject: Subject


@dataclass(frozen=True)
class Crew:
    """Those who read one volume, in the order in which they are promoted. gate: ``None`` where clients come directly."""

    members: Tuple[Member, ...]
    gate: Optional[Gate] = None

    @property
    def first(self) -> Subject:
        return self.members[0].subject


# -------------------------------------------------------------------------------------------------------------- orders


@dataclass(frozen=True)
class Order:
    """What is asked for.

    files: stock file name -> content; a name that is missing keeps what is live. Not used by a roll-back.
    rollback_to: empty for a promotion; ``previous`` or the beginning of a revision's name for a roll-back.
    whole: the files are all that there is to be; nothing live is kept. plain: leave plain files, and nothing of ours.
    writer_image: an image whose python3 writes, where that of the reader has none. lock_wait: seconds.
    lifetime: seconds for which a candidate that nothing speaks for must live before it counts as good.
    """

    files: Mapping[str, bytes]
    rollback_to: str = ""
    keep: int = 10
    reload: bool = True
    check: bool = False
    validate_only: bool = False
    whole: bool = False
    plain: bool = False
    writer_image: str = ""
    lock_wait: float = 60.0
    lifetime: float = LIFETIME


@dataclass(frozen=True)
class Outcome:
    """What was done, or with ``Order.check`` what would be. before, after: the files, for a diff."""

    changed: bool
    old: Optional[str]
    new: Optional[str]
    before: Mapping[str, bytes]
    after: Mapping[str, bytes]
    actions: Tuple[str, ...] = ()
    reloaded: bool = False
    proof: Optional[Proof] = None
    history: Tuple[Dict[str, Any], ...] = ()
    warnings: Tuple[str, ...] = ()


# ------------------------------------------------------------------------------------------------------ pure decisions


@dataclass(frozen=True)
class Recovery:
    """What an interrupted promotion still needs. act: nothing, adopt (go on with it), or undo."""

    act: str
    reload: bool = False
    reason: str = ""


def decide_recovery(journal: Optional[Journal], live: Optional[str], wanted: Optional[str], view: View) -> Recovery:
    """wanted: the revision asked for now. An interrupted switch to that very revision is finished, any other undone."""
    if journal is None or not journal.in_flight:
        return Recovery("nothing")
    said = "{0} was interrupted while {1} from {2} to {3}".format(
        journal.owner or "a promotion", journal.state, short(journal.old), short(journal.new)
    )
    if journal.state == SWITCHING and live == journal.new and wanted == journal.new:
        return Recovery("adopt", reload=view.is_up, reason=said + ": finishing it")
    if journal.state == GOING_BACK:
        return Recovery("undo", reload=view.is_up, reason=said + ": going on")
    return Recovery("undo", reload=view.may_have_loaded(journal.at), reason=said + ": undoing it")


def is_proven(
    crew: Crew, snapshot: Snapshot, journal: Optional[Journal], views: Mapping[str, View], verdict: Verdict, now: float
) -> bool:
    """Whether a process of this very image has lived for long on all of the candidate that may end one.

    What speaks for it: a revision that was watched for that long, or the process that runs. A crash loop on these files
    speaks against it, whatever else does. now: seconds since the epoch.
    """
    core, image = crew.first.core(verdict.files), verdict.meta.get("image")
    told = any(
        meta.get("proved_by") == image and crew.first.core(snapshot.files_of(revision)) == core
        for revision, meta in ((each, snapshot.meta_of(each)) for each in snapshot.revisions)
    )
    for member in crew.members:
        view, live = views[member.name], snapshot.live_of(member.name)
        if view.image_id == image and crew.first.core(snapshot.files_of(live) if live else snapshot.observed()) == core:
            if view.is_looping(now):
                return False
            aged = view.status == "running" and now - view.started_at >= LIFETIME
            told = told or (aged and is_loaded(journal, snapshot, view, member.name))
    return told


def is_loaded(journal: Optional[Journal], snapshot: Snapshot, view: View, replica: str = "") -> bool:
    """Whether the process that runs surely read the live files.

    Without a journal, or with one that speaks of something else (a pointer moved by hand), the files' own age tells.
    """
    replica = replica or snapshot.place.replica
    if journal is None or journal.new != snapshot.live_of(replica) or not snapshot.is_ours:
        return view.has_loaded(snapshot.newest_change())
    if journal.state == DONE and view.is_up and journal.told.get(replica) == view.started_at:
        return True
    return view.has_loaded(journal.moved_at(replica))


def find_revision(asked: str, snapshot: Snapshot, journal: Optional[Journal]) -> str:
    """The revision that ``previous`` or a prefix means; ``AnvilError`` with the history if none or several."""
    known = snapshot.revisions
    where = "volume " + snapshot.place.volume
    held = ", ".join(short(name) for name in known) or "none"
    if asked == "previous":
        # A revision in flight was never verified: what it replaced is the base, and what was before that is previous.
        base = journal.old if journal is not None and journal.in_flight else snapshot.live
        for lived in reversed(journal.history if journal else ()):
            if lived.revision != base and lived.revision in known:
                return lived.revision
        if journal is not None and journal.old in known and journal.old != base:
            return str(journal.old)
        raise fail("there is no previous revision to go back to", where=where, why="held: " + held)
    matches = [name for name in known if name.startswith(asked)]
    if len(matches) == 1:
        return matches[0]
    why = "{0} revisions begin with {1!r}; held: {2}".format(len(matches), asked, held)
    raise fail(
        "no such revision" if not matches else "an ambiguous revision",
        where=where,
        why=why,
        hint="anvil_router_info lists them",
    )


def list_history(snapshot: Snapshot, journal: Optional[Journal]) -> Tuple[Dict[str, Any], ...]:
    """Every revision held, the one that was live last first. at: when it was last verified live, or ``None``."""
    last = {lived.revision: lived.at for lived in (journal.history if journal else ())}
    rows = []
    for name in snapshot.revisions:
        meta = snapshot.meta_of(name)
        rows.append(
            {
                "revision": name,
                "live": name == snapshot.live,
                "verified_at": last.get(name),
                "created_at": meta.get("created_at"),
                "origin": meta.get("origin", "unknown"),
                "files": sorted(snapshot.files_of(name)),
                # Live, but nobody has been seen to read it yet.
                "loaded": not (name == snapshot.live and journal is not None and journal.state == WRITTEN),
            }
        )
    rows.sort(key=lambda row: (row["live"], row["verified_at"] or 0.0, row["created_at"] or 0.0), reverse=True)
    return tuple(rows)


def choose_pruned(snapshot: Snapshot, journal: Journal, keep: int) -> Tuple[str, ...]:
    """The revisions to remove so that ``keep`` stay: never the live one, nor the one a roll-back would go to."""
    needed = {snapshot.live, journal.old, journal.new}
    rows = list_history(snapshot, journal)
    spare = max(0, keep - len([row for row in rows if row["revision"] in needed]))
    others = [str(row["revision"]) for row in rows if row["revision"] not in needed]
    return tuple(others[spare:])


def _meta_as_bytes(meta: Mapping[str, Any]) -> bytes:
    return json.dumps(meta, indent=1, sort_keys=True).encode("utf-8")


def short(revision: Optional[str]) -> str:
    return "no file" if revision is None else revision[:12]


# ----------------------------------------------------------------------------------------------------------- the verbs


def read_place(engine: DockerEngine, crew: Crew, place: Place, views: Mapping[str, View]) -> Snapshot:
    """The volume's content, read without running anything."""
    for view in views.values():
        if view.exists:
            return read_snapshot(engine, view.container_id, place)
    return read_unmounted_snapshot(engine, crew.first.image_for_side_containers(), place)


def look_at(crew: Crew) -> Dict[str, View]:
    return {member.name: member.subject.look() for member in crew.members}


def promote(engine: DockerEngine, crew: Crew, place: Place, order: Order) -> Outcome:
    """Make what is ordered live, or leave everything as it was and raise ``AnvilError``."""
    views = look_at(crew)
    snapshot = read_place(engine, crew, place, views)
    journal = parse_journal(snapshot.journal, "volume " + place.volume)
    if is_settled(crew, snapshot, journal, views, order):
        return _unchanged(snapshot, journal)
    if order.check or order.validate_only:
        return _predict(crew, snapshot, journal, views, order)
    # A candidate that is no good is found out before anything is locked or run on the volume; what an interrupted
    # promotion left is undone even then.
    verdict = rehearsal = None
    try:
        if (journal is None or not journal.in_flight) and not _is_only_handed_back(order):
            verdict = crew.first.validate(_wanted(crew, order, snapshot, journal))
            rehearsal = crew.first.rehearse(verdict, choose_lifetime(crew, snapshot, journal, views, verdict, order))
            if rehearsal is not None and (rehearsal.lifetime or not any(view.exists for view in views.values())):
                # To take the lock may create the volume: not for a candidate that is no good. And nobody else need wait
                # while one is only watched.
                rehearsal.confirm()
        image = order.writer_image or crew.first.image_for_side_containers()
        with open_writer(engine, image, place, order.lock_wait) as writer:
            return _Promotion(crew, place, order, writer).run(verdict, rehearsal)
    finally:
        if rehearsal is not None:
            rehearsal.close()


def choose_lifetime(
    crew: Crew, snapshot: Snapshot, journal: Optional[Journal], views: Mapping[str, View], verdict: Verdict, order: Order
) -> float:
    """For how many seconds the candidate must be seen alive: none where nobody runs on it yet, or where it is proven."""
    if not (order.reload and any(view.is_up for view in views.values())):
        return 0.0
    return 0.0 if is_proven(crew, snapshot, journal, views, verdict, time.time()) else order.lifetime


def _is_only_handed_back(order: Order) -> bool:
    return order.plain and not order.files and not order.rollback_to


def _wanted(crew: Crew, order: Order, snapshot: Snapshot, journal: Optional[Journal]) -> Dict[str, bytes]:
    if order.rollback_to:
        revision = find_revision(order.rollback_to, snapshot, journal)
        files = snapshot.files_of(revision)
        if hash_revision(files) != revision:
            raise fail(
                "the revision's files are not what its name says",
                where="volume {0}, revision {1}".format(snapshot.place.volume, short(revision)),
                why="somebody altered them",
                hint="go back to another revision, or promote the files again",
            )
        return files
    kept = {} if order.whole else _base_files(snapshot, journal)
    return crew.first.arrange({**kept, **order.files})


def _base_files(snapshot: Snapshot, journal: Optional[Journal]) -> Dict[str, bytes]:
    """The files that the last verified state has; those of an interrupted switch were never proven."""
    if journal is not None and journal.in_flight:
        return snapshot.files_of(journal.old) if journal.old else {}
    return snapshot.observed()


def is_settled(crew: Crew, snapshot: Snapshot, journal: Optional[Journal], views: Mapping[str, View], order: Order) -> bool:
    """Whether there is nothing to do: the candidate is live, nothing is in flight, and every reader is well."""
    if order.plain:
        wanted = {**snapshot.observed(), **order.files}
        return not order.rollback_to and not snapshot.inner and snapshot.observed() == wanted
    if not snapshot.is_ours or (journal is not None and journal.in_flight) or order.validate_only:
        return False
    revision = hash_revision(_wanted(crew, order, snapshot, journal))
    for member in crew.members:
        if snapshot.live_of(member.name) != revision:
            return False
        view = views[member.name]
        if order.reload and view.is_up:
            if not is_loaded(journal, snapshot, view, member.name) or not member.subject.is_healthy(view):
                return False
        # The next start reads the live files: the image that it will be of must have found them good.
        elif snapshot.meta_of(revision).get("image") != member.subject.image_for_side_containers():
            return False
    return True


def _unchanged(snapshot: Snapshot, journal: Optional[Journal]) -> Outcome:
    files = snapshot.observed()
    return Outcome(False, snapshot.live, snapshot.live, files, files, history=list_history(snapshot, journal))


def _predict(crew: Crew, snapshot: Snapshot, journal: Optional[Journal], views: Mapping[str, View], order: Order) -> Outcome:
    before = _base_files(snapshot, journal)
    if _is_only_handed_back(order):
        return Outcome(True, snapshot.live, snapshot.live, before, before, actions=("hand the volume back as plain files",))
    verdict = crew.first.validate(_wanted(crew, order, snapshot, journal))
    warnings = verdict.warnings
    if order.validate_only and not order.check:
        rehearsal = crew.first.rehearse(verdict, choose_lifetime(crew, snapshot, journal, views, verdict, order))
        if rehearsal is not None:
            try:
                warnings += rehearsal.confirm()
            finally:
                rehearsal.close()
    new = hash_revision(verdict.files)
    old = hash_revision(before) if before else None
    reload = order.reload and any(view.is_up for view in views.values())
    actions = ["validate revision " + short(new)]
    changed = not order.validate_only
    if changed:
        interrupted = journal is not None and journal.in_flight
        if interrupted:
            actions.append("finish or undo an interrupted promotion")
        if not snapshot.is_ours:
            actions.append("lay out the volume in revisions")
        if new != old:
            actions.append("switch from {0} to {1}".format(short(old), short(new)))
        if reload:
            actions += ["reload", "verify"]
        if order.plain:
            actions.append("hand the volume back as plain files")
        elif not reload and snapshot.is_ours and not interrupted:
            changed = any(snapshot.live_of(member.name) != new for member in crew.members)
    return Outcome(
        changed=changed,
        old=old,
        new=new,
        before=before,
        after=verdict.files,
        actions=tuple(actions),
        history=list_history(snapshot, journal),
        warnings=warnings,
    )


class _Promotion:
    """One promotion under the lock. Each line that changes the volume is one fsynced rename."""

    def __init__(self, crew: Crew, place: Place, order: Order, writer: Writer) -> None:
        self.crew = crew
        self.members = crew.members
        self.place = place
        self.order = order
        self.writer = writer
        self.actions: List[str] = []
        self.warnings: List[str] = list(writer.notes)
        self.history: Tuple[Lived, ...] = ()
        self.views: Dict[str, View] = {}
        self.moved: Dict[str, float] = {}
        self.told: Dict[str, float] = {}
        self.ran: Tuple[str, ...] = ()
        self.metas: Dict[str, Mapping[str, Any]] = {}
        self.proofs: Dict[str, Proof] = {}
        self.rehearsal: Optional[Rehearsal] = None
        # Replicas that get no requests because we took them out.
        self.closed: Set[str] = set()
        self.lifetime = 0.0

    def run(self, known: Optional[Verdict], rehearsal: Optional[Rehearsal]) -> Outcome:
        """known: the verdict on what was wanted before the lock was ours; it holds if the same is wanted still."""
        if rehearsal is not None:
            self.warnings.extend(rehearsal.confirm())
        self.writer.sweep()
        snapshot, journal = self._read()
        # Somebody else may have done it while we waited for the lock.
        if is_settled(self.crew, snapshot, journal, self.views, self.order):
            return _unchanged(snapshot, journal)
        if journal is not None:
            self.history, self.moved, self.told = journal.history, dict(journal.moved), dict(journal.told)
            self.ran = journal.ran if journal.in_flight else ()
        if _is_only_handed_back(self.order) and journal is not None and not journal.in_flight:
            return self._hand_back(_unchanged(snapshot, journal))
        wanted = _wanted(self.crew, self.order, snapshot, journal)
        live = [snapshot.live_of(member.name) for member in self.crew.members]
        reached = journal.new if journal is not None and journal.new in live else live[0]
        recovery = decide_recovery(journal, reached, hash_revision(wanted), self.views[self.crew.members[0].name])
        if recovery.reason:
            self.warnings.append(recovery.reason)
            # A replica that was left without clients comes first: the others cannot be drained while it is away.
            closed = self.crew.gate.find_closed() if self.crew.gate is not None and self._any_up() else ()
            self.members = tuple(sorted(self.crew.members, key=lambda member: member.name not in closed))
        if journal is not None and recovery.act == "adopt":
            before = snapshot.files_of(journal.old) if journal.old else {}
            meta = self.metas.get(journal.new or "", {})
            self.lifetime = 0.0 if meta.get("proved_by") == meta.get("image") else self.order.lifetime
            return self._roll(journal.old, journal.new, before, wanted)
        if journal is not None and recovery.act == "undo":
            self._undo(journal, snapshot)
            snapshot, journal = self._read()
            # Reading again what is kept: the undone switch must not leave a file in the candidate.
            if not self.order.rollback_to:
                wanted = _wanted(self.crew, self.order, snapshot, journal)
            if is_settled(self.crew, snapshot, journal, self.views, self.order):
                done = _unchanged(snapshot, journal)
                return replace(done, changed=True, actions=tuple(self.actions), warnings=tuple(self.warnings))
        if _is_only_handed_back(self.order):
            return self._hand_back(_unchanged(snapshot, journal))
        known = self._try_out(wanted, known, rehearsal, snapshot, journal)
        self.warnings.extend(known.warnings)
        self.actions.append("validated")
        outcome = self._switch(snapshot, journal, known)
        return self._hand_back(outcome) if self.order.plain else outcome

    def _try_out(
        self,
        wanted: Mapping[str, bytes],
        known: Optional[Verdict],
        rehearsal: Optional[Rehearsal],
        snapshot: Snapshot,
        journal: Optional[Journal],
    ) -> Verdict:
        """The verdict on what is wanted now, which is the known one if that was about the same; and what must still be seen."""
        proved = rehearsal is not None and rehearsal.lifetime > 0
        if known is None or known.asked != hash_revision(wanted):
            known = self.crew.first.validate(wanted)
            if rehearsal is not None:
                rehearsal.close()
                rehearsal = None
            lifetime = choose_lifetime(self.crew, snapshot, journal, self.views, known, self.order)
            again = self.crew.first.rehearse(known, lifetime)
            if again is not None:
                try:
                    self.warnings.extend(again.confirm())
                finally:
                    again.close()
            proved = again is not None and lifetime > 0
        self.rehearsal = rehearsal
        # Whoever is promoted next inherits it: the process that spoke for this one has been replaced by then.
        if proved or is_proven(self.crew, snapshot, journal, self.views, known, time.time()):
            known = replace(known, meta={**known.meta, "proved_by": known.meta.get("image")})
        else:
            self.lifetime = choose_lifetime(self.crew, snapshot, journal, self.views, known, self.order)
        return known

    # ----------------------------------------------------------------------------------------------------------- parts

    def _read(self) -> Tuple[Snapshot, Optional[Journal]]:
        self.views = look_at(self.crew)
        snapshot = self.writer.read()
        self.metas.update({name: snapshot.meta_of(name) for name in snapshot.revisions})
        journal = parse_journal(snapshot.journal, "volume " + self.place.volume)
        for member in self.crew.members:
            live = snapshot.live_of(member.name)
            if live is not None:
                member.subject.recall(self.metas.get(live, {}), wanted=False)
        return snapshot, journal

    def _any_up(self) -> bool:
        return any(self._is_up(member) for member in self.crew.members)

    def _is_up(self, member: Member) -> bool:
        view = self.views[member.name]
        return self.order.reload and (view.is_up or (member.name in self.ran and view.status == "exited"))

    def _write_revision(self, snapshot: Snapshot, files: Mapping[str, bytes], origin: str, meta: Mapping[str, Any]) -> str:
        """Write a revision once; one that is held intact only learns what its latest validation found out."""
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
        content = _meta_as_bytes(known)
        self.metas[revision] = known
        if held and hash_revision(snapshot.files_of(revision)) == revision:
            if known != held:
                self.writer.put_file("{0}/{1}".format(folder, META), content)
        else:
            self.writer.put_folder(folder, {**files, META: content})
        return revision

    def _point_to(self, replica: str, revision: Optional[str]) -> float:
        """Move a replica's pointer: the one act that makes files live. Returns when, by the engine's clock."""
        link = self.place.link_of(replica)
        at = self.writer.remove(link) if revision is None else self.writer.put_link(link, "../revisions/" + revision)
        self.moved[replica] = at
        self.told.pop(replica, None)
        return at

    def _note(self, state: str, old: Optional[str], new: Optional[str], at: float) -> Journal:
        names = {member.name for member in self.crew.members}
        journal = Journal(
            state=state,
            old=old,
            new=new,
            at=at,
            owner=describe_owner(),
            history=self.history,
            moved={name: when for name, when in self.moved.items() if name in names and when >= at},
            told={name: when for name, when in self.told.items() if name in names},
            ran=self.ran,
        )
        self.writer.put_file(JOURNAL, journal.as_bytes())
        return journal

    def _lived(self, revision: Optional[str], at: float) -> None:
        if revision is not None:
            self.history = (*[lived for lived in self.history if lived.revision != revision], Lived(revision, at))[-100:]

    def _lay_out(self, snapshot: Snapshot) -> Optional[str]:
        """Bring the volume into its layout without changing what a reader sees at any moment; return what is live."""
        observed = snapshot.observed()
        old = hash_revision(observed) if observed else None
        if old is not None and (old != snapshot.live or not snapshot.is_ours):
            self._write_revision(snapshot, observed, "taken over", {})
            # The stock paths that already lead through the pointer read the same bytes before and after it moves.
            self._point_to(self.place.replica, old)
            self.actions.append("took over what was live as revision " + short(old))
            if not any(lived.revision == old for lived in self.history):
                self._lived(old, snapshot.newest_plain())
        elif old is None and snapshot.live is not None:
            self._point_to(self.place.replica, None)
        for member in self.crew.members[1:]:
            # A replica that is new reads what the others read.
            if old is not None and snapshot.live_of(member.name) is None:
                self._point_to(member.name, old)
        for name in self.place.names:
            if not snapshot.is_linked(name):
                self.writer.put_link(name, self.place.stock_target(name))
        return old

    def _switch(self, snapshot: Snapshot, journal: Optional[Journal], verdict: Verdict) -> Outcome:
        before = snapshot.observed()
        new = hash_revision(verdict.files)
        members = self.crew.members
        is_live = snapshot.is_ours and all(snapshot.live_of(member.name) == new for member in members)
        if is_live and not any(self._is_up(member) for member in members):
            # All is in place; only the image that reads it next had not validated it.
            self._write_revision(snapshot, verdict.files, "promoted", verdict.meta)
            return replace(_unchanged(snapshot, journal), warnings=tuple(self.warnings), actions=tuple(self.actions))
        is_well = all(
            self._is_up(member)
            and is_loaded(journal, snapshot, self.views[member.name], member.name)
            and member.subject.is_healthy(self.views[member.name])
            for member in members
        )
        if journal is not None and journal.state == WRITTEN and is_well:
            # Nobody saw it come up (the container was started later), but here it is, and well.
            self._lived(snapshot.live, journal.at)
        old = self._lay_out(snapshot)
        self._write_revision(snapshot, verdict.files, "rolled back" if self.order.rollback_to else "promoted", verdict.meta)
        if new == old and is_well and all(snapshot.live_of(member.name) in (None, new) for member in members):
            # The volume was only laid out anew; who runs has long read these very bytes.
            self._lived(new, snapshot.newest_plain())
            self.moved.clear()
            done = self._note(DONE, old, new, journal.at if journal else snapshot.newest_plain())
            return self._close(done, before, verdict.files)
        if self.rehearsal is not None:
            self.warnings.extend(self.rehearsal.confirm())
            self.rehearsal.close()
        self.moved.clear()
        self.told.clear()
        self.ran = tuple(member.name for member in members if self._is_up(member))
        self._note(SWITCHING, old, new, self.writer.now())
        if new != old:
            self.actions.append("switched from {0} to {1}".format(short(old), short(new)))
        return self._roll(old, new, before, verdict.files)

    def _roll(self, old: Optional[str], new: Optional[str], before: Mapping[str, bytes], after: Mapping[str, bytes]) -> Outcome:
        """Replica by replica: a candidate that is no good does not get past the first."""
        reached: List[Member] = []
        sick = self.members[0]
        try:
            for member in self.members:
                for sick in reached:
                    self._check_still(sick)
                sick = member
                reached.append(member)
                self._load(member, new, patient=True, wanted=True)
            for sick in reached[:-1]:
                self._check_still(sick)
        except AnvilError as exc:
            raise self._go_back(reached, sick, old, new, exc) from exc
        at = min(self.moved.values())
        if not self.proofs:
            status = ", ".join(sorted({view.status for view in self.views.values()}))
            self.actions.append("not loaded: the container is " + status if self.order.reload else "not loaded, as asked")
            return self._close(self._note(WRITTEN, old, new, at), before, after)
        self.actions += ["reloaded", "verified"]
        self._lived(new, at)
        return self._close(self._note(DONE, old, new, at), before, after)

    def _check_still(self, member: Member) -> None:
        if member.name in self.proofs:
            member.subject.check_still(self.proofs[member.name])

    def _load(self, member: Member, revision: Optional[str], patient: bool, wanted: bool) -> None:
        """Switch one replica, and prove it, while no client is led to it."""
        gate = self.crew.gate if self._is_up(member) else None
        if gate is not None and member.name not in self.closed:
            gate.close(member.name)
            self.closed.add(member.name)
        at = self._point_to(member.name, revision)
        if not self._is_up(member):
            return
        member.subject.recall(self.metas.get(revision or "", {}), wanted=wanted)
        if not member.subject.reload(patient):
            self.told[member.name] = self.views[member.name].started_at
        if revision is not None:
            lifetime = self.lifetime if wanted else 0.0
            self.proofs[member.name] = member.subject.verify(self.place.of(member.name), revision, at, lifetime)
            if lifetime:
                self._note_proved(revision)
        if gate is not None:
            gate.open(member.name)
            self.closed.discard(member.name)
            self.actions.append("{0} serves {1}".format(member.name, short(revision)))

    def _note_proved(self, revision: str) -> None:
        """One replica has lived on it for long: the others, and whoever promotes it again, need not watch so long."""
        self.lifetime = 0.0
        meta = self.metas[revision]
        self.metas[revision] = {**meta, "proved_by": meta.get("image")}
        self.writer.put_file("{0}/{1}/{2}".format(REVISIONS, revision, META), _meta_as_bytes(self.metas[revision]))

    def _go_back(
        self, reached: Sequence[Member], sick: Member, old: Optional[str], new: Optional[str], cause: AnvilError
    ) -> AnvilError:
        """Undo a switch that failed, and tell all of it. The sick one first: while it is away no other can be drained."""
        where = "volume " + self.place.volume
        try:
            if old == new:
                self._note(DONE, old, new, self.writer.now())
                self._reopen([sick])
                said = "the live revision was not changed: {0}".format(short(new))
                return AnvilError(*cause.problems, Problem(said, where=where))
            at = self._note(GOING_BACK, old, new, self.writer.now()).at
            for member in sorted(reached, key=lambda each: each is not sick):
                # One that could not be drained still runs on the old revision, with the requests that it carries.
                if member.name in self.moved:
                    self._load(member, old, patient=member is not sick, wanted=False)
            at = min(self.moved.values(), default=at)
            self._lived(old, at)
            self._drop_links(old)
            self._note(DONE, new, old, at)
        except AnvilError as exc:
            return AnvilError(
                *cause.problems,
                Problem(
                    "and the way back to {0} failed too".format(short(old)),
                    where=where,
                    hint="the next run goes on with it",
                ),
                *exc.problems,
            )
        said = (
            "rolled back to no file: there was none before" if old is None else "rolled back to {0}, verified".format(short(old))
        )
        return AnvilError(*cause.problems, Problem(said, where=where, why="live now: " + short(old)))

    def _undo(self, journal: Journal, snapshot: Snapshot) -> None:
        """Take back what an interrupted promotion did. A base that does not come up must not bar a good candidate."""
        self.actions.append("undid an interrupted promotion: live again is " + short(journal.old))
        for member in self.members:
            view, live = self.views[member.name], snapshot.live_of(member.name)
            needed = decide_recovery(journal, live, None, view).reload or (self._is_up(member) and not view.is_up)
            if live == journal.old and journal.state == SWITCHING and self.crew.gate is not None:
                needed = False  # the roll had not come to this one
            try:
                if needed and self.order.reload:
                    self._load(member, journal.old, patient=True, wanted=False)
                    continue
                self._point_to(member.name, journal.old)
                self._reopen([member])
            except AnvilError as exc:
                self.warnings.append("the revision gone back to does not come up: " + exc.problems[0].as_text())
        self._drop_links(journal.old)
        self.proofs.clear()
        self._note(DONE, journal.new, journal.old, min(self.moved.values()))

    def _reopen(self, members: Sequence[Member]) -> None:
        """Lead clients to replicas that an interrupted promotion may have left without any."""
        for member in members:
            if self.crew.gate is not None and self._is_up(member):
                try:
                    self.crew.gate.open(member.name)
                except AnvilError as exc:
                    self.warnings.append(exc.problems[0].as_text())

    def _drop_links(self, live: Optional[str]) -> None:
        if live is None:
            for name in self.place.names:
                self.writer.remove(name)

    def _hand_back(self, outcome: Outcome) -> Outcome:
        """Leave plain files with the same bytes, and nothing of ours: one rename for each."""
        files = self.writer.read().observed()
        for name in self.place.names:
            if name in files:
                self.writer.put_file(name, files[name])
            else:
                self.writer.remove(name)
        self.writer.remove(HOME)
        said = (*outcome.actions, "handed the volume back as plain files")
        return replace(outcome, changed=True, actions=said, warnings=tuple(self.warnings))

    def _close(self, journal: Journal, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> Outcome:
        snapshot = self.writer.read()
        pruned = choose_pruned(snapshot, journal, self.order.keep)
        for name in pruned:
            self.writer.remove("{0}/{1}".format(REVISIONS, name))
            self.actions.append("pruned " + short(name))
        for name in self.place.names:
            # A file that is no more must not stay as a link that leads nowhere: some readers read whole folders.
            if self.order.whole and name not in after and name in snapshot.stock and journal.state == DONE:
                self.writer.remove(name)
        return Outcome(
            changed=True,
            old=journal.old,
            new=journal.new,
            before=before,
            after=after,
            actions=tuple(self.actions),
            reloaded=bool(self.proofs),
            proof=next(reversed(list(self.proofs.values())), None),
            history=tuple(row for row in list_history(snapshot, journal) if row["revision"] not in pruned),
            warnings=tuple(self.warnings),
        )


def wait_for(condition: Callable[[], bool], seconds: float, every: float = 0.1) -> bool:
    """Poll until it holds; whether it did within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True
