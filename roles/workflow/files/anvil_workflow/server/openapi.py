# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The OpenAPI document of a workflow, with its own inputs and outputs."""

from __future__ import annotations

from typing import Any

from anvil_workflow.language.workflow import Workflow
from anvil_workflow.stores.jobs import STATUSES

TEXT: dict[str, Any] = {"type": "string"}
MAYBE_TEXT: dict[str, Any] = {"type": ["string", "null"]}
JOB_ID: dict[str, Any] = {
    "name": "job_id",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
}


def build_openapi(workflow: Workflow, keyed: bool = False, callback_hosts: tuple[str, ...] = ()) -> dict[str, Any]:
    """keyed: requests need an API key. callback_hosts: allowed hosts of callbacks; without any, the header is left out."""
    inputs = workflow.build_input_schema()
    definitions = inputs.pop("$defs", {})
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": workflow.name, "version": workflow.version or "1", "description": workflow.description},
        "paths": _build_paths(keyed, callback_hosts),
        "components": {
            "schemas": {
                "Inputs": inputs,
                "Outputs": workflow.build_output_schema(),
                "Job": _build_job(),
                "Refusal": _object(error=_object(kind=TEXT, message=TEXT)),
                "Invalid": _object(detail={"type": "array", "items": {"type": "object"}}),
                "Looks": _build_checks(),
                **definitions,
            }
        },
    }
    if keyed:
        schemes = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        document["components"]["securitySchemes"] = schemes
    rewritten: dict[str, Any] = _move_references(document)
    return rewritten


def _move_references(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: text.replace("#/$defs/", "#/components/schemas/")
            if key == "$ref" and isinstance(text := item, str)
            else _move_references(item)
            for key, item in value.items()
        }
    return [_move_references(item) for item in value] if isinstance(value, list) else value


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _build_job() -> dict[str, Any]:
    number = {"type": ["number", "null"]}
    return _object(
        job_id=TEXT,
        status={"type": "string", "enum": list(STATUSES)},
        created_at=TEXT,
        started_at=MAYBE_TEXT,
        finished_at=MAYBE_TEXT,
        execution_time_ms=number,
        outputs={"anyOf": [{"$ref": "#/components/schemas/Outputs"}, {"type": "null"}]},
        error={"anyOf": [_object(kind=TEXT, message=TEXT, node=TEXT), {"type": "null"}]},
        warnings={"type": "array", "items": TEXT},
        at={"type": "array", "items": TEXT, "description": "The nodes that run now."},
        nodes={
            "type": "array",
            "items": {"type": "object"},
            "description": "The nodes that ran: node, started_at, ms, tokens, retries, cost, unknown_calls.",
        },
        usage={
            "type": "object",
            "properties": {
                "prompt_tokens": {"type": "integer"},
                "completion_tokens": {"type": "integer"},
                "retries": {"type": "integer"},
                "cost": {**number, "description": "Of all calls whose tokens and price are known; null without prices."},
                "unknown_calls": {"type": "integer", "description": "Calls whose tokens are not known; they are not in cost."},
                "nodes": {
                    "type": "array",
                    "items": {"type": "object"},
                    "description": "Calls, tokens and cost by node and model.",
                },
                "models": {"type": "array", "items": {"type": "object"}, "description": "The same by model."},
            },
        },
    )


def _build_checks() -> dict[str, Any]:
    return _object(status=TEXT, checks={"type": "object", "additionalProperties": TEXT})


