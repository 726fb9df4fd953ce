# SPDX-License-Identifier: GPL-3.0-or-later
"""The logs of a workflow's containers, from a moment on: the next reading begins where the last one ended"""

from __future__ import annotations

import calendar
import os
import re
import struct
import time
from typing import Dict, List, Mapping, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import collect_values, mask_known
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves.serve_logs import parse_since
from ansible_collections.anvil.serving.plugins.module_utils.workflow.private_files import FOLDER

STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,9}))?Z ")
STREAMS = {1: "stdout", 2: "stderr"}
# A private file that is larger is a certificate.
LONGEST_SECRET = 1024


def read_workflow_logs(
    docker: DockerEngine, containers: Sequence[str], directory: str, tail: int, since: str, after: Mapping[str, str]
) -> Tuple[Dict[str, List[Dict[str, str]]], Dict[str, str]]:
    """The lines of each container, oldest first, with known secrets masked; and the moments after which to read next.

    after: container -> moment of an earlier reading; one without it is read as ``tail`` and ``since`` say.
    """
    own = read_private_values(directory)
    start = parse_since(since, time.time())
    logs: Dict[str, List[Dict[str, str]]] = {}
    moments = dict(after)
    for name in containers:
        found = docker.inspect_container(name)
        if found is None:
            continue
        environment = dict(str(line).partition("=")[::2] for line in found["Config"].get("Env") or ())
        known = [*own, *collect_values(environment)]
        if name in after:
            raw = docker.read_log_frames(found["Id"], -1, after[name], stamped=True)
        else:
            raw = docker.read_log_frames(found["Id"], tail, start, stamped=True)
        lines, last = split_stamped_frames(raw)
        logs[name] = [{"stream": stream, "line": mask_known(text, known)} for stream, text in lines]
        # One that has written nothing yet is read from now on.
        moments[name] = last or after.get(name) or "{0:.9f}".format(time.time() if tail == 0 else start)
    return logs, moments


def read_private_values(directory: str) -> List[str]:
    """The keys and passwords in the private files of a workflow."""
    values = []
    for path in files.list_files(os.path.join(directory, FOLDER)):
        try:
            text = files.read_file(path) or ""
        except AnvilError:
            continue  # another user reads the log
        if len(text) <= LONGEST_SECRET:
            values += [word for line in text.splitlines() for word in line.split()[-1:]]
    return values


def split_stamped_frames(raw: bytes) -> Tuple[List[Tuple[str, str]], str]:
    """Split a framed log with times into (stream, line); and the moment after its last frame, empty without a frame.

    A long line is several frames, each with its time. A moment is seconds since 1970 with nine decimals. Pure.
    """
    found: List[Tuple[str, str]] = []
    rest = {1: b"", 2: b""}
    last = (0, -1)
    position = 0
    while position + 8 <= len(raw):
        stream, size = struct.unpack(">BxxxL", raw[position : position + 8])
        if stream not in rest:
            break
        payload = raw[position + 8 : position + 8 + size]
        position += 8 + size
        stamp = STAMP.match(payload)
        if stamp:
            payload = payload[stamp.end() :]
            last = max(last, _read_stamp(stamp[1], stamp[2] or b""))
        *whole, rest[stream] = (rest[stream] + payload).split(b"\n")
        found.extend((STREAMS[stream], line.decode("utf-8", "replace").rstrip("\r")) for line in whole)
    found.extend((STREAMS[key], left.decode("utf-8", "replace")) for key, left in rest.items() if left)
    seconds, nanos = last[0] + (last[1] + 1) // 10**9, (last[1] + 1) % 10**9
    return found, "{0}.{1:09d}".format(seconds, nanos) if last[1] >= 0 else ""


def _read_stamp(moment: bytes, decimals: bytes) -> Tuple[int, int]:
    seconds = calendar.timegm(time.strptime(moment.decode(), "%Y-%m-%dT%H:%M:%S"))
    return seconds, int(decimals.ljust(9, b"0")[:9] or b"0")
