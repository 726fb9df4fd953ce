"""Streams as servers send them: the answer is the one that the server would have given without a stream."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from anvil_workflow.language.schema import Llm
from anvil_workflow.runner.streamed_answers import BrokenStreamError, StreamHabits, StreamReader, wants_stream

USAGE = {"prompt_tokens": 2, "completion_tokens": 3}


def chunk(delta: Any = None, reason: Any = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta if delta is not None else {}, "finish_reason": reason}], **more}


def lay_out(events: list[Any], end: str = "\n\n") -> bytes:
    return "".join(f"data: {one if isinstance(one, str) else json.dumps(one)}{end}" for one in events).encode()


def read(raw: bytes, size: int = 7) -> dict[str, Any]:
    """Feed a stream in small pieces, which cut events and characters."""
    reader = StreamReader()
    for start in range(0, len(raw), size):
        reader.feed(raw[start : start + size])
    return reader.finish()


def call(index: int | None, name: str | None = None, arguments: Any = None, **more: Any) -> dict[str, Any]:
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not None}
    return {"tool_calls": [{**({} if index is None else {"index": index}), **more, "function": function}]}


TEXT = [chunk({"role": "assistant", "content": ""}), chunk({"content": "Grün"}), chunk({"content": " tea"}), chunk({}, "stop")]
ONE, TWO = ("a", "look", '{"x": 1}'), ("b", "find", '{"y": "z"}')


@pytest.mark.parametrize(
    ("events", "content", "usage"),
    [
        ([*TEXT, {"choices": [], "usage": USAGE}, "[DONE]"], "Grün tea", USAGE),
        ([*TEXT, {"choices": None, "usage": USAGE}, "[DONE]"], "Grün tea", USAGE),
        ([*TEXT, {"usage": USAGE}, "[DONE]"], "Grün tea", USAGE),
        ([*TEXT[:-1], chunk({}, "stop", usage=USAGE), "[DONE]"], "Grün tea", USAGE),
        ([{**TEXT[1], "usage": {"prompt_tokens": 2}}, TEXT[2], chunk({}, "stop", usage=USAGE)], "Grün tea", USAGE),
        ([{**TEXT[1], "usage": None}, *TEXT[2:], "[DONE]"], "Grün tea", None),
        ([*TEXT, "[DONE]"], "Grün tea", None),
        (TEXT, "Grün tea", None),
        ([*TEXT[:-1], "[DONE]"], "Grün tea", None),
        ([chunk({"content": None}), *TEXT, ""], "Grün tea", None),
        ([{"choices": [{"index": 1, "delta": {"content": "no"}}]}, *TEXT], "Grün tea", None),
        ([{"choices": [{"delta": {"content": "Grün tea"}, "finish_reason": "stop"}]}], "Grün tea", None),
        ([{"choices": [{"index": 0, "message": {"content": "Grün tea"}, "finish_reason": "stop"}], "usage": USAGE}, "[DONE]"],
         "Grün tea", USAGE),
        ([chunk({"content": [{"type": "text", "text": "Grün"}]}), chunk({"content": [{"type": "text", "text": " tea"}]}, "stop")],
         [{"type": "text", "text": "Grün"}, {"type": "text", "text": " tea"}], None),
        ([chunk({}), "[DONE]"], None, None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n"])
def test_a_text_with_its_tokens(events: list[Any], content: Any, usage: Any, end: str) -> None:
    answer = read(lay_out(events, end))
    assert answer["choices"][0]["message"]["content"] == content and answer.get("usage") == usage
    assert answer["choices"][0]["finish_reason"] == "stop"


def test_comments_event_names_and_a_byte_order_mark_are_passed_over() -> None:
    raw = b"\xef\xbb\xbf: keep-alive\n\nevent: message\nid: 7\n" + lay_out(TEXT) + b": ping\n\ndata: [DONE]"
    assert read(raw)["choices"][0]["message"]["content"] == "Grün tea"
    halves = json.dumps(TEXT[1]).replace(", ", ",\ndata: ", 1)
    assert read(f"data: {halves}\n\n".encode() + lay_out(TEXT[2:]))["choices"][0]["message"]["content"] == "Grün tea"


def test_thoughts_refusals_and_a_cut_off_answer_stay_what_they_are() -> None:
    events = [chunk({"reasoning_content": "h"}), chunk({"reasoning_content": "m", "reasoning_details": [{"n": 1}]}),
              chunk({"reasoning_details": [{"n": 2}], "content": "x"}), chunk({}, "length"), "[DONE]"]  # fmt: skip
    choice = read(lay_out(events))["choices"][0]
    assert choice["message"]["reasoning_content"] == "hm" and choice["message"]["reasoning_details"] == [{"n": 1}, {"n": 2}]
    assert choice["finish_reason"] == "length"
    refused = read(lay_out([chunk({"refusal": "I "}), chunk({"refusal": "won't"}, "stop")]))["choices"][0]["message"]
    assert refused["refusal"] == "I won't" and refused["content"] is None


@pytest.mark.parametrize(
    "deltas",
    [
        [call(0, "look", '{"x"', id="a"), call(0, None, ": 1}"), call(1, "find", "", id="b"), call(1, None, '{"y": "z"}')],
        [call(0, "look", '{"x": 1}', id="a"), call(1, "find", '{"y": "z"}', id="b")],
        [call(0, "look", {"x": 1}, id="a"), call(1, "find", {"y": "z"}, id="b")],
        [call(0, "look", "", id="a"), call(1, "find", "", id="b"), call(0, None, '{"x": 1}'), call(1, None, '{"y": "z"}')],
        [call(0, "look", '{"x"', id="a"), call(0, "look", ": 1}", id="a"), call(1, "find", '{"y": "z"}', id="b")],
        [call(0, "look", '{"x": 1}', id="a"), call(0, "find", '{"y": "z"}', id="b")],
        [call(None, "look", '{"x"', id="a"), call(None, None, ": 1}"), call(None, "find", '{"y": "z"}', id="b")],
        [call(0, "lo", None, id="a"), call(0, "ok", '{"x": 1}'), call(1, "find", '{"y": "z"}', id="b")],
    ],
)
def test_calls_of_tools_are_put_together(deltas: list[Any]) -> None:
    choice = read(lay_out([*map(chunk, deltas), chunk({}, "tool_calls"), "[DONE]"]))["choices"][0]
    found = [
        (one["id"], one["function"]["name"], json.loads(one["function"]["arguments"])) for one in choice["message"]["tool_calls"]
    ]
    assert found == [(who, name, json.loads(text)) for who, name, text in (ONE, TWO)]


def test_a_call_in_the_old_form_and_calls_without_ids() -> None:
    pieces = [{"name": "look", "arguments": '{"x"'}, {"arguments": ": 1}"}]
    old = read(lay_out([*(chunk({"function_call": one}) for one in pieces), chunk({}, "function_call")]))
    assert old["choices"][0]["message"]["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"x": 1}'}
    bare = read(lay_out([chunk(call(None, "look", "{}")), chunk(call(None, "find", "{}")), chunk({}, "tool_calls")]))
    assert [one["function"]["name"] for one in bare["choices"][0]["message"]["tool_calls"]] == ["look", "find"]


@pytest.mark.parametrize(
    ("raw", "what"),
    [
        (lay_out(TEXT[:2]), "cut off"),
        (lay_out(TEXT[:2])[:-9], "cut off|not JSON"),
        (b"", "without an answer"),
        (b": ping\n\n", "without an answer"),
        (lay_out(["{"]), "not JSON"),
        (lay_out(["[1]"]), "not a JSON object"),
        (lay_out([*TEXT[:2], {"error": {"message": "out of memory"}}]), "out of memory"),
        (lay_out([*TEXT[:2], {"error": "gone"}, "[DONE]"]), "gone"),
    ],
)
def test_a_stream_that_is_not_whole_is_no_answer(raw: bytes, what: str) -> None:
    with pytest.raises(BrokenStreamError, match=what):
        read(raw)


def test_an_error_in_place_of_an_answer_is_told_as_without_a_stream() -> None:
    assert read(lay_out([{"error": {"message": "no such model", "code": 404}}]))["error"]["message"] == "no such model"
    assert read(b"event: error\n" + lay_out([{"error": {"message": "late"}}]))["error"]["message"] == "late"


@pytest.mark.parametrize(
    ("settings", "seconds", "wanted"),
    [
        ({}, 120, True),
        ({}, 60, False),
        ({"max_tokens": 1024}, 600, False),
        ({"max_tokens": 1025}, 600, True),
        ({"stream": False}, 600, False),
        ({"stream": True, "max_tokens": 5}, 5, True),
    ],
)
def test_which_calls_are_streamed(settings: dict[str, Any], seconds: float, wanted: bool) -> None:
    assert wants_stream(Llm(model="m", **settings), seconds) is wanted


def test_what_an_endpoint_refuses_of_a_stream_is_left_out_from_then_on() -> None:
    habits, llm = StreamHabits(), Llm(model="m", stream=True)
    sent = habits.fit(llm, {"model": "m"}, 5)
    assert sent["stream"] is True and sent["stream_options"] == {"include_usage": True}
    assert not habits.learn(llm, sent, 400, "HTTP 400: unknown model", 1)
    assert not habits.learn(llm, sent, 503, "HTTP 503: no upstream for this stream", 1)
    assert habits.learn(llm, sent, 400, "HTTP 400: unknown field stream_options", 1)
    sent = habits.fit(llm, {"model": "m"}, 5)
    assert sent == {"model": "m", "stream": True}
    assert habits.learn(llm, sent, 422, "HTTP 422: stream is not supported", 1)
    assert habits.fit(llm, {"model": "m"}, 5) == {"model": "m"}
    assert "stream" in habits.fit(Llm(model="other", stream=True), {}, 5)


@pytest.mark.parametrize(
    ("status", "reason", "elapsed", "streams"),
    [
        (504, "HTTP 504", 60, True),
        (524, "HTTP 524", 100, True),
        (0, "the endpoint does not answer: Server disconnected without sending a response.", 60, True),
        (504, "HTTP 504", 2, False),
        (500, "HTTP 500", 60, False),
        (0, "no answer in 60 s", 60, False),
    ],
)
def test_a_call_that_was_cut_off_while_it_was_silent_is_streamed_next_time(
    status: int, reason: str, elapsed: float, streams: bool
) -> None:
    habits, llm = StreamHabits(), Llm(model="m", max_tokens=100)
    assert not habits.learn(llm, {}, status, reason, elapsed)
    assert ("stream" in habits.fit(llm, {}, 120)) is streams
    never = Llm(model="m", max_tokens=100, stream=False)
    assert "stream" not in habits.fit(never, {}, 120)


def serve(script: list[Any], calls: int, **llm: Any) -> tuple[list[Any], list[dict[str, Any]]]:
    """Calls of the real client to a real server on loopback. script: raw answers, one for each connection."""
    import httpx
    from anvil_workflow.runner.endpoints import CallError, HttpEndpoint

    asked: list[dict[str, Any]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        size = int(head.split("content-length:")[1].split()[0])
        asked.append(json.loads(await reader.readexactly(size)))
        for piece in script[min(len(asked), len(script)) - 1]:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.01)
        writer.close()

    async def go() -> list[Any]:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        found: list[Any] = []
        async with httpx.AsyncClient(trust_env=False) as client:
            endpoint = HttpEndpoint(client, {}, 5)
            for _unused in range(calls):
                try:
                    found.append(await endpoint.complete(Llm(model="m", api_base=url, **llm), {"model": "m"}))
                except CallError as error:
                    found.append(error)
        server.close()
        return found

    return asyncio.run(go()), asked


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"


def as_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def test_the_client_reads_streams_and_plain_answers_to_a_request_for_one() -> None:
    plain = json.dumps({"choices": [{"message": {"content": "whole"}}], "usage": USAGE}).encode()
    json_head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(
        plain
    )
    refusal = b'{"error": {"message": "unknown field: stream_options"}}'
    bad = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(
        refusal
    )
    body = lay_out([*TEXT, {"choices": [], "usage": USAGE}, "[DONE]"])
    script = [[HEAD, body[:40], body[40:]], [json_head, plain], [bad, refusal], [HEAD, body]]
    (streamed, whole, fitted), asked = serve(script, 3, stream=True)
    assert streamed["choices"][0]["message"]["content"] == fitted["choices"][0]["message"]["content"] == "Grün tea"
    assert streamed["usage"] == whole["usage"] == USAGE and whole["choices"][0]["message"]["content"] == "whole"
    assert ["stream_options" in one for one in asked] == [True, True, True, False] and all(one["stream"] for one in asked)


def test_a_stream_that_breaks_off_is_an_open_call_that_may_be_repeated() -> None:
    begun, ended = lay_out(TEXT[:2]), lay_out([*TEXT, {"choices": [], "usage": USAGE}])
    script = [
        [HEAD, begun],
        [CHUNKED, as_chunk(begun)],
        [CHUNKED, as_chunk(ended)],
        [HEAD, lay_out([{"error": {"message": "no"}}])],
    ]
    (cut, broken, whole, error), _asked = serve(script, 4, stream=True)
    for one in (cut, broken):
        assert one.again and one.is_open and one.status == 0
    assert whole["choices"][0]["message"]["content"] == "Grün tea" and whole["usage"] == USAGE
    assert error == {"error": {"message": "no"}}
