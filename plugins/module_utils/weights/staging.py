# SPDX-License-Identifier: GPL-3.0-or-later
"""The staging folder of a model: files that are already right are linked into it, and when all are there it replaces the model.

It lies on the file system of the model and replaces it in one step, so that an engine never sees half a model. What was
fetched stays in it until the model is whole.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import time
from typing import Any, Dict, Mapping, Optional

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.files import write_file
from ansible_collections.anvil.serving.plugins.module_utils.weights.checksums import hash_file, hash_git_blob
from ansible_collections.anvil.serving.plugins.module_utils.weights.fetch_progress import format_bytes
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import ModelLocation
from ansible_collections.anvil.serving.plugins.module_utils.weights.manifest import MANIFEST, list_model_files
from ansible_collections.anvil.serving.plugins.module_utils.weights.manifest_verification import find_differences
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


def count_free_bytes(folder: str) -> int:
    """Free bytes for this user on the file system of a folder, which need not exist yet."""
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    seen = os.statvfs(folder)
    return seen.f_bavail * seen.f_frsize


def judge_free_space(folder: str, need: int, have: int, free: int, reserve: int) -> Optional[AnvilError]:
    """An error unless ``need`` bytes, of which ``have`` are there already, fit and leave ``reserve``; all in bytes."""
    missing = need - have + reserve - free
    if missing <= 0:
        return None
    arithmetic = "{0} to fetch - {1} already here + {2} to keep free = {3}; {4} are free: {5} short".format(
        *(format_bytes(count) for count in (need, have, reserve, need - have + reserve, free, missing))
    )
    return fail(
        "there is not enough room for the weights",
        where=folder,
        why=arithmetic,
        hint="free some space, choose another folder or volume, or lower reserve_mib; nothing was fetched",
    )


# ---------------------------------------------------------------------------------------------- files that are right


def find_trusted_files(location: ModelLocation, manifest: Optional[Mapping[str, Any]], full: bool) -> Dict[str, Any]:
    """The manifest's entries of the files that are as it says, so that the recorded checksum stands for their content."""
    if manifest is None:
        return {}
    wrong = find_differences(location.target, manifest, full)
    return {name: entry for name, entry in manifest["files"].items() if name not in wrong}


def is_right(location: ModelLocation, name: str, wanted: SourceFile, trusted: Mapping[str, Any]) -> bool:
    """Whether a file of the present model is the one that the source has."""
    path = os.path.join(location.target, name)
    if not os.path.isfile(path) or os.path.islink(path) or os.path.getsize(path) != wanted.size:
        return False
    if wanted.sha256 is not None:
        return wanted.sha256 == (_find_recorded_sum(path, trusted.get(name)) or hash_file(path))
    return wanted.blob is not None and wanted.blob == hash_git_blob(path)


def _find_recorded_sum(path: str, entry: Optional[Mapping[str, Any]]) -> Optional[str]:
    """The sha256 that the manifest has for a file that was not written since."""
    return str(entry["sha256"]) if entry is not None and entry["mtime_ns"] == os.stat(path).st_mtime_ns else None


def link_right_files(
    location: ModelLocation, wanted: Mapping[str, SourceFile], trusted: Mapping[str, Any]
) -> Dict[str, Dict[str, Any]]:
    """Link the files of the present model that are right into the staging folder. Returns size and sha256 of each."""
    kept: Dict[str, Dict[str, Any]] = {}
    for name, file in wanted.items():
        path, staged = os.path.join(location.target, name), os.path.join(location.files, name)
        if is_right(location, name, file, trusted):
            os.makedirs(os.path.dirname(staged), exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(staged)
            os.link(path, staged)
            sha256 = file.sha256 or _find_recorded_sum(path, trusted.get(name)) or hash_file(path)
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
    for stray in list(list_model_files(location.files)):
        if stray not in listed:
            os.unlink(os.path.join(location.files, stray))
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
    write_file(os.path.join(location.files, MANIFEST), json.dumps(manifest, indent=1, sort_keys=True) + "\n", 0o644)
    return manifest


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def _exchange_folders(one: str, other: str) -> bool:
    """Exchange two folders in one step (Linux 3.15, glibc 2.28); False where the system cannot."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def put_in_place(location: ModelLocation) -> None:
    """Make the staged files the model. A run killed at any line leaves the old model, the new one, or the staged one."""
    os.makedirs(os.path.dirname(location.target), exist_ok=True)
    if not os.path.lexists(location.target):
        os.rename(location.files, location.target)
    elif not _exchange_folders(location.files, location.target):
        aside = os.path.join(location.staging, "old")
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(location.target, aside)
        os.rename(location.files, location.target)
    _sync_folder(os.path.dirname(location.target))
    for rest in ("files", "home", "parts", "old", "progress.json"):
        path = os.path.join(location.staging, rest)
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
