# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of the controller from which ``anvil_secrets`` are read, and which of them others can read. No secret is read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.template import is_trusted_as_template, trust_as_template

# A value that is one lookup of one file, and nothing else.
LOOKUP = re.compile(
    r"""\{\{\s*(?:lookup|query|q)\(\s*(['"])(?:ansible\.builtin\.)?(?:file|unvault)\1\s*,\s*(?P<path>[^{}]+?)\s*\)\s*"""
    r"""(?:\|\s*(?:trim|first)\s*)?\}\}"""
)


def find_secret_files(templar: Any, variables: Mapping[str, Any]) -> dict[str, Path]:
    """Name of a secret -> the file that its lookup reads. A secret that is stored in another way, or by a path
    that the lookup searches, is not listed."""
    found = {}
    layers = sorted(name for name in variables if name == "anvil_secrets" or name.startswith("anvil_secrets__"))
    written = [variables[layer] for layer in layers if isinstance(variables[layer], Mapping)]
    for name, entry in ((name, entry) for layer in written for name, entry in layer.items()):
        match = LOOKUP.fullmatch(entry.strip()) if isinstance(entry, str) else None
        if match is None or not is_trusted_as_template(entry):
            continue
        try:
            path = templar.evaluate_expression(trust_as_template(match["path"]))
        except AnsibleError:
            continue
        if isinstance(path, str) and Path(path).expanduser().is_absolute():
            found[str(name)] = Path(path).expanduser()
    return found


def list_open_files(files: Mapping[str, Path]) -> list[str]:
    """A warning for each file that other users of this machine can read."""
    lines = []
    for name, path in files.items():
        try:
            mode = path.stat().st_mode & 0o777
        except OSError:
            continue
        if mode & 0o077:
            what = f"anvil_secrets.{name}: other users of this machine can read {path} (mode {mode:04o})"
            lines.append(f"{what}; to close it: chmod 600 {shlex.quote(str(path))}")
    return lines
