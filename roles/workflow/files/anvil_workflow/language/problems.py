# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Mistakes in a workflow file: what is wrong, at which key and line, and what to do."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

Path = tuple[str | int, ...]
# The last step of the path of a key that is written a second time: the place of the first one stays known.
REPEATED = "\0"


@dataclass(frozen=True)
class Finding:
    """One mistake, before its line is known. path: ``("nodes", 2, "prompt")``."""

    path: Path
    what: str
    do: str = ""


@dataclass(frozen=True)
class Problem:
    """One mistake. path: ``nodes[2].prompt``. line and column count from 1, and are 0 where there is none."""

    path: str
    line: int
    column: int
    value: str
    what: str
    do: str

    def as_text(self, name: str) -> str:
        place = f"{name}:{self.line}:{self.column}" if self.line else name
        head = f"{place}: {self.path}: {self.what}" if self.path else f"{place}: {self.what}"
        return f"{head}\n    do: {self.do}" if self.do else head

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class WorkflowError(Exception):
    """The file is not a valid workflow. problems: every mistake in it."""

    def __init__(self, *problems: Problem) -> None:
        self.problems = problems
        super().__init__("\n".join(problem.as_text("workflow") for problem in problems))


def suggest(word: str, known: Iterable[str]) -> str:
    """``did you mean topic? use one of: draft, topic``"""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, 1, 0.5)
    listed = f"use one of: {', '.join(names)}" if names else "none is defined"
    return f"did you mean {near[0]}? {listed}" if near else listed


def locate_finding(finding: Finding, places: Mapping[Path, tuple[int, int]], data: Any) -> Problem:
    """The problem of a finding: with its line, or that of the nearest key above it."""
    path = finding.path
    line, column = 0, 0
    for length in range(len(path), -1, -1):
        if path[:length] in places:
            line, column = places[path[:length]]
            break
    shown = tuple(step for step in path if step != REPEATED)
    return Problem(write_path(shown), line, column, _write_value(data, shown), finding.what, finding.do)


def write_path(path: Path) -> str:
    """``nodes[2].prompt``"""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def _write_value(data: Any, path: Path) -> str:
    value = data
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return ""
    if isinstance(value, (dict, list)):
        return ""
    text = re.sub(r"\s+", " ", str(value))
    return text if len(text) <= 80 else text[:77] + "..."
