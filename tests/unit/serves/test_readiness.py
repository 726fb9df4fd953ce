"""Readiness: the verdict of each check, and the wait loop with a simulated clock."""

from __future__ import annotations

import copy
import datetime
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.serves import readiness
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import ObservedContainer, observe_container
from ansible_collections.anvil.serving.plugins.module_utils.serves.readiness import LOST, READY, WAITING, Answer, ReadinessProbe

PROBE = ReadinessProbe("heavy", "t-heavy", "models", ("127.0.0.1", 30002), "heavy", 10.0)
RECORDED = json.loads((Path(__file__).parents[1] / "data" / "engine-26.1.5-llama.json").read_text())
MODELS = json.dumps({"object": "list", "data": [{"id": "heavy"}]})


NOW = 2_000_000_000.0


def stamp(moment: float) -> str:
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.123456789Z")


def seen(restarts: int = 0, **state: Any) -> ObservedContainer:
    container = copy.deepcopy(RECORDED["container"])
    container["State"].update(state)
    container["RestartCount"] = restarts
    return observe_container(container)


@pytest.fixture
def http_stand_in() -> Iterator[Any]:
    """Starts a server on loopback whose answers to GET a test chooses; returns its address."""
    started: list[ThreadingHTTPServer] = []

    def start(answer: Callable[[str], tuple[int, str]]) -> tuple[str, int]:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_words: object) -> None:
                pass

            def do_GET(self) -> None:
                status, text = answer(self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

        started.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=started[-1].serve_forever, args=[0.01], daemon=True).start()
        return ("127.0.0.1", started[-1].server_port)

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("container", "answer", "outcome", "state"),
    [
        (seen(), Answer(200, MODELS), READY, "ready"),
        (seen(), Answer(0, "Connection refused"), WAITING, "starting"),
        (seen(Health={"Status": "unhealthy"}), Answer(0, "time-out"), WAITING, "unhealthy"),
        (seen(), Answer(503, "loading"), WAITING, "loading"),
        (seen(), Answer(200, '{"data": []}'), WAITING, "loading"),
        (seen(), Answer(200, "<html>"), WAITING, "starting"),
        (seen(), Answer(404), WAITING, "starting"),
        (seen(), Answer(200, '{"data": [{"id": "other"}]}'), LOST, "wrong_model"),
        (seen(), Answer(401), LOST, "refused"),
        (seen(Status="exited", ExitCode=2), Answer(0), LOST, "exited"),
        (seen(Status="exited", ExitCode=137, OOMKilled=True), Answer(0), LOST, "oom_killed"),
        (seen(Status="restarting", ExitCode=137, OOMKilled=True), Answer(0), LOST, "oom_killed"),
        (seen(OOMKilled=True, ExitCode=137), Answer(200, '{"data": [{"id": "heavy"}]}'), READY, "ready"),
        (seen(Status="restarting", restarts=1), Answer(0), WAITING, "restarting"),
        (seen(Status="restarting", restarts=3), Answer(0), LOST, "restart_loop"),
        (seen(restarts=5), Answer(200, MODELS), READY, "ready"),  # it crashed long ago and has run since
        (seen(restarts=5, StartedAt=stamp(NOW - 2)), Answer(200, MODELS), WAITING, "restarting"),
        (seen(Status="exited", restarts=3), Answer(0), LOST, "restart_loop"),
        (seen(Status="created", Error="unknown device"), Answer(0), LOST, "not_started"),
        (seen(Status="paused"), Answer(0), LOST, "paused"),
        (None, Answer(0), LOST, "missing"),
    ],
)
def test_the_container_and_the_answer_decide_the_verdict(
    container: ObservedContainer | None, answer: Answer, outcome: str, state: str
) -> None:
    verdict = readiness.check_readiness(PROBE, container, lambda probe: answer, lambda: NOW)
    assert (verdict.outcome, verdict.state) == (outcome, state)
    assert verdict.outcome == READY or verdict.why


class Clock:
    """A clock that advances only in sleep."""

    def __init__(self) -> None:
        self.now = 100.0

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def wait(answers: Iterator[Answer], container: ObservedContainer | None = None) -> tuple[readiness.Verdict, float]:
    clock = Clock()
    found = readiness.wait_ready([PROBE], lambda name: container or seen(), clock.read, clock.sleep, lambda probe: next(answers))
    return found["heavy"]


def test_ready_at_once_does_not_sleep() -> None:
    assert wait(iter([Answer(200, MODELS)])) == (readiness.Verdict(READY, "ready"), 0.0)


def test_a_loading_serve_becomes_ready() -> None:
    verdict, seconds = wait(iter([Answer(0, "refused"), Answer(503), Answer(200, MODELS)]))
    assert verdict.outcome == READY and 0 < seconds < 1


