# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One call of an OpenAI-compatible endpoint, and what to do when it fails: try again, or say why not."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx
from pydantic import ValidationError

from .environment import expand, read_secret
from .forms import WORDS, Forms, is_ignored, next_form, read_text, write_request
from .kinds import dump, explain_first
from .schema import Llm
from .tools import BoundTool, ToolError
from .tracing import NO_SPAN, Span
from .workflow import PROVIDERS, Step

LARGEST_ANSWER = 16 * 1024 * 1024
LONGEST_DELAY = 30.0
AGAIN = frozenset({408, 409, 425, 429})


class RunError(Exception):
    """A run that cannot go on. kind: model, timeout, tool, condition, gate, input or workflow; node: where it was."""

    def __init__(self, kind: str, message: str, node: str = "") -> None:
        self.kind, self.message, self.node = kind, message, node
        super().__init__(message)

    def as_dict(self) -> dict[str, str]:
        return {"kind": self.kind, "message": self.message, "node": self.node}


class CallError(Exception):
    """One call that failed. again: another try may help; after: seconds that the endpoint asked to wait; status: of HTTP."""

    def __init__(self, message: str, again: bool, after: float = 0.0, status: int = 0) -> None:
        self.again, self.after, self.status = again, after, status
        super().__init__(message)


class FormRefusedError(RunError):
    """The endpoint refuses the way in which an answer was asked for; another one may do."""


