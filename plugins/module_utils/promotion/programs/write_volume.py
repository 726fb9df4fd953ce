# SPDX-License-Identifier: GPL-3.0-or-later
"""The one program that writes into a volume: ``python3 -c SOURCE ROOT IDLE_SECONDS SCRATCH``.

It reads requests as ``<length>\\n<json>`` from its standard input and answers each with one line of JSON. A request that is cut
short changes nothing. Paths are relative to the volume and never leave it; nothing is passed to a shell. Every change becomes
visible by one rename and is synced to the disk before the answer.

It ends with 0 when its standard input closes, and with 3 after ``IDLE_SECONDS`` without a request.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import json
import os
import select
import shutil
import stat
import sys
import time
from typing import Any, BinaryIO, Callable, Dict, Mapping, Optional, Sequence, Set


def receive(size: int, idle: float) -> bytes:
    """Exactly this many bytes of the standard input; otherwise the program ends."""
    data = b""
    while len(data) < size:
        if not select.select([0], [], [], idle)[0]:
            raise SystemExit(3)
        piece = os.read(0, min(size - len(data), 65536))
        if not piece:
            raise SystemExit(0)
        data += piece
    return data


def receive_request(idle: float) -> bytes:
    head = b""
    while not head.endswith(b"\n"):
        head += receive(1, idle)
    return receive(int(head), idle)


def check_path(path: str) -> str:
    """The path, if it stays inside the volume. Raises ValueError."""
    parts = path.split("/")
    if not path or "\0" in path or path[0] == "/" or any(part in ("", ".", "..") for part in parts):
        raise ValueError("not a path inside the volume: {0!r}".format(path))
    return path


def decode_content(name: str, item: Mapping[str, Any]) -> bytes:
    """The bytes of a file in a request (content, length, sha256). Raises ValueError where they were altered on the way."""
    content = base64.b64decode(item["content"], validate=True)
    if len(content) != item["length"] or hashlib.sha256(content).hexdigest() != item["sha256"]:
        raise ValueError("{0} arrived altered: {1} bytes, {2} were announced".format(name, len(content), item["length"]))
    return content


def parent_of(path: str) -> str:
    return os.path.dirname(path) or "."


def sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: str) -> None:
    if path != "." and not os.path.isdir(path):
        make_folder(parent_of(path))
        os.mkdir(path, 0o755)
        sync_folder(parent_of(path))


def delete(path: str) -> None:
    """Delete a file, a symlink or a whole folder; absence is success."""
    if os.path.islink(path) or os.path.isfile(path):
        os.unlink(path)
    elif os.path.isdir(path):
        shutil.rmtree(path)


def open_plain(path: str) -> BinaryIO:
    """A regular file, for reading. Raises OSError for a link, and for a FIFO, which would wait for a writer."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError("{0} is no regular file".format(path))
    return os.fdopen(handle, "rb")


