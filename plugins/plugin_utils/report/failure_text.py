# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a task failed, as lines for an operator: the module's message, never a traceback or a dump of its result. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

# The end of what a command printed.
OUTPUT_LINES = 10
HIDDEN = "the message is hidden, because the task has no_log"


def failure_lines(result: Mapping[str, Any]) -> list[str]:
    """The message of a failed or unreachable result, without empty lines at its ends."""
    if "censored" in result:
        return [HIDDEN]
    message = result.get("msg") or result.get("reason") or "the task gave no message"
    text = "\n".join(map(str, message)) if isinstance(message, list) else str(message)
    lines = text.removeprefix("Task failed: ").strip("\n").splitlines()
    lines += _assertion(result) + _output(result)
    return [line.rstrip() for line in lines]


def _assertion(result: Mapping[str, Any]) -> list[str]:
    return [f"the assertion: {result['assertion']}"] if "assertion" in result else []


def _output(result: Mapping[str, Any]) -> list[str]:
    """What a command or a module that broke printed: the exit code, and the end of its output."""
    if "module_stderr" in result:
        printed = str(result["module_stderr"] or result.get("module_stdout") or "").strip().splitlines()
        return [*("    | " + line for line in printed[-1:]), "-v prints all of its output"]
    if "rc" not in result or "stderr" not in result:
        return []
    printed = (str(result["stderr"]).strip() or str(result.get("stdout", "")).strip()).splitlines()
    return [f"exit code {result['rc']}", *("    | " + line for line in printed[-OUTPUT_LINES:])]


def without_host(lines: list[str], host: str) -> str:
    """The text with the host's name taken out, to see whether two hosts failed alike."""
    return re.sub(rf"(?<![\w.-]){re.escape(host)}(?![\w-])", "<host>", "\n".join(lines))


def shorten_path(path: str) -> str:
    """A path below the current folder by its place there."""
    below = os.path.relpath(path)
    return path if below.startswith("..") else below
