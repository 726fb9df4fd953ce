# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines for the operator's terminal, which executes nothing in them; and a secret, past Ansible's output and its log."""

from __future__ import annotations

import json
import os
import re
import subprocess

from ansible import context
from ansible.utils.display import Display
from ansible_collections.anvil.serving.plugins.module_utils.core.printable import make_printable, make_printable_line


def find_terminal() -> str | None:
    """The terminal in which ansible-playbook was started, even if its output is redirected; None if there is none.

    A worker process has no terminal of its own, so the terminal of its parent is looked up.
    """
    shown = subprocess.run(["ps", "-o", "tty=", "-p", str(os.getppid())], capture_output=True, text=True, check=False)
    name = shown.stdout.strip()
    return f"/dev/{name}" if re.fullmatch(r"[a-zA-Z0-9/]+", name) else None


def wants_json() -> bool:
    """Whether the run was started with ``-e output=json``: it then prints one JSON document and nothing around it."""
    return any(_reads_json(str(words)) for words in context.CLIARGS.get("extra_vars") or ())


def _reads_json(words: str) -> bool:
    try:
        document = json.loads(words)
        return isinstance(document, dict) and document.get("output") == "json"
    except ValueError:
        return "output=json" in words.split()


def display_text(text: str) -> None:
    """Print a text as it is laid out: a debug task would quote and indent a table."""
    if not wants_json():
        Display().display(make_printable(text))


def write_to_terminal(name: str, secret: str) -> bool:
    """Write ``name: secret`` to the terminal of ansible-playbook. Returns false if there is none."""
    path = find_terminal()
    try:
        terminal = os.open(path, os.O_WRONLY | os.O_NOCTTY) if path else None
    except OSError:
        terminal = None
    if terminal is None:
        return False
    line = f"\r{make_printable_line(name)}: {make_printable_line(secret)}\r\n"
    try:
        os.write(terminal, line.encode("utf-8", "replace"))
    finally:
        os.close(terminal)
    return True
