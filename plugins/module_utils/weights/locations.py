# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where weights lie on this host, and what is written beside them of where they came from."""

from __future__ import annotations

import json
import os
from typing import Any, Dict, Mapping, Optional

from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.files import read_file
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine

MANIFEST = ".anvil-model.json"
VOLUME_LABELS = {"anvil.serving.volume": "models"}


def resolve_place(engine: DockerEngine, volume: Optional[str], path: str, create: bool, predict: bool = False) -> str:
    """The path on this machine of a folder, or of a path in a Docker volume (which is created if asked to).

    predict: of a volume that is not there, tell where the local driver will put it.
    """
    if not volume:
        if not os.path.isabs(path):
            raise fail("not an absolute path", where="path", why=repr(path), hint="give an absolute path, or a volume")
        return os.path.normpath(path)
    inside = os.path.normpath(path.lstrip("/") or ".")
    if inside.startswith(".."):
        raise fail("the path leaves the volume", where="volume " + volume, why=repr(path))
    found = engine.inspect_volume(volume)
    if found is None and create:
        engine.create_volume(volume, VOLUME_LABELS)
        found = engine.inspect_volume(volume)
    if found is None and predict:
        return os.path.normpath(os.path.join(str(engine.info().get("DockerRootDir")), "volumes", volume, "_data", inside))
    if found is None:
        raise fail(
            "there is no such volume", where="volume " + volume, hint="anvil_model creates it; or: docker volume create " + volume
        )
    root = str(found.get("Mountpoint") or "")
    if not os.path.isdir(root) or not os.access(root, os.R_OK | os.X_OK):
        raise fail(
            "the volume's folder cannot be reached from here",
            where="volume " + volume,
            why="the engine says {0!r} (driver {1})".format(root, found.get("Driver")),
            hint="run on the engine's own machine, with become: true; or keep the weights in a folder",
        )
    return os.path.normpath(os.path.join(root, inside))


def read_manifest(target: str) -> Optional[Dict[str, Any]]:
    """The manifest of a model; None where there is none. One that cannot be read counts as none: its files are checked."""
    text = read_file(os.path.join(target, MANIFEST))
    try:
        read = json.loads(text) if text is not None else None
    except ValueError:
        return None
    return (
        read if isinstance(read, dict) and isinstance(read.get("files"), dict) and isinstance(read.get("source"), dict) else None
    )


def origin_of(manifest: Mapping[str, Any]) -> Origin:
    """Where the weights of a manifest came from."""
    source = manifest["source"]
    if source.get("kind") == "hub":
        return Origin(str(source.get("repo")), str(manifest.get("commit")))
    return Origin(sha256=str(source.get("sha256") or ""))
