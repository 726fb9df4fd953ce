# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""anvil_container_info, with its offers as YAML, and as files on the controller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.plugin_utils.host_code.module_action import HostCodeAction
from ansible_collections.anvil.serving.plugins.plugin_utils.report.action_result import failure_result
from ansible_collections.anvil.serving.plugins.plugin_utils.report.offered_inventory import lay_out_offer, write_offers


class ActionModule(HostCodeAction):
    """Run the module on the host, and write what it offers."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = {key: value for key, value in self._task.args.items() if key != "output"}
        result.update(self._execute_module(module_args=arguments, task_vars=task_vars))
        if result.get("failed"):
            return result
        texts = {name: lay_out_offer(name, offer) for name, offer in (result.get("offers") or {}).items()}
        result["texts"] = texts
        if self._task.args.get("output"):
            host = str((task_vars or {}).get("inventory_hostname", "localhost"))
            folder = Path(str(self._task.args["output"])).expanduser().resolve() / host
            try:
                if not texts:
                    names = ", ".join(map(str, self._task.args.get("containers") or ())) or "none is named"
                    raise fail("there is no such container on this host", "containers", names, "pass -e container=NAME")
                result["files"], result["changed"] = write_offers(folder, texts, self._task.check_mode)
            except AnvilError as error:
                result.update(failure_result(error))
        return result
