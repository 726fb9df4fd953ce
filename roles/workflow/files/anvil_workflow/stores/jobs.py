# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs as data, and the interface of a store with its guarantees."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, replace
from typing import Protocol

PENDING, RUNNING, COMPLETED, FAILED, CANCELLED = "pending", "running", "completed", "failed", "cancelled"
ENDED = (COMPLETED, FAILED, CANCELLED)
STATUSES = (PENDING, RUNNING, *ENDED)
# How often a server may end at the same node of a job before the job counts as the cause.
MOST_ATTEMPTS = 10


class StoreError(Exception):
    """The store cannot be read or written, such as a full disk or no database. Nothing was changed."""


class QueueFullError(Exception):
    """The queue is full."""


@dataclass(frozen=True)
class NewJob:
    """A job to be stored. key: its idempotency key. request: the digest of the request that came with the key."""

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

    fence: grows with each owner; a write with an older fence changes nothing. callback_at: when its callback is due; None where
    there is nothing left to deliver.
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
# What a list of jobs shows of a run.
SHOWN_PROGRESS = ("at", "prompt_tokens", "completion_tokens", "retries", "cost", "unknown_calls")


def as_stored(new: NewJob, owner: str | None = None) -> Job:
    """The job as ``Store.submit`` stores it."""
    if owner is None:
        return Job(status=PENDING, **new.__dict__)
    return Job(status=RUNNING, started_at=new.created_at, owner=owner, fence=1, attempts=1, **new.__dict__)


def build_list_columns(progress: str) -> str:
    """The columns of ``Store.list_jobs``. progress: SQL for what is shown of a progress."""
    narrow = {"inputs": "''", "outputs": "NULL", "progress": progress}
    return ", ".join(narrow.get(name, name) for name in FIELDS)


def detach_job(job: Job) -> Job:
    """A job for another store: a running job becomes pending, and a new fence keeps its former owner out."""
    if job.status != RUNNING:
        return job
    return replace(job, status=PENDING, owner=None, fence=job.fence + 1, attempts=max(0, job.attempts - 1))


def build_adopt_statement(mark: str) -> str:
    """The statement that stores a job of another store; ``mark`` and a number name each value. A key in use is not taken over."""
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
    """32 hex digits. The first 12 are the time in ms: rows are appended at the end of the index, and lists sort by it."""
    if len(_RANDOM) < 10:
        # Many bytes at a time: each call releases the interpreter's lock.
        _RANDOM.extend(os.urandom(4000))
    random = _RANDOM[-10:].hex()
    del _RANDOM[-10:]
    return f"{time.time_ns() // 1_000_000:012x}{random}"


class Store(Protocol):
    """A method that changes something returns once the change survives a power cut. The exception is ``submit``: its job survives
    the end of the process, and a power cut only after ``flush``. All methods raise StoreError.
    """

    shared: bool
    """Whether other replicas may use the store at the same time."""
    in_order: bool
    """Whether writes take effect in the order in which they were called, even before the first one has returned."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def submit(self, job: NewJob, owner: str | None, queue: int) -> Job | None:
        """Store a job: running under the owner, or pending without one. Returns the older job of the same key, if any.

        Raises QueueFullError where ``queue`` jobs are already pending.
        """

    async def claim(self, owner: str, count: int) -> list[Job]:
        """Take up to ``count`` jobs that no replica runs, the oldest first: pending, or with an expired lease."""

    async def renew(self, owner: str, held: list[tuple[str, int]]) -> set[str]:
        """Extend the leases of (id, fence); returns the ids that no longer belong to the owner."""

    async def save(self, job: str, fence: int, progress: str) -> bool:
        """Store a checkpoint. False: the job no longer belongs to this owner."""

    async def finish(self, ending: Ending) -> bool:
        """Store the end of a job. False: the job no longer belongs to this owner."""

    async def release(self, job: str, fence: int) -> None:
        """Give a running job back, so that it can be claimed at once."""

    async def cancel(self, job: str) -> bool:
        """Cancel a job that has not ended. The fence of its owner becomes too old to write."""

    async def delete(self, job: str) -> bool:
        """Delete a job that has ended."""

    async def purge(self, before: float) -> int:
        """Delete the jobs that ended before that time; returns how many."""

    async def get(self, job: str) -> Job | None: ...

    async def find_key(self, key: str) -> Job | None: ...

    async def list_jobs(self, status: str | None, before: str | None, count: int) -> list[Job]:
        """Jobs without inputs and outputs, the newest first; of their progress, ``SHOWN_PROGRESS`` only: a page of whole jobs may
        be as large as a hundred requests. before: the last id of the previous page.
        """

    async def list_whole_jobs(self, count: int) -> list[Job]:
        """Jobs with everything, the newest first."""

    async def count(self) -> dict[str, int]:
        """Number of jobs by status."""

    async def claim_callbacks(self, now: float, until: float, count: int) -> list[Job]:
        """Take ended jobs whose callback is due; they are not due again before ``until``."""

    async def settle_callback(self, job: str, again: float | None) -> None:
        """Record the result of a callback. again: when to retry; None where it was delivered or given up."""

    async def adopt(self, jobs: list[Job]) -> int:
        """Store jobs of another store; running ones become pending. Returns how many were new here."""

    async def forget(self, ids: list[str]) -> None:
        """Delete jobs of any status, because another store has them."""

    async def flush(self) -> None:
        """Return once everything that was submitted survives a power cut."""

    async def check(self) -> None:
        """Write something, to check that the store can."""
