# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One thread writes to an SQLite file, and everything that waits for it goes into one transaction (group commit).

A commit that waits for the disk is slow; under load one wait serves all writes of that moment. The start of a job is written
without that wait: it survives the end of the process at once, and a power cut from the next write that waits. With ``sync=full``
every other write waits. With ``sync=normal`` none does: a killed process loses nothing, a power cut the last moments, never the
file.

Threads that pass the interpreter's lock to and fro cost more than the writes. So the event loop hands over one batch at a time,
while the thread is idle, and the thread gives SQLite few, large statements.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from anvil_workflow.stores.jobs import ENDED, RUNNING, QueueFullError, StoreError

LARGEST_BATCH = 512
# A row with more characters is written by itself: within JSON it would be copied a dozen times.
LARGE_ROW = 64 * 1024

STARTED = "id, workflow, inputs, created_at, key, request, callback_url, status, owner, started_at, fence, attempts"
INSERT = f"INSERT INTO jobs ({STARTED})"
START_MANY = f"{INSERT} SELECT {', '.join(f'value->>{number}' for number in range(12))} FROM json_each(?)"
# A job that ended before it was written: the columns of its start, then those of its end.
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
START_ONE = f"{INSERT} VALUES ({', '.join('?' * 12)})"
END_ONE = (
    "UPDATE jobs SET status = ?3, finished_at = ?4, outputs = ?5, error = ?6, warnings = ?7, progress = ?8, owner = NULL,"
    " callback_at = CASE WHEN callback_url IS NULL THEN NULL ELSE ?4 END WHERE id = ?1 AND fence = ?2 AND status = 'running'"
)
SAVE_ONE = "UPDATE jobs SET progress = ?3, attempts = 1 WHERE id = ?1 AND fence = ?2 AND status = 'running'"
HELD_MANY = (
    "SELECT json_group_array(e.key) FROM json_each(?) AS e JOIN jobs ON jobs.id = e.value->>0 WHERE jobs.fence = e.value->>1"
)

Work = Callable[[sqlite3.Connection], Any]
Kind = Literal["start", "save", "end"]


@dataclass(slots=True)
class _Write:
    """A write that waits. kind, row: for those that are done many in one statement; else ``work`` does it."""

    kind: Kind | None
    row: Any
    work: Work | None
    future: asyncio.Future[Any]

    @property
    def is_large(self) -> bool:
        return sum(len(value) for value in self.row if isinstance(value, str)) > LARGE_ROW


