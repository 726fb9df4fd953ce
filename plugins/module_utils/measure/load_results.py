# SPDX-License-Identifier: GPL-3.0-or-later
"""The result of one load on one tier, as aiperf exports it. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, List, Mapping, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.measure.load_plan import Load


@dataclass(frozen=True)
class LoadResult:
    """Times in seconds; ``None``: not known, because no request was answered. tokens_per_second: all requests together, as the
    server counts. error_rate: 0 to 1. problem: why the load gave no numbers, or what the failed requests said.
    """

    tier: str
    concurrency: int
    requests: int
    errors: int
    error_rate: float
    seconds: float
    ttft_p50_s: Optional[float] = None
    ttft_p95_s: Optional[float] = None
    latency_p50_s: Optional[float] = None
    latency_p95_s: Optional[float] = None
    tokens_per_second: Optional[float] = None
    tokens_per_second_per_request: Optional[float] = None
    requests_per_second: Optional[float] = None
    problem: str = ""


def read_load_result(
    load: Load, code: Optional[int], seconds: float, export: str, records: str, log: Sequence[str]
) -> LoadResult:
    """code: how aiperf ended; None after the timeout. export, records: the texts of its files; empty where it wrote none."""
    try:
        told = json.loads(export) if export else None
    except ValueError:
        told = None
    if not isinstance(told, dict):
        failed = _list_errors(records)
        late, ended = "not finished within {0:g} s".format(seconds), "aiperf ended with {0}".format(code)
        why = late if code is None else "; ".join(sorted(set(failed))) or _find_reason(log) or ended
        return LoadResult(load.target.tier, load.concurrency, len(failed), len(failed), 1.0, seconds, problem=why)
    answered, errors = int(_number(told, "request_count") or 0), int(_number(told, "error_request_count") or 0)
    total = answered + errors
    summary = told.get("error_summary") or []
    causes = sorted({_describe_error(each.get("error_details")) for each in summary if isinstance(each, dict)})
    return LoadResult(
        tier=load.target.tier,
        concurrency=load.concurrency,
        requests=total,
        errors=errors,
        error_rate=round(errors / total, 4) if total else 1.0,
        seconds=round(_number(told, "benchmark_duration") or seconds, 3),
        ttft_p50_s=_seconds(told, "time_to_first_token", "p50"),
        ttft_p95_s=_seconds(told, "time_to_first_token", "p95"),
        latency_p50_s=_seconds(told, "request_latency", "p50"),
        latency_p95_s=_seconds(told, "request_latency", "p95"),
        tokens_per_second=_number(told, "output_token_throughput"),
        tokens_per_second_per_request=_number(told, "e2e_output_token_throughput", "p50"),
        requests_per_second=_number(told, "request_throughput"),
        problem="; ".join(causes),
    )


def _number(told: Mapping[str, Any], metric: str, statistic: str = "avg") -> Optional[float]:
    found = told.get(metric)
    value = found.get(statistic) if isinstance(found, dict) else None
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _seconds(told: Mapping[str, Any], metric: str, statistic: str) -> Optional[float]:
    value = _number(told, metric, statistic)
    return None if value is None else round(value / 1000.0, 4)


def _list_errors(records: str) -> List[str]:
    """Why the requests of a load failed that has no export."""
    found = []
    for line in records.splitlines():
        try:
            error = json.loads(line).get("error")
        except (ValueError, AttributeError):  # the last line may be cut
            continue
        if error:
            found.append(_describe_error(error))
    return found


def _describe_error(error: Any) -> str:
    """``401 Unauthorized: invalid key``, of the error that aiperf notes for a request."""
    if not isinstance(error, dict):
        return str(error)[:200]
    head = " ".join(str(error[key]) for key in ("code", "type") if error.get(key))
    return "{0}: {1}".format(head, str(error.get("message"))[:200])


def _find_reason(log: Sequence[str]) -> str:
    """The line of aiperf's log that says why it gave up."""
    marked = [line.strip("│ ") for line in log if "Reason:" in line or "failed" in line.lower() or "Error" in line]
    return marked[-1][:300] if marked else (log[-1].strip()[:300] if log else "")
