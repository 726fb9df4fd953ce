# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Propose hosts and cards for serves, from the inventories of all hosts of the play. No host is contacted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.modules.anvil_place import OPTIONS
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.proposed_serves import (
    check_folder,
    choose_serves,
    describe_proposal,
    place_on_hosts,
    read_fleet,
    render_files,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.report.action_result import failure_result, write_files


class ActionModule(ActionBase):
    """Place the serves of a file, or one more backend of a serve of the inventory."""

    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, options = self.validate_argument_spec(argument_spec=OPTIONS)
        task_vars = task_vars or {}
        result["changed"] = False
        try:
            hosts = options["hosts"] or list(task_vars.get("ansible_play_hosts_all") or ())
            variables = {host: task_vars["hostvars"].raw_get(host) for host in hosts}
            looks = dict(zip(hosts, options["looks"], strict=True)) if options["looks"] else {}
            fleet = read_fleet(self._loader, variables, looks)
            document = self._loader.load_from_file(str(Path(options["file"]).absolute())) if options["file"] else None
            wanted = choose_serves(fleet, options["serve"], document, options["backends"])
            proposal = place_on_hosts(self._loader, fleet, wanted)
            files = render_files(wanted, proposal)
            result.update(
                placed=[
                    {"serve": one.serve, "host": one.host, "gpus": list(one.claims), "vram_mib": one.claims}
                    for one in proposal.placed
                ],
                missing=proposal.missing,
                lines=describe_proposal(fleet, wanted, proposal, files),
            )
            if options["output"] and files:
                folder = Path(options["output"]).expanduser().absolute()
                check_folder(folder, files)
                result["files"], result["changed"] = write_files(folder, files, self._task.check_mode)
        except AnvilError as error:
            result.update(failure_result(error, "Nothing was written."))
        return result
