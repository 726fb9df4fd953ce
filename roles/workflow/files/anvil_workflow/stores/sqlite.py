# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs in an SQLite file, for one server. A killed process loses nothing that was answered; nor does a power cut, with
``sync=full``.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import sqlite3
import time
from pathlib import Path
from typing import Any

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
from anvil_workflow.stores.sqlite_batches import HELD_MANY, INSERT, BatchWriter

COLUMNS = ", ".join(FIELDS)
_SHOWN = ", ".join(f"'{name}', json_extract(progress, '$.{name}')" for name in SHOWN_PROGRESS)
LIST_COLUMNS = build_list_columns(f"CASE WHEN json_valid(progress) THEN json_object({_SHOWN}) END")
LOCK_WAIT = 20.0

SCHEMA = """
CREATE TABLE jobs (
  id TEXT PRIMARY KEY, status TEXT NOT NULL, workflow TEXT NOT NULL, inputs TEXT NOT NULL, created_at REAL NOT NULL,
  started_at REAL, finished_at REAL, outputs TEXT, error TEXT, warnings TEXT, progress TEXT, owner TEXT,
  fence INTEGER NOT NULL DEFAULT 0, attempts INTEGER NOT NULL DEFAULT 0, key TEXT, request TEXT NOT NULL DEFAULT '',
  callback_url TEXT, callback_tries INTEGER NOT NULL DEFAULT 0, callback_at REAL
) WITHOUT ROWID;
CREATE UNIQUE INDEX jobs_key ON jobs (key) WHERE key IS NOT NULL;
CREATE INDEX jobs_open ON jobs (status, id) WHERE status IN ('pending', 'running');
CREATE INDEX jobs_ended ON jobs (finished_at) WHERE finished_at IS NOT NULL;
CREATE INDEX jobs_callback ON jobs (callback_at) WHERE callback_at IS NOT NULL;
CREATE TABLE beat (id INTEGER PRIMARY KEY, at REAL NOT NULL);
PRAGMA user_version = 1;
"""


