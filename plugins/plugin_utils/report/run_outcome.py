# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run leads to: the address of each router with what its tiers answered, and the whole run as one JSON document. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ansible_collections.anvil.serving.plugins.module_utils.core.printable import (
    make_data_printable,
    make_printable_line,
    make_showable,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.report.failure_text import shorten_path
from ansible_collections.anvil.serving.plugins.plugin_utils.report.run_summary import MOST_HOSTS, HostRecord

if TYPE_CHECKING:
    from ansible.playbook.task import Task

QUESTION = "Say hello."
LONGEST_ANSWER = 100
# Modules whose result is what the playbook was asked for -> the key that holds it.
REPORTS = {"debug": "msg", "anvil_report": "hosts", "anvil_measure_report": "hosts", "anvil_inventory": "differences"}


# These print for themselves; a run of them needs no line that nothing changed.
PRINTERS = ("anvil_report", "anvil_reveal", "debug")


def module_of(task: Task) -> str:
    """The name of a module of this collection, or ``debug``; else empty. The resolved name may be that of ``anvil_module``."""
    name = str(task.action).rpartition(".")[2]
    return name if name == "debug" or str(task.resolved_action or task.action).startswith("anvil.serving.") else ""


def note_outcome(record: HostRecord, module: str, result: Mapping[str, Any], variables: Mapping[str, Any]) -> None:
    """Take what the end of the run shows from a result of one module. variables: of the host, as its inventory file has them."""
    if "censored" in result:
        return
    if module == "anvil_plan":
        record.token_file = str(result.get("token_file") or "")
    elif module in ("anvil_inventory", "anvil_add"):
        record.next += result.get("next") or []
    elif module == "anvil_router_info" and result.get("answers"):
        record.answers = result["answers"]
        record.endpoint = str(result.get("endpoint") or "")
        record.reach = find_reach(variables)
    key = REPORTS.get(module)
    if key is not None and result.get(key) is not None:
        record.messages.append(result[key])


def find_reach(variables: Mapping[str, Any]) -> str | None:
    """How this machine runs a command on the host: an ``ssh`` command, nothing where it is this machine, None where unknown."""
    kind = str(variables.get("ansible_connection") or "ssh")
    if kind == "local":
        return ""
    address = variables.get("ansible_host")
    if kind != "ssh" or not address:
        return None
    user = variables.get("ansible_user")
    port = f"-p {variables['ansible_port']} " if variables.get("ansible_port") else ""
    return f"ssh {port}" + shlex.quote(f"{user}@{address}" if user else str(address))


def lay_out_answers(records: Mapping[str, HostRecord]) -> list[str]:
    """The address of each router, the answer of each tier, and the command that repeats the first request."""
    asked = {host: record for host, record in records.items() if record.answers and not record.failed}
    if len(asked) > MOST_HOSTS:
        return [f"The routers of {len(asked)} hosts answered for every tier."]
    lines: list[str] = []
    for host, record in asked.items():
        width = max(len(name) for name in record.answers)
        lines += ["", f"The router of {host} answers at {record.endpoint}/v1", ""] if record.endpoint else ["", host, ""]
        lines += [f"  {name:<{width}}  {_show_answer(answer)}" for name, answer in reversed(record.answers.items())]
        command = _repeat(record)
        lines += ["", "Repeat it:" if record.reach is not None else f"Repeat it, on {host}:", f"  {command}"] if command else []
    return lines[1:]


def _show_answer(answer: Mapping[str, Any]) -> str:
    text = make_printable_line(" ".join(str(answer.get("text") or "").split()))
    shown = text if len(text) <= LONGEST_ANSWER else text[: LONGEST_ANSWER - 3] + "..."
    return shown or f"answered in {answer['seconds']:.1f} s"


def _repeat(record: HostRecord) -> str:
    """The command; the token goes over standard input, because every user of a machine sees the arguments of a process."""
    if not record.endpoint.startswith("http://"):
        return ""
    model = next(reversed(record.answers))
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": QUESTION}]})
    ask = f"curl -s {record.endpoint}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"
    if not record.token_file:
        return f"{record.reach} {shlex.quote(ask)}" if record.reach else ask
    ask = ask.replace("curl -s", "curl -s -H @-", 1)
    header = f"sed 's/^/Authorization: Bearer /' {shlex.quote(shorten_path(record.token_file))} | "
    return header + (f"{record.reach} {shlex.quote(ask)}" if record.reach else ask)


def lay_out_run(records: Mapping[str, HostRecord], check: bool, broken_off: bool) -> str:
    """The run as a JSON document."""
    hosts = {
        host: {
            "outcome": "stopped" if record.stopped else record.outcome,
            "changes": [{"what": what, "text": text} for what, text in zip(record.changes, record.lines, strict=True)],
            "warnings": record.warned,
            "failures": record.failures,
            "results": record.messages,
            "endpoint": record.endpoint or None,
            "answers": record.answers,
            "next": record.next,
        }
        for host, record in records.items()
    }
    failed = any(record.failed or record.unreachable for record in records.values())
    document = {"failed": failed, "check": check, "complete": not broken_off, "hosts": hosts}
    return json.dumps(make_data_printable(document, make_showable), indent=2, ensure_ascii=False, default=str)
