# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a container from its ``docker inspect``, and the faults of a process that is watched after its start. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, List, Mapping, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import collect_values, mask_text
from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import parse_moment
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import ContainerState

# Exit codes of a process that was asked to end: by SIGINT, SIGKILL, SIGTERM.
STOPPED_BY_OPERATOR = frozenset((0, 130, 137, 143))
# Characters of what a health check printed that a message shows.
SHOWN = 300


def parse_time(text: str) -> float:
    """Seconds since the epoch of Docker's RFC 3339 times; 0 for "never" (year 1)."""
    return parse_moment(text) or 0.0


def read_container_state(inspected: Optional[Mapping[str, Any]]) -> ContainerState:
    """The state of an inspected container; ``None`` is an absent one."""
    if inspected is None:
        return ContainerState(exists=False)
    state = inspected["State"]
    policy = (inspected.get("HostConfig") or {}).get("RestartPolicy") or {}
    exit_code, restarts = int(state.get("ExitCode") or 0), int(inspected["RestartCount"])
    failed = str(state["Status"]) == "exited" and exit_code != 0
    most = int(policy.get("MaximumRetryCount") or 0)
    health = state.get("Health") or {}
    checks = health.get("Log") or []
    last = checks[-1] if checks else {}
    complaint = ""
    if last.get("ExitCode"):
        environment = dict(str(line).partition("=")[::2] for line in inspected["Config"].get("Env") or ())
        said = " ".join(mask_text(str(last.get("Output") or ""), collect_values(environment)).split())
        complaint = said[:SHOWN] or "exit code {0}".format(last["ExitCode"])
    return ContainerState(
        exists=True,
        status=str(state["Status"]),
        container_id=str(inspected["Id"]),
        image_id=str(inspected["Image"]),
        started_at=parse_time(str(state["StartedAt"])),
        pid=int(state["Pid"]),
        restarts=restarts,
        gave_up=failed and policy.get("Name") == "on-failure" and 0 < most <= restarts,
        ended_alone=failed and policy.get("Name") in ("", "no", None) and exit_code not in STOPPED_BY_OPERATOR,
        exit_code=exit_code,
        oom_killed=bool(state.get("OOMKilled")),
        health=str(health.get("Status") or ""),
        last_check=parse_time(str(last.get("Start") or "")),
        complaint=complaint,
    )


@dataclass(frozen=True)
class Process:
    """One process of a container: its id on the host, the letters of its state (``ps``), and its name."""

    pid: int
    state: str
    name: str


class ProcessWatch:
    """A process that has just been started, or told to read its files again, and what becomes of it.

    may_be_unhealthy: the health check of its image failed before too. was_signalled: it is the process from before.
    """

    def __init__(self, first: ContainerState, may_be_unhealthy: bool, was_signalled: bool = False) -> None:
        self.first = first
        self.may_be_unhealthy = may_be_unhealthy
        # docker restart resets RestartCount to 0: any restart since then counts, regardless of the current state.
        self._restarts = first.restarts if was_signalled else 0
        # Only checks that began later count: Docker keeps those of earlier processes.
        self._since = first.last_check if was_signalled else first.started_at
        self._has_answered = False

    def note_answer(self, now: ContainerState) -> None:
        """It has answered a request of ours: a check that failed earlier came too soon."""
        self._since, self._has_answered = max(self._since, now.last_check), True

    def find_fault(self, now: ContainerState) -> str:
        """Why it has certainly failed; empty if it has not."""
        first = self.first
        if not now.exists:
            return "it was removed meanwhile"
        if now.container_id != first.container_id:
            return "another container took its name meanwhile"
        is_same = (now.started_at, now.pid) == (first.started_at, first.pid)
        if now.status != "running" or now.restarts > self._restarts or not is_same:
            memory = ", killed because it reached its memory limit" if now.oom_killed else ""
            return "it does not stay up: {0}, restarted {1} times{2}".format(now.status, now.restarts, memory)
        if now.is_unhealthy and not self.may_be_unhealthy:
            return "its health check fails: " + (now.complaint or "Docker reports it as unhealthy")
        return ""

    def find_doubt(self, now: ContainerState) -> str:
        """Why its health is not decided yet; empty if there is nothing to wait for."""
        if not now.health or self.may_be_unhealthy or now.is_unhealthy:
            return ""
        if now.last_check > self._since:
            return "the last health check failed: " + now.complaint if now.complaint else ""
        return "" if self._has_answered else "no health check has run yet, and no request can be sent to it"

    def list_warnings(self, now: ContainerState, before: Sequence[Process], after: Sequence[Process]) -> List[str]:
        """What is doubtful about it although it came up. before, after: its processes at two moments."""
        found = []
        if now.is_unhealthy and self.may_be_unhealthy:
            found.append("its health check fails, as it did before: " + (now.complaint or "Docker reports it as unhealthy"))
        if now.oom_killed and not self.first.oom_killed:
            found.append("the kernel ended one of its processes, because the container reached its memory limit")
        dead = {each.pid for each in before if each.state.startswith("Z")}
        names = sorted({each.name for each in after if each.state.startswith("Z") and each.pid in dead})
        if names:
            found.append("processes of it have ended and are kept as zombies: " + ", ".join(names))
        return found


def is_stopped(pid: int, processes: Sequence[Process]) -> bool:
    """Whether the main process is stopped by a signal or a debugger, and so does nothing."""
    return any(each.pid == pid and each.state[:1] in ("T", "t") for each in processes)
