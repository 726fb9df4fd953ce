# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prompt templates: ``{topic}`` and ``{state.profile.name}`` are replaced by values; every other brace stays as it is.

``{{`` and ``}}`` write braces around a word that is not a name. Values are inserted once and are never read as templates.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anvil_workflow.language.conditions import find_value

LONGEST = 8_000_000
PART = re.compile(r"\{\{|\}\}|\{\s*([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\s*\}")
Path = tuple[str, ...]


class PromptError(Exception):
    """A prompt that cannot be sent to a model."""


@dataclass(frozen=True)
class Template:
    """A parsed template. parts: literal texts, and the paths that are replaced by values."""

    parts: tuple[str | Path, ...]

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(part[0] for part in self.parts if isinstance(part, tuple)))

    def render(self, values: Mapping[str, Any]) -> str:
        """Raises PromptError for a text that no model can take: a file may name the same field many times."""
        texts, left = list[str](), LONGEST
        for part in self.parts:
            texts.append(part if isinstance(part, str) else to_text(find_value(values, part)))
            left -= len(texts[-1])
            if left < 0:
                raise PromptError(f"the prompt is longer than {LONGEST} characters")
        return "".join(texts)


def parse_template(text: str) -> Template:
    parts: list[str | Path] = []
    position = doubled = 0
    for match in PART.finditer(text):
        parts.append(text[position : match.start()])
        position = match.end()
        if match[1] is not None:
            parts.append(parse_reference(match[1]))
        elif match[0] == "{{":
            doubled += 1
            parts.append("{")
        else:
            # A "}}" without a "{{" before it ends a nested JSON example.
            parts.append("}" if doubled else "}}")
            doubled = max(0, doubled - 1)
    parts.append(text[position:])
    return Template(tuple(part for part in parts if part))


def parse_reference(text: str) -> Path:
    """``state.a.b``, ``{state.a.b}`` or ``a.b`` -> (a, b)."""
    steps = tuple(text.strip().strip("{}").strip().split("."))
    return steps[1:] if steps[0] == "state" and len(steps) > 1 else steps


def to_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)
