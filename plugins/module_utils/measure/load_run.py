# SPDX-License-Identifier: GPL-3.0-or-later
"""Put load on the tiers of a router and read what they did, as ``anvil_measure`` does."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Callable, Dict, Mapping

from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.measure.load_plan import (
    KEY_VARIABLE,
    Load,
    LoadSettings,
    check_settings,
    describe_loads,
    plan_loads,
)
from ansible_collections.anvil.serving.plugins.module_utils.measure.load_results import LoadResult, read_load_result
from ansible_collections.anvil.serving.plugins.module_utils.measure.load_targets import list_targets
from ansible_collections.anvil.serving.plugins.module_utils.measure.measured_serve import describe_serves
from ansible_collections.anvil.serving.plugins.module_utils.measure.measuring_container import (
    Command,
    CommandEnd,
    Surroundings,
    run_measurement,
)

# Beyond the time of a load, for aiperf to start and to write its results (seconds).
MARGIN = 60
LONGEST_EXPORT, LONGEST_RECORDS = 1 << 20, 20000


def measure_tiers(
    docker: DockerEngine, options: Mapping[str, Any], check_mode: bool, tell: Callable[[str], None]
) -> Dict[str, Any]:
    """The result of the module. options: those of the module. tell: takes progress lines."""
    settings = LoadSettings(
        tuple(options["concurrency"]), options["requests"], options["input_tokens"], options["output_tokens"], options["timeout"]
    )
    check_settings(settings)
    router, secrets = options["router"], options["secrets"]
    targets = list_targets(router, options["container"], options["via"], options["tiers"])
    loads = plan_loads(targets, settings)
    result: Dict[str, Any] = {"changed": False, "plan": describe_loads(loads, settings), "loads": [], "serves": {}}
    if check_mode:
        return result
    tiers = {str(tier["id"]): tier for tier in router["tiers"]}
    keys = {load.target.tier: _find_key(options["via"], router, tiers[load.target.tier], secrets) for load in loads}
    commands = [
        Command(
            load.name,
            load.argv,
            settings.timeout + MARGIN,
            {load.export: LONGEST_EXPORT, load.records: LONGEST_RECORDS},
            {KEY_VARIABLE: keys[load.target.tier]},
        )
        for load in loads
    ]
    extra_hosts = tuple(router.get("extra_hosts") or ()) if options["via"] == "tiers" else ()
    place = Surroundings(options["image"], tuple(options["networks"]), extra_hosts=extra_hosts)
    ends = run_measurement(docker, place, commands, list(keys.values()), tell)
    result["loads"] = [asdict(_read(load, end)) for load, end in zip(loads, ends)]
    containers = {str(serve["name"]): str(serve["container"]) for serve in options["serves"]}
    measured = {load.target.tier: containers.get(str(tiers[load.target.tier]["serve"]), "") for load in loads}
    result["serves"] = describe_serves(docker, {tier: name for tier, name in measured.items() if name})
    return result


def _read(load: Load, end: CommandEnd) -> LoadResult:
    export, records = end.outputs.get(load.export, ""), end.outputs.get(load.records, "")
    return read_load_result(load, end.code, end.seconds, export, records, end.log)


def _find_key(via: str, router: Mapping[str, Any], tier: Mapping[str, Any], secrets: Mapping[str, Any]) -> str:
    name = str(router.get("token") or "") if via == "router" else str(tier.get("key_secret") or "")
    return str(secrets.get(name) or "") if name else ""
