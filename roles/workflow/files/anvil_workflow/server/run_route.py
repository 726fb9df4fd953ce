# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``POST /run``: check the inputs, submit the job, answer with its result, or with the address of the result."""

from __future__ import annotations

import re
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import ValidationError

from anvil_workflow.environment.settings import Settings
from anvil_workflow.language.json_text import holds_more_values
from anvil_workflow.language.workflow import Workflow
from anvil_workflow.runner.callbacks import may_call_back
from anvil_workflow.runner.job_runner import JobRunner, KeyReused
from anvil_workflow.runner.metrics import Metrics
from anvil_workflow.server.responses import JsonAnswer, answer_job, refuse
from anvil_workflow.stores.jobs import ENDED, QueueFullError

KEY = re.compile(r"[\x21-\x7e]{1,255}")


def add_run_route(app: FastAPI, settings: Settings, workflow: Workflow, runner: JobRunner, metrics: Metrics) -> None:
    check = workflow.read_inputs

    def refuse_run(status: int, kind: str, message: str, **headers: str) -> JsonAnswer:
        metrics.refused.labels(kind).inc()
        return refuse(status, kind, message, **headers)

    async def run(request: Request) -> Response:
        headers = request.headers
        body = await read_body(request, settings.body_limit)
        if body is None:
            return refuse_run(413, "size", f"the body is larger than {settings.body_limit} bytes (WORKFLOW_BODY_LIMIT)")
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return refuse_run(415, "type", "the body is not announced as JSON: send Content-Type: application/json")
        if holds_more_values(body, settings.body_values):
            return refuse_run(413, "size", f"the body holds more than {settings.body_values} values (WORKFLOW_BODY_VALUES)")
        try:
            inputs = check.model_validate_json(body or b"{}").model_dump_json(by_alias=True)
        except ValidationError as error:
            metrics.refused.labels("inputs").inc()
            return JsonAnswer({"detail": explain_inputs(error)}, 422)
        key, callback = headers.get("idempotency-key"), headers.get("callback-url")
        if key is not None and not KEY.fullmatch(key):
            return refuse_run(400, "key", "Idempotency-Key is not valid: send 1 to 255 visible ASCII characters")
        if callback is not None and not may_call_back(callback, settings.callback_hosts):
            what = "Callback-URL is not allowed: this server calls back only the hosts in its WORKFLOW_CALLBACK_HOSTS"
            return refuse_run(400, "callback", what)
        seconds = read_wait_seconds(headers.get("prefer"), settings.timeout)
        try:
            job, _unused = await runner.submit(inputs, key, callback)
        except QueueFullError:
            after = str(await runner.estimate_wait())
            return refuse_run(
                429,
                "busy",
                f"the queue is full ({settings.queue} jobs): retry after the seconds in Retry-After",
                Retry_After=after,
            )
        except KeyReused:
            return refuse_run(422, "key", "this Idempotency-Key was used with other inputs: send these inputs with a new key")
        found = job if job.status in ENDED or seconds <= 0 else await runner.wait(job.id, seconds) or job
        if found.status not in ENDED:
            await runner.store.flush()
        return answer_job(found, "prefer" in headers)

    # It parses the request itself: without FastAPI's search for parameters a request costs a tenth less.
    app.add_route("/run", run, methods=["POST"])


async def read_body(request: Request, limit: int) -> bytes | None:
    """The body; None where it is longer than the limit, regardless of its Content-Length."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit:
        return None
    pieces = bytearray()
    async for piece in request.stream():
        pieces += piece
        if len(pieces) > limit:
            return None
    return bytes(pieces)


def read_wait_seconds(prefer: str | None, timeout: float) -> float:
    """Seconds to wait for the end (RFC 7240): ``respond-async`` alone is 0, ``wait=N`` is N, both at most the server's limit."""
    if not prefer:
        return timeout
    words = [word.strip().lower() for word in re.split("[,;]", prefer)]
    wait = next((word.partition("=")[2].strip().strip('"') for word in words if word.startswith("wait")), "")
    if wait.isdecimal():
        return min(float(wait[:9]), timeout)
    return 0.0 if "respond-async" in words else timeout


def explain_inputs(error: ValidationError) -> list[dict[str, Any]]:
    """Every wrong input, in the format of FastAPI. The values are not repeated."""
    return [
        {"loc": ["body", *entry["loc"]], "msg": entry["msg"], "type": entry["type"]}
        for entry in error.errors(include_url=False, include_context=False, include_input=False)
    ]
