# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""HTTP answers: JSON bodies, refusals with their kind and message, a job with the status that fits it."""

from __future__ import annotations

import json
from typing import Any

from fastapi import Response

from anvil_workflow.environment.variables import hide_credentials
from anvil_workflow.runner.job_view import describe_job
from anvil_workflow.stores.jobs import ENDED, Job

STATUS_OF_FAILURE = {"cost": 402, "model": 502, "tool": 502, "timeout": 504}


class JsonAnswer(Response):
    """A JSON body, written by the standard library."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")


def refuse(status: int, kind: str, message: str, **headers: str) -> JsonAnswer:
    """An answer that refuses a request: ``{"error": {"kind": …, "message": …}}``."""
    return JsonAnswer(
        {"error": {"kind": kind, "message": hide_credentials(message)}},
        status,
        headers={k.replace("_", "-"): v for k, v in headers.items()},
    )


def answer_job(job: Job, preferred: bool) -> JsonAnswer:
    """The answer to POST /run. preferred: whether the caller asked for an answer before the end."""
    if job.status not in ENDED:
        headers = {"Location": f"/status/{job.id}", "Retry-After": "1"}
        if preferred:
            headers["Preference-Applied"] = "respond-async"
        return JsonAnswer(describe_job(job), 202, headers=headers)
    status = 200
    if job.status == "failed":
        status = STATUS_OF_FAILURE.get(json.loads(job.error or "{}").get("kind", ""), 500)
    elif job.status == "cancelled":
        status = 409
    return JsonAnswer(describe_job(job), status)
