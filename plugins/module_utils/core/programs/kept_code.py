# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs a module with code that this host keeps, so that the code is not sent and compiled again in every task.

The code lies in ``~/.ansible/anvil-serving`` of the user that runs the module: one zip file for each version of the code and of
Python, with the sources and what Python compiled them to. It is written under another name, synced to the disk and renamed, so a
file with its final name is whole. A run holds a shared lock on the file that it uses, and only a file without a lock is removed.
Where the code is not kept, or cannot be, the program says so in one line of JSON and runs nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pwd
import stat
import sys
import time
from typing import Dict, Tuple

# The key of the answer where the module did not run: "absent" (send the sources) or "unusable" (send the module as Ansible does).
ANSWER = "anvil_kept_code"
FOLDERS = (".ansible", "anvil-serving")
# Name of a file that is not complete yet.
UNFINISHED = "unfinished-"
# Seconds: how long another run may take to write the code; how old the time of last use may be; how long unused code is kept.
LOCK_TIMEOUT, USE_RECORDED, UNUSED = 10.0, 600.0, 30 * 86400.0
# At most so many files are kept; each has about 5 MB.
KEPT = 8


class UntrustedError(Exception):
    """Someone else could change the code in this place."""


def require_own(path: str, found: os.stat_result, kind: int, owners: Tuple[int, ...]) -> None:
    """Raise UntrustedError unless it is of this kind (not a symlink) and only its owner, one of these, can write to it."""
    if stat.S_IFMT(found.st_mode) != kind:
        raise UntrustedError(f"{path} is not of the expected kind (mode {found.st_mode:o})")
    if found.st_uid not in owners or found.st_mode & 0o022:
        raise UntrustedError(f"{path} can be changed by others (owner {found.st_uid}, mode {stat.S_IMODE(found.st_mode):04o})")


def find_folder(create: bool) -> str:
    """The folder with the kept code. Raises UntrustedError, and OSError where it does not exist or cannot be created."""
    user = os.geteuid()
    path = pwd.getpwuid(user).pw_dir
    require_own(path, os.lstat(path), stat.S_IFDIR, (user, 0))
    for name in FOLDERS:
        path = os.path.join(path, name)
        if create:
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
        require_own(path, os.lstat(path), stat.S_IFDIR, (user,))
    return path


def lock_for_use(path: str) -> int:
    """Open a file with code and keep it from being removed until this process ends. Raises UntrustedError and OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    require_own(path, os.fstat(descriptor), stat.S_IFREG, (os.geteuid(),))
    fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    found = os.fstat(descriptor)
    if not found.st_nlink:
        raise FileNotFoundError(path)
    if time.time() - found.st_mtime > USE_RECORDED:
        with contextlib.suppress(OSError):
            os.utime(descriptor)
    return descriptor


def keep_code(folder: str, name: str, sources: str) -> None:
    """Write the code, unless it is there already. sources: a zip file in base64. Raises OSError."""
    import base64  # here and below: a run that finds the code does not wait for these imports

    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        wait_for_lock(lock)
        path = os.path.join(folder, name)
        if not is_whole(path):
            for entry in os.listdir(folder):
                if entry.startswith(UNFINISHED):
                    os.unlink(os.path.join(folder, entry))
            unfinished = os.path.join(folder, UNFINISHED + name)
            try:
                write_archive(unfinished, path, unpack_sources(base64.b64decode(sources), name.partition("-")[0]))
                os.replace(unfinished, path)
            finally:
                with contextlib.suppress(OSError):
                    os.unlink(unfinished)
        remove_unused(folder, name)
    finally:
        os.close(lock)


def wait_for_lock(descriptor: int) -> None:
    """Only one run at a time writes to the folder. Raises BlockingIOError if another one takes too long."""
    deadline = time.monotonic() + LOCK_TIMEOUT
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def is_whole(path: str) -> bool:
    """Whether a file is there and every checksum in it is right."""
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False


def unpack_sources(packed: bytes, code: str) -> Dict[str, bytes]:
    """The files of a zip file. Raises ValueError unless their sha256 is this one: the collection may change during a run."""
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        sources = {name: archive.read(name) for name in archive.namelist()}
    if hash_sources(sources) != code:
        raise ValueError("the collection has changed since this run began")
    return sources


def hash_sources(sources: Dict[str, bytes]) -> str:
    """The sha256 over the name and the content of every file, in the order of the names."""
    import hashlib

    digest = hashlib.sha256()
    for name, content in sorted(sources.items()):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def write_archive(path: str, final: str, sources: Dict[str, bytes]) -> None:
    """Write the sources and their compiled code to a new file, and sync it. final: the name that tracebacks will show."""
    import zipfile

    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as stream:
        with zipfile.ZipFile(stream, "w") as archive:
            for name, source in sources.items():
                archive.writestr(zipfile.ZipInfo(name), source)
                with contextlib.suppress(SyntaxError):  # for a newer Python; it may never be imported
                    archive.writestr(zipfile.ZipInfo(name + "c"), compile_source(source, f"{final}/{name}"))
        stream.flush()
        os.fsync(stream.fileno())


def compile_source(source: bytes, path: str) -> bytes:
    """The content of a .pyc file that Python does not compare with its source (PEP 552)."""
    import importlib.util
    import marshal

    code = compile(source, path, "exec", dont_inherit=True)
    return importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + importlib.util.source_hash(source) + marshal.dumps(code)


def remove_unused(folder: str, name: str) -> None:
    """Remove code that was not used for long, and all but the files that were used last. Code in use stays."""
    others = [entry for entry in os.scandir(folder) if entry.name.endswith(".zip") and entry.name != name]
    others.sort(key=lambda entry: entry.stat(follow_symlinks=False).st_mtime, reverse=True)
    for number, entry in enumerate(others, 2):
        if number > KEPT or time.time() - entry.stat(follow_symlinks=False).st_mtime > UNUSED:
            with contextlib.suppress(OSError):
                descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(entry.path)
                finally:
                    os.close(descriptor)


def leave_current_folder() -> None:
    """As Ansible does before it runs a module: a current folder that can be read, and no imports from it."""
    try:
        os.getcwd()
    except OSError:
        try:
            os.chdir(os.path.expanduser("~"))
        except OSError:
            os.chdir("/")
    own = os.path.dirname(os.path.realpath(__file__)) if "__file__" in globals() else ""
    sys.path[:] = [path for path in sys.path if path not in ("", ".", own)]


def main(code: str, module: str, parameters: str, profile: str, sources: str = "") -> None:
    """Run a module. code: sha256 of the sources; they are given where the host lacked them before."""
    leave_current_folder()
    try:
        folder, name = find_folder(bool(sources)), f"{code}-{sys.implementation.cache_tag}.zip"
        if sources:
            keep_code(folder, name, sources)
        path = os.path.join(folder, name)
        lock_for_use(path)
        sys.path.insert(0, path)
        from ansible.module_utils._internal._ansiballz import _loader

        if not str(_loader.__file__).startswith(path):  # Python skips a damaged file; the host may have an Ansible of its own
            raise ImportError(f"{path} is damaged")
    except Exception as exc:  # whatever it is, the module runs all the same
        retry = not sources and not isinstance(exc, UntrustedError)
        answer = {ANSWER: "absent" if retry else "unusable", "why": f"{type(exc).__name__}: {exc}"}
        sys.stdout.write(json.dumps(answer) + "\n")
    else:
        _loader.run_module(json_params=parameters.encode(), profile=profile, module_fqn=module, modlib_path=path, extensions={})
