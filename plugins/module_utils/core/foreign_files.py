# SPDX-License-Identifier: GPL-3.0-or-later
"""Read files that a container or another user can write: regular files only, never more bytes than asked for, never a wait.

A planted FIFO, socket or device never blocks the reader. A symbolic link that leads out of ``inside`` is refused.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import BinaryIO, Iterator, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail

KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)
# The most entries that are listed below one folder. The hub cache of 1,000 models has fewer.
ENTRY_LIMIT = 200_000


class NotReadError(AnvilError):
    """A file was not read, so nothing is known of its content. It says nothing against the content."""


def unreadable_file(path: str, exc: OSError) -> NotReadError:
    """The error for a file that the system does not let us read."""
    hint = "check the path and its permissions: ls -l " + path
    return NotReadError(Problem("cannot read a file", path, exc.strerror or str(exc), hint))


def _refused(path: str, why: str) -> NotReadError:
    hint = "look at it with ls -l, and remove it: no download of weights leaves such a file behind"
    return NotReadError(Problem("the file is not read, because it is not a plain file of its folder", path, why, hint))


def _open_descriptor(path: str, inside: Optional[str]) -> int:
    """A descriptor of a regular file. Nothing else is opened for reading, so no device does anything and no FIFO waits."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    if not hasattr(os, "O_PATH"):  # not Linux: a controller, where files are the operator's own
        _check(path, os.stat(path), os.path.realpath(path), inside)
        return os.open(path, flags)
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        name = "/proc/self/fd/{0}".format(handle)
        _check(path, os.fstat(handle), os.readlink(name), inside)
        return os.open(name, flags)
    finally:
        os.close(handle)


def _check(path: str, seen: os.stat_result, location: str, inside: Optional[str]) -> None:
    if not stat.S_ISREG(seen.st_mode):
        kind = next((word for test, word in KINDS if test(seen.st_mode)), "no regular file")
        raise _refused(path, "it is " + kind)
    if inside is not None and not is_inside(location, os.path.realpath(inside)):
        raise _refused(path, "it is a link to {0}, outside {1}".format(location, inside))


def is_inside(path: str, folder: str) -> bool:
    """Whether ``path`` is ``folder`` or lies below it, by the words of both paths."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def open_file(path: str, inside: Optional[str] = None) -> Tuple[BinaryIO, int]:
    """A regular file, opened for reading, and its size in bytes. Links are followed, but not out of the folder ``inside``.

    Raises AnvilError for a file that cannot be read, or is not regular.
    """
    try:
        handle = _open_descriptor(path, inside)
        return os.fdopen(handle, "rb"), os.fstat(handle).st_size
    except OSError as exc:
        raise unreadable_file(path, exc) from exc


def read_bytes(path: str, limit: int, inside: Optional[str] = None) -> bytes:
    """The content of a regular file of at most ``limit`` bytes. Raises AnvilError."""
    stream, size = open_file(path, inside)
    with stream:
        if size > limit:
            why = "it has {0:,} bytes, and at most {1:,} are read".format(size, limit)
            hint = "fetch the file again, or choose another model: such files are much smaller"
            raise NotReadError(Problem("the file is too large to be read", path, why, hint))
        try:
            return stream.read(size) or b""  # a file of /proc has size 0 and may have no end
        except OSError as exc:
            raise unreadable_file(path, exc) from exc


def walk_folder(folder: str, depth: int) -> Iterator[Tuple[str, Tuple[str, ...]]]:
    """Each folder with the names of its regular files (or links to them), down to ``depth`` levels below ``folder``.

    Links to folders are not followed, and folders whose name begins with a dot are left out. Raises AnvilError where there are
    more than ``ENTRY_LIMIT`` entries; a folder below that cannot be read is left out.
    """
    waiting, seen = [(folder, 0)], 0
    while waiting:
        here, level = waiting.pop()
        names, folders = [], []
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    seen += 1
                    if seen > ENTRY_LIMIT:
                        raise fail(
                            "the folder holds too many files",
                            where=folder,
                            why="it has more than {0:,} entries".format(ENTRY_LIMIT),
                            hint="name a folder that holds models only",
                        )
                    with contextlib.suppress(OSError):  # a link that leads in a circle
                        if entry.is_dir(follow_symlinks=False):
                            if level < depth and not entry.name.startswith("."):
                                folders.append(entry.path)
                        elif entry.is_file():
                            names.append(entry.name)
        except OSError as exc:
            if here == folder:
                raise unreadable_file(folder, exc) from exc
        waiting += [(path, level + 1) for path in sorted(folders, reverse=True)]
        yield here, tuple(sorted(names))
