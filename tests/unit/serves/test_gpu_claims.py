"""The GPUs of a container for every way to request them; the ledger and the status use this."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card, MigDevice
from ansible_collections.anvil.serving.plugins.module_utils.serves.gpu_claims import HostNames, cards_of, claim_of

A, B = "GPU-fef8089b-1111-2222-3333-444444444444", "GPU-0a0b0c0d-1111-2222-3333-444444444444"
CARDS = [
    Card(0, A, "H100", "9.0", 81559, 4, "580", "00000000:0A:00.0"),
    Card(1, B, "H100", "9.0", 81559, 4, "580", "00000000:1B:00.0"),
]
ORIN = "54d0709b-0000-0000-0000-9c9f2a3e5d2e"
M, N = "MIG-11111111-2222-3333-4444-555555555555", "MIG-22222222-2222-3333-4444-555555555555"
SLICED = [replace(CARDS[0], mig=True, mig_devices=(MigDevice(M, "3g.40gb"), MigDevice(N, "3g.40gb"))), CARDS[1]]
ALL = "NVIDIA_VISIBLE_DEVICES=all"


def inspected(env: list[str] | None = None, **host: Any) -> dict[str, Any]:
    return {"Name": "/x", "State": {"Status": "running"}, "HostConfig": host, "Config": {"Env": env, "Labels": {}}}


def request(*ids: str, driver: str = "nvidia", count: int = 0) -> list[dict[str, Any]]:
    return [{"Driver": driver, "DeviceIDs": list(ids) or None, "Count": count, "Capabilities": [["gpu"]]}]


def runtime(value: str, name: str = "nvidia") -> dict[str, Any]:
    return inspected([f"NVIDIA_VISIBLE_DEVICES={value}"], Runtime=name)


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (inspected(DeviceRequests=request(A)), (A,)),
        (inspected(DeviceRequests=request("1")), (B,)),
        (inspected(DeviceRequests=request(count=-1, driver="")), (A, B)),
        (inspected(DeviceRequests=request(count=1)), (A,)),
        (inspected(DeviceRequests=request(count=0)), ()),
        (inspected(DeviceRequests=request("GPU-fef8089b")), (A,)),
        (inspected(DeviceRequests=request(A.lower())), (A,)),
        (inspected(DeviceRequests=request("nvidia.com/gpu=all", driver="cdi")), (A, B)),
        (inspected(DeviceRequests=request("nvidia.com/gpu=1", driver="cdi")), (B,)),
        (inspected(DeviceRequests=request("nvidia.com/gpu=gpu1", driver="cdi")), (B,)),
        (inspected(DeviceRequests=request("nvidia.com/gpu=" + A, driver="cdi")), (A,)),
        (inspected(DeviceRequests=request("management.nvidia.com/gpu=all", driver="cdi")), (A, B)),
        (inspected(DeviceRequests=request("amd.com/gpu=all", driver="cdi")), ()),
        (inspected(DeviceRequests=request("0", driver="amd")), ()),
        (inspected(DeviceRequests=request(A, driver="nvidia.runtime-hook")), (A,)),
        (inspected(DeviceRequests=[*request("0"), *request("1")]), (A, B)),
        (inspected(DeviceRequests=request("0, 1")), (A, B)),  # the engine joins them with commas
        (inspected(DeviceRequests=[{"Driver": "", "Count": -1, "Capabilities": [["tpu"]]}]), ()),
        (inspected(DeviceRequests=[{"Driver": "", "Count": -1, "Capabilities": [["gpu", "compute"]]}]), (A, B)),
        (inspected(DeviceRequests=[{"Driver": "", "Count": -1, "Capabilities": "gpu"}]), (A, B)),
        (inspected(DeviceRequests=request("nvidia.com/gpu=0", "amd.com/gpu=1", driver="cdi")), (A,)),
        # the request overrides the image's variable; a request for no GPU sets it to void
        (inspected([ALL], Runtime="nvidia", DeviceRequests=request(A)), (A,)),
        (inspected([ALL], Runtime="nvidia", DeviceRequests=request("nvidia.com/gpu=1", driver="cdi")), (B,)),
        (inspected([ALL], Runtime="nvidia", DeviceRequests=request(count=0)), ()),
        (inspected([ALL], Runtime="nvidia", DeviceRequests=request("amd.com/gpu=0", driver="cdi")), (A, B)),
        (runtime("all"), (A, B)),
        (runtime("ALL"), (A, B)),
        (runtime("0"), (A,)),
        (runtime("0, 1"), (A, B)),
        (runtime("1,,1"), (B,)),
        (runtime("GPU-fef8089b"), (A,)),
        (runtime("nvidia.com/gpu=1"), (B,)),
        (runtime("0000:1b:00.0"), (B,)),
        (runtime("void"), ()),
        (runtime("none"), ()),
        (runtime(""), ()),
        (runtime("0,void"), ()),
        (runtime("all", "nvidia-container-runtime"), (A, B)),
        (runtime("all", "nvidia-legacy"), (A, B)),
        (runtime("all", "/usr/bin/nvidia-container-runtime"), (A, B)),
        (runtime("all", "gpus"), (A, B)),  # a runtime name of the Docker Engine for NVIDIA's program
        (runtime("all", "runc"), ()),
        (runtime("all", ""), ()),
        (inspected([ALL, "NVIDIA_VISIBLE_DEVICES=1"], Runtime="nvidia"), (B,)),  # the last one counts
        (inspected(["CUDA_VERSION=8.0.61"], Runtime="nvidia"), (A, B)),
        (inspected(["CUDA_VERSION=12.4", "NVIDIA_REQUIRE_CUDA=cuda>=12.4"], Runtime="nvidia"), ()),
        (inspected(None, Runtime="nvidia"), ()),
        (inspected(Devices=[{"PathOnHost": "/dev/nvidia0"}, {"PathOnHost": "/dev/nvidiactl"}]), (B,)),  # by its minor number
        (inspected(Devices=[{"PathOnHost": "/dev/nvidia1"}]), (B,)),  # the minor number is unknown: read as the index
        (inspected(Devices=[{"PathOnHost": "/dev/dxg"}]), (A, B)),
        (inspected(Devices=[{"PathOnHost": "nvidia.com/gpu=1"}]), (B,)),  # Podman
        # a Kubernetes node that passes GPUs as mounts
        (
            {
                **runtime("/var/run/nvidia-container-devices"),
                "Mounts": [{"Type": "bind", "Source": "/dev/null", "Destination": "/var/run/nvidia-container-devices/" + B}],
            },
            (B,),
        ),
        (runtime("/var/run/nvidia-container-devices"), ()),
        (inspected(Devices=[{"PathOnHost": "/dev/nvidia-uvm"}, None, {}]), ()),
        (inspected(DeviceRequests=request("GPU-gone")), ("GPU-gone",)),
        (inspected(DeviceRequests=None, Devices=None, Runtime=None), ()),
        ({"HostConfig": None, "Config": None}, ()),
        ({}, ()),
    ],
)
def test_the_gpus_of_a_container_are_found(raw: dict[str, Any], found: tuple[str, ...]) -> None:
    assert cards_of(raw, CARDS, HostNames({0: B}, ("gpus",))) == found


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (inspected(DeviceRequests=request(M)), (M,)),
        (inspected(DeviceRequests=request("0:1")), (N,)),
        (inspected(DeviceRequests=request("nvidia.com/gpu=mig0:1", driver="cdi")), (N,)),
        (inspected(DeviceRequests=request("MIG-11111111")), (M,)),
        (inspected(DeviceRequests=request(count=-1)), (M, N, B)),
        (runtime("all"), (M, N, B)),
        (runtime("0:0,1"), (M, B)),
    ],
)
def test_a_mig_device_counts_as_a_gpu(raw: dict[str, Any], found: tuple[str, ...]) -> None:
    assert cards_of(raw, SLICED) == found


def test_an_impossible_gpu_count_takes_no_time() -> None:
    assert cards_of(inspected(DeviceRequests=request(count=10**15)), CARDS)[:2] == (A, B)


def test_an_ambiguous_short_uuid_matches_no_gpu_and_a_lost_gpu_has_no_uuid() -> None:
    twins = [replace(CARDS[0], uuid="GPU-abcd0001"), replace(CARDS[1], uuid="GPU-abcd0002"), replace(CARDS[1], index=2, uuid="")]
    assert cards_of(runtime("GPU-abcd"), twins) == ("GPU-abcd",)
    assert cards_of(runtime("all"), twins) == ("GPU-abcd0001", "GPU-abcd0002")
    assert cards_of(runtime("54d0709b"), [replace(CARDS[0], uuid=ORIN)]) == (ORIN,)


def test_a_claim_is_read_from_an_incomplete_container_description() -> None:
    claim = claim_of({"Id": "abc", "HostConfig": {"DeviceRequests": request("0")}, "Config": None, "State": None}, CARDS)
    assert claim is not None and (claim.holder, claim.uuids, claim.mib) == ("container abc (exited)", (A,), None)
