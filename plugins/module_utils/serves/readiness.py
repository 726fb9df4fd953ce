# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a serve is ready, still waiting or lost: the checks, and the loop that repeats them until a deadline.

Clock and sleep are passed to the loop.
"""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from dataclasses import dataclass
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.addresses import format_url
from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import parse_timestamp
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import ObservedContainer

READY, WAITING, LOST = "ready", "waiting", "lost"

# Docker restarts a container that exited after 0.1 s, 0.2 s, 0.4 s: a third exit is no accident. Docker never resets the count
# of restarts, but neither Docker nor we call it a loop once the container has run for ten seconds.
RESTART_LOOP, CALM_SECONDS = 3, 10


# Answers of vLLM to a request for a score where the model has several labels, or is a reward model.
UNSCORED = (400, 404, 405, 422, 501)
# Serves that are asked at the same time.
MOST_AT_ONCE = 8


@dataclass(frozen=True)
class Answer:
    """The answer to an HTTP request. status 0: there was no answer, and ``text`` says why."""

    status: int
    text: str = ""


@dataclass(frozen=True)
class Verdict:
    """The result of one check of a serve. outcome: READY, WAITING or LOST. state: a word for the operator. why: the evidence."""

    outcome: str
    state: str
    why: str = ""


@dataclass(frozen=True)
class ReadinessProbe:
    """How to find out whether a serve is ready. kind ``models``: ``/v1/models`` lists ``served_name``; ``health``:
    ``health_path`` answers 200.

    interval: the longest pause between two checks, in seconds. timeout: seconds. warmup: the serve is ready only after it has
    given one answer. serves: the kind of that answer (``catalog/served_kinds``). has_health: ``/health`` answers 503 while the
    model loads (llama-server), whatever the other paths say. prefix: the path before all others. ca: a file of certificates that
    the server's must be signed by; empty: those of this host; None: no check, for an address of this host.
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
    serves: str = "chat"
    has_health: bool = False
    prefix: str = ""
    ca: Optional[str] = None

    @property
    def path(self) -> str:
        return "/v1/models" if self.kind == "models" else self.health_path

    @property
    def url(self) -> str:
        return format_url("https" if self.tls else "http", *self.address) + self.prefix


def request_state(probe: ReadinessProbe, timeout: float = 3.0) -> Answer:
    """The answer that shows whether the serve is ready: that of ``/health`` while the model loads, else that of its path."""
    connection = _open_connection(probe, timeout)
    try:
        if probe.has_health:
            health = _request(connection, probe, "GET", "/health")
            if health.status in (0, 503):
                return health
        return _request(connection, probe, "GET", probe.path)
    finally:
        connection.close()


def request_states(
    probes: Sequence[ReadinessProbe], request: Callable[[ReadinessProbe], Answer] = request_state
) -> Dict[str, Answer]:
    """``request`` for each serve, by name, several at the same time: one that hangs hardly delays the others."""
    answers: Dict[str, Answer] = {}
    waiting = list(reversed(probes))

    def work() -> None:
        while True:
            try:
                probe = waiting.pop()
            except IndexError:
                return
            answers[probe.name] = request(probe)

    threads = [threading.Thread(target=work, daemon=True) for _number in range(min(len(probes), MOST_AT_ONCE) - 1)]
    for thread in threads:
        thread.start()
    work()
    for thread in threads:
        thread.join()
    return answers


def request_path(probe: ReadinessProbe, path: str, timeout: float = 3.0) -> Answer:
    """One GET request to the published port; proxies of the environment are not used."""
    return _request_once(probe, timeout, "GET", path)


def _open_connection(probe: ReadinessProbe, timeout: float) -> http.client.HTTPConnection:
    """A connection that connects at its first request."""
    host, port = probe.address[0].strip("[]"), probe.address[1]
    if not probe.tls:
        return http.client.HTTPConnection(host, port, timeout=timeout)
    if probe.ca is not None:
        return http.client.HTTPSConnection(
            host, port, timeout=timeout, context=ssl.create_default_context(cafile=probe.ca or None)
        )
    # The request goes to an address of this host, which no certificate names.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(host, port, timeout=timeout, context=context)


