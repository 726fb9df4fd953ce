# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs in PostgreSQL, for several replicas: the replica that holds a job's lease runs it, and the fence keeps older owners out.

Leases use the clock of the database, so the clocks of the replicas need not agree. Every statement is a transaction of its own
and waits for the disk, unless the database is configured otherwise (``synchronous_commit``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg

from anvil_workflow.stores.jobs import (
    FIELDS,
    PENDING,
    RUNNING,
    SHOWN_PROGRESS,
    Ending,
    Job,
    NewJob,
    QueueFullError,
    StoreError,
    build_adopt_statement,
    build_list_columns,
    detach_job,
)

COLUMNS = ", ".join(FIELDS)
_SHOWN = ", ".join(f"'{name}', read.progress->'{name}'" for name in SHOWN_PROGRESS)
LIST_COLUMNS = build_list_columns(f"CASE WHEN read.progress IS NOT NULL THEN json_build_object({_SHOWN})::text END")
# Python writes numbers that are no JSON.
LIST = f"""
SELECT {LIST_COLUMNS} FROM (
  SELECT * FROM jobs WHERE ($1::text IS NULL OR status = $1) AND ($2::text IS NULL OR id < $2) ORDER BY id DESC LIMIT $3) AS jobs,
  LATERAL (SELECT CASE WHEN jobs.progress !~ 'NaN|Infinity' THEN jobs.progress::json END AS progress) AS read
ORDER BY id DESC
"""
PURGE_AT_ONCE = 500
CONNECTIONS = 8
SECONDS = 10.0
OPEN_SECONDS = 30.0
# asyncpg reports a connection that breaks in the middle of its protocol as an internal error of the client.
CLIENT_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
# The advisory lock under which one replica creates the tables while the others wait.
SCHEMA_LOCK = 0x616E76696C

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
  id text PRIMARY KEY, status text NOT NULL, workflow text NOT NULL, inputs text NOT NULL, created_at float8 NOT NULL,
  started_at float8, finished_at float8, outputs text, error text, warnings text, progress text, owner text,
  fence bigint NOT NULL DEFAULT 0, attempts int NOT NULL DEFAULT 0, key text, request text NOT NULL DEFAULT '',
  callback_url text, callback_tries int NOT NULL DEFAULT 0, callback_at float8, lease_until timestamptz
);
CREATE UNIQUE INDEX IF NOT EXISTS jobs_key ON jobs (key) WHERE key IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_open ON jobs (status, id) WHERE status IN ('pending', 'running');
CREATE INDEX IF NOT EXISTS jobs_ended ON jobs (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_callback ON jobs (callback_at) WHERE callback_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS beat (id int PRIMARY KEY, at float8 NOT NULL);
"""

INSERT = """
INSERT INTO jobs (id, workflow, inputs, created_at, key, request, callback_url, status, owner, started_at, fence, attempts,
                  lease_until)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10::float8, $11::bigint, $11::bigint,
       clock_timestamp() + $12::float8 * interval '1 second'
WHERE $8 <> 'pending' OR (SELECT count(*) FROM (SELECT 1 FROM jobs WHERE status = 'pending' LIMIT $13) AS queued) < $13
ON CONFLICT (key) WHERE key IS NOT NULL DO NOTHING
"""
CLAIM = f"""
UPDATE jobs SET status = 'running', owner = $1, fence = fence + 1, attempts = attempts + 1,
  started_at = coalesce(started_at, $2::float8), lease_until = clock_timestamp() + $3::float8 * interval '1 second'
WHERE id IN (
  SELECT id FROM jobs
  WHERE status = 'pending' OR (status = 'running' AND lease_until < clock_timestamp())
  ORDER BY id LIMIT $4 FOR UPDATE SKIP LOCKED)
RETURNING {COLUMNS}
"""
RENEW = """
UPDATE jobs SET lease_until = clock_timestamp() + $3::float8 * interval '1 second'
FROM unnest($1::text[], $2::bigint[]) AS held (id, fence)
WHERE jobs.id = held.id AND jobs.fence = held.fence AND status = 'running'
RETURNING jobs.id
"""
FINISH = """
UPDATE jobs SET status = $3, finished_at = $4::float8, outputs = $5, error = $6, warnings = $7, progress = $8, owner = NULL,
  lease_until = NULL, callback_at = CASE WHEN callback_url IS NULL THEN NULL ELSE $4::float8 END
WHERE id = $1 AND fence = $2 AND status = 'running'
"""


class PostgresStore:
    """A small pool of connections; a lost one is replaced at the next statement."""

    shared = True
    in_order = False

    def __init__(self, url: str, password: str, lease: float) -> None:
        self._url, self._password, self._lease = url, password, lease
        self._pool: Any = None

    async def open(self) -> None:
        """Connect, and wait for a database that is still starting."""
        deadline = time.monotonic() + OPEN_SECONDS
        while True:
            try:
                self._pool = await asyncpg.create_pool(
                    self._url,
                    password=self._password or None,
                    min_size=1,
                    max_size=CONNECTIONS,
                    timeout=5,
                    command_timeout=SECONDS,
                    server_settings={"application_name": "anvil_workflow"},
                )
                async with self._connected() as connection, connection.transaction():
                    await connection.execute("SELECT pg_advisory_xact_lock($1)", SCHEMA_LOCK)
                    await connection.execute(SCHEMA)
                return
            except (OSError, *CLIENT_ERRORS, StoreError, ValueError, TimeoutError) as error:
                # A new database creates the role of the servers after it has begun to answer.
                if time.monotonic() > deadline or isinstance(error, ValueError):
                    raise StoreError(f"PostgreSQL: {error or type(error).__name__}") from None
                await asyncio.sleep(0.5)

    async def close(self) -> None:
        if self._pool is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._pool.close(), 3)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        """A connection. Whatever breaks with it is an error of the store: the client itself fails in many ways when the database
        is killed in the middle of an exchange.
        """
        try:
            async with self._pool.acquire(timeout=SECONDS) as connection:
                yield connection
        except StoreError:
            raise
        except Exception as error:
            raise StoreError(f"PostgreSQL: {error or type(error).__name__}") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            # The client cancelled a statement in the background, and that ended with the connection: nobody cancelled this task.
            raise StoreError("PostgreSQL: the connection broke while a statement was being cancelled") from None

    async def _change(self, statement: str, *values: Any) -> int:
        """Run a statement; returns how many rows it changed."""
        async with self._connected() as connection:
            return int((await connection.execute(statement, *values)).rpartition(" ")[2])

    async def _fetch(self, statement: str, *values: Any) -> list[Any]:
        async with self._connected() as connection:
            rows: list[Any] = await connection.fetch(statement, *values)
            return rows

    # --- jobs

    async def submit(self, job: NewJob, owner: str | None, queue: int) -> Job | None:
        status, started, fence = (RUNNING, job.created_at, 1) if owner else (PENDING, None, 0)
        values = (job.id, job.workflow, job.inputs, job.created_at, job.key, job.request, job.callback_url)
        if await self._change(INSERT, *values, status, owner, started, fence, self._lease, queue):
            return None
        older = await self.find_key(job.key) if job.key is not None else None
        if older is None:
            raise QueueFullError
        # An earlier attempt of ours stored it, and its answer was lost: the job is new.
        return None if older.id == job.id else older

    async def claim(self, owner: str, count: int) -> list[Job]:
        rows = await self._fetch(CLAIM, owner, time.time(), self._lease, count)
        return sorted((Job(*row) for row in rows), key=lambda job: job.id)

    async def renew(self, owner: str, held: list[tuple[str, int]]) -> set[str]:
        ids = [job for job, _unused in held]
        kept = await self._fetch(RENEW, ids, [fence for _unused, fence in held], self._lease)
        return set(ids) - {row[0] for row in kept}

    async def save(self, job: str, fence: int, progress: str) -> bool:
        statement = "UPDATE jobs SET progress = $3, attempts = 1 WHERE id = $1 AND fence = $2 AND status = 'running'"
        return bool(await self._change(statement, job, fence, progress))

    async def finish(self, ending: Ending) -> bool:
        end = ending
        values = (end.id, end.fence, end.status, end.finished_at, end.outputs, end.error, end.warnings, end.progress)
        if await self._change(FINISH, *values):
            return True
        # It may be a repetition, and the answer to the first attempt was lost with its connection.
        found = await self.get(end.id)
        return found is not None and (found.fence, found.status) == (end.fence, end.status)

    async def release(self, job: str, fence: int) -> None:
        await self._change(
            "UPDATE jobs SET status = 'pending', owner = NULL, fence = fence + 1, attempts = greatest(0, attempts - 1),"
            " lease_until = NULL WHERE id = $1 AND fence = $2 AND status = 'running'",
            job,
            fence,
        )

    async def cancel(self, job: str) -> bool:
        statement = (
            "UPDATE jobs SET status = 'cancelled', owner = NULL, fence = fence + 1, finished_at = $2::float8, lease_until = NULL,"
            " callback_at = CASE WHEN callback_url IS NULL THEN NULL ELSE $2::float8 END"
            " WHERE id = $1 AND status IN ('pending', 'running')"
        )
        return bool(await self._change(statement, job, time.time()))

    async def delete(self, job: str) -> bool:
        return bool(await self._change("DELETE FROM jobs WHERE id = $1 AND finished_at IS NOT NULL", job))

    async def purge(self, before: float) -> int:
        statement = "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE finished_at < $1 LIMIT $2)"
        deleted = 0
        while count := await self._change(statement, before, PURGE_AT_ONCE):
            deleted += count
        return deleted

    async def get(self, job: str) -> Job | None:
        rows = await self._fetch(f"SELECT {COLUMNS} FROM jobs WHERE id = $1", job)
        return Job(*rows[0]) if rows else None

    async def find_key(self, key: str) -> Job | None:
        rows = await self._fetch(f"SELECT {COLUMNS} FROM jobs WHERE key = $1", key)
        return Job(*rows[0]) if rows else None

    async def list_jobs(self, status: str | None, before: str | None, count: int) -> list[Job]:
        return [Job(*row) for row in await self._fetch(LIST, status, before, count)]

    async def list_whole_jobs(self, count: int) -> list[Job]:
        return [Job(*row) for row in await self._fetch(f"SELECT {COLUMNS} FROM jobs ORDER BY id DESC LIMIT $1", count)]

    async def count(self) -> dict[str, int]:
        rows = await self._fetch("SELECT status, count(*) FROM jobs WHERE status IN ('pending', 'running') GROUP BY status")
        return {PENDING: 0, RUNNING: 0, **{row[0]: row[1] for row in rows}}

    async def claim_callbacks(self, now: float, until: float, count: int) -> list[Job]:
        statement = (
            "UPDATE jobs SET callback_at = $2, callback_tries = callback_tries + 1 WHERE id IN"
            " (SELECT id FROM jobs WHERE callback_at <= $1 LIMIT $3 FOR UPDATE SKIP LOCKED)"
            f" RETURNING {COLUMNS}"
        )
        return [Job(*row) for row in await self._fetch(statement, now, until, count)]

    async def settle_callback(self, job: str, again: float | None) -> None:
        await self._change("UPDATE jobs SET callback_at = $2 WHERE id = $1", job, again)

    async def adopt(self, jobs: list[Job]) -> int:
        rows = [tuple(detach_job(job).__dict__[name] for name in FIELDS) for job in jobs]
        async with self._connected() as connection, connection.transaction():
            before = await connection.fetchval("SELECT count(*) FROM jobs WHERE id = ANY($1::text[])", [job.id for job in jobs])
            await connection.executemany(build_adopt_statement("$"), rows)
        return len(jobs) - int(before)

    async def forget(self, ids: list[str]) -> None:
        await self._change("DELETE FROM jobs WHERE id = ANY($1::text[])", ids)

    async def flush(self) -> None:
        """Nothing to do: every commit has waited for the disk."""

    async def check(self) -> None:
        statement = "INSERT INTO beat (id, at) VALUES (1, $1) ON CONFLICT (id) DO UPDATE SET at = excluded.at"
        await self._change(statement, time.time())
