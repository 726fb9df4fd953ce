# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tools that a node may offer its model: an allowlist of three, none of which touches files or a shell.

``calculate`` works out arithmetic, ``current_time`` tells the time, ``http`` calls one fixed URL of the workflow file:
the model chooses the arguments, never the address.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, ConfigDict, Field, field_validator

from .conditions import ConditionError, parse_condition
from .environment import expand, find_variables

LONGEST_ANSWER = 64 * 1024


class ToolError(Exception):
    """A tool that failed; the text says why."""


class HttpConfig(BaseModel):
    """``config`` of the tool http."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: str = Field("http", pattern=r"^[A-Za-z0-9_-]{1,64}$", description="The name that the model sees.")
    description: str = "Calls a service."
    url: str = Field(description="May hold ${VARIABLE}.")
    method: str = Field("POST", pattern="^(GET|POST)$")
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})
    headers: dict[str, str] = Field(default_factory=dict)
    timeout: float = Field(30, gt=0, le=600)

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        if not value.startswith("${") and urlsplit(value).scheme not in ("http", "https"):
            raise ValueError("write a URL that begins with http:// or https://")
        return value


class PlainConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


CONFIGS: dict[str, type[BaseModel]] = {"calculate": PlainConfig, "current_time": PlainConfig, "http": HttpConfig}
Call = Callable[[Mapping[str, Any]], Awaitable[str]]


@dataclass(frozen=True)
class BoundTool:
    """A tool of one node. function: what the model is told of it (the OpenAI shape)."""

    name: str
    function: dict[str, Any]
    call: Call
    on_error: str


def bind_tool(name: str, config: Mapping[str, Any], on_error: str, client: httpx.AsyncClient) -> BoundTool:
    """The tool with its settings. The config has been checked with ``CONFIGS``."""
    if name == "http":
        settings = HttpConfig.model_validate(config)
        function = {"name": settings.name, "description": settings.description, "parameters": settings.parameters}
        return BoundTool(settings.name, function, _make_http(settings, client), on_error)
    call, description, properties = PLAIN[name]
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return BoundTool(name, {"name": name, "description": description, "parameters": parameters}, call, on_error)


def list_variables(name: str, config: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """The environment variables in a tool's config, each with its default."""
    if name == "http":
        for value in (config.get("url"), *dict(config.get("headers") or {}).values()):
            if isinstance(value, str):
                yield from find_variables(value)


def _make_http(settings: HttpConfig, client: httpx.AsyncClient) -> Call:
    async def call(arguments: Mapping[str, Any]) -> str:
        words: dict[str, Any] = (
            {"params": {key: _plain(value) for key, value in arguments.items()}}
            if settings.method == "GET"
            else {"json": dict(arguments)}
        )
        headers = {name: expand(value) for name, value in settings.headers.items()}
        request = client.build_request(settings.method, expand(settings.url), headers=headers, timeout=settings.timeout, **words)
        try:
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


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


async def _calculate(arguments: Mapping[str, Any]) -> str:
    text = str(arguments.get("expression", ""))
    try:
        return json.dumps(parse_condition(text).evaluate({}))
    except (ValueError, ConditionError) as error:
        raise ToolError(f"calculate: {error}") from None


async def _current_time(_arguments: Mapping[str, Any]) -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


PLAIN: dict[str, tuple[Call, str, dict[str, Any]]] = {
    "calculate": (_calculate, "Works out arithmetic, such as (3 + 4) / 2.", {"expression": {"type": "string"}}),
    "current_time": (_current_time, "The time now, UTC, ISO 8601.", {}),
}
