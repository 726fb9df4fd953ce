# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""anvil_serve with progress on the operator's terminal. A serve over several hosts changes only if all of them take part."""

from __future__ import annotations

from typing import Any

from ansible.utils.vars import merge_hash
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import HOLDING_STATES
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.partners_in_run import (
    Run,
    choose_parts,
    find_obstacles,
    lists_changes,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.report.action_result import failure_result
from ansible_collections.anvil.serving.plugins.plugin_utils.report.progress import ProgressAction
from ansible_collections.anvil.serving.plugins.plugin_utils.report.terminal import display_text

NOTHING_CHANGED = "Nothing was changed on this host."


class ActionModule(ProgressAction):
    """Run the module anvil_serve, and show its progress."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments, task_vars = dict(self._task.args), task_vars or {}
        project = arguments.get("project") or {}
        folder = project.get("directory")
        state = arguments.get("state") or "up"
        parts = arguments.pop("parts", None) or "all"
        if parts != "all":
            arguments["serves"] = choose_parts(project, arguments.get("serves") or (), parts)
            if not arguments["serves"]:
                return merge_hash(result, {"changed": False, "serves": {}, "warnings": []})
        run = Run(
            tuple(task_vars.get("ansible_play_hosts_all") or ()),
            tuple(task_vars.get("ansible_play_hosts") or ()),
        )
        problems = find_obstacles(project, arguments.get("serves") or (), state, run)
        if problems and state not in HOLDING_STATES:
            return merge_hash(result, failure_result(AnvilError(*problems), NOTHING_CHANGED))
        if problems:
            arguments["hold"] = True
        answer, selector = self.run_with_progress(arguments, task_vars, lambda token: f"{folder}/.progress-{token}")
        for line in selector.describe_ends(answer.get("serves") or {}):
            display_text(line)
        would_change = answer.get("held") or (self._task.check_mode and lists_changes(answer.get("serves") or {}))
        if problems and would_change and not answer.get("failed"):
            return merge_hash(result, {**answer, "held": False, **failure_result(AnvilError(*problems), NOTHING_CHANGED)})
        return merge_hash(result, answer)
