# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print the status of hosts, write it as an HTML page, print logs, cards or workflows, or what a run in waves left."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.anvil.serving.plugins.module_utils.core.files import differs, write_file
from ansible_collections.anvil.serving.plugins.modules.anvil_report import OPTIONS
from ansible_collections.anvil.serving.plugins.plugin_utils.report.cards_report import render_cards, report_cards
from ansible_collections.anvil.serving.plugins.plugin_utils.report.revision_report import (
    UNTOUCHED,
    describe_turn,
    lay_out_turns,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.report.status_report import (
    describe_failure,
    render_logs,
    render_page,
    render_table,
    report_host,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.report.terminal import display_text
from ansible_collections.anvil.serving.plugins.plugin_utils.report.workflow_report import lay_out_host, report_workflows


class ActionModule(ActionBase):
    """Print the results of anvil_serve_info of all hosts of a play."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, options = self.validate_argument_spec(argument_spec=OPTIONS)
        result["changed"] = False
        result["printed"] = True
        if options["show"] != "revisions":
            self._fill_in_failures(options)
        if options["show"] == "logs":
            return result | self._print_logs(dict(zip(options["hosts"], options["looks"], strict=True)))
        if options["show"] == "cards":
            cards = [report_cards(host, info) for host, info in zip(options["hosts"], options["looks"], strict=True)]
            display_text("\n" + render_cards(cards) + "\n")
            result["hosts"] = cards
            result["troubles"] = {one["host"]: one["trouble"] for one in cards if one["trouble"]}
            return result
        if options["show"] == "workflows":
            return result | self._list_workflows(options)
        if options["show"] == "revisions":
            return result | self._list_revisions(options)
        count = len(options["hosts"])
        columns = [options[key] or [{}] * count for key in ("plans", "looks", "routers", "tiers", "retired")]
        hosts = [report_host(host, *results) for host, *results in zip(options["hosts"], *columns, strict=True)]
        text = json.dumps(hosts, indent=2, ensure_ascii=False)
        display_text("\n" + (text if options["format"] == "json" else render_table(hosts)) + "\n")
        pages = {options["html"]: render_page(hosts, time.time())} if options["html"] else {}
        pages |= {options["json"]: text + "\n"} if options["json"] else {}
        result["files"] = [str(self._write(path, content)) for path, content in pages.items()]
        result["hosts"] = hosts
        result["troubles"] = {host["host"]: host["trouble"] for host in hosts if host["trouble"]}
        return result

    @staticmethod
    def _fill_in_failures(options: dict[str, Any]) -> None:
        """A host whose plan or reading failed has that reason in place of its result."""
        looks, failures = options["looks"], options["failures"] or [""] * len(options["hosts"])
        options["looks"] = [{"trouble": why} if why else look for look, why in zip(looks, failures, strict=True)]

    @staticmethod
    def _print_logs(infos: dict[str, dict[str, Any]]) -> dict[str, Any]:
        # A host that has none of the serves that were named prints nothing, and so does one whose log was followed.
        shown = {host: info for host, info in infos.items() if not info.get("skipped")} or infos
        shown = {host: info for host, info in shown.items() if info.get("found") is not False and not info.get("followed")}
        if shown:
            display_text("\n" + "\n\n".join(render_logs(host, info) for host, info in shown.items()) + "\n")
        unread = {host: info for host, info in shown.items() if "logs" not in info and not info.get("skipped")}
        return {"troubles": {host: describe_failure(info) for host, info in unread.items()}}

    def _list_workflows(self, options: dict[str, Any]) -> dict[str, Any]:
        """Print the workflows of every host."""
        hosts = [report_workflows(host, look) for host, look in zip(options["hosts"], options["looks"], strict=True)]
        text = json.dumps(hosts, indent=2, ensure_ascii=False)
        shown = text if options["format"] == "json" else "\n\n".join("\n".join(lay_out_host(host)) for host in hosts)
        display_text("\n" + shown + "\n")
        files = [str(self._write(options["json"], text + "\n"))] if options["json"] else []
        return {"files": files, "hosts": hosts, "troubles": {host["host"]: host["trouble"] for host in hosts if host["trouble"]}}

    def _list_revisions(self, options: dict[str, Any]) -> dict[str, Any]:
        """Print what a run in waves left on every host, unless that is one host without trouble."""
        verb = f"would be {options['verb']}" if self._task.check_mode else options["verb"]
        columns = [options[key] for key in ("hosts", "turns", "failures", "undone", "looks")]
        turns = [describe_turn(host, verb, *results) for host, *results in zip(*columns, strict=True)]
        troubles = {turn.host: turn.trouble for turn in turns if turn.trouble}
        printed = len(turns) > 1 or bool(troubles)
        if printed:
            display_text("\n" + lay_out_turns(turns) + "\n")
        untouched = [turn.host for turn in turns if turn.outcome == UNTOUCHED]
        return {
            "revisions": [turn.as_dict() for turn in turns],
            "troubles": troubles,
            "untouched": untouched,
            "printed": printed,
        }

    def _write(self, path: str, content: str) -> Path:
        """Write a report, in check mode too, because it changes no host."""
        file = Path(path).expanduser().absolute()
        if differs(str(file), content, 0o644):
            write_file(str(file), content, 0o644)
        return file