def test_a_serve_that_is_not_ready_at_the_deadline_fails_with_its_last_state() -> None:
    def forever() -> Iterator[Answer]:
        while True:
            yield Answer(503)

    verdict, seconds = wait(forever())
    assert verdict.outcome == LOST and verdict.state == "loading"
    assert "not ready after 10 s (still loading)" in verdict.why
    assert 10 <= seconds <= 11


def test_a_lost_serve_fails_before_the_deadline() -> None:
    _verdict, seconds = wait(iter([]), seen(Status="exited"))
    assert seconds == 0


def test_one_lost_serve_does_not_end_the_wait_for_another() -> None:
    other = ReadinessProbe("fast", "fast", "models", ("127.0.0.1", 2), "heavy", 10.0)
    answers = iter([Answer(503), Answer(200, MODELS)])
    clock = Clock()
    found = readiness.wait_ready(
        [PROBE, other],
        lambda name: None if name == "t-heavy" else seen(),
        clock.read,
        clock.sleep,
        lambda probe: next(answers),
    )
    assert {name: verdict.outcome for name, (verdict, _s) in found.items()} == {"heavy": LOST, "fast": READY}


@pytest.mark.parametrize(
    ("lives", "state", "looks"),
    [
        (
            [(0, 30), (1, 30), (2, 30), (3, 2), (3, 12)],
            "restart_loop",
            5,
        ),  # each run is longer than what Docker counts as a failed start
        ([(n, 2) for n in range(9)], "restart_loop", 7),  # no check falls between two runs
        ([(7, 30), (8, 30), (9, 30), (10, 30)], "restart_loop", 4),  # restarts before the first check do not count
        ([(7, 30)] * 9, "starting", 9),
        ([(0, 30), (1, 30), (2, 30), (2, 30)], "starting", 4),
    ],
)
def test_a_container_in_a_restart_loop_is_not_waited_for(lives: list[tuple[int, int]], state: str, looks: int) -> None:
    """lives: for each check, the number of restarts and the seconds since the last start."""
    clock, looked = Clock(), []

    def inspect(_name: str) -> ObservedContainer:
        looked.append(lives[len(looked)])
        if len(looked) == len(lives):
            clock.now += PROBE.timeout  # no further data: the deadline passes
        restarts, seconds = looked[-1]
        return seen(restarts=restarts, StartedAt=stamp(time.time() - seconds))

    found = readiness.wait_ready([PROBE], inspect, clock.read, clock.sleep, lambda probe: Answer(0, "refused"))
    verdict, _seconds = found["heavy"]
    assert (verdict.outcome, verdict.state, len(looked)) == (LOST, state, looks)


# --------------------------------------------------------------------------------------------------------------- warm-up


@pytest.mark.parametrize(
    ("answer", "outcome", "state"),
    [
        (Answer(200, '{"choices": [{}]}'), READY, "ready"),
        (Answer(200, ""), WAITING, "warming_up"),
        (Answer(503, "busy"), WAITING, "warming_up"),
        (Answer(0, "timed out"), WAITING, "warming_up"),
        (Answer(429, "later"), WAITING, "warming_up"),
        (Answer(400, "no chat template"), LOST, "no_completion"),
        (Answer(501, "This server does not support chat completions"), LOST, "no_completion"),
        (Answer(404, '{"detail":"Not Found"}'), LOST, "no_completion"),
        (Answer(404, "the model is being loaded"), WAITING, "warming_up"),
        (None, READY, "ready"),
    ],
)
def test_the_warm_up_answer_decides_the_verdict(answer: Answer | None, outcome: str, state: str) -> None:
    verdict = readiness.judge_warmup(answer)
    assert (verdict.outcome, verdict.state) == (outcome, state)


@pytest.mark.parametrize(("kind", "ready"), [("embeddings", True), ("rerank", True), ("chat", False)])
def test_the_warm_up_answer_must_match_the_kind_of_the_serve(kind: str, ready: bool) -> None:
    verdict = readiness.judge_warmup(Answer(200, '{"data": [{"embedding": [1]}]}'), kind)
    assert (verdict.outcome == READY) == ready


@pytest.mark.parametrize("status", [400, 404, 422, 501])
def test_a_classifier_that_does_not_score_pairs_is_ready(status: int) -> None:
    assert readiness.judge_warmup(Answer(status, "Score API is only enabled for num_labels == 1."), "score").outcome == READY
    assert readiness.judge_warmup(Answer(500, "x"), "score").outcome == WAITING


def test_a_warm_up_that_gets_501_ends_at_once_with_its_reason() -> None:
    clock = Clock()
    warm = replace(PROBE, warmup=True)
    results = readiness.wait_ready(
        [warm], lambda _c: seen(), clock.read, clock.sleep, lambda _s: Answer(200, MODELS), lambda _s, _t: Answer(501, "no chat")
    )
    verdict, seconds = results["heavy"]
    assert verdict.outcome == LOST and "does not answer requests of kind chat" in verdict.why and "no chat" in verdict.why
    assert seconds == 0


