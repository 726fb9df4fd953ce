# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check and render the inventory of a host on the controller. No host is contacted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.modules.anvil_plan import OPTIONS
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.from_variables import list_gpus, plan_host
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import list_rendered_files, render_host
from ansible_collections.anvil.serving.plugins.plugin_utils.report.action_result import (
    count_mistakes,
    failure_result,
    write_files,
)


class ActionModule(ActionBase):
    """Plan and render one host from its variables."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, options = self.validate_argument_spec(argument_spec=OPTIONS)
        task_vars = task_vars or {}
        variables = {name: value for name, value in task_vars.items() if name.startswith("anvil_")}
        variables.update(options["inventory"])
        host = str(task_vars.get("inventory_hostname", "localhost"))
        result["changed"] = False
        try:
            plan = plan_host(self._templar, host, variables, options["secrets"] == "required")
            rendered = render_host(plan)
            result.update(plan=plan.as_dict(), notes=list(plan.notes), gpus=list_gpus(plan), **rendered)
            if options["output"]:
                folder = Path(options["output"]).expanduser().resolve() / host
                texts = list_rendered_files(rendered)
                result["files"], result["changed"] = write_files(folder, texts, self._task.check_mode)
        except AnvilError as error:
            result.update(failure_result(error, f"The inventory of {host} has {count_mistakes(error)}; no host was contacted."))
        return result
