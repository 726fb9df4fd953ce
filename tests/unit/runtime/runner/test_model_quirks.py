"""Models as they answer: each quirk of a model or its server, and the way the run takes."""

from __future__ import annotations

import asyncio
import copy
import json
import ssl
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import yaml
from anvil_workflow.language.reading import parse_workflow
from anvil_workflow.runner.endpoints import CallError
from anvil_workflow.runner.executor import Executor
from anvil_workflow.runner.node_answers import RunError
from anvil_workflow.runner.tracing import NO_SPAN

TLS = ssl.create_default_context()
Answer = dict[str, Any] | CallError


def workflow(schema: str, **node: Any) -> str:
    """One node that writes a text. schema: str, or object for JSON."""
    fields = {"fields": [{"name": "text", "type": "str"}]} if schema == "object" else {}
    return yaml.safe_dump(
        {
            "schema_version": "1.0",
            "flow": {"name": "quirks"},
            "state": {"fields": {"topic": {"type": "str", "required": True}, "text": {"type": "str"}}},
            "nodes": [
                {"id": "write", "prompt": "On {topic}.", "outputs": ["text"], "output_schema": {"type": schema, **fields}, **node}
            ],
            "edges": [{"from": "START", "to": "write"}, {"from": "write", "to": "END"}],
            "config": {"llm": {"model": "m", "max_tokens": 200, "temperature": 0.2}, "execution": {"max_retries": 1}},
        }
    )


def run(text: str, answer: Callable[[int, dict[str, Any]], Any] | list[Any]) -> tuple[Any, list[dict[str, Any]]]:
    """Run the workflow; return (the text or the error's message, the requests). answer: messages, whole answers or errors."""
    sent: list[dict[str, Any]] = []

    class Scripted:
        async def complete(self, _llm: Any, body: Any) -> Any:
            sent.append(copy.deepcopy(body))
            number = len(sent) - 1
            found = answer(number, body) if callable(answer) else answer[min(number, len(answer) - 1)]
            if isinstance(found, Exception):
                raise found
            return found if {"choices", "error"} & set(found) else {"choices": [{"message": found, "finish_reason": "stop"}]}

    async def save(_progress: Any) -> None:
        return

    async def go() -> Any:
        async with httpx.AsyncClient(verify=TLS) as client:
            executor = Executor(parse_workflow(text), Scripted(), client)
            return (await executor.run(await executor.begin({"topic": "tea"}), save, NO_SPAN)).outputs["text"]

    try:
        return asyncio.run(go()), sent
    except RunError as error:
        return error.message, sent


def cut(content: str | None, **message: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": content, **message}, "finish_reason": "length"}]}


THINKS = {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}], "closed": True}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("<think>\nhm\n</think>\n\nTea.", "Tea."),
        ("hm\n</think>\n\nTea.", "Tea."),
        ("<think>a <think> b </think> c</think>Tea.", "Tea."),
        ("<think>one</think><think>two</think>Tea.", "Tea."),
        ("<think>hm</think>A model closes with </think> here.", "A model closes with </think> here."),
        ("A model closes with `</think>`.", "A model closes with `</think>`."),
        ("<thinking>hm</thinking>Tea.", "Tea."),
        ("<seed:think>hm</seed:think>Tea.", "Tea."),
        ("[THINK]hm[/THINK]Tea.", "Tea."),
        ("◁think▷hm◁/think▷Tea.", "Tea."),
        ("<|START_THINKING|>hm<|END_THINKING|>Tea.", "Tea."),
        ("<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Tea.<|return|>", "Tea."),
        ("<|channel|>final<|message|>Tea.<|return|>", "Tea."),
        ("analysisThey ask for tea.assistantfinalTea.", "Tea."),
        ("analysis of tea", "analysis of tea"),
        ([THINKS, {"type": "text", "text": "Tea."}], "Tea."),
        ([{"type": "output_text", "text": "Te"}, {"text": "a."}], "Tea."),
        ({"type": "text", "text": "Tea."}, "Tea."),
    ],
)  # fmt: skip
def test_a_text_comes_without_its_thoughts_in_one_call(content: Any, text: str) -> None:
    found, sent = run(workflow("str"), [{"content": content}])
    assert (found, len(sent)) == (text, 1)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": '<think>{"text": "no"}</think>{"text": "Tea."}'}, "Tea."),
        ({"content": '{"text": "the tag </think> ends it"}'}, "the tag </think> ends it"),
        ({"content": 'I use {braces}: {"text": "Tea."}.'}, "Tea."),
        ({"content": 'The schema is {"type": "object"}.\n```json\n{"text": "Tea."}\n```'}, "Tea."),
        ({"content": {"text": "Tea."}}, "Tea."),
        ({"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": '{"text": "Tea."}'}]}, "Tea."),
        ({"content": None, "reasoning_content": '{"text": "Tea."}'}, "Tea."),
        ({"content": "", "reasoning": '{"text": "Tea."}'}, "Tea."),
        ({"content": None, "tool_calls": None, "reasoning_content": "hm", "refusal": None}, None),
    ],
)
def test_an_object_is_found_in_one_call(message: dict[str, Any], text: str | None) -> None:
    found, sent = run(workflow("object"), [message])
    assert (found, len(sent)) == (text, 1) if text else "it contains no text" in found


