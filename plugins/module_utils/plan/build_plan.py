# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the inventory says of one host, checked and with every default decided: all mistakes at once, no I/O.

``build_plan`` is the door. Each section of the inventory has a room of its own: ``plan_secrets``, ``plan_gpus``,
``plan_engines``, ``plan_serves``, ``plan_router``, ``plan_models``; here they are put together, and what belongs to all
of them is checked.
"""

from __future__ import annotations

import ipaddress
from dataclasses import replace
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import ENGINES
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.plan.allowed_models import check_models_allowed, read_models_allowed
from ansible_collections.anvil.serving.plugins.module_utils.plan.engine_defaults import read_engines, read_shared
from ansible_collections.anvil.serving.plugins.module_utils.plan.gpus import read_gpus
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan, RouterPlan, ServePlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    ABSOLUTE,
    CONTAINER,
    CONTAINER_RULE,
    LONGEST_WAIT_SECONDS,
    Check,
    Node,
    Path,
    shorten,
    suggest,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.router import read_router
from ansible_collections.anvil.serving.plugins.module_utils.plan.secrets import check_secrets, read_secrets
from ansible_collections.anvil.serving.plugins.module_utils.plan.selection import (
    choose_serves,
    merge_serves,
    read_deploy_mode,
    read_externals,
    text_key,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.serves import HostSections, check_vram, read_serves

VARIABLES = (
    "anvil_root",
    "anvil_platform",
    "anvil_network",
    "anvil_secrets",
    "anvil_gpus",
    "anvil_engines",
    "anvil_serves",
    "anvil_router",
    "anvil_discovered",
    "anvil_profiles",
    "anvil_profile",
    "anvil_deploy_mode",
    "anvil_external",
    "anvil_models_allowed",
    "anvil_compatibility",
    "anvil_warmup_max_wait",
    "anvil_warmup_wait_interval",
)
# Variables of other parts of the collection: accepted, and not read here.
OTHER_VARIABLES: Tuple[str, ...] = ("anvil_hosts",)
STRICTNESS = ("enforce", "warn", "off")
PLATFORMS = ("linux", "wsl2")
DEFAULT_ROOT = "/opt/anvil"
DEFAULT_NETWORK = "anvil"
DEFAULT_MAX_WAIT = 300
DEFAULT_WAIT_INTERVAL = 5


def _overlap(one: str, other: str) -> bool:
    return one == other or any(ipaddress.ip_address(bind.strip("[]")).is_unspecified for bind in (one, other))


def _check_clashes(check: Check, serves: Sequence[ServePlan], router: Optional[RouterPlan]) -> None:
    """Ports, container names, served names: each belongs to one."""
    ports: List[Tuple[str, Path, str, int]] = [
        ("serve " + serve.name, ("anvil_serves", serve.name, "port"), serve.bind, serve.port) for serve in serves
    ]
    containers: List[Tuple[str, Path, str]] = [
        ("serve " + serve.name, ("anvil_serves", serve.name, "container"), serve.container) for serve in serves
    ]
    if router:
        ports.append(("the router", ("anvil_router", "publish"), router.bind, router.port))
        if router.edge:
            for replica in router.edge.replicas:
                containers.append(("the router", ("anvil_router", "container"), replica.container))
            containers.append(("the edge", ("anvil_router", "edge", "container"), router.edge.container))
        else:
            containers.append(("the router", ("anvil_router", "container"), router.container))
    for number, (_who, path, bind, port) in enumerate(ports):
        for other, _path, taken, same in ports[:number]:
            if port and port == same and _overlap(bind, taken):
                check.wrong(path, "port {0} on {1} is taken by {2}".format(port, bind, other), "give each a port of its own")
                break
    _check_unique(check, "container name {0!r} is taken by {1}", containers)
    served: List[Tuple[str, Path, str]] = [
        ("serve " + serve.name, ("anvil_serves", serve.name, "served_name"), serve.served_name) for serve in serves
    ]
    _check_unique(check, "served name {0!r} is taken by {1}", served)
    names = {serve.name for serve in serves} | ({"router"} if router else set())
    if router and router.edge:
        names |= {"edge", *(replica.service for replica in router.edge.replicas)}
    for who, path, container in containers:
        if container in names and who not in ("serve " + container, "the router", "the edge"):
            check.wrong(
                path,
                "{0!r} is also the name of another service".format(container),
                "choose another container name",
                "on the docker network a container answers to both names, so requests would reach either",
            )


def _check_unique(check: Check, what: str, claims: Sequence[Tuple[str, Path, str]]) -> None:
    first: Dict[str, str] = {}
    for who, path, word in claims:
        owner = first.setdefault(word, who)
        if owner != who:
            check.wrong(path, what.format(shorten(word), owner), "give each a name of its own")


def _redact(problem: Problem, values: Sequence[str]) -> Problem:
    def clean(text: str) -> str:
        for value in values:
            text = text.replace(value, "***")
        return text

    return replace(
        problem, what=clean(problem.what), where=clean(problem.where), why=clean(problem.why), hint=clean(problem.hint)
    )


def _leaves(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _leaves(item)
    elif isinstance(value, str):
        yield str(value)


def build_plan(
    host: str, variables: Mapping[str, Any], secret_facts: Mapping[str, str], secrets_required: bool = True
) -> HostPlan:
    """Check and normalise all that the inventory says of one host.

    variables: the host's variables; only those that start with ``anvil_`` are looked at. ``UNREAD`` may stand for a
    value that could not be read and was reported by the caller: nothing that depends on it is reported again.
    secret_facts: how each entry of ``anvil_secrets`` is held: ``vault``, ``file``, ``clear``, or any other text: why it
    has no value. secrets_required: a secret that is used and has no value is a problem (else a note).
    Raises AnvilError with every problem found. No value of a secret is in a problem, a note or the plan.
    """
    check = Check()
    _check_variables(check, variables)
    top = Node(check, (), variables)
    root = top.text("anvil_root", "an absolute folder on the host: " + DEFAULT_ROOT, ABSOLUTE) or DEFAULT_ROOT
    platform = top.word("anvil_platform", PLATFORMS) or "linux"
    network = top.text("anvil_network", "the name of a docker network: " + CONTAINER_RULE, CONTAINER) or DEFAULT_NETWORK
    secrets = read_secrets(check, variables.get("anvil_secrets"))
    gpus = read_gpus(check, variables.get("anvil_gpus"))
    defaults = read_engines(check, variables.get("anvil_engines"))
    shared = {name: read_shared(node, ENGINES[name], secrets) for name, node in defaults.items()}
    unread = {name for name, node in defaults.items() if node.has("image")}
    if variables.get("anvil_engines") is not None and not isinstance(variables["anvil_engines"], Mapping):
        unread = set(ENGINES)
    mode = read_deploy_mode(top)
    sections = HostSections(
        platform,
        gpus,
        shared,
        unread,
        secrets,
        max_wait=top.whole("anvil_warmup_max_wait", 1, LONGEST_WAIT_SECONDS, "seconds") or DEFAULT_MAX_WAIT,
        wait_interval=top.whole("anvil_warmup_wait_interval", 1, LONGEST_WAIT_SECONDS, "seconds") or DEFAULT_WAIT_INTERVAL,
        part_key=text_key(mode, secrets),
    )
    described = merge_serves(check, variables.get("anvil_serves"), variables.get("anvil_discovered"))
    names, serves = read_serves(check, described, sections)
    serves = choose_serves(check, top, mode, serves, secrets)
    externals = read_externals(check, variables.get("anvil_external"), names or (), secrets)
    check_vram(check, serves, gpus)
    allowed = read_models_allowed(check, variables.get("anvil_models_allowed"))
    check_models_allowed(check, serves, allowed)
    router = read_router(check, variables.get("anvil_router"), names, (*serves, *externals), secrets)
    _check_clashes(check, serves, router)
    check_secrets(secrets, secret_facts, secrets_required)
    if names == () and variables.get("anvil_router") is None:
        check.note(("anvil_serves",), "the inventory describes no serves for this host")
    if check.problems:
        values = sorted({leaf for leaf in _leaves(variables.get("anvil_secrets")) if len(leaf) >= 4}, key=len, reverse=True)
        raise AnvilError(*(_redact(problem, values) for problem in dict.fromkeys(check.problems)))
    return HostPlan(
        host=host,
        root=root.rstrip("/") or "/",
        platform=platform,
        network=network,
        gpus=gpus.by_alias,
        serves=tuple(serves),
        router=router,
        secret_names=tuple(sorted(secrets.used)),
        notes=tuple(check.notes),
        models_allowed=allowed,
        externals=externals,
        compatibility=_read_strictness(top),
    )


def _read_strictness(top: Node) -> str:
    if top.raw.get("anvil_compatibility") is False:  # YAML reads a bare off as false
        return "off"
    return top.word("anvil_compatibility", STRICTNESS) or "enforce"


def _check_variables(check: Check, variables: Mapping[str, Any]) -> None:
    known = VARIABLES + OTHER_VARIABLES
    for name in variables:
        if isinstance(name, str) and name.startswith("anvil_") and name not in known:
            check.wrong((str(name),), "unknown variable", suggest(str(name), known))
