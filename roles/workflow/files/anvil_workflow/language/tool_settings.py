# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of the tools that a node may offer to its model: ``calculate``, ``current_time``, ``http``, and no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator

from anvil_workflow.environment.variables import find_variables
from anvil_workflow.language.argument_schema import find_schema_mistakes


class HttpConfig(BaseModel):
    """``config`` of the tool http, which calls one URL of the workflow file."""

    model_config = ConfigDict(extra="forbid", strict=True)
    name: str = Field("http", pattern=r"^[A-Za-z0-9_-]{1,64}$", description="The name of the tool for the model.")
    description: str = "Calls a service."
    url: str = Field(description="The URL; it may contain ${VARIABLE}.")
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

    @field_validator("parameters")
    @classmethod
    def _check_parameters(cls, value: dict[str, Any]) -> dict[str, Any]:
        mistakes = list(find_schema_mistakes(value))
        if value.get("type", "object") != "object":
            mistakes.insert(0, "its type is not object")
        if mistakes:
            raise ValueError(f"this is not a JSON Schema of arguments: {'; '.join(mistakes)}")
        return value


class PlainConfig(BaseModel):
    """``config`` of a tool without settings."""

    model_config = ConfigDict(extra="forbid", strict=True)


CONFIGS: dict[str, type[BaseModel]] = {"calculate": PlainConfig, "current_time": PlainConfig, "http": HttpConfig}


def list_variables(name: str, config: Mapping[str, Any]) -> Iterator[tuple[str, str | None]]:
    """The environment variables in the settings of a tool, each with its default."""
    if name == "http":
        for value in (config.get("url"), *dict(config.get("headers") or {}).values()):
            if isinstance(value, str):
                yield from find_variables(value)
