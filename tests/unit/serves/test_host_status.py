"""Which GPUs a container holds, and what it is: serve, experiment or squatter."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card
from ansible_collections.anvil.serving.plugins.module_utils.serves.host_status import describe_holder, devices_of

CARDS = [Card(0, "GPU-a", "Big", "12.0", 1000, 250, "1", "x"), Card(1, "GPU-b", "Small", "12.0", 500, None, "1", "y")]


def request(**fields: Any) -> dict[str, Any]:
    return {"HostConfig": {"DeviceRequests": [{"Driver": "nvidia", **fields}]}}


@pytest.mark.parametrize(
    ("raw", "uuids"),
    [
        (request(DeviceIDs=["GPU-b"]), ["GPU-b"]),
        (request(DeviceIDs=["1"]), ["GPU-b"]),
        (request(Count=-1), ["GPU-a", "GPU-b"]),
        (request(Count=1), ["GPU-a"]),
        ({"HostConfig": {"Runtime": "nvidia"}, "Config": {"Env": ["NVIDIA_VISIBLE_DEVICES=0,GPU-b"]}}, ["GPU-a", "GPU-b"]),
        ({"HostConfig": {"Runtime": "nvidia"}, "Config": {"Env": ["NVIDIA_VISIBLE_DEVICES=all"]}}, ["GPU-a", "GPU-b"]),
        ({"HostConfig": {"Runtime": "runc"}, "Config": {"Env": ["NVIDIA_VISIBLE_DEVICES=all"]}}, []),
        ({"HostConfig": {}}, []),
    ],
)
def test_which_cards_a_container_holds(raw: dict[str, Any], uuids: list[str]) -> None:
    assert devices_of(raw, CARDS) == uuids


@pytest.mark.parametrize(
    ("labels", "kind", "name"),
    [
        ({"com.docker.compose.project": "anvil-serves", "anvil.serving.serve": "heavy"}, "serve", "heavy"),
        (
            {"com.docker.compose.project": "anvil-experiment-t", "anvil.serving.serve": "t", "anvil.serving.experiment": "t"},
            "experiment",
            "t",
        ),
        ({"com.docker.compose.project": "other", "anvil.serving.serve": "heavy"}, "squatter", "box"),
        ({}, "squatter", "box"),
    ],
)
def test_who_a_container_is_to_us(labels: dict[str, str], kind: str, name: str) -> None:
    found = describe_holder({"Name": "/box", "Config": {"Labels": labels}}, "anvil-serves")
    assert (found["kind"], found["name"]) == (kind, name)
