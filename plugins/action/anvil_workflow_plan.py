# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check a workflow and the wishes of its operator on the controller, and render all that is made of it. No host is contacted."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.anvil.serving.plugins.action.anvil_plan import plan_host
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan
from ansible_collections.anvil.serving.plugins.modules.anvil_workflow_plan import OPTIONS
from ansible_collections.anvil.serving.plugins.plugin_utils.report.outcome import as_failure, count_mistakes, write_texts
from ansible_collections.anvil.serving.plugins.plugin_utils.workflow import workflow_render
from ansible_collections.anvil.serving.plugins.plugin_utils.workflow.workflow_plan import Wish, WorkflowPlan, plan_workflow

OWN = ("root", "generate_only", "output", "networks")


def read_host(templar: Any, host: str, task_vars: dict[str, Any], wish: Wish) -> HostPlan | None:
    """The plan of the host, where its inventory has a router and the workflow's models are to be asked through it."""
    variables = {name: value for name, value in task_vars.items() if name.startswith("anvil_")}
    if wish.model_url or "anvil_router" not in variables:
        return None
    return plan_host(templar, host, variables, secrets_required=False)


def describe(plan: WorkflowPlan) -> dict[str, Any]:
    """What the role and the operator need of a plan: JSON types, no file's text."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(plan)))
    plain.pop("text")
    return {**plain, "edge": plan.edge, "mlflow": plan.mlflow, "mlflow_auth": plan.mlflow_auth}


class ActionModule(ActionBase):
    """Plan and render one workflow for one host."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, options = self.validate_argument_spec(argument_spec=OPTIONS)
        task_vars = task_vars or {}
        host = str(task_vars.get("inventory_hostname", "localhost"))
        typed = {key: value for key, value in options.items() if key not in OWN}
        wish = Wish(networks=tuple(options["networks"]), standalone=options["generate_only"], **typed)
        result["changed"] = False
        # The contexts of two images are no reading for a terminal; -vvv shows them.
        result["_ansible_verbose_override"] = True
        try:
            plan = plan_workflow(wish, options["root"], read_host(self._templar, host, task_vars, wish))
            result.update(
                plan=describe(plan),
                warnings=list(plan.notes),
                project=workflow_render.render_workflow(plan).as_dict(),
                images={name: image.as_dict() for name, image in workflow_render.list_images(plan).items()},
                private=workflow_render.private_files(plan),
                request=workflow_render.sample_inputs(plan.inputs),
            )
            folder = options["output"] or ("deploy" if options["generate_only"] else "")
            if folder:
                place = Path(folder).expanduser().resolve()
                artifacts = workflow_render.render_artifacts(plan)
                result["files"], result["changed"] = write_texts(place, artifacts, self._task.check_mode)
        except AnvilError as error:
            result.update(as_failure(error, f"The workflow cannot be deployed: {count_mistakes(error)}; no host was contacted."))
        return result
