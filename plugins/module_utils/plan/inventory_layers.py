# SPDX-License-Identifier: GPL-3.0-or-later
"""Merge the layers of a variable (``anvil_serves`` and every ``anvil_serves__SUFFIX``) key by key. Pure.

Ansible decides the value of each variable. The variables are then merged in one order: that without a suffix first, then by
suffix, alphabetically. A later layer replaces the value of the same key, and ``null`` removes the key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Mapping, Sequence, Set, Tuple

# Variables that may have layers: those that are mappings.
LAYERED = (
    "anvil_secrets",
    "anvil_gpus",
    "anvil_engines",
    "anvil_serves",
    "anvil_router",
    "anvil_edge",
    "anvil_clients",
    "anvil_discovered",
    "anvil_profiles",
    "anvil_external",
    "anvil_logs",
    "anvil_registries",
)
SEPARATOR = "__"
SUFFIX = re.compile(r"[A-Za-z0-9]\w*", re.ASCII)

KeyPath = Tuple[Any, ...]


@dataclass(frozen=True)
class Override:
    """A key that two layers set to different values. path: below the variable. loser, winner: the names of the two variables."""

    path: KeyPath
    loser: str
    winner: str


@dataclass
class MergedLayers:
    """The merged value, and for each of its leaves the layer that wrote it. A list is a leaf, as is an empty mapping.

    overrides: in the order in which they happened. idle: keys that a layer removes although no earlier layer has them.
    """

    value: Dict[Any, Any] = field(default_factory=dict)
    sources: Dict[KeyPath, str] = field(default_factory=dict)
    overrides: List[Override] = field(default_factory=list)
    idle: List[Tuple[KeyPath, str]] = field(default_factory=list)


def split_layer(name: str) -> Tuple[str, str]:
    """``anvil_serves__gpu`` as variable and suffix; the suffix is empty if the name is not that of a layer."""
    variable, sign, suffix = name.partition(SEPARATOR)
    return (variable, suffix) if sign and variable in LAYERED and SUFFIX.fullmatch(suffix) else (name, "")


def list_layers(names: Iterable[str], variable: str) -> List[str]:
    """The names of the layers of a variable, in the order in which they are merged."""
    found = [name for name in names if split_layer(name)[0] == variable]
    return sorted(found, key=lambda name: split_layer(name)[1])


def has_layers(names: Iterable[str], variable: str) -> bool:
    return any(split_layer(name)[0] == variable and name != variable for name in names)


def drop_layers(variables: Mapping[str, Any], replaced: Iterable[str]) -> Dict[str, Any]:
    """The variables without those named and without their layers, for a caller that replaces them as a whole."""
    gone: Set[str] = set(replaced)
    return {name: value for name, value in variables.items() if split_layer(name)[0] not in gone}


def list_leaves(value: Any, path: KeyPath = ()) -> Iterable[Tuple[KeyPath, Any]]:
    """(path, value) of every leaf of a value."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from list_leaves(item, (*path, key))
    else:
        yield path, value


def merge_layers(layers: Sequence[Tuple[str, Mapping[Any, Any]]]) -> MergedLayers:
    """Merge mappings, each with the name of its variable, in the order given."""
    merged = MergedLayers()
    for number, (name, value) in enumerate(layers):
        _lay(merged, merged.value, value, (), name, first=number == 0)
    return merged


def _lay(merged: MergedLayers, below: Dict[Any, Any], above: Mapping[Any, Any], path: KeyPath, layer: str, first: bool) -> None:
    for key, value in above.items():
        at = (*path, key)
        present = key in below
        old = below.get(key)
        if isinstance(value, Mapping) and isinstance(old, dict):
            if not old and value:
                merged.sources.pop(at, None)
            _lay(merged, old, value, at, layer, first)
            continue
        if value is None and not first:
            if present:
                _replace(merged, at, layer, old, None)
                del below[key]
            else:
                merged.idle.append((at, layer))
            continue
        if present:
            _replace(merged, at, layer, old, value)
        # A mapping is copied: a later layer is laid on it.
        below[key] = _copy(value)
        for leaf, _value in list_leaves(below[key], at):
            merged.sources[leaf] = layer


def _copy(value: Any) -> Any:
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _replace(merged: MergedLayers, at: KeyPath, layer: str, old: Any, new: Any) -> None:
    """Forget who wrote the value, and note the override of each layer that did, unless the new value is the same."""
    losers = [leaf for leaf in merged.sources if leaf[: len(at)] == at]
    for loser in dict.fromkeys(merged.sources.pop(leaf) for leaf in losers):
        if old is not None and old != new and loser != layer:
            merged.overrides.append(Override(at, loser, layer))


def find_layers(sources: Mapping[KeyPath, str], steps: Sequence[str]) -> List[str]:
    """The layers that wrote the value at a path, or what is there of it: each once, in the order of the keys."""
    found: List[str] = list(dict.fromkeys(sources.values()))
    candidates = list(sources)
    for depth, step in enumerate(steps):
        kept = [leaf for leaf in candidates if len(leaf) <= depth or str(leaf[depth]) == step]
        candidates = [leaf for leaf in kept if len(leaf) > depth]
        if not candidates:
            break
        found = list(dict.fromkeys(sources[leaf] for leaf in candidates))
    return found
