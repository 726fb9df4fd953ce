# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The life of jobs on this replica: taken in, run, looked after, handed on.

A job runs in a task of its own that no request owns: a caller that stops waiting, or goes away, changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from .executor import Executor, Outcome, Progress
from .jobs import (
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
from .metrics import Metrics
from .models import RunError
from .settings import Settings
from .tracing import NO_SPAN, Tracer

log = logging.getLogger("anvil_workflow")
CALLBACK_TRIES = 8
POLL = 1.0
T = TypeVar("T")


class Lost(Exception):  # noqa: N818 - not an error: another replica has the job, or it was cancelled
    """The job is no longer ours."""


class KeyReused(Exception):  # noqa: N818
    """The idempotency key was used with another request."""


@dataclass
class Held:
    """A job that runs here. progress: for the live view. stored: its first write has come back. ending: its last has not."""

    job: Job
    task: asyncio.Task[Job | None]
    stored: bool
    ending: bool = False
    progress: Progress | None = None


class Runner:
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
        self.held: dict[str, Held] = {}
        self.draining = asyncio.Event()
        self._client, self._tracer = client, tracer
        self._wake = asyncio.Event()
        self._wake_callbacks = asyncio.Event()
        # Others wait: a new job joins the end of the queue. True until a look at the store shows otherwise.
        self._queued = True
        self._starting = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._owner = settings.replica
        # Mean seconds of a run, newest first in weight: what Retry-After is worked out from.
        self._typical = 1.0

    # --- open and close

    def open(self) -> None:
        self._impatient: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wake.set()
        works: list[Callable[[], Awaitable[None]]] = [self._dispatch, self._renew, self._purge, self._call_back]
        self._tasks = [asyncio.create_task(self._keep(work)) for work in works]

    async def close(self) -> None:
        """Hand every running job on. They go on at their next node, here or on another replica."""
        self.draining.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        held = list(self.held.values())
        for one in held:
            one.task.cancel()
        await asyncio.gather(*(one.task for one in held), return_exceptions=True)
        for one in held:
            with contextlib.suppress(StoreError):
                await self.store.release(one.job.id, one.job.fence)

    def drain(self) -> None:
        """Take no more jobs from the queue; requests that wait get their 202 after ``settings.drain`` seconds."""
        if self.draining.is_set():
            return
        self.draining.set()

        def lose_patience() -> None:
            if not self._impatient.done():
                self._impatient.set_result(None)

        asyncio.get_running_loop().call_later(self.settings.drain, lose_patience)

    async def estimate_wait(self) -> int:
        """Seconds until the queue is likely to have room: 1 to 60."""
        with contextlib.suppress(StoreError):
            waiting = (await self.store.count()).get("pending", 0)
            return max(1, min(60, round(waiting * self._typical / self.concurrency / 2)))
        return 5

    async def _keep(self, work: Callable[[], Awaitable[None]]) -> None:
        """A piece of housekeeping, for as long as the server lives. An unreachable store is waited for."""
        while True:
            try:
                await work()
            except StoreError as error:
                log.warning("%s: %s", work.__name__.strip("_"), error)
                await asyncio.sleep(POLL)
            except Exception:
                log.exception("%s failed", work.__name__.strip("_"))
                await asyncio.sleep(POLL)

    # --- jobs in

    async def submit(self, inputs: str, key: str | None = None, callback: str | None = None) -> tuple[Job, bool]:
        """Store a job and start it, or queue it: the job, and whether it is new.

        Raises QueueFullError, KeyReused, StoreError.
        """
        digest = hashlib.sha256(f"{inputs}\n{callback or ''}".encode()).hexdigest() if key is not None else ""
        new = NewJob(new_job_id(), self.executor.workflow.digest, inputs, time.time(), key, digest, callback)
        if len(self.held) + self._starting >= self.concurrency or self._queued or self.draining.is_set():
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
        """The older job of the same key, if any; only a key has to be known before the run begins.

        Else the run begins while the job is being written. What it writes comes after that, in the same transaction where
        it is as quick; nobody hears of the job before.
        """
        if new.key is None and self.store.in_order:
            held = self._start(job, stored=False)
            try:
                await self.store.submit(new, self._owner, self.settings.queue)
            except StoreError:
                held.task.cancel()
                raise
            held.stored = True
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
        """The job once it has ended, or as it is after that time."""
        deadline = time.monotonic() + seconds
        pause = 0.05
        while True:
            left = 0.0 if self._impatient.done() else deadline - time.monotonic()
            held = self.held.get(job)
            if held is not None and left > 0:
                # A task of its own, waited for and never cancelled by the wait: one execution, however long it takes.
                either: set[asyncio.Future[Any]] = {held.task, self._impatient}
                await asyncio.wait(either, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if not held.task.done():
                    continue
                if not held.task.cancelled() and held.task.exception() is None:
                    ended = held.task.result()
                    if ended is not None:
                        return ended
            stored = await self.store.get(job)
            if stored is None or stored.status in ENDED or left <= 0:
                return stored
            await asyncio.sleep(min(pause, left))
            pause = min(1.0, pause * 1.5)

    async def cancel(self, job: str) -> bool:
        done = await self.store.cancel(job)
        held = self.held.get(job)
        if done and held is not None:
            held.task.cancel()
        if done:
            self.metrics.ended.labels(CANCELLED).inc()
            self._wake_callbacks.set()
        return done

    # --- jobs running

    def _start(self, job: Job, stored: bool = True) -> Held:
        held = self.held[job.id] = Held(job, asyncio.create_task(self._run(job)), stored)
        self.metrics.running.set(len(self.held))
        return held

    async def _run(self, job: Job) -> Job | None:
        """The ended job; None where it is not ours any more."""
        try:
            return await self._run_to_end(job)
        except Lost:
            log.info("job %s is another's now, or cancelled", job.id)
            return None
        finally:
            self.held.pop(job.id, None)
            self.metrics.running.set(len(self.held))
            self._wake.set()

    async def _run_to_end(self, job: Job) -> Job:
        progress: Progress | None = None
        outcome: Outcome | None = None
        error: RunError | None = None
        began = time.monotonic()
        span = self._tracer.begin(self.executor.workflow.name, job.id) if self._tracer else NO_SPAN
        limit = self.executor.workflow.execution.timeout
        try:
            progress = self._find_start(job)
            self.held[job.id].progress = progress
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
        except Lost:
            # Whoever has the job now ends its trace.
            raise
        except Exception as failure:
            # A fault of ours must end its job and nothing else.
            log.exception("job %s", job.id)
            error = RunError("workflow", f"internal error: {type(failure).__name__}: {failure}", "")
        if error is not None:
            span.fail(error.message)
        elif span is not NO_SPAN and outcome is not None:
            open_to_see = all(step.traced for step in self.executor.workflow.steps.values())
            span.finish(*((json.loads(job.inputs), outcome.outputs) if open_to_see else ()))
        ending = Ending(
            job.id,
            job.fence,
            FAILED if error else COMPLETED,
            time.time(),
            json.dumps(outcome.outputs, ensure_ascii=False) if outcome else None,
            json.dumps(error.as_dict(), ensure_ascii=False) if error else None,
            json.dumps(outcome.warnings, ensure_ascii=False) if outcome and outcome.warnings else None,
            progress.as_text() if progress else None,
        )
        self.held[job.id].ending = True
        if not await self._persist(lambda: self.store.finish(ending)):
            raise Lost
        self.metrics.ended.labels(ending.status).inc()
        seconds = time.monotonic() - began
        self.metrics.seconds.observe(seconds)
        self._typical += 0.1 * (seconds - self._typical)
        if progress is not None:
            self.metrics.count_tokens(progress.prompt_tokens, progress.completion_tokens)
        if job.callback_url:
            self._wake_callbacks.set()
        return _end(job, ending)

    def _find_start(self, job: Job) -> Progress:
        """Where the job goes on. Raises RunError where it cannot."""
        if job.attempts > MOST_ATTEMPTS:
            at = ", ".join(Progress.from_text(job.progress).at) if job.progress else "its first node"
            raise RunError("workflow", f"given up: the server ended {MOST_ATTEMPTS} times while the job was at {at}", at)
        if job.progress is None:
            return self.executor.begin(json.loads(job.inputs))
        progress = Progress.from_text(job.progress)
        if not self.executor.can_resume(progress):
            at = ", ".join(progress.at)
            raise RunError("workflow", f"the workflow was replaced while the job was at {at}, which is gone: submit it again", at)
        return progress

    async def _save(self, job: Job, progress: Progress) -> None:
        text = progress.as_text()
        if not await self._persist(lambda: self.store.save(job.id, job.fence, text)):
            raise Lost

    async def _persist(self, write: Callable[[], Awaitable[T]]) -> T:
        """A write that must not be lost: while the store cannot take it, the job waits with its result in hand."""
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
        """Claim what waits, when there is room."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL):
                await self._wake.wait()
        self._wake.clear()
        while not self.draining.is_set() and (room := self.concurrency - len(self.held) - self._starting) > 0:
            if not self._queued and not self.store.shared:
                return
            self._queued = False
            self._starting += room  # a job that is submitted meanwhile must not take the same room
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
        held = {one.job.id: one for one in self.held.values() if one.stored}
        if held:
            for lost in await self.store.renew(self._owner, [(job, one.job.fence) for job, one in held.items()]):
                # One that is ending has ended in the store perhaps, and finds out by itself.
                if not held[lost].ending:
                    held[lost].task.cancel()

    async def _purge(self) -> None:
        await asyncio.sleep(min(60.0, max(1.0, self.settings.ttl / 10)))
        gone = await self.store.purge(time.time() - self.settings.ttl)
        if gone:
            log.info("%d jobs older than their time to live are gone", gone)

    async def _call_back(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5 * POLL):
                await self._wake_callbacks.wait()
        self._wake_callbacks.clear()
        while jobs := await self.store.claim_callbacks(time.time(), time.time() + 60, 16):
            await asyncio.gather(*(self._deliver(job) for job in jobs))

    async def _deliver(self, job: Job) -> None:
        assert job.callback_url is not None
        try:
            answer = await self._client.post(
                job.callback_url, json=describe_job(job), timeout=10, follow_redirects=False, headers={"Idempotency-Key": job.id}
            )
            good = answer.is_success
            reason = f"HTTP {answer.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            good, reason = False, str(error) or type(error).__name__
        again = None
        if not good and job.callback_tries < CALLBACK_TRIES:
            again = time.time() + min(3600.0, 2.0**job.callback_tries)
        if not good:
            log.warning("callback of job %s: %s%s", job.id, reason, "" if again else "; given up")
        self.metrics.callbacks.labels("delivered" if good else "failed").inc()
        await self.store.settle_callback(job.id, again)


def may_call_back(url: str, hosts: tuple[str, ...]) -> bool:
    """Only to hosts that the deployment names: a caller must not aim the server at its neighbours."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        return False
    return "*" in hosts or parts.hostname in hosts or f"{parts.hostname}:{port}" in hosts


def _end(job: Job, ending: Ending) -> Job:
    return Job(
        **{
            **job.__dict__,
            "status": ending.status,
            "finished_at": ending.finished_at,
            "outputs": ending.outputs,
            "error": ending.error,
            "warnings": ending.warnings,
            "progress": ending.progress,
        }
    )


def describe_job(job: Job, at: list[str] | None = None) -> dict[str, Any]:
    """A job as a caller sees it."""
    progress: Mapping[str, Any] = json.loads(job.progress) if job.progress else {}
    ended = job.status in ENDED
    duration = None
    if job.started_at is not None and job.finished_at is not None:
        duration = round((job.finished_at - job.started_at) * 1000, 1)
    return {
        "job_id": job.id,
        "status": job.status,
        "created_at": _write_time(job.created_at),
        "started_at": _write_time(job.started_at),
        "finished_at": _write_time(job.finished_at),
        "execution_time_ms": duration,
        "outputs": json.loads(job.outputs) if job.outputs else None,
        "error": json.loads(job.error) if job.error else None,
        "warnings": json.loads(job.warnings) if job.warnings else [],
        "at": [] if ended else at if at is not None else progress.get("at", []),
        "nodes": progress.get("steps", []),
        "usage": {
            "prompt_tokens": progress.get("prompt_tokens", 0),
            "completion_tokens": progress.get("completion_tokens", 0),
            "retries": progress.get("retries", 0),
        },
    }


def _write_time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"
