# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Report what tiers did under load: as data, as a text table, as one HTML page with plots. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import jinja2
from ansible_collections.anvil.serving.plugins.module_utils.core.printable import make_data_printable
from ansible_collections.anvil.serving.plugins.module_utils.measure.evaluations import MAKES_PROFILE
from ansible_collections.anvil.serving.plugins.module_utils.measure.gate import QUALITY, Gate, check_gate, describe_check
from ansible_collections.anvil.serving.plugins.module_utils.measure.load_results import LoadResult
from ansible_collections.anvil.serving.plugins.plugin_utils.report.status_report import TEMPLATES, format_time

COLUMNS = {
    "tier": "TIER",
    "concurrency": "IN FLIGHT",
    "requests": "REQUESTS",
    "errors": "ERRORS",
    "ttft_p50_s": "TTFT P50 s",
    "ttft_p95_s": "TTFT P95 s",
    "latency_p95_s": "LATENCY P95 s",
    "tokens_per_second": "TOKENS/s",
    "requests_per_second": "REQUESTS/s",
}
PLOTS = {
    "ttft_p95_s": "Time to the first token, 95th percentile (seconds)",
    "latency_p95_s": "Time to the whole answer, 95th percentile (seconds)",
    "tokens_per_second": "Tokens per second, all requests together",
}
# The plot area in the units of the SVG.
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 460, 230, 52, 34, 12, 12
COLOURS = 6
BAR_WIDTH, BAR_LEFT, BAR_STEP = 460, 190, 24


