# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where each value of the inventory was written: one line for each value, with its file and line and its layer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import mask_value
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_layers import list_leaves
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import UNREAD, format_path
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.host_variables import HostVariables, read_variables
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.source_lines import find_origin, format_origin

LONGEST = 80


def explain_variables(templar: Any, variables: Mapping[str, Any]) -> list[str]:
    """``anvil_serves.fast.port: 30003    group_vars/gpu.yml:18 (anvil_serves__gpu)`` for each value that is written."""
    read = read_variables(templar, variables)
    return [line for name in sorted(read.values) for line in _explain_variable(read, name)]


def _explain_variable(read: HostVariables, name: str) -> list[str]:
    merged = read.layers.get(name)
    value = read.facts if name == "anvil_secrets" else read.values[name]
    hidden = {} if name == "anvil_secrets" else dict(list_leaves(mask_value(value)))
    lines = []
    for path, written in list_leaves(value):
        # How a secret is stored, and the name of a secret, are none.
        leaf = hidden.get(path, written) if not isinstance(written, str) or written not in read.facts else written
        layer = merged.sources.get(path, name) if merged else name
        text = f"{format_path((name, *map(str, path)))}: {_show(name, leaf)}    {_place(read, layer, path)}"
        lost = [one for one in merged.overrides if one.path == path[: len(one.path)]] if merged else []
        places = [_place(read, one.loser, one.path) for one in lost if one.winner == layer]
        lines.append(text + (f", replaces {' and '.join(places)}" if places else ""))
    for one in merged.overrides if merged else ():
        if not any(leaf[: len(one.path)] == one.path for leaf in merged.sources):
            places = f"{_place(read, one.winner, one.path)}, replaces {_place(read, one.loser, one.path)}"
            lines.append(f"{format_path((name, *map(str, one.path)))}: removed    {places}")
    return lines


def _place(read: HostVariables, layer: str, path: tuple[Any, ...]) -> str:
    line = format_origin(find_origin(read.raw, [layer, *path])) or "an unknown place"
    return f"{line} ({layer})"


def _show(name: str, leaf: Any) -> str:
    if leaf is UNREAD:
        return "<not readable>"
    if name == "anvil_secrets":
        return f"<{leaf}>" if leaf in ("vault", "file") else "<in clear text>" if leaf == "clear" else "<no value>"
    text = json.dumps(leaf, ensure_ascii=False, default=str)
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
