# SPDX-License-Identifier: GPL-3.0-or-later
"""The staging folder of a model: files that are already right are linked into it, and when all are there it replaces the model.

It lies on the file system of the model, out of the reach of containers, and replaces the model in one step, so that an engine
never sees half a model. What was fetched stays in it until the model is whole.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from typing import Any, BinaryIO, Dict, Mapping, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.files import write_file
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_folder import ForeignError, ForeignFolder, open_folder
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_removal import remove
from ansible_collections.anvil.serving.plugins.module_utils.weights.checksums import hash_git_blob, hash_stream
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import ModelLocation, open_root
from ansible_collections.anvil.serving.plugins.module_utils.weights.manifest import (
    MANIFEST,
    begin_records,
    format_manifest,
    list_model_files,
    write_record,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.manifest_verification import find_differences
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_record import OLD_STAGING, prepare_folder
from ansible_collections.anvil.serving.plugins.module_utils.weights.source import Source, SourceFile

# ---------------------------------------------------------------------------------------------------------------- space


def count_bytes_below(folder: str) -> int:
    """The size of all files below a folder; a file that vanishes meanwhile counts 0."""
    total = 0
    for here, _folders, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(here, name)).st_size
    return total


# ---------------------------------------------------------------------------------------------- files that are right


def find_trusted_files(folder: Optional[ForeignFolder], manifest: Optional[Mapping[str, Any]], full: bool) -> Dict[str, Any]:
    """The manifest's entries of the files that are as it says, so that the recorded checksum stands for their content."""
    if manifest is None:
        return {}
    wrong = find_differences(folder, manifest, full)
    return {name: entry for name, entry in manifest["files"].items() if name not in wrong}


def find_right_sum(stream: BinaryIO, wanted: SourceFile, entry: Optional[Mapping[str, Any]]) -> Optional[str]:
    """The sha256 of an opened file of the present model, if it is the one that the source has; else None.

    entry: of the manifest, if it is trusted: it stands for a file that was not written since.
    """
    seen = os.fstat(stream.fileno())
    if wanted.size is None or seen.st_size != wanted.size:
        return None
    recorded = str(entry["sha256"]) if entry is not None and entry["mtime_ns"] == seen.st_mtime_ns else None
    if wanted.sha256 is not None:
        return wanted.sha256 if wanted.sha256 == (recorded or hash_stream(stream, wanted.size)) else None
    if wanted.blob is None or wanted.blob != hash_git_blob(stream, wanted.size):
        return None
    stream.seek(0)
    return recorded or hash_stream(stream, wanted.size)


def open_present(folder: Optional[ForeignFolder], name: str) -> Optional[BinaryIO]:
    """A file of the present model; None where there is none, or something that is not touched."""
    with contextlib.suppress(OSError, ForeignError):
        return folder.open(name) if folder is not None else None
    return None


def is_right(folder: Optional[ForeignFolder], name: str, wanted: SourceFile, trusted: Mapping[str, Any]) -> bool:
    """Whether a file of the present model is the one that the source has."""
    stream = open_present(folder, name)
    if stream is None:
        return False
    with stream:
        return find_right_sum(stream, wanted, trusted.get(name)) is not None