def _request(
    connection: http.client.HTTPConnection,
    probe: ReadinessProbe,
    method: str,
    path: str,
    body: Optional[bytes] = None,
    content_type: str = "",
) -> Answer:
    headers = {"Authorization": "Bearer " + probe.key} if probe.key else {}
    if body is not None:
        headers["Content-Type"] = content_type
    used = connection.sock is not None
    try:
        connection.request(method, probe.prefix + path, body=body, headers=headers)
        reply = connection.getresponse()
        return Answer(reply.status, reply.read(1 << 20).decode("utf-8", "replace"))
    except (OSError, http.client.HTTPException, ValueError) as exc:
        connection.close()
        if used and isinstance(exc, (ConnectionError, http.client.HTTPException)):
            # The server closed the connection after its last answer: that says nothing about this request.
            return _request(connection, probe, method, path, body, content_type)
        return Answer(0, str(exc))


def _request_once(
    probe: ReadinessProbe, timeout: float, method: str, path: str, body: Optional[bytes] = None, content_type: str = ""
) -> Answer:
    connection = _open_connection(probe, timeout)
    try:
        return _request(connection, probe, method, path, body, content_type)
    finally:
        connection.close()


def request_sample(probe: ReadinessProbe, timeout: float) -> Optional[Answer]:
    """Request one small answer: an engine loads and compiles at its first request, and no client has to wait for that.

    None: no request is known for this kind of serve.
    """
    from ansible_collections.anvil.serving.plugins.module_utils.catalog.sample_requests import build_sample

    sample = build_sample(probe.serves, probe.served_name)
    return None if sample is None else _request_once(probe, timeout, "POST", sample.path, sample.body, sample.content_type)


def judge_warmup(answer: Optional[Answer], kind: str = "chat") -> Verdict:
    """Judge the answer to the first request. A 4xx or 501 does not change with a second request."""
    from ansible_collections.anvil.serving.plugins.module_utils.catalog.sample_requests import is_unsupported, read_answer

    # A chat model may end its answer before the first token: the model ran all the same.
    if answer is None or (
        answer.status == 200 and ((kind == "chat" and '"choices"' in answer.text) or read_answer(kind, answer.text) is not None)
    ):
        return Verdict(READY, "ready")
    if kind == "score" and answer.status in UNSCORED:
        return Verdict(READY, "ready", "the server answers, and does not score pairs of texts ({0})".format(answer.status))
    why = "the first request ({0}) got {1}: {2}".format(kind, answer.status or "no answer", answer.text[:300])
    if is_unsupported(answer.status, answer.text):
        return Verdict(LOST, "no_completion", "the server does not answer requests of kind {0}; {1}".format(kind, why))
    if 400 <= answer.status < 500 and answer.status not in (404, 408, 425, 429):
        return Verdict(LOST, "no_completion", why)
    return Verdict(WAITING, "warming_up", why)


def served_names(text: str) -> Optional[List[str]]:
    """The model names in an answer of ``/v1/models``; None where the answer is something else."""
    try:
        return [str(model["id"]) for model in json.loads(text)["data"]]
    except (ValueError, KeyError, TypeError):
        return None


def _is_loading(text: str, served_name: str) -> bool:
    """Whether the row of a model is that of a llama-server of 2025 which still loads it: ``meta`` is null until then."""
    rows = [row for row in json.loads(text)["data"] if row["id"] == served_name]
    return any(row.get("owned_by") == "llamacpp" and "meta" in row and row["meta"] is None for row in rows)