class BatchWriter:
    """The thread and its connection. ``start`` and ``close`` are called on the event loop."""

    def __init__(self, path: Path, connection: sqlite3.Connection, sync: str) -> None:
        self.connection = connection
        self._path, self._sync, self._mode = path, sync, ""
        self._queue: queue.SimpleQueue[list[_Write]] = queue.SimpleQueue()
        self._waiting: list[_Write] = []
        self._busy = False
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self.set_sync(sync)

    def set_sync(self, mode: str) -> None:
        if mode != self._mode:
            self.connection.execute(f"PRAGMA synchronous = {mode}")
            self._mode = mode

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def close(self) -> None:
        """Write what waits, then end the thread and close the connection."""
        while self._busy or self._waiting:
            await asyncio.sleep(0.01)
        self._queue.put([])
        await asyncio.to_thread(self._thread.join)
        self.connection.close()

    async def write_row(self, kind: Kind, row: tuple[Any, ...]) -> Any:
        """Write the start, a save or the end of a job. Returns for the last two whether the job was still its owner's."""
        return await self._submit(kind, row, None)

    async def execute(self, work: Work) -> Any:
        """Call ``work`` with the connection, inside a transaction; returns what it returns."""
        return await self._submit(None, None, work)

    async def _submit(self, kind: Kind | None, row: Any, work: Work | None) -> Any:
        if not self._thread.is_alive():
            raise StoreError(f"{self._path} is closed")
        future = self._loop.create_future()
        self._waiting.append(_Write(kind, row, work, future))
        if not self._busy and len(self._waiting) == 1:
            # At the end of this turn of the loop: its other writes go into the same transaction.
            self._loop.call_soon(self._send_batch)
        return await future

    def _send_batch(self) -> None:
        if self._waiting and not self._busy:
            self._busy = True
            batch, self._waiting = self._waiting[:LARGEST_BATCH], self._waiting[LARGEST_BATCH:]
            self._queue.put(batch)

    def _settle(self, batch: list[_Write], answers: list[Any]) -> None:
        self._busy = False
        self._send_batch()
        for write, answer in zip(batch, answers, strict=True):
            if write.future.done():
                continue
            if isinstance(answer, Exception):
                write.future.set_exception(answer)
            else:
                write.future.set_result(answer)

    # --- in the thread

    def _work(self) -> None:
        """Batch after batch; an empty one ends the thread."""
        while batch := self._queue.get():
            answers = self._commit(batch)
            # The loop may be closed already when the process ends.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._settle, batch, answers)

    def _commit(self, batch: list[_Write]) -> list[Any]:
        """One transaction for all; an answer is a value, or the exception to raise."""
        connection = self.connection
        answers: list[Any] = [None] * len(batch)
        try:
            self.set_sync(self._sync if any(write.kind != "start" for write in batch) else "normal")
            connection.execute("BEGIN IMMEDIATE")
            left = self._write_whole_jobs(batch, answers)
            kinds: tuple[tuple[Kind, str, str], ...] = (
                ("start", START_MANY, START_ONE),
                ("save", SAVE_MANY, SAVE_ONE),
                ("end", END_MANY, END_ONE),
            )
            for kind, many, one in kinds:
                chosen = [number for number in left if batch[number].kind == kind]
                small = [number for number in chosen if not batch[number].is_large]
                for number in chosen:
                    if batch[number].is_large:
                        answers[number] = self._write_row(kind, one, batch[number])
                if small:
                    self._write_rows(kind, many, batch, small, answers)
            for number, write in enumerate(batch):
                if write.work is not None:
                    try:
                        answers[number] = write.work(connection)
                    except (QueueFullError, sqlite3.IntegrityError) as error:
                        answers[number] = error
            connection.execute("COMMIT")
        except (sqlite3.Error, OSError) as error:
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            return [StoreError(f"{self._path}: {error}")] * len(batch)
        return answers

    def _write_whole_jobs(self, batch: list[_Write], answers: list[Any]) -> list[int]:
        """Write the jobs that start and end in one batch, with half the pages; returns the positions that are left."""
        ends = {write.row[0]: number for number, write in enumerate(batch) if write.kind == "end"}
        whole = {
            number: ends[write.row[0]] for number, write in enumerate(batch) if write.kind == "start" and write.row[0] in ends
        }
        whole = {start: end for start, end in whole.items() if not (batch[start].is_large or batch[end].is_large)}
        if whole:
            rows = json.dumps([batch[start].row + batch[end].row for start, end in whole.items()])
            self.connection.execute(WHOLE_MANY, (rows,))
        for end in whole.values():
            answers[end] = True
        written = {*whole, *whole.values()}
        return [number for number in range(len(batch)) if number not in written]

    def _write_row(self, kind: Kind, statement: str, write: _Write) -> Any:
        row = tuple(value.encode("utf-8", "replace").decode() if isinstance(value, str) else value for value in write.row)
        if self.connection.execute(statement, row).rowcount == 1:
            return True if kind != "start" else None
        statuses = (RUNNING,) if kind == "save" else ENDED
        marks = ", ".join("?" for _unused in statuses)
        held = f"SELECT 1 FROM jobs WHERE id = ? AND fence = ? AND status IN ({marks})"
        return self.connection.execute(held, (*row[:2], *statuses)).fetchone() is not None

    def _write_rows(self, kind: Kind, statement: str, batch: list[_Write], chosen: list[int], answers: list[Any]) -> None:
        rows = json.dumps([batch[number].row for number in chosen])
        changed = self.connection.execute(statement, (rows,)).rowcount
        done = set(range(len(chosen)))
        if changed != len(chosen) and kind != "start":
            statuses = (RUNNING,) if kind == "save" else ENDED
            marks = ", ".join("?" for _unused in statuses)
            found = self.connection.execute(f"{HELD_MANY} AND jobs.status IN ({marks})", (rows, *statuses)).fetchone()
            done = set(json.loads(found[0]))
        for position, number in enumerate(chosen):
            answers[number] = position in done if kind != "start" else None
