# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan and render an experiment on the controller, from parameters or from a compose file.

The host is asked only to interpret a compose file where the controller has no Docker Compose, and for a GPU that the inventory
does not have.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.core.addresses import format_url
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.modules.anvil_experiment_plan import OPTIONS
from ansible_collections.anvil.serving.plugins.plugin_utils.host_code.module_action import HostCodeAction
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.experiment import plan_experiment
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.experiment_options import read_options, refuse_stray_words
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.from_variables import list_gpus
from ansible_collections.anvil.serving.plugins.plugin_utils.report.action_result import failure_result


class ActionModule(HostCodeAction):
    """Plan one experiment of a host."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, typed = self.validate_argument_spec(argument_spec=OPTIONS)
        task_vars = task_vars or {}
        variables = {name: value for name, value in task_vars.items() if name.startswith("anvil_")}
        host = str(task_vars.get("inventory_hostname", "localhost"))
        result["changed"] = False
        try:
            refuse_stray_words(task_vars)
            options = read_options(typed)
            compose = Path(self._loader.path_dwim(typed["compose"])) if typed["compose"] else None
            base, project, notes = plan_experiment(
                self._templar,
                host,
                variables,
                options,
                compose,
                lambda name, files: self._ask_host("anvil_compose_config", {"name": name, "files": files}, task_vars),
                lambda: self._ask_host("anvil_host_info", {}, task_vars)["gpus"],
            )
            result.update(
                name=options.name,
                project=project.as_dict(),
                gpus=list_gpus(base),
                notes=notes,
                endpoints=[
                    f"{format_url('http', bind, port)}/v1"
                    for one in project.services.values()
                    for bind, port, _target in one.ports
                ],
                ttl=options.ttl,
                root=base.root,
            )
        except AnvilError as error:
            result.update(failure_result(error, f"The experiment for {host} cannot be planned, so it was not started."))
        return result
