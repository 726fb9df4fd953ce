# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""anvil_workflow_info with ``follow``: it reads the logs again and again, and prints the new lines.

Nothing is left on the host while it waits, so a run that is interrupted at any moment leaves nothing behind.
"""

from __future__ import annotations

import time
from typing import Any

from ansible.utils.vars import merge_hash
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.plugin_utils.host_code.module_action import HostCodeAction
from ansible_collections.anvil.serving.plugins.plugin_utils.report.action_result import failure_result
from ansible_collections.anvil.serving.plugins.plugin_utils.report.terminal import display_text
from ansible_collections.anvil.serving.plugins.plugin_utils.report.workflow_report import lay_out_lines, parse_follow

POLL = 1.0
# A workflow that has no running container for so many readings has stopped; fewer may be a replacement.
MOST_IDLE = 5
RUNS = ("running", "starting", "unhealthy", "partly_stopped")


class ActionModule(HostCodeAction):
    """Run the module once, or until the time of ``follow`` is over."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        try:
            seconds = parse_follow(str(arguments.pop("follow", "") or ""))
        except AnvilError as error:
            return {**result, **failure_result(error)}
        answer = self._execute_module(module_args=arguments, task_vars=task_vars)
        if seconds and answer.get("found"):
            answer = self._follow(answer, arguments, seconds, task_vars or {})
        self._remove_tmp_path(self._connection._shell.tmpdir)
        return dict(merge_hash(result, answer))

    def _follow(
        self, answer: dict[str, Any], arguments: dict[str, Any], seconds: float, task_vars: dict[str, Any]
    ) -> dict[str, Any]:
        """Print what the module read, and read again; returns the last answer, without the lines that were printed."""
        host, name = str(task_vars.get("inventory_hostname", "localhost")), str(arguments.get("name"))
        deadline = time.monotonic() + seconds
        idle = 0
        while "logs" in answer:
            text = lay_out_lines(host, answer["logs"])
            if text:
                display_text(text)
            state = next((one["state"] for one in answer["workflows"] if one["name"] == name), "removed")
            idle = 0 if state in RUNS else idle + 1
            if idle == MOST_IDLE:
                display_text(f"[{host}] {name} is {state.replace('_', ' ')}")
            if idle == MOST_IDLE or time.monotonic() >= deadline:
                return {**answer, "logs": {}, "followed": True}
            time.sleep(POLL)
            again = {**arguments, "after": {**answer["after"]}, "tail": -1}
            answer = self._execute_module(module_args=again, task_vars=task_vars)
        return answer
