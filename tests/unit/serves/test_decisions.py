"""Decisions from the state and drift of a container."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.serves import decisions
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import observe_container
from recordedserve import PROJECT, RECORDED, compare, wanted


@pytest.mark.parametrize(
    ("state", "action", "why"),
    [
        ({}, decisions.NONE, ()),
        ({"Status": "exited"}, decisions.START, ("stopped",)),
        ({"Status": "created"}, decisions.START, ("stopped",)),
        ({"Status": "paused"}, decisions.UNPAUSE, ("paused",)),
        ({"Status": "restarting"}, decisions.NONE, ()),
        ({"Status": "dead"}, decisions.RECREATE, ("dead",)),
        ({"Health": {"Status": "unhealthy"}}, decisions.NONE, ()),
        ({"OOMKilled": True, "ExitCode": 137}, decisions.NONE, ()),
        ({"Status": "restarting", "ExitCode": 137}, decisions.RECREATE, ("killed",)),
        ({"Status": "restarting", "ExitCode": 137, "OOMKilled": True}, decisions.NONE, ()),
        ({"Status": "restarting", "ExitCode": 7}, decisions.NONE, ()),
        ({"Health": {"Status": "starting"}}, decisions.NONE, ()),
    ],
)
def test_state_decides_the_action(state: dict[str, Any], action: str, why: tuple[str, ...]) -> None:
    container = copy.deepcopy(RECORDED["container"])
    container["State"].update(state)
    seen = observe_container(container)
    decision = decisions.decide_up(compare(wanted(), container), seen, PROJECT)
    assert (decision.action, decision.reasons) == (action, why)


def test_an_unhealthy_container_is_recreated_if_the_service_defines_the_health_check() -> None:
    container = copy.deepcopy(RECORDED["container"])
    container["State"]["Health"] = {"Status": "unhealthy"}
    decision = decisions.decide_up([], observe_container(container), PROJECT, own_healthcheck=True)
    assert (decision.action, decision.reasons) == (decisions.RECREATE, ("unhealthy",))


def test_a_missing_container_is_created() -> None:
    assert decisions.decide_up(None, None, PROJECT) == decisions.Decision(decisions.CREATE, ("missing",))


def test_a_paused_container_with_drift_is_recreated_not_unpaused() -> None:
    container = copy.deepcopy(RECORDED["container"])
    container["State"]["Status"] = "paused"
    changes = compare(wanted(ipc=""), container)
    assert decisions.decide_up(changes, observe_container(container), PROJECT).action == decisions.RECREATE


@pytest.mark.parametrize(
    ("status", "keep", "action"),
    [
        (None, False, decisions.NONE),
        (None, True, decisions.NONE),
        ("running", False, decisions.REMOVE),
        ("running", True, decisions.STOP),
        ("exited", True, decisions.NONE),
        ("exited", False, decisions.REMOVE),
    ],
)
def test_state_and_keep_decide_the_action_of_down(status: str | None, keep: bool, action: str) -> None:
    seen = None
    if status is not None:
        container = copy.deepcopy(RECORDED["container"])
        container["State"]["Status"] = status
        seen = observe_container(container)
    assert decisions.decide_down(seen, keep).action == action
