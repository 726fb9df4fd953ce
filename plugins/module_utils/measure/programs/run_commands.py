# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs commands one after the other inside a side container, and reports each of them as a line of JSON.

The order comes as one line on standard input, so no secret is part of a command line or of the container's description:
{"commands": [{"name", "argv", "environment", "files": {path: text}, "outputs": {path: characters}, "timeout": seconds}],
"secrets": [text]}

The reports: {"running": name, "seconds"} every few seconds; {"ended": name, "code", "seconds", "outputs": {path: text}, "log"};
{"done": true} at the end. code is null after the timeout. A path that the command did not write is not in outputs. When
standard input closes, because the run that started the container is gone, the program ends at once, and with it the container.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any, Mapping, Sequence

PAUSE = 2.0
LOG_LINES = 30
LONGEST_LOG = 1 << 20


def report(**fields: Any) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def end_with_input() -> None:
    while sys.stdin.readline():
        pass
    os._exit(1)


def read_text(path: str, longest: int) -> str:
    with open(path, encoding="utf-8", errors="replace") as stream:
        return stream.read(longest)


def mask(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        for form in (secret, json.dumps(secret)[1:-1], repr(secret)[1:-1]):
            text = text.replace(form, "***") if form else text
    return text


def run_command(command: Mapping[str, Any], secrets: Sequence[str]) -> None:
    for path, text in command.get("files", {}).items():
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(text)
    began = time.monotonic()
    log = "/tmp/command.log"
    with open(log, "wb") as stream:
        child = subprocess.Popen(
            command["argv"],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            env={**os.environ, **command.get("environment", {})},
            start_new_session=True,
            cwd="/tmp",
        )
        code = None
        while time.monotonic() - began < command["timeout"]:
            try:
                code = child.wait(PAUSE)
                break
            except subprocess.TimeoutExpired:
                report(running=command["name"], seconds=round(time.monotonic() - began, 1))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # what it left behind, or itself after the timeout
        child.wait()
    seconds = round(time.monotonic() - began, 2)
    wanted = command.get("outputs", {})
    outputs = {path: mask(read_text(path, longest), secrets) for path, longest in wanted.items() if os.path.isfile(path)}
    lines = mask(read_text(log, LONGEST_LOG), secrets).splitlines()[-LOG_LINES:]
    report(ended=command["name"], code=code, seconds=seconds, outputs=outputs, log=lines)


def main() -> None:
    order = json.loads(sys.stdin.readline())
    threading.Thread(target=end_with_input, daemon=True).start()
    for command in order["commands"]:
        try:
            run_command(command, order["secrets"])
        except OSError as exc:
            report(ended=command["name"], code=127, seconds=0.0, outputs={}, log=[str(exc)])
    report(done=True)


if __name__ == "__main__":
    main()
