# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Streamed answers: which calls are streamed, and the events of a stream put together as one answer.

A stream keeps a connection busy. Without one, whatever lies between (a proxy, a load balancer, an edge) sees no byte until the
answer is complete, and many close a connection after a minute without one.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any

from anvil_workflow.language.json_text import read_json
from anvil_workflow.language.schema import Llm

log = logging.getLogger(__name__)

# Seconds without a byte after which proxies close a connection, where nobody set another time.
IDLE_SECONDS = 60.0
# An answer of so many tokens takes less than that, at 20 tokens a second.
SHORT_TOKENS = 1024
STREAM, OPTIONS = "stream", "stream_options"
REFUSALS = frozenset({400, 404, 405, 415, 422, 501})
# What proxies answer when they gave up waiting, and the shortest such wait that is taken for one (seconds).
IDLE_STATUSES = frozenset({408, 499, 504, 524})
SHORTEST_IDLE = 10.0
LONGEST_LINE = 16 * 1024 * 1024
TEXTS = ("content", "reasoning_content", "reasoning", "refusal")
MOST_CALLS = 128


class BrokenStreamError(Exception):
    """A stream that holds no whole answer."""


def wants_stream(llm: Llm, seconds: float) -> bool:
    """Whether a call is streamed: as the node says, else where it may take longer than proxies wait. seconds: its time limit."""
    if llm.stream is not None:
        return llm.stream
    return seconds > IDLE_SECONDS and (llm.max_tokens is None or llm.max_tokens > SHORT_TOKENS)


class StreamHabits:
    """Which endpoints stream: what the rule says, and what their answers show. It is kept until the process ends."""

    def __init__(self) -> None:
        self._refused: dict[tuple[str, str, str], set[str]] = {}
        self._needed: set[tuple[str, str, str]] = set()

    def fit(self, llm: Llm, body: Mapping[str, Any], seconds: float) -> Mapping[str, Any]:
        """The request, as a stream where that is right."""
        key = _identify(llm)
        refused = self._refused.get(key, set())
        if STREAM in refused or not (wants_stream(llm, seconds) or (key in self._needed and llm.stream is None)):
            return body
        options = {} if OPTIONS in refused else {OPTIONS: {"include_usage": True}}
        return {**body, STREAM: True, **options}

    def learn(self, llm: Llm, sent: Mapping[str, Any], status: int, reason: str, elapsed: float) -> bool:
        """Whether a failed call is to be sent again at once, without what the endpoint refuses.

        A call without a stream that something between cut off after a while is streamed when it is repeated.
        """
        key = _identify(llm)
        if STREAM in sent:
            asked = OPTIONS if OPTIONS in sent and re.search("stream_options|include_usage", reason) else STREAM
            if status not in REFUSALS or not re.search(r"\bstream", reason):
                return False
            self._refused.setdefault(key, set()).add(asked)
            log.warning("model %s is asked without %s from now on; its endpoint answered %s", llm.model, asked, reason)
            return True
        if elapsed >= SHORTEST_IDLE and (status in IDLE_STATUSES or (status == 0 and "does not answer" in reason)):
            if key not in self._needed and llm.stream is None:
                log.warning("model %s is asked for streams from now on; after %.0f s: %s", llm.model, elapsed, reason)
            self._needed.add(key)
        return False


def _identify(llm: Llm) -> tuple[str, str, str]:
    return llm.provider or "", llm.api_base or "", llm.model or ""


