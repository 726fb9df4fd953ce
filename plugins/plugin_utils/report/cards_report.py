# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cards of a fleet as a table, with what is wrong with each and what to type. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.core.printable import make_data_printable, make_printable_line
from ansible_collections.anvil.serving.plugins.plugin_utils.report.status_report import describe_failure

HEADS = ("host", "GPU", "name", "state", "memory GiB", "use", "temperature", "power W", "UUID")
GIB = 1 << 30


def report_cards(host: str, info: Mapping[str, Any]) -> dict[str, Any]:
    """One host: its cards, notes, and why it could not be read. info: of anvil_host_info with ``health``."""
    health = info.get("health")
    if "health" not in info:
        return {"host": host, "cards": [], "notes": [], "trouble": describe_failure(info)}
    if health is None:
        return {"host": host, "cards": [], "notes": ["no NVIDIA driver"], "trouble": ""}
    notes = []
    if health["trouble"]:
        notes += [*health["trouble"].splitlines(), "do: " + health["hint"]]
    if health["kernel_log_trouble"]:
        notes.append("the kernel log could not be read, so no Xid counts: " + health["kernel_log_trouble"])
    shown: dict[str, Any] = make_data_printable(
        {"host": host, "cards": health["cards"], "notes": notes, "trouble": ""}, make_printable_line
    )
    return shown


def _figure(value: float | None, scale: float = 1, digits: int = 0) -> str:
    return "?" if value is None else f"{value / scale:.{digits}f}"


def _row(host: str, card: Mapping[str, Any]) -> tuple[str, ...]:
    memory = f"{_figure(card['memory_used_bytes'], GIB, 1)}/{_figure(card['memory_total_bytes'], GIB, 1)}"
    use = "?" if card["utilization"] is None else f"{card['utilization']:.0%}"
    power = f"{_figure(card['power_watts'])}/{_figure(card['power_limit_watts'])}"
    heat = "?" if card["temperature_celsius"] is None else f"{card['temperature_celsius']:.0f} °C"
    index = "-" if card["index"] is None else str(card["index"])
    return host, index, card["name"] or "?", card["state"], memory, use, heat, power, card["uuid"] or card["pci_bus_id"]


def render_cards(hosts: Sequence[Mapping[str, Any]]) -> str:
    """A table of all cards, then what is wrong with each, the worst first, with what to type."""
    rows = [_row(host["host"], card) for host in hosts for card in host["cards"]]
    widths = [max(len(cell) for cell in column) for column in zip(HEADS, *rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (HEADS, *rows)]
    lines = lines if rows else []
    for host in hosts:
        notes = [*host["trouble"].splitlines(), *host["notes"]]
        lines += [""] * bool(notes) + [f"{host['host']}: {note}" for note in notes]
        for card in host["cards"]:
            if card["findings"]:
                name = "GPU" if card["index"] is None else f"GPU {card['index']}"
                lines += ["", f"{host['host']} {name} ({card['uuid'] or card['pci_bus_id']}): {card['state']}"]
            for one in card["findings"]:
                lines.append(f"  {one['verdict']}: {one['what']}")
                lines += [f"      {word}: {one[word]}" for word in ("why", "do") if one[word]]
    return "\n".join(lines)
