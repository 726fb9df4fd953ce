# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the file and line of the inventory where a key was written, and name it in a problem.

Ansible 2.19 tags every value with its origin. The tags are not a public interface: without them no line is named, and all else
works as before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem

try:
    from ansible._internal._datatag._tags import Origin
except ImportError:
    Origin = None

STEP = re.compile(r"\.?([\w-]+)|\[(\d+)\]")


def read_tag(kind: Any, value: Any) -> Any:
    """The tag of a kind on a value; None without one, or if this Ansible has no such tags (kind is None)."""
    return None if kind is None else kind.get_tag(value)


def find_source_line(raw: Mapping[str, Any], where: str) -> str:
    """``inventory/x/host_vars/h.yml:23`` for the key path of a problem: the deepest part of the path that has a source line."""
    value, found, position = raw, "", 0
    while match := STEP.match(where, position):
        word, number = match.groups()
        position = match.end()
        if isinstance(value, Mapping):
            step = word if word is not None else number
            key = next((key for key in value if str(key) == step), None)
            if key is None:
                break
            value = value[key]
            found = _source_line(key) or _source_line(value) or found
        elif isinstance(value, list) and number is not None and int(number) < len(value):
            value = value[int(number)]
            found = _source_line(value) or found
        else:
            break
    return found


def _source_line(value: Any) -> str:
    origin = read_tag(Origin, value)
    if origin is None or not origin.path:
        return "" if origin is None or origin.description == "<unknown>" else str(origin.description or "")
    path = Path(origin.path)
    here = Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return f"{shown}:{origin.line_num}" if origin.line_num else str(shown)


def add_source_lines(problems: list[Problem], raw: Mapping[str, Any]) -> list[Problem]:
    """The problems, each with the file and line of its key in ``why``."""
    located = []
    for problem in problems:
        line = find_source_line(raw, problem.where)
        why = "; ".join(text for text in (f"written at {line}" if line else "", problem.why) if text)
        located.append(replace(problem, why=why))
    return located
