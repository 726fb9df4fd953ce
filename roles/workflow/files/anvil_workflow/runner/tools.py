# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tools that a model may call. None of them reads files or runs commands.

``calculate`` evaluates arithmetic, ``current_time`` returns the time, ``http`` calls one URL of the workflow file: the model
chooses the arguments, never the address or what the file wrote into its query.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx

from anvil_workflow.environment.variables import expand
from anvil_workflow.language.argument_schema import explain_mismatch
from anvil_workflow.language.conditions import ConditionError, parse_condition
from anvil_workflow.language.tool_settings import HttpConfig
from anvil_workflow.runner.evaluation import evaluate
from anvil_workflow.runner.model_messages import read_arguments

LONGEST_ANSWER = 64 * 1024
LONGEST_ARGUMENTS = 64 * 1024


class ToolError(Exception):
    """A tool call that failed; the text says why."""


class ArgumentsError(Exception):
    """Arguments that a model chose wrongly; the text tells it why."""


Call = Callable[[Mapping[str, Any]], Awaitable[str]]


@dataclass(frozen=True)
class BoundTool:
    """A tool of one node. function: its description for the model, in the form of the OpenAI API."""

    name: str
    function: dict[str, Any]
    call: Call
    on_error: str

    def read_arguments(self, written: Any) -> dict[str, Any]:
        """The arguments in a call of the model. Raises ArgumentsError."""
        if len(written if isinstance(written, str) else json.dumps(written)) > LONGEST_ARGUMENTS:
            raise ArgumentsError(f"the arguments are longer than {LONGEST_ARGUMENTS // 1024} KiB")
        try:
            arguments = read_arguments(written)
        except ValueError as error:
            raise ArgumentsError(f"the arguments are not a JSON object: {error}") from None
        wrong = explain_mismatch(self.function["parameters"], arguments)
        if wrong:
            raise ArgumentsError(f"the arguments do not fit the parameters of {self.name}: {wrong}")
        return arguments


def bind_tool(name: str, config: Mapping[str, Any], on_error: str, client: httpx.AsyncClient) -> BoundTool:
    """The tool with its settings, which ``tool_settings.CONFIGS`` has checked."""
    if name == "http":
        settings = HttpConfig.model_validate(config)
        function = {"name": settings.name, "description": settings.description, "parameters": settings.parameters}
        return BoundTool(settings.name, function, _make_http(settings, client), on_error)
    call, description, properties = PLAIN[name]
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return BoundTool(name, {"name": name, "description": description, "parameters": parameters}, call, on_error)


def _make_http(settings: HttpConfig, client: httpx.AsyncClient) -> Call:
    async def call(arguments: Mapping[str, Any]) -> str:
        headers = {name: expand(value) for name, value in settings.headers.items()}
        try:
            url, content = httpx.URL(expand(settings.url)), None
            if settings.method == "GET":
                url = _add_query(url, arguments)
            else:
                content = dict(arguments)
            request = client.build_request(settings.method, url, headers=headers, timeout=settings.timeout, json=content)
            answer = await client.send(request, stream=True, follow_redirects=False)
            try:
                body = b""
                async for piece in answer.aiter_bytes():
                    body += piece
                    if len(body) > LONGEST_ANSWER:
                        raise ToolError(f"{settings.name} answered with more than {LONGEST_ANSWER // 1024} KiB")
            finally:
                await answer.aclose()
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise ToolError(f"{settings.name} does not answer: {error or type(error).__name__}") from None
        text = body.decode("utf-8", "replace")
        if not answer.is_success:
            raise ToolError(f"{settings.name} answered {answer.status_code}: {text[:200]}")
        return text

    return call


def _add_query(url: httpx.URL, arguments: Mapping[str, Any]) -> httpx.URL:
    """The URL with the arguments after its own query. Raises ToolError for an argument that the query has already."""
    taken = sorted(set(arguments) & set(url.params))
    if taken:
        raise ToolError(f"the address has its own value of {', '.join(taken)}: leave it out")
    if not arguments:
        return url
    more = str(httpx.QueryParams({key: _to_text(value) for key, value in arguments.items()}))
    return url.copy_with(query=b"&".join(part for part in (url.query, more.encode()) if part))


def _to_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


async def _calculate(arguments: Mapping[str, Any]) -> str:
    try:
        value = await evaluate(parse_condition(arguments["expression"]), {})
    except (ValueError, ConditionError) as error:
        raise ToolError(f"calculate: {error}") from None
    if isinstance(value, float) and not math.isfinite(value):
        raise ToolError("calculate: the result is not a finite number")
    return json.dumps(value)


async def _current_time(_arguments: Mapping[str, Any]) -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


PLAIN: dict[str, tuple[Call, str, dict[str, Any]]] = {
    "calculate": (_calculate, "Evaluates arithmetic, such as (3 + 4) / 2.", {"expression": {"type": "string"}}),
    "current_time": (_current_time, "Returns the current time, UTC, ISO 8601.", {}),
}
