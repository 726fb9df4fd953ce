# SPDX-License-Identifier: GPL-3.0-or-later
"""Check ``backends`` of a tier: serves on several hosts behind one address, found in the inventories of those hosts."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import OFF, RESIDENT
from ansible_collections.anvil.serving.plugins.module_utils.plan.edge_plan import BackendPlan, EdgePlan, FrontPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.fleet import FarHost, Fleet
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import ServePlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_clients import ALL, HOLDER, name_front
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_secrets import InventorySecrets
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    ANYTHING,
    NAME,
    NAME_RULE,
    Section,
    shorten,
    suggest_name,
)

BACKEND_KEYS = ("serve", "hosts", "max_requests")
EXAMPLE = "backends: [{serve: fast, hosts: gpu}]"
DEFAULT_CLIENT = "gateways"
DEFAULT_REQUESTS = 256
# HAProxy's names of servers hold no others.
HOST_NAME = re.compile(r"[A-Za-z0-9._-]+")
MOST_REASONS = 3


@dataclass
class FleetBackends:
    """What the tiers of a router need to find backends. fleet: None: the other hosts are not asked. client: the name of this
    gateway in ``anvil_clients`` of the other hosts."""

    fleet: Optional[Fleet]
    client: str
    secrets: InventorySecrets
    local: Mapping[str, ServePlan]


@dataclass(frozen=True)
class FoundBackend:
    """A backend with the serve behind it. key: the secret that its edge expects; empty for a serve of the gateway itself."""

    plan: BackendPlan
    serve: ServePlan
    key: str = ""


def read_backends(section: Section, given: FleetBackends) -> Optional[Tuple[FoundBackend, ...]]:
    """The backends of a tier; None if they could not be read."""
    listed = section.check.read_list(section.path_of("backends"), section.raw.get("backends"), EXAMPLE)
    if listed is None:
        return None
    found: Dict[str, FoundBackend] = {}
    before = len(section.check.problems)
    for path, value in listed:
        inner = section.check.read_mapping(path, value, EXAMPLE)
        if inner is None:
            continue
        inner.check_keys(BACKEND_KEYS)
        serve = inner.read_text("serve", NAME_RULE, NAME)
        if not inner.has("serve"):
            inner.add_problem("serve", "the backend names no serve", "for example: " + EXAMPLE)
        most = inner.read_integer("max_requests", 1, 100000, "requests") or DEFAULT_REQUESTS
        hosts = _read_hosts(inner, given.fleet)
        if not serve or not hosts or given.fleet is None:
            continue
        for one in _find_on_hosts(inner, given, given.fleet, serve, hosts, most):
            if one.plan.name in found:
                inner.add_note("serve", "{0} is named twice".format(one.plan.name))
            found.setdefault(one.plan.name, one)
    if len(section.check.problems) > before or given.fleet is None:
        return None
    if not found:
        section.add_problem("backends", "the tier has no backend that runs", "for example: " + EXAMPLE)
        return None
    return tuple(found.values())


def _read_hosts(section: Section, fleet: Optional[Fleet]) -> List[Tuple[str, bool]]:
    """The hosts that ``hosts`` names, each with whether it is named itself, not only by a group. Without ``hosts``: this host."""
    value = section.raw.get("hosts")
    if value is None:
        return [(fleet.host, True)] if fleet else []
    path, rule = section.path_of("hosts"), "the name of a host or a group of the inventory, or a list of them"
    entries = [(path, value)] if isinstance(value, str) else section.check.read_list(path, value, "hosts: [gpu1, gpu2]") or []
    found: Dict[str, bool] = {}
    for where, each in entries:
        word = section.check.match_text(where, each, ANYTHING, rule)
        if not word or fleet is None:
            continue
        if word in fleet.hosts:
            found[word] = True
        elif word in fleet.groups:
            for host in fleet.groups[word]:
                found.setdefault(host, False)
            if not fleet.groups[word]:
                section.check.add_note(where, "the group {0} has no host".format(word))
        else:
            hint = suggest_name(word, [*fleet.groups, *fleet.hosts])
            section.check.add_problem(where, "the inventory has no host and no group {0!r}".format(shorten(word)), hint)
    return list(found.items())


def _find_on_hosts(
    section: Section, given: FleetBackends, fleet: Fleet, name: str, hosts: Sequence[Tuple[str, bool]], most: int
) -> List[FoundBackend]:
    found: List[FoundBackend] = []
    without: List[str] = []
    known: List[str] = []
    for host, is_named in hosts:
        if not HOST_NAME.fullmatch(host):
            section.add_problem("hosts", "{0!r} cannot be the name of a backend".format(host), "use letters, digits, . _ and -")
            continue
        if host == fleet.host:
            serves: Mapping[str, ServePlan] = given.local
            far = None
        else:
            far = _read_far_host(section, fleet, host)
            if far is None:
                continue
            serves = {serve.name: serve for serve in far.plan.serves}
        serve = serves.get(name)
        known += serves
        if serve is None:
            without.append(host)
            if is_named:
                section.add_problem("serve", "host {0} has no serve {1}".format(host, name), suggest_name(name, serves))
        elif serve.is_member:
            section.add_note("hosts", "{0}:{1} is left out: another host answers for this serve".format(host, name))
        elif serve.residency == OFF:
            section.add_note("hosts", "{0}:{1} is left out: the serve does not run there".format(host, name))
        else:
            if serve.residency != RESIDENT:
                what = "{0}:{1} is {2}: the tier has this backend only while it runs"
                section.add_note("hosts", what.format(host, name, serve.residency))
            made = (
                _describe_far(section, given, far, serve, most)
                if far
                else FoundBackend(BackendPlan(host, name, max_requests=most), serve)
            )
            found += [made] if made else []
    if without and len(without) == len(hosts) and not any(is_named for _host, is_named in hosts):
        what = "no host of {0} has a serve {1}".format(section.raw.get("hosts"), name)
        section.add_problem("serve", what, suggest_name(name, dict.fromkeys(known)))
    elif without and not any(is_named for _host, is_named in hosts):
        section.add_note("hosts", "hosts without a serve {0} are left out: {1}".format(name, ", ".join(without)))
    return found


def _read_far_host(section: Section, fleet: Fleet, host: str) -> Optional[FarHost]:
    """The plan of another host; a wrong inventory there is a problem here, with the name of that host."""
    try:
        return fleet.read_host(host)
    except AnvilError as error:
        reasons = ["{0}: {1}".format(one.where, one.what) if one.where else one.what for one in error.problems]
        more = len(reasons) - MOST_REASONS
        told = "; ".join(reasons[:MOST_REASONS]) + ("; and {0} more".format(more) if more > 0 else "")
        section.add_problem(
            "hosts",
            "the inventory of host {0} has mistakes".format(host),
            "correct it; ansible-playbook playbooks/render.yml -l {0} lists all of them".format(host),
            told,
        )
        return None


def _describe_far(section: Section, given: FleetBackends, far: FarHost, serve: ServePlan, most: int) -> Optional[FoundBackend]:
    """A serve behind the edge of another host."""
    host, edge, published = far.plan.host, far.plan.edge, serve.published
    front = edge.find_front(name_front(serve.name)) if edge else None
    if edge is None or front is None or published is None:
        section.add_problem(
            "hosts",
            "serve {0} of host {1} is not reachable from other hosts".format(serve.name, host),
            'publish it at the edge of {0}: publish: "0.0.0.0:{1}"'.format(host, serve.port + 100),
        )
        return None
    key = _find_key(section, given, edge, host, serve)
    address, server_name = _find_address(section, edge, far.address, published.bind, host, front)
    if not address or key is None:
        return None
    return FoundBackend(BackendPlan(host, serve.name, address, published.port, server_name, most), serve, key)


def _find_key(section: Section, given: FleetBackends, edge: EdgePlan, host: str, serve: ServePlan) -> Optional[str]:
    """The secret that opens a serve at the edge of its host; None after a problem."""
    front = name_front(serve.name)
    named = [client for client in edge.clients if not client.name.startswith(HOLDER)]
    mine = [client for client in named if client.name == given.client]
    if named and not mine:
        section.add_problem(
            "hosts",
            "host {0} has no client {1}".format(host, given.client),
            "add it there: anvil_clients: {{{0}: {{keys: [gateway_key]}}}}; or name another one: anvil_router.client".format(
                given.client
            ),
        )
        return None
    if mine and mine[0].access.get(front) != ALL:
        what = "client {0} may not use serve {1} of host {2}".format(given.client, serve.name, host)
        section.add_problem("hosts", what, "add {0} to its tiers there".format(serve.name))
        return None
    keys = mine[0].keys if mine else (serve.api_key,)
    known = given.secrets.names
    usable = [key for key in keys if known is None or key in known]
    if not usable:
        what = "this gateway does not have the key of host {0}".format(host)
        hint = "add {0} to anvil_secrets of this host, with the same value as there".format(" or ".join(keys))
        section.add_problem("hosts", what, hint)
        return None
    return given.secrets.read_secret_name(section.path_of("hosts"), usable[0])


def _find_address(
    section: Section, edge: EdgePlan, ansible_address: str, bind: str, host: str, front: FrontPlan
) -> Tuple[str, str]:
    """Where the edge of another host is reached, and the name that its certificate must be for (empty: plain HTTP)."""
    is_wide = bind in ("0.0.0.0", "[::]")
    address = edge.reached_at or (ansible_address if is_wide or not is_address(ansible_address) else bind)
    if front.tls is False:
        what = "the edge of {0} takes plain HTTP for this serve: keys and prompts can be read on the way"
        section.add_note("hosts", what.format(host))
        return address, ""
    name = edge.server_name or ("" if is_address(address) else address)
    if not name:
        section.add_problem(
            "hosts",
            "no name is known that the certificate of host {0} is for".format(host),
            "set anvil_edge.server_name on {0} to a name in its certificate".format(host),
            "it is reached at the address {0}, and HAProxy compares names only".format(address),
        )
    return address, name


def is_address(text: str) -> bool:
    """Whether a text is an IP address, and no name."""
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


def check_agreement(section: Section, found: Sequence[FoundBackend]) -> bool:
    """Whether the backends can stand for each other: one kind, one prefix of paths, one key."""
    rules: Tuple[Tuple[str, Dict[str, Any], str], ...] = (
        ("kinds", {one.plan.name: one.serve.kind for one in found}, "put them into tiers of their own"),
        ("prefixes of paths", {one.plan.name: one.serve.api_prefix for one in found}, "give all of them the same prefix"),
        (
            "keys",
            {one.plan.name: one.key for one in found if one.key},
            "let anvil_clients of these hosts accept the same key from this gateway",
        ),
    )
    agree = True
    for what, values, hint in rules:
        if len(set(values.values())) > 1:
            told = ", ".join("{0} has {1}".format(name, value or "none") for name, value in values.items())
            section.add_problem("backends", "the backends have different {0}".format(what), hint, told)
            agree = False
    return agree


def choose_model(section: Section, names: Mapping[str, Sequence[str]], wanted: str) -> str:
    """The name of the model that every backend knows; empty after a problem. names: backend -> its names of models."""
    first = next(iter(names.values()))
    common = [name for name in first if all(name in each for each in names.values())]
    if wanted and wanted not in common:
        lacking = ", ".join(name for name, each in names.items() if wanted not in each)
        what = "these backends have no model {0!r}: {1}".format(shorten(wanted), lacking)
        section.add_problem("model", what, suggest_name(wanted, common, "set the same served_name in all of these serves"))
        return ""
    if not common:
        told = ", ".join("{0} has {1}".format(name, " and ".join(each)) for name, each in names.items())
        hint = "set the same served_name in all of these serves"
        section.add_problem("backends", "the backends have no common name of a model", hint, told)
        return ""
    return wanted or common[0]
