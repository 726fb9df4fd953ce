# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the plan of one host from its inventory variables. All mistakes are reported at once. No I/O."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Iterable, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import ENGINES
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.plan.fleet import Fleet
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.image_stacks import list_stacks
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_clients import has_clients
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_conflicts import check_conflicts
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_edge import place_tiers, read_edge
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_engines import (
    read_engine_sections,
    read_shared_settings,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_externals import read_externals
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_gpus import read_gpus
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_logs import read_limits
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_models_allowed import (
    check_allowed_models,
    read_allowed_models,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_mounts import (
    check_mounts,
    mount_weights_read_only,
    read_allowed_mounts,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_names import describe_unknown
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_networks import connect_router
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_registries import check_registries
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_router import read_router
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_secrets import check_secrets, read_secrets
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_serves import HostSettings, read_serves
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    ABSOLUTE,
    CONTAINER,
    CONTAINER_RULE,
    LONGEST_WAIT_SECONDS,
    InventoryCheck,
    Section,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_vram_claims import check_vram_budgets
from ansible_collections.anvil.serving.plugins.module_utils.plan.serve_selection import (
    find_text_key,
    list_deploy_flags,
    merge_serves,
    read_deploy_mode,
    select_serves,
)

VARIABLES = (
    "anvil_root",
    "anvil_platform",
    "anvil_gpu_driver",
    "anvil_network",
    "anvil_secrets",
    "anvil_gpus",
    "anvil_engines",
    "anvil_serves",
    "anvil_router",
    "anvil_edge",
    "anvil_clients",
    "anvil_discovered",
    "anvil_profiles",
    "anvil_profile",
    "anvil_deploy_mode",
    "anvil_external",
    "anvil_models_allowed",
    "anvil_allow_mounts",
    "anvil_compatibility",
    "anvil_warmup_max_wait",
    "anvil_warmup_wait_interval",
    "anvil_logs",
    "anvil_registries",
)
# Variables of other parts of the collection: accepted, not read here.
OTHER_VARIABLES: Tuple[str, ...] = (
    "anvil_hosts",
    "anvil_judge_environment",
    "anvil_monitoring_hosts",
    "anvil_watch",
    "anvil_waves",
)
COMPATIBILITY_MODES = ("enforce", "strict", "warn", "off")
PLATFORMS = ("linux", "wsl2")
GPU_DRIVERS = ("nvidia", "cdi")
DEFAULT_ROOT = "/opt/anvil"
DEFAULT_NETWORK = "anvil"
DEFAULT_MAX_WAIT = 300
DEFAULT_WAIT_INTERVAL = 5


def _redact(problem: Problem, values: Sequence[str]) -> Problem:
    def clean(text: str) -> str:
        for value in values:
            text = text.replace(value, "***")
        return text

    return replace(
        problem, what=clean(problem.what), where=clean(problem.where), why=clean(problem.why), hint=clean(problem.hint)
    )


def _list_texts(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _list_texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _list_texts(item)
    elif isinstance(value, str):
        yield str(value)


def build_plan(
    host: str,
    variables: Mapping[str, Any],
    secret_facts: Mapping[str, str],
    secrets_required: bool = True,
    fleet: Optional[Fleet] = None,
) -> HostPlan:
    """Check all inventory variables of one host and decide every default.

    variables: the variables of the host; only those that start with ``anvil_`` are read. ``UNREAD`` stands for a value that
    could not be read and that the caller reports: nothing that depends on it is reported again.
    secret_facts: how each entry of ``anvil_secrets`` is stored: ``vault``, ``file`` or ``clear``; any other text says why it
    has no value. secrets_required: a used secret without a value is a problem (else a note).
    fleet: the other hosts of the inventory, for tiers with backends on them; None: such tiers are left out.
    Raises AnvilError with every problem found. No value of a secret is in a problem, a note or the plan.
    """
    check = InventoryCheck()
    _check_variables(check, variables)
    top = Section(check, (), variables)
    root = top.read_text("anvil_root", "an absolute path on the host, such as " + DEFAULT_ROOT, ABSOLUTE) or DEFAULT_ROOT
    platform = top.read_choice("anvil_platform", PLATFORMS) or "linux"
    driver = _read_gpu_driver(top, platform)
    network = top.read_text("anvil_network", "the name of a Docker network: " + CONTAINER_RULE, CONTAINER) or DEFAULT_NETWORK
    secrets = read_secrets(check, variables.get("anvil_secrets"))
    gpus = read_gpus(check, variables.get("anvil_gpus"))
    defaults = read_engine_sections(check, variables.get("anvil_engines"))
    shared = {name: read_shared_settings(section, ENGINES[name], secrets) for name, section in defaults.items()}
    unread = {name for name, section in defaults.items() if section.has("image")}
    if variables.get("anvil_engines") is not None and not isinstance(variables["anvil_engines"], Mapping):
        unread = set(ENGINES)
    mode = read_deploy_mode(top)
    settings = HostSettings(
        platform,
        gpus,
        shared,
        unread,
        secrets,
        max_wait=top.read_integer("anvil_warmup_max_wait", 1, LONGEST_WAIT_SECONDS, "seconds") or DEFAULT_MAX_WAIT,
        wait_interval=top.read_integer("anvil_warmup_wait_interval", 1, LONGEST_WAIT_SECONDS, "seconds") or DEFAULT_WAIT_INTERVAL,
        default_part_key=find_text_key(mode, secrets),
        deploy_flags=list_deploy_flags(mode),
        has_clients=has_clients(variables.get("anvil_clients")),
        network=network,
        has_policy=variables.get("anvil_models_allowed") is not None,
        host=host,
    )
    described = merge_serves(check, variables.get("anvil_serves"), variables.get("anvil_discovered"))
    names, serves = read_serves(check, described, settings)
    serves = select_serves(check, top, mode, serves, secrets)
    externals = read_externals(check, variables.get("anvil_external"), names or (), secrets)
    check_vram_budgets(check, serves, gpus)
    allowed = read_allowed_models(check, variables.get("anvil_models_allowed"))
    check_allowed_models(check, serves, allowed)
    serves = mount_weights_read_only(check, serves, variables)
    answering = [serve for serve in serves if not serve.is_member]
    tiered = None if names is None else tuple(name for name in names if name not in {one.name for one in serves if one.is_member})
    router = read_router(check, variables.get("anvil_router"), tiered, (*answering, *externals), secrets, fleet)
    mounts = read_allowed_mounts(check, variables.get("anvil_allow_mounts"))
    check_mounts(check, serves, root, mounts)
    edge = read_edge(check, variables, router, serves, secrets)
    router = place_tiers(router, edge)
    check_conflicts(check, serves, router, edge)
    limits, compatibility = read_limits(check, variables.get("anvil_logs")), _read_compatibility_mode(top)
    check_registries(check, variables.get("anvil_registries"), secrets)
    check_secrets(secrets, secret_facts, secrets_required)
    if names == () and variables.get("anvil_router") is None:
        check.add_note(("anvil_serves",), "the inventory has no serves for this host")
    if check.problems:
        values = sorted({leaf for leaf in _list_texts(variables.get("anvil_secrets")) if len(leaf) >= 4}, key=len, reverse=True)
        raise AnvilError(*(_redact(problem, values) for problem in dict.fromkeys(check.problems)))
    return HostPlan(
        host=host,
        root=root.rstrip("/") or "/",
        platform=platform,
        network=network,
        gpus=gpus.by_alias,
        serves=tuple(serves),
        router=connect_router(router, serves),
        edge=edge,
        secret_names=tuple(sorted(secrets.used)),
        notes=tuple(check.notes),
        models_allowed=allowed,
        externals=externals,
        compatibility=compatibility,
        limits=limits,
        gpu_driver=driver,
        stacks=list_stacks(serves, mode),
        allow_mounts=mounts,
    )


def _read_gpu_driver(top: Section, platform: str) -> str:
    """``anvil_gpu_driver``. Which one works is known only on the host: anvil_host_check says it."""
    driver = top.read_choice("anvil_gpu_driver", GPU_DRIVERS) or "nvidia"
    if driver == "cdi" and platform == "wsl2":
        why = "a description of CDI on WSL2 has only the device `all`, and none of a single GPU"
        top.add_problem("anvil_gpu_driver", "cdi cannot pin a serve to a GPU on WSL2", "use anvil_gpu_driver: nvidia", why)
    return driver


def _read_compatibility_mode(top: Section) -> str:
    if top.raw.get("anvil_compatibility") is False:  # YAML reads a bare off as false
        return "off"
    return top.read_choice("anvil_compatibility", COMPATIBILITY_MODES) or "enforce"


def _check_variables(check: InventoryCheck, variables: Mapping[str, Any]) -> None:
    known = VARIABLES + OTHER_VARIABLES
    for name in variables:
        if isinstance(name, str) and name.startswith("anvil_") and name not in known:
            check.add_problem((str(name),), *describe_unknown(str(name), known))