def write_new_file(path: str, content: bytes, owner: Optional[int] = None) -> None:
    """Write, sync and read back a file that does not exist yet. owner: the only user (a uid) who may read it; None: all may."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644 if owner is None else 0o600)
    try:
        if owner is not None:
            os.fchown(handle, owner, owner)
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)
    with open_plain(path) as stream:
        if stream.read() != content:
            raise OSError("{0} reads back differently from what was written".format(path))


def holds_exactly(folder: str, contents: Mapping[str, bytes]) -> bool:
    """Whether a folder holds these files with these contents, and no other file."""
    try:
        found: Set[str] = set()
        for below, _folders, names in os.walk(folder):
            found.update(os.path.relpath(os.path.join(below, name), folder) for name in names)
        if found != set(contents):
            return False
        for name, content in contents.items():
            with open_plain(folder + "/" + name) as stream:
                if stream.read(len(content) + 1) != content:
                    return False
    except OSError:
        return False
    return True


class VolumeFiles:
    """Changes the files below the working directory. Unfinished ones lie in the folder ``scratch``.

    spare: a file that is deleted for room when the volume is full; empty before ``reserve``.
    """

    def __init__(self, scratch: str) -> None:
        self.scratch = scratch
        self.spare = ""

    def scratch_path(self, path: str) -> str:
        """A free path in the scratch folder for what will be at ``path``."""
        make_folder(self.scratch)
        free = self.scratch + "/" + path.replace("/", "+")
        delete(free)
        return free

    def put_file(self, path: str, item: Mapping[str, Any]) -> None:
        content = decode_content(path, item)
        unfinished = self.scratch_path(path)
        make_folder(parent_of(path))
        write_new_file(unfinished, content)
        os.rename(unfinished, path)
        sync_folder(parent_of(path))

    def put_folder(self, path: str, files: Mapping[str, Mapping[str, Any]], private: Sequence[str] = (), owner: int = 0) -> None:
        """Put a folder with exactly these files; one that holds them already is left alone. private: for ``owner`` only."""
        contents = {check_path(name): decode_content(name, item) for name, item in files.items()}
        if holds_exactly(path, contents):
            return
        unfinished = self.scratch_path(path)
        make_folder(parent_of(path))
        os.mkdir(unfinished, 0o755)
        for name, content in contents.items():
            make_folder(parent_of(unfinished + "/" + name))
            write_new_file(unfinished + "/" + name, content, owner if name in private else None)
        for folder, _folders, _names in os.walk(unfinished):
            sync_folder(folder)
        if os.path.lexists(path):
            old = self.scratch_path(path + ".aside")
            os.rename(path, old)
            os.rename(unfinished, path)
            delete(old)
        else:
            os.rename(unfinished, path)
        sync_folder(parent_of(path))

    def put_link(self, path: str, target: str) -> None:
        prepared = self.prepared_path(path)
        if os.path.islink(prepared) and os.readlink(prepared) == target and os.path.isdir(parent_of(path)):
            unfinished = prepared
        else:
            unfinished = self.scratch_path(path)
            make_folder(parent_of(path))
            os.symlink(target, unfinished)
        os.rename(unfinished, path)
        sync_folder(parent_of(path))

    def prepared_path(self, path: str) -> str:
        return self.scratch + "/back+" + path.replace("/", "+")

    def reserve(self, path: str, size: int, links: Mapping[str, str]) -> None:
        """Reserve what later requests need on a full volume: a file of this size to delete, and the links to rename.

        Random bytes, because some file systems store no zeros. One that is there already is kept, however full the volume is.
        """
        if not os.path.isfile(path) or os.path.getsize(path) < size:
            delete(path)
            try:
                write_new_file(path, os.urandom(size))
            except OSError:
                delete(path)
                raise
            sync_folder(parent_of(path))
        self.spare = path
        for link, target in links.items():
            self.with_spare(self.prepare_link, check_path(link), target)

    def prepare_link(self, path: str, target: str) -> None:
        make_folder(self.scratch)
        delete(self.prepared_path(path))
        os.symlink(target, self.prepared_path(path))
        sync_folder(self.scratch)

    def with_spare(self, act: Callable[..., None], *arguments: Any) -> None:
        """Carry out a change; if the volume is full, delete the spare file and try once more."""
        try:
            act(*arguments)
        except OSError as exc:
            if exc.errno not in (errno.ENOSPC, errno.EDQUOT) or not (self.spare and os.path.isfile(self.spare)):
                raise
            os.unlink(self.spare)
            with contextlib.suppress(OSError):
                sync_folder(parent_of(self.spare))
            act(*arguments)

    def remove(self, path: str) -> None:
        """Remove a file, a symlink or a folder in one step; absence is success."""
        if self.scratch.startswith(path + "/") or os.path.islink(path) or os.path.isfile(path):
            delete(path)
            sync_folder(parent_of(path))
        elif os.path.lexists(path):
            old = self.scratch_path(path)
            os.rename(path, old)
            sync_folder(parent_of(path))
            delete(old)

    def carry_out(self, request: Mapping[str, Any]) -> Dict[str, Any]:
        """Carry out one request; the answer holds the clock (seconds since the epoch)."""
        action = request["action"]
        if action == "put_file":
            self.with_spare(self.put_file, check_path(request["path"]), request["file"])
        elif action == "put_folder":
            private, owner = request.get("private") or (), request.get("owner") or 0
            self.with_spare(self.put_folder, check_path(request["path"]), request["files"], private, owner)
        elif action == "put_link":
            self.with_spare(self.put_link, check_path(request["path"]), request["target"])
        elif action == "reserve":
            self.reserve(check_path(request["path"]), request["size"], request["links"])
        elif action == "remove":
            self.remove(check_path(request["path"]))
        elif action == "sweep":
            delete(self.scratch)
        elif action != "read_clock":
            raise ValueError("unknown action {0!r}".format(action))
        return {"now": time.time()}


def main(root: str, idle: str, scratch: str) -> None:
    os.chdir(root)
    os.umask(0o022)
    volume = VolumeFiles(scratch)
    while True:
        request = receive_request(float(idle))
        try:
            answer = volume.carry_out(json.loads(request.decode("utf-8")))
        except (OSError, ValueError, KeyError, TypeError) as exc:
            answer = {"error": "{0}: {1}".format(type(exc).__name__, exc)}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
