# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Judge the layers of a variable that set one key to different values, by where Ansible says that they were written.

The place decides nothing but the judgement. Which value counts is decided by the order of the suffixes alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_layers import SEPARATOR, MergedLayers, Override
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import format_path
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.source_lines import find_origin, format_origin

COMMAND_LINE, HOST, GROUP, EVERY_HOST = 4, 3, 2, 1
KINDS = {COMMAND_LINE: "the command line", HOST: "the host", GROUP: "a group", EVERY_HOST: "all hosts"}


@dataclass(frozen=True)
class Place:
    """Where a value was written. rank: the higher, the more specific; 0 is unknown. name: of the host or group."""

    rank: int = 0
    name: str = ""
    line: str = ""


def _find_place(raw: Mapping[str, Any], layer: str, override: Override) -> Place:
    origin = find_origin(raw, [layer, *override.path])
    line = format_origin(origin) or "an unknown place"
    if origin is None or not origin.path:
        return Place(COMMAND_LINE if "'-e'" in line else 0, "", line)
    parts = Path(origin.path).parts
    for folder, rank in (("host_vars", HOST), ("group_vars", GROUP)):
        if folder in parts[:-1]:
            name = Path(parts[len(parts) - parts[::-1].index(folder)])
            word = name.stem if name.suffix in (".yml", ".yaml", ".json") else name.name
            return Place(EVERY_HOST if rank == GROUP and word == "all" else rank, word, line)
    return Place(0, "", line)


def judge_layers(raw: Mapping[str, Any], variable: str, merged: MergedLayers) -> tuple[list[Problem], list[str]]:
    """Problems and notes. raw: all variables of the host, with the tags of Ansible.

    A more specific place may replace the value of a less specific one. The opposite, and two values in one place, are problems:
    the alphabet would decide between them. Of two groups, and where the place is unknown, it is a note.
    """
    problems, notes = [], []
    for override in merged.overrides:
        where = format_path((variable, *map(str, override.path)))
        lower, upper = (_find_place(raw, layer, override) for layer in (override.loser, override.winner))
        both = f"{override.loser} at {lower.line}, {override.winner} at {upper.line}"
        known = lower.rank and upper.rank
        if known and upper.rank > lower.rank:
            continue
        if known and upper.rank < lower.rank:
            what = f"the value for {KINDS[upper.rank]} would replace that for {KINDS[lower.rank]}"
            hint = f"rename {override.loser} so that it comes last: {_name_last(variable, override)}"
            problems.append(Problem(what, where, f"{both}; layers are merged in alphabetical order of their suffixes", hint))
        elif known and lower.name == upper.name:
            what = "two layers of one place set it to different values"
            problems.append(Problem(what, where, both, "keep one of the two values"))
        else:
            notes.append(f"{where}: two layers set it, and the later suffix replaces the other: {both}")
    for path, layer in merged.idle:
        line = format_origin(find_origin(raw, [layer, *path]))
        where = format_path((variable, *map(str, path)))
        notes.append(f"{where}: {layer}{' at ' + line if line else ''} removes it, but no earlier layer has it")
    return problems, notes


def _name_last(variable: str, override: Override) -> str:
    """A name for a layer that comes after the one that replaces it."""
    suffix, later = (name.partition(SEPARATOR)[2] for name in (override.loser, override.winner))
    suffix = suffix or "host"
    while suffix <= later:
        suffix = "z" + suffix
    return f"{variable}{SEPARATOR}{suffix}"
