# SPDX-License-Identifier: GPL-3.0-or-later
"""A folder that a container or another user can write, held by its descriptor: no link is followed below it, however it changes.

Every path below it is opened one component after the other, so that a folder that is replaced by a link in the meantime is an
error and never a way out. Links are followed only where the caller asks for it, and then only inside the folder.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from dataclasses import dataclass
from typing import BinaryIO, Iterator, List, NoReturn, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_files import KINDS, NotReadError

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
REGULAR = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
# The most links on the way to one file, as in the kernel.
LINK_LIMIT = 40
# Model folders have a few levels and a few hundred entries; a planted tree may have any number.
DEPTH_LIMIT, ENTRY_LIMIT = 64, 200_000
_RENAME_EXCHANGE = 2


class ForeignError(NotReadError):
    """Something below a folder is not what it must be: a link, a FIFO, a device, or a tree without end. It was not touched."""


class FolderItselfError(ForeignError):
    """A link leads to the folder itself, or to one of those on the way to it."""


@dataclass(frozen=True)
class ForeignEntry:
    """What a walk found. path: below the folder. regular: it is a regular file, and no link to one."""

    path: str
    seen: os.stat_result

    @property
    def regular(self) -> bool:
        return stat.S_ISREG(self.seen.st_mode)


def describe_kind(mode: int) -> str:
    if stat.S_ISLNK(mode):
        return "a link"
    return next((word for test, word in KINDS if test(mode)), "a regular file")


def refuse(path: str, why: str) -> ForeignError:
    hint = "look at it with ls -la, and remove it; mount the folder read-only into containers (:ro)"
    return ForeignError(Problem("the file is not touched, because it is not a plain file of its folder", path, why, hint))


def open_regular(name: str, folder: int, shown: str) -> BinaryIO:
    """A regular file of an opened folder, for reading. A link, FIFO, socket or device is refused and not opened."""
    if not hasattr(os, "O_PATH"):  # not Linux: a controller, where files are the operator's own
        seen = os.stat(name, dir_fd=folder, follow_symlinks=False)
        _require_regular(seen, shown)
        return os.fdopen(os.open(name, REGULAR | os.O_NOFOLLOW, dir_fd=folder), "rb")
    handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        _require_regular(os.fstat(handle), shown)
        return os.fdopen(os.open("/proc/self/fd/{0}".format(handle), REGULAR), "rb")
    finally:
        os.close(handle)


def _require_regular(seen: os.stat_result, shown: str) -> None:
    if not stat.S_ISREG(seen.st_mode):
        raise refuse(shown, "it is " + describe_kind(seen.st_mode))


def _split(path: str) -> List[str]:
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if path.startswith("/") or ".." in parts or "\0" in path:
        raise refuse(path, "the path leads out of the folder")
    return parts


def read_mount_number(handle: int) -> str:
    """The mount that a descriptor lies in; empty where the system does not say."""
    with contextlib.suppress(OSError), open("/proc/self/fdinfo/{0}".format(handle), encoding="ascii") as stream:
        return next((line.split()[1] for line in stream if line.startswith("mnt_id:")), "")
    return ""


class ForeignFolder:
    """An opened folder. Paths are below it, written with ``/``. Every method raises OSError as the system does, and
    ForeignError for what is not followed. It closes itself at the end of a ``with`` block.
    """

    def __init__(self, handle: int, path: str) -> None:
        self.handle, self.path = handle, path

    def __enter__(self) -> ForeignFolder:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        os.close(self.handle)

    def shown(self, path: str) -> str:
        return os.path.join(self.path, path) if path else self.path

    # ------------------------------------------------------------------------------------------------------ ways down

    def folder(self, path: str, create: bool = False) -> ForeignFolder:
        """A folder below this one. create: make those that are missing, mode 0755."""
        handle = os.dup(self.handle)
        try:
            done: List[str] = []
            for part in _split(path):
                done.append(part)
                if create:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=handle)
                below = self.enter(part, handle, "/".join(done))
                os.close(handle)
                handle = below
            return ForeignFolder(handle, self.shown(path))
        except BaseException:
            os.close(handle)
            raise

    def enter(self, part: str, handle: int, path: str) -> int:
        try:
            return os.open(part, FOLDER, dir_fd=handle)
        except OSError as exc:
            if exc.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
            seen = os.stat(part, dir_fd=handle, follow_symlinks=False)
            raise refuse(self.shown(path), "it is {0}, and must be a folder".format(describe_kind(seen.st_mode))) from exc

    @contextlib.contextmanager
    def parent(self, path: str, create: bool = False) -> Iterator[Tuple[int, str]]:
        """The descriptor of the folder of a path, and the last name of the path."""
        parts = _split(path)
        if not parts:
            raise refuse(self.path, "it is the folder itself")
        with self.folder("/".join(parts[:-1]), create) as found:
            yield found.handle, parts[-1]

    # ------------------------------------------------------------------------------------------------------- reading

    def look(self, path: str) -> Optional[os.stat_result]:
        """What lies at a path, a link as a link; None where nothing does."""
        try:
            with self.parent(path) as (handle, name):
                return os.stat(name, dir_fd=handle, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def open(self, path: str, links: bool = False) -> BinaryIO:
        """A regular file, for reading. links: follow links, as long as they stay inside this folder."""
        if links:
            with self._follow(path) as (handle, name):
                return open_regular(name, handle, self.shown(path))
        with self.parent(path) as (handle, name):
            return open_regular(name, handle, self.shown(path))

    def read(self, path: str, limit: int) -> Optional[bytes]:
        """The content of a regular file of at most ``limit`` bytes; None where there is no file."""
        try:
            with self.open(path) as stream:
                if os.fstat(stream.fileno()).st_size > limit:
                    raise refuse(self.shown(path), "it has more than {0:,} bytes".format(limit))
                return stream.read(limit)
        except FileNotFoundError:
            return None

    @contextlib.contextmanager
    def _follow(self, path: str) -> Iterator[Tuple[int, str]]:
        """As ``parent``, with every link on the way followed inside this folder: the last name is not a link.

        Below ``/`` a link may lead anywhere, but only if root or this user has made it.
        """
        whole = self.path == "/"
        stack, waiting, links = [os.dup(self.handle)], list(reversed(_split(path))), 0
        try:
            while waiting:
                part = waiting.pop()
                if part == "..":
                    if len(stack) > 1:
                        os.close(stack.pop())
                    elif not whole:
                        raise refuse(self.shown(path), "it is a link that leads out of {0}".format(self.path))
                    continue
                seen = os.stat(part, dir_fd=stack[-1], follow_symlinks=False)
                if stat.S_ISLNK(seen.st_mode):
                    links += 1
                    target = os.readlink(part, dir_fd=stack[-1])
                    if whole and seen.st_uid not in (0, os.geteuid()):
                        raise refuse(self.shown(path), "user {0} has made a link to {1} there".format(seen.st_uid, target))
                    if target.startswith("/"):
                        if not whole:
                            raise refuse(self.shown(path), "it is a link to {0}, out of {1}".format(target, self.path))
                        while len(stack) > 1:
                            os.close(stack.pop())
                    if links > LINK_LIMIT:
                        raise refuse(self.shown(path), "it is a link that leads in a circle")
                    waiting += [word for word in reversed(target.split("/")) if word not in ("", ".")]
                elif waiting:
                    stack.append(self.enter(part, stack[-1], path))
                else:
                    yield stack[-1], part
                    return
            raise FolderItselfError(*refuse(self.shown(path), "it is a link to a folder").problems)
        finally:
            for handle in stack:
                os.close(handle)

    def leads_to_folder(self, path: str) -> bool:
        """Whether a link leads to a folder, inside this one. Raises ForeignError where it leads out."""
        try:
            with self._follow(path) as (handle, name):
                return stat.S_ISDIR(os.stat(name, dir_fd=handle, follow_symlinks=False).st_mode)
        except FolderItselfError:
            return True

    def refuse(self, path: str, why: str) -> NoReturn:
        """Raise the error for what lies at a path and is not touched."""
        raise refuse(self.shown(path), why)

    def walk(self, depth: int = DEPTH_LIMIT, leave_out: Tuple[str, ...] = ()) -> Iterator[ForeignEntry]:
        """Everything below that is not a folder, in order of its path. leave_out: names of folders. Links are not followed.

        Raises ForeignError for a tree that is deeper than ``depth``, has more than ``ENTRY_LIMIT`` entries, or holds a mount.
        """
        waiting, count, own = [""], 0, read_mount_number(self.handle)
        while waiting:
            here = waiting.pop()
            try:
                opened = self.folder(here)
            except FileNotFoundError:
                continue  # removed meanwhile
            with opened:
                if read_mount_number(opened.handle) != own:
                    raise refuse(self.shown(here), "another file system is mounted there")
                below = []
                for name in self._list(opened.handle, ENTRY_LIMIT - count):
                    count += 1
                    path = here + "/" + name if here else name
                    try:
                        seen = os.stat(name, dir_fd=opened.handle, follow_symlinks=False)
                    except FileNotFoundError:
                        continue
                    if not stat.S_ISDIR(seen.st_mode):
                        yield ForeignEntry(path, seen)
                    elif name not in leave_out:
                        if path.count("/") >= depth:
                            raise refuse(self.shown(path), "folders lie in it more than {0} levels deep".format(depth))
                        below.append(path)
                waiting += reversed(below)

    def _list(self, handle: int, most: int) -> List[str]:
        names: List[str] = []
        with os.scandir(handle) as entries:
            for entry in entries:
                if len(names) >= most:
                    raise refuse(self.path, "more than {0:,} entries lie in it".format(ENTRY_LIMIT))
                names.append(entry.name)
        return sorted(names)

    # ------------------------------------------------------------------------------------------------------- changing

    def write(self, path: str, content: bytes, mode: int) -> None:
        """Write a file whole or not at all, through a new file beside it. What lies at the path is replaced, never followed."""
        with self.parent(path, create=True) as (handle, name):
            fresh = ".anvil-{0}".format(os.urandom(8).hex())
            made = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=handle)
            try:
                with os.fdopen(made, "wb") as stream:
                    os.fchmod(stream.fileno(), mode)
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
                os.rename(fresh, name, src_dir_fd=handle, dst_dir_fd=handle)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(fresh, dir_fd=handle)
                raise
            os.fsync(handle)

    def link(self, path: str, target: str) -> None:
        """Put a symbolic link at a path, in the place of what lies there."""
        with self.parent(path, create=True) as (handle, name):
            fresh = ".anvil-{0}".format(os.urandom(8).hex())
            os.symlink(target, fresh, dir_fd=handle)
            try:
                os.rename(fresh, name, src_dir_fd=handle, dst_dir_fd=handle)
            except BaseException:
                os.unlink(fresh, dir_fd=handle)
                raise

    def take_in(self, source: str, path: str) -> None:
        """Rename a file of ours to a path in this folder."""
        with self.parent(path, create=True) as (handle, name):
            os.rename(source, name, dst_dir_fd=handle)

    def give_link(self, path: str, target: str, opened: BinaryIO) -> None:
        """Make ``target`` a hard link to the file at a path, which is ``opened``: another file that was put there is refused."""
        with self.parent(path) as (handle, name):
            os.link(name, target, src_dir_fd=handle, follow_symlinks=False)
        linked, known = os.lstat(target), os.fstat(opened.fileno())
        if (linked.st_dev, linked.st_ino) != (known.st_dev, known.st_ino):
            os.unlink(target)
            raise refuse(self.shown(path), "it was replaced while it was read")

    def give_up(self, path: str, target: str) -> None:
        """Rename what lies at a path to ``target``, a path of ours that does not exist."""
        with self.parent(path) as (handle, name):
            os.rename(name, target, src_dir_fd=handle)

    def exchange(self, path: str, other: str) -> bool:
        """Exchange what lies at a path with ``other``, a path of ours, in one step (Linux 3.15, glibc 2.28).

        False where the system cannot.
        """
        try:
            call = ctypes.CDLL(None, use_errno=True).renameat2
        except (OSError, AttributeError):
            return False
        with self.parent(path) as (handle, name):
            return bool(call(-100, os.fsencode(other), handle, os.fsencode(name), _RENAME_EXCHANGE) == 0)


def open_folder(path: str) -> ForeignFolder:
    """The folder at an absolute path that the operator or the Docker Engine gave.

    Links on the way to it are followed where root or this user has made them: another user could lead us anywhere.
    """
    with ForeignFolder(os.open("/", FOLDER), "/") as top:
        words = os.path.normpath(path).strip("/")
        if not words:
            return top.folder("")
        with top._follow(words) as (handle, name):
            return ForeignFolder(top.enter(name, handle, words), path)
