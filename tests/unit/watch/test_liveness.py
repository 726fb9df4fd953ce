# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a serve over simulated time: saturated is not hung, stuck is, a start gets its time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.watch import liveness
from ansible_collections.anvil.serving.plugins.module_utils.watch.liveness import (
    ALIVE,
    ASLEEP,
    BUSY,
    DEAD,
    HUNG,
    LOADING,
    SILENT,
    STOPPED,
    SUSPECT,
    TOKENS,
    UNKNOWN,
    WRONG,
    WRONG_ANSWER,
    Counters,
    Limits,
    Observation,
    Probe,
    Record,
)

LIMITS = Limits()
LIVING = Record(ALIVE, "tokens come", "c 1", proven=0.0, progress="1", probed=0.0)
World = Callable[[float], Observation]


def run(record: Record, world: World, seconds: float, probe: Probe | None = None) -> list[tuple[float, str]]:
    """Look every 3 s for so long. probe: the outcome of each probe that is wanted. Returns (time, state) of each change."""
    changes: list[tuple[float, str]] = []
    now = 0.0
    while now <= seconds:
        seen = world(now)
        if liveness.wants_probe(record, seen, LIMITS) and probe is not None:
            now += LIMITS.probe_deadline if probe.outcome == SILENT else 0.1
            seen = replace(seen, probe=probe, now=now)
        if not liveness.is_doubtful(record, seen):
            seen = replace(seen, cpu=None)  # as the keeper: only measured in doubt
        before, record = record, liveness.judge(record, seen, LIMITS)
        if record.state != before.state:
            changes.append((now, record.state))
        now += LIMITS.tick
    return changes


def look(now: float, **fields: object) -> Observation:
    return replace(Observation(now, now, "c 1"), **fields)  # type: ignore[arg-type]


