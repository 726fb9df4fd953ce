# SPDX-License-Identifier: GPL-3.0-or-later
"""Which weights the containers of serves have loaded: a serve whose weights were exchanged on disk since then holds the old ones.

What each container was started with is recorded in a file beside the compose file, by container id. A file that was only touched,
or moved away and back, has the same content and is not reported. Without a record nothing is known, and nothing is reported.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from dataclasses import asdict
from typing import Any, Collection, Dict, List, Mapping, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service
from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import parse_timestamp
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import HOLDING, ObservedContainer

RECORD = ".weights.json"
# Of a file that another time was set for, the beginning and the end are compared: bytes of each.
SAMPLE = 256 * 1024
MOST_FILES = 500
SUFFIXES = (".safetensors", ".gguf", ".bin", ".pt")
SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}\.gguf$")

Record = Dict[str, Dict[str, List[Any]]]


def read_record(directory: str) -> Record:
    """Container id -> path -> [size, time, inode, hash of a sample]. A broken record is an empty one."""
    with contextlib.suppress(ValueError, AnvilError):
        read: Any = json.loads(files.read_file(os.path.join(directory, RECORD)) or "{}")
        if isinstance(read, dict) and all(isinstance(one, dict) for one in read.values()):
            return read
    return {}


def find_exchanged(record: Record, seen: ObservedContainer) -> Dict[str, Tuple[str, str]]:
    """Path -> (what the container was started with, what is there now), for each file that was exchanged while it runs."""
    known, started = record.get(seen.id), parse_timestamp(seen.started_at)
    if not known or started is None or seen.state not in HOLDING:
        return {}
    found = {}
    for path, row in known.items():
        try:
            stat = os.stat(path)
        except OSError:
            continue  # gone, or not readable now: a restart would not help
        if [stat.st_size, stat.st_mtime_ns, stat.st_ino] == row[:3] or max(stat.st_ctime, stat.st_mtime) <= started:
            continue
        try:
            now = _hash_sample(path) if stat.st_size == row[0] else ""
        except AnvilError:
            continue
        if now != row[3]:
            found[path] = (_describe(row[0], row[1]), _describe(stat.st_size, stat.st_mtime_ns))
    return found


def _describe(size: int, time_ns: int) -> str:
    return "{0} bytes of {1:.0f}".format(size, time_ns / 1e9)


def _hash_sample(path: str) -> str:
    from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_files import open_file

    handle, size = open_file(path)
    with handle:
        beginning = handle.read(SAMPLE)
        handle.seek(max(0, size - SAMPLE))
        return hashlib.sha256(beginning + handle.read(SAMPLE)).hexdigest()


def record_started(
    docker: DockerEngine,
    directory: str,
    started: Mapping[str, ObservedContainer],
    services: Sequence[Service],
    kept: Collection[str],
) -> None:
    """Record what the containers of these serves (name -> container) have loaded. Files that changed since their start are left
    out: which content was loaded is not known. kept: ids of containers whose records are still needed."""
    from ansible_collections.anvil.serving.plugins.module_utils.weights.weights_on_host import find_weights

    before = read_record(directory)
    known = {container: rows for container, rows in before.items() if container in kept}
    for service in services:
        seen, model = started.get(service.name), str(service.anvil.get("model") or "")
        if seen is None or not model:
            continue
        with contextlib.suppress(AnvilError, OSError):
            found = find_weights(docker, {"model": model, "mounts": [asdict(mount) for mount in service.mounts]})
            rows = _read_rows(found[0], parse_timestamp(seen.started_at) or 0) if found else {}
            if rows:
                known[seen.id] = rows
    if known != before:
        files.write_file(os.path.join(directory, RECORD), json.dumps(known, sort_keys=True) + "\n", 0o600)


def _read_rows(place: str, started: float) -> Dict[str, List[Any]]:
    rows: Dict[str, List[Any]] = {}
    for path in _list_weights(place):
        stat = os.stat(path)
        if max(stat.st_ctime, stat.st_mtime) <= started:
            rows[path] = [stat.st_size, stat.st_mtime_ns, stat.st_ino, _hash_sample(path)]
    return rows


def _list_weights(place: str) -> List[str]:
    """The files of a model: one file with its other shards, or the weights of a folder."""
    if os.path.isdir(place):
        return [path for path in files.list_files(place) if path.endswith(SUFFIXES)][:MOST_FILES]
    shard = SHARD.match(os.path.basename(place))
    if shard is None:
        return [place]
    beside = files.list_files(os.path.dirname(place))
    return [path for path in beside if _is_shard_of(os.path.basename(path), shard[1])][:MOST_FILES]


def _is_shard_of(name: str, stem: str) -> bool:
    found = SHARD.match(name)
    return found is not None and found[1] == stem
