# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs anvil_workflow with the values of the env file, which is read here. No registered result holds them."""

from __future__ import annotations

import os
import shutil
import sys
from typing import Any

from ansible.utils.vars import merge_hash
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.plugin_utils.host_code.module_action import HostCodeAction
from ansible_collections.anvil.serving.plugins.plugin_utils.report.action_result import failure_result
from ansible_collections.anvil.serving.plugins.plugin_utils.report.typed_command import fill_in_inventory, read_typed
from ansible_collections.anvil.serving.plugins.plugin_utils.workflow.env_file import read_env_file
from ansible_collections.anvil.serving.plugins.plugin_utils.workflow.file_check import MODEL_KEY, MODEL_URL


class ActionModule(HostCodeAction):
    """Adds the secrets, which only the controller has, to the module's arguments."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if arguments.get("state", "present") == "present":
            try:
                values = read_env_file(str(arguments.get("env_file") or ""))
            except AnvilError as error:
                return {**result, **failure_result(error)}
            variables = arguments.get("variables") or []
            given = arguments.pop("model_url", "") or ""
            values = {**values, MODEL_URL: given or values.get(MODEL_URL, "")}
            arguments["secrets"] = {name: values[name] for name in variables if values.get(name)}
            own = values.get(MODEL_KEY) if arguments.get("env_key", True) else ""
            arguments["model_key"] = own or arguments.get("model_key") or ""
        answer = self._execute_module(module_args=arguments, task_vars=task_vars)
        if answer.get("failed"):
            answer = _fill_in_commands(answer, str((task_vars or {}).get("inventory_hostname", "localhost")))
        result = merge_hash(result, answer)
        self._remove_tmp_path(self._connection._shell.tmpdir)
        return result


def _fill_in_commands(answer: dict[str, Any], host: str) -> dict[str, Any]:
    """The failure, with commands that can be pasted."""
    typed = read_typed(sys.argv, shutil.which, os.getcwd())
    problems = [
        {**one, "hint": fill_in_inventory(str(one.get("hint") or ""), typed, host)} for one in answer.get("problems") or ()
    ]
    return {**answer, "msg": fill_in_inventory(str(answer.get("msg") or ""), typed, host), "problems": problems}
