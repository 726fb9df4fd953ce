# SPDX-License-Identifier: GPL-3.0-or-later
"""The last log lines of serves and experiments, both streams, with the values of known secrets masked."""

from __future__ import annotations

import re
import struct
import time
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import collect_values, mask_known
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves.experiments import find_experiments

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_since(text: str, now: float) -> int:
    """A time span such as ``10m``, ``2h`` or ``90`` (seconds) before now, in seconds since 1970; empty is 0: the whole log."""
    word = text.strip()
    if not word:
        return 0
    match = re.match(r"^([0-9]{1,9})([smhd]?)$", word)
    if match is None:
        raise fail(
            "{0!r} is not a time span".format(text),
            where="logs.since",
            hint="write a number with s, m, h or d, such as 10m, 2h or 1d",
        )
    return int(now - int(match.group(1)) * SECONDS[match.group(2) or "s"])


def split_frames(raw: bytes) -> List[Tuple[str, str]]:
    """Split the framed log of the Docker Engine into (``stdout`` or ``stderr``, line), in its order."""
    found: List[Tuple[str, str]] = []
    rest = {1: b"", 2: b""}
    position = 0
    while position + 8 <= len(raw):
        stream, size = struct.unpack(">BxxxL", raw[position : position + 8])
        if stream not in rest:
            break
        rest[stream] += raw[position + 8 : position + 8 + size]
        position += 8 + size
        *whole, rest[stream] = rest[stream].split(b"\n")
        found.extend((_stream_name(stream), line.decode("utf-8", "replace").rstrip("\r")) for line in whole)
    found.extend((_stream_name(key), left.decode("utf-8", "replace")) for key, left in rest.items() if left)
    return found


def _stream_name(number: int) -> str:
    return "stderr" if number == 2 else "stdout"


def read_logs(
    docker: DockerEngine, serves: Mapping[str, Mapping[str, Any]], tail: int, since: str, secrets: Mapping[str, str]
) -> Dict[str, List[Dict[str, str]]]:
    """The last lines of each serve, both streams, oldest first, with the values of known secrets masked.

    Known are ``secrets`` and those in the container's own environment.
    """
    start = parse_since(since, time.time())
    logs: Dict[str, List[Dict[str, str]]] = {}
    for name, serve in serves.items():
        found = docker.inspect_container(serve["container_id"]) if serve["container_id"] else None
        if found is None:
            logs[name] = []
            continue
        environment = dict(str(line).partition("=")[::2] for line in found["Config"].get("Env") or ())
        known = [*secrets.values(), *collect_values(environment)]
        raw = docker.read_log_frames(found["Id"], tail, start)
        logs[name] = [{"stream": stream, "line": mask_known(text, known)} for stream, text in split_frames(raw)]
    return logs


def read_container_logs(
    docker: DockerEngine, names: Sequence[str], tail: int, since: str, secrets: Mapping[str, str]
) -> Dict[str, Any]:
    """As ``read_logs``, for containers by their names. One that does not exist has a line that says so."""
    containers = {name: {"container_id": name} for name in names}
    logs = read_logs(docker, containers, tail, since, secrets)
    absent = [name for name in names if not logs[name] and docker.inspect_container(name) is None]
    said = {"stream": "stderr", "line": "no such container on this host"}
    return {**logs, **{name: [said] for name in absent}}


def read_experiment_logs(
    docker: DockerEngine, names: Sequence[str], tail: int, since: str, secrets: Mapping[str, str]
) -> Dict[str, Any]:
    """As ``read_logs``, for the containers of experiments; raises AnvilError for an unknown name."""
    there = {experiment.name: experiment for experiment in find_experiments(docker)}
    missing = [name for name in names if name not in there]
    if missing:
        hint = "experiments on this host: " + (", ".join(there) or "none")
        raise fail("no experiment {0} on this host".format(", ".join(missing)), where="logs.experiments", hint=hint)
    containers = {container: {"container_id": container} for name in names for container in there[name].containers}
    return dict(read_logs(docker, containers, tail, since, secrets))
