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
from typing import Any, Callable, Dict, List, Mapping, Optional, Protocol, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.engine import Engine
from ansible_collections.anvil.serving.plugins.module_utils.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.volume import (
    JOURNAL,
    META,
    REVISIONS,
    Place,
    Snapshot,
    Writer,
    describe_owner,
    hash_revision,
    open_writer,
    read_snapshot,
    read_snapshot_aside,
)

# A process started this long before the pointer moved may still have read the files after it (seconds).
READ_LAG = 30.0

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
    verified. old, new: revisions, ``None`` for no file. at: when the pointer moved, or was about to (engine's clock).
    """

    state: str
    old: Optional[str]
    new: Optional[str]
    at: float
    owner: str = ""
    history: Tuple[Lived, ...] = ()

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
        )
    except (ValueError, KeyError, TypeError) as exc:
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


class Subject(Protocol):
    """What reads the files. Every method may raise ``AnvilError``."""

    def look(self) -> View: ...

    def recall(self, meta: Mapping[str, Any]) -> None:
        """Take note of what an earlier validation left in the live revision's meta.json."""

    def image_for_side_containers(self) -> str: ...

    def is_healthy(self, view: View) -> bool:
        """Whether it answers now; waits a little if it has only just started."""

    def validate(self, files: Mapping[str, bytes]) -> Verdict: ...

    def reload(self, patient: bool) -> None:
        """Make it read its files. patient: whether requests in flight deserve the grace period."""

    def verify(self, place: Place, revision: Optional[str], switched_at: float) -> Proof:
        """Prove that it came up on ``revision`` after ``switched_at`` and stays up."""


# -------------------------------------------------------------------------------------------------------------- orders


@dataclass(frozen=True)
class Order:
    """What is asked for.

    files: stock file name -> content; a name that is missing keeps what is live. Not used by a roll-back.
    rollback_to: empty for a promotion; ``previous`` or the beginning of a revision's name for a roll-back.
    lock_wait: seconds.
    """

    files: Mapping[str, bytes]
    rollback_to: str = ""
    keep: int = 10
    reload: bool = True
    check: bool = False
    validate_only: bool = False
    lock_wait: float = 60.0


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


def is_loaded(journal: Optional[Journal], snapshot: Snapshot, view: View) -> bool:
    """Whether the process that runs surely read the live files.

    Without a journal, or with one that speaks of something else (a pointer moved by hand), the files' own age tells.
    """
    told = journal is not None and journal.new == snapshot.live and snapshot.is_ours
    return view.has_loaded(journal.at if journal is not None and told else snapshot.newest_change())


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


def short(revision: Optional[str]) -> str:
    return "no file" if revision is None else revision[:12]


# ----------------------------------------------------------------------------------------------------------- the verbs


def read_place(engine: Engine, subject: Subject, place: Place, view: View) -> Snapshot:
    """The volume's content, read without running anything."""
    if view.exists:
        return read_snapshot(engine, view.container_id, place)
    return read_snapshot_aside(engine, subject.image_for_side_containers(), place)


def promote(engine: Engine, subject: Subject, place: Place, order: Order) -> Outcome:
    """Make what is ordered live, or leave everything as it was and raise ``AnvilError``."""
    view = subject.look()
    snapshot = read_place(engine, subject, place, view)
    journal = parse_journal(snapshot.journal, "volume " + place.volume)
    if _is_settled(subject, snapshot, journal, view, order):
        return _unchanged(snapshot, journal)
    if order.check or order.validate_only:
        return _predict(subject, snapshot, journal, view, order)
    # A candidate that is no good is found out before anything is locked or run on the volume; what an interrupted
    # promotion left is undone even then.
    verdict = None
    if journal is None or not journal.in_flight:
        verdict = subject.validate(_wanted(order, snapshot, journal))
    with open_writer(engine, subject.image_for_side_containers(), place, order.lock_wait) as writer:
        return _Promotion(subject, place, order, writer).run(verdict)


def _wanted(order: Order, snapshot: Snapshot, journal: Optional[Journal]) -> Dict[str, bytes]:
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
    return {**_base_files(snapshot, journal), **order.files}


def _base_files(snapshot: Snapshot, journal: Optional[Journal]) -> Dict[str, bytes]:
    """The files that the last verified state has; those of an interrupted switch were never proven."""
    if journal is not None and journal.in_flight:
        return snapshot.files_of(journal.old) if journal.old else {}
    return snapshot.observed()


def _is_settled(subject: Subject, snapshot: Snapshot, journal: Optional[Journal], view: View, order: Order) -> bool:
    """Whether there is nothing to do: the candidate is live, nothing is in flight, and the reader is well."""
    if not snapshot.is_ours or (journal is not None and journal.in_flight) or order.validate_only:
        return False
    if snapshot.live is None or snapshot.live != hash_revision(_wanted(order, snapshot, journal)):
        return False
    if not (order.reload and view.is_up):
        # The next start reads the live files: the image that it will be of must have found them good.
        return bool(snapshot.meta_of(snapshot.live).get("image") == subject.image_for_side_containers())
    return is_loaded(journal, snapshot, view) and subject.is_healthy(view)


def _unchanged(snapshot: Snapshot, journal: Optional[Journal]) -> Outcome:
    files = snapshot.observed()
    return Outcome(False, snapshot.live, snapshot.live, files, files, history=list_history(snapshot, journal))


def _predict(subject: Subject, snapshot: Snapshot, journal: Optional[Journal], view: View, order: Order) -> Outcome:
    verdict = subject.validate(_wanted(order, snapshot, journal))
    new = hash_revision(verdict.files)
    before = _base_files(snapshot, journal)
    old = hash_revision(before) if before else None
    reload = order.reload and view.is_up
    actions = ["validate revision " + short(new)]
    changed = not order.validate_only
    if changed:
        if journal is not None and journal.in_flight:
            actions.append("finish or undo an interrupted promotion")
        if not snapshot.is_ours:
            actions.append("lay out the volume in revisions")
        if new != old:
            actions.append("switch from {0} to {1}".format(short(old), short(new)))
        if reload:
            actions += ["reload", "verify"]
        if not reload and snapshot.is_ours and new == snapshot.live and not (journal is not None and journal.in_flight):
            changed = False
    return Outcome(
        changed=changed,
        old=old,
        new=new,
        before=before,
        after=verdict.files,
        actions=tuple(actions),
        history=list_history(snapshot, journal),
        warnings=verdict.warnings,
    )


class _Promotion:
    """One promotion under the lock. Each line that changes the volume is one fsynced rename."""

    def __init__(self, subject: Subject, place: Place, order: Order, writer: Writer) -> None:
        self.subject = subject
        self.place = place
        self.order = order
        self.writer = writer
        self.actions: List[str] = []
        self.warnings: List[str] = list(writer.notes)
        self.history: Tuple[Lived, ...] = ()

    def run(self, known: Optional[Verdict]) -> Outcome:
        """known: the verdict on what was wanted before the lock was ours; it holds if the same is wanted still."""
        self.writer.sweep()
        view = self.subject.look()
        snapshot, journal = self._read()
        # Somebody else may have done it while we waited for the lock.
        if _is_settled(self.subject, snapshot, journal, view, self.order):
            return _unchanged(snapshot, journal)
        self.history = journal.history if journal else ()
        if snapshot.live is not None:
            self.subject.recall(snapshot.meta_of(snapshot.live))
        wanted = _wanted(self.order, snapshot, journal)
        recovery = decide_recovery(journal, snapshot.live, hash_revision(wanted), view)
        if recovery.reason:
            self.warnings.append(recovery.reason)
        if journal is not None and recovery.act == "adopt":
            return self._finish(snapshot, journal, view, wanted)
        if journal is not None and recovery.act == "undo":
            self._undo(journal, recovery.reload)
            view = self.subject.look()
            snapshot, journal = self._read()
            # Reading again what is kept: the undone switch must not leave a file in the candidate.
            wanted = _wanted(self.order, snapshot, journal) if not self.order.rollback_to else wanted
            if _is_settled(self.subject, snapshot, journal, view, self.order):
                return replace(
                    _unchanged(snapshot, journal),
                    changed=True,
                    actions=tuple(self.actions),
                    warnings=tuple(self.warnings),
                )
        verdict = known if known is not None and known.asked == hash_revision(wanted) else self.subject.validate(wanted)
        self.warnings.extend(verdict.warnings)
        self.actions.append("validated")
        return self._switch(snapshot, journal, view, verdict)

    # ----------------------------------------------------------------------------------------------------------- parts

    def _read(self) -> Tuple[Snapshot, Optional[Journal]]:
        snapshot = self.writer.read()
        return snapshot, parse_journal(snapshot.journal, "volume " + self.place.volume)

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
        content = json.dumps(known, indent=1, sort_keys=True).encode("utf-8")
        if held and hash_revision(snapshot.files_of(revision)) == revision:
            if known != held:
                self.writer.put_file("{0}/{1}".format(folder, META), content)
        else:
            self.writer.put_folder(folder, {**files, META: content})
        return revision

    def _point_to(self, revision: Optional[str]) -> float:
        """Move the replica's pointer: the one act that makes files live. Returns when, by the engine's clock."""
        if revision is None:
            return self.writer.remove(self.place.live_link)
        return self.writer.put_link(self.place.live_link, "../revisions/" + revision)

    def _note(self, state: str, old: Optional[str], new: Optional[str], at: float) -> Journal:
        journal = Journal(state=state, old=old, new=new, at=at, owner=describe_owner(), history=self.history)
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
            self._point_to(old)
            self.actions.append("took over what was live as revision " + short(old))
            if not any(lived.revision == old for lived in self.history):
                self._lived(old, snapshot.newest_plain())
        elif old is None and snapshot.live is not None:
            self._point_to(None)
        for name in self.place.names:
            if not snapshot.is_linked(name):
                self.writer.put_link(name, self.place.stock_target(name))
        return old

    def _switch(self, snapshot: Snapshot, journal: Optional[Journal], view: View, verdict: Verdict) -> Outcome:
        before = snapshot.observed()
        new = hash_revision(verdict.files)
        if new == snapshot.live and snapshot.is_ours and not (self.order.reload and view.is_up):
            # All is in place; only the image that reads it next had not validated it.
            self._write_revision(snapshot, verdict.files, "promoted", verdict.meta)
            return replace(_unchanged(snapshot, journal), warnings=tuple(self.warnings), actions=tuple(self.actions))
        loaded = is_loaded(journal, snapshot, view)
        if journal is not None and journal.state == WRITTEN and loaded and self.subject.is_healthy(view):
            # Nobody saw it come up (the container was started later), but here it is, and well.
            self._lived(snapshot.live, journal.at)
        old = self._lay_out(snapshot)
        self._write_revision(snapshot, verdict.files, "rolled back" if self.order.rollback_to else "promoted", verdict.meta)
        reload = self.order.reload and view.is_up
        if new == old and loaded and reload and self.subject.is_healthy(view):
            # The volume was only laid out anew; who runs has long read these very bytes.
            self._lived(new, snapshot.newest_plain())
            done = self._note(DONE, old, new, journal.at if journal else snapshot.newest_plain())
            return self._close(done, before, verdict.files, None)
        self._note(SWITCHING, old, new, self.writer.now())
        at = self._point_to(new)
        if new != old:
            self.actions.append("switched from {0} to {1}".format(short(old), short(new)))
        if not reload:
            self.actions.append(
                "not loaded: the container is {0}".format(view.status) if self.order.reload else "not loaded, as asked"
            )
            return self._close(self._note(WRITTEN, old, new, at), before, verdict.files, None)
        return self._load(old, new, at, before, verdict.files)

    def _finish(self, snapshot: Snapshot, journal: Journal, view: View, files: Mapping[str, bytes]) -> Outcome:
        before = snapshot.files_of(journal.old) if journal.old else {}
        if not (self.order.reload and view.is_up):
            return self._close(self._note(WRITTEN, journal.old, journal.new, journal.at), before, files, None)
        return self._load(journal.old, journal.new, journal.at, before, files)

    def _load(
        self, old: Optional[str], new: Optional[str], at: float, before: Mapping[str, bytes], after: Mapping[str, bytes]
    ) -> Outcome:
        try:
            self.subject.reload(patient=True)
            proof = self.subject.verify(self.place, new, at)
        except AnvilError as exc:
            raise self._go_back(old, new, exc) from exc
        self.actions += ["reloaded", "verified"]
        self._lived(new, at)
        return self._close(self._note(DONE, old, new, at), before, after, proof)

    def _go_back(self, old: Optional[str], new: Optional[str], cause: AnvilError) -> AnvilError:
        """Undo a switch that failed, and tell all of it."""
        where = "volume " + self.place.volume
        if old == new:
            self._note(DONE, old, new, self.writer.now())
            return AnvilError(*cause.problems, Problem("the live revision was not changed: {0}".format(short(new)), where=where))
        try:
            self._note(GOING_BACK, old, new, self.writer.now())
            at = self._point_to(old)
            self.subject.reload(patient=False)
            if old is not None:
                self.subject.verify(self.place, old, at)
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

    def _undo(self, journal: Journal, reload: bool) -> None:
        """Take back what an interrupted promotion did. A base that does not come up must not bar a good candidate."""
        at = self._point_to(journal.old)
        self.actions.append("undid an interrupted promotion: live again is " + short(journal.old))
        try:
            if reload and self.order.reload:
                self.subject.reload(patient=True)
                if journal.old is not None:
                    self.subject.verify(self.place, journal.old, at)
        except AnvilError as exc:
            self.warnings.append("the revision gone back to does not come up: " + exc.problems[0].as_text())
        self._drop_links(journal.old)
        self._note(DONE, journal.new, journal.old, at)

    def _drop_links(self, live: Optional[str]) -> None:
        if live is None:
            for name in self.place.names:
                self.writer.remove(name)

    def _close(
        self, journal: Journal, before: Mapping[str, bytes], after: Mapping[str, bytes], proof: Optional[Proof]
    ) -> Outcome:
        snapshot = self.writer.read()
        for name in choose_pruned(snapshot, journal, self.order.keep):
            self.writer.remove("{0}/{1}".format(REVISIONS, name))
            self.actions.append("pruned " + short(name))
        held = [row for row in list_history(snapshot, journal) if "pruned " + short(row["revision"]) not in self.actions]
        return Outcome(
            changed=True,
            old=journal.old,
            new=journal.new,
            before=before,
            after=after,
            actions=tuple(self.actions),
            reloaded=proof is not None,
            proof=proof,
            history=tuple(held),
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
