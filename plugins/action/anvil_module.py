# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action of every module without one of its own: ``meta/runtime.yml`` names it for each of them."""

from __future__ import annotations

from typing import Any

from ansible.utils.vars import merge_hash
from ansible_collections.anvil.serving.plugins.plugin_utils.host_code.module_action import HostCodeAction


class ActionModule(HostCodeAction):
    """Run the module of the task with the code that the host keeps."""

    _supports_async = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        wrap_async = bool(self._task.async_val) and not self._connection.has_native_async
        result = merge_hash(result, self._execute_module(task_vars=task_vars, wrap_async=wrap_async))
        if not wrap_async:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        return result
