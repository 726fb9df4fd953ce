# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write a secret to the operator's terminal only, past Ansible's output and its log."""

from __future__ import annotations

import os
import re
import subprocess


def find_terminal() -> str | None:
    """The terminal in which ansible-playbook was started, even if its output is redirected; None if there is none.

    A worker process has no terminal of its own, so the terminal of its parent is looked up.
    """
    shown = subprocess.run(["ps", "-o", "tty=", "-p", str(os.getppid())], capture_output=True, text=True, check=False)
    name = shown.stdout.strip()
    return f"/dev/{name}" if re.fullmatch(r"[a-zA-Z0-9/]+", name) else None


def replace_control_characters(text: str) -> str:
    """The text with ``?`` for every control character, because a terminal would execute it."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)


def write_to_terminal(name: str, secret: str) -> bool:
    """Write ``name: secret`` to the terminal of ansible-playbook. Returns false if there is none."""
    path = find_terminal()
    try:
        terminal = os.open(path, os.O_WRONLY | os.O_NOCTTY) if path else None
    except OSError:
        terminal = None
    if terminal is None:
        return False
    line = f"\r{replace_control_characters(name)}: {replace_control_characters(secret)}\r\n"
    try:
        os.write(terminal, line.encode("utf-8", "replace"))
    finally:
        os.close(terminal)
    return True