class SqliteStore:
    """One process at a time: the lock beside the file belongs to the operating system, so it ends with its process."""

    shared = False
    in_order = True

    def __init__(self, path: str, sync: str = "full") -> None:
        self._path, self._sync = Path(path), sync
        self._writer: BatchWriter | None = None
        self._lock = -1

    # --- open and close

    async def open(self) -> None:
        await self._take_lock()
        try:
            connection = self._connect()
            writer = BatchWriter(self._path, connection, self._sync)
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                connection.executescript("BEGIN IMMEDIATE;" + SCHEMA + "COMMIT;")
            elif version != 1:
                raise StoreError(
                    f"{self._path} was written by a newer version ({version}): deploy that version, or move the file away"
                )
            # The lock was free, so no process runs these any more.
            connection.execute("UPDATE jobs SET status = 'pending', fence = fence + 1, owner = NULL WHERE status = 'running'")
            self._reader = self._connect()
            self._reader.execute("PRAGMA query_only = ON")
        except sqlite3.Error as error:
            os.close(self._lock)
            raise StoreError(f"{self._path}: {error}") from None
        writer.start()
        self._writer = writer

    async def _take_lock(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._path.with_name(self._path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"{error.filename}: {error.strerror}") from None
        deadline = time.monotonic() + LOCK_WAIT
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except OSError:
                if time.monotonic() > deadline:
                    os.close(self._lock)
                    what = f"{self._path} is in use by another server"
                    raise StoreError(f"{what}: stop that server, or use PostgreSQL for several replicas") from None
                await asyncio.sleep(0.1)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=5, cached_statements=64)
        connection.execute("PRAGMA journal_mode = WAL")
        return connection

    async def close(self) -> None:
        if self._writer is None:
            return
        writer, self._writer = self._writer, None
        await writer.close()
        self._reader.close()
        os.close(self._lock)

    @property
    def writer(self) -> BatchWriter:
        if self._writer is None:
            raise StoreError(f"{self._path} is closed")
        return self._writer

    def _read(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        """Read on the event loop's own thread: in WAL mode a reader never waits, and a row costs microseconds."""
        try:
            return self._reader.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from None

    # --- jobs

    async def submit(self, job: NewJob, owner: str | None, queue: int) -> Job | None:
        stored = (RUNNING, owner, job.created_at, 1, 1) if owner else (PENDING, None, None, 0, 0)
        row = (job.id, job.workflow, job.inputs, job.created_at, job.key, job.request, job.callback_url, *stored)
        if owner is not None and job.key is None:
            await self.writer.write_row("start", row)
            return None

        def insert(connection: sqlite3.Connection) -> Job | None:
            if job.key is not None:
                older = connection.execute(f"SELECT {COLUMNS} FROM jobs WHERE key = ?", (job.key,)).fetchone()
                if older is not None:
                    return Job(*older)
            if owner is None:
                waiting = "SELECT count(*) FROM (SELECT 1 FROM jobs WHERE status = 'pending' LIMIT ?)"
                if connection.execute(waiting, (queue,)).fetchone()[0] >= queue:
                    raise QueueFullError
            connection.execute(f"{INSERT} VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            return None

        older: Job | None = await self.writer.execute(insert)
        return older

    async def claim(self, owner: str, count: int) -> list[Job]:
        def take(connection: sqlite3.Connection) -> list[Job]:
            rows = connection.execute(
                "UPDATE jobs SET status = 'running', owner = ?, fence = fence + 1, attempts = attempts + 1,"
                " started_at = coalesce(started_at, ?)"
                " WHERE id IN (SELECT id FROM jobs WHERE status = 'pending' ORDER BY id LIMIT ?)"
                f" RETURNING {COLUMNS}",
                (owner, time.time(), count),
            ).fetchall()
            return sorted((Job(*row) for row in rows), key=lambda job: job.id)

        if not self._read("SELECT 1 FROM jobs WHERE status = 'pending' LIMIT 1"):
            return []
        taken: list[Job] = await self.writer.execute(take)
        return taken

    async def renew(self, owner: str, held: list[tuple[str, int]]) -> set[str]:
        """Only cancelled jobs are lost: the file has one process, so no other replica can take them."""
        found = self._read(f"{HELD_MANY} AND jobs.status = 'running'", (json.dumps(held),))
        kept = set(json.loads(found[0][0]))
        return {job for position, (job, _unused) in enumerate(held) if position not in kept}

    async def save(self, job: str, fence: int, progress: str) -> bool:
        return bool(await self.writer.write_row("save", (job, fence, progress)))

    async def finish(self, ending: Ending) -> bool:
        end = ending
        row = (end.id, end.fence, end.status, end.finished_at, end.outputs, end.error, end.warnings, end.progress)
        return bool(await self.writer.write_row("end", row))

    async def release(self, job: str, fence: int) -> None:
        statement = (
            "UPDATE jobs SET status = 'pending', owner = NULL, fence = fence + 1, attempts = max(0, attempts - 1)"
            " WHERE id = ? AND fence = ? AND status = 'running'"
        )
        await self.writer.execute(lambda connection: connection.execute(statement, (job, fence)).rowcount)

    async def cancel(self, job: str) -> bool:
        statement = (
            "UPDATE jobs SET status = 'cancelled', owner = NULL, fence = fence + 1, finished_at = ?,"
            " callback_at = CASE WHEN callback_url IS NULL THEN NULL ELSE ? END"
            " WHERE id = ? AND status IN ('pending', 'running')"
        )
        now = time.time()
        return bool(await self.writer.execute(lambda connection: connection.execute(statement, (now, now, job)).rowcount))

    async def delete(self, job: str) -> bool:
        statement = "DELETE FROM jobs WHERE id = ? AND finished_at IS NOT NULL"
        return bool(await self.writer.execute(lambda connection: connection.execute(statement, (job,)).rowcount))

    async def purge(self, before: float) -> int:
        # In pieces: one long transaction would delay every request.
        statement = "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE finished_at < ? LIMIT 500)"
        deleted = 0
        while self._read("SELECT 1 FROM jobs WHERE finished_at < ? LIMIT 1", (before,)):
            deleted += await self.writer.execute(lambda connection: connection.execute(statement, (before,)).rowcount)
        return deleted

    async def get(self, job: str) -> Job | None:
        rows = self._read(f"SELECT {COLUMNS} FROM jobs WHERE id = ?", (job,))
        return Job(*rows[0]) if rows else None

    async def find_key(self, key: str) -> Job | None:
        rows = self._read(f"SELECT {COLUMNS} FROM jobs WHERE key = ?", (key,))
        return Job(*rows[0]) if rows else None

    async def list_jobs(self, status: str | None, before: str | None, count: int) -> list[Job]:
        clauses, values = ["1"], list[Any]()
        for clause, value in (("status = ?", status), ("id < ?", before)):
            if value is not None:
                clauses.append(clause)
                values.append(value)
        where = " AND ".join(clauses)
        rows = self._read(f"SELECT {LIST_COLUMNS} FROM jobs WHERE {where} ORDER BY id DESC LIMIT ?", (*values, count))
        return [Job(*row) for row in rows]

    async def list_whole_jobs(self, count: int) -> list[Job]:
        return [Job(*row) for row in self._read(f"SELECT {COLUMNS} FROM jobs ORDER BY id DESC LIMIT ?", (count,))]

    async def count(self) -> dict[str, int]:
        """Pending and running jobs only: to count the ended ones costs a scan."""
        open_jobs = "SELECT status, count(*) FROM jobs WHERE status IN ('pending', 'running') GROUP BY status"
        return {PENDING: 0, RUNNING: 0, **dict(self._read(open_jobs))}

    async def claim_callbacks(self, now: float, until: float, count: int) -> list[Job]:
        if not self._read("SELECT 1 FROM jobs WHERE callback_at <= ? LIMIT 1", (now,)):
            return []

        def take(connection: sqlite3.Connection) -> list[Job]:
            rows = connection.execute(
                "UPDATE jobs SET callback_at = ?, callback_tries = callback_tries + 1"
                f" WHERE id IN (SELECT id FROM jobs WHERE callback_at <= ? LIMIT ?) RETURNING {COLUMNS}",
                (until, now, count),
            )
            return [Job(*row) for row in rows.fetchall()]

        taken: list[Job] = await self.writer.execute(take)
        return taken

    async def settle_callback(self, job: str, again: float | None) -> None:
        statement = "UPDATE jobs SET callback_at = ? WHERE id = ?"
        await self.writer.execute(lambda connection: connection.execute(statement, (again, job)).rowcount)

    async def adopt(self, jobs: list[Job]) -> int:
        rows = [tuple(detach_job(job).__dict__[name] for name in FIELDS) for job in jobs]
        statement = build_adopt_statement("?")
        return int(await self.writer.execute(lambda connection: connection.executemany(statement, rows).rowcount))

    async def forget(self, ids: list[str]) -> None:
        await self.writer.execute(
            lambda connection: connection.executemany("DELETE FROM jobs WHERE id = ?", [(one,) for one in ids]).rowcount
        )

    async def flush(self) -> None:
        await self.check()

    async def check(self) -> None:
        statement = "INSERT INTO beat (id, at) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET at = excluded.at"
        await self.writer.execute(lambda connection: connection.execute(statement, (time.time(),)).rowcount)
