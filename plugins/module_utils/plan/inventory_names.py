# SPDX-License-Identifier: GPL-3.0-or-later
"""Names of variables that this collection does not read, but that are probably misspelt names of those that it reads. Pure."""

from __future__ import annotations

import difflib
from typing import Any, Iterable, List, Mapping, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_layers import LAYERED, SEPARATOR, SUFFIX, split_layer
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import find_similar, suggest_name

PREFIX = "anvil"
# How similar the two parts of a name must be, from 0 to 1: avnil, anvl and anval are 0.8 or more, ansible is 0.67.
LIKE_PREFIX, LIKE_NAME = 0.75, 0.85
# The keys by which the entries of a variable are known that lacks its prefix.
TELLING_KEYS = {"anvil_serves": ("engine", "port"), "anvil_gpus": ("uuid",), "anvil_clients": ("keys",)}
# Fewer letters in common cannot be that similar.
LETTERS = 3


def describe_unknown(name: str, known: Sequence[str]) -> Tuple[str, str]:
    """What is wrong with a variable that starts with ``anvil_`` and that is not known, and what to write instead."""
    variable, sign, suffix = name.partition(SEPARATOR)
    clean = suffix.lstrip("_")
    if sign and variable in LAYERED:
        if SUFFIX.fullmatch(clean):
            return "unknown variable", "did you mean {0}{1}{2}?".format(variable, SEPARATOR, clean)
        what = "the layer has no suffix" if not clean else "the suffix of the layer is not valid"
        return what, "use {0}{1} and letters, digits or _, such as {0}{1}gpu".format(variable, SEPARATOR)
    if sign and variable in known:
        return (
            "{0} has no layers, because it is not a mapping".format(variable),
            "set {0} in host_vars or group_vars: Ansible takes the value of the most specific one".format(variable),
        )
    if sign and SUFFIX.fullmatch(clean):
        close = find_similar(variable, LAYERED)
        if close:
            return "unknown variable", "did you mean {0}{1}{2}?".format(close, SEPARATOR, clean)
    for known_name in sorted(LAYERED, key=len, reverse=True):
        rest = name[len(known_name) :]
        if name.startswith(known_name + "_") and SUFFIX.fullmatch(rest.lstrip("_")):
            hint = "did you mean {0}{1}{2}? A layer has two underscores before its suffix"
            return "unknown variable", hint.format(known_name, SEPARATOR, rest.lstrip("_"))
    return "unknown variable", suggest_name(name, known)


def find_misspelt(names: Iterable[str], known: Sequence[str]) -> List[Tuple[str, str]]:
    """(name, the name that is meant) of every variable that does not start with ``anvil_`` and resembles one that does."""
    found = []
    for name in names:
        if name.startswith((PREFIX + "_", "ansible_")) or not isinstance(name, str):
            continue
        meant = _find_meant(name, known)
        if meant:
            found.append((name, meant))
    return found


def _find_meant(name: str, known: Sequence[str]) -> str:
    lower = name.lower().replace("-", "_").replace(".", "_")
    if lower.startswith(PREFIX) and not lower.startswith(PREFIX + "_"):
        lower = "{0}_{1}".format(PREFIX, lower[len(PREFIX) :].lstrip("_"))  # anvilserves
    head, sign, rest = lower.partition("_")
    if (
        not sign
        or len(set(head) & set(PREFIX)) < LETTERS
        or abs(len(head) - len(PREFIX)) > 2
        or _ratio(head, PREFIX) < LIKE_PREFIX
    ):
        return ""
    word, layered, suffix = rest.strip("_").partition(SEPARATOR)
    for candidate in known:
        meant = candidate[len(PREFIX) + 1 :]
        if _ratio(word, meant) >= LIKE_NAME:
            return candidate + (layered + suffix if candidate in LAYERED else "")
        if candidate in LAYERED and word.startswith(meant + "_"):
            return candidate + SEPARATOR + word[len(meant) + 1 :]
    return ""


def _ratio(one: str, other: str) -> float:
    return 1.0 if one == other else difflib.SequenceMatcher(None, one, other).ratio()


def find_without_prefix(variables: Mapping[str, Any], known: Sequence[str]) -> List[Tuple[str, str]]:
    """(name, the name that is meant) of variables such as ``serves`` whose content is that of ``anvil_serves``, if that is not
    written."""
    found = []
    written = {split_layer(name)[0] for name in variables}
    for name, keys in TELLING_KEYS.items():
        bare = name[len(PREFIX) + 1 :]
        entries = variables.get(bare)
        if name not in known or name in written or not isinstance(entries, Mapping):
            continue
        if any(isinstance(entry, Mapping) and all(key in entry for key in keys) for entry in entries.values()):
            found.append((bare, name))
    return found
