# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show the progress of a module on the operator's terminal while it runs.

A second command on the same connection reads the progress file of the module. It reads for the first time after two seconds, so a
run with nothing to do costs nothing. If the connection cannot run two commands at once, or progress is off, nothing is read.
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
from ansible_collections.anvil.serving.plugins.module_utils.core.live_output import output_path
from ansible_collections.anvil.serving.plugins.plugin_utils.host_code.module_action import HostCodeAction
from ansible_collections.anvil.serving.plugins.plugin_utils.report.terminal import display_text

# Set in the main process, before Ansible forks: a worker has no terminal.
ON_TERMINAL = sys.stdout.isatty()
# On these connections each command is a process of its own, so two can run at once.
CONNECTIONS = ("local", "ssh", "community.docker.docker")
# Seconds: until the first reading; the longest pause between two; the shortest pause between two lines in a log.
FIRST_READ, LONGEST_PAUSE, LOG_PAUSE = 2.0, 5.0, 10.0


def is_progress_on(word: str) -> bool:
    """Whether a value of ANVIL_PROGRESS turns progress on; no, 0, false, off, quiet and never turn it off."""
    return word.strip().lower() not in ("no", "0", "false", "off", "quiet", "never", "none")


def shows_progress(task: Any) -> bool:
    """Whether progress is shown for a task. It is not for one with no_log, in check mode, or in the background."""
    setting = os.environ.get("ANVIL_PROGRESS", "yes")
    return is_progress_on(setting) and not (task.no_log or task.check_mode or task.async_val)


class LineSelector:
    """Selects which of the lines read so far to show now: all on a terminal, in a log one line in ten seconds."""

    def __init__(self, host: str, on_terminal: bool, clock: Callable[[], float]) -> None:
        self.host = host
        self.on_terminal = on_terminal
        self.clock = clock
        self.shown = 0
        self.last = float("-inf")

    def describe_ends(self, serves: dict[str, Any]) -> list[str]:
        """The final state of each changed serve, on a terminal that showed progress. In a log the task result is enough."""
        if not (self.on_terminal and self.shown):
            return []
        return [
            f"[{self.host}] {name}: {end['state'].replace('_', ' ')}"
            for name, end in serves.items()
            if end.get("action") != "none"
        ]

    def select(self, lines: list[str]) -> list[str]:
        """The lines to show now. lines: all lines read so far."""
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


class ControllerOutput:
    """Shows lines about what the controller itself does, as rarely as those of a module."""

    def __init__(self, host: str, enabled: bool) -> None:
        self.selector, self.lines = LineSelector(host, ON_TERMINAL, time.monotonic), list[str]()
        self.began, self.enabled = time.monotonic(), enabled

    def write_line(self, line: str) -> None:
        self.lines.append(line)
        if self.enabled and time.monotonic() - self.began >= FIRST_READ:
            for shown in self.selector.select(self.lines):
                display_text(shown)


class ProgressAction(HostCodeAction):
    """Runs the module of the same name, and shows its progress meanwhile."""

    _supports_async = True

    def run_with_progress(
        self, arguments: dict[str, Any], task_vars: dict[str, Any], where: Callable[[str], str] = output_path
    ) -> tuple[dict[str, Any], LineSelector]:
        """Run the module. where: token of this run -> path of its progress file on the host."""
        arguments.pop("progress", None)
        over = threading.Event()
        selector = LineSelector(str(task_vars.get("inventory_hostname", "localhost")), ON_TERMINAL, time.monotonic)
        if self._can_read_progress():
            arguments["progress"] = secrets.token_hex(16)
            path = where(arguments["progress"])
            threading.Thread(target=self._show_progress, args=(path, selector, over), daemon=True).start()
        wrap_async = bool(self._task.async_val) and not self._connection.has_native_async
        try:
            answer: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=task_vars, wrap_async=wrap_async)
        finally:
            over.set()
        if not wrap_async:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return answer, selector

    def _can_read_progress(self) -> bool:
        return (
            shows_progress(self._task)
            and self._connection.transport in CONNECTIONS
            and self._connection._shell.SHELL_FAMILY == "sh"
        )

    def _show_progress(self, path: str, selector: LineSelector, over: threading.Event) -> None:
        pause = FIRST_READ
        # A copy of the connection without become: the file is not secret, and no password prompt may appear.
        connection = copy.copy(self._connection)
        connection.set_become_plugin(None)
        while not over.wait(pause):
            try:
                code, out, _err = connection.exec_command(f"cat {shlex.quote(path)} 2>/dev/null", sudoable=False)
            except (AnsibleError, OSError):
                return
            if code == 0 and not over.is_set():
                for line in selector.select(out.decode("utf-8", "replace").splitlines()):
                    display_text(line)
            pause = 1.0 if pause == FIRST_READ else min(pause * 1.2, LONGEST_PAUSE)
