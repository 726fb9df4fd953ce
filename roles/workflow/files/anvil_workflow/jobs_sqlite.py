# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs in an SQLite file of one server: a thread that writes, and whatever waits for it goes into one transaction.

A commit that waits for the disk costs; under load one wait serves all requests of that moment (group commit). A new
job is written without that wait: it survives the end of the process at once, and a power cut from ``flush`` on, or from
the next write that waits, which is any other. So with ``sync=full`` a power cut loses nothing that was answered. With
``sync=normal`` nothing waits: a killed process still loses nothing, a power cut the last moments, never the file.

Threads that pass the interpreter's lock to and fro cost more than the writes. So the loop hands over one batch at a time,
while the thread is idle, and the thread hands SQLite few, large statements.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .jobs import ENDED, FIELDS, PENDING, RUNNING, Ending, Job, NewJob, QueueFullError, StoreError, hand_over, write_adoption

COLUMNS = ", ".join(FIELDS)
LOCK_WAIT = 20.0
LARGEST_BATCH = 512

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

STARTED = "id, workflow, inputs, created_at, key, request, callback_url, status, owner, started_at, fence, attempts"
INSERT = f"INSERT INTO jobs ({STARTED})"
START_MANY = f"{INSERT} SELECT {', '.join(f'value->>{number}' for number in range(12))} FROM json_each(?)"
# A job that has ended before it is written: as its start has it, then as its end has it.
WHOLE_MANY = (
    f"INSERT INTO jobs ({STARTED}, finished_at, outputs, error, warnings, progress, callback_at)"
    f" SELECT {', '.join(f'value->>{number}' for number in range(7))}, value->>14, NULL,"
    f" {', '.join(f'value->>{number}' for number in (9, 10, 11, *range(15, 20)))},"
    " CASE WHEN value->>6 IS NULL THEN NULL ELSE value->>15 END FROM json_each(?)"
)
END_MANY = (
    "UPDATE jobs SET status = e.value->>2, finished_at = e.value->>3, outputs = e.value->>4, error = e.value->>5,"
    " warnings = e.value->>6, progress = e.value->>7, owner = NULL,"
    " callback_at = CASE WHEN callback_url IS NULL THEN NULL ELSE e.value->>3 END"
    " FROM json_each(?) AS e WHERE jobs.id = e.value->>0 AND jobs.fence = e.value->>1 AND jobs.status = 'running'"
)
SAVE_MANY = (
    "UPDATE jobs SET progress = e.value->>2, attempts = 1"
    " FROM json_each(?) AS e WHERE jobs.id = e.value->>0 AND jobs.fence = e.value->>1 AND jobs.status = 'running'"
)
HELD_MANY = (
    "SELECT json_group_array(e.key) FROM json_each(?) AS e JOIN jobs ON jobs.id = e.value->>0 WHERE jobs.fence = e.value->>1"
)

Work = Callable[[sqlite3.Connection], Any]


class _Ask:
    """Something for the thread. kind: start, save or end are done many at a time; else ``work`` does it."""

    __slots__ = ("future", "kind", "row", "work")

    def __init__(self, kind: str, row: Any, work: Work | None, future: asyncio.Future[Any]) -> None:
        self.kind, self.row, self.work, self.future = kind, row, work, future


