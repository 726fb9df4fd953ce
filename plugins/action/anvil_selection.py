# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Find, for each host of a run, which of the serves that an operator names it has."""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.modules.anvil_selection import OPTIONS
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.selection import select_serves
from ansible_collections.anvil.serving.plugins.plugin_utils.report.action_result import failure_result


class ActionModule(ActionBase):
    """Select serves over all hosts of a play."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, options = self.validate_argument_spec(argument_spec=OPTIONS)
        result["changed"] = False
        try:
            words = [None if one == "" else one for one in options["selectors"]]
            result["chosen"] = select_serves(options["serves"], dict(zip(options["hosts"], words, strict=True)))
        except AnvilError as error:
            result.update(failure_result(error, "No host was changed."))
        return result
