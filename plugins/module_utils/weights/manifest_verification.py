# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare the files of a model with its manifest: sizes and times, and the content only where that is needed."""

from __future__ import annotations

import os
from typing import Any, BinaryIO, Dict, Mapping, Optional

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_folder import ForeignError, ForeignFolder
from ansible_collections.anvil.serving.plugins.module_utils.weights.checksums import hash_stream
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import ModelLocation
from ansible_collections.anvil.serving.plugins.module_utils.weights.manifest import read_older_manifest, read_record


def find_differences(
    folder: Optional[ForeignFolder], manifest: Mapping[str, Any], full: bool, below: str = "", links: bool = False
) -> Dict[str, str]:
    """File name to what is wrong with it, for each file of the manifest that differs. folder: None where it is gone.

    The content of a file is read only if its modification time changed, or if ``full``. below: where the files lie in the
    folder. links: they may be links inside the folder, as in the snapshots of a hub cache.
    """
    wrong: Dict[str, str] = {}
    for name, entry in manifest["files"].items():
        try:
            if folder is None:
                raise FileNotFoundError
            with folder.open(os.path.join(below, name), links) as stream:
                why = _compare(stream, entry, full)
        except ForeignError as exc:
            why = exc.problems[0].why
        except FileNotFoundError:
            why = "missing"
        except OSError as exc:
            why = "cannot be read: {0}".format(exc.strerror)
        if why:
            wrong[name] = why
    return wrong


def _compare(stream: BinaryIO, entry: Mapping[str, Any], full: bool) -> str:
    seen = os.fstat(stream.fileno())
    if seen.st_size != entry["size"]:
        return "its size is {0}, and was {1}".format(seen.st_size, entry["size"])
    if (full or seen.st_mtime_ns != entry["mtime_ns"]) and hash_stream(stream, entry["size"]) != entry["sha256"]:
        return "its content changed"
    return ""


def find_trusted_manifest(location: ModelLocation, folder: Optional[ForeignFolder], below: str = "") -> Optional[Dict[str, Any]]:
    """The recorded manifest of a model that is there. One from before this host kept records gets the files hashed here: those
    that differ from it are marked, so that they are hashed again. below: as for ``find_differences``, of a hub cache.
    """
    if folder is None:
        return None
    manifest = read_record(location.root, location.name)
    if manifest is not None:
        return manifest
    older = read_older_manifest(folder, location.root, location.name)
    if older is None:
        return None
    place = os.path.join(below, str(older.get("commit"))) if below else ""
    wrong = find_differences(folder, older, True, place, bool(below))
    files = {name: {**entry, "mtime_ns": -1} if name in wrong else entry for name, entry in older["files"].items()}
    return {**older, "files": files, "older": True}


def report_differences(location: ModelLocation, wrong: Mapping[str, str]) -> AnvilError:
    """The error for a model that differs from its manifest."""
    return fail(
        "the weights have changed since they were fetched",
        where=location.target,
        why="; ".join("{0}: {1}".format(name, why) for name, why in sorted(wrong.items())[:20]),
        hint="run anvil_model with state: present; it fetches only the files that differ",
    )
