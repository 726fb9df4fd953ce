# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Is a serve ready, may it still become so, or is it lost? Predicates, and the loop that applies them until a deadline.

The loop neither sleeps nor reads its clock by itself: both are passed in.
"""

from __future__ import annotations

import http.client
import json
import ssl
import time
from dataclasses import dataclass
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import parse_timestamp
from ansible_collections.anvil.serving.plugins.module_utils.serves.drift import Observed

READY, WAITING, LOST = "ready", "waiting", "lost"

# Docker restarts a container that died after 0.1 s, 0.2 s, 0.4 s: a third death is no hiccup of a start. Its count of
# restarts is never set back, but one that has run for ten seconds is to it (and to us) no loop any more.
RESTART_LOOP, CALM_SECONDS = 3, 10


@dataclass(frozen=True)
class Answer:
    """What an HTTP request brought. status 0: nothing answered, and ``text`` says why."""

    status: int
    text: str = ""


@dataclass(frozen=True)
class Verdict:
    """One look at one serve. state: the word an operator reads; why: the sentence behind it."""

    outcome: str
    state: str
    why: str = ""


@dataclass(frozen=True)
class Subject:
    """What is waited for. kind ``models``: ``/v1/models`` names ``served_name``; ``health``: ``health_path`` says 200.

    interval: the longest pause between two looks, in seconds. warmup: it is ready once it has completed one token.
    """

    name: str
    container: str
    kind: str
    address: Tuple[str, int]
    served_name: str
    timeout: float
    key: str = ""
    tls: bool = False
    interval: float = 1.0
    warmup: bool = False
    health_path: str = "/healthz"

    @property
    def path(self) -> str:
        return "/v1/models" if self.kind == "models" else self.health_path

    @property
    def url(self) -> str:
        return "{0}://{1}:{2}".format("https" if self.tls else "http", *self.address)


def ask(subject: Subject, timeout: float = 3.0) -> Answer:
    """The request that tells whether it is ready."""
    return fetch(subject, subject.path, timeout)


def fetch(subject: Subject, path: str, timeout: float = 3.0) -> Answer:
    """One request, straight to the published port: no proxy of the environment comes between."""
    return _request(subject, "GET", path, timeout)


def _request(subject: Subject, method: str, path: str, timeout: float, body: Optional[str] = None) -> Answer:
    headers = {"Authorization": "Bearer " + subject.key} if subject.key else {}
    if body is not None:
        headers["Content-Type"] = "application/json"
    host, port = subject.address[0].strip("[]"), subject.address[1]
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    if subject.tls:
        # It is asked by its address on this very host, so no certificate could name it.
        anyone = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        anyone.check_hostname, anyone.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=anyone)
    try:
        connection.request(method, path, body=body, headers=headers)
        reply = connection.getresponse()
        return Answer(reply.status, reply.read(1 << 20).decode("utf-8", "replace"))
    except (OSError, http.client.HTTPException) as exc:
        return Answer(0, str(exc))
    finally:
        connection.close()


def complete_one(subject: Subject, timeout: float) -> Answer:
    """One token: the first request makes an engine load, compile and allocate what the clients would wait for."""
    said = {"model": subject.served_name, "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
    return _request(subject, "POST", "/v1/chat/completions", timeout, json.dumps(said))


def judge_warmup(answer: Answer) -> Verdict:
    """What the answer to one token decides. A 4xx will not change by asking again."""
    if answer.status == 200 and '"choices"' in answer.text:
        return Verdict(READY, "ready")
    why = "one token was asked for, and it answers {0}: {1}".format(answer.status or "nothing", answer.text[:300])
    if 400 <= answer.status < 500 and answer.status not in (404, 408, 425, 429):
        return Verdict(LOST, "no_completion", why)
    return Verdict(WAITING, "warming_up", why)


def served_names(text: str) -> Optional[List[str]]:
    """The model names of a ``/v1/models`` answer; None where it is no such answer."""
    try:
        return [str(model["id"]) for model in json.loads(text)["data"]]
    except (ValueError, KeyError, TypeError):
        return None


def judge_container(seen: Optional[Observed], now: float) -> Optional[Verdict]:
    """What the container's state alone decides; None: it runs, ask the server. now: seconds since 1970."""
    if seen is None:
        return Verdict(LOST, "missing", "its container is gone: somebody or something removed it")
    ended = "exit code {0}{1}".format(seen.exit_code, ": " + seen.error if seen.error else "")
    if seen.oom_killed:
        return Verdict(LOST, "oom_killed", "the kernel killed it for want of memory ({0})".format(ended))
    looping = seen.restarts >= RESTART_LOOP
    if looping and seen.state == "running" and now - (parse_timestamp(seen.started_at) or 0) < CALM_SECONDS:
        return Verdict(WAITING, "restarting", "it ended {0} times and was started again just now".format(seen.restarts))
    if looping and seen.state in ("restarting", "exited", "dead"):
        return Verdict(LOST, "restart_loop", "it ended {0} times, last with {1}".format(seen.restarts, ended))
    if seen.state == "restarting":
        return Verdict(WAITING, "restarting", "it ended with {0} and is being restarted".format(ended))
    if seen.state in ("exited", "dead", "removing"):
        return Verdict(LOST, "exited", "it ended with {0}".format(ended))
    if seen.state == "created":
        return Verdict(LOST, "not_started", seen.error or "it was created but never started")
    if seen.state == "paused":
        return Verdict(LOST, "paused", "somebody paused it while it was waited for")
    return None


