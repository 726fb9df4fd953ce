# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The answer of a node: call its model until the answer is valid, let it use tools, or say why the node failed."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import ValidationError

from anvil_workflow.environment.variables import hide_credentials
from anvil_workflow.language.field_types import dump, explain_first
from anvil_workflow.language.workflow import CompiledNode
from anvil_workflow.runner.answer_forms import PROMPT, AnswerForms, build_request, is_ignored, next_form, read_text
from anvil_workflow.runner.costs import DIGITS, CallCost, Spending
from anvil_workflow.runner.endpoints import LONGEST_DELAY, CallError, Endpoint, explain_error
from anvil_workflow.runner.model_messages import (
    Message,
    ToolCall,
    cut_thoughts,
    find_written_calls,
    list_objects,
    read_message,
    send_calls_back,
)
from anvil_workflow.runner.request_habits import RequestHabits, is_too_long
from anvil_workflow.runner.tools import ArgumentsError, BoundTool, ToolError
from anvil_workflow.runner.tracing import NO_SPAN, Span

# Calls of tools in one message of a model.
MOST_CALLS = 32


class RunError(Exception):
    """A run that failed. kind: model, timeout, tool, condition, gate, input, cost or workflow. node: where it failed."""

    def __init__(self, kind: str, message: str, node: str = "") -> None:
        self.kind, self.message, self.node = kind, hide_credentials(message), node
        super().__init__(self.message)

    def as_dict(self) -> dict[str, str]:
        return {"kind": self.kind, "message": self.message, "node": self.node}


class FormRefusedError(RunError):
    """The endpoint refuses the form of the request; another form may work."""


