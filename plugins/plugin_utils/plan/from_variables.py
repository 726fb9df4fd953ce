# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the plan of a host from its Ansible variables. Every mistake has the file and line where its key was written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import build_plan
from ansible_collections.anvil.serving.plugins.module_utils.plan.driver_cards import complete_gpus, find_incomplete
from ansible_collections.anvil.serving.plugins.module_utils.plan.fleet import Fleet
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.host_variables import read_variables
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.source_lines import add_source_lines
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.stray_variables import Strays


def plan_host(
    templar: Any,
    host: str,
    variables: dict[str, Any],
    secrets_required: bool,
    read_cards: Callable[[], Sequence[Mapping[str, Any]]] | None = None,
    strays: Strays | None = None,
    fleet: Fleet | None = None,
) -> HostPlan:
    """The plan of a host. Raises AnvilError with every mistake, each with its file and line.

    read_cards: the cards of the host as ``anvil_host_info`` lists them; called only if the inventory left values of cards out.
    strays: what the inventory writes and this host does not get. fleet: the other hosts, for tiers with backends on them.
    """
    read = read_variables(templar, variables)
    strays = strays or Strays()
    problems, notes = list(read.problems), [*read.notes, *strays.notes]
    incomplete = find_incomplete(read.values.get("anvil_gpus"))
    if incomplete and read_cards:
        read.values["anvil_gpus"], told = complete_gpus(read.values["anvil_gpus"], read_cards())
        notes += told
    elif incomplete:
        what = "values are left out, and this plan asks no driver; write vram_mib and compute_capability"
        notes += [f"anvil_gpus.{alias}: {what}" for alias in incomplete]
    try:
        plan = build_plan(host, read.values, read.facts, secrets_required, fleet)
    except AnvilError as error:
        known = {problem.where for problem in error.problems}
        problems = [problem for problem in problems if problem.where not in known] + list(error.problems)
    if problems or read.conflicts or strays.problems:
        raise AnvilError(*strays.problems, *read.conflicts, *add_source_lines(problems, read.raw, read.sources))
    return replace(plan, notes=(*plan.notes, *notes))


def list_gpus(plan: HostPlan) -> list[dict[str, Any]]:
    """The cards of the inventory with their budgets, for the VRAM ledger of anvil_serve."""
    return [
        {"alias": gpu.alias, "uuid": gpu.uuid, "vram_mib": gpu.vram_mib, "reserve_mib": gpu.reserve_mib}
        for gpu in plan.gpus.values()
    ]
