# SPDX-License-Identifier: GPL-3.0-or-later
"""One watched serve: look, judge, tell, heal. Clocks and sleep are passed in.

A restart is written to the ledger before it happens: a process that is killed at any line repeats at most what its budget has
counted. Nothing is restarted while a run holds the lock of the project, and watch holds this lock while it restarts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import Any, Callable, ContextManager, Dict, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import COMPOSE_PROJECT, COMPOSE_SERVICE
from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import parse_moment
from ansible_collections.anvil.serving.plugins.module_utils.watch import healing, idleness, liveness
from ansible_collections.anvil.serving.plugins.module_utils.watch.idleness import Idleness
from ansible_collections.anvil.serving.plugins.module_utils.watch.incidents import gather_incident, save_incident
from ansible_collections.anvil.serving.plugins.module_utils.watch.ledger import Ledger
from ansible_collections.anvil.serving.plugins.module_utils.watch.liveness import Observation, Record
from ansible_collections.anvil.serving.plugins.module_utils.watch.serve_requests import Look, ServeClient
from ansible_collections.anvil.serving.plugins.module_utils.watch.settings import WatchedServe, WatchSettings

# A restart that was interrupted is finished only so long after it began: later, someone else has stopped the container.
UNFINISHED_SECONDS = 600.0
# Exit codes of a process that was told to end, or ended by itself: 128 + SIGKILL, SIGTERM.
ENDED = (0, 137, 143)
# A container that started a moment ago and has exited so often is in a restart loop.
LOOP, CALM_SECONDS = 3, 10.0


@dataclass
class Keeper:
    """Watches one serve. docker: a HostEngine of its own. lock: holds the project's lock, or raises AnvilError at once."""

    serve: WatchedServe
    settings: WatchSettings
    docker: Any
    ledger: Ledger
    lock: Callable[[], ContextManager[Any]]
    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    client: Callable[[WatchedServe, str], Any] = ServeClient
    record: Record = field(default_factory=Record)
    last: Look = field(default_factory=lambda: Look(False))
    probe_seconds: Optional[float] = None
    found: Optional[Mapping[str, Any]] = None
    _key_of: str = ""
    _client: Any = None
    _told: str = ""
    _idle: Idleness = field(default_factory=Idleness)

    def __post_init__(self) -> None:
        self.limits = self.settings.build_limits(self.serve)
        entry = self.ledger.get(self.serve.name)  # of a process before this one
        state = liveness.SUSPECT if entry.state == liveness.HUNG else entry.state
        if state in (liveness.ALIVE, liveness.BUSY, liveness.SUSPECT, liveness.WRONG):
            self.record = Record(state, entry.why, entry.incarnation)

    @property
    def in_rotation(self) -> bool:
        """Whether requests should be sent to the serve. One that unloads itself wakes up at a request."""
        if self._idle.leaving is not None:
            return False
        return self.record.in_rotation or (self.record.state == liveness.ASLEEP and self.serve.sleeps)

    def tick(self) -> None:
        """One look, its judgement, and what follows from it. Raises AnvilError where the Docker Engine does not answer."""
        found = self.docker.inspect_container(self.serve.container)
        self.found = found if found is not None and self._is_ours(found) else None
        self._finish_interrupted()
        seen = self._observe()
        self._keep(liveness.judge(self.record, seen, self.limits), seen)
        if self.record.state == liveness.HUNG and not seen.frozen:
            self._heal()
        if self.serve.idle:
            self._follow_idle(seen)

    def _is_ours(self, found: Mapping[str, Any]) -> bool:
        labels = found["Config"]["Labels"] or {}
        return labels.get(COMPOSE_PROJECT) == self.settings.project and labels.get(COMPOSE_SERVICE) == self.serve.name

    def _observe(self) -> Observation:
        asked = self.clock()
        base = Observation(asked, asked, frozen=self._is_converging())
        stopped, dead = describe_absence(self.found, self.wall())
        if self.found is None or stopped or dead:
            return replace(base, stopped=stopped, dead=dead)
        incarnation = name_incarnation(self.found)
        started = parse_moment(str(self.found["State"]["StartedAt"])) or 0.0
        unproven = self.ledger.get(self.serve.name).proven != incarnation
        fresh = unproven and abs(self.wall() - started) < self.limits.load
        client = self._connect(incarnation)
        self.last = client.look()
        seen = self._with_look(replace(base, incarnation=incarnation, fresh=fresh, unproven=unproven))
        if liveness.wants_probe(self.record, seen, self.limits):
            asleep = client.is_asleep()
            if asleep:
                return replace(seen, asleep=asleep, now=self.clock())
            began = self.clock()
            probe = client.probe(self.limits.probe_deadline)
            self.probe_seconds = self.clock() - began
            seen = replace(seen, probe=probe)
            if probe.outcome == liveness.SILENT and self.last.engine:
                self.last = client.look()  # the probe may have queued behind requests that came meanwhile
                seen = self._with_look(seen)
        if liveness.is_doubtful(self.record, seen):
            seen = replace(seen, cpu=self.docker.read_processor_seconds(str(self.found["Id"])))
        return replace(seen, now=self.clock())

    def _with_look(self, seen: Observation) -> Observation:
        look = self.last
        counters = look.engine.counters if look.engine else None
        return replace(
            seen, now=self.clock(), answered=look.answered, loading=look.loading, asleep=look.asleep, counters=counters
        )

    def _connect(self, incarnation: str) -> Any:
        if self._client is None or self._key_of != incarnation:
            environment = (self.found or {})["Config"].get("Env") or ()
            values = dict(line.partition("=")[::2] for line in environment)
            self._client = self.client(self.serve, values.get(self.serve.key_variable, ""))
            self._key_of = incarnation
        return self._client

    def _is_converging(self) -> bool:
        try:
            with self.lock():
                return False
        except AnvilError:
            return True

    def _keep(self, record: Record, seen: Observation) -> None:
        """Take a record over, and tell a change of the state."""
        before, self.record = self.record, record
        entry = self.ledger.get(self.serve.name)
        if record.proven is not None and entry.proven != record.incarnation:
            started = parse_moment(str((self.found or {})["State"]["StartedAt"]))
            seconds = None if started is None else round(max(0.0, self.wall() - started), 1)
            entry = replace(entry, proven=record.incarnation, given_up="", ready_seconds=seconds if seen.fresh else None)
        if entry.incarnation and record.incarnation and entry.incarnation != record.incarnation and not entry.healing:
            entry = replace(entry, given_up="", restarts=(), in_vain=0)  # somebody else has started it: a new budget
        changed = record.state != entry.state
        since = self.wall() if changed else entry.since
        incarnation = record.incarnation or entry.incarnation
        if entry.healing and record.state in (liveness.ALIVE, liveness.BUSY) and entry.healing != record.incarnation:
            entry = replace(entry, healing="", in_vain=0)
            self.ledger.put(self.serve.name, entry)
            self.ledger.act(self.serve.name, "is healed: {0}".format(record.why))
        if changed and record.state:
            told = "{0} (was {1}): {2}".format(record.state, entry.state or before.state or "not judged yet", record.why)
            self.ledger.put(
                self.serve.name, replace(entry, state=record.state, why=record.why, since=since, incarnation=incarnation)
            )
            self.ledger.act(self.serve.name, told)
            return
        if record.state:
            self.ledger.put(self.serve.name, replace(entry, incarnation=incarnation))

    # ------------------------------------------------------------------------------------------------------------ healing

    def _tell_once(self, line: str) -> None:
        if line != self._told:
            self._told = line
            self.ledger.act(self.serve.name, line)

    def _heal(self) -> None:
        entry, now = self.ledger.get(self.serve.name), self.wall()
        incarnation = self.record.incarnation
        if entry.given_up == incarnation:
            return
        decision = healing.decide(entry.restarts, now, self.settings.restarts_per_hour, entry.in_vain)
        if decision.act == healing.GIVE_UP:
            self.ledger.put(self.serve.name, replace(entry, given_up=incarnation, healing=""))
            self._tell_once(
                "is not restarted again: {0}. When the cause is mended: "
                "ansible-playbook playbooks/restart.yml -e serves={1}".format(decision.why, self.serve.name)
            )
            return
        if decision.act == healing.WAIT:
            self._tell_once("hung; waits: the pause after a restart")
            return
        try:
            with self.lock():
                self._restart(decision.why)
        except AnvilError as exc:
            self._tell_once("was not restarted: " + exc.as_text())

    def _restart(self, why: str) -> None:
        """With the lock held, and on the container that was judged: someone may have stopped or replaced it since."""
        found = self.docker.inspect_container(self.serve.container)
        if (
            found is None
            or name_incarnation(found) != self.record.incarnation
            or describe_absence(found, self.wall()) != ("", "")
        ):
            return
        entry = self._save_incident(str(found["Id"]))
        now = self.wall()
        recent = (*healing.keep_recent(entry.restarts, now), now)
        entry = replace(entry, restarts=recent, total=entry.total + 1, in_vain=entry.in_vain + 1)
        entry = replace(entry, healing=self.record.incarnation, healing_since=now)
        self.ledger.put(self.serve.name, entry)
        self.ledger.act(self.serve.name, "restarts: {0}; {1}".format(self.record.why, why))
        self.docker.restart(str(found["Id"]))
        self._told = ""

    # ----------------------------------------------------------------------------------------------------------- idleness

    def _follow_idle(self, seen: Observation) -> None:
        """Stop a serve on demand that no client has used for as long as its inventory says."""
        lives = self.record.state in (liveness.ALIVE, liveness.BUSY) and not seen.frozen
        counters, incarnation = (seen.counters if lives else None), self.record.incarnation
        before, limit = self._idle, float(self.serve.idle)
        probed, leave = seen.probe is not None, self.limits.leave
        self._idle, act = idleness.follow(before, incarnation, counters, probed, self.clock(), limit, leave)
        words = idleness.describe_seconds(limit)
        if act == idleness.LEAVE:
            self.ledger.act(self.serve.name, "leaves the rotation: no request for {0} (idle)".format(words))
        elif act == idleness.RETURN and lives:
            self.ledger.act(self.serve.name, "is back in rotation: it is used again")
        elif act == idleness.STOP:
            try:
                with self.lock():
                    self._stop_idle(incarnation, words)
            except AnvilError as exc:
                self._tell_once("was not stopped: " + exc.as_text())

    def _stop_idle(self, incarnation: str, words: str) -> None:
        """With the lock held: look once more, at the same container, and stop it."""
        found = self.docker.inspect_container(self.serve.container)
        if found is None or name_incarnation(found) != incarnation or describe_absence(found, self.wall()) != ("", ""):
            return
        engine = self._connect(incarnation).look().engine
        counters = engine.counters if engine else None
        if counters is None or counters.running + counters.waiting or counters.progress != self._idle.progress:
            self._idle = Idleness(incarnation)
            self.ledger.act(self.serve.name, "is back in rotation: it is used again")
            return
        again = "ansible-playbook playbooks/up.yml -e serves={0}".format(self.serve.name)
        self.ledger.act(self.serve.name, "stops: no request for {0} (idle); to start it: {1}".format(words, again))
        self.docker.stop(str(found["Id"]))
        self._idle = Idleness()

    def _save_incident(self, container_id: str) -> Any:
        entry = self.ledger.get(self.serve.name)
        evidence: Dict[str, Any] = {
            "serve": self.serve.name,
            "engine": self.serve.engine,
            "state": self.record.state,
            "why": self.record.why,
            "time": self.wall(),
            "restarts": list(entry.restarts),
            "values": self.last.engine.values if self.last.engine else {},
        }
        parts = gather_incident(self.docker, container_id, evidence, self.last.metrics)
        try:
            path = save_incident(self.settings.data + "/incidents", self.serve.name, parts)
        except OSError as exc:
            self.ledger.act(self.serve.name, "its incident could not be saved: {0}".format(exc.strerror or exc))
            return entry
        entry = replace(entry, incidents=entry.incidents + 1, incident=path)
        self.ledger.put(self.serve.name, entry)
        self.ledger.act(self.serve.name, "incident saved: " + path)
        return entry

    def _finish_interrupted(self) -> None:
        """A restart that stopped the container and did not start it (the host or the Docker Engine ended between): start it."""
        entry, found = self.ledger.get(self.serve.name), self.found
        if not entry.healing or found is None or found["State"]["Status"] not in ("exited", "created"):
            return
        if not entry.healing.startswith(str(found["Id"]) + " ") or entry.healing != name_incarnation(found):
            return
        if not 0 <= self.wall() - entry.healing_since < UNFINISHED_SECONDS:
            return
        try:
            with self.lock():
                self.ledger.act(self.serve.name, "starts: its restart was interrupted")
                self.docker.start(str(found["Id"]))
                self.found = self.docker.inspect_container(str(found["Id"]))
        except AnvilError as exc:
            self._tell_once("was not started: " + exc.as_text())


