# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check and normalise a host's inventory on the controller. No host is contacted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import build_plan
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan
from ansible_collections.anvil.serving.plugins.modules.anvil_plan import OPTIONS
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.origin import name_origins, read_variables
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import render_host
from ansible_collections.anvil.serving.plugins.plugin_utils.report.outcome import as_failure, count_mistakes, write_texts


def plan_host(templar: Any, host: str, variables: dict[str, Any], secrets_required: bool) -> HostPlan:
    """The plan of a host, or one AnvilError with every mistake, each with the line it was written at."""
    reading = read_variables(templar, variables)
    problems = list(reading.problems)
    try:
        plan = build_plan(host, reading.values, reading.facts, secrets_required)
    except AnvilError as error:
        known = {problem.where for problem in error.problems}
        problems = [problem for problem in problems if problem.where not in known] + list(error.problems)
    if problems:
        raise AnvilError(*name_origins(problems, reading.raw))
    return plan


def list_gpus(plan: HostPlan) -> list[dict[str, Any]]:
    """The cards of the inventory with their budgets, for the ledger of anvil_serve."""
    return [
        {"alias": gpu.alias, "uuid": gpu.uuid, "vram_mib": gpu.vram_mib, "reserve_mib": gpu.reserve_mib}
        for gpu in plan.gpus.values()
    ]


def write_rendered(folder: Path, rendered: dict[str, Any], check: bool) -> tuple[list[str], bool]:
    """Write what was rendered for one host into a folder of the controller; returns the paths and whether any changed."""
    texts = {
        "serves/compose.yaml": (rendered["serves"] or {}).get("compose", ""),
        "router/compose.yaml": (rendered["router"] or {}).get("compose", ""),
        "router/config.toml": rendered["router_files"]["config"],
        "router/profile.json": rendered["router_files"]["profile"],
        "router/edge/haproxy.cfg": rendered["router_files"]["edge"],
        **{f"serves/{name}": text for name, text in (rendered["serves"] or {}).get("files", {}).items()},
    }
    return write_texts(folder, {name: text for name, text in texts.items() if text}, check)


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
                result["files"], result["changed"] = write_rendered(folder, rendered, self._task.check_mode)
        except AnvilError as error:
            result.update(as_failure(error, f"The inventory of {host} has {count_mistakes(error)}; no host was contacted."))
        return result
