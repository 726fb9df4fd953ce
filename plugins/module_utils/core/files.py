# SPDX-License-Identifier: GPL-3.0-or-later
"""Files and locks on this host. A file is compared before it is written, and written whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from typing import Iterator, List, Optional

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail


def _failure(action: str, path: str, exc: OSError) -> AnvilError:
    return fail(
        "cannot {0} {1}".format(action, path),
        where=path,
        why=exc.strerror or str(exc),
        hint=_HINTS.get(exc.errno or 0, ""),
    )


_HINTS = {
    13: "set become: true, or set anvil_root to a folder that this user may write to",
    28: "free space on that file system (df -h shows it), then run again; no half-written file is left",
    30: "set anvil_root to a folder on a writable file system: this one is mounted read-only",
}


def read_file(path: str) -> Optional[str]:
    """The text of a file, or ``None`` where there is none."""
    try:
        with open(path, encoding="utf-8") as handle:
            return handle.read()
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise _failure("read", path, exc) from exc


def differs(path: str, content: str, mode: int, owner: Optional[int] = None) -> bool:
    """Whether writing ``content`` with ``mode`` would change anything. owner: a uid; None for any owner."""
    if read_file(path) != content:
        return True
    stat = os.stat(path)
    return (stat.st_mode & 0o777) != mode or owner not in (None, stat.st_uid)


def write_file(path: str, content: str, mode: int, owner: Optional[int] = None, group: Optional[int] = None) -> None:
    """Write atomically: a temporary file in the same folder, fsynced, then one rename; then the folder is fsynced.

    A process killed at any line leaves the old file or the new one. The file has its mode and owner from the first byte on.
    owner, group: a uid and a gid; without a group it has the number of the owner.
    """
    folder = os.path.dirname(path)
    temporary = ""
    try:
        os.makedirs(folder, mode=0o755, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=folder, prefix=".anvil-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            os.fchmod(handle.fileno(), mode)
            if owner is not None:
                os.fchown(handle.fileno(), owner, owner if group is None else group)
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.rename(temporary, path)
        folder_handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(folder_handle)
        finally:
            os.close(folder_handle)
    except OSError as exc:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise _failure("write", path, exc) from exc


def list_files(folder: str) -> List[str]:
    """The files of a folder, by path; none where there is no such folder."""
    try:
        return sorted(entry.path for entry in os.scandir(folder) if entry.is_file())
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise _failure("read", folder, exc) from exc


def remove_file(path: str) -> None:
    """Remove a file; absence is success."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise _failure("remove", path, exc) from exc


@contextlib.contextmanager
def hold_lock(folder: str, timeout: float) -> Iterator[int]:
    """Hold the lock of a folder, so that two runs never converge one project at the same time.

    Yields the descriptor that holds the lock. The kernel frees it when the last process with this descriptor ends: a child that
    inherits the descriptor holds the lock too. timeout: seconds to wait for another holder.
    """
    path = os.path.join(folder, ".lock")
    with hold_file(path, "another run is converging this project", timeout) as handle:
        yield handle


@contextlib.contextmanager
def hold_file(path: str, what: str, timeout: float, group: Optional[int] = None) -> Iterator[int]:
    """As ``hold_lock``, for this file. No other user can open it, and so hold it, but those of ``group``.

    what: the message of the error when the lock is not free within ``timeout`` seconds.
    """
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
        if group is not None and os.fstat(handle).st_uid == os.geteuid() and os.fstat(handle).st_mode & 0o777 != 0o660:
            os.fchown(handle, -1, group)
            os.fchmod(handle, 0o660)
    except OSError as exc:
        raise _failure("lock", path, exc) from exc
    with _hold(handle, path, what, timeout):
        yield handle


@contextlib.contextmanager
def hold_folder(folder: str, what: str, timeout: float) -> Iterator[int]:
    """As ``hold_lock``, but the folder itself is the lock: nothing is written, and the right to read the folder is enough.

    what: the message of the error when the lock is not free within ``timeout`` seconds.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as exc:
        raise _failure("lock", folder, exc) from exc
    with _hold(handle, folder, what, timeout):
        yield handle


@contextlib.contextmanager
def _hold(handle: int, path: str, what: str, timeout: float) -> Iterator[None]:
    try:
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= deadline:
                    raise fail(
                        what,
                        where=path,
                        why="its lock was not free for {0:.0f} s".format(timeout),
                        hint="wait for the other run to end, then run again; to find its process: lslocks --notruncate",
                    ) from None
                time.sleep(0.2)
        yield
    finally:
        os.close(handle)
