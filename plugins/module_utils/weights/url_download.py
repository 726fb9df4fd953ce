# SPDX-License-Identifier: GPL-3.0-or-later
"""One file from a URL: over HTTP, resumed where an earlier run or a cut connection stopped, and checked by its sha256."""

from __future__ import annotations

import os
import time
from typing import Any, BinaryIO, Callable, Dict, Iterator

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.weights.checksums import hash_file
from ansible_collections.anvil.serving.plugins.module_utils.weights.fetch_errors import FetchError, build_fetch_error
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import ModelLocation
from ansible_collections.anvil.serving.plugins.module_utils.weights.source import FetchOptions, Source

ATTEMPTS = 6
ANSWER_SECONDS = 30.0
TEMPORARY_STATUSES = (408, 429, 500, 502, 503, 504)
FRUITLESS_ATTEMPTS = 3
PIECE = 1024 * 1024
LOGIN = (
    "the server requires a login",
    "anvil_model sends no login to a URL; copy the file to the host yourself and use copy_from",
)
GONE = ("the server has no such file", "check the address")
REFUSALS = {
    401: LOGIN,
    403: ("the server refuses the file", "check the address and whether this host may read it; or use copy_from"),
    404: GONE,
    410: GONE,
}
UNEXPECTED = ("the server does not answer as expected", "run again later: what was fetched is kept")


def _download_error(kind: str, url: str, why: str) -> FetchError:
    return build_fetch_error(kind, url, why, "the server")


def _wait_time(headers: Any, attempt: int) -> float:
    word = str((headers or {}).get("Retry-After", ""))
    return min(120.0, float(word)) if word.isdigit() else min(30.0, 2.0**attempt)


def _open_url(url: str, start: int, method: str = "GET") -> Any:
    """Open a URL from a byte on. Raises AnvilError for a refusal that is final, OSError for other failures."""
    from urllib.error import HTTPError

    from ansible.module_utils.urls import open_url

    headers = {"Range": "bytes={0}-".format(start)} if start else {}
    for attempt in range(ATTEMPTS):
        try:
            return open_url(
                url,
                method=method,
                headers=headers,
                timeout=ANSWER_SECONDS,
                http_agent="anvil.serving",
                decompress=False,
                follow_redirects="safe",
            )
        except HTTPError as exc:
            if exc.code in TEMPORARY_STATUSES and attempt < ATTEMPTS - 1:
                time.sleep(_wait_time(exc.headers, attempt))
                continue
            if method == "HEAD" and exc.code in (405, 501):
                return exc  # an answer, without a length
            if exc.code == 416:
                raise OSError("the file on the server is shorter than the part that is already here") from exc
            what, hint = REFUSALS.get(exc.code, UNEXPECTED)
            raise fail(what, where=url, why="HTTP {0}".format(exc.code), hint=hint) from exc
    raise AssertionError("not reached")


def read_url_size(url: str) -> int:
    """The size in bytes that the server announces; 0 where it does not say without sending the file."""
    try:
        with _open_url(url, 0, "HEAD") as answer:
            length = answer.headers.get("Content-Length")
    except OSError as exc:
        raise _download_error("offline", url, str(exc)) from exc
    return int(length) if length and length.isdigit() else 0


def _receive(answer: Any, stream: BinaryIO, url: str, timeout: float, deadline: float, tick: Callable[[], None]) -> Iterator[int]:
    """Write what comes to a file, and yield the bytes of each piece. Raises AnvilError at the deadline."""
    ticked = time.monotonic()
    while True:
        piece = answer.read1(PIECE)  # unlike read(), it returns what came before a cut
        if not piece:
            break
        stream.write(piece)
        yield len(piece)
        if time.monotonic() - ticked > 1:
            ticked = time.monotonic()
            tick()
            if ticked > deadline:
                raise _download_error("cut", url, "not finished within {0:g} s".format(timeout))
    stream.flush()
    os.fsync(stream.fileno())


def download_file(
    location: ModelLocation, source: Source, name: str, options: FetchOptions, tick: Callable[[], None]
) -> Dict[str, Dict[str, Any]]:
    """Fetch the file of a URL into the staging folder, as ``name``. Returns its size and sha256; raises AnvilError."""
    part, staged = os.path.join(location.staging, "part"), os.path.join(location.files, name)
    deadline, fruitless = time.monotonic() + options.timeout, 0
    while True:
        start = os.path.getsize(part) if os.path.exists(part) else 0
        done = start
        try:
            with _open_url(source.url, start) as answer:
                if start and answer.status != 206:
                    start = done = 0
                length = answer.headers.get("Content-Length")
                end = start + int(length) if length and length.isdigit() else None
                with open(part, "r+b" if start else "wb") as stream:
                    stream.seek(start)
                    for count in _receive(answer, stream, source.url, options.timeout, deadline, tick):
                        done += count
            if end is None or done >= end:
                break
            why = "{0} of {1} bytes arrived".format(done, end)
        except AnvilError:
            raise
        except Exception as exc:
            if getattr(exc, "errno", None) == 28:
                raise _download_error("disk", source.url, str(exc)) from exc
            why = "{0}: {1}".format(type(exc).__name__, exc)
            if "shorter than the part that is already here" in why:
                os.unlink(part)
        fruitless = fruitless + 1 if done <= start else 0
        if fruitless >= FRUITLESS_ATTEMPTS or time.monotonic() > deadline:
            raise _download_error("offline" if done == 0 else "cut", source.url, why)
        time.sleep(0.5)
    found = hash_file(part)
    if found != source.sha256:
        os.unlink(part)
        raise _download_error("sha256", source.url, "sha256 of the file is {0}, expected {1}".format(found, source.sha256))
    os.makedirs(location.files, exist_ok=True)
    os.rename(part, staged)
    return {name: {"size": os.path.getsize(staged), "sha256": found}}
