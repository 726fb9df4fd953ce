# SPDX-License-Identifier: GPL-3.0-or-later
"""Single files that are mounted into a container, and whether their content has changed since it was created.

Docker and Compose do not compare them (docker/compose#13045): the process keeps what it has read, and after a replacement by
rename the container still sees the old file. This room records what each container was created with, by container id, in a
file beside the compose file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_files import NotReadError, read_bytes
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Mount
from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import parse_timestamp

RECORD = ".mounted.json"
# A file up to this size is hashed. A larger one, such as weights, is compared by size and time (bytes).
HASHED_BYTES = 4 * 1024 * 1024


def list_mounted_files(mounts: Sequence[Mount]) -> List[str]:
    """The paths on this host of the mounts that are single files."""
    return [mount.source for mount in mounts if mount.kind == "bind" and os.path.isfile(mount.source)]


def fingerprint(path: str) -> str:
    """A text that changes with the content of a file; empty where the file cannot be read."""
    with contextlib.suppress(OSError, NotReadError):
        stat = os.stat(path)
        if not stat.st_mode & 0o077:
            # A secret: not even its hash is shown. Secrets are replaced when they change and never edited in place.
            return "inode:{0},time:{1}".format(stat.st_ino, stat.st_mtime_ns)
        if stat.st_size > HASHED_BYTES:
            return "size:{0},time:{1}".format(stat.st_size, stat.st_mtime_ns)
        # A container may put a FIFO in its place, or go on writing.
        return "sha256:" + hashlib.sha256(read_bytes(path, HASHED_BYTES)).hexdigest()
    return ""


def _fingerprint_text(text: str) -> str:
    return "sha256:" + hashlib.sha256(text.encode("utf-8")).hexdigest()


def _read_record(directory: str) -> Dict[str, Dict[str, str]]:
    with contextlib.suppress(ValueError):
        read: Any = json.loads(files.read_file(os.path.join(directory, RECORD)) or "{}")
        return read if isinstance(read, dict) else {}
    return {}


def find_changed_files(
    directory: str, container_id: str, created: str, mounts: Sequence[Mount], texts: Mapping[str, str]
) -> Dict[str, Tuple[str, str]]:
    """Path -> (old, new) fingerprint of each mounted file that has changed since the container was created.

    texts: path -> the text that this run will write there. Without a record of the container, a file that was written after
    its creation counts as changed.
    """
    known = _read_record(directory).get(container_id, {})
    found = {}
    for path in list_mounted_files(mounts):
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
    """Record what these containers (id -> mounts) were created with; records of other containers are dropped."""
    known = _read_record(directory)
    records = {}
    for container_id, mounts in mounts_of.items():
        before = known.get(container_id, {})
        here = {path: before.get(path) or fingerprint(path) for path in list_mounted_files(mounts)}
        if here:
            records[container_id] = here
    if records != known:
        files.write_file(os.path.join(directory, RECORD), json.dumps(records, indent=1, sort_keys=True) + "\n", 0o644)
