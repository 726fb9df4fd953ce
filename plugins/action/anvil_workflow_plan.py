# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check a workflow and its options on the controller, and render its files. No host is contacted."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan
from ansible_collections.anvil.serving.plugins.modules.anvil_workflow_plan import OPTIONS
from ansible_collections.anvil.serving.plugins.plugin_utils.host_code.module_action import HostCodeAction
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.from_variables import plan_host
from ansible_collections.anvil.serving.plugins.plugin_utils.report.action_result import (
    count_mistakes,
    failure_result,
    write_files,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.report.typed_command import command_beside, read_typed
from ansible_collections.anvil.serving.plugins.plugin_utils.workflow import render
from ansible_collections.anvil.serving.plugins.plugin_utils.workflow.options import WorkflowOptions
from ansible_collections.anvil.serving.plugins.plugin_utils.workflow.plan import plan_workflow

# Options of the module that are not options of the workflow.
OTHER_OPTIONS = ("root", "generate_only", "output", "networks", "hosts")


class ActionModule(HostCodeAction):
    """Plan and render one workflow for one host."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, typed = self.validate_argument_spec(argument_spec=OPTIONS)
        given = {key: value for key, value in typed.items() if key not in OTHER_OPTIONS}
        options = WorkflowOptions(
            networks=tuple(typed["networks"]), hosts=tuple(typed["hosts"]), standalone=typed["generate_only"], **given
        )
        result["changed"] = False
        # The build contexts are too long for a terminal; -vvv shows them.
        result["_ansible_verbose_override"] = True
        try:
            plan = plan_workflow(options, typed["root"], self._plan_host(options, task_vars or {}))
            result.update(
                plan=plan.as_dict(),
                warnings=list(plan.notes),
                project=render.render_workflow(plan).as_dict(),
                images={name: image.as_dict() for name, image in render.list_images(plan).items()},
                private=render.list_private_files(plan),
                request=render.sample_inputs(plan.inputs),
                commands=self._list_commands(plan.name, str((task_vars or {}).get("inventory_hostname", "localhost"))),
            )
            folder = typed["output"] or ("deploy" if typed["generate_only"] else "")
            if folder:
                texts = render.render_artifacts(plan)
                result["files"], result["changed"] = write_files(
                    Path(folder).expanduser().resolve(), texts, self._task.check_mode
                )
        except AnvilError as error:
            opening = f"The workflow cannot be deployed: {count_mistakes(error)}; no host was contacted."
            result.update(failure_result(error, opening))
        return result

    @staticmethod
    def _list_commands(name: str, host: str) -> list[str]:
        """What an operator types next for a deployed workflow."""
        typed = read_typed(sys.argv, shutil.which, os.getcwd())
        which = ["-l", host, "-e", f"name={name}"]
        return [command_beside(typed, verb, which) for verb in ("workflow_logs", "workflow_stop", "workflow_remove")]

    def _plan_host(self, options: WorkflowOptions, task_vars: dict[str, Any]) -> HostPlan | None:
        """The plan of the host, if the models of the workflow are called through the router of its inventory."""
        variables = {name: value for name, value in task_vars.items() if name.startswith("anvil_")}
        if options.model_url or "anvil_router" not in variables:
            return None

        def read_cards() -> Sequence[Mapping[str, Any]]:
            return list(self._ask_host("anvil_host_info", {}, task_vars)["gpus"])

        host = str(task_vars.get("inventory_hostname", "localhost"))
        return plan_host(self._templar, host, variables, False, None if options.standalone else read_cards)
