# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of jobs on this replica: stored, queued, run, renewed, released.

A job runs in a task of its own that belongs to no request: a caller that disconnects or stops waiting changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import httpx

from anvil_workflow.environment.settings import Settings
from anvil_workflow.runner.callbacks import CallbackSender
from anvil_workflow.runner.executor import Executor, Outcome, Progress
from anvil_workflow.runner.metrics import Metrics
from anvil_workflow.runner.node_answers import RunError
from anvil_workflow.runner.tracing import NO_SPAN, Tracer
from anvil_workflow.stores.jobs import (
    CANCELLED,
    COMPLETED,
    ENDED,
    FAILED,
    MOST_ATTEMPTS,
    Ending,
    Job,
    NewJob,
    Store,
    StoreError,
    as_stored,
    new_job_id,
)

log = logging.getLogger("anvil_workflow")
POLL = 1.0
T = TypeVar("T")


class JobLost(Exception):  # noqa: N818 - not an error
    """The job no longer belongs to this replica: another one has it, or it was cancelled."""


class KeyReused(Exception):  # noqa: N818
    """The idempotency key was used with a different request."""


@dataclass
class RunningJob:
    """A job that runs on this replica. progress: for the live view. stored: its first write is done. ending: its last began."""

    job: Job
    task: asyncio.Task[Job | None]
    stored: bool
    ending: bool = False
    progress: Progress | None = None


