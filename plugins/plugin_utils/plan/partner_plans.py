# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan the other hosts of the serves that a host runs together with others, and refuse a plan that they cannot join."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ansible.template import Templar
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.serves_over_hosts import (
    OtherPlan,
    check_partners,
    list_partners,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.from_variables import plan_host


def join_partners(plan: HostPlan, loader: Any, hostvars: Mapping[str, Any], secrets_required: bool) -> HostPlan:
    """The plan with notes on its partners. Raises AnvilError with every reason why the hosts cannot run a serve together.

    hostvars: as Ansible gives them to a task. No host is asked: values of cards that the inventory left out stay unknown.
    """
    partners = [host for host in list_partners(plan.serves) if host != plan.host]
    if not partners:
        return plan
    others = {host: _plan_partner(host, loader, hostvars, secrets_required) for host in partners}
    problems, notes = check_partners(plan, others, sorted(hostvars))
    if problems:
        raise AnvilError(*problems)
    return replace(plan, notes=(*plan.notes, *notes))


def _plan_partner(host: str, loader: Any, hostvars: Mapping[str, Any], secrets_required: bool) -> OtherPlan:
    if host not in hostvars:
        return None
    raw = hostvars.raw_get(host) if hasattr(hostvars, "raw_get") else hostvars[host]
    variables = {name: value for name, value in raw.items() if name.startswith("anvil_")}
    templar = Templar(loader=loader, variables={**raw, "hostvars": hostvars})
    try:
        return plan_host(templar, host, variables, secrets_required)
    except AnvilError as error:
        return error
