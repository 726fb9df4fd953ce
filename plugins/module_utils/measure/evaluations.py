# SPDX-License-Identifier: GPL-3.0-or-later
"""The evaluation commands of a router's own image, as command lines, and what they found. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.measure.load_plan import LoadTarget

KEY_VARIABLE = "ANVIL_MEASURE_KEY"
PROFILE, CONFIG, DATA = "/tmp/evaluation/profile.json", "/tmp/evaluation/config.toml", "/tmp/evaluation/data"
# Generation -> the evaluations that its image has. Those that make a profile need a folder of evaluation data.
KINDS: Mapping[str, Tuple[str, ...]] = {
    "profile": ("preflight", "benchmark", "bootstrap", "calibrate"),
    "gateway": ("preflight", "benchmark"),
}
# Tokens below the context that the prompts of the benchmark leave free, because it only estimates their length.
LARGEST_MARGIN = 1024
MAKES_PROFILE = ("bootstrap", "calibrate")
# Limit -> the key in the evidence of a benchmark, and its unit.
BENCHMARK_METRICS: Mapping[str, Tuple[str, float]] = {
    "benchmark_ttft_p50_s": ("ttft_p50_ms", 0.001),
    "benchmark_ttft_p95_s": ("ttft_p95_ms", 0.001),
    "benchmark_latency_p95_s": ("e2e_p95_ms", 0.001),
    "benchmark_tokens_per_second_min": ("throughput_tok_s", 1.0),
}


@dataclass(frozen=True)
class Evaluation:
    """One command. tier: empty for one that covers all tiers. output: the file that it writes."""

    kind: str
    tier: str
    argv: Tuple[str, ...]
    output: str
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return "eval {0}{1}".format(self.kind, " of " + self.tier if self.tier else "")


@dataclass(frozen=True)
class EvaluationData:
    """config: text of the live config.toml. data: path below the evaluation folder -> text.

    requests, input_tokens, output_tokens: of the benchmark; tokens are 0 for the image's own choice.
    """

    config: str = ""
    data: Mapping[str, str] = field(default_factory=dict)
    checks: str = "smoke,json"
    requests: int = 8
    input_tokens: int = 0
    output_tokens: int = 0


def check_kinds(kinds: Sequence[str], generation: str, given: EvaluationData) -> None:
    """Raise AnvilError for evaluations that the image does not have, or that lack their data."""
    problems = [
        Problem(
            "the router's image has no evaluation {0!r}".format(kind),
            where="evaluate",
            why="it is a {0} router".format(generation),
            hint="one of " + ", ".join(KINDS[generation]),
        )
        for kind in kinds
        if kind not in KINDS[generation]
    ]
    if not given.data and set(kinds) & set(MAKES_PROFILE):
        hint = "-e eval_data=FOLDER: one folder for each work class, such as 2026-07-04-planning/prompts/1.txt"
        problems.append(Problem("bootstrap and calibrate need evaluation data", where="eval_data", hint=hint))
    if set(MAKES_PROFILE) <= set(kinds):
        problems.append(Problem("bootstrap and calibrate both write a profile", where="evaluate", hint="give one of them"))
    if problems:
        raise AnvilError(*problems)


def plan_evaluations(
    kinds: Sequence[str], generation: str, targets: Sequence[LoadTarget], direct: Sequence[LoadTarget], given: EvaluationData
) -> List[Evaluation]:
    """targets: where preflight and benchmark ask. direct: the serves of the same tiers, which calibrate asks."""
    check_kinds(kinds, generation, given)
    made = []
    for kind in kinds:
        if kind in MAKES_PROFILE:
            files = {"{0}/{1}".format(DATA, path): text for path, text in given.data.items()}
            made.append(Evaluation(kind, "", _profile_argv(kind, direct), PROFILE, {**files, CONFIG: given.config}))
            continue
        for target in targets:
            output = "/tmp/evaluation-{0}-{1}.json".format(kind, target.tier)
            made.append(Evaluation(kind, target.tier, _tier_argv(kind, generation, target, output, given), output))
    return made


def _tier_argv(kind: str, generation: str, target: LoadTarget, output: str, given: EvaluationData) -> Tuple[str, ...]:
    action = {"preflight": ("preflight",), "benchmark": ("benchmark", "run" if generation == "profile" else "capacity")}[kind]
    endpoint = ("--base-url", target.url + "/v1", "--model", target.model, "--api-key-env", KEY_VARIABLE)
    more = ("--checks", given.checks) if kind == "preflight" else _benchmark_argv(target, given)
    return ("anvil-serving", "eval", *action, *endpoint, *more, "--json-out", output, "--confirm")


def _benchmark_argv(target: LoadTarget, given: EvaluationData) -> Tuple[str, ...]:
    """Its prompts are as long as those of its author, up to 128,000 tokens: without the tier's context, most get 400.

    Some servers do not say how long a context they have (llama-server), so the command names it.
    """
    words = ["--requests", str(given.requests), "--concurrency", "1"]
    if target.context:
        words += ["--max-model-len", str(target.context), "--margin", str(min(LARGEST_MARGIN, target.context // 4))]
    if given.input_tokens:
        words += ["--ctx-tokens", str(given.input_tokens)]
    if given.output_tokens:
        words += ["--max-tokens", str(given.output_tokens)]
    return tuple(words)


def _profile_argv(kind: str, direct: Sequence[LoadTarget]) -> Tuple[str, ...]:
    start = ("anvil-serving", "eval", kind, "--eval-data", DATA, "--out", PROFILE)
    if kind == "bootstrap":
        return start
    endpoints = [word for target in direct for word in ("--endpoint", "{0}={1}/v1".format(target.tier, target.url))]
    return (*start, "--config", CONFIG, *endpoints, "--i-understand-this-calls-real-tiers")


def read_evidence(text: str) -> Optional[Dict[str, Any]]:
    """The JSON that an evaluation wrote; None where it wrote none."""
    try:
        told = json.loads(text) if text else None
    except ValueError:
        return None
    return told if isinstance(told, dict) else None


def list_checks(kind: str, evidence: Optional[Mapping[str, Any]], asked: Sequence[str] = ()) -> List[Dict[str, Any]]:
    """The checks of an evaluation: name, passed, detail. A benchmark has one: whether every request was answered.

    One that makes a profile has one, too: whether the profile has rows, also of each tier of ``asked``. (The commands of the
    profile router end with 0 even if no request was answered, and leave out the rows of a tier that does not answer.)
    """
    told = evidence or {}
    if kind in MAKES_PROFILE and isinstance(told.get("entries"), list):
        measured = {str(row.get("tier_id")) for row in told["entries"] if isinstance(row, dict)}
        silent = [tier for tier in asked if tier not in measured]
        detail = "no row of {0} was measured".format(", ".join(silent) or "any tier") if silent or not measured else ""
        return [{"name": "rows", "passed": not detail, "detail": detail}]
    if kind == "benchmark" and isinstance(told.get("requests"), int):
        answered, sent = told.get("completed"), told["requests"]
        detail = "{0} of {1} requests were answered".format(answered, sent)
        return [{"name": "requests", "passed": answered == sent and sent > 0, "detail": detail}]
    rows = told.get("results") or []
    return [
        {"name": str(row.get("name")), "passed": row.get("passed") is True, "detail": str(row.get("detail") or "")[:300]}
        for row in rows
        if isinstance(row, dict)
    ]


def read_metrics(kind: str, evidence: Optional[Mapping[str, Any]]) -> Dict[str, float]:
    """The numbers of an evaluation that limits can bound, by the names of ``gate.EVALUATED``. Times in seconds."""
    checks = list_checks(kind, evidence)
    found: Dict[str, float] = {}
    if kind == "preflight" and checks:
        found["preflight_min"] = round(sum(check["passed"] for check in checks) / len(checks), 4)
    metrics = (evidence or {}).get("metrics")
    if kind != "benchmark" or not isinstance(metrics, dict) or not all(check["passed"] for check in checks):
        return found
    for name, (key, unit) in BENCHMARK_METRICS.items():
        value = metrics.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            found[name] = round(value * unit, 6)
    return found