def test_200_queued_requests_on_a_slow_model_are_busy_for_ten_minutes_and_never_suspect() -> None:
    """A step takes 5 s; a probe would wait behind the queue, so none is sent."""

    def world(now: float) -> Observation:
        return look(now, counters=Counters(8, 192, str(1 + now // 5)))

    assert [state for _now, state in run(LIVING, world, 600, Probe(SILENT))] == [BUSY]


def test_a_batch_of_minutes_that_blocks_even_the_counters_is_suspect_but_not_hung_while_it_computes() -> None:
    """Two minutes without an answer, at four processors; then tokens."""

    def world(now: float) -> Observation:
        return look(now, answered=now > 120, cpu=now * 4, counters=Counters(1, 0, "2") if now > 120 else None)

    changes = run(LIVING, world, 140)
    assert [state for _now, state in changes] == [SUSPECT, BUSY]
    assert changes[0][0] >= LIMITS.stall_busy


def test_a_stopped_process_under_load_is_out_of_rotation_within_15_s_and_hung_after() -> None:
    """No answer and no processor time from second 1 on; a look without an answer takes its 3 s."""

    def world(now: float) -> Observation:
        if now < 1:
            return look(now, counters=Counters(4, 0, "2"))
        return replace(look(now, answered=False, cpu=7.0), now=now + 3)

    changes = run(LIVING, world, 60)
    assert [state for _now, state in changes] == [BUSY, SUSPECT, HUNG]
    assert changes[1][0] + 3 <= 15
    assert changes[2][0] <= 30


def test_a_deadlock_that_answers_and_keeps_a_processor_busy_is_hung_only_after_minutes() -> None:
    def world(now: float) -> Observation:
        return look(now, counters=Counters(4, 9, "1"), cpu=now)

    changes = run(LIVING, world, 400)
    assert [state for _now, state in changes] == [SUSPECT, HUNG]
    assert changes[0][0] >= LIMITS.stall_busy and changes[1][0] >= LIMITS.confirm_busy


def test_a_server_that_lists_its_models_and_nothing_else_is_found_by_the_probe() -> None:
    changes = run(LIVING, lambda now: look(now, cpu=3.0), 200, Probe(SILENT))
    assert [state for _now, state in changes] == [SUSPECT, HUNG]


def test_an_engine_without_counters_that_computes_is_never_called_hung() -> None:
    assert not run(LIVING, lambda now: look(now, cpu=now), 1000, Probe(SILENT))


def test_a_suspect_that_gives_a_token_is_back_at_once() -> None:
    suspect = replace(LIVING, state=SUSPECT, doubt=0.0)
    assert run(suspect, look, 10, Probe(TOKENS))[0] == (0.1, ALIVE)


def test_a_start_takes_its_time_and_is_judged_after_it() -> None:
    """It loads for 20 minutes and does not answer; at 1800 s a start is no excuse any more."""

    def world(now: float) -> Observation:
        return look(now, answered=False, fresh=now < LIMITS.load, cpu=5.0)

    changes = run(Record(ALIVE, "", "c 0"), world, 1900)
    assert [state for _now, state in changes] == [LOADING, SUSPECT, HUNG]
    assert changes[1][0] >= LIMITS.load


def test_a_start_that_computes_is_never_hung() -> None:
    def world(now: float) -> Observation:
        return look(now, answered=False, fresh=now < LIMITS.load, unproven=True, cpu=now)

    assert [state for _now, state in run(Record(ALIVE, "", "c 0"), world, 4000)] == [LOADING]


def test_while_a_run_converges_nothing_counts_against_a_serve() -> None:
    def world(now: float) -> Observation:
        return look(now, answered=False, frozen=now < 100, cpu=1.0)

    changes = run(LIVING, world, 120)
    assert [state for _now, state in changes] == [SUSPECT]
    assert changes[0][0] >= 100 + LIMITS.stall


@pytest.mark.parametrize(
    ("seen", "state", "in_rotation"),
    [
        (look(9, stopped="its container was stopped"), STOPPED, False),
        (look(9, dead="restart loop"), DEAD, False),
        (look(9, asleep="vLLM sleeps"), ASLEEP, False),
        (look(9, counters=Counters(3, 0, "2")), BUSY, True),
        (look(9, counters=Counters(0, 0, "2")), ALIVE, True),
        (look(9, counters=Counters(0, 0, "1")), ALIVE, True),
        (look(9, probe=Probe(UNKNOWN, "it wants a key")), ALIVE, True),
        (replace(look(9), incarnation="c 2"), LOADING, False),
    ],
)
def test_one_look(seen: Observation, state: str, in_rotation: bool) -> None:
    record = liveness.judge(LIVING, seen, LIMITS)
    assert (record.state, record.in_rotation) == (state, in_rotation)


def test_wrong_answers_count_and_one_right_answer_ends_them() -> None:
    record = LIVING
    for number in range(3):
        assert record.state == ALIVE
        record = liveness.judge(record, look(number, probe=Probe(WRONG_ANSWER, "model b answers instead of a")), LIMITS)
    assert (record.state, record.why) == (WRONG, "model b answers instead of a (3 probes)")
    assert liveness.judge(record, look(9, probe=Probe(TOKENS)), LIMITS).state == ALIVE


def test_an_idle_serve_is_probed_after_a_while_and_a_busy_one_never() -> None:
    idle, busy = look(61, counters=Counters(0, 0, "1")), look(61, counters=Counters(1, 0, "1"))
    assert not liveness.wants_probe(LIVING, look(59, counters=Counters(0, 0, "1")), LIMITS)
    assert liveness.wants_probe(LIVING, idle, LIMITS) and not liveness.wants_probe(LIVING, busy, LIMITS)


def test_a_watch_that_starts_takes_no_serve_out_of_rotation_before_it_has_judged_it() -> None:
    record = liveness.judge(Record(), look(0, counters=Counters(9, 9, "1"), fresh=True), LIMITS)
    assert record.in_rotation
    assert liveness.judge(record, look(3, counters=Counters(9, 9, "2"), fresh=True), LIMITS).state == BUSY
