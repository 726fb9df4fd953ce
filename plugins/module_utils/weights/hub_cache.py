# SPDX-License-Identifier: GPL-3.0-or-later
"""A cache of the Hugging Face hub as the client library lays it out: which snapshot of a repository an engine would load.

models--ORG--NAME/refs/main            the commit that a branch or tag was when it was fetched
models--ORG--NAME/snapshots/COMMIT/    one link for each file that is complete
models--ORG--NAME/blobs/ETAG           the content; ETAG.incomplete while it is fetched
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import Optional

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_files import read_bytes

COMMIT = re.compile(r"[0-9a-f]{40}")
# Where a cache lies below a folder that is mounted into a serve: HF_HOME, HF_HUB_CACHE, or ~/.cache.
CACHES = ("hub", ".", os.path.join("huggingface", "hub"))
REF_LIMIT = 200


def name_folder(repo: str) -> str:
    """The folder of a repository in a cache."""
    return "models--" + repo.replace("/", "--")


def find_snapshot(cache: str, repo: str, revision: str = "") -> Optional[str]:
    """The snapshot of a repository at a revision (default: main); None where the cache has none.

    A cache without refs whose repository has one snapshot was copied by hand: an engine asked for no revision loads that one.
    """
    home = os.path.join(cache, name_folder(repo))
    folder = os.path.join(home, "snapshots")
    commit = _read_ref(home, revision or "main")
    if commit is None and COMMIT.fullmatch(revision):
        commit = revision
    if commit is None and not revision:
        with contextlib.suppress(OSError):
            snapshots = sorted(os.listdir(folder))
            commit = snapshots[0] if len(snapshots) == 1 else None
    found = os.path.join(folder, commit) if commit else ""
    return found if found and os.path.isdir(found) and not os.path.islink(found) else None


def _read_ref(home: str, revision: str) -> Optional[str]:
    if os.path.isabs(revision) or ".." in revision.split("/"):
        return None
    try:
        text = read_bytes(os.path.join(home, "refs", revision), REF_LIMIT, home).decode("ascii").strip()
    except (AnvilError, ValueError):
        return None
    return text if COMMIT.fullmatch(text) else None
