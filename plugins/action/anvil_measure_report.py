# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Print what was measured, write it as JSON and as an HTML page, and fail where a limit of the gate does not hold."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.action import ActionBase
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.measure.gate import Gate, parse_gate
from ansible_collections.anvil.serving.plugins.modules.anvil_measure_report import OPTIONS
from ansible_collections.anvil.serving.plugins.plugin_utils.report.action_result import failure_result, write_files
from ansible_collections.anvil.serving.plugins.plugin_utils.report.measurement_report import (
    render_measurement_page,
    render_measurement_table,
    report_measurement,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.report.terminal import display_text


def read_gate(path: str) -> Gate:
    """The gate in a YAML file of the controller."""
    try:
        document = yaml.safe_load(Path(path).expanduser().read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise fail("the gate cannot be read", where=path, why=str(exc)) from exc
    return parse_gate(document, path)


class ActionModule(ActionBase):
    """Report the results of anvil_measure of all hosts of a play."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, options = self.validate_argument_spec(argument_spec=OPTIONS)
        result["changed"] = False
        try:
            gate = read_gate(options["gate"]) if options["gate"] else None
        except AnvilError as error:
            return {**result, **failure_result(error)}
        evaluated = options["evaluated"] or [{} for _host in options["hosts"]]
        triples = list(zip(options["hosts"], options["results"], evaluated, strict=True))
        if self._task.check_mode or not triples:
            return result
        hosts = [report_measurement(host, one, gate, found) for host, one, found in triples]
        display_text("\n" + render_measurement_table(hosts) + "\n")
        if options["folder"]:
            folder = Path(options["folder"]).expanduser().absolute()
            texts = {"report.json": json.dumps(hosts, indent=2, ensure_ascii=False) + "\n"}
            texts["report.html"] = render_measurement_page(hosts, time.time())
            if len(hosts) > 1:
                for host in hosts:
                    texts[f"{host['host']}/report.json"] = json.dumps([host], indent=2, ensure_ascii=False) + "\n"
                    texts[f"{host['host']}/report.html"] = render_measurement_page([host], time.time())
            profiles = {f"{host}/measured.json": found.get("profile") for host, _one, found in triples}
            texts.update({path: text for path, text in profiles.items() if text})
            result["files"], _changed = write_files(folder, texts, check=False)
        result["hosts"] = hosts
        broken = [f"{host['host']}: {check['text']}" for host in hosts for check in host["checks"] if not check["holds"]]
        failed = [f"{host['host']}: {one['name']}" for host in hosts for one in host["evaluations"] if not one["passed"]]
        parts = {"the gate does not hold:": broken, "these evaluations failed (the reasons are above):": failed}
        if broken or failed:
            result.update(failed=True, msg="\n".join("\n".join([head, *lines]) for head, lines in parts.items() if lines))
        elif gate is not None and not any(host["checks"] for host in hosts):
            result.update(failed=True, msg=f"the gate was not checked: no measured tier has limits in {options['gate']}")
        return result
