# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a debug task prints, as plain lines: text as it is, data as YAML or JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import yaml


def message_lines(result: Mapping[str, Any], ignored: Collection[str], data_format: str) -> list[str]:
    """The lines of a result of ansible.builtin.debug. ignored: keys beside the requested variable."""
    shown = {key: value for key, value in result.items() if not key.startswith("_ansible")}
    if "censored" in shown:
        return [str(shown["censored"])]
    if "msg" in shown:
        return lay_out(shown["msg"], data_format)
    hidden = {*ignored, str(shown.get("ansible_loop_var", "item"))}
    variables = {key: value for key, value in shown.items() if key not in hidden}
    if all(_is_plain(value) and "\n" not in str(value) for value in variables.values()):
        return [f"{key}: {value}" for key, value in variables.items()]
    return lay_out(variables, data_format)


def lay_out(value: Any, data_format: str) -> list[str]:
    """A value as lines. data_format: ``yaml`` or ``json``, for what is not plain text."""
    if isinstance(value, str):
        return value.splitlines()
    if isinstance(value, list) and all(map(_is_plain, value)):
        return [line for part in value for line in str(part).splitlines()]
    if data_format == "json":
        return json.dumps(value, indent=4, ensure_ascii=False, default=str).splitlines()
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=10000)
    return text.removesuffix("...\n").splitlines()


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float)
