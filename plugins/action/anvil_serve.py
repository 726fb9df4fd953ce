# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""anvil_serve with progress on the operator's terminal."""

from __future__ import annotations

from typing import Any

from ansible.utils.vars import merge_hash
from ansible_collections.anvil.serving.plugins.plugin_utils.report.progress import ProgressAction
from ansible_collections.anvil.serving.plugins.plugin_utils.report.terminal import display_text


class ActionModule(ProgressAction):
    """Run the module anvil_serve, and show its progress."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        folder = (arguments.get("project") or {}).get("directory")
        answer, selector = self.run_with_progress(arguments, task_vars or {}, lambda token: f"{folder}/.progress-{token}")
        for line in selector.describe_ends(answer.get("serves") or {}):
            display_text(line)
        return merge_hash(result, answer)
