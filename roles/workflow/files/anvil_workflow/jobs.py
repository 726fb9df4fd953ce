# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs as data, and what a store of them promises."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import Any, Protocol

PENDING, RUNNING, COMPLETED, FAILED, CANCELLED = "pending", "running", "completed", "failed", "cancelled"
ENDED = (COMPLETED, FAILED, CANCELLED)
STATUSES = (PENDING, RUNNING, *ENDED)
# Times that a server may end in the middle of one and the same node before the job counts as what ends it.
MOST_ATTEMPTS = 10


class StoreError(Exception):
    """The store cannot be read or written: disk full, no database. Nothing was changed."""


class QueueFullError(Exception):
    """As many jobs wait as may wait."""


@dataclass(frozen=True)
class NewJob:
    """A job to be stored. key: its idempotency key; request: the digest of what was asked with it."""

    id: str
    workflow: str
    inputs: str
    created_at: float
    key: str | None = None
    request: str = ""
    callback_url: str | None = None


@dataclass(frozen=True)
class Job:
    """A stored job. Times are Unix seconds; inputs, outputs, error, warnings and progress are JSON.

    fence: grows with each owner. A write with an older one changes nothing. callback_at: when its callback is due; none
    where there is nothing to deliver any more.
    """

    id: str
    status: str
    workflow: str
    inputs: str
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    outputs: str | None = None
    error: str | None = None
    warnings: str | None = None
    progress: str | None = None
    owner: str | None = None
    fence: int = 0
    attempts: int = 0
    key: str | None = None
    request: str = ""
    callback_url: str | None = None
    callback_tries: int = 0
    callback_at: float | None = None


FIELDS = tuple(Job.__dataclass_fields__)


def as_stored(new: NewJob, owner: str | None = None) -> Job:
    """The job that ``Store.submit`` makes of it."""
    if owner is None:
        return Job(status=PENDING, **new.__dict__)
    return Job(status=RUNNING, started_at=new.created_at, owner=owner, fence=1, attempts=1, **new.__dict__)


def hand_over(job: Job) -> Job:
    """A job as another store takes it: what ran is nobody's, and the fence keeps whoever ran it out."""
    if job.status != RUNNING:
        return job
    return replace(job, status=PENDING, owner=None, fence=job.fence + 1, attempts=max(0, job.attempts - 1))


def write_adoption(mark: str) -> str:
    """The statement that stores a job of another store; ``mark`` numbers its words. A key that is taken stays whose it is."""
    marks = {name: f"{mark}{number}" for number, name in enumerate(FIELDS, 1)}
    marks["key"] = f"CASE WHEN EXISTS (SELECT 1 FROM jobs WHERE key = {marks['key']}) THEN NULL ELSE {marks['key']} END"
    return f"INSERT INTO jobs ({', '.join(FIELDS)}) VALUES ({', '.join(marks.values())}) ON CONFLICT DO NOTHING"


@dataclass(frozen=True)
class Ending:
    """How a run ended."""

    id: str
    fence: int
    status: str
    finished_at: float
    outputs: str | None
    error: str | None
    warnings: str | None
    progress: str | None


_RANDOM = bytearray()


def new_job_id() -> str:
    """32 hex digits, the first 12 the time in ms: rows are appended at the index's end, and lists sort by it."""
    if len(_RANDOM) < 10:
        # Much at a time: each call gives the interpreter's lock away.
        _RANDOM.extend(os.urandom(4000))
    random = _RANDOM[-10:].hex()
    del _RANDOM[-10:]
    return f"{time.time_ns() // 1_000_000:012x}{random}"


class Store(Protocol):
    """Every method that changes something returns after the change survives a power cut; ``submit`` only the end of this
    process, for ``flush`` to follow. All raise StoreError."""

    shared: bool
    """May other replicas use it at the same time?"""
    in_order: bool
    """Do writes take effect in the order in which they were asked for, before the first has returned?"""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def submit(self, job: NewJob, owner: str | None, queue: int) -> Job | None:
        """Store a job: running under the owner, or pending without one. Returns the older job of the same key, if any.

        Raises QueueFullError where ``queue`` jobs are pending already.
        """

    async def claim(self, owner: str, count: int) -> list[Job]:
        """Take up to that many jobs that nobody runs, the oldest first: pending, or with a lease that ran out."""

    async def renew(self, owner: str, held: list[tuple[str, int]]) -> set[str]:
        """Extend the leases of (id, fence); returns the ids that are no longer the owner's."""

    async def save(self, job: str, fence: int, progress: str) -> bool:
        """A checkpoint. False: the job is no longer this owner's."""

    async def finish(self, ending: Ending) -> bool:
        """The end. False: the job is no longer this owner's."""

    async def release(self, job: str, fence: int) -> None:
        """Give a running job back to be claimed at once."""

    async def cancel(self, job: str) -> bool:
        """Cancel a job that has not ended. Whoever runs it finds its fence too old."""

    async def delete(self, job: str) -> bool:
        """Delete a job that has ended."""

    async def purge(self, before: float) -> int:
        """Delete the jobs that ended before, and how many."""

    async def get(self, job: str) -> Job | None: ...

    async def find_key(self, key: str) -> Job | None: ...

    async def list_jobs(self, status: str | None, before: str | None, count: int) -> list[Job]:
        """The newest first. before: an id of the last page."""

    async def count(self) -> dict[str, int]:
        """Jobs by status."""

    async def claim_callbacks(self, now: float, until: float, count: int) -> list[Job]:
        """Ended jobs whose callback is due; nobody else gets them before ``until``."""

    async def settle_callback(self, job: str, again: float | None) -> None:
        """Delivered or given up (None), or to be tried again at that time."""

    async def adopt(self, jobs: list[Job]) -> int:
        """Store jobs of another store, those that ran as pending; how many were new here."""

    async def forget(self, ids: list[str]) -> None:
        """Delete jobs, whatever they are: another store has them."""

    async def flush(self) -> None:
        """Returns after all that was submitted survives a power cut."""

    async def check(self) -> None:
        """Write something, to see that it can."""


def open_store(url: str, **words: Any) -> Store:
    """The store of WORKFLOW_JOBS. words: password, lease, sync."""
    if url.startswith("sqlite:"):
        from .jobs_sqlite import SqliteStore

        return SqliteStore(url.removeprefix("sqlite:").removeprefix("///"), sync=words.get("sync", "full"))
    from .jobs_postgres import PostgresStore

    return PostgresStore(url, password=words.get("password", ""), lease=words.get("lease", 15.0))
