"""Traces: OpenTelemetry's own messages decode the bytes, and an unreachable MLflow does not affect a run."""

from __future__ import annotations

import json

from anvil_workflow.runner.tracing import MOST_WAITING, NO_SPAN, Tracer, encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

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