class Endpoint(Protocol):
    async def complete(self, llm: Llm, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to one chat completion. Raises CallError."""


@dataclass
class Usage:
    """What a node cost."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    calls: int = 0
    retries: int = 0

    def add(self, reported: Any) -> None:
        if isinstance(reported, Mapping):
            for key in ("prompt_tokens", "completion_tokens"):
                value = reported.get(key)
                if isinstance(value, int) and value > 0:
                    setattr(self, key, getattr(self, key) + value)


@dataclass
class Reply:
    """A node's checked answer: output name -> value."""

    values: dict[str, Any]
    usage: Usage = field(default_factory=Usage)


class HttpEndpoint:
    """Calls endpoints over one pool of connections. The key is read once and goes into no message."""

    def __init__(self, client: httpx.AsyncClient, environment: Mapping[str, str], timeout: float) -> None:
        self._client, self._environment, self._timeout = client, environment, timeout
        self._keys = {key: read_secret(key, environment) for _base, key, _default in PROVIDERS.values()}

    def find_base(self, llm: Llm) -> str:
        """The endpoint's URL. Raises SettingsError where no variable names it."""
        variable, _key, default = PROVIDERS[llm.provider or "openai"]
        text = llm.api_base or (f"${{{variable}:-{default}}}" if default else f"${{{variable}}}")
        return expand(text, self._environment).rstrip("/")

    def make_headers(self, llm: Llm) -> dict[str, str]:
        key = self._keys[PROVIDERS[llm.provider or "openai"][1]]
        return {"Authorization": f"Bearer {key}"} if key else {}

    async def look(self, llm: Llm) -> str:
        """Nothing where the endpoint answers, else what is wrong with it."""
        url = self.find_base(llm)
        shown = show_url(url)
        try:
            answer = await self._client.get(f"{url}/models", headers=self.make_headers(llm), timeout=2)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"{shown} does not answer: {error or type(error).__name__}"
        if answer.status_code in (401, 403):
            return f"{shown} refuses the key"
        return f"{shown} answers {answer.status_code}" if answer.status_code >= 500 else ""

    async def complete(self, llm: Llm, body: Mapping[str, Any]) -> Mapping[str, Any]:
        url = self.find_base(llm) + "/chat/completions"
        seconds = llm.timeout or self._timeout
        request = self._client.build_request("POST", url, json=body, headers=self.make_headers(llm), timeout=seconds)
        try:
            async with asyncio.timeout(seconds):
                return await self._send(request)
        except TimeoutError:
            raise CallError(f"no answer in {seconds:g} s", again=True) from None
        except httpx.HTTPError as error:
            raise CallError(f"the endpoint does not answer: {error or type(error).__name__}", again=True) from None
        except httpx.InvalidURL as error:
            raise CallError(f"{show_url(url)} is no URL: {error}", again=False) from None

    async def _send(self, request: httpx.Request) -> Mapping[str, Any]:
        answer = await self._client.send(request, stream=True)
        try:
            body = bytearray()
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > LARGEST_ANSWER:
                    raise CallError("the answer is larger than 16 MiB", again=False)
        finally:
            await answer.aclose()
        if answer.status_code != 200:
            again = answer.status_code >= 500 or answer.status_code in AGAIN
            raise CallError(
                f"HTTP {answer.status_code}{_read_reason(bytes(body))}", again, _read_delay(answer), answer.status_code
            )
        try:
            reply = json.loads(body)
        except ValueError:
            raise CallError("the answer is no JSON", again=True) from None
        if not isinstance(reply, dict):
            raise CallError("the answer is no JSON object", again=True)
        return reply


def show_url(url: str) -> str:
    """Where it leads, without what may be a secret in it: user, password, query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _read_reason(body: bytes) -> str:
    text = body[:2000].decode("utf-8", "replace")
    try:
        found = json.loads(text)
        error = found.get("error", found) if isinstance(found, dict) else text
        text = str(error.get("message", error)) if isinstance(error, dict) else str(error)
    except ValueError:
        pass
    text = " ".join(text.split())[:300]
    return f": {text}" if text else ""


def _read_delay(answer: httpx.Response) -> float:
    try:
        return min(LONGEST_DELAY, max(0.0, float(answer.headers.get("retry-after", "0"))))
    except ValueError:
        return 0.0


# --- a node's answer


async def ask(
    step: Step,
    values: Mapping[str, Any],
    endpoint: Endpoint,
    forms: Forms,
    tools: list[BoundTool],
    retries: int,
    rounds: int,
    span: Span,
) -> Reply:
    """Ask until the answer is valid. Raises RunError after 1 + retries answers that are not; an answer that shows that
    the endpoint ignores a way of asking for JSON leads to the next way, and is not counted.
    """
    talk: list[dict[str, Any]] = [{"role": "user", "content": step.prompt.render(values)}]
    system = step.system.render(values)
    if system:
        talk.insert(0, {"role": "system", "content": system})
    reply = Reply({})
    body = _begin_body(step)
    if tools:
        answered = await _talk_with_tools(step, body, talk, endpoint, tools, retries, rounds, reply.usage, span)
        if answered:
            return Reply(answered, reply.usage)
    form = forms.find(step.llm) if step.answer is not None else WORDS
    left = retries
    while True:
        lower = next_form(form) if step.answer is not None else None
        asked = {"messages": talk} if step.answer is None else write_request(form, step.id, step.answer, talk)
        refused = partial(forms.is_refused, step.llm, form)
        try:
            message = await _call(step, {**body, **asked}, endpoint, left, reply.usage, span, refused)
        except FormRefusedError:
            assert lower is not None
            form = lower
            continue
        text = read_text(form, message)
        found, wrong = read_answer(step, text, bool(message.get("cut")))
        if not wrong:
            if step.answer is not None:
                forms.learn(step.llm, form)
            reply.values = found
            return reply
        if lower is not None and is_ignored(text):
            reply.usage.retries += 1
            form = lower
            continue
        if left == 0:
            raise RunError("model", f"the answer is not valid after {retries + 1} tries: {wrong}", step.id)
        left -= 1
        reply.usage.retries += 1
        talk = [*talk, {"role": "assistant", "content": str(text or "")}, _reproach(wrong, step.answer)]


def _reproach(wrong: str, answer: Mapping[str, Any] | None) -> dict[str, str]:
    """What is said to a model whose answer will not do. The schema is told in words, whatever else holds the model to it."""
    form = f"with nothing but JSON that fits this JSON Schema: {json.dumps(answer)}" if answer else "with text"
    return {"role": "user", "content": f"That answer is not valid ({wrong}). Answer again, {form}"}


def _begin_body(step: Step) -> dict[str, Any]:
    llm = step.llm
    settings = {"temperature": llm.temperature, "max_tokens": llm.max_tokens, "seed": llm.seed}
    return {"model": llm.model, **{key: value for key, value in settings.items() if value is not None}}


async def _call(
    step: Step,
    body: Mapping[str, Any],
    endpoint: Endpoint,
    retries: int,
    usage: Usage,
    span: Span,
    refused: Callable[[int], bool] = lambda status: False,
) -> Mapping[str, Any]:
    """One message of the model; failed calls are tried again with growing pauses.

    refused: tells of an HTTP status whether it refuses the way of asking. Raises FormRefusedError for those.
    """
    for attempt in range(retries + 1):
        usage.calls += 1
        child = span.start(f"model {step.llm.model}", "CHAT_MODEL")
        try:
            answer = await endpoint.complete(step.llm, body)
            message = _read_message(answer)
        except CallError as error:
            child.fail(str(error))
            if refused(error.status):
                usage.retries += 1
                raise FormRefusedError("model", str(error), step.id) from None
            if not error.again or attempt == retries:
                tries = f" after {usage.calls} calls" if usage.calls > 1 else ""
                raise RunError("model", f"model {step.llm.model}: {error}{tries}", step.id) from None
            usage.retries += 1
            pause = min(LONGEST_DELAY, 0.25 * 2**attempt) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
            await asyncio.sleep(max(error.after, pause))
            continue
        except asyncio.CancelledError:
            child.fail("cancelled")
            raise
        usage.add(answer.get("usage"))
        if child is not NO_SPAN:
            child.finish(body["messages"] if step.traced else None, message if step.traced else None, answer.get("usage"))
        return message
    raise AssertionError("the last attempt returns or raises")


def _read_message(answer: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    message = first.get("message")
    if not isinstance(message, dict):
        raise CallError("the answer holds no message", again=True)
    if first.get("finish_reason") == "length":
        return {**message, "cut": True}
    return message


def read_answer(step: Step, content: Any, cut: bool) -> tuple[dict[str, Any], str]:
    """The outputs in an answer, or what is wrong with it. cut: it reached max_tokens."""
    if not isinstance(content, str):
        return {}, "it holds no text"
    content = content.encode("utf-8", "replace").decode()
    if step.answer is None:
        return ({}, "it is empty") if not content.strip() else ({step.outputs[0]: content.strip()}, "")
    try:
        checked = step.check.model_validate_json(_bare(content))
    except ValidationError as error:
        return {}, ("it was cut off at max_tokens; " if cut else "") + explain_first(error)
    return {name: dump(getattr(checked, f"output_{number}")) for number, name in enumerate(step.check_names)}, ""


def _bare(text: str) -> str:
    """The JSON object alone: what nothing held to it comes with a code fence, thoughts or kind words around it."""
    text = text.rpartition("</think>")[2]
    start, end = text.find("{"), text.rfind("}")
    return text[start : end + 1] if 0 <= start < end else text.strip()


async def _talk_with_tools(
    step: Step,
    body: Mapping[str, Any],
    talk: list[dict[str, Any]],
    endpoint: Endpoint,
    tools: list[BoundTool],
    retries: int,
    rounds: int,
    usage: Usage,
    span: Span,
) -> dict[str, Any]:
    """Let the model use its tools until it answers. The talk grows; the answer is returned if it is already valid."""
    offered = {tool.name: tool for tool in tools}
    functions = [{"type": "function", "function": tool.function} for tool in tools]
    for _unused in range(rounds):
        message = await _call(step, {**body, "messages": talk, "tools": functions}, endpoint, retries, usage, span)
        wanted = message.get("tool_calls")
        if not isinstance(wanted, list) or not wanted:
            found, wrong = read_answer(step, message.get("content"), bool(message.get("cut")))
            return {} if wrong else found
        talk.append({"role": "assistant", "content": message.get("content") or "", "tool_calls": wanted})
        for call in wanted:
            talk.append(await _use_tool(step, call, offered, span))
    raise RunError("tool", f"the model still asks for tools after {rounds} rounds", step.id)


async def _use_tool(step: Step, call: Any, offered: Mapping[str, BoundTool], span: Span) -> dict[str, Any]:
    found = call.get("function") if isinstance(call, dict) else None
    function: dict[str, Any] = found if isinstance(found, dict) else {}
    name = str(function.get("name", ""))
    answer = {"role": "tool", "tool_call_id": str(call.get("id", "")) if isinstance(call, dict) else ""}
    tool = offered.get(name)
    if tool is None:
        return {**answer, "content": f"there is no tool {name!r}; there are {', '.join(offered)}"}
    try:
        arguments = json.loads(function.get("arguments") or "{}")
        if not isinstance(arguments, dict):
            raise ValueError("not an object")
    except (ValueError, TypeError) as error:
        return {**answer, "content": f"the arguments are no JSON object: {error}"}
    child = span.start(f"tool {name}", "TOOL")
    try:
        text = await tool.call(arguments)
    except ToolError as error:
        child.fail(str(error))
        if tool.on_error == "fail":
            raise RunError("tool", str(error), step.id) from None
        return {**answer, "content": f"the tool failed: {error}"}
    child.finish(arguments if step.traced else None, text if step.traced else None)
    return {**answer, "content": text}