@pytest.mark.parametrize(
    ("schema", "answers", "told"),
    [
        ("str", [cut("<think>\nLet me")], "it was cut off at max_tokens (200) inside its thoughts"),
        ("str", [cut(None, reasoning_content="Let me")], "it was cut off at max_tokens (200) before its text"),
        ("object", [cut('{"text": "Te')], "it was cut off at max_tokens (200), so it must be shorter"),
        ("object", [cut("<think>\nLet me")], "it was cut off at max_tokens (200) inside its thoughts"),
        ("str", [{"content": ""}], "it is empty"),
        ("str", [{"content": "<think>hm</think>"}], "it holds thoughts only"),
    ],
)
def test_an_answer_that_is_cut_off_or_empty_is_asked_for_again_with_the_reason(
    schema: str, answers: list[Answer], told: str
) -> None:
    found, _unused = run(workflow(schema), answers)
    assert "not valid after 2 attempts" in found and told in found
    good = {"content": '{"text": "Tea."}' if schema == "object" else "Tea."}
    found, sent = run(workflow(schema), lambda number, body: good if told in body["messages"][-1]["content"] else answers[0])
    assert found == "Tea." and all(message["content"] for message in sent[-1]["messages"])


def refused(reason: str) -> CallError:
    return CallError(f"HTTP 400: {reason}", False, status=400)


@pytest.mark.parametrize("schema", ["str", "object"])
@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"content": None, "refusal": "I cannot help with tea."}, "the model refuses to answer: I cannot help with tea."),
        ({"content": [{"type": "refusal", "refusal": "No tea."}]}, "the model refuses to answer: No tea."),
        ({"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]}, "the content filter of the endpoint"),
        (refused("This model's maximum context length is 4096 tokens. However, you"), "lower llm.max_tokens"),
        (refused("the request exceeds the available context size, try increasing it"), "shorten the inputs"),
        (refused("The input (9 tokens) is longer than the model's context length (4 tokens)."), "shorten"),
        (refused("prompt is too long: 200001 tokens > 200000 maximum"), "use a model with a longer"),
        (refused("The input token count (9) exceeds the maximum number of tokens allowed (4)."), "shorten"),
        (CallError("HTTP 502: backend: context_length_exceeded", True, status=502), "do not fit the context of model m"),
    ],
)  # fmt: skip
def test_a_refusal_and_a_prompt_that_does_not_fit_end_the_run_at_once(schema: str, answer: Any, told: str) -> None:
    found, sent = run(workflow(schema), [answer])
    assert told in found and len(sent) == 1


def test_an_error_with_status_200_is_told() -> None:
    found, sent = run(workflow("str"), [{"error": {"message": "provider returned error", "code": 502}}])
    assert "no message: provider returned error" in found and len(sent) == 2


@pytest.mark.parametrize(
    ("refuses", "reason", "status"),
    [
        (
            lambda body: "max_tokens" in body,
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.",
            400,
        ),
        (lambda body: "temperature" in body, "Unsupported value: 'temperature' does not support 0.2 with this model.", 400),
        (lambda body: body["messages"][0]["role"] == "system", "System role not supported", 400),
        (lambda body: body["messages"][0]["role"] == "system", "Jinja Exception: System role not supported", 500),
        (
            lambda body: any("reasoning_content" in message for message in body["messages"]),
            "property 'messages.2.reasoning_content' is unsupported",
            400,
        ),
    ],
)
def test_what_an_endpoint_refuses_is_left_out_and_not_sent_again(refuses: Any, reason: str, status: int) -> None:
    refusals = []

    def answer(_number: int, body: dict[str, Any]) -> Any:
        if refuses(body):
            refusals.append(body)
            return CallError(f"HTTP {status}: {reason}", status >= 500, status=status)
        if body["messages"][-1]["role"] == "tool":
            return {"content": "Tea."}
        function = {"name": "calculate", "arguments": '{"expression": "1"}'}
        return {"content": "", "reasoning_content": "hm", "tool_calls": [{"id": "a", "type": "function", "function": function}]}

    found, sent = run(workflow("str", system="Be brief.", tools=["calculate"]), answer)
    assert found == "Tea." and len(refusals) == 1
    assert sent[-1].get("max_tokens", sent[-1].get("max_completion_tokens")) == 200
    assert "Be brief." in "".join(message["content"] for message in sent[-1]["messages"])


