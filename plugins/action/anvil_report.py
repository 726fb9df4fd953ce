# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print the status of hosts as a table or as JSON and write it as an HTML page, or print the logs of their serves."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.anvil.serving.plugins.module_utils.core.files import differs, write_file
from ansible_collections.anvil.serving.plugins.modules.anvil_report import OPTIONS
from ansible_collections.anvil.serving.plugins.plugin_utils.report.status_report import (
    render_logs,
    render_page,
    render_table,
    report_host,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.report.terminal import display_text


class ActionModule(ActionBase):
    """Print the results of anvil_serve_info of all hosts of a play."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, options = self.validate_argument_spec(argument_spec=OPTIONS)
        result["changed"] = False
        if options["show"] == "logs":
            infos = dict(zip(options["hosts"], options["looks"], strict=True))
            display_text("\n" + "\n\n".join(render_logs(host, info) for host, info in infos.items()) + "\n")
            unread = [host for host, info in infos.items() if "logs" not in info and not info.get("skipped")]
            return self._fail_if_unread(result, unread)
        count = len(options["hosts"])
        columns = [options[key] or [{}] * count for key in ("plans", "looks", "routers", "tiers", "retired")]
        hosts = [report_host(host, *results) for host, *results in zip(options["hosts"], *columns, strict=True)]
        text = json.dumps(hosts, indent=2, ensure_ascii=False)
        display_text("\n" + (text if options["format"] == "json" else render_table(hosts)) + "\n")
        pages = {options["html"]: render_page(hosts, time.time())} if options["html"] else {}
        pages |= {options["json"]: text + "\n"} if options["json"] else {}
        result["files"] = [str(self._write(path, content)) for path, content in pages.items()]
        result["hosts"] = hosts
        return self._fail_if_unread(result, [host["host"] for host in hosts if host["trouble"]])

    def _write(self, path: str, content: str) -> Path:
        """Write a report, in check mode too, because it changes no host."""
        file = Path(path).expanduser().absolute()
        if differs(str(file), content, 0o644):
            write_file(str(file), content, 0o644)
        return file

    def _fail_if_unread(self, result: dict[str, Any], hosts: list[str]) -> dict[str, Any]:
        if hosts:
            result["failed"] = True
            result["msg"] = "the status of these hosts could not be read (the reasons are above): " + ", ".join(hosts)
        return result