def judge_container(seen: Optional[ObservedContainer], now: float) -> Optional[Verdict]:
    """Judge the state of the container alone; None: it runs, so the server decides. now: seconds since 1970.

    The state comes first: ``OOMKilled`` and the exit code of a container that runs tell of its past, or of another process in it.
    """
    if seen is None:
        return Verdict(LOST, "missing", "the container is gone: another user or program removed it")
    ended = "exit code {0}{1}".format(seen.exit_code, ": " + seen.error if seen.error else "")
    if seen.oom_killed and seen.state in ("restarting", "exited", "dead"):
        return Verdict(
            LOST, "oom_killed", "the kernel killed it because the host or its memory limit ran out of memory ({0})".format(ended)
        )
    looping = seen.restarts >= RESTART_LOOP
    if looping and seen.state == "running" and now - (parse_timestamp(seen.started_at) or 0) < CALM_SECONDS:
        why = "the container has exited {0} times and was restarted a moment ago".format(seen.restarts)
        return Verdict(WAITING, "restarting", why + ("; the kernel killed a process of it for want of memory" * seen.oom_killed))
    if looping and seen.state in ("restarting", "exited", "dead"):
        return Verdict(LOST, "restart_loop", "the container has exited {0} times, last with {1}".format(seen.restarts, ended))
    if seen.state == "restarting":
        return Verdict(WAITING, "restarting", "the container exited with {0} and is being restarted".format(ended))
    if seen.state in ("exited", "dead", "removing"):
        return Verdict(LOST, "exited", "the container exited with {0}".format(ended))
    if seen.state == "created":
        return Verdict(LOST, "not_started", seen.error or "the container was created but never started")
    if seen.state == "paused":
        return Verdict(LOST, "paused", "another user or program paused the container during the wait")
    return None


def judge_restarts(verdict: Verdict, before: int, seen: Optional[ObservedContainer]) -> Verdict:
    """``verdict``, or a restart loop where the container has exited too often since the first check.

    before: the count of restarts at the first check. A server that fails only after ten seconds is restarted at once, every
    time, so a check rarely meets it while it is down. For a container that was restarted a moment ago twice as many exits
    are allowed: its next exit may show the exit code.
    """
    died = 0 if seen is None else seen.restarts - before
    if verdict.outcome != WAITING or died < RESTART_LOOP * (2 if verdict.state == "restarting" else 1):
        return verdict
    why = "the container has exited and restarted {0} times since the wait began".format(died)
    return Verdict(LOST, "restart_loop", why)


def judge_answer(probe: ReadinessProbe, answer: Answer, health: str) -> Verdict:
    """Judge the answer of the server."""
    if answer.status == 0:
        state = "unhealthy" if health == "unhealthy" else "starting"
        return Verdict(WAITING, state, "no answer from {0}: {1}".format(probe.url, answer.text))
    if answer.status in (401, 403):
        return Verdict(
            LOST,
            "refused",
            "the server answers {0} to the key that api_key names: it was probably started with a different key".format(
                answer.status
            ),
        )
    if answer.status == 503 and probe.kind == "health":
        return Verdict(WAITING, "starting", "{0} answers 503: {1}".format(probe.path, answer.text.strip()[:500]))
    if answer.status == 503:
        return Verdict(WAITING, "loading", "the server answers 503: the model is loading")
    if answer.status != 200:
        return Verdict(WAITING, "starting", "{0} answers {1}".format(probe.path, answer.status))
    if probe.kind == "health":
        return Verdict(READY, "ready")
    names = served_names(answer.text)
    if names is None:
        return Verdict(WAITING, "starting", "the answer of {0} is not a list of models".format(probe.path))
    if not names:
        return Verdict(WAITING, "loading", "the server lists no model yet")
    if not probe.has_health and _is_loading(answer.text, probe.served_name):
        return Verdict(WAITING, "loading", "the server lists the model before it has loaded it")
    if probe.served_name not in names:
        return Verdict(LOST, "wrong_model", "the server lists {0}, but not {1}".format(", ".join(names), probe.served_name))
    return Verdict(READY, "ready")