def report_measurement(
    host: str, result: Mapping[str, Any], gate: Gate | None, evaluated: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The report of one host. result: that of ``anvil_measure``. evaluated: that of ``anvil_evaluate``."""
    found = evaluated or {}
    loads = result.get("loads") or []
    metrics = collect_metrics(found)
    checks = check_gate(gate, [LoadResult(**load) for load in loads], metrics) if gate is not None and (loads or metrics) else []
    report: dict[str, Any] = make_data_printable(
        {
            "host": host,
            "plan": result.get("plan") or "",
            "loads": loads,
            "serves": {**(found.get("serves") or {}), **(result.get("serves") or {})},
            "evaluations": found.get("evaluations") or [],
            "difference": found.get("difference") or [],
            "checks": [{**asdict(one), "text": describe_check(one)} for one in checks],
        }
    )
    return report


def collect_metrics(evaluated: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Tier -> what its evaluations found, by the names of the limits in the gate."""
    found: dict[str, dict[str, float]] = {}
    for one in evaluated.get("evaluations") or []:
        if one["tier"]:
            found.setdefault(one["tier"], {}).update(one.get("metrics") or {})
    for row in evaluated.get("difference") or []:
        if row["measured"] and isinstance(row["measured"]["quality_score"], (int, float)):
            found.setdefault(row["tier"], {})[f"{QUALITY}.{row['work_class']}"] = float(row["measured"]["quality_score"])
    return found


def format_cell(value: Any) -> str:
    """A number with three digits that count; ``-`` where it is not known."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    return str(value)


def describe_evaluations(host: Mapping[str, Any]) -> list[str]:
    """A line for each evaluation, for each of its checks that failed, and for each row in which the measured profile differs."""
    lines = []
    for one in host["evaluations"]:
        passed = sum(check["passed"] for check in one["checks"])
        counted = f"{passed} of {len(one['checks'])} checks pass" if one["checks"] else "passed" if one["passed"] else "failed"
        numbers = [
            f"{name.removeprefix('benchmark_').removesuffix('_min')} {format_cell(value)}"
            for name, value in (one.get("metrics") or {}).items()
        ]
        counted += f" ({', '.join(numbers)})" if one["kind"] == "benchmark" and numbers else ""
        lines.append(f"{one['kind']}{' of ' + one['tier'] if one['tier'] else ''}: {counted}")
        lines += [f"  {check['name']}: {check['detail']}" for check in one["checks"] if not check["passed"]]
        lines += [f"  {line}" for line in one["log"][-5:] if not one["checks"] or one["kind"] in MAKES_PROFILE]
    lines += [describe_row(row) for row in host["difference"]]
    return lines


def describe_row(row: Mapping[str, Any]) -> str:
    """``profile: heavy, planning: changed: allow 0.9 (4 samples), live is deny 0.5 (2 samples)``."""
    said = [
        f"{each['decision']} {format_cell(each['quality_score'])} ({each['sample_n']} samples)" if each else "nothing"
        for each in (row["measured"], row["live"])
    ]
    head = f"profile: {row['tier']}, {row['work_class']}"
    return (
        f"{head}: {said[0]}, as the live one"
        if row["change"] == "none"
        else f"{head}: {row['change']}: {said[0]}, live is {said[1]}"
    )


def draw_bars(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The quality of each tier and work class in a measured profile, as bars in the units of the SVG."""
    known = [row for row in rows if row["measured"] and isinstance(row["measured"]["quality_score"], (int, float))]
    tiers = list(dict.fromkeys(row["tier"] for row in known))
    room = BAR_WIDTH - BAR_LEFT - 50
    bars = [
        {
            "y": at * BAR_STEP,
            "width": round(max(0.0, min(1.0, row["measured"]["quality_score"])) * room, 1),
            "label": f"{row['tier']}, {row['work_class']}",
            "value": format_cell(float(row["measured"]["quality_score"])),
            "colour": tiers.index(row["tier"]) % COLOURS,
        }
        for at, row in enumerate(known)
    ]
    return {"bars": bars, "left": BAR_LEFT, "width": BAR_WIDTH, "height": BAR_STEP * len(bars)}


def render_measurement_table(hosts: Sequence[Mapping[str, Any]]) -> str:
    """The loads of every host, what failed, and which limits of the gate do not hold."""
    parts = []
    for host in hosts:
        rows = [list(COLUMNS.values()), *([format_cell(load[key]) for key in COLUMNS] for load in host["loads"])]
        widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
        lines = [str(host["host"])]
        for tier, *numbers in rows if host["loads"] else ():
            cells = [cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)]
            lines.append("  " + "  ".join([tier.ljust(widths[0]), *cells]))
        lines += [f"  {one['tier']}, in flight {one['concurrency']}: {one['problem']}" for one in host["loads"] if one["problem"]]
        lines += ["  " + line for line in describe_evaluations(host)]
        broken = [check["text"] for check in host["checks"] if not check["holds"]]
        if host["checks"]:
            lines.append(f"  gate: {len(host['checks']) - len(broken)} of {len(host['checks'])} limits hold")
        lines += [f"  gate: {text}" for text in broken]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def draw_lines(loads: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    """One plot: the metric of each tier over the requests in flight, in the units of the SVG."""
    levels = sorted({load["concurrency"] for load in loads})
    tiers = list(dict.fromkeys(load["tier"] for load in loads))
    known = [load[metric] for load in loads if load[metric] is not None]
    top = round_up(max(known, default=0.0) or 1.0)
    step = (WIDTH - LEFT - RIGHT) / max(1, len(levels))
    positions = {level: LEFT + step * (at + 0.5) for at, level in enumerate(levels)}

    def height(value: float) -> float:
        return round(HEIGHT - BOTTOM - value / top * (HEIGHT - BOTTOM - TOP), 1)

    lines = []
    for at, tier in enumerate(tiers):
        mine = {load["concurrency"]: load[metric] for load in loads if load["tier"] == tier and load[metric] is not None}
        points = [
            {"x": round(positions[level], 1), "y": height(value), "text": f"{tier}, {level} in flight: {format_cell(value)}"}
            for level, value in sorted(mine.items())
        ]
        path = " ".join(f"{one['x']},{one['y']}" for one in points)
        lines.append({"tier": tier, "colour": at % COLOURS, "points": points, "path": path})
    marks = [{"y": height(top * part / 4), "text": format_cell(top * part / 4) if part else "0"} for part in range(5)]
    return {
        "title": PLOTS[metric],
        "lines": lines,
        "marks": marks,
        "levels": [{"x": round(x, 1), "text": str(level)} for level, x in positions.items()],
        "width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "base": HEIGHT - BOTTOM,
    }  # fmt: skip


def round_up(value: float) -> float:
    """The next 1, 2, 4 or 8 times a power of ten, so that a quarter of it is a short number."""
    power = 1.0
    while power > value:
        power /= 10
    while power * 10 <= value:
        power *= 10
    return next(power * step for step in (1, 2, 4, 8, 10) if power * step >= value * 0.9999)


def render_measurement_page(hosts: Sequence[Mapping[str, Any]], now: float) -> str:
    """One self-contained HTML page: no script, and no font or image from elsewhere."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    environment.filters["cell"] = format_cell
    plotted = [{**host, "plots": [draw_lines(host["loads"], metric) for metric in PLOTS if host["loads"]]} for host in hosts]
    for host in plotted:
        host.update(quality=draw_bars(host["difference"]), said=describe_evaluations(host))
    values = {"hosts": plotted, "columns": COLUMNS, "made": format_time(now)}
    return environment.get_template("measurement.html.j2").render(values)