def link_right_files(
    folder: Optional[ForeignFolder], location: ModelLocation, wanted: Mapping[str, SourceFile], trusted: Mapping[str, Any]
) -> Dict[str, Dict[str, Any]]:
    """Link the files of the present model that are right into the staging folder. Returns size and sha256 of each."""
    kept: Dict[str, Dict[str, Any]] = {}
    for name, file in wanted.items():
        stream = open_present(folder, name)
        if folder is None or stream is None:
            continue
        with stream:
            sha256 = find_right_sum(stream, file, trusted.get(name))
            if sha256 is None:
                continue
            staged = os.path.join(location.files, name)
            os.makedirs(os.path.dirname(staged), exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(staged)
            folder.give_link(name, staged, stream)
        kept[name] = {"size": file.size, "sha256": sha256}
    return kept


# ---------------------------------------------------------------------------------------------------- put in place


def _sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_manifest(
    location: ModelLocation, source: Source, commit: str, fetched: Mapping[str, Mapping[str, Any]], seconds: float
) -> Dict[str, Any]:
    """Write the manifest beside the staged files, which are all there and checked; remove every other file."""
    shutil.rmtree(os.path.join(location.files, ".cache", "huggingface"), ignore_errors=True)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.join(location.files, ".cache"))
    listed = {}
    for name in sorted(fetched):
        path = os.path.join(location.files, name)
        os.chmod(path, 0o644)
        seen = os.stat(path)
        listed[name] = {"size": seen.st_size, "mtime_ns": seen.st_mtime_ns, "sha256": fetched[name]["sha256"]}
    with open_folder(location.files) as staged:
        for stray in [name for name in list_model_files(staged) if name not in listed]:
            remove(staged, stray)
    for here, folders, _names in os.walk(location.files):
        os.chmod(here, 0o755)  # noqa: S103  engines read it under another uid
        for name in folders:
            _sync_folder(os.path.join(here, name))
    manifest = {
        "version": 1,
        "source": source.as_dict(),
        "commit": commit,
        "files": listed,
        "fetched_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds, 1),
    }
    write_file(os.path.join(location.files, MANIFEST), format_manifest(manifest), 0o644)
    return manifest


def prepare_staging(location: ModelLocation) -> None:
    """Make the staging folder; below it only this user can write. Raises AnvilError where that cannot be had."""
    begin_records(location.root)
    prepare_folder(location.record)
    if location.staging != location.record:
        _prepare_staging_inside(location)
        return
    with contextlib.suppress(OSError, ForeignError), open_root(location.root) as root:
        if root.look(OLD_STAGING) is not None:  # of a release that staged where containers can write
            remove(root, OLD_STAGING)


def _prepare_staging_inside(location: ModelLocation) -> None:
    """The staging folder below the models, for which there is no room beside them: made anew unless this user made it."""
    with open_root(location.root, create=True) as root:
        for path in (OLD_STAGING, os.path.join(OLD_STAGING, os.path.basename(location.staging))):
            seen = root.look(path)
            ours = seen is not None and stat.S_ISDIR(seen.st_mode) and seen.st_uid == os.geteuid() and not seen.st_mode & 0o077
            if seen is not None and not ours:
                remove(root, path)
            with root.folder(os.path.dirname(path)) as parent, contextlib.suppress(FileExistsError):
                os.mkdir(os.path.basename(path), 0o700, dir_fd=parent.handle)


def put_in_place(location: ModelLocation, manifest: Mapping[str, Any]) -> None:
    """Make the staged files the model. A run killed at any line leaves the old model, the new one, or the staged one.

    The manifest is recorded first: after a kill between the two the old model counts as damaged, and the next run goes on.
    """
    write_record(location, manifest)
    with open_root(location.root, create=True) as root, root.parent(location.name, create=True) as (parent, _name):
        if root.look(location.name) is None:
            root.take_in(location.files, location.name)
        elif not root.exchange(location.name, location.files):
            clear_staging(location, ("old",))
            root.give_up(location.name, os.path.join(location.staging, "old"))
            root.take_in(location.files, location.name)
        os.fsync(parent)
    clear_staging(location)


def clear_staging(
    location: ModelLocation, names: Sequence[str] = ("files", "home", "parts", "part", "old", "progress.json")
) -> None:
    """Remove these from the staging folder. A model that was in place before lies there now: no link in it is followed."""
    if os.path.isdir(location.staging):
        with open_folder(location.staging) as staged:
            for name in names:
                try:
                    remove(staged, name)
                except OSError as exc:
                    raise fail(
                        "cannot remove what was in place of a model before",
                        where=os.path.join(location.staging, name),
                        why="{0}: {1}".format(exc.filename, exc.strerror),
                        hint="look at it with lsattr and ls -la, and remove it by hand",
                    ) from exc