@dataclass
class Usage:
    """Tokens and calls of one run of a node. cost: None without a price. unknown_calls: calls whose tokens are not known."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    calls: int = 0
    retries: int = 0
    cost: float | None = None
    unknown_calls: int = 0

    def add(self, call: CallCost) -> None:
        if call.tokens is None:
            self.unknown_calls += 1
            return
        self.prompt_tokens += call.tokens.prompt
        self.completion_tokens += call.tokens.completion
        if call.cost is not None:
            self.cost = round((self.cost or 0.0) + call.cost, DIGITS)


@dataclass(frozen=True)
class Purse:
    """What a run spends, and how it is stored while a node runs."""

    spending: Spending
    keep: Callable[[], Awaitable[None]]


@dataclass
class Reply:
    """The checked answer of a node. values: output name -> value."""

    values: dict[str, Any]
    usage: Usage = field(default_factory=Usage)


async def answer_node(
    node: CompiledNode,
    values: Mapping[str, Any],
    endpoint: Endpoint,
    forms: AnswerForms,
    tools: list[BoundTool],
    retries: int,
    rounds: int,
    span: Span,
    purse: Purse,
) -> Reply:
    """Call the model until its answer is valid. Raises RunError after 1 + retries invalid answers. An answer that shows that the
    endpoint ignores the form of the request is not counted: the next form is used.
    """
    messages: list[dict[str, Any]] = [{"role": "user", "content": node.prompt.render(values)}]
    system = node.system.render(values)
    if system:
        messages.insert(0, {"role": "system", "content": system})
    reply = Reply({})
    body = _begin_body(node)
    if tools:
        answered = await _answer_with_tools(
            node, body, messages, endpoint, forms.habits, tools, retries, rounds, reply.usage, span, purse
        )
        if answered:
            return Reply(answered, reply.usage)
    form = forms.find(node.llm) if node.answer is not None else PROMPT
    left = retries
    while True:
        next_one = next_form(form) if node.answer is not None else None
        asked = {"messages": messages} if node.answer is None else build_request(form, node.id, node.answer, messages)
        refused = partial(forms.is_refused, node.llm, form)
        try:
            message = await _call(node, {**body, **asked}, endpoint, forms.habits, left, reply.usage, span, purse, refused)
        except FormRefusedError:
            assert next_one is not None
            form = next_one
            continue
        text = read_text(form, message)
        found, wrong = read_answer(node, text, message.cut)
        if not wrong:
            if node.answer is not None:
                forms.learn(node.llm, form)
            reply.values = found
            return reply
        if next_one is not None and is_ignored(text):
            reply.usage.retries += 1
            form = next_one
            continue
        if left == 0:
            raise RunError("model", f"the answer is not valid after {retries + 1} attempts: {wrong}", node.id)
        left -= 1
        reply.usage.retries += 1
        messages = _ask_again(messages, text, wrong, node.answer)


def _ask_again(
    messages: list[dict[str, Any]], text: str | None, wrong: str, answer: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """The messages after an invalid answer. They contain the schema, even where another form constrains the model. An empty
    answer is not sent back: some servers refuse a message without text.
    """
    form = f"with nothing but JSON that fits this JSON Schema: {json.dumps(answer)}" if answer else "with text"
    ask = f"That answer is not valid ({wrong}). Answer again, {form}"
    if text and text.strip():
        return [*messages, {"role": "assistant", "content": text}, {"role": "user", "content": ask}]
    last = messages[-1]
    if last["role"] != "user":
        return [*messages, {"role": "user", "content": ask}]
    return [*messages[:-1], {**last, "content": f"{last['content']}\n\n{ask}"}]


def _begin_body(node: CompiledNode) -> dict[str, Any]:
    llm = node.llm
    settings = {"temperature": llm.temperature, "max_tokens": llm.max_tokens, "seed": llm.seed}
    return {"model": llm.model, **{key: value for key, value in settings.items() if value is not None}}


async def _call(
    node: CompiledNode,
    body: Mapping[str, Any],
    endpoint: Endpoint,
    habits: RequestHabits,
    retries: int,
    usage: Usage,
    span: Span,
    purse: Purse,
    refused: Callable[[int], bool] = lambda status: False,
) -> Message:
    """One message of the model. Failed calls are retried with growing pauses, and at once without what the endpoint refuses.

    refused: whether an HTTP status refuses the form of the request. Raises FormRefusedError for those.
    """
    attempt = 0
    model = node.llm.model or ""
    while True:
        await _admit_call(node, usage, purse)
        child = span.start(f"model {node.llm.model}", "CHAT_MODEL")
        sent = habits.fit(node.llm, body)
        call: CallCost | None = None
        try:
            answer = await endpoint.complete(node.llm, sent)
            if "error" not in answer or answer.get("usage") is not None:
                call = purse.spending.add(node.id, model, answer.get("usage"))
                usage.add(call)
            choice = _find_choice(answer)
            message = read_message(choice)
            if message is None:
                raise CallError(f"the answer contains no message{explain_error(answer)}", again=True)
        except CallError as error:
            if error.is_open:
                usage.add(purse.spending.add(node.id, model, None))
            child.fail(str(error) if node.traced else f"HTTP {error.status}")
            if is_too_long(error.status, str(error)):
                raise RunError("model", _explain_length(node, error), node.id) from None
            if habits.learn(node.llm, sent, str(error)):
                usage.retries += 1
                continue
            if refused(error.status):
                usage.retries += 1
                raise FormRefusedError("model", str(error), node.id) from None
            if not error.again or attempt == retries:
                tries = f" after {usage.calls} calls" if usage.calls > 1 else ""
                raise RunError("model", f"model {node.llm.model}: {error}{tries}", node.id) from None
            usage.retries += 1
            pause = min(LONGEST_DELAY, 0.25 * 2**attempt) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
            attempt += 1
            await asyncio.sleep(max(error.after, pause))
            continue
        except asyncio.CancelledError:
            usage.add(purse.spending.add(node.id, model, None))
            child.fail("cancelled")
            raise
        if child is not NO_SPAN:
            child.note_call(call)
            child.finish(sent["messages"] if node.traced else None, choice if node.traced else None, answer.get("usage"))
        if message.refusal:
            raise RunError("model", f"model {node.llm.model}: {message.refusal}", node.id)
        return message


async def _admit_call(node: CompiledNode, usage: Usage, purse: Purse) -> None:
    """Count a call that is about to be sent. Raises RunError where the limit of the run does not allow it."""
    if usage.calls:
        await purse.keep()
    over = purse.spending.explain_limit()
    if over:
        raise RunError("cost", over, node.id)
    usage.calls += 1


def _find_choice(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = answer.get("choices")
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}


def _explain_length(node: CompiledNode, error: CallError) -> str:
    limit = node.llm.max_tokens
    what = f"the prompt and max_tokens ({limit}) do" if limit else "the prompt does"
    lower = ", lower llm.max_tokens" if limit else ""
    fix = f"shorten the inputs{lower} or use a model with a longer context"
    return f"{what} not fit the context of model {node.llm.model}: {error}; {fix}"


def read_answer(node: CompiledNode, content: str | None, cut: bool) -> tuple[dict[str, Any], str]:
    """The outputs in an answer, or why it is not valid. cut: it reached max_tokens."""
    too_long = f"it was cut off at max_tokens{f' ({node.llm.max_tokens})' if node.llm.max_tokens else ''}" if cut else ""
    if content is None:
        return {}, f"{too_long} before its text" if cut else "it contains no text"
    content = content.encode("utf-8", "replace").decode()
    # A constrained answer has no thoughts before it, and may write about their tags.
    text = content if node.answer is not None and content.lstrip().startswith("{") else cut_thoughts(content)
    if text is None:
        return {}, f"{too_long} inside its thoughts" if cut else "it holds thoughts only"
    if node.answer is None:
        return ({node.outputs[0]: text}, "") if text else ({}, "it is empty")
    wrong = ""
    for written in list_objects(text):
        try:
            checked = node.check.model_validate_json(written)
        except ValidationError as error:
            wrong = wrong or (f"{too_long}, so it must be shorter; " if cut else "") + explain_first(error)
            continue
        return {name: dump(getattr(checked, f"output_{number}")) for number, name in enumerate(node.check_names)}, ""
    return {}, wrong


async def _answer_with_tools(
    node: CompiledNode,
    body: Mapping[str, Any],
    messages: list[dict[str, Any]],
    endpoint: Endpoint,
    habits: RequestHabits,
    tools: list[BoundTool],
    retries: int,
    rounds: int,
    usage: Usage,
    span: Span,
    purse: Purse,
) -> dict[str, Any]:
    """Let the model call its tools until it answers. Adds to ``messages``; returns the answer where it is valid, else nothing."""
    offered = {tool.name: tool for tool in tools}
    functions = [{"type": "function", "function": tool.function} for tool in tools]
    for _unused in range(rounds):
        asked = {**body, "messages": messages, "tools": functions}
        message = await _call(node, asked, endpoint, habits, retries, usage, span, purse)
        calls = message.calls or find_written_calls(message.text, offered)
        if not calls:
            found, wrong = read_answer(node, read_text(PROMPT, message) if node.answer else message.text, message.cut)
            return {} if wrong else found
        messages.append(send_calls_back(message, calls))
        if len(calls) > MOST_CALLS:
            raise RunError("tool", f"the model calls {len(calls)} tools at once, more than {MOST_CALLS}", node.id)
        for call in calls:
            messages.append(await _use_tool(node, call, message.cut, offered, span))
    raise RunError("tool", f"the model still calls tools after {rounds} rounds (config.execution.tool_rounds)", node.id)


async def _use_tool(
    node: CompiledNode, call: ToolCall, cut: bool, offered: Mapping[str, BoundTool], span: Span
) -> dict[str, Any]:
    name = call.name
    answer = {"role": "tool", "tool_call_id": call.id}
    tool = offered.get(name)
    if tool is None:
        return {**answer, "content": f"there is no tool {name!r}; the tools are {', '.join(offered)}"}
    try:
        arguments = tool.read_arguments(call.arguments)
    except ArgumentsError as error:
        cause = " (the message was cut off at max_tokens)" if cut else ""
        return {**answer, "content": f"{error}{cause}; call {name} again with valid arguments"}
    child = span.start(f"tool {name}", "TOOL")
    try:
        text = await tool.call(arguments)
    except ToolError as error:
        child.fail(str(error) if node.traced else "failed")
        if tool.on_error == "fail":
            raise RunError("tool", str(error), node.id) from None
        return {**answer, "content": f"the tool failed: {error}"}
    child.finish(arguments if node.traced else None, text if node.traced else None)
    return {**answer, "content": text}
