# SPDX-License-Identifier: GPL-3.0-or-later
"""The manifest of a model: a file in its folder that says where the weights came from, and size and checksum of each file."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, Iterator, Mapping, Optional

from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin
from ansible_collections.anvil.serving.plugins.module_utils.core.files import read_file
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import STAGING, ModelLocation

MANIFEST = ".anvil-model.json"


def read_manifest(folder: str) -> Optional[Dict[str, Any]]:
    """The manifest of a model; None where there is none. One that cannot be read counts as none: its files are checked."""
    text = read_file(os.path.join(folder, MANIFEST))
    try:
        read = json.loads(text) if text is not None else None
    except ValueError:
        return None
    return (
        read if isinstance(read, dict) and isinstance(read.get("files"), dict) and isinstance(read.get("source"), dict) else None
    )


def find_manifest(path: str) -> Optional[Dict[str, Any]]:
    """The manifest of the model that a file or folder belongs to."""
    folder = path if os.path.isdir(path) else os.path.dirname(path)
    for _level in range(8):  # a model's name has at most four parts, and its files lie a few folders below
        manifest = read_manifest(folder)
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


def list_model_files(folder: str) -> Iterator[str]:
    """The files below a model's folder, relative to it; not the manifest, and nothing of the staging folder."""
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != STAGING]
        for name in names:
            found = os.path.relpath(os.path.join(here, name), folder)
            if found != MANIFEST:
                yield found


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
