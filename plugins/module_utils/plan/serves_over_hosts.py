# SPDX-License-Identifier: GPL-3.0-or-later
"""Serves over several hosts, judged over the plans of all their hosts: every reason why one host cannot take part. Pure."""

from __future__ import annotations

from typing import Iterable, List, Mapping, Sequence, Tuple, Union

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import OFF
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan, ServePlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_host_parts import describe_difference
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import suggest_name

# The plan of another host; its mistakes; or None: the inventory does not have it.
OtherPlan = Union[HostPlan, AnvilError, None]


def list_partners(serves: Iterable[ServePlan]) -> Tuple[str, ...]:
    """The hosts that run serves together with this one, this one included; empty for none."""
    return tuple(sorted({host for serve in serves if serve.residency != OFF for host in serve.hosts}))


def check_partners(plan: HostPlan, others: Mapping[str, OtherPlan], known: Sequence[str]) -> Tuple[List[Problem], List[str]]:
    """Compare the parts of each serve over several hosts; returns problems and notes.

    others: host -> its plan, for every partner but this host. known: the hosts of the inventory.
    """
    problems: List[Problem] = []
    notes: List[str] = []
    for serve in plan.serves:
        if not serve.hosts or serve.residency == OFF:
            continue
        for host in serve.hosts:
            if host != plan.host:
                problems.extend(_check_partner(plan.host, serve, host, others.get(host), known))
        if serve.rank == 0:
            notes.extend(_compare_cards(plan, serve, others))
    return problems, notes


def _check_partner(here: str, serve: ServePlan, host: str, other: OtherPlan, known: Sequence[str]) -> List[Problem]:
    where = "anvil_serves.{0}.hosts".format(serve.name)
    if other is None:
        what = "the inventory has no host {0}".format(host)
        return [Problem(what, where, hint=suggest_name(host, known, "add it to the inventory"))]
    if isinstance(other, AnvilError):
        count = len(other.problems)
        what = "host {0} cannot run its part: its inventory has {1} mistake{2}".format(host, count, "" if count == 1 else "s")
        why = "; ".join("{0}: {1}".format(problem.where, problem.what) for problem in other.problems)
        return [Problem(what, where, why, "correct it: the hosts of a serve start together or not at all")]
    theirs = next((one for one in other.serves if one.name == serve.name), None)
    if theirs is None:
        hint = "write the serve in a layer of a group that has all its hosts, such as group_vars/GROUP.yml: anvil_serves__GROUP"
        return [Problem("host {0} has no serve {1}".format(host, serve.name), where, hint=hint)]
    if theirs.residency == OFF:
        hint = "set the same anvil_profile and anvil_deploy_mode on {0} and {1}".format(here, host)
        return [Problem("the serve is off on host {0}, but not on {1}".format(host, here), where, hint=hint)]
    names = sorted({*serve.common, *theirs.common})
    different = [name for name in names if serve.common.get(name) != theirs.common.get(name)]
    if not different:
        return []
    listed = [describe_difference(name, serve.common.get(name, "null"), theirs.common.get(name, "null")) for name in different]
    what = "hosts {0} and {1} have different definitions of the serve".format(here, host)
    return [Problem(what, where, "different: " + ", ".join(listed), "write the serve once, in a layer of a group of both hosts")]


def _compare_cards(plan: HostPlan, serve: ServePlan, others: Mapping[str, OtherPlan]) -> List[str]:
    """A note where the hosts have cards of different kinds: each rank gets an equal part, so the smallest card counts."""
    kinds = {}
    for host in serve.hosts:
        of_host = plan if host == plan.host else others.get(host)
        if not isinstance(of_host, HostPlan):
            continue
        part = next((one for one in of_host.serves if one.name == serve.name), None)
        cards = [of_host.gpus[alias] for alias in part.gpus if alias in of_host.gpus] if part else []
        kinds[host] = sorted({(card.vram_mib, card.compute_capability) for card in cards})
    if serve.engine != "vllm" or len({str(kind) for kind in kinds.values()}) < 2:
        return []
    listed = ", ".join(
        "{0} {1}".format(
            host, " and ".join("{0} MiB (compute capability {1})".format(mib, version or "?") for mib, version in kind) or "none"
        )
        for host, kind in kinds.items()
    )
    text = "anvil_serves.{0}.gpus: its hosts have different cards, and every rank gets an equal part of the model: {1}"
    return [text.format(serve.name, listed)]
