# SPDX-License-Identifier: GPL-3.0-or-later
"""Compare the files of a model with its manifest: sizes and times, and the content only where that is needed."""

from __future__ import annotations

import os
import stat
from typing import Any, Dict, Mapping

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.weights.checksums import hash_file
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import ModelLocation


def find_differences(folder: str, manifest: Mapping[str, Any], full: bool) -> Dict[str, str]:
    """File name to what is wrong with it, for each file of the manifest that differs.

    The content of a file is read only if its modification time changed, or if ``full``.
    """
    wrong: Dict[str, str] = {}
    for name, entry in manifest["files"].items():
        path = os.path.join(folder, name)
        try:
            seen = os.stat(path)
        except OSError:
            wrong[name] = "missing"
            continue
        if not stat.S_ISREG(seen.st_mode) or seen.st_size != entry["size"]:
            wrong[name] = "its size is {0}, and was {1}".format(seen.st_size, entry["size"])
        elif (full or seen.st_mtime_ns != entry["mtime_ns"]) and hash_file(path) != entry["sha256"]:
            wrong[name] = "its content changed"
    return wrong


def report_differences(location: ModelLocation, wrong: Mapping[str, str]) -> AnvilError:
    """The error for a model that differs from its manifest."""
    return fail(
        "the weights have changed since they were fetched",
        where=location.target,
        why="; ".join("{0}: {1}".format(name, why) for name, why in sorted(wrong.items())[:20]),
        hint="run anvil_model with state: present; it fetches only the files that differ",
    )
