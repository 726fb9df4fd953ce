# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a model's message holds, however its server writes it: text, thoughts, calls of tools, a refusal.

Pure: one function or class for each part of a message. Nothing here asks for anything again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from anvil_workflow.language.json_text import read_json

# How models mark thoughts in their text, where the server has no parser for them.
THOUGHTS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("◁think▷", "◁/think▷"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
# gpt-oss: channels, with and without their special tokens.
CHANNELS = (("<|channel|>analysis", "<|channel|>final<|message|>"), ("analysis", "assistantfinal"))
CHANNEL_ENDS = ("<|return|>", "<|end|>")
# Models that think between calls of tools want these back: some servers refuse the message without them.
REASONING = ("reasoning_content", "reasoning", "reasoning_details")
TEXT_PARTS = ("text", "output_text", None)
WRITTEN_CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*(?:</tool_call>|\Z)", re.DOTALL)
MOST_OBJECTS = 64


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool. arguments: as the server wrote them."""

    id: str
    name: str
    arguments: Any


@dataclass(frozen=True)
class Message:
    """A message of a model. text: with inline thoughts. cut: it reached max_tokens. refusal: why there is no answer.
    sent_back: the message for the next request, without its calls.
    """

    text: str | None
    calls: tuple[ToolCall, ...]
    reasoning: str
    cut: bool
    refusal: str
    sent_back: dict[str, Any]


def read_message(choice: Mapping[str, Any]) -> Message | None:
    """The message of a choice; None where there is none."""
    message, reason = choice.get("message"), choice.get("finish_reason")
    if not isinstance(message, dict):
        return None
    content = message.get("content")
    thoughts = {key: message[key] for key in REASONING if message.get(key)}
    return Message(
        text=join_parts(content),
        calls=tuple(_list_calls(message)),
        reasoning=next((value for value in thoughts.values() if isinstance(value, str)), ""),
        cut=reason == "length",
        refusal=_find_refusal(message, reason),
        sent_back={"role": "assistant", "content": content or "", **thoughts},
    )


def _find_refusal(message: Mapping[str, Any], reason: Any) -> str:
    refusal = message.get("refusal")
    parts = message["content"] if isinstance(message.get("content"), list) else []
    refusals = [part.get("refusal") for part in parts if isinstance(part, dict) and part.get("type") == "refusal"]
    found = next((text for text in (refusal, *refusals) if isinstance(text, str) and text.strip()), "")
    if found:
        return f"the model refuses to answer: {' '.join(found.split())[:300]}"
    return "the content filter of the endpoint stopped the answer" if reason in ("content_filter", "refusal") else ""


def join_parts(content: Any) -> str | None:
    """The text of a content: a text, an object, or a list of parts, some of which hold thoughts."""
    if isinstance(content, dict):
        return join_parts([content]) if "text" in content and "type" in content else json.dumps(content, ensure_ascii=False)
    if not isinstance(content, list):
        return content if isinstance(content, str) else None
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") in TEXT_PARTS else part for part in content]
    return "".join(text for text in texts if isinstance(text, str)) or None


def cut_thoughts(text: str) -> str | None:
    """A text without the thoughts before it; None for a text that ends inside its thoughts, or holds nothing else. Some chat
    templates open the thoughts themselves, so the opening tag may be missing.
    """
    text, thinks = text.strip(), False
    for start, final in CHANNELS:
        if text.startswith(start) and final in text:
            return _cut_ends(text.partition(final)[2]) or None
    if text.startswith(CHANNELS[0][0]):
        return None
    if text.startswith(CHANNELS[0][1]):
        return _cut_ends(text.removeprefix(CHANNELS[0][1]))
    while pair := next((pair for pair in THOUGHTS if text.startswith(pair[0])), None):
        end = _find_end(text, *pair)
        if end < 0:
            return None
        text, thinks = text[end:].strip(), True
    for _opening, closing in () if thinks else THOUGHTS:
        # A tag in backquotes is text about the tag.
        found = re.search(rf"(?<!`){re.escape(closing)}(?!`)", text)
        if found:
            return text[found.end() :].strip() or None
    return text or None if thinks else text


def _find_end(text: str, opening: str, closing: str) -> int:
    """Where the thoughts end that a text begins with; -1 where they do not."""
    depth, end = 0, -1
    for tag in re.finditer(f"{re.escape(opening)}|{re.escape(closing)}", text):
        depth += 1 if tag[0] == opening else -1
        if tag[0] == closing:
            end = tag.end()
            if depth == 0:
                break
    return end


def _cut_ends(text: str) -> str:
    for end in CHANNEL_ENDS:
        text = text.partition(end)[0]
    return text.strip()


def list_objects(text: str) -> Iterator[str]:
    """The JSON objects that a text may mean, the likeliest first. Unconstrained answers have code fences or words around them."""
    start, end = text.find("{"), text.rfind("}")
    yield text[start : end + 1] if 0 <= start < end else text.strip()
    decoder, found = json.JSONDecoder(), list[str]()
    for _unused in range(MOST_OBJECTS):
        if start < 0:
            break
        try:
            _value, end = decoder.raw_decode(text, start)
            found.append(text[start:end])
        except (ValueError, RecursionError):
            end = start + 1
        start = text.find("{", end)
    yield from reversed(found)


def _list_calls(message: Mapping[str, Any]) -> Iterator[ToolCall]:
    listed: Any = message.get("tool_calls")
    if not listed and isinstance(message.get("function_call"), dict):
        listed = [{"function": message["function_call"]}]
    if isinstance(listed, dict):
        listed = [listed]
    taken: set[str] = set()
    for number, call in enumerate(listed if isinstance(listed, list) else ()):
        function = call.get("function", call) if isinstance(call, dict) else {}
        function = function if isinstance(function, dict) else {}
        own = call.get("id") if isinstance(call, dict) else None
        # Each answer of a tool names its call. Nine letters and digits: Mistral takes no other form.
        name = own if isinstance(own, str) and own and own not in taken else f"call{number:05d}"
        taken.add(name)
        yield ToolCall(name, str(function.get("name") or ""), function.get("arguments"))


def find_written_calls(text: str | None, names: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    """Calls of known tools that a model wrote as text, where its server has no parser for them."""
    answer = cut_thoughts(text) if text else None
    if not answer or not answer.startswith("<tool_call>"):
        return ()
    found = []
    for number, written in enumerate(WRITTEN_CALL.finditer(answer)):
        try:
            call = read_json(written[1])
        except ValueError:
            continue
        if call.get("name") in names:
            found.append(ToolCall(f"call{number:05d}", call["name"], call.get("arguments", call.get("parameters"))))
    return tuple(found)


def read_arguments(written: Any) -> dict[str, Any]:
    """The arguments of a call: an object, JSON, or JSON inside a JSON text. Raises ValueError."""
    for _unused in range(2):
        if isinstance(written, str):
            written = read_json(written.strip() or "{}")
    if written is None:
        return {}
    if not isinstance(written, dict):
        raise ValueError("they are of another type")
    return written


def send_calls_back(message: Message, calls: tuple[ToolCall, ...]) -> dict[str, Any]:
    """The message of a model for the next request. Its arguments become valid JSON: chat templates read them."""
    return {**message.sent_back, "tool_calls": [_send_call_back(call) for call in calls]}


def _send_call_back(call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.dumps(read_arguments(call.arguments), ensure_ascii=False)
    except ValueError:
        arguments = "{}"
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}
