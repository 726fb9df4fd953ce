# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The other hosts of the inventory, for the plan of a gateway: each is planned when it is asked for. None is contacted."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from ansible.template import Templar
from ansible_collections.anvil.serving.plugins.module_utils.plan.fleet import FarHost, Fleet
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.from_variables import plan_host

# Its own tiers may have backends on the gateway, and no backend depends on it.
ROUTER = "anvil_router"


def describe_fleet(loader: Any, host: str, task_vars: Mapping[str, Any]) -> Fleet:
    """The inventory around a host, from the variables of its task."""
    known = task_vars.get("hostvars")

    @functools.cache
    def read_host(name: str) -> FarHost:
        variables = known.raw_get(name)
        templar = Templar(loader, {**variables, "hostvars": known})
        own = {key: value for key, value in variables.items() if key.startswith("anvil_") and key.partition("__")[0] != ROUTER}
        plan = plan_host(templar, name, own, secrets_required=False)
        return FarHost(plan, str(templar.template(variables.get("ansible_host") or name)))

    groups = {name: list(members) for name, members in (task_vars.get("groups") or {}).items()}
    return Fleet(host, list(known or ()), groups, read_host)
