# SPDX-License-Identifier: GPL-3.0-or-later
"""Incidents: what is saved of a hung serve before its restart, and how much of the disk all incidents may use."""

from __future__ import annotations

import json
import os
import shutil
import time
from typing import Any, Dict, List, Mapping, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.watch.host_engine import HostEngine

# The most incidents that stay, and the most bytes of all of them; one has two parts, each at most so large.
MOST, MOST_BYTES, PART_BYTES = 50, 64 << 20, 512 << 10
LOG_LINES = 1000
PROCESS_COLUMNS = ("pid", "stat", "wchan", "time", "comm")


def gather_incident(docker: HostEngine, container_id: str, evidence: Mapping[str, Any], metrics: str) -> Mapping[str, str]:
    """The files of an incident, by name. What cannot be read is said there. No command line is in them."""
    found: Dict[str, str] = {"evidence.json": json.dumps(evidence, indent=1, sort_keys=True) + "\n"}
    found["counters.txt"] = metrics or "the engine did not answer\n"
    try:
        raw = docker.inspect_container(container_id)
        found["log.txt"] = "\n".join(docker.read_masked_log(raw, LOG_LINES) if raw else ["the container is gone"]) + "\n"
        rows = docker.list_processes(container_id, PROCESS_COLUMNS)
        found["processes.txt"] = "\n".join("\t".join(row) for row in [list(PROCESS_COLUMNS), *rows]) + "\n"
    except AnvilError as exc:
        found.setdefault("log.txt", exc.as_text() + "\n")
    return found


def save_incident(folder: str, name: str, parts: Mapping[str, str]) -> str:
    """Write an incident below ``folder`` and return its path; older ones make room for it. Raises OSError for a full disk."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    cleaned = {part: text.encode("utf-8", "replace")[-PART_BYTES:] for part, text in parts.items()}
    make_room(folder, sum(map(len, cleaned.values())))
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    path = os.path.join(folder, "{0}-{1}".format(stamp, name))
    unfinished = os.path.join(folder, ".unfinished-{0}-{1}".format(os.getpid(), name))
    shutil.rmtree(unfinished, ignore_errors=True)
    os.mkdir(unfinished, 0o700)
    try:
        for part, content in cleaned.items():
            with open(os.path.join(unfinished, part), "xb") as handle:
                handle.write(content)
        if os.path.exists(path):
            path += "-{0}".format(time.monotonic_ns())
        os.rename(unfinished, path)
    except OSError:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return path


def make_room(folder: str, needed: int) -> None:
    """Remove unfinished incidents, then the oldest, until one more and its bytes fit."""
    kept: List[Tuple[float, int, str]] = []
    for entry in os.scandir(folder):
        if entry.name.startswith(".unfinished-") or not entry.is_dir(follow_symlinks=False):
            if entry.name.startswith(".unfinished-"):
                shutil.rmtree(entry.path, ignore_errors=True)
            continue
        size = sum(part.stat(follow_symlinks=False).st_size for part in os.scandir(entry.path))
        kept.append((entry.stat(follow_symlinks=False).st_mtime, size, entry.path))
    kept.sort()
    while kept and (len(kept) >= MOST or sum(size for _time, size, _path in kept) + needed > MOST_BYTES):
        shutil.rmtree(kept.pop(0)[2], ignore_errors=True)
