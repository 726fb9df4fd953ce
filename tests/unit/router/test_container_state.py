# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What Docker reports about a container, and what becomes of a process that was just started."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.documents import read_container
from ansible_collections.anvil.serving.plugins.module_utils.promotion.container_troubles import describe_troubles
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import ContainerState
from ansible_collections.anvil.serving.plugins.module_utils.router.container_state import (
    Process,
    ProcessWatch,
    is_stopped,
    parse_time,
    read_container_state,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:01.5Z", 1.5),
        ("2026-07-04T10:00:00.123456789Z", 1783159200.123456789),
        ("2026-07-04T10:00:00Z", 1783159200.0),
        ("0001-01-01T00:00:00Z", 0.0),
        ("", 0.0),
    ],
)
def test_timestamps_of_the_engine_are_parsed(text: str, seconds: float) -> None:
    assert parse_time(text) == pytest.approx(seconds)


def inspected(policy: str = "unless-stopped", retries: int = 0, restarts: int = 0, **state: Any) -> dict[str, Any]:
    started = {"Status": "running", "Pid": 7, "StartedAt": "2026-07-04T10:00:00Z", **state}
    return read_container(
        {
            "Id": "a" * 64,
            "Name": "/r",
            "Image": "i",
            "RestartCount": restarts,
            "State": started,
            "Config": {"Env": ["SOME_TOKEN=zq-secret-zq"]},
            "HostConfig": {"RestartPolicy": {"Name": policy, "MaximumRetryCount": retries}},
        }
    )


@pytest.mark.parametrize(
    ("policy", "retries", "restarts", "exit_code", "gave_up", "ended_alone"),
    [
        ("no", 0, 0, 3, False, True),
        ("", 0, 0, 1, False, True),
        ("no", 0, 0, 0, False, False),
        ("no", 0, 0, 143, False, False),  # docker stop
        ("on-failure", 3, 3, 3, True, False),
        ("on-failure", 3, 1, 3, False, False),
        ("unless-stopped", 0, 4, 3, False, False),
    ],
)
def test_a_container_that_nothing_starts_again_is_told_from_a_stopped_one(
    policy: str, retries: int, restarts: int, exit_code: int, gave_up: bool, ended_alone: bool
) -> None:
    state = read_container_state(inspected(policy, retries, restarts, Status="exited", ExitCode=exit_code))
    assert (state.gave_up, state.ended_alone) == (gave_up, ended_alone)
    assert ("ended by itself (exit code" in str(describe_troubles("r", state, 0, 2e9))) == ended_alone


def test_what_a_failed_health_check_said_is_read_without_secrets() -> None:
    log = [
        {"Start": "2026-07-04T10:00:01Z", "ExitCode": 0, "Output": "fine"},
        {"Start": "2026-07-04T10:00:05Z", "ExitCode": 1, "Output": "503 for zq-secret-zq\n"},
    ]
    state = read_container_state(inspected(Health={"Status": "unhealthy", "Log": log}))
    assert state.is_unhealthy and state.last_check == parse_time("2026-07-04T10:00:05Z")
    assert state.complaint == "503 for <hidden>"
    assert describe_troubles("r", state, 0, 2e9) == ["r runs, but the health check of its image fails: 503 for <hidden>"]
    assert not describe_troubles("r", read_container_state(inspected(Health={"Status": "healthy", "Log": log[:1]})), 0, 2e9)
    silent = read_container_state(inspected(Health={"Status": "starting", "Log": [{"Start": "", "ExitCode": 137, "Output": ""}]}))
    assert silent.complaint == "exit code 137"
    assert not read_container_state(None).exists


FIRST = ContainerState(True, "running", "a", "i", 100.0, 7, health="starting")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"health": "healthy"}, ""),
        ({"health": "unhealthy", "complaint": "no"}, "its health check fails: no"),
        ({"status": "exited"}, "does not stay up"),
        ({"status": "paused"}, "does not stay up: paused"),
        ({"restarts": 1, "oom_killed": True}, "memory limit"),
        ({"pid": 8}, "does not stay up"),
        ({"container_id": "b", "pid": 8}, "another container took its name"),
        ({"exists": False, "status": "absent"}, "was removed"),
        ({"oom_killed": True}, ""),
    ],
)
def test_a_watched_process_fails_only_on_proof(changes: dict[str, Any], said: str) -> None:
    found = ProcessWatch(FIRST, may_be_unhealthy=False).find_fault(replace(FIRST, **changes))
    assert (said in found) if said else not found


def test_a_health_check_that_failed_before_is_a_warning() -> None:
    now = replace(FIRST, health="unhealthy", complaint="curl: not found", last_check=105.0)
    watch = ProcessWatch(FIRST, may_be_unhealthy=True)
    assert not watch.find_fault(now) and not watch.find_doubt(now)
    assert watch.list_warnings(now, (), ()) == ["its health check fails, as it did before: curl: not found"]


@pytest.mark.parametrize(
    ("answered_at", "health", "last_check", "complaint", "doubtful"),
    [
        (None, "", 0.0, "", False),  # no health check: nothing to wait for
        (None, "starting", 0.0, "", True),  # the only evidence
        (None, "starting", 99.0, "of the process before", True),
        (None, "healthy", 101.0, "", False),
        (100.0, "starting", 0.0, "", False),  # it answered: the first check may come in minutes
        (102.0, "starting", 102.0, "too early", False),  # the check came before it answered
        (102.0, "starting", 103.0, "no", True),
        (102.0, "healthy", 103.0, "no", True),
    ],
)
def test_a_check_that_decides_is_waited_for(
    answered_at: float | None, health: str, last_check: float, complaint: str, doubtful: bool
) -> None:
    watch = ProcessWatch(FIRST, may_be_unhealthy=False)
    if answered_at is not None:
        watch.note_answer(replace(FIRST, last_check=answered_at))
    now = replace(FIRST, health=health, last_check=last_check, complaint=complaint)
    assert bool(watch.find_doubt(now)) == doubtful


def test_dead_children_and_memory_are_warnings_and_a_stopped_main_process_is_proof() -> None:
    before = (Process(7, "Ssl", "main"), Process(8, "Z", "worker"), Process(9, "Z", "brief"))
    after = (Process(7, "Ssl", "main"), Process(8, "Z", "worker"), Process(10, "Z", "new"))
    found = ProcessWatch(FIRST, may_be_unhealthy=False).list_warnings(replace(FIRST, oom_killed=True), before, after)
    assert len(found) == 2 and "memory limit" in found[0] and found[1].endswith("zombies: worker")
    assert (
        is_stopped(7, (Process(7, "Tsl", "main"),)) and not is_stopped(7, before) and not is_stopped(7, (Process(8, "T", "w"),))
    )
