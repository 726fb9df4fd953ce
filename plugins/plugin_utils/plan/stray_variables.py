# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an inventory writes and no host gets: misspelt variables, and files of variables whose name matches no host or group."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import OTHER_VARIABLES, VARIABLES
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_layers import split_layer
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_names import find_misspelt, find_without_prefix
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import find_similar
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.source_lines import find_source_line

HOSTS, GROUPS = "host_vars", "group_vars"
ENDINGS = (".yml", ".yaml", ".json")
# How similar a misspelt name is, from 0 to 1, and how much of the files of a misspelt name is read.
LIKE, MOST_FILES, MOST_BYTES = 0.75, 50, 1 << 20


@dataclass
class Strays:
    """problems: certain mistakes. notes: what is probably one."""

    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_strays(host: str, variables: Mapping[str, Any]) -> Strays:
    """variables: all variables of the host, with those that Ansible sets (``groups``, ``ansible_inventory_sources``, …)."""
    found = Strays()
    known = (*VARIABLES, *OTHER_VARIABLES)
    for name, meant in find_misspelt(variables, known):
        line = find_source_line(variables, name)
        why = f"written at {line}" if line else ""
        found.problems.append(Problem("unknown variable, so it has no effect", name, why, f"did you mean {meant}?"))
    for name, meant in find_without_prefix(variables, known):
        line = find_source_line(variables, name)
        found.notes.append(f"{name}{' at ' + line if line else ''} is not read: did you mean {meant}?")
    groups = variables.get("groups") or {}
    hosts, folders = list(groups.get("all") or [host]), _list_folders(variables)
    if not any(split_layer(name)[0] in VARIABLES for name in variables):
        found.problems.extend(_explain_emptiness(host, hosts, folders))
    elif host == next(iter(variables.get("ansible_play_hosts_all") or [host])):
        found.notes.extend(_list_unused_files(hosts, list(groups), folders))
    return found


def _list_folders(variables: Mapping[str, Any]) -> dict[Path, bool]:
    """The folders of the sources of the inventory, and whether the source is the whole folder."""
    sources = [Path(str(source)) for source in variables.get("ansible_inventory_sources") or ()]
    return {source if source.is_dir() else source.parent: source.is_dir() for source in sources if source.exists()}


def _explain_emptiness(host: str, hosts: Sequence[str], folders: Mapping[Path, bool]) -> list[Problem]:
    """Why a host has no variables of this collection: a file or folder whose name is misspelt. Empty: no such file is there."""
    found, what = [], f"host {host} has no variables of this collection"
    for folder, whole in folders.items():
        for path, name in _list_strays(folder / HOSTS, hosts):
            if (_is_misspelt(name, host) or (whole and len(hosts) == 1)) and _mentions_variables(path):
                why = "Ansible reads the variables of a host from the file or folder with its name"
                hint = f"rename it to {host}{path.suffix if path.is_file() else ''}, or correct the name of the host"
                found.append(Problem(f"{what}, and no host has the name of this file", _shorten(path), why, hint))
        names = {entry.name for entry in _list_entries(folder) if entry.is_dir()}
        for name in sorted(names - {HOSTS, GROUPS}):
            meant = find_similar(name, {HOSTS, GROUPS} - names)
            if meant and _ratio(name, meant) >= LIKE and _mentions_variables(folder / name):
                what_folder = f"{what}, and Ansible reads no folder of this name"
                found.append(Problem(what_folder, _shorten(folder / name), hint=f"rename it to {meant}"))
    return found


def _list_unused_files(hosts: Sequence[str], groups: Sequence[str], folders: Mapping[Path, bool]) -> list[str]:
    """Notes on files of variables that match nothing. A folder that may belong to several inventories has none."""
    notes = []
    for folder in (folder for folder, whole in folders.items() if whole):
        for kind, noun, names in ((HOSTS, "host", hosts), (GROUPS, "group", groups)):
            for path, name in _list_strays(folder / kind, names):
                close = next((known for known in names if _is_misspelt(name, known)), "")
                hint = f": did you mean {close}?" if close else ""
                notes.append(f"{_shorten(path)} has no effect: the inventory has no {noun} {name}{hint}")
            for path, shadow in _list_hidden(folder / kind):
                notes.append(f"{_shorten(path)} is not read, because Ansible reads {_shorten(shadow)}: move it into that folder")
    return notes


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one.lower(), other.lower()).ratio()


def _is_misspelt(name: str, meant: str) -> bool:
    """Whether two names are so similar that one is a mistake. Names that differ in their numbers are those of two hosts."""
    if re.sub(r"\d", "", name) == re.sub(r"\d", "", meant) and any(map(str.isdigit, name)) and any(map(str.isdigit, meant)):
        return False
    return _ratio(name, meant) >= LIKE


def _mentions_variables(path: Path) -> bool:
    """Whether a file, or one below a folder, writes variables of this collection; a vaulted one may."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    for file in files[:MOST_FILES]:
        try:
            with file.open("rb") as stream:
                text = stream.read(MOST_BYTES)
        except OSError:
            continue
        if b"anvil_" in text or text.startswith(b"$ANSIBLE_VAULT"):
            return True
    return False


def _list_entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _list_strays(folder: Path, names: Collection[str]) -> list[tuple[Path, str]]:
    """The entries of ``host_vars`` or ``group_vars`` that match no name. Hidden files and backups are none."""
    listed = [
        (entry, entry.stem if entry.suffix in ENDINGS and not entry.is_dir() else entry.name)
        for entry in _list_entries(folder)
        if not entry.name.startswith(".") and not entry.name.endswith("~")
    ]
    return [(entry, name) for entry, name in listed if name not in names]


def _list_hidden(folder: Path) -> list[tuple[Path, Path]]:
    """Files beside a folder of the same name. Ansible reads the folder only."""
    entries = _list_entries(folder)
    folders = {entry.name: entry for entry in entries if entry.is_dir()}
    return [(entry, folders[entry.stem]) for entry in entries if entry.suffix in ENDINGS and entry.stem in folders]


def _shorten(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
