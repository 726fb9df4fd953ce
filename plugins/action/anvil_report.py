# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print what hosts told: their status as a table, as JSON, as an HTML page; or the logs of their serves."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.anvil.serving.plugins.module_utils.core.files import differs, write_file
from ansible_collections.anvil.serving.plugins.modules.anvil_report import OPTIONS
from ansible_collections.anvil.serving.plugins.plugin_utils.report.status_page import as_html, as_text, log_text, report_host


def say(text: str) -> None:
    """On the operator's terminal, as it is: a debug task would quote and indent a table."""
    Display().display("\n" + text + "\n")


class ActionModule(ActionBase):
    """Lay out what the hosts of a play told."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, options = self.validate_argument_spec(argument_spec=OPTIONS)
        result["changed"] = False
        if options["show"] == "logs":
            told = dict(zip(options["hosts"], options["looks"], strict=True))
            say("\n\n".join(log_text(host, look) for host, look in told.items()))
            return self._judge(result, [host for host, look in told.items() if "logs" not in look and not look.get("skipped")])
        count = len(options["hosts"])
        columns = [options[key] or [{}] * count for key in ("plans", "looks", "routers", "retired")]
        hosts = [report_host(host, *told) for host, *told in zip(options["hosts"], *columns, strict=True)]
        text = json.dumps(hosts, indent=2, ensure_ascii=False)
        say(text if options["format"] == "json" else as_text(hosts))
        wanted = {options["html"]: as_html(hosts, time.time())} if options["html"] else {}
        wanted |= {options["json"]: text + "\n"} if options["json"] else {}
        result["files"] = [str(self._write(path, content)) for path, content in wanted.items()]
        result["hosts"] = hosts
        return self._judge(result, [host["host"] for host in hosts if host["trouble"]])

    def _write(self, path: str, content: str) -> Path:
        """A page of what was looked at is no change of any host: written in check mode too."""
        file = Path(path).expanduser().absolute()
        if differs(str(file), content, 0o644):
            write_file(str(file), content, 0o644)
        return file

    def _judge(self, result: dict[str, Any], silent: list[str]) -> dict[str, Any]:
        if silent:
            result["failed"] = True
            result["msg"] = "could not be looked at, see above: " + ", ".join(silent)
        return result