# The answer of a llama-server of 2025 to GET /v1/models while it loads the weights; its /health answers 503.
LISTED_BEFORE = json.dumps({"object": "list", "data": [{"id": "heavy", "owned_by": "llamacpp", "meta": None}]})


def test_a_llama_server_that_lists_its_model_while_it_loads_is_not_ready() -> None:
    verdict = readiness.judge_answer(PROBE, Answer(200, LISTED_BEFORE), "")
    assert (verdict.outcome, verdict.state) == (WAITING, "loading")
    loaded = LISTED_BEFORE.replace("null", '{"n_ctx_train": 4096}')
    assert readiness.judge_answer(PROBE, Answer(200, loaded), "").outcome == READY


def test_the_health_of_a_llama_server_takes_precedence_over_its_models(http_stand_in: Any) -> None:
    states = iter([(503, "Loading model"), (503, "Loading model"), (200, '{"status": "ok"}')])
    address = http_stand_in(lambda path: next(states) if path == "/health" else (200, LISTED_BEFORE.replace("null", "{}")))
    probe = replace(PROBE, address=address, has_health=True)
    clock = Clock()
    results = readiness.wait_ready([probe], lambda _c: seen(), clock.read, clock.sleep)
    assert results["heavy"][0].outcome == READY and results["heavy"][1] > 0 and next(states, None) is None


def test_a_serve_with_warm_up_is_ready_after_its_first_completion() -> None:
    clock, answers = Clock(), iter([Answer(503), Answer(200, ""), Answer(200, '{"choices": []}')])
    asked: list[float] = []

    def complete(probe: ReadinessProbe, timeout: float) -> Answer:
        asked.append(timeout)
        return next(answers)

    warm = replace(PROBE, warmup=True)
    results = readiness.wait_ready([warm], lambda _c: seen(), clock.read, clock.sleep, lambda _s: Answer(200, MODELS), complete)
    assert results["heavy"][0].outcome == READY and len(asked) == 3 and asked[0] == 10.0 and asked[2] < 10.0


def test_a_warm_up_that_never_succeeds_fails_at_the_deadline() -> None:
    clock = Clock()
    warm = replace(PROBE, warmup=True)
    results = readiness.wait_ready(
        [warm], lambda _c: seen(), clock.read, clock.sleep, lambda _s: Answer(200, MODELS), lambda _s, _t: Answer(503)
    )
    verdict, seconds = results["heavy"]
    assert verdict.outcome == LOST and "not ready after 10 s (still warming_up)" in verdict.why and seconds < 12


def test_the_pause_between_checks_is_at_most_the_interval() -> None:
    clock = Clock()
    slept: list[float] = []
    slow = replace(PROBE, timeout=60.0, interval=5.0)

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        clock.sleep(seconds)

    readiness.wait_ready([slow], lambda _c: seen(), clock.read, sleep, lambda _s: Answer(503))
    assert slept[0] < 0.1 and max(slept) == 5.0


# ---------------------------------------------------------------------------------------------- several serves at once


def test_a_serve_that_hangs_does_not_delay_the_others() -> None:
    probes = [replace(PROBE, name=name) for name in ("hung", "a", "b")]
    answered = threading.Semaphore(0)

    def request(probe: ReadinessProbe) -> Answer:
        if probe.name == "hung":
            assert answered.acquire(timeout=10) and answered.acquire(timeout=10), "the others were not asked meanwhile"
        else:
            answered.release()
        return Answer(200, probe.name)

    found = readiness.request_states(probes, request)
    assert {name: answer.text for name, answer in found.items()} == {"hung": "hung", "a": "a", "b": "b"}


def test_each_of_many_serves_gets_its_own_answer() -> None:
    probes = [replace(PROBE, name=f"s{number}") for number in range(50)]
    found = readiness.request_states(probes, lambda probe: Answer(200, probe.name))
    assert found == {probe.name: Answer(200, probe.name) for probe in probes}


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
@pytest.mark.parametrize("closes", [False, True])
def test_health_and_models_are_read_whatever_the_server_does_with_the_connection(protocol: str, closes: bool) -> None:
    """closes: without a word after each answer, as a server with a limit of requests for each connection."""
    connections = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = protocol

        def setup(self) -> None:
            super().setup()
            connections.append(1)

        def log_message(self, *_words: object) -> None:
            pass

        def do_GET(self) -> None:
            text = "{}" if self.path == "/health" else MODELS
            self.send_response(200)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())
            self.close_connection = closes or self.close_connection

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    try:
        probe = replace(PROBE, address=("127.0.0.1", server.server_port), has_health=True)
        answer = readiness.request_state(probe)
    finally:
        server.shutdown()
        server.server_close()
    assert answer == Answer(200, MODELS)
    assert len(connections) == (1 if protocol == "HTTP/1.1" and not closes else 2)


def test_a_key_that_no_header_can_hold_is_no_traceback() -> None:
    assert readiness.request_state(replace(PROBE, key="caf\u00e9\u2603")).status == 0