def _build_paths(keyed: bool, callback_hosts: tuple[str, ...]) -> dict[str, Any]:
    job, refusal, invalid, checks = ({"$ref": f"#/components/schemas/{name}"} for name in ("Job", "Refusal", "Invalid", "Looks"))
    refused = _json(refusal)
    security: dict[str, Any] = {"security": [{"bearer": []}, {"header": []}]} if keyed else {}
    common = {
        "421": _answer("The host name is none of the server's names.", refused),
        "503": _answer("The job store cannot be used.", refused),
        **({"401": _answer("The API key is missing or wrong.", refused)} if keyed else {}),
    }
    page = {"403": _answer("A page of another site sent the request.", refused)}
    unknown = {"404": _answer("There is no job with this id.", refused)}

    def operation(name: str, summary: str, answers: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"operationId": name, "summary": summary, "responses": {**answers, **common}, **security, **more}

    headers = [
        ("Prefer", "respond-async: answer at once. wait=N: wait at most N seconds (RFC 7240)", {"type": "string"}),
        (
            "Idempotency-Key",
            "requests with the same key and inputs get the same job",
            {"type": "string", "pattern": "^[!-~]{1,255}$"},
        ),
    ]
    if callback_hosts:
        allowed = " ".join(callback_hosts)
        headers.append(
            ("Callback-URL", f"the URL to which the ended job is posted; allowed hosts: {allowed}", {"type": "string"})
        )
    accepted = _answer("The run has not ended in time, or respond-async was sent. The run continues.", _json(job))
    accepted["headers"] = {"Location": {"schema": TEXT}, "Retry-After": {"schema": TEXT}}
    busy = _answer("The queue is full.", refused)
    busy["headers"] = {"Retry-After": {"schema": TEXT}}
    return {
        "/run": {
            "post": operation(
                "run",
                "Run the workflow",
                {
                    "200": _answer("The run has ended.", _json(job)),
                    "202": accepted,
                    "400": _answer("A header is not valid.", refused),
                    **page,
                    "409": _answer("The job of this Idempotency-Key was cancelled.", _json(job)),
                    "413": _answer("The body is too large.", refused),
                    "415": _answer("The Content-Type is not application/json.", refused),
                    "422": _answer(
                        "The inputs are not valid (every mistake is listed), or the Idempotency-Key was used with other inputs.",
                        _json({"anyOf": [invalid, refusal]}),
                    ),
                    "429": busy,
                    "500": _answer("The run failed.", _json(job)),
                    "402": _answer("The run reached its limit of cost.", _json(job)),
                    "502": _answer("The run failed because a model or a tool failed.", _json(job)),
                    "504": _answer("The run failed because it exceeded its time limit.", _json(job)),
                },
                parameters=[
                    {"name": name, "in": "header", "required": False, "description": text, "schema": schema}
                    for name, text, schema in headers
                ],
                requestBody={"required": True, "content": _json({"$ref": "#/components/schemas/Inputs"})},
            )
        },
        "/status/{job_id}": {
            "get": operation(
                "status", "Status of a job", {"200": _answer("The job.", _json(job)), **unknown}, parameters=[JOB_ID]
            )
        },
        "/jobs": {
            "get": operation(
                "jobs",
                "List of jobs, the newest first",
                {
                    "200": _answer(
                        "A page of jobs.", _json(_object(jobs={"type": "array", "items": {"type": "object"}}, next=MAYBE_TEXT))
                    ),
                    "422": _answer("A parameter is unknown or not valid.", _json(invalid)),
                },
                parameters=[
                    {"name": "status", "in": "query", "schema": {"type": "string", "enum": list(STATUSES)}},
                    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20}},
                    {"name": "before", "in": "query", "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"}},
                ],
            )
        },
        "/jobs/{job_id}/cancel": {
            "post": operation(
                "cancel",
                "Cancel a job",
                {
                    "200": _answer("The job is cancelled.", _json(job)),
                    **page,
                    "409": _answer("The job has already ended.", refused),
                    **unknown,
                },
                parameters=[JOB_ID],
            )
        },
        "/jobs/{job_id}": {
            "delete": operation(
                "delete",
                "Delete a job that has ended",
                {
                    "204": {"description": "The job is deleted."},
                    **page,
                    "409": _answer("The job has not ended: cancel it first.", refused),
                    **unknown,
                },
                parameters=[JOB_ID],
            )
        },
        "/schema": {
            "get": operation(
                "schema",
                "JSON Schemas of the inputs and the declared outputs",
                {"200": _answer("JSON Schemas.", _json({"type": "object"}))},
            )
        },
        "/health": {"get": _build_check_operation("health", "Health: the checks of /readyz, and facts about the server", checks)},
        "/livez": {
            "get": {
                "operationId": "livez",
                "summary": "Whether the process answers",
                "responses": {"200": _answer("The process answers.", _json({}))},
            }
        },
        "/readyz": {
            "get": _build_check_operation("readyz", "Readiness: the job store takes a write, the model endpoints answer", checks)
        },
        "/metrics": {
            "get": operation("metrics", "Metrics for Prometheus", {"200": _answer("Metrics.", {"text/plain": {"schema": TEXT}})})
        },
    }


def _build_check_operation(name: str, summary: str, checks: dict[str, Any]) -> dict[str, Any]:
    answers = {
        "200": _answer("The server can work. It is degraded while traces do not arrive.", _json(checks)),
        "503": _answer("A check failed; the body says which.", _json(checks)),
    }
    return {"operationId": name, "summary": summary, "responses": answers}


def _answer(description: str, content: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": content}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