def name_incarnation(found: Mapping[str, Any]) -> str:
    """A container and its start, as one text."""
    return "{0} {1}".format(found["Id"], found["State"]["StartedAt"])


def describe_absence(found: Optional[Mapping[str, Any]], now: float) -> Tuple[str, str]:
    """(why it is stopped on purpose, why it is dead), both empty for a container that runs.

    The Docker Engine restarts what crashes under ``always`` and ``unless-stopped``: one that rests was stopped by somebody.
    """
    if found is None:
        return "it has no container", ""
    state, status = found["State"], str(found["State"]["Status"])
    code, restarts = int(state.get("ExitCode") or 0), int(found.get("RestartCount") or 0)
    ended = "exit code {0}".format(code)
    if status == "paused":
        return "its container is paused", ""
    if status == "restarting" and restarts >= LOOP:
        return "", "restart loop: it has exited {0} times, last with {1}".format(restarts, ended)
    if status == "running":
        started = parse_moment(str(state["StartedAt"])) or 0.0
        looping = restarts >= LOOP and 0 <= now - started < CALM_SECONDS
        return "", "restart loop: it has exited {0} times".format(restarts) if looping else ""
    if status == "restarting":
        return "", "it exited with {0} and is being restarted".format(ended)
    policy = str((found["HostConfig"].get("RestartPolicy") or {}).get("Name") or "no")
    if state.get("OOMKilled"):
        return "", "the kernel killed it: out of memory ({0})".format(ended)
    if policy in ("always", "unless-stopped") or code in ENDED:
        return "its container was stopped", ""
    return "", "its container has exited with {0}".format(ended)


def build_lock(directory: str) -> Callable[[], ContextManager[int]]:
    """The lock of a project, without a wait."""
    return lambda: files.hold_lock(directory, 0.0)
