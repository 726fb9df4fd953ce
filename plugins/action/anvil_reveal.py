# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show a secret on the operator's terminal: it passes neither Ansible's output nor its log, and no host sees it."""

from __future__ import annotations

import os
import re
import subprocess
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.anvil.serving.plugins.modules.anvil_reveal import OPTIONS


def find_terminal() -> str | None:
    """The terminal that ansible-playbook was started from, whatever its output is redirected to; None where there is none.

    A worker has a session of its own and so no /dev/tty: its parent is asked for.
    """
    asked = subprocess.run(["ps", "-o", "tty=", "-p", str(os.getppid())], capture_output=True, text=True, check=False)
    name = asked.stdout.strip()
    return f"/dev/{name}" if re.fullmatch(r"[a-zA-Z0-9/]+", name) else None


def printable(text: str) -> str:
    """The text without control characters, which a terminal would obey."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


class ActionModule(ActionBase):
    """Write one secret to the controlling terminal of ansible-playbook; refused where there is none."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, options = self.validate_argument_spec(argument_spec=OPTIONS)
        result["changed"] = False
        line = f"\r{printable(options['name'])}: {printable(options['secret'])}\r\n"
        path = find_terminal()
        try:
            terminal = os.open(path, os.O_WRONLY | os.O_NOCTTY) if path else None
        except OSError:
            terminal = None
        if terminal is None:
            result.update(failed=True, msg="There is no terminal to show it on, so it is not shown.")
            return result
        try:
            os.write(terminal, line.encode("utf-8", "replace"))
        finally:
            os.close(terminal)
        return result
