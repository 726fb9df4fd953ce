# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check and render the inventory of a host on the controller.

The host is asked only if the inventory left out values of its cards that the driver knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.module_utils.parsing.convert_bool import boolean
from ansible.utils.display import Display
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.core.printable import make_printable
from ansible_collections.anvil.serving.plugins.module_utils.plan.serves_over_hosts import list_partners
from ansible_collections.anvil.serving.plugins.modules.anvil_plan import OPTIONS
from ansible_collections.anvil.serving.plugins.plugin_utils.host_code.module_action import HostCodeAction
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.explained_variables import explain_variables
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.from_variables import list_gpus, plan_host
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.other_hosts import describe_fleet
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.partner_plans import join_partners
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import (
    list_rendered_files,
    list_selectors,
    render_host,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.scraped_targets import list_scraped
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.secret_files import find_secret_files, list_open_files
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.stray_variables import find_strays
from ansible_collections.anvil.serving.plugins.plugin_utils.report.action_result import (
    count_mistakes,
    failure_result,
    write_files,
)

# What the role watch uses where the inventory says nothing.
WATCH_PORT = 9419


class ActionModule(HostCodeAction):
    """Plan and render one host from its variables."""

    _contact = "no host was contacted"

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _validated, options = self.validate_argument_spec(argument_spec=OPTIONS)
        task_vars = task_vars or {}
        variables = {name: value for name, value in task_vars.items() if name.startswith("anvil_")}
        variables.update(options["inventory"])
        host = str(task_vars.get("inventory_hostname", "localhost"))
        result["changed"] = False

        def ask_driver() -> Sequence[Mapping[str, Any]]:
            return self._read_cards(host, options["driver"] == "required", task_vars)

        read_cards = None if options["driver"] == "none" else ask_driver
        try:
            strays = find_strays(host, {**task_vars, **options["inventory"]})
            required = options["secrets"] == "required"
            fleet = describe_fleet(self._loader, host, task_vars)
            plan = plan_host(self._templar, host, variables, required, read_cards, strays, fleet)
            plan = join_partners(plan, self._loader, task_vars.get("hostvars") or {}, required)
            rendered = render_host(plan)
            result.update(plan=plan.as_dict(), notes=list(plan.notes), gpus=list_gpus(plan), **rendered)
            result["selectors"], result["partners"] = list_selectors(plan), list(list_partners(plan.serves))
            result["scraped"] = list_scraped(plan.edge, self._read_watch_port(task_vars))
            if options["explain"]:
                result["origins"] = explain_variables(self._templar, variables)
            files = find_secret_files(self._templar, variables)
            result["warnings"] = list_open_files(files)
            asked = rendered["router_names"]["asked"]["secret"] if rendered["router"] else ""
            result["token_file"] = str(files.get(asked, ""))
            if options["output"]:
                folder = Path(options["output"]).expanduser().resolve() / host
                texts = list_rendered_files(rendered)
                result["files"], result["changed"] = write_files(folder, texts, self._task.check_mode)
        except AnvilError as error:
            result.update(failure_result(error, f"The inventory of {host} has {count_mistakes(error)}; {self._contact}."))
        return result

    def _read_watch_port(self, task_vars: Mapping[str, Any]) -> int:
        """0 for a host without watch."""
        wanted = boolean(self._templar.template(task_vars.get("anvil_watch", False)), strict=False)
        port = str(self._templar.template(task_vars.get("watch_port", WATCH_PORT)))
        return int(port) if wanted and port.isdigit() else 0  # the role watch tells what is wrong with another one

    def _read_cards(self, host: str, required: bool, task_vars: dict[str, Any]) -> Sequence[Mapping[str, Any]]:
        """The cards of the host. One that cannot be read is an AnvilError if ``required``, else a warning."""
        self._contact = "only the driver of the host was asked"
        try:
            return list(self._ask_host("anvil_host_info", {}, task_vars)["gpus"])
        except (AnvilError, AnsibleConnectionFailure) as exc:
            what = "the inventory left out values of cards, and the driver of the host cannot be asked for them"
            hint = "write vram_mib and compute_capability of every card in anvil_gpus; then the plan asks no driver"
            why = exc.as_text() if isinstance(exc, AnvilError) else str(exc)
            if required and isinstance(exc, AnvilError):
                raise AnvilError(Problem(what, "anvil_gpus", why, hint)) from exc
            if required:
                raise
            Display().warning(make_printable(f"{host}: {what}: {why}"))
            return []
