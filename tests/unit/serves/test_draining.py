"""The requests in flight that engines report, and the wait until there are none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service
from ansible_collections.anvil.serving.plugins.module_utils.serves import draining
from ansible_collections.anvil.serving.plugins.module_utils.serves.draining import InFlight
from ansible_collections.anvil.serving.plugins.module_utils.serves.readiness import Answer, ReadinessProbe

# The format of vLLM's metrics.
VLLM = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="gpt-oss-120b"} 2.0
vllm:num_requests_running{engine="1",model_name="gpt-oss-120b"} 1.0
vllm:num_requests_waiting{engine="0",model_name="gpt-oss-120b"} 4.0
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 9.0
"""
# The format of llama-server's metrics and slots.
LLAMA = "# TYPE llamacpp:requests_processing gauge\nllamacpp:requests_processing 1\nllamacpp:requests_deferred 3\n"
SLOTS = '[{"id": 0, "is_processing": true}, {"id": 1, "is_processing": false}]'
PROBE = ReadinessProbe("a", "a", "models", ("127.0.0.1", 1), "a", 1)


@pytest.mark.parametrize(
    ("engine", "told", "count"),
    [
        ("vllm", {"/metrics": VLLM}, 7),
        ("vllm", {"/metrics": "python_info 1\n"}, None),
        ("llama_cpp", {"/metrics": LLAMA, "/slots": SLOTS}, 4),
        ("llama_cpp", {"/slots": SLOTS}, 1),
        ("llama_cpp", {"/slots": '{"error": "no slots"}'}, None),
        ("llama_cpp", {"/slots": "[]"}, 0),
        ("sglang", {"/metrics": 'sglang:num_running_reqs{tp_rank="0"} 0.0\nsglang:num_queue_reqs 0.0\n'}, 0),
        ("trtllm", {"/metrics": VLLM}, None),
        ("vllm", {}, None),
    ],
)
def test_requests_in_flight_are_counted_for_each_engine(engine: str, told: dict[str, str], count: int | None) -> None:
    def fetch(_subject: ReadinessProbe, path: str) -> Answer:
        return Answer(200, told[path]) if path in told else Answer(404)

    assert draining.build_counter(Service("a", "a", "i", anvil={"engine": engine}), PROBE, fetch)() == count


def wait(counts: Iterator[int | None], timeout: float = 10) -> tuple[InFlight, float]:
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    return draining.wait_idle({"a": lambda: next(counts)}, lambda: now[0], sleep, timeout)["a"], now[0]


def test_a_single_zero_count_does_not_end_the_wait() -> None:
    assert wait(iter([1, 0, 2, 0, 0])) == (InFlight(0), 4 * draining.COUNT_SECONDS)


def test_an_engine_that_reports_no_count_is_not_waited_for() -> None:
    assert wait(iter([None])) == (InFlight(None), 0)


def test_an_engine_that_does_not_answer_is_asked_again() -> None:
    def fetch(_subject: ReadinessProbe, _path: str) -> Answer:
        return Answer(0, "timed out")

    busy = draining.build_counter(Service("a", "a", "i", anvil={"engine": "vllm"}), PROBE, fetch)()
    assert busy == draining.NO_ANSWER
    assert wait(iter([busy, 1, 0, 0])) == (InFlight(0), 3 * draining.COUNT_SECONDS)
    left, seconds = wait(iter([busy] * 100), 1)
    assert (left, seconds) == (InFlight(busy), 1)
    assert "it did not answer within 1 s" in draining.describe_undrained({"a": left}, 1)[0]


def test_the_wait_ends_at_the_time_limit() -> None:
    left, seconds = wait(iter([3] * 100), 1)
    assert (left, seconds) == (InFlight(3), 1)
    assert "3 requests in flight: they did not end within 1 s" in draining.describe_undrained({"a": left}, 1)[0]


def test_the_wait_ends_at_once_if_no_serve_is_evicted() -> None:
    assert (
        draining.wait_idle({}, lambda: 0.0, lambda _seconds: None, 1) == {}
        and draining.describe_undrained({"a": InFlight(0)}, 1) == []
    )
