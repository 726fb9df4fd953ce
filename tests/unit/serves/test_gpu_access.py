"""Which answers prove that a container lost its GPUs, and when a container is asked."""

from __future__ import annotations

import os
import stat
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


RULES = "c *:* m\nb *:* m\nc 1:3 rwm\nc 195:255 rw\nc 510:* rwm\n"


@pytest.mark.parametrize(
    ("rules", "major", "minor", "allowed"),
    [
        (RULES, 195, 255, True),
        (RULES, 195, 0, False),
        (RULES, 510, 7, True),
        ("a *:* rwm\n", 195, 255, True),
        ("c 195:* rwm\n", 195, 255, True),
        ("b 195:* rwm\n", 195, 255, False),
        ("c 195:255 r\n", 195, 255, False),
        ("c 195:255 w\nc 195:255 r\n", 195, 255, False),
        ("", 195, 255, False),
        ("nonsense\nc\nc 195\n", 195, 255, False),
    ],
)
def test_the_device_rules_of_a_cgroup(rules: str, major: int, minor: int, allowed: bool) -> None:
    assert gpu_access.is_allowed(rules, major, minor) is allowed


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a device node")
@pytest.mark.parametrize(
    ("cgroup", "rules", "denied"),
    [
        ("5:devices:/docker/c\n0::/docker/c\n", RULES, False),
        ("5:devices:/docker/c\n", "c *:* m\n", True),
        ("5:devices:/docker/c\n", None, None),  # the rules are gone or in another namespace
        ("0::/system.slice/docker-c.scope\n", "c *:* m\n", None),  # cgroup v2: no file holds them
        ("", None, None),
        ("nonsense\n", None, False),
    ],
)
def test_a_container_that_may_be_denied_its_device_is_suspect_without_systemd(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cgroup: str, rules: str | None, denied: bool | None
) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / "7/root/dev").mkdir(parents=True)
    (proc / "7/cgroup").write_text(cgroup)
    (groups / "devices/docker/c").mkdir(parents=True)
    if rules is not None:
        (groups / "devices/docker/c/devices.list").write_text(rules)
    for name, value in (("PROC", proc), ("CGROUPS", groups), ("SYSTEMD", tmp_path / "none")):
        monkeypatch.setattr(gpu_access, name, str(value))
    seen = observe_container({"State": {"Status": "running", "Pid": 7}})
    assert not gpu_access.is_suspect(UNIX, seen)  # no such device: WSL2, or a container without GPUs
    (proc / "7/root/dev/nvidiactl").write_text("a file")
    assert not gpu_access.is_suspect(UNIX, seen)
    (proc / "7/root/dev/nvidiactl").unlink()
    os.mknod(proc / "7/root/dev/nvidiactl", 0o600 | stat.S_IFCHR, os.makedev(195, 255))
    assert gpu_access.is_device_denied(7) is denied
    assert gpu_access.is_suspect(UNIX, seen) is (denied is not False)


def test_an_engine_that_does_not_answer_is_no_evidence() -> None:
    assert UNIX.ask_inside("c" * 64, ["true"], 0.1) is None
