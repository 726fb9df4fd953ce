# SPDX-License-Identifier: GPL-3.0-or-later
"""Run a router image's own evaluations against its tiers, and compare the profile that they make with the live one."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.measure.evaluations import (
    KEY_VARIABLE,
    MAKES_PROFILE,
    Evaluation,
    EvaluationData,
    list_checks,
    plan_evaluations,
    read_evidence,
    read_metrics,
)
from ansible_collections.anvil.serving.plugins.module_utils.measure.live_files import read_live
from ansible_collections.anvil.serving.plugins.module_utils.measure.load_targets import list_targets
from ansible_collections.anvil.serving.plugins.module_utils.measure.measured_serve import describe_serves
from ansible_collections.anvil.serving.plugins.module_utils.measure.measuring_container import (
    Command,
    CommandEnd,
    Surroundings,
    run_measurement,
)
from ansible_collections.anvil.serving.plugins.module_utils.measure.profile_difference import (
    compare_profiles,
    fit_tiers,
    format_profile,
    parse_profile,
)
from ansible_collections.anvil.serving.plugins.module_utils.router.candidate_checks import CONFIG_FILE, PROFILE_FILE

LONGEST_EVIDENCE = 1 << 20


def evaluate_tiers(
    docker: DockerEngine, options: Mapping[str, Any], check_mode: bool, tell: Callable[[str], None]
) -> Dict[str, Any]:
    """The result of ``anvil_evaluate``. options: those of the module. tell: takes progress lines."""
    router, secrets = options["router"], options["secrets"]
    targets = list_targets(router, options["container"], options["via"], options["tiers"])
    direct = list_targets(router, options["container"], "tiers", options["tiers"])
    if "calibrate" in options["evaluate"] and len(direct) < len(list_targets(router, options["container"], "tiers", [])):
        why = "it measures every tier of the router's config"
        raise fail("calibrate cannot be limited to some tiers", where="tiers", why=why, hint="leave out -e tiers=…")
    image, files = read_live(docker, options["container"], str(router["image"]), str(router["volume"]))
    given = EvaluationData(
        files.get(CONFIG_FILE, ""),
        options["eval_data"],
        options["checks"],
        options["requests"],
        options["input_tokens"],
        options["output_tokens"],
    )
    planned = plan_evaluations(options["evaluate"], router["generation"], targets, direct, given)
    result: Dict[str, Any] = {
        "changed": False,
        "plan": "{0}; at most {1} s".format(", ".join(one.name for one in planned), options["timeout"] * len(planned)),
        "evaluations": [],
        "profile": None,
        "difference": [],
        "serves": {},
    }
    if check_mode or not planned:
        return result
    tiers = {str(tier["id"]): tier for tier in router["tiers"]}
    judge = {str(name): str(value) for name, value in options["judge_environment"].items()}
    keys = {tier: _find_key(options["via"], router, tiers[tier], secrets) for tier in [target.tier for target in targets]}
    own = {str(tier["key_env"]): str(secrets.get(tier.get("key_secret") or "", "")) for tier in router["tiers"]}
    commands = [
        Command(
            one.name,
            one.argv,
            options["timeout"],
            {one.output: LONGEST_EVIDENCE},
            {KEY_VARIABLE: keys[one.tier]} if one.tier else {**own, **judge},
            one.files,
        )
        for one in planned
    ]
    place = Surroundings(image, tuple(options["networks"]), extra_hosts=tuple(router.get("extra_hosts") or ()))
    ends = run_measurement(docker, place, commands, [*keys.values(), *own.values(), *judge.values()], tell)
    containers = {str(serve["name"]): str(serve["container"]) for serve in options["serves"]}
    behind = {target.tier: containers.get(str(tiers[target.tier]["serve"]), "") for target in targets}
    result["serves"] = describe_serves(docker, {tier: name for tier, name in behind.items() if name})
    asked = [target.tier for target in direct]
    result["evaluations"] = [_describe(one, end, asked if one.kind == "calibrate" else ()) for one, end in zip(planned, ends)]
    made = next((end.outputs.get(one.output, "") for one, end in zip(planned, ends) if one.kind in MAKES_PROFILE), "")
    profile = parse_profile(made)
    if profile is not None:
        if "bootstrap" in options["evaluate"]:
            profile, left_out = fit_tiers(profile, list(tiers))
            text = "bootstrap: the grades of {0} are left out, because the router has no such tier"
            result["warnings"] = [text.format(tier) for tier in left_out]
        result["profile"] = format_profile(profile, result["serves"])
        result["difference"] = compare_profiles(parse_profile(files.get(PROFILE_FILE, "")), profile)
    return result


def _describe(one: Evaluation, end: CommandEnd, asked: Sequence[str]) -> Dict[str, Any]:
    evidence: Optional[Dict[str, Any]] = read_evidence(end.outputs.get(one.output, ""))
    checks = list_checks(one.kind, evidence, asked)
    passed = end.code == 0 and all(check["passed"] for check in checks)
    log: List[str] = [] if passed else list(end.log)
    return {
        "name": one.name,
        "kind": one.kind,
        "tier": one.tier,
        "passed": passed,
        "seconds": end.seconds,
        "checks": checks,
        "metrics": read_metrics(one.kind, evidence),
        "evidence": evidence if one.kind not in MAKES_PROFILE else None,
        "log": log,
    }


def _find_key(via: str, router: Mapping[str, Any], tier: Mapping[str, Any], secrets: Mapping[str, Any]) -> str:
    name = str(router.get("token") or "") if via == "router" else str(tier.get("key_secret") or "")
    return str(secrets.get(name) or "") if name else ""
