"""Hosts with other setups: NVIDIA's runtime as the default, a card that does not work, IPv6 addresses."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from bed import RTX_5090, RTX_PRO_6000, Bed, wait_until
from serving import FAST_GPU, HEAVY_GPU, Field, actions, scripted


@pytest.fixture
def reconfigure(bed: Bed) -> Iterator[Callable[..., None]]:
    """Changes settings of the bed's Docker Engine, which reads them again on SIGHUP, and restores them."""
    config = bed.run_dir / "daemon.json"
    before = config.read_text()

    def apply(**settings: Any) -> None:
        config.write_text(json.dumps({**json.loads(before), **settings}))
        os.kill(bed.engine_pid() or 0, signal.SIGHUP)
        wait_until("the settings", lambda: bed.get("/info")["DefaultRuntime"] == settings["default-runtime"])

    yield apply
    apply(**{"default-runtime": "runc", "runtimes": {}})
    config.write_text(before)


def test_a_serve_holds_only_its_own_card_where_every_container_has_nvidias_runtime(
    field: Field, reconfigure: Callable[..., None]
) -> None:
    """The runtime is a stand-in: runc with the name nvidia. The images of engines set NVIDIA_VISIBLE_DEVICES=all."""
    reconfigure(**{"default-runtime": "nvidia", "runtimes": {"nvidia": {"path": "runc"}}})
    field.gpus = [
        {"alias": "pro6000", "uuid": HEAVY_GPU, "vram_mib": 97887, "reserve_mib": 2048},
        {"alias": "rtx5090", "uuid": FAST_GPU, "vram_mib": 32607, "reserve_mib": 3072},
    ]
    for name, need in (("heavy", 86000), ("fast", 27000)):
        field.edit(name, secrets={}, mounts=(), vram_mib=need, **scripted(SERVES=name, NVIDIA_VISIBLE_DEVICES="all"))
    assert not field.run(serves=["heavy"])["failed"]
    assert not field.run()["failed"]
    seen = field.bed.get("/containers/bed-heavy/json")
    assert seen["HostConfig"]["Runtime"] == "nvidia" and "NVIDIA_VISIBLE_DEVICES=all" in seen["Config"]["Env"]
    assert actions(field.run()) == {"heavy": ("none", []), "fast": ("none", [])}


def test_a_card_that_does_not_work_stops_only_its_own_serve(field: Field) -> None:
    """The simulated driver lists the card as NVIDIA's driver lists a card that needs a reset."""
    for name in ("heavy", "fast"):
        field.edit(name, secrets={}, mounts=(), **scripted(SERVES=name))
    field.bed.write_gpus([RTX_5090, replace(RTX_PRO_6000, uuid="[GPU requires reset]")])
    assert not field.run(serves=["fast"])["failed"]
    refused = field.run(serves=["heavy"])
    assert (
        refused["failed"] and f"GPU {HEAVY_GPU} is not on this host" in refused["msg"] and "GPU requires reset" in refused["msg"]
    )
    assert list(field.bed.started()) == ["bed-fast"]


def test_a_serve_binds_an_ipv6_address_and_an_address_missing_on_the_host_is_refused(field: Field) -> None:
    field.edit("heavy", secrets={}, mounts=(), bind="[::1]", **scripted(SERVES="heavy"))
    field.edit("fast", secrets={}, mounts=(), bind="192.0.2.77", **scripted(SERVES="fast"))
    refused = field.foresee()
    assert refused["failed"] and "serve fast: the host does not have the address 192.0.2.77" in refused["msg"]
    assert field.bed.started() == {}
    field.edit("fast", bind="127.0.0.1", port=field.serves["heavy"].port)  # the same port on the other address family
    done = field.foresee()
    assert not done["failed"] and done["serves"]["heavy"]["endpoint"] == f"http://[::1]:{field.serves['heavy'].port}/v1"
    assert not field.run()["changed"]
