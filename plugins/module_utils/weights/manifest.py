# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest of a model: where the weights came from, and size and checksum of each file.

It is recorded where no container can write. A copy lies beside the weights, so that they can be moved to another host; it is
trusted only where it was there before this host kept records, and its files are hashed once before it is recorded.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from typing import Any, Dict, Iterator, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.core.files import write_file
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_files import read_bytes
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_folder import ForeignError, ForeignFolder, open_folder
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import ModelLocation, open_root
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_record import (
    OLD_STAGING,
    find_shelf,
    fold_name,
    list_shelves,
    prepare_folder,
)

MANIFEST = ".anvil-model.json"
# The record itself, and the manifests that lay beside weights when this host began to keep records: name -> sha256.
RECORD, OLDER = "manifest.json", "older.json"
MANIFEST_LIMIT = 16 << 20
LEVELS = 4  # the most parts of a model's name


def _parse(raw: Optional[bytes]) -> Optional[Dict[str, Any]]:
    """A manifest; None for one that cannot be read: the files are then checked against their source."""
    try:
        read = json.loads(raw.decode("utf-8")) if raw is not None else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(read, dict) or not isinstance(read.get("source"), dict) or not isinstance(read.get("files"), dict):
        return None
    numbers = ("size", "mtime_ns")
    sound = all(
        isinstance(entry, dict)
        and all(isinstance(entry.get(key), int) for key in numbers)
        and isinstance(entry.get("sha256"), str)
        for entry in read["files"].values()
    )
    inside = all(".." not in name.split("/") and not name.startswith("/") for name in read["files"])
    return read if sound and inside else None


def _read_own(path: str) -> Optional[bytes]:
    """A file of the records; None where there is none, or where another user made it."""
    try:
        seen = os.lstat(path)
        if not stat.S_ISREG(seen.st_mode) or seen.st_uid not in (0, os.geteuid()):
            return None
        return read_bytes(path, MANIFEST_LIMIT)
    except (OSError, AnvilError):
        return None


def read_record(root: str, name: str) -> Optional[Dict[str, Any]]:
    """The recorded manifest of a model, whether it is still there or not."""
    if fold_name("/") in name:  # no name of a model; folded it would be that of another one
        return None
    for records in list_shelves(root):
        found = _parse(_read_own(os.path.join(records, fold_name(name), RECORD)))
        if found is not None:
            return found
    return None


def _read_older(root: str) -> Optional[Dict[str, str]]:
    """The manifests that lay beside weights when this host began to keep records of ``root``; None where it has not begun."""
    for records in list_shelves(root):
        raw = _read_own(os.path.join(records, OLDER))
        with contextlib.suppress(ValueError):
            read = json.loads(raw) if raw is not None else None
            if isinstance(read, dict):
                return {str(name): str(word) for name, word in read.items()}
    return None


def find_older(root: str) -> Dict[str, str]:
    """Name of a model -> sha256 of the manifest beside its weights, for all below ``root``, as they are now."""
    found: Dict[str, str] = {}
    with contextlib.suppress(OSError, ForeignError), open_root(root) as opened:
        for entry in opened.walk(leave_out=(OLD_STAGING, "blobs", "snapshots")):
            folder, _slash, last = entry.path.rpartition("/")
            if last == MANIFEST and folder and entry.regular and folder.count("/") < LEVELS:
                with contextlib.suppress(OSError, ForeignError):
                    found[folder] = hashlib.sha256(opened.read(entry.path, MANIFEST_LIMIT) or b"").hexdigest()
    return found


def begin_records(root: str) -> None:
    """Write down which manifests lie beside weights already: one that appears later was not written by us. Once per folder."""
    records = find_shelf(root).records
    prepare_folder(records)
    if _read_older(root) is None:
        write_file(os.path.join(records, OLDER), json.dumps(find_older(root), indent=1, sort_keys=True) + "\n", 0o644)


def read_beside(folder: ForeignFolder) -> Tuple[Optional[Dict[str, Any]], str]:
    """The manifest beside the weights, which a container may have written, and its sha256."""
    raw = folder.read(MANIFEST, MANIFEST_LIMIT)
    return _parse(raw), hashlib.sha256(raw or b"").hexdigest()


def read_older_manifest(folder: ForeignFolder, root: str, name: str) -> Optional[Dict[str, Any]]:
    """The manifest beside the weights, where it is one from before this host kept records. Its files are to be hashed."""
    with contextlib.suppress(ForeignError):
        manifest, word = read_beside(folder)
        older = _read_older(root)
        return manifest if older is None or older.get(name) == word else None
    return None


def write_record(location: ModelLocation, manifest: Mapping[str, Any]) -> None:
    """Record a manifest where no container can write."""
    prepare_folder(location.record)
    write_file(os.path.join(location.record, RECORD), format_manifest(manifest), 0o644)


def format_manifest(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=1, sort_keys=True) + "\n"


def read_manifest_of(folder: str) -> Optional[Dict[str, Any]]:
    """The manifest of the model in a folder: the record, or one beside it from before this host kept records.

    The folder may belong to several folders of models, one in the other. The outermost with records decides: what lies in it,
    records too, may have been planted.
    """
    try:
        with open_folder(folder) as opened:
            for root, name in _split_places(folder):
                if _read_older(root) is not None:
                    return read_record(root, name) or read_older_manifest(opened, root, name)
            return read_beside(opened)[0]
    except (OSError, ForeignError):
        return None


def _split_places(folder: str) -> List[Tuple[str, str]]:
    """The folders of models that a folder may belong to, the outermost first, each with the name that it then has."""
    parts = os.path.realpath(folder).split("/")
    counts = range(min(LEVELS, len(parts) - 1), 0, -1)
    return [("/".join(parts[:-count]) or "/", "/".join(parts[-count:])) for count in counts]


def find_manifest(path: str) -> Optional[Dict[str, Any]]:
    """The manifest of the model that a file or folder belongs to."""
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    for _level in range(8):  # a model's name has at most four parts, and its files lie a few folders below
        manifest = read_manifest_of(folder)
        if manifest is not None or folder == os.path.dirname(folder):
            return manifest
        folder = os.path.dirname(folder)
    return None


def origin_of(manifest: Mapping[str, Any]) -> Origin:
    """Where the weights of a manifest came from."""
    source = manifest["source"]
    if source.get("kind") == "hub":
        return Origin(str(source.get("repo")), str(manifest.get("commit")))
    return Origin(sha256=str(source.get("sha256") or ""))


def list_model_files(folder: ForeignFolder) -> Iterator[str]:
    """What lies below a model's folder, links and FIFOs too; not the manifest."""
    return (entry.path for entry in folder.walk(leave_out=(OLD_STAGING,)) if entry.path != MANIFEST)


def build_result(location: ModelLocation, manifest: Optional[Mapping[str, Any]], **more: Any) -> Dict[str, Any]:
    """What anvil_model returns for a model that is as it should be; ``more`` replaces and adds keys."""
    files = (manifest or {}).get("files", {})
    return {
        "changed": False,
        "target": location.target,
        "name": location.name,
        "commit": (manifest or {}).get("commit", ""),
        "files": {name: {"size": entry["size"], "sha256": entry["sha256"]} for name, entry in files.items()},
        "bytes": sum(entry["size"] for entry in files.values()),
        "fetch": {"files": [], "bytes": 0},
        "reasons": [],
        "seconds": {},
        **more,
    }