class SqliteStore:
    """One process at a time: the lock beside the file is the operating system's, so it ends with its process."""

    shared = False
    in_order = True

    def __init__(self, path: str, sync: str = "full") -> None:
        self._path, self._sync = Path(path), sync
        self._queue: queue.SimpleQueue[list[_Ask]] = queue.SimpleQueue()
        self._gathered: list[_Ask] = []
        self._busy = False
        self._thread: threading.Thread | None = None
        self._lock = -1
        self._mode = ""

    # --- open and close

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._take_lock()
        try:
            self._writer = self._connect()
            self._set_sync(self._sync)
            version = self._writer.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                self._writer.executescript("BEGIN IMMEDIATE;" + SCHEMA + "COMMIT;")
            elif version != 1:
                raise StoreError(
                    f"{self._path} was written by a newer version ({version}): deploy that version, or move the file"
                )
            # Whoever ran these is gone: the lock was free.
            self._writer.execute("UPDATE jobs SET status = 'pending', fence = fence + 1, owner = NULL WHERE status = 'running'")
            self._reader = self._connect()
            self._reader.execute("PRAGMA query_only = ON")
        except sqlite3.Error as error:
            os.close(self._lock)
            raise StoreError(f"{self._path}: {error}") from None
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._thread.start()

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
                    raise StoreError(f"{what}: stop it, or use PostgreSQL for several replicas") from None
                await asyncio.sleep(0.1)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=5, cached_statements=64)
        connection.execute("PRAGMA journal_mode = WAL")
        return connection

    async def close(self) -> None:
        if self._thread is None:
            return
        while self._busy or self._gathered:
            await asyncio.sleep(0.01)
        self._queue.put([])
        await asyncio.to_thread(self._thread.join)
        self._thread = None
        self._reader.close()
        self._writer.close()
        os.close(self._lock)

    # --- the thread

    def _work(self) -> None:
        """Batch after batch; an empty one ends the thread."""
        while asks := self._queue.get():
            answers = self._commit(asks)
            # The loop may be closed already when the process ends.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._settle, asks, answers)

    def _hand_over(self) -> None:
        if self._gathered and not self._busy:
            self._busy = True
            batch, self._gathered = self._gathered[:LARGEST_BATCH], self._gathered[LARGEST_BATCH:]
            self._queue.put(batch)

    def _settle(self, asks: list[_Ask], answers: list[Any]) -> None:
        self._busy = False
        self._hand_over()
        for ask, answer in zip(asks, answers, strict=True):
            if ask.future.done():
                continue
            if isinstance(answer, Exception):
                ask.future.set_exception(answer)
            else:
                ask.future.set_result(answer)

    def _commit(self, asks: list[_Ask]) -> list[Any]:
        """One transaction for all; an answer is a value, or the exception to raise."""
        connection = self._writer
        answers: list[Any] = [None] * len(asks)
        try:
            self._set_sync(self._sync if any(ask.kind != "start" for ask in asks) else "normal")
            connection.execute("BEGIN IMMEDIATE")
            left = self._write_whole(connection, asks, answers)
            for kind, statement in (("start", START_MANY), ("save", SAVE_MANY), ("end", END_MANY)):
                chosen = [number for number in left if asks[number].kind == kind]
                if chosen:
                    self._do_many(connection, kind, statement, asks, chosen, answers)
            for number, ask in enumerate(asks):
                if ask.work is not None:
                    try:
                        answers[number] = ask.work(connection)
                    except (QueueFullError, sqlite3.IntegrityError) as error:
                        answers[number] = error
            connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            return [StoreError(f"{self._path}: {error}")] * len(asks)
        return answers

    def _set_sync(self, mode: str) -> None:
        if mode != self._mode:
            self._writer.execute(f"PRAGMA synchronous = {mode}")
            self._mode = mode

    @staticmethod
    def _write_whole(connection: sqlite3.Connection, asks: list[_Ask], answers: list[Any]) -> list[int]:
        """Write the jobs that start and end in one batch, with half the pages; returns the asks that are left."""
        ends = {ask.row[0]: number for number, ask in enumerate(asks) if ask.kind == "end"}
        whole = {number: ends[ask.row[0]] for number, ask in enumerate(asks) if ask.kind == "start" and ask.row[0] in ends}
        if whole:
            connection.execute(WHOLE_MANY, (json.dumps([asks[start].row + asks[end].row for start, end in whole.items()]),))
        for end in whole.values():
            answers[end] = True
        written = {*whole, *whole.values()}
        return [number for number in range(len(asks)) if number not in written]

    @staticmethod
    def _do_many(
        connection: sqlite3.Connection, kind: str, statement: str, asks: list[_Ask], chosen: list[int], answers: list[Any]
    ) -> None:
        rows = json.dumps([asks[number].row for number in chosen])
        changed = connection.execute(statement, (rows,)).rowcount
        done = set(range(len(chosen)))
        if changed != len(chosen) and kind != "start":
            wanted = (RUNNING,) if kind == "save" else ENDED
            marks = ", ".join("?" for _unused in wanted)
            found = connection.execute(f"{HELD_MANY} AND jobs.status IN ({marks})", (rows, *wanted)).fetchone()
            done = set(json.loads(found[0]))
        for position, number in enumerate(chosen):
            answers[number] = position in done if kind != "start" else None

    async def _ask(self, kind: str, row: Any, work: Work | None = None) -> Any:
        if self._thread is None or not self._thread.is_alive():
            raise StoreError(f"{self._path} is closed")
        future = self._loop.create_future()
        self._gathered.append(_Ask(kind, row, work, future))
        if not self._busy and len(self._gathered) == 1:
            # At the end of this turn of the loop: what else it brings goes into the same transaction.
            self._loop.call_soon(self._hand_over)
        return await future

    async def _do(self, work: Work) -> Any:
        return await self._ask("work", None, work)

    def _read(self, statement: str, words: tuple[Any, ...] = ()) -> list[Any]:
        """On the loop's own thread: readers wait for nobody in WAL mode, and a row costs microseconds."""
        try:
            return self._reader.execute(statement, words).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: {error}") from None

    # --- jobs

    async def submit(self, job: NewJob, owner: str | None, queue: int) -> Job | None:
        stored = (RUNNING, owner, job.created_at, 1, 1) if owner else (PENDING, None, None, 0, 0)
        row = (job.id, job.workflow, job.inputs, job.created_at, job.key, job.request, job.callback_url, *stored)
        if owner is not None and job.key is None:
            await self._ask("start", row)
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

        older: Job | None = await self._do(insert)
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
        taken: list[Job] = await self._do(take)
        return taken

    async def renew(self, owner: str, held: list[tuple[str, int]]) -> set[str]:
        """Nobody else can take them: the file has one process. A cancelled job is still found out."""
        found = self._read(f"{HELD_MANY} AND jobs.status = 'running'", (json.dumps(held),))
        kept = set(json.loads(found[0][0]))
        return {job for position, (job, _unused) in enumerate(held) if position not in kept}

    async def save(self, job: str, fence: int, progress: str) -> bool:
        return bool(await self._ask("save", (job, fence, progress)))

    async def finish(self, ending: Ending) -> bool:
        end = ending
        row = (end.id, end.fence, end.status, end.finished_at, end.outputs, end.error, end.warnings, end.progress)
        return bool(await self._ask("end", row))

    async def release(self, job: str, fence: int) -> None:
        statement = (
            "UPDATE jobs SET status = 'pending', owner = NULL, fence = fence + 1, attempts = max(0, attempts - 1)"
            " WHERE id = ? AND fence = ? AND status = 'running'"
        )
        await self._do(lambda connection: connection.execute(statement, (job, fence)).rowcount)

    async def cancel(self, job: str) -> bool:
        statement = (
            "UPDATE jobs SET status = 'cancelled', owner = NULL, fence = fence + 1, finished_at = ?,"
            " callback_at = CASE WHEN callback_url IS NULL THEN NULL ELSE ? END"
            " WHERE id = ? AND status IN ('pending', 'running')"
        )
        now = time.time()
        return bool(await self._do(lambda connection: connection.execute(statement, (now, now, job)).rowcount))

    async def delete(self, job: str) -> bool:
        statement = "DELETE FROM jobs WHERE id = ? AND finished_at IS NOT NULL"
        return bool(await self._do(lambda connection: connection.execute(statement, (job,)).rowcount))

    async def purge(self, before: float) -> int:
        # In pieces: one long transaction would hold up every request.
        statement = "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE finished_at < ? LIMIT 500)"
        gone = 0
        while self._read("SELECT 1 FROM jobs WHERE finished_at < ? LIMIT 1", (before,)):
            gone += await self._do(lambda connection: connection.execute(statement, (before,)).rowcount)
        return gone

    async def get(self, job: str) -> Job | None:
        rows = self._read(f"SELECT {COLUMNS} FROM jobs WHERE id = ?", (job,))
        return Job(*rows[0]) if rows else None

    async def find_key(self, key: str) -> Job | None:
        rows = self._read(f"SELECT {COLUMNS} FROM jobs WHERE key = ?", (key,))
        return Job(*rows[0]) if rows else None

    async def list_jobs(self, status: str | None, before: str | None, count: int) -> list[Job]:
        clauses, words = ["1"], list[Any]()
        for clause, word in (("status = ?", status), ("id < ?", before)):
            if word is not None:
                clauses.append(clause)
                words.append(word)
        where = " AND ".join(clauses)
        rows = self._read(f"SELECT {COLUMNS} FROM jobs WHERE {where} ORDER BY id DESC LIMIT ?", (*words, count))
        return [Job(*row) for row in rows]

    async def count(self) -> dict[str, int]:
        """Open jobs and, of those that ended, none: their number says nothing and costs a scan."""
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

        taken: list[Job] = await self._do(take)
        return taken

    async def settle_callback(self, job: str, again: float | None) -> None:
        statement = "UPDATE jobs SET callback_at = ? WHERE id = ?"
        await self._do(lambda connection: connection.execute(statement, (again, job)).rowcount)

    async def adopt(self, jobs: list[Job]) -> int:
        rows = [tuple(hand_over(job).__dict__[name] for name in FIELDS) for job in jobs]
        statement = write_adoption("?")
        return int(await self._do(lambda connection: connection.executemany(statement, rows).rowcount))

    async def forget(self, ids: list[str]) -> None:
        await self._do(
            lambda connection: connection.executemany("DELETE FROM jobs WHERE id = ?", [(one,) for one in ids]).rowcount
        )

    async def flush(self) -> None:
        await self.check()

    async def check(self) -> None:
        statement = "INSERT INTO beat (id, at) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET at = excluded.at"
        await self._do(lambda connection: connection.execute(statement, (time.time(),)).rowcount)
