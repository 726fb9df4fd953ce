"""Readiness: what each look means, and the loop with a clock of its own."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils import drift, readiness
from ansible_collections.anvil.serving.plugins.module_utils.readiness import LOST, READY, WAITING, Answer, Subject
from test_drift import RECORDED

SUBJECT = Subject("heavy", "t-heavy", "models", ("127.0.0.1", 30002), "heavy", 10.0)
MODELS = json.dumps({"object": "list", "data": [{"id": "heavy"}]})


def seen(restarts: int = 0, **state: Any) -> drift.Observed:
    container = copy.deepcopy(RECORDED["container"])
    container["State"].update(state)
    container["RestartCount"] = restarts
    return drift.observe(container)


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
        (seen(Status="restarting", restarts=1), Answer(0), WAITING, "restarting"),
        (seen(Status="restarting", restarts=3), Answer(0), LOST, "restart_loop"),
        (seen(restarts=5), Answer(200, MODELS), LOST, "restart_loop"),
        (seen(Status="created", Error="unknown device"), Answer(0), LOST, "not_started"),
        (seen(Status="paused"), Answer(0), LOST, "paused"),
        (None, Answer(0), LOST, "missing"),
    ],
)
def test_one_look(container: drift.Observed | None, answer: Answer, outcome: str, state: str) -> None:
    verdict = readiness.look(SUBJECT, container, lambda subject: answer)
    assert (verdict.outcome, verdict.state) == (outcome, state)
    assert verdict.outcome == READY or verdict.why


class Clock:
    """A clock that only moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 100.0

    def read(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def wait(answers: Iterator[Answer], container: drift.Observed | None = None) -> tuple[readiness.Verdict, float]:
    clock = Clock()
    found = readiness.wait_ready(
        [SUBJECT], lambda name: container or seen(), clock.read, clock.sleep, lambda subject: next(answers)
    )
    return found["heavy"]


def test_ready_at_once_does_not_sleep() -> None:
    assert wait(iter([Answer(200, MODELS)])) == (readiness.Verdict(READY, "ready"), 0.0)


def test_loading_then_ready() -> None:
    verdict, seconds = wait(iter([Answer(0, "refused"), Answer(503), Answer(200, MODELS)]))
    assert verdict.outcome == READY and 0 < seconds < 1


def test_the_deadline_fails_and_says_what_it_was_still_doing() -> None:
    def forever() -> Iterator[Answer]:
        while True:
            yield Answer(503)

    verdict, seconds = wait(forever())
    assert verdict.outcome == LOST and verdict.state == "loading"
    assert "not ready after 10 s (still loading)" in verdict.why
    assert 10 <= seconds <= 11


def test_a_lost_serve_does_not_wait_for_the_deadline() -> None:
    _verdict, seconds = wait(iter([]), seen(Status="exited"))
    assert seconds == 0


def test_one_lost_serve_does_not_end_the_wait_for_another() -> None:
    other = Subject("fast", "fast", "models", ("127.0.0.1", 2), "heavy", 10.0)
    answers = iter([Answer(503), Answer(200, MODELS)])
    clock = Clock()
    found = readiness.wait_ready(
        [SUBJECT, other],
        lambda name: None if name == "t-heavy" else seen(),
        clock.read,
        clock.sleep,
        lambda subject: next(answers),
    )
    assert {name: verdict.outcome for name, (verdict, _s) in found.items()} == {"heavy": LOST, "fast": READY}
