"""The container toolkit and CDI descriptions, as hosts have them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.host import container_toolkit
from ansible_collections.anvil.serving.plugins.module_utils.host.container_toolkit import (
    parse_cdi_spec,
    parse_toolkit_version,
    read_toolkit,
)

UUID = "GPU-fef8089b-1111-2222-3333-444444444444"
DEVICES = [{"name": name, "containerEdits": {"deviceNodes": [{"path": "/dev/nvidia0"}]}} for name in ("0", UUID, "all")]
EDITS = "".join(
    f"  - containerPath: /usr/lib/libnvidia-{number}.so\n    hostPath: /usr/lib/libnvidia-{number}.so\n" for number in range(200)
)


def test_the_toolkit_reports_its_version() -> None:
    assert parse_toolkit_version("NVIDIA Container Toolkit CLI version 1.17.8\ncommit: f202b80a\n") == "1.17.8"
    assert parse_toolkit_version("") is None


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ('cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: "0"\n- name: all\n', ["0", "all"]),
        # nvidia-ctk up to 1.17 writes the keys in the order of the alphabet
        (
            f"---\ncdiVersion: 0.5.0\ncontainerEdits:\n  hooks:\n  - hookName: createContainer\n  mounts:\n{EDITS}devices:\n"
            f'- containerEdits:\n    deviceNodes:\n    - path: /dev/nvidia0\n  name: "0"\n- containerEdits: {{}}\n'
            f"  name: {UUID}\nkind: nvidia.com/gpu\n",
            ["0", UUID],
        ),
        ("kind: 'nvidia.com/gpu'\r\ndevices:\r\n- name: 'mig0:1'\r\n", ["mig0:1"]),
        (json.dumps({"cdiVersion": "0.6.0", "kind": "nvidia.com/gpu", "devices": DEVICES}), ["0", UUID, "all"]),
        (json.dumps({"kind": "nvidia.com/gpu", "devices": None}), []),
        ('"kind": "nvidia.com/gpu"  # of this host\ndevices:\n  - name: gpu0\n    containerEdits: {}\n', ["gpu0"]),
        ("kind: vendor.com/device\ndevices:\n- name: nvidia.com/gpu\n", None),
        ("kind: management.nvidia.com/gpu\n", None),
        ("# kind: nvidia.com/gpu\n", None),
        (json.dumps({"kind": "amd.com/gpu", "devices": DEVICES}), None),
        ("[1, 2]", None),
        ("", None),
    ],
)
def test_a_cdi_description_names_its_devices(text: str, devices: list[str] | None) -> None:
    assert parse_cdi_spec(text) == devices


def test_cdi_counts_only_when_the_engine_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia.yaml").write_text("cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: all\n")
    (tmp_path / "second.json").write_text(json.dumps({"kind": "nvidia.com/gpu", "devices": DEVICES[:1]}))
    (tmp_path / "other.yaml").write_text("cdiVersion: 0.5.0\nkind: vendor.com/device\n")
    (tmp_path / "stale.yaml").symlink_to("/no/such/file")
    (tmp_path / "folder.yaml").mkdir()
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00kind")
    monkeypatch.setenv("PATH", str(tmp_path))
    on = read_toolkit({"CDISpecDirs": [str(tmp_path), "/no/such/folder"]})
    assert on.cdi_specs == (str(tmp_path / "nvidia.yaml"), str(tmp_path / "second.json")) and on.cdi_devices == ("all", "0")
    assert on.cdi_enabled is True and on.present
    off = read_toolkit({"CDISpecDirs": []})
    assert off.cdi_enabled is False and not off.present
    assert read_toolkit({}).cdi_enabled is None


@pytest.mark.parametrize(
    ("info", "present"),
    [
        ({"Runtimes": {"runc": {"path": "runc"}}}, False),
        ({"Runtimes": {"nvidia": {"path": "nvidia-container-runtime"}}}, True),
        ({"Runtimes": {"gpu": {"path": "/usr/bin/nvidia-container-runtime"}}}, True),
        ({"Runtimes": {"nvidia-cdi": None}}, True),
        ({"OperatingSystem": "Docker Desktop"}, True),
        ({"Runtimes": None}, False),
    ],
)
def test_an_engine_that_names_nvidia_s_runtime_has_a_toolkit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, info: dict[str, object], present: bool
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert read_toolkit({**info, "CDISpecDirs": [str(tmp_path)]}).present is present


def test_the_settings_of_the_toolkit_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.toml"
    monkeypatch.setattr(container_toolkit, "TOOLKIT_CONFIG", str(config))
    assert (read_toolkit({}).no_cgroups, read_toolkit({}).mode) == (None, "")
    config.write_text(
        '[nvidia-container-cli]\n#no-cgroups = false\n  no-cgroups = true\n[nvidia-container-runtime]\nmode = "cdi"\n'
    )
    assert (read_toolkit({}).no_cgroups, read_toolkit({}).mode) == (True, "cdi")
