# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Report the status of hosts: as data, as a text table, as one HTML page; and the logs of serves as text. Pure.

``report_host`` decides every word; the table and the page only lay it out.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from ansible_collections.anvil.serving.plugins.module_utils.core.printable import (
    make_data_printable,
    make_printable,
    make_printable_line,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.report.workflow_report import COLUMNS as WORKFLOW_COLUMNS
from ansible_collections.anvil.serving.plugins.plugin_utils.report.workflow_report import (
    describe_workflows,
    lay_out_workflows,
    list_workflow_notes,
)

TEMPLATES = Path(__file__).resolve().parents[3] / "templates"
COLUMNS = ("serve", "state", "since", "health", "drift", "gpu", "port", "model", "restarts")
HEADS = {"gpu": "GPU", **{name: name.upper() for name in COLUMNS if name != "gpu"}}
NUMBERS = ("port", "restarts")
GONE = "is no longer a serve of the inventory"
RETIRE = "; to remove it: ansible-playbook playbooks/retire.yml -e containers={0} -e confirm=true"
GOOD, WAIT, BAD = "good", "wait", "bad"
WAITING = ("starting", "loading", "restarting", "created", "paused", "running")
# The smallest piece of a bar in percent, so that a container whose need is unknown is still visible.
LEAST_PERCENT = 6.0


def format_duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 5 min``, ``2 d 4 h``."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def format_gib(mib: float | None) -> str:
    """MiB as GiB with one decimal; ``?`` if unknown."""
    return "?" if mib is None else f"{mib / 1024:.1f}"


def format_time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _choose_tone(state: str, ready: bool | None) -> str:
    if ready:
        return GOOD
    return WAIT if state in WAITING else BAD


def label_card(uuid: str, cards: Sequence[Mapping[str, Any]], aliases: Mapping[str, str]) -> str:
    """``rtx5090 3.1/31.8 GiB``: the alias of the card in the inventory (else its UUID), and its used and total memory."""
    name = aliases.get(uuid, uuid[:12])
    for card in cards:
        if card["uuid"] == uuid:
            return f"{name} {format_gib(card['vram_used_mib'])}/{format_gib(card['vram_total_mib'])} GiB"
    return f"{name} (not on this host)"


def lay_out_bar(card: Mapping[str, Any]) -> dict[str, Any]:
    """The pieces of the bar of a card, in percent of its memory: the claim of each container, and the memory used now.

    Containers without a claim share the memory that is used beyond the claims. If the claims exceed the card, all pieces are
    scaled down, and ``overcommitted`` is true.
    """
    total, used = card["vram_total_mib"], card["vram_used_mib"]
    holders = card["holders"]
    claimed = sum(holder["vram_mib"] or 0 for holder in holders)
    unclaimed = sum(1 for holder in holders if not holder["vram_mib"])
    pieces = []
    for holder in holders:
        mib = holder["vram_mib"] or (max(0, (used or 0) - claimed) / unclaimed)
        percent = max(LEAST_PERCENT, 100 * mib / total) if total else 100 / len(holders)
        need = f"{format_gib(holder['vram_mib'])} GiB claimed" if holder["vram_mib"] else "need unknown"
        pieces.append({**{key: holder[key] for key in ("name", "kind", "state")}, "need": need, "percent": percent})
    whole = sum(piece["percent"] for piece in pieces)
    for piece in pieces:
        piece["percent"] = round(piece["percent"] * min(1.0, 100 / whole), 2) if whole else 0
    return {
        "pieces": pieces,
        "free_percent": round(max(0.0, 100 - whole), 2),
        "used_percent": round(min(100.0, 100 * used / total), 2) if total and used is not None else None,
        "overcommitted": bool(total and claimed > total),
    }


def _card(card: Mapping[str, Any], aliases: Mapping[str, str]) -> dict[str, Any]:
    layout = lay_out_bar(card)
    held = ", ".join(f"{piece['name']} ({piece['kind']}, {piece['need']})" for piece in layout["pieces"]) or "no container"
    used, total = card["vram_used_mib"], card["vram_total_mib"]
    return {
        "alias": aliases.get(card["uuid"], ""),
        "uuid": card["uuid"] or card.get("pci_bus_id") or "unknown",
        "name": card["name"] or "unknown card",
        "used_mib": used,
        "total_mib": total,
        "memory": "does not work" if card.get("trouble") else f"{format_gib(used)} of {format_gib(total)} GiB used",
        "held_by": held,
        **layout,
    }


def _row(name: str, kind: str, serve: Mapping[str, Any], detail: Mapping[str, Any], now: float, gpu: str) -> dict[str, Any]:
    since = detail.get("since")
    drift = list(serve.get("reasons") or [])
    return {
        "serve": name,
        "kind": kind,
        "state": serve["state"],
        "tone": _choose_tone(serve["state"], serve.get("ready")),
        "ready": serve.get("ready"),
        "since_at": since,
        "since": format_duration(now - since) if since else "-",
        "health": serve.get("health") or "-",
        "drift": ", ".join(drift) or "-",
        "gpu": gpu or "-",
        "port": ", ".join(str(port) for port in detail.get("ports") or []) or "-",
        "model": detail.get("model") or detail.get("served_name") or "-",
        "restarts": str(detail.get("restarts", 0)),
    }


def _experiment_row(one: Mapping[str, Any], now: float, gpu: str) -> dict[str, Any]:
    row = _row(one["name"], "experiment", one, one, now, gpu)
    if one["expires"] is None:
        row["expires"] = "has no time limit"
    elif one["expires"] <= now:
        row["expires"] = "its time to live is over: the next run of status.yml or site.yml retires it"
    else:
        row["expires"] = f"expires in {format_duration(one['expires'] - now)}, {format_time(one['expires'])}"
    row["expires_at"] = one["expires"]
    return row


def _external_row(name: str, one: Mapping[str, Any]) -> dict[str, Any]:
    """The row of a server that is not managed. Only whether it answers is known."""
    row = _row(name, "external", {**one, "health": ""}, {"ports": [one["port"]], "served_name": one["served_name"]}, 0, "")
    return {**row, "drift": "not managed", "restarts": "-"}


def describe_failure(info: Mapping[str, Any]) -> str:
    """Why the status of a host could not be read: the error of the module, or of Ansible if the host was not reached."""
    return str(info.get("trouble") or info.get("msg") or "the host could not be read; no reason was given")


def list_tier_notes(tiers: Mapping[str, Any]) -> list[str]:
    """A line for each router in a restart loop, and each tier that a router sends no requests to.

    tiers: the result of anvil_router_info.
    """
    notes = [f"router: {tiers['trouble']}"] if tiers.get("trouble") else []
    notes += tiers.get("restarts") or []
    for tier, routers in sorted((tiers.get("tiers") or {}).items()):
        for name, row in sorted(routers.items()):
            if row["state"] == "quiesced":
                notes.append(f"tier {tier} is quiesced in {name} ({row['reason']}), with {row['in_flight']} requests in flight")
            elif not row["ready"]:
                notes.append(f"tier {tier}: {name} sends it no requests: {row['reason']}")
    return notes


def list_watch_notes(watch: Mapping[str, Any], now: float) -> list[str]:
    """A line for each serve that watch knows, and for each of its last acts.

    watch: ``watch`` in the result of anvil_serve_info; empty for a host without it.
    """
    if not watch:
        return []
    notes = [f"watch: {line.strip()}" for line in watch["trouble"].splitlines()]
    if watch["silent"] is not None:
        ago = format_duration(watch["silent"])
        notes.append(f"watch: it last wrote {ago} ago and does not run; its log says why (journalctl -u anvil-watch)")
    for name, one in sorted(watch["serves"].items()):
        restarts = f", {one['restarts']} restarts in the last hour" if one["restarts"] else ""
        given_up = ", not restarted again" if one["given_up"] else ""
        state = one["state"] or "not judged yet"
        notes.append(f"watch: {name} is {state} for {format_duration(now - one['since'])}{restarts}{given_up}: {one['why']}")
    notes += [f"watch: {format_time(act['time'])} {act['serve']}: {act['line']}" for act in watch["acts"]]
    return notes


def report_host(
    host: str,
    plan: Mapping[str, Any],
    info: Mapping[str, Any],
    router: Mapping[str, Any],
    tiers: Mapping[str, Any],
    retired: Mapping[str, Any],
) -> dict[str, Any]:
    """The report of one host. A host whose status could not be read has ``trouble``.

    info, router: results of anvil_serve_info for its serves and its router. tiers: of anvil_router_info. retired: the result of
    anvil_experiment.
    """
    retired_names = [one["name"] for one in retired.get("retired") or []]
    base: dict[str, Any] = {"host": host, "trouble": "", "rows": [], "cards": [], "workflows": [], "notes": []}
    base["retired"] = retired_names
    if "serves" not in info:
        return {**base, "trouble": make_printable(describe_failure(info)), "has_driver": False, "now": None}
    now = info["now"]
    aliases = {gpu["uuid"]: alias for alias, gpu in (plan.get("gpus") or {}).items()}
    cards = info["gpus"] or []

    def labels(uuids: Sequence[str]) -> str:
        return ", ".join(label_card(uuid, cards, aliases) for uuid in uuids)

    rows = [
        _row(name, "serve", serve, info["details"][name], now, labels(serve["gpu_uuids"]))
        for name, serve in info["serves"].items()
    ]
    rows += [
        _row(name, "router", serve, (router.get("details") or {}).get(name, {}), now, "")
        for name, serve in (router.get("serves") or {}).items()
    ]
    externals = info.get("externals") or {}
    rows += [_external_row(name, one) for name, one in externals.items()]
    rows += [_experiment_row(one, now, labels(one["gpu_uuids"])) for one in info["experiments"]]
    notes = [f"adoption: {line}" for line in info.get("adoptions") or []]
    notes += [f"rolled back: {line}" for line in info.get("rolled_back") or []]
    notes += [f"{name}: squatter: {why}" for name, who in (info.get("squatters") or {}).items() for why in who]
    notes += [f"{name}: {detail['kv_cache']}" for name, detail in info["details"].items() if detail.get("kv_cache")]
    notes += [f"{name}: {one['why']}" for name, one in externals.items() if one["why"]]
    notes += [line.strip() for text in info.get("gpu_trouble") or [] for line in text.splitlines()]
    notes += [f"squatter: container {name} uses a GPU and is not managed{RETIRE.format(name)}" for name in _gpu_squatters(cards)]
    notes += [
        f"orphan: container {name} is no longer a serve of the inventory; {RETIRE.format(name)}"
        for name in info.get("orphans") or []
    ]
    notes += list_tier_notes(tiers)
    notes += info.get("disk_trouble") or []
    notes += list_watch_notes(info.get("watch") or {}, now)
    notes += list_workflow_notes(info.get("workflows") or [])
    if retired.get("trouble"):
        notes.append(f"experiments could not be retired: {retired['trouble']}")
    report = {
        **base,
        "rows": rows,
        "cards": [_card(card, aliases) for card in cards],
        "workflows": describe_workflows(info.get("workflows") or []),
        "notes": notes,
        "now": now,
        "has_driver": info["gpus"] is not None,
    }
    # Names, models and reasons are the words of containers: they fill one cell or line, in the table and on the page.
    shown: dict[str, Any] = make_data_printable(report, make_printable_line)
    return shown


def _gpu_squatters(cards: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({holder["container"] for card in cards for holder in card["holders"] if holder["kind"] == "squatter"})


# ------------------------------------------------------------------------------------------------------------- layouts


def render_table(hosts: Sequence[Mapping[str, Any]]) -> str:
    """One table for each host, as text without colours."""
    return "\n\n".join(_host_text(host) for host in hosts)


def _host_text(host: Mapping[str, Any]) -> str:
    lines = [host["host"]]
    if host["trouble"]:
        return "\n".join([*lines, *("  " + line for line in host["trouble"].splitlines())])
    lines += [f"  retired: experiment {name}, its time to live was over" for name in host["retired"]]
    for card in host["cards"]:
        name = card["alias"] or card["uuid"]
        more = " OVERCOMMITTED" if card["overcommitted"] else ""
        lines.append(f"  GPU {name} ({card['name']}): {card['memory']}, held by {card['held_by']}{more}")
    if not host["has_driver"]:
        lines.append("  no NVIDIA driver")
    shown = [
        {**row, "serve": row["serve"] + ("" if row["kind"] in ("serve", "router") else f" ({row['kind']})")}
        for row in host["rows"]
    ]
    if shown:
        widths = {key: max(len(HEADS[key]), *(len(row[key]) for row in shown)) for key in COLUMNS}
        table = [HEADS, *shown]
        lines.append("")
        for row in table:
            cells = [row[key].rjust(widths[key]) if key in NUMBERS else row[key].ljust(widths[key]) for key in COLUMNS]
            lines.append(("  " + "  ".join(cells)).rstrip())
    else:
        lines.append("  no serves")
    if host["workflows"]:
        lines += ["", *("  " + line for line in lay_out_workflows(host["workflows"]))]
    endings = [f"  {row['serve']}: {row['expires']}" for row in host["rows"] if row["kind"] == "experiment"]
    endings += ["  " + note for note in host["notes"]]
    return "\n".join([*lines, *([""] if endings else []), *endings])


def render_page(hosts: Sequence[Mapping[str, Any]], now: float) -> str:
    """One self-contained HTML page: no script, and no font or image from elsewhere."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    values = {
        "hosts": hosts,
        "columns": COLUMNS,
        "heads": HEADS,
        "numbers": NUMBERS,
        "workflow_columns": WORKFLOW_COLUMNS,
        "made": format_time(now),
    }
    return environment.get_template("status.html.j2").render(values)


def render_logs(host: str, info: Mapping[str, Any]) -> str:
    """The logs of the serves of a host as text. ``|`` marks standard output, ``!`` standard error."""
    if "logs" not in info:
        trouble = "nothing to read" if info.get("skipped") else describe_failure(info)
        return "\n".join([host, *("  " + line for line in trouble.splitlines())])
    width = max((len(name) for name in info["logs"]), default=0)
    lines = [host]
    for name, entries in info["logs"].items():
        for one in entries:
            lines.append(f"  {name.ljust(width)} {'!' if one['stream'] == 'stderr' else '|'} {make_printable_line(one['line'])}")
        if not entries:
            lines.append(f"  {name.ljust(width)}   (nothing)")
    return "\n".join(lines)