class JobRunner:
    """Runs jobs of one store, at most ``concurrency`` at a time."""

    def __init__(
        self,
        settings: Settings,
        executor: Executor,
        store: Store,
        client: httpx.AsyncClient,
        tracer: Tracer | None,
        metrics: Metrics,
    ) -> None:
        self.settings, self.executor, self.store, self.metrics = settings, executor, store, metrics
        self.concurrency = settings.concurrency or executor.workflow.execution.concurrency or 32
        self.running: dict[str, RunningJob] = {}
        self.draining = asyncio.Event()
        self.callbacks = CallbackSender(store, client, metrics)
        self._tracer = tracer
        self._wake = asyncio.Event()
        # Jobs are pending, so a new job joins the end of the queue. True until the store shows otherwise.
        self._queued = True
        self._starting = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._owner = settings.replica
        # Moving average of the seconds of a run, from which Retry-After is computed.
        self._mean_seconds = 1.0

    # --- open and close

    def open(self) -> None:
        self._answer_now: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wake.set()
        works: list[Callable[[], Awaitable[None]]] = [self._dispatch, self._renew, self._purge, self.callbacks.send_due]
        self._tasks = [asyncio.create_task(self._repeat(work)) for work in works]

    async def close(self) -> None:
        """Release every running job. They continue at their next node, here or on another replica."""
        self.draining.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        running = list(self.running.values())
        for one in running:
            one.task.cancel()
        await asyncio.gather(*(one.task for one in running), return_exceptions=True)
        for one in running:
            with contextlib.suppress(StoreError):
                await self.store.release(one.job.id, one.job.fence)

    def drain(self) -> None:
        """Take no more jobs from the queue. Requests that wait get a 202 after ``settings.drain`` seconds."""
        if self.draining.is_set():
            return
        self.draining.set()

        def end_waits() -> None:
            if not self._answer_now.done():
                self._answer_now.set_result(None)

        asyncio.get_running_loop().call_later(self.settings.drain, end_waits)

    async def estimate_wait(self) -> int:
        """Seconds until the queue is likely to have room: 1 to 60."""
        with contextlib.suppress(StoreError):
            pending = (await self.store.count()).get("pending", 0)
            return max(1, min(60, round(pending * self._mean_seconds / self.concurrency / 2)))
        return 5

    async def _repeat(self, work: Callable[[], Awaitable[None]]) -> None:
        """Repeat a piece of housekeeping until the server stops. After an error of the store it waits and retries."""
        while True:
            try:
                await work()
            except StoreError as error:
                log.warning("%s: %s", work.__name__.strip("_"), error)
                await asyncio.sleep(POLL)
            except Exception:
                log.exception("%s failed", work.__name__.strip("_"))
                await asyncio.sleep(POLL)

    # --- submit and wait

    async def submit(self, inputs: str, key: str | None = None, callback: str | None = None) -> tuple[Job, bool]:
        """Store a job, then start or queue it; returns the job, and whether it is new.

        Raises QueueFullError, KeyReused, StoreError.
        """
        digest = hashlib.sha256(f"{inputs}\n{callback or ''}".encode()).hexdigest() if key is not None else ""
        new = NewJob(new_job_id(), self.executor.workflow.digest, inputs, time.time(), key, digest, callback)
        if len(self.running) + self._starting >= self.concurrency or self._queued or self.draining.is_set():
            older = await self.store.submit(new, None, self.settings.queue)
            self._queued = True
            self._wake.set()
            job = as_stored(new)
        else:
            job = as_stored(new, self._owner)
            older = await self._submit_and_start(new, job)
        if older is not None:
            if older.request != digest:
                raise KeyReused
            return older, False
        self.metrics.submitted.inc()
        return job, True

    async def _submit_and_start(self, new: NewJob, job: Job) -> Job | None:
        """Store a job and start it; returns the older job of the same key, if any.

        Only a job with a key must be stored before it starts. Any other job starts while it is being written: its later writes
        take effect after that one, and the caller gets no answer before it is stored.
        """
        if new.key is None and self.store.in_order:
            running = self._start(job, stored=False)
            try:
                await self.store.submit(new, self._owner, self.settings.queue)
            except StoreError:
                running.task.cancel()
                raise
            running.stored = True
            return None
        self._starting += 1
        try:
            older = await self.store.submit(new, self._owner, self.settings.queue)
        finally:
            self._starting -= 1
        if older is None:
            self._start(job)
        return older

    async def wait(self, job: str, seconds: float) -> Job | None:
        """The job once it has ended, or as it is after ``seconds``."""
        deadline = time.monotonic() + seconds
        pause = 0.05
        while True:
            left = 0.0 if self._answer_now.done() else deadline - time.monotonic()
            running = self.running.get(job)
            if running is not None and left > 0:
                # The wait never cancels the task: a job is executed once, however long that takes.
                either: set[asyncio.Future[Any]] = {running.task, self._answer_now}
                await asyncio.wait(either, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if not running.task.done():
                    continue
                if not running.task.cancelled() and running.task.exception() is None:
                    ended = running.task.result()
                    if ended is not None:
                        return ended
            stored = await self.store.get(job)
            if stored is None or stored.status in ENDED or left <= 0:
                return stored
            await asyncio.sleep(min(pause, left))
            pause = min(1.0, pause * 1.5)

    async def cancel(self, job: str) -> bool:
        done = await self.store.cancel(job)
        running = self.running.get(job)
        if done and running is not None:
            running.task.cancel()
        if done:
            self.metrics.ended.labels(CANCELLED).inc()
            self.callbacks.wake()
        return done

    async def delete(self, job: str) -> bool:
        """Delete a job that has ended, and its trace."""
        done = await self.store.delete(job)
        if done and self._tracer is not None:
            self._tracer.delete(job)
        return done

    # --- run

    def _start(self, job: Job, stored: bool = True) -> RunningJob:
        running = self.running[job.id] = RunningJob(job, asyncio.create_task(self._run(job)), stored)
        self.metrics.running.set(len(self.running))
        return running

    async def _run(self, job: Job) -> Job | None:
        """Run a job; returns it ended, or None where it no longer belongs to this replica."""
        try:
            return await self._run_to_end(job)
        except JobLost:
            log.info("job %s was cancelled, or another replica has it", job.id)
            return None
        finally:
            self.running.pop(job.id, None)
            self.metrics.running.set(len(self.running))
            self._wake.set()

    async def _run_to_end(self, job: Job) -> Job:
        progress: Progress | None = None
        outcome: Outcome | None = None
        error: RunError | None = None
        began = time.monotonic()
        span = self._tracer.begin(self.executor.workflow.name, job.id) if self._tracer else NO_SPAN
        limit = self.executor.workflow.execution.timeout
        traced = all(node.traced for node in self.executor.workflow.nodes.values())
        try:
            progress = await self._find_start(job)
            self.running[job.id].progress = progress
            async with asyncio.timeout(limit):
                outcome = await self.executor.run(progress, lambda done: self._save(job, done), span)
        except RunError as failure:
            error = failure
        except TimeoutError:
            at = ", ".join(progress.at) if progress else ""
            error = RunError("timeout", f"the run took longer than {limit:g} s (config.execution.timeout)", at)
        except asyncio.CancelledError:
            if not self.draining.is_set():
                span.fail("cancelled")
            raise
        except JobLost:
            # The new owner of the job ends its trace.
            raise
        except Exception as failure:
            # A bug of this server must end this job only. Its text may be that of a caller or a model.
            log.error(
                "job %s failed with an internal error: %s", job.id, type(failure).__name__, exc_info=failure if traced else None
            )
            error = RunError("workflow", f"internal error: {type(failure).__name__}", "")
        if error is not None:
            span.fail(error.message if traced else error.kind)
        elif span is not NO_SPAN and outcome is not None:
            span.finish(*((json.loads(job.inputs), outcome.outputs) if traced else ()))
        ending = Ending(
            job.id,
            job.fence,
            FAILED if error else COMPLETED,
            time.time(),
            json.dumps(outcome.outputs, ensure_ascii=False) if outcome else None,
            json.dumps(error.as_dict(), ensure_ascii=False) if error else None,
            json.dumps(outcome.warnings, ensure_ascii=False) if outcome and outcome.warnings else None,
            progress.as_ended() if progress else None,
        )
        self.running[job.id].ending = True
        if not await self._persist(lambda: self.store.finish(ending)):
            raise JobLost
        self.metrics.ended.labels(ending.status).inc()
        seconds = time.monotonic() - began
        self.metrics.seconds.observe(seconds)
        self._mean_seconds += 0.1 * (seconds - self._mean_seconds)
        if job.callback_url:
            self.callbacks.wake()
        return _apply_ending(job, ending)

    async def _find_start(self, job: Job) -> Progress:
        """The progress from which the job continues. Raises RunError where it cannot continue."""
        if job.attempts > MOST_ATTEMPTS:
            at = ", ".join(Progress.from_text(job.progress).at) if job.progress else "its first node"
            raise RunError("workflow", f"given up: the server ended {MOST_ATTEMPTS} times while the job was at {at}", at)
        if job.progress is None:
            progress = await self.executor.begin(json.loads(job.inputs))
        else:
            progress = Progress.from_text(job.progress)
        if not self.executor.can_resume(progress):
            at = ", ".join(progress.at)
            raise RunError(
                "workflow", f"the new version of the workflow has no node {at}, at which the job was: submit it again", at
            )
        if job.fence > 1:  # another owner had it
            self.executor.note_interruption(progress)
        return progress

    async def _save(self, job: Job, progress: Progress) -> None:
        text = progress.as_text()
        if not await self._persist(lambda: self.store.save(job.id, job.fence, text)):
            raise JobLost

    async def _persist(self, write: Callable[[], Awaitable[T]]) -> T:
        """Repeat a write until the store accepts it; the job waits meanwhile."""
        pause = 0.1
        while True:
            try:
                return await write()
            except StoreError as error:
                log.warning("a job waits for its store: %s", error)
                await asyncio.sleep(pause)
                pause = min(5.0, pause * 2)

    # --- housekeeping

    async def _dispatch(self) -> None:
        """Claim pending jobs when there is room."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL):
                await self._wake.wait()
        self._wake.clear()
        while not self.draining.is_set() and (room := self.concurrency - len(self.running) - self._starting) > 0:
            if not self._queued and not self.store.shared:
                return
            self._queued = False
            self._starting += room  # a job that is submitted meanwhile must not use the same room
            try:
                jobs = await self.store.claim(self._owner, room)
            finally:
                self._starting -= room
            for job in jobs:
                self._start(job)
            if len(jobs) == room:
                self._queued = True
            if not jobs:
                return

    async def _renew(self) -> None:
        await asyncio.sleep(self.settings.lease / 3)
        stored = {one.job.id: one for one in self.running.values() if one.stored}
        if stored:
            for lost in await self.store.renew(self._owner, [(job, one.job.fence) for job, one in stored.items()]):
                # The last write of an ending job may be done already, and its task ends by itself.
                if not stored[lost].ending:
                    stored[lost].task.cancel()

    async def _purge(self) -> None:
        await asyncio.sleep(min(60.0, max(1.0, self.settings.ttl / 10)))
        deleted = await self.store.purge(time.time() - self.settings.ttl)
        if deleted:
            log.info("%d jobs were deleted: they ended more than WORKFLOW_JOB_TTL seconds ago", deleted)


def _apply_ending(job: Job, ending: Ending) -> Job:
    return replace(
        job,
        status=ending.status,
        finished_at=ending.finished_at,
        outputs=ending.outputs,
        error=ending.error,
        warnings=ending.warnings,
        progress=ending.progress,
    )
