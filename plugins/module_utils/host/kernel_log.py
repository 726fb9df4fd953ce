# SPDX-License-Identifier: GPL-3.0-or-later
"""What the NVIDIA driver wrote to the kernel log of this boot.

``/dev/kmsg`` is read without waiting; where that is not allowed, ``journalctl -k`` or ``dmesg``. Only lines of the kernel itself
count: the kernel gives a line that a program writes to ``/dev/kmsg`` another facility, whatever the program claims. A line counts
only if it begins as the driver's lines do, since other lines of the kernel can quote the name of a process.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import time
from dataclasses import dataclass
from typing import Callable, List, Optional, Sequence, Tuple

KMSG = "/dev/kmsg"
# Another file in the format of /dev/kmsg. Tests set it, for a machine without such cards.
KMSG_VARIABLE = "ANVIL_KMSG"
# The reading is bounded in bytes and seconds; of the driver's lines, the newest so many stay.
MOST_BYTES, MOST_SECONDS, MOST_LINES = 64 << 20, 5.0, 2000
COMMAND_SECONDS = 15
RECORD = 16384
DRIVER = "NVRM: "


@dataclass(frozen=True)
class KernelLine:
    """seconds: since the boot."""

    seconds: float
    text: str


@dataclass(frozen=True)
class KernelLog:
    """The driver's lines, oldest first. source: what was read. trouble: why nothing could be read; empty: something was."""

    lines: Tuple[KernelLine, ...] = ()
    source: str = ""
    trouble: str = ""


_KMSG_LINE = re.compile(r"(?P<priority>\d+),\d+,(?P<micro>\d+),[^;]*;(?P<text>.*)")
_RAW_LINE = re.compile(r"<(?P<priority>\d+)>\s*\[\s*(?P<seconds>\d+\.\d+)\]\s*(?P<text>.*)")


def _is_kernel(priority: str) -> bool:
    """The facility of the kernel is 0; the level has three bits."""
    return int(priority) >> 3 == 0


def parse_kmsg(text: str) -> List[KernelLine]:
    """The driver's lines in records of ``/dev/kmsg``."""
    found = []
    for line in text.splitlines():
        seen = _KMSG_LINE.match(line)
        if seen and seen["text"].startswith(DRIVER) and _is_kernel(seen["priority"]):
            found.append(KernelLine(int(seen["micro"]) / 1e6, seen["text"]))
    return found


def parse_dmesg(text: str) -> List[KernelLine]:
    """The driver's lines in the output of ``dmesg --raw``."""
    found = []
    for line in text.splitlines():
        seen = _RAW_LINE.match(line)
        if seen and seen["text"].startswith(DRIVER) and _is_kernel(seen["priority"]):
            found.append(KernelLine(float(seen["seconds"]), seen["text"]))
    return found


def parse_journal(text: str) -> List[KernelLine]:
    """The driver's lines in the output of ``journalctl -k -o json``."""
    found = []
    for line in text.splitlines():
        if DRIVER not in line:
            continue
        try:
            entry = json.loads(line)
            message, facility = entry.get("MESSAGE"), str(entry.get("SYSLOG_FACILITY", ""))
            moment = entry.get("_SOURCE_MONOTONIC_TIMESTAMP") or entry.get("__MONOTONIC_TIMESTAMP") or 0
            if (
                entry.get("_TRANSPORT") == "kernel"
                and facility == "0"
                and isinstance(message, str)
                and message.startswith(DRIVER)
            ):
                found.append(KernelLine(int(moment) / 1e6, message.splitlines()[0]))
        except (ValueError, TypeError, AttributeError, RecursionError):
            continue
    return found


def read_records(path: str) -> str:
    """The records of the driver in ``/dev/kmsg``. Raises OSError where it may not be read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    kept: List[bytes] = []
    left, until = MOST_BYTES, time.monotonic() + MOST_SECONDS
    rest = b""
    try:
        if not stat.S_ISCHR(os.fstat(descriptor).st_mode) and not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("{0} is no device".format(path))
        while left > 0 and time.monotonic() < until:
            try:
                record = os.read(descriptor, RECORD)
            except BlockingIOError:
                break  # the newest record was read
            except BrokenPipeError:
                continue  # records were overwritten meanwhile
            if not record:
                break
            left -= len(record)
            *lines, rest = (rest + record).split(b"\n")
            kept += [line for line in lines if DRIVER.encode() in line]
            kept = kept[-MOST_LINES:]
    finally:
        os.close(descriptor)
    return b"\n".join([*kept, rest]).decode("utf-8", "replace")


def run_command(argv: Sequence[str]) -> str:
    """The output of a command. Raises OSError if it fails."""
    try:
        done = subprocess.run(
            list(argv),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=COMMAND_SECONDS,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as exc:
        raise OSError("it did not answer within {0} s".format(COMMAND_SECONDS)) from exc
    if done.returncode:
        raise OSError(done.stderr.decode("utf-8", "replace").strip()[:200] or "it exited with {0}".format(done.returncode))
    return done.stdout.decode("utf-8", "replace")


def read_kernel_log(run: Callable[[Sequence[str]], str] = run_command, path: Optional[str] = None) -> KernelLog:
    """The driver's lines of this boot, from the first source that may be read."""
    chosen = path or os.environ.get(KMSG_VARIABLE) or KMSG
    troubles = []
    try:
        return KernelLog(tuple(parse_kmsg(read_records(chosen))[-MOST_LINES:]), chosen)
    except OSError as exc:
        troubles.append("{0}: {1}".format(chosen, exc.strerror or exc))
    fields = "--output-fields=MESSAGE,SYSLOG_FACILITY,_TRANSPORT,_SOURCE_MONOTONIC_TIMESTAMP"
    commands: Tuple[Tuple[Sequence[str], Callable[[str], List[KernelLine]]], ...] = (
        (("journalctl", "-k", "-b", "0", "-o", "json", fields, "-n", "20000", "--no-pager", "-q"), parse_journal),
        (("dmesg", "-r"), parse_dmesg),
    )
    for argv, parse in commands:
        if shutil.which(argv[0]) is None:
            continue
        try:
            text = run(argv)
        except OSError as exc:
            troubles.append("{0}: {1}".format(argv[0], exc.strerror or exc))
            continue
        if not text.strip():
            troubles.append("{0}: it printed nothing".format(argv[0]))
            continue
        return KernelLog(tuple(parse(text)[-MOST_LINES:]), argv[0])
    return KernelLog((), "", "; ".join(troubles))
