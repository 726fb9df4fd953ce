# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""anvil_measure with progress on the operator's terminal."""

from __future__ import annotations

from typing import Any

from ansible.utils.vars import merge_hash
from ansible_collections.anvil.serving.plugins.plugin_utils.report.progress import ProgressAction


class ActionModule(ProgressAction):
    """Run the module anvil_measure, and show its progress."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        answer, _selector = self.run_with_progress(dict(self._task.args), task_vars or {})
        return merge_hash(result, answer)
