"""Which answers prove that a container lost its GPUs, and when a container is asked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.containers import CommandResult
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves import gpu_access
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import observe_container

UNIX = DockerEngine("unix:///nowhere/docker.sock")


@pytest.mark.parametrize(
    ("code", "output", "lost"),
    [
        (0, "", False),
        (0, "GPU 0: NVIDIA GeForce RTX 5090 (UUID: GPU-1)\n", False),
        (3, "sh: 1: cannot open /dev/nvidiactl: Operation not permitted\r\n", True),  # dash
        (3, "sh: can't open /dev/nvidia0: Operation not permitted\n", True),  # busybox
        (3, "sh: line 1: /dev/nvidiactl: Operation not permitted\n", True),  # bash
        (3, "sh: 1: cannot open /dev/nvidiactl: Permission denied\n", False),  # the container's user has no permission
        (3, "sh: 1: cannot open /dev/nvidiactl: No such device or address\n", False),
        (255, "Failed to initialize NVML: Unknown Error\r\n", True),
        (18, "Failed to initialize NVML: Driver/library version mismatch\n", False),
        (6, "No devices were found\n", True),
        (4, "", False),
        (126, 'OCI runtime exec failed: exec: "sh": executable file not found in $PATH: unknown\n', False),
    ],
)
def test_only_certain_evidence_counts_as_lost_gpus(code: int, output: str, lost: bool) -> None:
    assert bool(gpu_access.judge_output(CommandResult(code, output))) is lost
    assert gpu_access.judge_output(None) == ""


@pytest.mark.parametrize(("reloaded", "suspect"), [(100.0, False), (2e9, True), (None, True)])
def test_a_container_is_suspect_after_a_reload_of_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reloaded: float | None, suspect: bool
) -> None:
    seen = observe_container({"State": {"Status": "running", "StartedAt": "2026-01-01T00:00:00Z"}})
    folder = tmp_path / "generator"
    monkeypatch.setattr(gpu_access, "GENERATORS", (str(folder),))
    monkeypatch.setattr(gpu_access, "SYSTEMD", str(tmp_path / "none"))
    assert not gpu_access.is_suspect(UNIX, seen)
    monkeypatch.setattr(gpu_access, "SYSTEMD", str(tmp_path))
    if reloaded is not None:
        folder.mkdir()
        os.utime(folder, (reloaded, reloaded))
    assert gpu_access.is_suspect(UNIX, seen) is suspect
    assert not gpu_access.is_suspect(DockerEngine("tcp://other:2376"), seen)


def test_an_engine_that_does_not_answer_is_no_evidence() -> None:
    assert UNIX.ask_inside("c" * 64, ["true"], 0.1) is None
