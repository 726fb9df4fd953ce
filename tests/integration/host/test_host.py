"""anvil_host_info on hosts with two cards, without a driver, and with a failing driver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.host.docker_daemon import validate_settings
from bed import FAKOLI_DARK, Bed, Gpu
from conftest import COLLECTIONS
from harness import run_module

SLICE = {"uuid": "MIG-c7384736-a75d-5afc-978f-d2f1294409fd", "profile": "1g.24gb"}
UNKNOWN = Gpu("GPU-00000000-0000-0000-0000-000000000139", "NVIDIA Something New", compute_cap="13.9")


def test_two_cards_are_reported_with_their_capabilities(clean_bed: Bed) -> None:
    host = run_module("anvil_host_info")
    assert [gpu["uuid"] for gpu in host["gpus"]] == [gpu.uuid for gpu in FAKOLI_DARK]
    big = host["gpus"][1]
    assert (big["vram_total_mib"], big["vram_free_mib"], big["compute_capability"]) == (97887, 97883, "12.0")
    assert (big["sm"], big["can"]["nvfp4"], big["can"]["kv_dtypes"], big["mig"]) == (
        "sm_120",
        True,
        ["bf16", "fp8"],
        None,
    )
    assert host["nvidia"] == {"present": True, "driver": "580.95.05", "cuda": "13.0", "source": "nvidia-smi"}
    assert host["toolkit"]["present"] and host["toolkit"]["cdi_enabled"] is False and host["platform"] == "linux"
    assert int(host["engine"]["version"].split(".")[0]) >= 24 and host["compose"] and not host["changed"]


def test_a_removed_card_is_not_reported(clean_bed: Bed) -> None:
    clean_bed.pull_gpu(FAKOLI_DARK[0].uuid)
    assert [gpu["uuid"] for gpu in run_module("anvil_host_info")["gpus"]] == [FAKOLI_DARK[1].uuid]


def test_dockerd_itself_finds_a_setting_that_is_also_on_its_command_line() -> None:
    path, text = "/etc/docker/daemon.json", '{"hosts": ["unix:///x"], "debug": true}'
    validate_settings(path, text, ["--icc=false"])
    with pytest.raises(AnvilError) as caught:
        validate_settings(path, text, ["-H", "fd://", "--debug"])
    assert "a setting is in the file and on its command line" in str(caught.value) and "from flag: [fd://]" in str(caught.value)


def test_one_card_that_is_lost_does_not_hide_the_other_one(clean_bed: Bed) -> None:
    """The simulated driver lists a card as NVIDIA's does after "GPU requires reset"."""
    clean_bed.write_gpus([replace(FAKOLI_DARK[0], uuid="[GPU requires reset]"), FAKOLI_DARK[1]])
    lost, healthy = run_module("anvil_host_info")["gpus"]
    assert (lost["uuid"], lost["trouble"], healthy["trouble"]) == ("", "GPU requires reset", None)
    checked = run_module("anvil_host_check", gpus=[FAKOLI_DARK[1].uuid], tolerate=["buildx"])
    assert not checked["failed"] and "a GPU must be reset" in [one["what"] for one in checked["recommended"]]


def test_an_index_of_the_inventory_that_is_not_the_driver_s_is_told_with_the_right_one(clean_bed: Bed) -> None:
    swapped = {FAKOLI_DARK[0].uuid: 1, FAKOLI_DARK[1].uuid: 1}
    checked = run_module("anvil_host_check", gpus=list(swapped), indexes=swapped, tolerate=["buildx"])
    told = [one for one in checked["recommended"] if one["where"] == "anvil_gpus"]
    assert not checked["failed"] and [one["what"] for one in told] == [
        f"GPU {FAKOLI_DARK[0].uuid} has index 1 in the inventory, and 0 on this host"
    ]
    assert "0 = GPU-04d3b6e7" in told[0]["why"] and told[0]["hint"].startswith("set index: 0")


@pytest.mark.usefixtures("clean_bed")
def test_a_host_without_a_driver_has_no_cards_and_does_not_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    without = [folder for folder in os.environ["PATH"].split(":") if not (Path(folder) / "nvidia-smi").exists()]
    monkeypatch.setenv("PATH", ":".join(without))
    host = run_module("anvil_host_info")
    assert not host["failed"] and not host["nvidia"]["present"] and host["gpus"] == []


def test_a_failing_driver_is_an_error_with_the_drivers_message(clean_bed: Bed) -> None:
    clean_bed.gpu_table.unlink()
    host = run_module("anvil_host_info")
    assert host["failed"] and "couldn't communicate with the NVIDIA driver" in host["msg"]


def test_mig_devices_are_reported_and_an_unknown_card_has_unknown_capabilities(clean_bed: Bed) -> None:
    clean_bed.write_gpus([replace(FAKOLI_DARK[0], mig=("1g.24gb=MIG-c7384736-a75d-5afc-978f-d2f1294409fd",)), UNKNOWN])
    sliced, unknown = run_module("anvil_host_info")["gpus"]
    assert sliced["mig"] and sliced["mig_devices"] == [{**SLICE, "vram_total_mib": None, "vram_used_mib": None}]
    assert unknown["family"] is None and set(unknown["can"].values()) == {None} and unknown["sm"] == "sm_139"


def plan_gpus(gpus: dict[str, Any], driver: str) -> str:
    """Output of anvil_plan on this host, with the simulated driver."""
    variables = {"anvil_gpus": gpus, "ansible_python_interpreter": sys.executable}
    argv = [
        str(Path(sys.executable).with_name("ansible")),
        "localhost",
        "-m",
        "anvil.serving.anvil_plan",
        "-a",
        f"driver={driver}",
    ]
    environment = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS)}
    done = subprocess.run([*argv, "-e", json.dumps(variables)], env=environment, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_the_plan_asks_the_driver_for_values_that_the_inventory_left_out(clean_bed: Bed) -> None:
    other, uuid = (gpu.uuid for gpu in FAKOLI_DARK)
    gpus = {"big": {"uuid": uuid}, "small": {"uuid": other, "vram_mib": 1000, "reserve_mib": 10}}
    told = plan_gpus(gpus, "required")
    assert '"vram_mib": 97887' in told and f'"name": "{FAKOLI_DARK[1].name}"' in told
    assert "anvil_gpus.small.vram_mib: 1000 is written, and the driver reports 32607" in told
    told = plan_gpus(gpus, "none")
    assert "GPU big has no vram_mib" in told and "no host was contacted" in told
    clean_bed.gpu_table.unlink()
    assert "write vram_mib and compute_capability of every card" in plan_gpus(gpus, "required")
    assert "[WARNING]: localhost: the inventory left out values" in plan_gpus({"small": gpus["small"]}, "optional")
    written = {"big": {"uuid": uuid, "vram_mib": 97887, "compute_capability": "12.0"}}
    assert '"compute_capability": "12.0"' in plan_gpus(written, "required")
