# SPDX-License-Identifier: GPL-3.0-or-later
"""The docker command line, for what the Docker Engine's API does not offer: build, push and pull with live output."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time
from typing import IO, Callable, List, Mapping, Optional, Sequence, Tuple, cast

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine

LOG_LINES = 40


def mask_secrets(text: str, secrets: Sequence[str]) -> str:
    """The text with every secret replaced by asterisks; longer ones first, for one may contain another."""
    for value in sorted((word for word in secrets if word), key=len, reverse=True):
        text = text.replace(value, "********")
    return text


def build_argv(docker: DockerEngine, *words: str) -> List[str]:
    """The docker command for this Docker Engine, followed by words."""
    return ["docker", "-H", docker.docker_host, *words]


def run_program(
    argv: Sequence[str],
    timeout: int,
    on_line: Optional[Callable[[str], None]] = None,
    body: bytes = b"",
    env: Optional[Mapping[str, str]] = None,
    find_obstacle: Callable[[], str] = lambda: "",
) -> Tuple[int, str]:
    """Run a program and return its exit status and output. Raises AnvilError after ``timeout`` seconds.

    on_line: called with each line of output as it comes. body: its standard input.
    find_obstacle: asked each second; a reason ends the program, and AnvilError is raised with it.
    """
    lines: List[str] = []

    def collect_lines(stream: IO[bytes]) -> None:
        for raw in stream:
            lines.append(raw.decode("utf-8", "replace"))
            if on_line is not None:
                on_line(lines[-1])

    try:
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env)
    except FileNotFoundError as exc:
        hint = "install the docker command with buildx (docker-cli and docker-buildx), or run the role anvil.serving.docker_host"
        raise fail("the docker command is not on this host", where="PATH", why=str(exc), hint=hint) from exc
    incoming, outgoing = cast(IO[bytes], process.stdin), cast(IO[bytes], process.stdout)
    listener = threading.Thread(target=collect_lines, args=(outgoing,), daemon=True)
    listener.start()
    with contextlib.suppress(BrokenPipeError):  # a program that ended early has printed why
        incoming.write(body)
        incoming.close()
    deadline, obstacle = time.monotonic() + timeout, ""
    while not obstacle:
        try:
            process.wait(min(1.0, max(0.0, deadline - time.monotonic())))
            break
        except subprocess.TimeoutExpired:
            obstacle = find_obstacle()
            what, hint = "command was stopped", "free some space (docker system df; playbooks/prune.yml), then run again"
            if not obstacle and time.monotonic() >= deadline:
                what, obstacle = "command did not end in {0} s".format(timeout), "its time is over"
                hint = "read the end of its log below; if it only needs more time, raise timeout"
    if obstacle:
        process.terminate() if what == "command was stopped" else process.kill()
        process.wait()
        listener.join(5)
        tail = "".join(lines).splitlines()[-LOG_LINES:]
        raise fail(what, where=" ".join(argv[:5]), why=obstacle, hint=hint, log=tail)
    listener.join(5)
    return process.returncode, "".join(lines)
