# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a folder, an archive or a single file of this machine: list them, open them, copy them into a model."""

from __future__ import annotations

import contextlib
import hashlib
import os
import posixpath
import tarfile
import zipfile
from typing import Any, Callable, Dict, Iterator, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.weights.checksums import hash_file, read_pieces
from ansible_collections.anvil.serving.plugins.module_utils.weights.fetch_errors import build_fetch_error
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import ModelLocation
from ansible_collections.anvil.serving.plugins.module_utils.weights.manifest import list_model_files
from ansible_collections.anvil.serving.plugins.module_utils.weights.source import Source, check_file_name

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")

# Name, size in bytes, and a function that opens it.
LocalFile = Tuple[str, int, Callable[[], Any]]


def compute_signature(path: str) -> str:
    """A word that changes when the folder or archive at ``path`` does: names, sizes and modification times."""
    digest = hashlib.sha256()
    names = sorted(list_model_files(path)) if os.path.isdir(path) else [""]
    for name in names:
        seen = os.stat(os.path.join(path, name) if name else path)
        digest.update("{0}\0{1}\0{2}\n".format(name, seen.st_size, seen.st_mtime_ns).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _list_folder(path: str) -> Iterator[LocalFile]:
    for name in sorted(list_model_files(path)):
        full = os.path.join(path, name)
        yield name, os.path.getsize(full), lambda full=full: open(full, "rb")  # type: ignore[misc]  # noqa: SIM115


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
    if os.path.isdir(path):
        yield _list_folder(path)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield _list_zip(archive)
    elif path.endswith(ARCHIVES):
        with tarfile.open(path) as tar:
            yield _list_tar(path, tar)
    else:
        yield iter([(os.path.basename(path), os.path.getsize(path), lambda: open(path, "rb"))])  # noqa: SIM115


def list_sizes(path: str) -> Dict[str, int]:
    """Name to size in bytes. Raises AnvilError where nothing is there, or the archive cannot be read."""
    if not os.path.exists(path):
        raise fail("there is nothing to copy from", where=path, hint="copy the folder or archive to this host first")
    try:
        with open_files(path) as files:
            return {name: size for name, size, _open in files}
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as exc:
        raise fail(
            "the archive cannot be read",
            where=path,
            why=str(exc),
            hint="copy it again: it was cut short, or is not a tar or zip archive",
        ) from exc


def copy_files(location: ModelLocation, source: Source, tick: Callable[[], None]) -> Dict[str, Dict[str, Any]]:
    """Copy the files of ``source.path`` into the staging folder. Returns size and sha256 of each.

    The sha256 of an archive is compared first, if it is given. Raises AnvilError.
    """
    if source.sha256:
        found = hash_file(source.path)
        if found != source.sha256:
            raise build_fetch_error("sha256", source.path, "sha256 of the file is {0}, expected {1}".format(found, source.sha256))
    copied: Dict[str, Dict[str, Any]] = {}
    with open_files(source.path) as files:
        for name, _size, open_file in files:
            check_file_name(name)
            staged = os.path.join(location.files, name)
            os.makedirs(os.path.dirname(staged), exist_ok=True)
            digest, size = hashlib.sha256(), 0
            with open_file() as incoming, open(staged, "wb") as outgoing:
                for piece in read_pieces(incoming):
                    digest.update(piece)
                    outgoing.write(piece)
                    size += len(piece)
                outgoing.flush()
                os.fsync(outgoing.fileno())
            copied[name] = {"size": size, "sha256": digest.hexdigest()}
            tick()
    if not copied:
        raise fail("there is nothing to copy", where=source.path, hint="the folder or archive is empty; check the path")
    return copied
