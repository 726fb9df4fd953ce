"""The job store's promises on SQLite; tests/integration checks the same promises on PostgreSQL."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from anvil_workflow.stores import sqlite
from anvil_workflow.stores.job_move import PAGE, move_jobs
from anvil_workflow.stores.jobs import Job, Store, StoreError, new_job_id
from anvil_workflow.stores.postgres import PostgresStore
from anvil_workflow.stores.sqlite import SqliteStore
from workflowstore import PROMISES, end, keep, make_job


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_sqlite_keeps_each_promise(promise: Callable[[Store], Awaitable[None]], tmp_path: Path) -> None:
    keep(promise, SqliteStore(str(tmp_path / "jobs.sqlite")))


def test_a_new_server_resumes_the_jobs_of_the_previous_one(tmp_path: Path) -> None:
    async def go() -> None:
        first = SqliteStore(str(tmp_path / "jobs.sqlite"))
        await first.open()
        job = make_job()
        await first.submit(job, "a", 10)
        await first.save(job.id, 1, '{"at": ["x"]}')
        await first.close()
        second = SqliteStore(str(tmp_path / "jobs.sqlite"))
        await second.open()
        (taken,) = await second.claim("b", 5)
        assert (taken.id, taken.fence, taken.progress, taken.attempts) == (job.id, 3, '{"at": ["x"]}', 2)
        await second.close()

    asyncio.run(go())


def test_only_one_server_at_a_time_opens_the_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "LOCK_WAIT", 0.2)

    async def go() -> None:
        first, second = (SqliteStore(str(tmp_path / "jobs.sqlite")) for _unused in range(2))
        await first.open()
        with pytest.raises(StoreError, match="in use by another server"):
            await second.open()
        await first.close()
        await second.open()
        await second.close()

    asyncio.run(go())


def test_an_unusable_database_is_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.sqlite"
    broken.write_bytes(b"no database at all" * 100)
    newer = tmp_path / "newer.sqlite"
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 9")
    (tmp_path / "file").touch()
    for path, words in (
        (broken, "not a database"),
        (newer, "newer version"),
        (tmp_path / "file" / "x.sqlite", "Not a directory|exists"),
    ):
        with pytest.raises(StoreError, match=words):
            asyncio.run(SqliteStore(str(path)).open())


def test_writes_that_wait_for_the_thread_share_a_transaction(tmp_path: Path) -> None:
    async def go(store: SqliteStore) -> None:
        await asyncio.gather(*(store.submit(make_job(), "a", 10) for _unused in range(200)))
        assert len(await store.list_jobs("running", None, 300)) == 200

    assert count_commits(tmp_path, go) < 20


def test_a_job_that_ends_before_it_is_written_is_written_once(tmp_path: Path) -> None:
    async def go(store: SqliteStore) -> None:
        job = make_job()
        assert await asyncio.gather(store.submit(job, "a", 10), store.finish(end(job, 1))) == [None, True]
        kept = await store.get(job.id)
        assert kept is not None and (kept.status, kept.outputs) == ("completed", '{"x": 1}')

    assert count_commits(tmp_path, go) == 1


def count_commits(folder: Path, work: Callable[[SqliteStore], Awaitable[None]]) -> int:
    """Return the number of transactions that the work takes."""

    async def go() -> int:
        store = SqliteStore(str(folder / "jobs.sqlite"))
        await store.open()
        commits = 0

        def count(statement: str) -> None:
            nonlocal commits
            commits += statement == "COMMIT"

        store.writer.connection.set_trace_callback(count)
        await work(store)
        await store.close()
        return commits

    return asyncio.run(go())


def test_ids_sort_by_time_and_do_not_repeat() -> None:
    ids = [new_job_id() for _unused in range(5000)]
    assert len(set(ids)) == 5000 and [one[:12] for one in ids] == sorted(one[:12] for one in ids)
    assert all(len(one) == 32 for one in ids)


def test_an_interrupted_move_neither_loses_nor_duplicates_a_job(tmp_path: Path) -> None:
    class Breaking(SqliteStore):
        breaks = "adopt"

        async def adopt(self, jobs: list[Job]) -> int:
            if self.breaks == "adopt":
                raise StoreError("the disk is full")
            return await super().adopt(jobs)

        async def forget(self, ids: list[str]) -> None:
            if self.breaks == "forget":
                raise StoreError("the power went")
            await super().forget(ids)

    async def go() -> None:
        source, target = Breaking(str(tmp_path / "a" / "jobs.sqlite")), Breaking(str(tmp_path / "b" / "jobs.sqlite"))
        source.breaks = target.breaks = ""
        jobs = [make_job() for _unused in range(450)]
        for store in (source, target):
            await store.open()
        for job in jobs:
            await source.submit(job, None, 1000)
        for broken, where in ((target, "adopt"), (source, "forget")):
            broken.breaks = where
            with pytest.raises(StoreError):
                await move_jobs(source, target)
            broken.breaks = ""
        assert await move_jobs(source, target) == 450 - PAGE
        found = [job.id for status in ("pending",) for job in await target.list_jobs(status, None, 1000)]
        assert sorted(found) == sorted(job.id for job in jobs) and await source.list_jobs(None, None, 10) == []
        await source.close()
        await target.close()

    asyncio.run(go())


class BreakingPool:
    """A pool whose connections break as those of asyncpg do when the database is killed: it raises what it is given."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    @contextlib.asynccontextmanager
    async def acquire(self, timeout: float) -> AsyncIterator[Any]:
        yield self
        await asyncio.sleep(0)
        raise self.error

    async def fetch(self, *_words: Any) -> list[Any]:
        return []


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("reset by peer"),
        asyncpg.InternalClientError("PoolConnectionHolder.release() called on a free connection holder"),
        asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
        AttributeError("'NoneType' object has no attribute 'write'"),
        TimeoutError(),
        asyncio.CancelledError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_killed_database_does_to_the_client_is_an_error_of_the_store(error: BaseException) -> None:
    async def go() -> None:
        store = PostgresStore("postgresql://nowhere", "", 15)
        store._pool = BreakingPool(error)
        with pytest.raises(StoreError, match=r"^PostgreSQL: "):
            await store.get("0" * 32)

    asyncio.run(go())


def test_a_task_that_is_cancelled_stays_cancelled() -> None:
    async def go() -> None:
        store = PostgresStore("postgresql://nowhere", "", 15)

        class Waiting(BreakingPool):
            async def fetch(self, *_words: Any) -> list[Any]:
                await asyncio.sleep(60)
                return []

        store._pool = Waiting(OSError())
        task = asyncio.create_task(store.get("0" * 32))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(go())
