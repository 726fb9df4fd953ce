# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find the file and line of the inventory where a key was written, and name it in a problem.

Ansible 2.19 tags every value with its origin. The tags are not a public interface: without them no line is named, and all else
works as before.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_layers import KeyPath, find_layers

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
    return format_origin(find_origin(raw, _split_path(where)))


def _split_path(where: str) -> list[str]:
    """``anvil_serves.heavy.gpus[0]`` as its steps, up to the first one that is not a plain word or a number."""
    steps, position = [], 0
    while match := STEP.match(where, position):
        steps.append(match[1] if match[1] is not None else match[2])
        position = match.end()
    return steps


def find_origin(raw: Mapping[str, Any], steps: Sequence[Any]) -> Any:
    """The tag with the source of a value: that of the deepest part of the path that has one; None without any."""
    value, found = raw, None
    for step in map(str, steps):
        if isinstance(value, Mapping):
            key = next((key for key in value if str(key) == step), None)
            if key is None:
                break
            value = value[key]
            found = _read_origin(key) or _read_origin(value) or found
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
            found = _read_origin(value) or found
        else:
            break
    return found


def _read_origin(value: Any) -> Any:
    origin = read_tag(Origin, value)
    return origin if origin is not None and format_origin(origin) else None


def format_origin(origin: Any) -> str:
    """The file and line, or what Ansible says of a value that is from no file: ``<CLI option '-e'>``."""
    if origin is None or not origin.path:
        return "" if origin is None or origin.description == "<unknown>" else str(origin.description or "")
    path = Path(origin.path)
    here = Path.cwd()
    shown = path.relative_to(here) if path.is_relative_to(here) else path
    return f"{shown}:{origin.line_num}" if origin.line_num else str(shown)


def find_written_lines(raw: Mapping[str, Any], sources: Mapping[str, Mapping[KeyPath, str]], where: str) -> str:
    """As ``find_source_line``, for a variable whose layers were merged: the line in each layer that wrote a part of the value."""
    variable, *steps = _split_path(where) or [""]
    if variable not in sources:
        return find_source_line(raw, where)
    lines = []
    for layer in find_layers(sources[variable], steps):
        line = format_origin(find_origin(raw, [layer, *steps]))
        lines.append(f"{line} ({layer})" if line else layer)
    return " and ".join(lines)


def add_source_lines(
    problems: list[Problem], raw: Mapping[str, Any], sources: Mapping[str, Mapping[KeyPath, str]]
) -> list[Problem]:
    """The problems, each with the file and line of its key in ``why``. sources: the layers of merged variables."""
    located = []
    for problem in problems:
        line = find_written_lines(raw, sources, problem.where)
        why = "; ".join(text for text in (f"written at {line}" if line else "", problem.why) if text)
        located.append(replace(problem, why=why))
    return located
