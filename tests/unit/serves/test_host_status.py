"""The kind of a container that holds a GPU (serve, experiment or squatter), and driver failures."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card, MigDevice
from ansible_collections.anvil.serving.plugins.module_utils.serves.host_status import (
    _cards_with_holders,
    _read_cards,
    describe_holder,
)
from nvidia_outputs import LOST_ROW


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
def test_labels_decide_the_kind_of_a_container(labels: dict[str, str], kind: str, name: str) -> None:
    found = describe_holder({"Name": "/box", "Config": {"Labels": labels}}, "anvil-serves")
    assert (found["kind"], found["name"]) == (kind, name)


def test_the_holder_of_a_mig_device_is_listed_under_its_gpu() -> None:
    device = MigDevice("MIG-1", "3g.71gb", 72000, 100)
    cards = [
        Card(0, "GPU-1", "H200", "9.0", 143771, None, "580", "b", True, (device,)),
        Card(1, "", None, None, None, None, None, None),
    ]
    holder = describe_holder({"Name": "/box", "Config": {"Labels": {}}}, "anvil-serves")
    sliced, lost = _cards_with_holders(cards, [(holder, ("MIG-1",))])
    assert [one["container"] for one in sliced["holders"]] == ["box"] and lost["holders"] == []


def test_a_driver_failure_is_reported_with_the_gpus_that_were_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'Failed to initialize NVML: Driver/library version mismatch'; exit 18\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    cards, (trouble,) = _read_cards()
    assert cards == [] and "Driver/library version mismatch" in trouble and "reboot the host" in trouble
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{LOST_ROW}END\nexit 255\n")
    cards, (trouble,) = _read_cards()
    assert cards is not None and len(cards) == 2 and "GPU is lost" in trouble and "dmesg" in trouble