def judge_deaths(verdict: Verdict, before: int, seen: Optional[Observed]) -> Verdict:
    """``verdict``, unless the container died so often since the first look that it will do so again.

    before: how often it had been restarted at the first look. A server that needs more than ten seconds to find out that it
    cannot start is restarted at once, for ever, and so hardly ever seen between two lives. In the first seconds of a life it is
    looked at once more: between two short ones its exit code can be read.
    """
    died = 0 if seen is None else seen.restarts - before
    if verdict.outcome != WAITING or died < RESTART_LOOP * (2 if verdict.state == "restarting" else 1):
        return verdict
    why = "it ended {0} times since it is waited for, and was started again each time".format(died)
    return Verdict(LOST, "restart_loop", why)


def judge_answer(subject: Subject, answer: Answer, health: str) -> Verdict:
    """What the server's answer decides."""
    if answer.status == 0:
        state = "unhealthy" if health == "unhealthy" else "starting"
        return Verdict(WAITING, state, "nothing answers at {0}: {1}".format(subject.url, answer.text))
    if answer.status in (401, 403):
        return Verdict(LOST, "refused", "it answers {0} to our key: is api_key the one it runs with?".format(answer.status))
    if answer.status == 503 and subject.kind == "health":
        return Verdict(WAITING, "starting", "{0} answers 503: {1}".format(subject.path, answer.text.strip()[:500]))
    if answer.status == 503:
        return Verdict(WAITING, "loading", "it answers 503: the model is loading")
    if answer.status != 200:
        return Verdict(WAITING, "starting", "{0} answers {1}".format(subject.path, answer.status))
    if subject.kind == "health":
        return Verdict(READY, "ready")
    names = served_names(answer.text)
    if names is None:
        return Verdict(WAITING, "starting", "{0} answers something that is no list of models".format(subject.path))
    if not names:
        return Verdict(WAITING, "loading", "it serves no model yet")
    if subject.served_name not in names:
        return Verdict(LOST, "wrong_model", "it serves {0}, and {1} was asked for".format(", ".join(names), subject.served_name))
    return Verdict(READY, "ready")


def look(
    subject: Subject,
    seen: Optional[Observed],
    request: Callable[[Subject], Answer] = ask,
    wall: Callable[[], float] = time.time,
) -> Verdict:
    """One look: the container first, then, where it runs, the server."""
    verdict = judge_container(seen, wall())
    health = "" if seen is None else seen.health
    return judge_answer(subject, request(subject), health) if verdict is None else verdict


def wait_ready(
    subjects: Sequence[Subject],
    inspect: Callable[[str], Optional[Observed]],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    request: Callable[[Subject], Answer] = ask,
    complete: Callable[[Subject, float], Answer] = complete_one,
) -> Dict[str, Tuple[Verdict, float]]:
    """Look at every subject until each is ready, lost, or past its deadline; ready are those that want it once they answered.

    Returns the last verdict of each and the seconds it took. A deadline that passes turns ``waiting`` into ``lost``.
    The pause between looks grows from 0.01 s to the shortest interval that is waited for.
    """
    began = clock()
    results: Dict[str, Tuple[Verdict, float]] = {}
    restarts: Dict[str, int] = {}
    pending: Mapping[str, Subject] = {subject.name: subject for subject in subjects}
    pause = 0.01
    while pending:
        for name, subject in list(pending.items()):
            seen = inspect(subject.container)
            before = restarts.setdefault(name, 0 if seen is None else seen.restarts)
            verdict = look(subject, seen, request)
            if verdict.outcome == READY and subject.warmup:
                verdict = judge_warmup(complete(subject, max(1.0, subject.timeout - (clock() - began))))
            verdict = judge_deaths(verdict, before, seen)
            seconds = clock() - began
            if verdict.outcome == WAITING and seconds >= subject.timeout:
                why = "not ready after {0:.0f} s (still {1}): {2}".format(subject.timeout, verdict.state, verdict.why)
                verdict = Verdict(LOST, verdict.state, why)
            if verdict.outcome != WAITING:
                results[name] = (verdict, seconds)
        pending = {name: subject for name, subject in pending.items() if name not in results}
        if pending:
            sleep(pause)
            pause = min(pause * 1.2, *(subject.interval for subject in pending.values()))
    return results


def judge_settled(before: Observed, now: Optional[Observed], wall: float) -> Optional[Verdict]:
    """Whether a container that was ready is still the same process; None: it is.

    ``docker restart`` sets RestartCount to 0, so a crash loop shows in pid and start time before it shows in the count.
    """
    lost = judge_container(now, wall)
    if now is None or (lost is not None and lost.outcome == LOST):
        return lost
    same = (now.id, now.pid, now.started_at) == (before.id, before.pid, before.started_at)
    if now.restarts or not same or lost is not None:
        why = "its process ended and was started again ({0} restarts, last exit code {1})".format(now.restarts, now.exit_code)
        return Verdict(LOST, "restarting", why)
    return None


def watch_settled(
    subjects: Mapping[str, Observed],
    inspect: Callable[[str], Optional[Observed]],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    settle: float,
    wall: Callable[[], float] = time.time,
) -> Dict[str, Verdict]:
    """Watch containers (by any name) for ``settle`` seconds; returns those that did not stay what they were."""
    deadline = clock() + settle
    lost: Dict[str, Verdict] = {}
    while True:
        last = clock() >= deadline
        for name, before in subjects.items():
            verdict = None if name in lost else judge_settled(before, inspect(before.id), wall())
            if verdict is not None:
                lost[name] = verdict
        if last or len(lost) == len(subjects):
            return lost
        sleep(min(0.5, max(deadline - clock(), 0.01)))
