# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Single files that are mounted into a container: has their content changed since it was created?

Docker and Compose do not look (docker/compose#13045): the process keeps what it read, and a file that was replaced by a
rename even stays the old one inside. What a container was created with is written down per container id, beside the
compose file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import parse_timestamp
from ansible_collections.anvil.serving.plugins.module_utils.docker.service import Mount

RECORD = ".mounted.json"
# A configuration is hashed; weights of many GB are known by size and time.
HASHED_BYTES = 4 * 1024 * 1024


def mounted_files(mounts: Sequence[Mount]) -> List[str]:
    """The paths of this host among the mounts that are single files."""
    return [mount.source for mount in mounts if mount.kind == "bind" and os.path.isfile(mount.source)]


def fingerprint(path: str) -> str:
    """What a file is, in one word; empty where it cannot be read."""
    with contextlib.suppress(OSError):
        stat = os.stat(path)
        if not stat.st_mode & 0o077:
            # A secret: not even its hash is told. Ours are replaced when they change, and never written otherwise.
            return "inode:{0},time:{1}".format(stat.st_ino, stat.st_mtime_ns)
        if stat.st_size > HASHED_BYTES:
            return "size:{0},time:{1}".format(stat.st_size, stat.st_mtime_ns)
        with open(path, "rb") as handle:
            return "sha256:" + hashlib.sha256(handle.read()).hexdigest()
    return ""


def _fingerprint_text(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode("utf-8")).hexdigest()


def _read_record(directory: str) -> Dict[str, Dict[str, str]]:
    with contextlib.suppress(ValueError):
        read: Any = json.loads(files.read_file(os.path.join(directory, RECORD)) or "{}")
        return read if isinstance(read, dict) else {}
    return {}


def changed_files(
    directory: str, container_id: str, created: str, mounts: Sequence[Mount], texts: Mapping[str, str]
) -> Dict[str, Tuple[str, str]]:
    """Path -> (what it was, what it is) of each mounted file that is not what the container was created with.

    texts: path -> what this run is about to write there. A container that nobody wrote down is judged by time: a file written
    after it was created counts as changed.
    """
    known = _read_record(directory).get(container_id, {})
    found = {}
    for path in mounted_files(mounts):
        now = fingerprint(path)
        if path in texts:
            before, now = known.get(path, now), _fingerprint_text(texts[path])
            if before != now:
                found[path] = (before, now)
        elif path in known:
            if known[path] != now:
                found[path] = (known[path], now)
        elif os.stat(path).st_mtime >= (parse_timestamp(created) or 0) + 1:
            found[path] = ("written before " + created[:19], now)
    return found


def record_files(directory: str, mounts_of: Mapping[str, Sequence[Mount]]) -> None:
    """Write down what these containers (id -> mounts) were created with; others are forgotten."""
    known = _read_record(directory)
    wanted = {}
    for container_id, mounts in mounts_of.items():
        before = known.get(container_id, {})
        here = {path: before.get(path) or fingerprint(path) for path in mounted_files(mounts)}
        if here:
            wanted[container_id] = here
    if wanted != known:
        files.write_file(os.path.join(directory, RECORD), json.dumps(wanted, indent=1, sort_keys=True) + "\n", 0o644)