def check_readiness(
    probe: ReadinessProbe,
    seen: Optional[ObservedContainer],
    request: Callable[[ReadinessProbe], Answer] = request_state,
    wall: Callable[[], float] = time.time,
) -> Verdict:
    """Check once: the container first, then, where it runs, the server."""
    verdict = judge_container(seen, wall())
    health = "" if seen is None else seen.health
    return judge_answer(probe, request(probe), health) if verdict is None else verdict


def wait_ready(
    probes: Sequence[ReadinessProbe],
    inspect: Callable[[str], Optional[ObservedContainer]],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    request: Callable[[ReadinessProbe], Answer] = request_state,
    complete: Callable[[ReadinessProbe, float], Optional[Answer]] = request_sample,
) -> Dict[str, Tuple[Verdict, float]]:
    """Check every serve until each is ready, lost, or past its deadline.

    Returns the last verdict of each and the seconds it took. A deadline that passes turns ``waiting`` into ``lost``. The pause
    between checks grows from 0.01 s to the shortest interval of the serves that are still waited for.
    """
    began = clock()
    results: Dict[str, Tuple[Verdict, float]] = {}
    restarts: Dict[str, int] = {}
    pending: Mapping[str, ReadinessProbe] = {probe.name: probe for probe in probes}
    pause = 0.01
    while pending:
        found = {name: inspect(probe.container) for name, probe in pending.items()}
        judged = {name: judge_container(seen, time.time()) for name, seen in found.items()}
        answers = request_states([probe for name, probe in pending.items() if judged[name] is None], request)
        for name, probe in pending.items():
            seen = found[name]
            before = restarts.setdefault(name, 0 if seen is None else seen.restarts)
            verdict = judged[name] or judge_answer(probe, answers[name], "" if seen is None else seen.health)
            if verdict.outcome == READY and probe.warmup:
                verdict = judge_warmup(complete(probe, max(1.0, probe.timeout - (clock() - began))), probe.serves)
            verdict = judge_restarts(verdict, before, seen)
            seconds = clock() - began
            if verdict.outcome == WAITING and seconds >= probe.timeout:
                why = "not ready after {0:.0f} s (still {1}): {2}".format(probe.timeout, verdict.state, verdict.why)
                verdict = Verdict(LOST, verdict.state, why)
            if verdict.outcome != WAITING:
                results[name] = (verdict, seconds)
        pending = {name: probe for name, probe in pending.items() if name not in results}
        if pending:
            sleep(pause)
            pause = min(pause * 1.2, *(probe.interval for probe in pending.values()))
    return results


def judge_settled(before: ObservedContainer, now: Optional[ObservedContainer], wall: float) -> Optional[Verdict]:
    """Whether a container that was ready still runs the same process; None: it does.

    ``docker restart`` resets RestartCount to 0: a crash loop shows in pid and start time before it shows in the count.
    """
    lost = judge_container(now, wall)
    if now is None or (lost is not None and lost.outcome == LOST):
        return lost
    same = (now.id, now.pid, now.started_at) == (before.id, before.pid, before.started_at)
    if now.restarts or not same or lost is not None:
        why = "its process exited and was started again ({0} restarts, last exit code {1})".format(now.restarts, now.exit_code)
        return Verdict(LOST, "restarting", why)
    return None


def watch_settled(
    containers: Mapping[str, ObservedContainer],
    inspect: Callable[[str], Optional[ObservedContainer]],
    clock: Callable[[], float],
    sleep: Callable[[float], None],
    settle: float,
    wall: Callable[[], float] = time.time,
) -> Dict[str, Verdict]:
    """Watch containers (by any name) for ``settle`` seconds; returns a verdict for each that stopped or restarted."""
    deadline = clock() + settle
    lost: Dict[str, Verdict] = {}
    while True:
        last = clock() >= deadline
        for name, before in containers.items():
            verdict = None if name in lost else judge_settled(before, inspect(before.id), wall())
            if verdict is not None:
                lost[name] = verdict
        if last or len(lost) == len(containers):
            return lost
        sleep(min(0.5, max(deadline - clock(), 0.01)))
