# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The workflows of a host: as rows, as a text table; and the lines of their logs while they are followed. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.printable import (
    make_data_printable,
    make_printable,
    make_printable_line,
)

COLUMNS = ("workflow", "state", "version", "replicas", "since", "address", "traces")
TONES = {"running": "good", "starting": "wait"}
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def parse_follow(text: str) -> float:
    """How many seconds to follow a log: 0 for not at all, infinity for as long as it is written. Raises AnvilError."""
    word = text.strip().lower()
    if word in ("", "0", "no", "false", "off"):
        return 0.0
    if word in ("yes", "true", "on"):
        return math.inf
    span = re.fullmatch(r"(\d{1,6})([smhd]?)", word)
    if span is None:
        raise fail(f"{text!r} is not a time span", where="follow", hint="write true, or a time such as 90s, 10m or 2h")
    return float(int(span[1]) * SECONDS[span[2] or "s"])


def describe_workflows(workflows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """A row for each workflow. workflows: as anvil_workflow_info returns them."""
    return [
        {
            "workflow": one["name"],
            "state": one["state"].replace("_", " "),
            "tone": TONES.get(one["state"], "bad"),
            "version": one["version"] or "-",
            "replicas": f"{one['up']}/{one['replicas']}",
            "since": one["since"] or "-",
            "address": one["address"] or "-",
            "traces": one["traces"] or "-",
        }
        for one in workflows
    ]


def list_workflow_notes(workflows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each container that is not as it should be, and for data that no container has."""
    notes = [f"workflow {one['name']}: {line}" for one in workflows for line in one["trouble"]]
    return notes + [
        f"workflow {one['name']}: removed; its data is kept in {', '.join(one['data'])}"
        for one in workflows
        if one["state"] == "removed"
    ]


def report_workflows(host: str, look: Mapping[str, Any]) -> dict[str, Any]:
    """The workflows of one host: ``workflows`` (rows) and ``notes``. One that could not be read has ``trouble``."""
    if "workflows" not in look:
        why = str(look.get("trouble") or look.get("msg") or "the host could not be read; no reason was given")
        return {"host": host, "workflows": [], "notes": [], "trouble": make_printable(why)}
    workflows = look["workflows"]
    report = {"host": host, "workflows": describe_workflows(workflows), "notes": list_workflow_notes(workflows), "trouble": ""}
    shown: dict[str, Any] = make_data_printable(report, make_printable_line)
    return shown


def lay_out_host(report: Mapping[str, Any]) -> list[str]:
    """The lines of one host."""
    if report["trouble"]:
        return [report["host"], *("  " + line for line in report["trouble"].splitlines())]
    table = lay_out_workflows(report["workflows"]) if report["workflows"] else ["no workflows"]
    return [report["host"], *("  " + line for line in table), *("  " + note for note in report["notes"])]


def lay_out_workflows(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The table, as lines without colours."""
    heads = {name: name.upper() for name in COLUMNS}
    widths = {name: max(len(row[name]) for row in (heads, *rows)) for name in COLUMNS}
    return ["  ".join(row[name].ljust(widths[name]) for name in COLUMNS).rstrip() for row in (heads, *rows)]


def lay_out_lines(host: str, logs: Mapping[str, Sequence[Mapping[str, str]]]) -> str:
    """New lines of logs, each with its host and container. ``|`` marks standard output, ``!`` standard error."""
    return "\n".join(
        f"[{host}] {name} {'!' if one['stream'] == 'stderr' else '|'} {make_printable_line(one['line'])}"
        for name, lines in logs.items()
        for one in lines
    )
