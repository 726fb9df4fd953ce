# SPDX-License-Identifier: GPL-3.0-or-later
"""The gate: limits for each tier, as an operator wrote them, and whether what was measured keeps them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.measure.load_results import LoadResult

# Limit -> the field of a result, and whether the limit is the greatest allowed value (else the smallest).
LIMITS: Mapping[str, Tuple[str, bool]] = {
    "ttft_p50_s": ("ttft_p50_s", True),
    "ttft_p95_s": ("ttft_p95_s", True),
    "latency_p50_s": ("latency_p50_s", True),
    "latency_p95_s": ("latency_p95_s", True),
    "error_rate_max": ("error_rate", True),
    "tokens_per_second_min": ("tokens_per_second", False),
    "tokens_per_second_per_request_min": ("tokens_per_second_per_request", False),
    "requests_per_second_min": ("requests_per_second", False),
}
# Limits on what the evaluations of the router's image found, and whether the limit is the greatest allowed value.
EVALUATED: Mapping[str, bool] = {
    "preflight_min": False,
    "benchmark_ttft_p50_s": True,
    "benchmark_ttft_p95_s": True,
    "benchmark_latency_p95_s": True,
    "benchmark_tokens_per_second_min": False,
}
# A number for every work class of the measured profile, or a mapping of work classes: in the limits it is one for each.
QUALITY = "quality_min"
EVERY_CLASS = QUALITY + ".*"
NAMES = (*LIMITS, *EVALUATED, QUALITY)
RATES = ("error_rate_max", "preflight_min")
EXAMPLE = "tiers: {heavy: {ttft_p95_s: 2, tokens_per_second_min: 40, error_rate_max: 0.01}}"


@dataclass(frozen=True)
class TierLimits:
    """limits: name of ``LIMITS`` or ``EVALUATED``, or ``quality_min.CLASS`` -> value. concurrency: the loads that those of
    ``LIMITS`` apply to; empty: every load.
    """

    limits: Mapping[str, float]
    concurrency: Tuple[int, ...] = ()


@dataclass(frozen=True)
class Gate:
    """default: for tiers that ``tiers`` does not name; None: those have no limits."""

    tiers: Mapping[str, TierLimits]
    default: Optional[TierLimits] = None


@dataclass(frozen=True)
class GateCheck:
    """One limit at one load. measured is None where there is no value; the limit then does not hold."""

    tier: str
    concurrency: int
    limit: str
    allowed: float
    measured: Optional[float]
    holds: bool
    why: str = ""


def parse_gate(document: Any, where: str) -> Gate:
    """The gate in a parsed YAML file; every mistake at once, each with its path."""
    problems: List[Problem] = []
    if not isinstance(document, dict) or not document or set(document) - {"default", "tiers"}:
        found = ", ".join(sorted(str(key) for key in document)) if isinstance(document, dict) else type(document).__name__
        raise AnvilError(Problem("not a gate", where, "found: " + (found or "nothing"), "write tiers and default: " + EXAMPLE))
    tiers = document.get("tiers") or {}
    if not isinstance(tiers, dict):
        raise AnvilError(Problem("tiers is not a mapping", where + ": tiers", str(tiers)[:200], "write " + EXAMPLE))
    read = {str(tier): _parse_limits(given, "{0}: tiers.{1}".format(where, tier), problems) for tier, given in tiers.items()}
    default = document.get("default")
    gate = Gate(read, None if default is None else _parse_limits(default, where + ": default", problems))
    if problems:
        raise AnvilError(*problems)
    return gate


def _parse_limits(given: Any, where: str, problems: List[Problem]) -> TierLimits:
    if not isinstance(given, dict):
        problems.append(Problem("limits are a mapping", where, str(given)[:200], "such as {ttft_p95_s: 2}"))
        return TierLimits({})
    limits: Dict[str, float] = {}
    for name, value in given.items():
        path = "{0}.{1}".format(where, name)
        if name == "concurrency":
            continue
        if name not in NAMES:
            problems.append(Problem("no such limit", path, hint="one of concurrency, " + ", ".join(NAMES)))
            continue
        parts = {EVERY_CLASS: value} if name == QUALITY else {str(name): value}
        if name == QUALITY and isinstance(value, dict):
            parts = {"{0}.{1}".format(QUALITY, work_class): each for work_class, each in value.items()}
        for part, number in parts.items():
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 <= number < float("inf"):
                problems.append(Problem("not a number of 0 or more", path, repr(number)))
            elif (name in RATES or name == QUALITY) and number > 1:
                problems.append(Problem("a rate is 0 to 1", path, repr(number), "0.01 is 1 %"))
            else:
                limits[part] = float(number)
    levels = given.get("concurrency", [])
    levels = levels if isinstance(levels, list) else [levels]
    if any(isinstance(level, bool) or not isinstance(level, int) or level < 1 for level in levels):
        problems.append(Problem("not a number of requests in flight", where + ".concurrency", repr(given["concurrency"])))
        levels = []
    if not limits and not problems:
        problems.append(Problem("no limit is given", where, hint="one of " + ", ".join(NAMES)))
    return TierLimits(limits, tuple(levels))


def check_gate(
    gate: Gate, results: Sequence[LoadResult], evaluated: Optional[Mapping[str, Mapping[str, float]]] = None
) -> List[GateCheck]:
    """Every limit against every load that it applies to, and against the evaluations. What was not measured does not hold.

    evaluated: tier -> name of ``EVALUATED``, or ``quality_min.CLASS`` -> what was found.
    """
    checks: List[GateCheck] = []
    found = evaluated or {}
    measured = list(dict.fromkeys([*(result.tier for result in results), *found]))
    for tier in [*measured, *(tier for tier in gate.tiers if tier not in measured)]:
        limits = gate.tiers.get(tier, gate.default)
        if limits is None:
            continue
        loads = {result.concurrency: result for result in results if result.tier == tier}
        for level in limits.concurrency or tuple(loads) or (0,):
            for name, allowed in limits.limits.items():
                if name in LIMITS:
                    checks.append(_check_limit(tier, level, loads.get(level), name, allowed))
        for name, allowed in limits.limits.items():
            if name not in LIMITS:
                checks += _check_evaluated(tier, found.get(tier, {}), name, allowed)
    return checks


def _check_evaluated(tier: str, found: Mapping[str, float], name: str, allowed: float) -> List[GateCheck]:
    names = [name]
    if name == EVERY_CLASS:
        names = [each for each in found if each.startswith(QUALITY + ".")] or [name]
    checks = []
    for each in names:
        value = found.get(each)
        why = "" if value is not None else "no evaluation of this run measured it"
        holds = value is not None and (value <= allowed if is_greatest(each) else value >= allowed)
        checks.append(GateCheck(tier, 0, each, allowed, value, holds, why))
    return checks


def is_greatest(limit: str) -> bool:
    """Whether a limit is the greatest allowed value; else it is the smallest."""
    return LIMITS[limit][1] if limit in LIMITS else EVALUATED.get(limit, False)


def _check_limit(tier: str, level: int, result: Optional[LoadResult], name: str, allowed: float) -> GateCheck:
    field, is_greatest = LIMITS[name]
    value = getattr(result, field) if result is not None else None
    if result is None or value is None:
        why = "this load was not measured" if result is None else result.problem or "no value"
        return GateCheck(tier, level, name, allowed, None, False, why)
    return GateCheck(tier, level, name, allowed, value, value <= allowed if is_greatest else value >= allowed)


def describe_check(check: GateCheck) -> str:
    """``heavy, concurrency 4: ttft_p95_s is 3.1, allowed is at most 2``."""
    load = ", concurrency {0}".format(check.concurrency) if check.concurrency else ""
    word = "at most" if is_greatest(check.limit) else "at least"
    value = "not known ({0})".format(check.why) if check.measured is None else "{0:g}".format(check.measured)
    return "{0}{1}: {2} is {3}, allowed is {4} {5:g}".format(check.tier, load, check.limit, value, word, check.allowed)
