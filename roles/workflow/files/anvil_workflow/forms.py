# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a model is got to answer with JSON of a schema: no way works with every endpoint, so the best that does is found.

Three ways, the strictest first: ``response_format``; a tool whose arguments are the answer, which the model must call; the
schema in words. anvil-serving's router 0.13.2 relays tools and drops response_format without a word, 2.0.2 relays both.
A way that an endpoint ignores or refuses is left for the next one, and what worked is remembered for as long as the
process lives, so finding out costs two calls at most.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from .schema import Llm

log = logging.getLogger(__name__)

SCHEMA, CALL, WORDS = "response_format", "a tool that it must call", "the schema in words"
FORMS = (SCHEMA, CALL, WORDS)
TOOL = "answer"
REFUSED = frozenset({400, 422, 501})


class Forms:
    """Which way works where; the same model name at one URL is one model."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str], str] = {}

    def find(self, llm: Llm) -> str:
        return self._found.get(_name(llm), SCHEMA)

    def is_refused(self, llm: Llm, form: str, status: int) -> bool:
        """Does an HTTP status say that the endpoint does not know that way of asking?

        The router tells whatever a tier refuses as a 5xx. So where no call of a tool ever worked, one stands for a refusal.
        """
        if form == WORDS:
            return False
        return status in REFUSED or (form == CALL and status >= 500 and _name(llm) not in self._found)

    def learn(self, llm: Llm, form: str) -> None:
        """That way gave a valid answer, after those before it did not."""
        if form != SCHEMA and _name(llm) not in self._found:
            self._found[_name(llm)] = form
            log.info("model %s does not answer by response_format here; from now on it is asked by %s", llm.model, form)


def _name(llm: Llm) -> tuple[str, str, str]:
    return llm.provider or "", llm.api_base or "", llm.model or ""


def next_form(form: str) -> str | None:
    """The way after that one."""
    rest = FORMS[FORMS.index(form) + 1 :]
    return rest[0] if rest else None


def write_request(form: str, node: str, schema: Mapping[str, Any], talk: list[dict[str, Any]]) -> dict[str, Any]:
    """What a request holds for an answer of the schema: messages, and what goes beside them."""
    if form == SCHEMA:
        named = {"name": node, "strict": True, "schema": schema}
        return {"messages": talk, "response_format": {"type": "json_schema", "json_schema": named}}
    if form == CALL:
        function = {"name": TOOL, "description": "Takes the answer.", "parameters": schema}
        # "required" and not the tool's name: llama-server takes a name for "auto".
        return {"messages": talk, "tools": [{"type": "function", "function": function}], "tool_choice": "required"}
    words = f"Answer with nothing but JSON that fits this JSON Schema: {json.dumps(schema)}"
    if talk[-1]["role"] == "user":
        # Many chat templates refuse two messages of the user in a row.
        return {"messages": [*talk[:-1], {**talk[-1], "content": f"{talk[-1]['content']}\n\n{words}"}]}
    return {"messages": [*talk, {"role": "user", "content": words}]}


def read_text(form: str, message: Mapping[str, Any]) -> Any:
    """The answer's text: of the tool's arguments where the model called it, else the message's content."""
    if form == CALL:
        calls = message.get("tool_calls")
        first = calls[0] if isinstance(calls, list) and calls and isinstance(calls[0], dict) else {}
        function = first.get("function")
        if isinstance(function, dict) and isinstance(function.get("arguments"), str):
            return function["arguments"]
    return message.get("content")


def is_ignored(text: Any) -> bool:
    """Does an answer show that nothing held the model to the schema? One that is begins with its object's bracket."""
    return not (isinstance(text, str) and text.lstrip().startswith("{"))
