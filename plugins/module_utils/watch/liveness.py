# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a serve, from what was seen of it: alive only where tokens come, hung only where nothing moves. Pure.

Proof of life is a token of a probe, or a counter of the engine that moved. A request that is queued behind others proves nothing,
so a saturated serve is busy. Without proof, the processors decide: a container that uses none while requests wait is stuck; one
that computes gets much more time, because a large batch on a slow machine looks the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional

LOADING, ALIVE, BUSY, ASLEEP, SUSPECT = "loading", "alive", "busy", "asleep", "suspect"
HUNG, WRONG, DEAD, STOPPED = "hung", "wrong", "dead", "stopped"
STATES = (LOADING, ALIVE, BUSY, ASLEEP, SUSPECT, HUNG, WRONG, DEAD, STOPPED)
# A serve that was not judged yet stays in rotation: a watch that starts must not take serves out.
IN_ROTATION = ("", ALIVE, BUSY)
# Outcomes of a probe. UNKNOWN: the serve wants a key that watch does not have, or answers no kind of probe.
TOKENS, SILENT, WRONG_ANSWER, UNKNOWN = "tokens", "silent", "wrong", "unknown"
# The shortest time over which the use of processors is measured (seconds).
CPU_WINDOW = 2.0


@dataclass(frozen=True)
class Limits:
    """All in seconds, but ``wrong_probes`` (a count) and ``idle_cpu`` (processors).

    stall: no token and no answer for so long makes a serve suspect; stall_busy: the same while its processes compute. confirm,
    confirm_busy: after so long without proof a suspect is hung. load: a start may take so long. survey: between two looks at
    drift, claims, revisions and certificates; host_tick: at cards, disks and experiments. leave: an idle
    serve is out of rotation for so long before it is stopped.
    """

    tick: float = 3.0
    stall: float = 6.0
    stall_busy: float = 45.0
    confirm: float = 20.0
    confirm_busy: float = 180.0
    probe_idle: float = 60.0
    probe_deadline: float = 10.0
    load: float = 1800.0
    host_tick: float = 60.0
    leave: float = 15.0
    wrong_probes: int = 3
    idle_cpu: float = 0.02
    survey: float = 300.0


@dataclass(frozen=True)
class Counters:
    """What an engine counts. progress: a text that changes whenever a token was computed."""

    running: int
    waiting: int
    progress: str


@dataclass(frozen=True)
class Probe:
    """The outcome of one small request, and what was seen."""

    outcome: str
    why: str = ""


@dataclass(frozen=True)
class Observation:
    """One look at a serve. asked, now: the monotonic clock before and after it.

    incarnation: the container and its start. stopped, dead: why the container does not run. frozen: a run is converging its
    project. fresh: it may still be starting. unproven: this incarnation never gave a token. answered: the server answered within
    the time of the look. cpu: processor seconds of the container so far.
    """

    asked: float
    now: float
    incarnation: str = ""
    stopped: str = ""
    dead: str = ""
    frozen: bool = False
    fresh: bool = False
    unproven: bool = False
    answered: bool = True
    loading: bool = False
    asleep: str = ""
    counters: Optional[Counters] = None
    probe: Optional[Probe] = None
    cpu: Optional[float] = None


@dataclass(frozen=True)
class Record:
    """What is known of a serve between two looks.

    proven: the last proof of life. doubt: when the present doubt began; cpu_at, cpu:
    the first measurement since then. probed: when the last probe was sent. wrong: wrong answers in a row.
    """

    state: str = ""
    why: str = ""
    incarnation: str = ""
    proven: Optional[float] = None
    progress: str = ""
    doubt: Optional[float] = None
    cpu_at: Optional[float] = None
    cpu: float = 0.0
    probed: Optional[float] = None
    wrong: int = 0

    @property
    def in_rotation(self) -> bool:
        return self.state in IN_ROTATION


def has_moved(record: Record, seen: Observation) -> bool:
    """Whether the engine computed a token since the last look."""
    return bool(seen.counters and record.progress and seen.counters.progress != record.progress)


def wants_probe(record: Record, seen: Observation, limits: Limits) -> bool:
    """Whether a probe is due. A serve that answers nothing is not probed: the look itself is the evidence."""
    if seen.stopped or seen.dead or seen.frozen or seen.asleep or seen.loading or not seen.answered:
        return False
    if seen.incarnation != record.incarnation or has_moved(record, seen):
        return record.state in ("", LOADING) and not has_moved(record, seen)
    if record.state in ("", LOADING, SUSPECT, HUNG) or 0 < record.wrong < limits.wrong_probes:
        return True
    if seen.counters and seen.counters.running:
        return False
    if record.doubt is not None:
        return True
    return record.probed is None or seen.now - max(record.probed, record.proven or 0.0) >= limits.probe_idle


def is_doubtful(record: Record, seen: Observation) -> bool:
    """Whether a look leaves it open that the serve lives, so that the use of processors is worth a request."""
    if seen.stopped or seen.dead or seen.frozen or seen.asleep or has_moved(record, seen):
        return False
    if seen.probe is not None and seen.probe.outcome != SILENT:
        return False
    return not seen.answered or seen.probe is not None or bool(seen.counters and seen.counters.running)