def test_a_refusal_that_no_change_answers_fails_the_run() -> None:
    found, sent = run(workflow("str"), [refused("Unsupported value: 'temperature'")])
    assert "Unsupported value" in found and len(sent) == 2


def calling(*calls: Any, **message: Any) -> dict[str, Any]:
    return {"content": None, "tool_calls": list(calls), **message}


def call(arguments: Any, **keys: Any) -> dict[str, Any]:
    return {"id": "a", "type": "function", "function": {"name": "calculate", "arguments": arguments}, **keys}


WRITTEN = '<tool_call>\n{"name": "calculate", "arguments": {"expression": "2+2"}}\n</tool_call>'


@pytest.mark.parametrize(
    ("message", "results"),
    [
        (calling(call({"expression": "2+2"})), ["4"]),
        (calling(call('{"expression": "2+2"}')), ["4"]),
        (calling(call('"{\\"expression\\": \\"2+2\\"}"')), ["4"]),
        (calling(call('{"expression": "2+2"}'), call('{"expression": "3+3"}')), ["4", "6"]),
        (calling(call({"expression": "2+2"}, id=None), call({"expression": "3+3"}, id="")), ["4", "6"]),
        ({"content": None, "tool_calls": call('{"expression": "2+2"}')}, ["4"]),
        ({"content": None, "function_call": {"name": "calculate", "arguments": '{"expression": "2+2"}'}}, ["4"]),
        ({"content": f"<think>hm</think>{WRITTEN}"}, ["4"]),
        ({"content": f"{WRITTEN}\n{WRITTEN}"}, ["4", "4"]),
        (calling(call('{"expression": "2+')), ["the arguments are not a JSON object"]),
        (calling(call("[1]")), ["the arguments are not a JSON object"]),
        (calling(call(None)), ["expression is missing"]),
        (calling({"id": "a", "function": "calculate"}, "calculate"), ["there is no tool ''", "there is no tool ''"]),
    ],
)  # fmt: skip
def test_calls_of_tools_are_understood_and_sent_back_as_every_server_takes_them(message: Any, results: list[str]) -> None:
    """Chat templates read the arguments of earlier calls as JSON: a broken text that is sent back fails the next request."""
    found, sent = run(workflow("str", tools=["calculate"]), [message, {"content": "Tea."}])
    _prompt, asked, *answers = sent[1]["messages"]
    assert found == "Tea." and len(answers) == len(results)
    assert all(result in answer["content"] for result, answer in zip(results, answers, strict=True))
    ids = [one["id"] for one in asked["tool_calls"]]
    assert len(set(ids)) == len(ids) and all(ids) and ids == [answer["tool_call_id"] for answer in answers]
    assert all(one["type"] == "function" for one in asked["tool_calls"])
    assert all(isinstance(json.loads(one["function"]["arguments"]), dict) for one in asked["tool_calls"])


def test_thoughts_in_parts_are_sent_back_with_the_calls_of_tools() -> None:
    parts = [THINKS]
    details = [{"type": "reasoning.text", "text": "hm"}]
    message = {**calling(call('{"expression": "2+2"}')), "content": parts, "reasoning_details": details}
    found, sent = run(workflow("str", tools=["calculate"]), [message, {"content": "Tea."}])
    assert found == "Tea." and sent[1]["messages"][1]["content"] == parts
    assert sent[1]["messages"][1]["reasoning_details"] == details


@pytest.mark.parametrize("arguments", [{"text": "Tea."}, '{"text": "Tea."}'])
def test_an_answer_by_tool_may_be_an_object_or_its_text(arguments: Any) -> None:
    answer = calling({"id": "a", "function": {"name": "answer", "arguments": arguments}})
    found, sent = run(workflow("object"), [{"content": "prose"}, answer])
    assert found == "Tea." and len(sent) == 2
