# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a folder, an archive or a single file of this machine: list them, open them, copy them into a model."""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import re
import stat
import tarfile
import time
import zipfile
import zlib
from typing import Any, Callable, Dict, Iterator, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_folder import ForeignFolder, describe_kind, open_folder
from ansible_collections.anvil.serving.plugins.module_utils.weights.checksums import hash_stream, read_pieces
from ansible_collections.anvil.serving.plugins.module_utils.weights.fetch_errors import build_fetch_error
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import ModelLocation
from ansible_collections.anvil.serving.plugins.module_utils.weights.manifest import MANIFEST
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_record import OLD_STAGING, find_anchor
from ansible_collections.anvil.serving.plugins.module_utils.weights.source import Source, check_file_name

try:
    from lzma import LZMAError
except ImportError:  # a Python that was built without it cannot open such an archive either
    LZMAError = EOFError  # type: ignore[misc,assignment]

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")

SNAPSHOT = re.compile(r"(?P<repository>.*/models--[^/]+)/(?P<below>snapshots/[0-9a-f]{40}(?:/.*)?)")

# Name, size in bytes, and a function that opens it.
LocalFile = Tuple[str, int, Callable[[], Any]]


def open_source(path: str) -> Tuple[ForeignFolder, str]:
    """The folder whose files may be read for a path, opened, and where the path lies in it. Raises OSError.

    A snapshot of a hub cache consists of links to the blobs of its repository; no other link leads out of the path's folder.
    """
    found = SNAPSHOT.fullmatch(os.path.abspath(path))
    if found:
        return open_folder(found["repository"]), found["below"]
    folder, name = (os.path.abspath(path), "") if os.path.isdir(path) else os.path.split(os.path.abspath(path))
    anchor, way = find_anchor(folder)
    with open_folder(anchor) as opened:
        return opened.folder(way), name


def _walk_source(base: ForeignFolder, below: str) -> Iterator[Tuple[str, os.stat_result]]:
    """The regular files below a folder of a source, and links to such that stay inside. Raises ForeignError for all else."""
    with base.folder(below) as folder:
        for entry in folder.walk(leave_out=(OLD_STAGING,)):
            if entry.path == MANIFEST:
                continue
            if stat.S_ISLNK(entry.seen.st_mode):
                if base.leads_to_folder(os.path.join(below, entry.path)):
                    continue  # its files are listed where they lie
                with base.open(os.path.join(below, entry.path), links=True) as stream:
                    yield entry.path, os.fstat(stream.fileno())
            elif entry.regular:
                yield entry.path, entry.seen
            else:
                folder.refuse(entry.path, "it is " + describe_kind(entry.seen.st_mode))


def compute_signature(path: str) -> str:
    """A word that changes when the folder or archive at ``path`` does: names, sizes and modification times."""
    digest = hashlib.sha256()
    base, below = open_source(path)
    with base:
        if os.path.isdir(path):
            seen = sorted(_walk_source(base, below))
        else:
            with base.open(below, links=True) as stream:
                seen = [("", os.fstat(stream.fileno()))]
    for name, found in seen:
        digest.update("{0}\0{1}\0{2}\n".format(name, found.st_size, found.st_mtime_ns).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _list_folder(base: ForeignFolder, below: str) -> Iterator[LocalFile]:
    for name, seen in sorted(_walk_source(base, below)):
        inside = os.path.join(below, name)
        yield name, seen.st_size, lambda inside=inside: base.open(inside, links=True)  # type: ignore[misc]


def _list_tar(path: str, tar: tarfile.TarFile) -> Iterator[LocalFile]:
    for member in tar:
        if member.isfile():
            yield posixpath.normpath(member.name), member.size, lambda member=member: tar.extractfile(member)  # type: ignore[misc]
        elif not member.isdir():
            raise fail(
                "the archive holds a link or device",
                where=path,
                why=member.name,
                hint="pack it again without links: tar --dereference",
            )


def _list_zip(archive: zipfile.ZipFile) -> Iterator[LocalFile]:
    for info in archive.infolist():
        if not info.is_dir():
            yield posixpath.normpath(info.filename), info.file_size, lambda info=info: archive.open(info)  # type: ignore[misc]


@contextlib.contextmanager
def open_files(path: str) -> Iterator[Iterator[LocalFile]]:
    """The regular files of a folder, archive or single file; they can be opened inside the block. Raises AnvilError for an
    archive with links or devices.
    """
    base, below = open_source(path)
    with base:
        if os.path.isdir(path):
            yield _list_folder(base, below)
            return
        with base.open(below, links=True) as stream:
            if zipfile.is_zipfile(stream):
                with zipfile.ZipFile(stream) as archive:
                    yield _list_zip(archive)
            elif path.endswith(ARCHIVES):
                stream.seek(0)
                with tarfile.open(fileobj=stream) as tar:
                    yield _list_tar(path, tar)
            else:
                size = os.fstat(stream.fileno()).st_size
                yield iter([(os.path.basename(path), size, lambda: base.open(below, links=True))])


@contextlib.contextmanager
def _explain_damage(path: str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, LZMAError, EOFError) as exc:
        raise fail(
            "the archive cannot be read",
            where=path,
            why=str(exc),
            hint="copy it again: it was cut short, or is not a tar or zip archive",
        ) from exc


def list_sizes(path: str) -> Dict[str, int]:
    """Name to size in bytes. Raises AnvilError where nothing is there, or the archive cannot be read."""
    if not os.path.exists(path):
        raise fail("there is nothing to copy from", where=path, hint="copy the folder or archive to this host first")
    with _explain_damage(path), open_files(path) as files:
        return {name: size for name, size, _open in files}


def _copy_file(open_file: Callable[[], Any], staged: str, where: str, announced: int, tick: Callable[[], None]) -> Dict[str, Any]:
    digest, size, ticked = hashlib.sha256(), 0, time.monotonic()
    with open_file() as incoming, open(staged, "wb") as outgoing:
        for piece in read_pieces(incoming):
            digest.update(piece)
            outgoing.write(piece)
            size += len(piece)
            if size > announced:
                hint = "wait until nothing writes to it any more, then run again"
                raise fail("a file grows while it is copied", where, hint=hint)
            if time.monotonic() - ticked > 1:
                ticked = time.monotonic()
                tick()
        outgoing.flush()
        os.fsync(outgoing.fileno())
    return {"size": size, "sha256": digest.hexdigest()}


def copy_files(location: ModelLocation, source: Source, tick: Callable[[], None]) -> Dict[str, Dict[str, Any]]:
    """Copy the files of ``source.path`` into the staging folder. Returns size and sha256 of each.

    The sha256 of an archive is compared first, if it is given. Raises AnvilError.
    """
    if source.sha256:
        base, below = open_source(source.path)
        with base, base.open(below, links=True) as stream:
            found = hash_stream(stream)
        if found != source.sha256:
            raise build_fetch_error("sha256", source.path, "sha256 of the file is {0}, expected {1}".format(found, source.sha256))
    copied: Dict[str, Dict[str, Any]] = {}
    with _explain_damage(source.path), open_files(source.path) as files:
        for name, announced, open_file in files:
            check_file_name(name)
            staged = os.path.join(location.files, name)
            os.makedirs(os.path.dirname(staged), exist_ok=True)
            try:
                copied[name] = _copy_file(open_file, staged, os.path.join(source.path, name), announced, tick)
            except AnvilError:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(staged)  # a copy begins anew, and half a file takes up room
                raise
            tick()
    if not copied:
        raise fail("there is nothing to copy", where=source.path, hint="the folder or archive is empty; check the path")
    return copied
