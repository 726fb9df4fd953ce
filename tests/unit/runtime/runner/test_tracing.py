"""Traces: OpenTelemetry's own messages decode the bytes, and an unreachable MLflow does not affect a run."""

from __future__ import annotations

import asyncio
import json

import httpx
import pytest
from anvil_workflow.runner.protobuf import read_rejected
from anvil_workflow.runner.tracing import MOST_WAITING, NO_SPAN, Tracer, encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse

JOB = "0123456789abcdef0123456789abcdef"


def test_opentelemetry_decodes_the_encoded_spans() -> None:
    tracer = Tracer("http://127.0.0.1:1", "e", "w")
    root = tracer.begin("flow", JOB)
    child = root.start("model ü", "CHAT_MODEL")
    child.finish([{"role": "user"}], {"content": "x" * 300}, {"prompt_tokens": 2, "completion_tokens": 300})
    other = root.start("n", "CHAIN")
    other.fail("broken")
    root.finish({"topic": "tea"}, {"out": 1})
    read = ExportTraceServiceRequest.FromString(encode_spans(tracer._waiting, "w"))
    (resource,) = read.resource_spans
    assert resource.resource.attributes[0].value.string_value == "w"
    first, second, last = resource.scope_spans[0].spans
    assert {span.trace_id.hex() for span in (first, second, last)} == {JOB}
    assert last.span_id.hex() == JOB[16:], "a resumed run has the same root"
    assert first.parent_span_id == second.parent_span_id == last.span_id and not last.parent_span_id
    named = {attribute.key: attribute.value.string_value for attribute in first.attributes}
    assert named["mlflow.spanType"] == "CHAT_MODEL" and json.loads(named["mlflow.spanOutputs"])["content"] == "x" * 300
    assert json.loads(named["mlflow.chat.tokenUsage"]) == {"input_tokens": 2, "output_tokens": 300, "total_tokens": 302}
    assert (first.name, first.status.code, second.status.code, second.status.message) == ("model ü", 1, 2, "broken")
    assert 0 < last.start_time_unix_nano <= first.start_time_unix_nano <= first.end_time_unix_nano <= last.end_time_unix_nano


def test_spans_beyond_the_queue_limit_are_dropped() -> None:
    tracer = Tracer("http://127.0.0.1:1", "e", "w")
    for _unused in range(MOST_WAITING + 10):
        tracer.begin("flow", JOB).finish()
    assert len(tracer._waiting) == MOST_WAITING and tracer.dropped == 10


def test_no_span_is_recorded_without_tracing() -> None:
    span = NO_SPAN.start("a", "b")
    span.finish(1, 2)
    span.fail("x")
    assert span is NO_SPAN and not span.attributes and not span.error


# --- deliveries that fail


class Collector:
    """A stand-in for MLflow. stage: of the experiment, or "gone". answers: those of /v1/traces, then 200."""

    def __init__(self, stage: str = "active", *answers: httpx.Response) -> None:
        self.stage, self.answers, self.created = stage, list(answers), 0

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("get-by-name"):
            if self.stage == "gone":
                return httpx.Response(404, json={"error_code": "RESOURCE_DOES_NOT_EXIST"})
            return httpx.Response(200, json={"experiment": {"experiment_id": "3", "lifecycle_stage": self.stage}})
        if request.url.path.endswith("experiments/create"):
            self.created, self.stage = self.created + 1, "active"
            return httpx.Response(200, json={"experiment_id": "4"})
        if request.url.path.endswith("delete-traces"):
            return httpx.Response(200, json={})
        if self.stage == "deleted":
            return httpx.Response(422, json={"detail": "The experiment 3 must be in the 'active' state."})
        return self.answers.pop(0) if self.answers else httpx.Response(200)


def deliver(tracer: Tracer, collector: Collector, times: int = 1) -> None:
    """Post what waits, as the task of the tracer does, so many times."""

    async def go() -> None:
        async with httpx.AsyncClient(transport=httpx.MockTransport(collector)) as client:
            tracer._client = client
            for _unused in range(times):
                before = tracer.problem
                await tracer._post_all() and await tracer._delete_all()
                tracer._tell(before)

    asyncio.run(go())