class StreamReader:
    """Takes the bytes of a stream, and gives the answer as it would be without one."""

    def __init__(self) -> None:
        self._rest = b""
        self._lines: list[str] = []
        self._message: dict[str, Any] = {}
        self._pieces: dict[str, list[str]] = {}
        self._calls: dict[Any, dict[str, Any]] = {}
        self._last_call: Any = None
        self._reason: Any = None
        self._usage: Any = None
        self._error: Mapping[str, Any] | None = None
        self.is_done = self._has_choice = False

    @property
    def is_whole(self) -> bool:
        """Whether the answer is complete, whatever comes after it."""
        return self.is_done or self._reason is not None

    def feed(self, piece: bytes) -> None:
        """Raises BrokenStreamError for an event that is not JSON."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > LONGEST_LINE:
            raise BrokenStreamError("an event of the stream is larger than 16 MiB")
        for line in lines:
            self._take_line(line.decode("utf-8", "replace").rstrip("\r").removeprefix("\ufeff"))

    def _take_line(self, line: str) -> None:
        """A line of an event; an empty one ends it. Comments, which keep connections open, and other fields are passed over."""
        if line.startswith("data:"):
            self._lines.append(line[5:].removeprefix(" "))
        elif not line and self._lines:
            text, self._lines = "\n".join(self._lines), []
            self._take_event(text)

    def _take_event(self, text: str) -> None:
        if text.strip() == "[DONE]":
            self.is_done = True
            return
        if not text.strip():
            return
        try:
            event = read_json(text)
        except ValueError:
            raise BrokenStreamError("an event of the stream is not JSON") from None
        if not isinstance(event, dict):
            raise BrokenStreamError("an event of the stream is not a JSON object")
        if event.get("error"):
            self._error = event
        if event.get("usage") is not None:
            self._usage = event["usage"]  # some servers send it with each event, as the sum so far
        choices = event.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict) and choice.get("index") in (0, None):
                self._take_choice(choice)

    def _take_choice(self, choice: Mapping[str, Any]) -> None:
        self._has_choice = True
        if choice.get("finish_reason") is not None:
            self._reason = choice["finish_reason"]
        delta, whole = choice.get("delta"), choice.get("message")
        if isinstance(delta, dict):
            self._take_delta(delta)
        elif isinstance(whole, dict):  # a server that answers a stream with one event
            self._message.update(whole)

    def _take_delta(self, delta: Mapping[str, Any]) -> None:
        for key, value in delta.items():
            if key in TEXTS and isinstance(value, str):
                self._pieces.setdefault(key, []).append(value)
            elif isinstance(value, list) and key != "tool_calls":
                self._message.setdefault(key, [])
                if isinstance(self._message[key], list):
                    self._message[key].extend(value)
            elif key in ("content", "reasoning_content") and isinstance(value, dict):
                self._message[key] = value
        calls = delta.get("tool_calls")
        calls = [calls] if isinstance(calls, dict) else calls
        for call in calls if isinstance(calls, list) else ():
            if isinstance(call, dict):
                self._take_call(call)
        if isinstance(delta.get("function_call"), dict):
            self._take_call({"index": 0, "function": delta["function_call"]})

    def _take_call(self, call: Mapping[str, Any]) -> None:
        """A piece of a tool call. Most servers number the calls; with others a new id or a name begins a new one."""
        function = call.get("function")
        function = function if isinstance(function, dict) else {}
        key = call.get("index")
        if not isinstance(key, int):
            known = self._calls.get(self._last_call)
            is_new = (
                known is None or (call.get("id") not in (None, "", known["id"])) or (function.get("name") and known["written"])
            )
            key = ("call", len(self._calls)) if is_new else self._last_call
        elif key in self._calls and call.get("id") and self._calls[key]["id"] not in ("", call["id"]):
            key = ("call", len(self._calls))  # a server that numbers every call 0
        if key not in self._calls and len(self._calls) >= MOST_CALLS:
            raise BrokenStreamError(f"the model calls more than {MOST_CALLS} tools at once")
        found = self._calls.setdefault(key, {"id": "", "name": "", "arguments": [], "written": False})
        self._last_call = key
        found["id"] = found["id"] or (call["id"] if isinstance(call.get("id"), str) else "")
        name, arguments = function.get("name"), function.get("arguments")
        if isinstance(name, str) and name != found["name"]:
            found["name"] += name
        if isinstance(arguments, dict):
            found["arguments"] = [json.dumps(arguments, ensure_ascii=False)]
        elif isinstance(arguments, str):
            found["arguments"].append(arguments)
        found["written"] = found["written"] or bool(arguments)

    def finish(self) -> dict[str, Any]:
        """The answer, once the stream has ended. Raises BrokenStreamError where it ended before the answer was whole."""
        if self._rest:
            self.feed(b"\n")
        self._take_line("")
        if self._error is not None:
            if self._has_choice:  # the model had begun, so it is no refusal
                error = self._error["error"]
                raise BrokenStreamError(
                    f"an error ended the stream: {error.get('message', error) if isinstance(error, dict) else error}"
                )
            return {**self._error, **self._list_usage()}
        if not self._has_choice:
            if self.is_done:
                return {"choices": [], **self._list_usage()}
            raise BrokenStreamError("the stream ended without an answer")
        if not self.is_whole:
            raise BrokenStreamError("the stream was cut off before the end of the answer")
        message: dict[str, Any] = {"role": "assistant", "content": None, **self._message}
        for key, pieces in self._pieces.items():
            text = "".join(pieces)
            message[key] = (
                [*message[key], {"type": "text", "text": text}] if isinstance(message.get(key), list) and text else text
            )
        if self._calls:
            message["tool_calls"] = list(self._list_calls())
        return {"choices": [{"message": message, "finish_reason": self._reason or "stop"}], **self._list_usage()}

    def _list_usage(self) -> dict[str, Any]:
        return {} if self._usage is None else {"usage": self._usage}

    def _list_calls(self) -> Iterator[dict[str, Any]]:
        for call in self._calls.values():
            function = {"name": call["name"], "arguments": "".join(call["arguments"])}
            yield {"id": call["id"], "type": "function", "function": function}
