# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The forms of a request for an answer in JSON: no form works with every endpoint, so the strictest that works is found.

The forms, the strictest first: ``response_format``; a tool that the model must call, whose arguments are the answer; the schema
as text in the prompt. anvil-serving's router 0.13.2 relays tools and silently drops response_format; 2.0.2 relays both. A form
that an endpoint ignores or refuses is replaced by the next one. The form that worked is remembered until the process ends, so
the search costs two calls at most.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from anvil_workflow.language.schema import Llm
from anvil_workflow.runner.model_messages import Message
from anvil_workflow.runner.request_habits import RequestHabits

log = logging.getLogger(__name__)

SCHEMA, CALL, PROMPT = "response_format", "a tool that the model must call", "the schema in the prompt"
FORMS = (SCHEMA, CALL, PROMPT)
TOOL = "answer"
REFUSED = frozenset({400, 422, 501})


class AnswerForms:
    """The form that works for each model; the same model name at one URL is one model."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, str], str] = {}
        self.habits = RequestHabits()

    def find(self, llm: Llm) -> str:
        return self._found.get(_identify(llm), SCHEMA)

    def is_refused(self, llm: Llm, form: str, status: int) -> bool:
        """Whether an HTTP status means that the endpoint does not support the form.

        The router answers 5xx for any refusal of a tier. So as long as no call of a tool has worked, a 5xx counts as a refusal.
        """
        if form == PROMPT:
            return False
        return status in REFUSED or (form == CALL and status >= 500 and _identify(llm) not in self._found)

    def learn(self, llm: Llm, form: str) -> None:
        """Remember a form that gave a valid answer, after the stricter ones did not."""
        if form != SCHEMA and _identify(llm) not in self._found:
            self._found[_identify(llm)] = form
            log.info(
                "model %s does not support response_format here; from now on its answers are requested by %s", llm.model, form
            )


def _identify(llm: Llm) -> tuple[str, str, str]:
    return llm.provider or "", llm.api_base or "", llm.model or ""


def next_form(form: str) -> str | None:
    """The next form, which is less strict."""
    rest = FORMS[FORMS.index(form) + 1 :]
    return rest[0] if rest else None


def build_request(form: str, node: str, schema: Mapping[str, Any], messages: list[dict[str, Any]]) -> dict[str, Any]:
    """The messages of a request for an answer of the schema, and the settings that go with them."""
    if form == SCHEMA:
        named = {"name": node, "strict": True, "schema": schema}
        return {"messages": messages, "response_format": {"type": "json_schema", "json_schema": named}}
    if form == CALL:
        function = {"name": TOOL, "description": "Takes the answer.", "parameters": schema}
        # "required" and not the name of the tool: llama-server treats a name as "auto".
        return {"messages": messages, "tools": [{"type": "function", "function": function}], "tool_choice": "required"}
    text = f"Answer with nothing but JSON that fits this JSON Schema: {json.dumps(schema)}"
    if messages[-1]["role"] == "user":
        # Many chat templates refuse two user messages in a row.
        return {"messages": [*messages[:-1], {**messages[-1], "content": f"{messages[-1]['content']}\n\n{text}"}]}
    return {"messages": [*messages, {"role": "user", "content": text}]}


def read_text(form: str, message: Message) -> str | None:
    """The text of the answer: the arguments of the tool where the model called it, else the content of the message, else an
    object among the thoughts: some parsers take a constrained answer for thoughts.
    """
    if form == CALL and message.calls:
        call = next((call for call in message.calls if call.name == TOOL), message.calls[0])
        written = call.arguments
        return (
            json.dumps(written, ensure_ascii=False)
            if isinstance(written, dict)
            else written
            if isinstance(written, str)
            else None
        )
    if not message.text and message.reasoning.lstrip().startswith("{"):
        return message.reasoning
    return message.text


def is_ignored(text: Any) -> bool:
    """Whether an answer shows that the endpoint ignored the schema: a constrained one begins with a brace."""
    return not (isinstance(text, str) and text.lstrip().startswith("{"))