def traced() -> Tracer:
    tracer = Tracer("http://mlflow:5000", "e", "w")
    tracer.begin("flow", JOB).finish()
    return tracer


def rejecting(count: int, reason: str) -> httpx.Response:
    message = ExportTraceServiceResponse()
    message.partial_success.rejected_spans, message.partial_success.error_message = count, reason
    return httpx.Response(200, content=message.SerializeToString(), headers={"content-type": "application/x-protobuf"})


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (httpx.Response(403, text="Invalid Host header"), "HTTP 403: Invalid Host header"),
        (httpx.Response(500, text="database or disk is full"), "HTTP 500: database or disk is full"),
        (httpx.Response(405, text="Method Not Allowed"), "HTTP 405"),
        (httpx.Response(302, headers={"location": "/login"}), "redirects (HTTP 302)"),
        (httpx.Response(200, html="<html>log in"), "answers with a page"),
    ],
)
def test_spans_wait_while_the_collector_is_not_usable_and_arrive_later(
    answer: httpx.Response, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    tracer, collector = traced(), Collector("active", *[answer] * 3)
    deliver(tracer, collector)
    assert told in tracer.problem and (tracer.waiting, tracer.sent, tracer.dropped) == (1, 0, 0)
    deliver(tracer, collector, 4)
    assert not tracer.problem and (tracer.waiting, tracer.sent, tracer.dropped) == (0, 1, 0)
    first, last = (record.getMessage() for record in caplog.records if record.name.endswith("tracing"))
    assert told in first and "arrive at MLflow again; 0 spans were dropped" in last


@pytest.mark.parametrize("known", [False, True])
def test_spans_wait_while_their_experiment_is_deleted(known: bool) -> None:
    tracer, collector = traced(), Collector()
    if known:
        deliver(tracer, collector)
        tracer.begin("flow", JOB).finish()
    collector.stage = "deleted"
    deliver(tracer, collector)
    assert "experiments restore --experiment-id 3" in tracer.problem and (tracer.waiting, tracer.dropped) == (1, 0)
    collector.stage = "active"
    deliver(tracer, collector)
    assert not tracer.problem and tracer.waiting == 0 and tracer.sent == 1 + known and collector.created == 0


def test_an_experiment_that_is_gone_is_created_again() -> None:
    tracer, collector = traced(), Collector()
    deliver(tracer, collector)
    tracer.begin("flow", JOB).finish()
    collector.stage, collector.answers = "gone", [httpx.Response(400, text="No Experiment with id=3 exists")]
    deliver(tracer, collector)
    assert (tracer.problem, tracer.sent, tracer.dropped, collector.created) == ("", 2, 0, 1)


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([httpx.Response(415, text="no protobuf here")] * 2, "1 spans are refused: no protobuf here"),
        ([rejecting(1, "too large")], "1 spans are refused: too large"),
    ],
)
def test_spans_that_are_refused_for_good_are_counted_and_told(answers: list[httpx.Response], told: str) -> None:
    tracer = traced()
    deliver(tracer, Collector("active", *answers))
    assert told in tracer.problem and (tracer.waiting, tracer.sent, tracer.dropped) == (0, 0, 1)


@pytest.mark.parametrize("answer", [b"", b"\x0a\x00", b"\x0a", b"\xff" * 9, b"{}", b"\x0a\x02\x08"])
def test_an_answer_that_cannot_be_read_rejects_nothing(answer: bytes) -> None:
    assert read_rejected(answer)[0] == 0


@pytest.mark.parametrize("body", ["[]", "{}", '{"experiment": null}', "<html>"])
def test_an_answer_that_is_not_of_mlflow_is_told(body: str) -> None:
    tracer = traced()
    deliver(tracer, lambda _request: httpx.Response(200, text=body))  # type: ignore[arg-type]
    assert tracer.problem and tracer.waiting == 1
