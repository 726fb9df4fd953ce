# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Show a secret on the operator's terminal only. It is not in Ansible's output or log, and no host gets it."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.anvil.serving.plugins.modules.anvil_reveal import OPTIONS
from ansible_collections.anvil.serving.plugins.plugin_utils.report.terminal import write_to_terminal


class ActionModule(ActionBase):
    """Write one secret to the terminal of ansible-playbook, or fail if there is none."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, options = self.validate_argument_spec(argument_spec=OPTIONS)
        result["changed"] = False
        if not write_to_terminal(options["name"], options["secret"]):
            msg = (
                f"There is no terminal, so {options['name']} is not shown. Run ansible-playbook in a terminal, not in a pipeline."
            )
            result.update(failed=True, msg=msg)
        return result
