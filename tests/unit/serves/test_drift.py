"""Drift, against the recorded description of a real container (Docker Engine 26.1.5, llama-server)."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import LABEL_SPEC, LABEL_VRAM, Mount
from ansible_collections.anvil.serving.plugins.module_utils.serves import drift
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import observe_container, observe_image
from recordedserve import RECORDED, SECRETS, compare, wanted


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
