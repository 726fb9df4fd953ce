# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A job as callers see it: the JSON object of the API and of callbacks."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from anvil_workflow.runner.costs import describe_spending
from anvil_workflow.stores.jobs import ENDED, Job


def describe_job(job: Job, at: list[str] | None = None) -> dict[str, Any]:
    """The JSON object of a job. at: the nodes that run now, where they are known better than the store does."""
    progress: Mapping[str, Any] = json.loads(job.progress) if job.progress else {}
    ended, cost = job.status in ENDED, progress.get("cost")
    duration = None
    if job.started_at is not None and job.finished_at is not None:
        duration = round((job.finished_at - job.started_at) * 1000, 1)
    return {
        "job_id": job.id,
        "status": job.status,
        "created_at": _write_time(job.created_at),
        "started_at": _write_time(job.started_at),
        "finished_at": _write_time(job.finished_at),
        "execution_time_ms": duration,
        "outputs": json.loads(job.outputs) if job.outputs else None,
        "error": json.loads(job.error) if job.error else None,
        "warnings": json.loads(job.warnings) if job.warnings else [],
        "at": [] if ended else at if at is not None else progress.get("at", []),
        "nodes": progress.get("steps", []),
        "usage": {
            "prompt_tokens": progress.get("prompt_tokens", 0),
            "completion_tokens": progress.get("completion_tokens", 0),
            "retries": progress.get("retries", 0),
            "cost": cost,
            "unknown_calls": progress.get("unknown_calls") or 0,
            **(describe_spending(progress["spent"], cost is not None) if progress.get("spent") else {}),
        },
    }


def _write_time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"
