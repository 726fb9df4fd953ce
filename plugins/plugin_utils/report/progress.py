# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress on the operator's terminal: a module runs as ever, and a long one is looked at meanwhile.

A second command on the same connection reads the module's small progress file, first after two seconds: a run that has
nothing to do never sees it. Where the connection cannot run two commands at once, or nobody wants lines, nothing is read.
"""

from __future__ import annotations

import copy
import os
import secrets
import shlex
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.anvil.serving.plugins.module_utils.core.live_output import output_path

# Read in the main process, before ansible forks: a worker has no terminal of its own any more.
ON_TERMINAL = sys.stdout.isatty()
# Each command of these is a process of its own, so two may run at once.
CONNECTIONS = ("local", "ssh", "community.docker.docker")
FIRST_LOOK, LONGEST_PAUSE, LOG_PAUSE = 2.0, 5.0, 10.0


def wants_progress(word: str) -> bool:
    """ANVIL_PROGRESS=no, 0, false, off, quiet or never turns progress off."""
    return word.strip().lower() not in ("no", "0", "false", "off", "quiet", "never", "none")


def wants_lines(task: Any) -> bool:
    """Whether lines may be shown for a task: not for one that hides its values, looks only, or runs in the background."""
    asked = os.environ.get("ANVIL_PROGRESS", "yes")
    return wants_progress(asked) and not (task.no_log or task.check_mode or task.async_val)


class Teller:
    """Which of the lines read so far are to be shown now: all on a terminal, else one line in ten seconds."""

    def __init__(self, host: str, on_terminal: bool, clock: Callable[[], float]) -> None:
        self.host = host
        self.on_terminal = on_terminal
        self.clock = clock
        self.shown = 0
        self.last = float("-inf")

    def close(self, serves: dict[str, Any]) -> list[str]:
        """How the serves ended that were talked of, for a terminal; in a log the task's own line is enough."""
        if not (self.on_terminal and self.shown):
            return []
        return [
            f"[{self.host}] {name}: {end['state'].replace('_', ' ')}"
            for name, end in serves.items()
            if end.get("action") != "none"
        ]

    def choose(self, lines: list[str]) -> list[str]:
        fresh = lines[self.shown :]
        if not fresh:
            return []
        if self.on_terminal:
            self.shown = len(lines)
            return [f"[{self.host}] {line}" for line in fresh]
        if self.clock() - self.last < LOG_PAUSE:
            return []
        self.shown, self.last = len(lines), self.clock()
        latest = {line.partition(":")[0]: line for line in fresh}
        return [f"[{self.host}] " + "; ".join(latest.values())]


class Screen:
    """Shows lines about what the controller itself does, as seldom as those of a module."""

    def __init__(self, host: str, wanted: bool) -> None:
        self.teller, self.lines = Teller(host, ON_TERMINAL, time.monotonic), list[str]()
        self.began, self.wanted = time.monotonic(), wanted

    def say(self, line: str) -> None:
        self.lines.append(line)
        if self.wanted and time.monotonic() - self.began >= FIRST_LOOK:
            for shown in self.teller.choose(self.lines):
                Display().display(shown)


class TellingAction(ActionBase):
    """Runs a module of its own name, and shows the lines that it tells meanwhile."""

    _supports_check_mode = True
    _supports_async = True

    def tell_while(
        self, arguments: dict[str, Any], task_vars: dict[str, Any], where: Callable[[str], str] = output_path
    ) -> tuple[dict[str, Any], Teller]:
        """Run the module. where: the path of its progress file on the host, by the token of this run."""
        arguments.pop("progress", None)
        over = threading.Event()
        teller = Teller(str(task_vars.get("inventory_hostname", "localhost")), ON_TERMINAL, time.monotonic)
        if self._can_tell():
            arguments["progress"] = secrets.token_hex(16)
            path = where(arguments["progress"])
            threading.Thread(target=self._tell, args=(path, teller, over), daemon=True).start()
        wrap_async = bool(self._task.async_val) and not self._connection.has_native_async
        try:
            answer: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=task_vars, wrap_async=wrap_async)
        finally:
            over.set()
        if not wrap_async:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return answer, teller

    def _can_tell(self) -> bool:
        return (
            wants_lines(self._task) and self._connection.transport in CONNECTIONS and self._connection._shell.SHELL_FAMILY == "sh"
        )

    def _tell(self, path: str, teller: Teller, over: threading.Event) -> None:
        pause = FIRST_LOOK
        # A connection of its own: without become, for the file is no secret, and no prompt must be answered.
        connection = copy.copy(self._connection)
        connection.set_become_plugin(None)
        while not over.wait(pause):
            try:
                code, out, _err = connection.exec_command(f"cat {shlex.quote(path)} 2>/dev/null", sudoable=False)
            except (AnsibleError, OSError):
                return
            if code == 0 and not over.is_set():
                for line in teller.choose(out.decode("utf-8", "replace").splitlines()):
                    Display().display(line)
            pause = 1.0 if pause == FIRST_LOOK else min(pause * 1.2, LONGEST_PAUSE)
