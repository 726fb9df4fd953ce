"""Drift, against the recorded description of a real container (Docker Engine 26.1.5, llama-server)."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.service import LABEL_SPEC, LABEL_VRAM, Mount, Service
from ansible_collections.anvil.serving.plugins.module_utils.serves import decisions, drift
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import observe_container, observe_image

RECORDED = json.loads((Path(__file__).parents[1] / "data" / "engine-26.1.5-llama.json").read_text())
PROJECT = "anvil-serves"
SECRETS = {"TOK": "abc$def"}


def wanted(**fields: Any) -> Service:
    """The service that the recorded container was made of."""
    labels = {k: v for k, v in RECORDED["container"]["Config"]["Labels"].items() if k.startswith("anvil.serving.")}
    args = ("--model", "/models/heavy.gguf", "--alias", "heavy", "--host", "0.0.0.0", "--port", "30002")
    service = Service(
        name="heavy",
        container="t-heavy",
        image="anvil.local/llama-server:1",
        command=(*args, "-c", "1024", "-t", "1"),
        environment={"A": "1"},
        env_files=("env/heavy.env",),
        ports=(("127.0.0.1", 30002, "30002/tcp"),),
        mounts=(Mount("bind", "/tmp/testbed/models", "/models", True),),
        networks=("anvil",),
        ipc="host",
        shm_bytes=1 << 30,
        restart="unless-stopped",
        read_only=True,
        tmpfs=("/tmp",),
        init=True,
        cap_drop=("ALL",),
        security_opt=("no-new-privileges:true",),
        labels=labels,
    )
    return replace(service, **fields)


def compare(service: Service, container: dict[str, Any] | None = None, **kwargs: Any) -> list[drift.Change]:
    seen = observe_container(container or RECORDED["container"])
    image = observe_image(RECORDED["image"])
    return drift.diff_service(service, kwargs.get("secrets", SECRETS), seen, image, kwargs.get("wanted_image", image))


def reasons(changes: list[drift.Change]) -> list[str]:
    return [change.reason for change in changes]


def test_newer_versions_of_compose_write_capabilities_with_their_prefix() -> None:
    container = copy.deepcopy(RECORDED["container"])
    container["HostConfig"]["CapDrop"] = ["CAP_NET_RAW"]  # Compose 2.40.3; 2.26.1 wrote NET_RAW
    assert compare(wanted(cap_drop=("NET_RAW",)), container) == []
    assert reasons(compare(wanted(cap_drop=("ALL",)), container)) == ["capabilities"]


def test_a_container_made_of_the_service_has_no_drift() -> None:
    assert compare(wanted()) == []


def test_labels_of_the_image_are_no_drift_and_ours_are() -> None:
    """anvil_image marks its images with labels of ours, and every container inherits them."""
    container, image = copy.deepcopy(RECORDED["container"]), copy.deepcopy(RECORDED["image"])
    image["Config"]["Labels"] = {"anvil.serving.content": "abc", "anvil.serving.engine": "vllm"}
    container["Config"]["Labels"]["anvil.serving.content"] = "abc"
    brought = observe_image(image)
    assert drift.diff_service(wanted(), SECRETS, observe_container(container), brought, brought) == []
    container["Config"]["Labels"]["anvil.serving.engine"] = "vllm"  # ours went missing, and the image's shines through
    assert reasons(drift.diff_service(wanted(), SECRETS, observe_container(container), brought, brought)) == ["labels"]


def test_an_image_that_is_not_here_yet_is_no_drift_while_its_name_is_the_same() -> None:
    assert compare(wanted(), wanted_image=None) == []


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"image": "anvil.local/llama-server:2"}, "image"),
        ({"command": ("--model", "/models/other.gguf")}, "command"),
        ({"entrypoint": ("vllm",)}, "entrypoint"),
        ({"environment": {"A": "2"}}, "environment"),
        ({"environment": {}}, "environment"),
        ({"environment": {"A": "1", "B": "1"}}, "environment"),
        ({"gpu_uuids": ("GPU-1",)}, "gpu"),
        ({"ports": (("0.0.0.0", 30002, "30002/tcp"),)}, "ports"),
        ({"ports": (("127.0.0.1", 30009, "30002/tcp"),)}, "ports"),
        ({"mounts": (Mount("bind", "/elsewhere", "/models", True),)}, "mounts"),
        ({"mounts": (Mount("bind", "/tmp/testbed/models", "/models", False),)}, "mounts"),
        ({"networks": ("other",)}, "networks"),
        ({"ipc": ""}, "ipc"),
        ({"shm_bytes": 1 << 20}, "shm"),
        ({"restart": "no"}, "restart_policy"),
        ({"user": "1000"}, "user"),
        ({"read_only": False}, "read_only"),
        ({"tmpfs": ()}, "tmpfs"),
        ({"init": False}, "init"),
        ({"healthcheck": ("CMD", "true")}, "healthcheck"),
        ({"cap_drop": ()}, "capabilities"),
        ({"security_opt": ()}, "security_opt"),
        ({"extra_hosts": ("host.docker.internal:host-gateway",)}, "extra_hosts"),
        ({"memory_bytes": 1 << 30}, "limits"),
        ({"container": "other"}, "name"),
        ({"addresses": {"anvil": "10.0.0.3"}}, "addresses"),
        ({"stop_signal": "SIGINT"}, "stop_signal"),
        ({"stop_grace": 30}, "stop_grace"),
        ({"working_dir": "/elsewhere"}, "working_dir"),
    ],
)
def test_each_edited_field_is_the_only_reason(fields: dict[str, Any], reason: str) -> None:
    assert reasons(compare(wanted(**fields))) == [reason]


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("HostConfig", "RestartPolicy", "Name"), "no", "restart_policy"),
        (("HostConfig", "Memory"), 1 << 31, "limits"),
        (("HostConfig", "NanoCpus"), 10**9, "limits"),
        (("HostConfig", "DeviceRequests"), [{"Driver": "nvidia", "Count": -1, "DeviceIDs": None}], "gpu"),
        (("Name",), "/renamed", "name"),
        (("NetworkSettings", "Networks"), {}, "networks"),
        (("NetworkSettings", "Networks", "anvil", "IPAMConfig"), {"IPv4Address": "10.0.0.9"}, "addresses"),
        (("Config", "StopSignal"), "SIGINT", "stop_signal"),
        (("Config", "StopTimeout"), 5, "stop_grace"),
    ],
)
def test_a_container_changed_by_hand_is_seen(path: tuple[str, ...], value: Any, reason: str) -> None:
    container = copy.deepcopy(RECORDED["container"])
    spot = container
    for key in path[:-1]:
        spot = spot[key]
    spot[path[-1]] = value
    assert reasons(compare(wanted(), container)) == [reason]


def test_a_retagged_image_is_seen_by_its_id() -> None:
    other = replace(observe_image(RECORDED["image"]), id="sha256:other")
    assert reasons(compare(wanted(), wanted_image=other)) == ["image"]


def test_a_changed_secret_is_told_by_name_and_never_by_value() -> None:
    changes = compare(wanted(), secrets={"TOK": "a new token"})
    assert reasons(changes) == ["env_file"]
    assert "a new token" not in str(changes) and "abc$def" not in str(changes)


def test_environment_is_told_by_name_only() -> None:
    (change,) = compare(wanted(environment={"A": "hidden value", "B": "x"}))
    assert (change.before, change.after) == ({"A": "set", "B": "absent"}, {"A": "changed", "B": "set"})


def test_a_spec_that_no_field_explains_is_a_stale_container() -> None:
    container = copy.deepcopy(RECORDED["container"])
    container["Config"]["Labels"][LABEL_SPEC] = "2:one"
    assert reasons(compare(wanted(labels={**wanted().labels, LABEL_SPEC: "2:other"}), container)) == ["stale_container"]


def test_a_hash_of_another_format_is_not_compared_so_a_new_release_restarts_nothing() -> None:
    assert compare(wanted(labels={**wanted().labels, LABEL_SPEC: "9:another"})) == []


def test_labels_that_an_image_of_ours_brings_are_no_difference() -> None:
    container = copy.deepcopy(RECORDED["container"])
    container["Config"]["Labels"].update({"anvil.serving.content": "a" * 64, "anvil.serving.base": "sha256:b"})
    assert compare(wanted(), container) == []


def test_the_vram_need_is_bookkeeping_and_restarts_nothing() -> None:
    assert compare(wanted(labels={**wanted().labels, LABEL_VRAM: "999"})) == []


@pytest.mark.parametrize(
    ("state", "action", "why"),
    [
        ({}, decisions.NONE, ()),
        ({"Status": "exited"}, decisions.START, ("stopped",)),
        ({"Status": "created"}, decisions.START, ("stopped",)),
        ({"Status": "paused"}, decisions.UNPAUSE, ("paused",)),
        ({"Status": "restarting"}, decisions.NONE, ()),
        ({"Status": "dead"}, decisions.RECREATE, ("dead",)),
        ({"Health": {"Status": "unhealthy"}}, decisions.RECREATE, ("unhealthy",)),
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
def test_down(status: str | None, keep: bool, action: str) -> None:
    seen = None
    if status is not None:
        container = copy.deepcopy(RECORDED["container"])
        container["State"]["Status"] = status
        seen = observe_container(container)
    assert decisions.decide_down(seen, keep).action == action