def judge(record: Record, seen: Observation, limits: Limits) -> Record:
    """The record after a look."""
    if seen.stopped or seen.dead:
        return Record(DEAD if seen.dead else STOPPED, seen.dead or seen.stopped, record.incarnation)
    if seen.incarnation != record.incarnation:
        state = "" if not record.incarnation else LOADING
        record = Record(state, "it was started a moment ago" * bool(state), seen.incarnation)
    elif record.state in (DEAD, STOPPED):
        record = Record(LOADING, "its container runs again", seen.incarnation)
    probed = seen.now if seen.probe else record.probed
    moved = has_moved(record, seen)
    record = replace(record, probed=probed, progress=seen.counters.progress if seen.counters else record.progress)
    if moved or (seen.probe and seen.probe.outcome == TOKENS):
        return _prove(record, seen)
    if seen.frozen:  # a run may stop, replace or load it: nothing that is seen now counts against it
        return replace(record, doubt=None, cpu_at=None)
    if seen.asleep:
        return _settle(record, ASLEEP, seen.asleep)
    if seen.probe and seen.probe.outcome == WRONG_ANSWER:
        return _count_wrong(record, seen.probe.why, limits)
    if is_doubtful(record, seen):
        return _doubt(record, seen, limits)
    if record.state in ("", LOADING) and seen.loading:
        return replace(_settle(record, LOADING, "the model is loading"), progress=record.progress)
    if seen.probe and seen.probe.outcome == UNKNOWN and record.state in ("", LOADING, SUSPECT, HUNG):
        return _settle(record, ALIVE, "it answers; whether tokens come is unknown: " + seen.probe.why)
    if record.state in (SUSPECT, HUNG):
        return record
    state, why = (ALIVE, "no request runs") if record.state == BUSY else (record.state, record.why)
    return _settle(record, state, why)


def _settle(record: Record, state: str, why: str) -> Record:
    return replace(record, state=state, why=why, doubt=None, cpu_at=None)


def _prove(record: Record, seen: Observation) -> Record:
    counters = seen.counters
    if counters and counters.running:
        why = "tokens come; {0} requests run, {1} wait".format(counters.running, counters.waiting)
        return replace(_settle(record, BUSY, why), proven=seen.now, wrong=0)
    return replace(_settle(record, ALIVE, "tokens come"), proven=seen.now, wrong=0)


def _count_wrong(record: Record, why: str, limits: Limits) -> Record:
    wrong = record.wrong + 1
    if wrong < limits.wrong_probes:
        return replace(record, wrong=wrong)
    return replace(_settle(record, WRONG, "{0} ({1} probes)".format(why, wrong)), wrong=wrong)


def _doubt(record: Record, seen: Observation, limits: Limits) -> Record:
    """No proof: how long already, and do its processes compute meanwhile?"""
    doubt = seen.asked if record.doubt is None else record.doubt
    used = _used_processors(record, seen)
    if record.cpu_at is None and seen.cpu is not None:
        record = replace(record, cpu_at=seen.now, cpu=seen.cpu)
    record, lasted = replace(record, doubt=doubt), seen.now - doubt
    if record.proven is None and seen.fresh:
        state = "" if record.state == "" and seen.answered else LOADING
        return replace(record, state=state, why="no token yet: {0}".format(_describe(seen)))
    idle = used is not None and used < limits.idle_cpu
    computes = "processors in use: " + ("unknown" if used is None else "{0:.2f}".format(used))
    why = "no token for {0:.0f} s: {1}; {2}".format(lasted, _describe(seen), computes)
    if not idle and seen.answered and seen.counters is None:
        return replace(record, why=why + "; the engine reports no counters, so it may be busy")
    if (
        seen.unproven and not idle and not seen.answered
    ):  # a start that takes longer than anybody thought is no reason for another
        return replace(record, state=LOADING, why="it starts for longer than expected; " + computes)
    if record.state in (SUSPECT, HUNG):
        hung = record.state == HUNG or lasted >= (limits.confirm if idle else limits.confirm_busy)
        return replace(record, state=HUNG if hung else SUSPECT, why=why)
    if lasted >= (limits.stall if idle else limits.stall_busy):
        return replace(record, state=SUSPECT, why=why)
    return record


def _describe(seen: Observation) -> str:
    if not seen.answered:
        return "the server does not answer"
    if seen.counters and seen.counters.running:
        return "{0} requests run, {1} wait, and no counter moves".format(seen.counters.running, seen.counters.waiting)
    return seen.probe.why if seen.probe and seen.probe.why else "the probe got no answer"


def _used_processors(record: Record, seen: Observation) -> Optional[float]:
    if record.cpu_at is None or seen.cpu is None or seen.now - record.cpu_at < CPU_WINDOW:
        return None
    return max(0.0, seen.cpu - record.cpu) / (seen.now - record.cpu_at)
