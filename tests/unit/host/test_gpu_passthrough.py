"""Whether containers get the GPUs of a host: engines, toolkits, CDI, Docker Desktop, snap, rootless; and what is recommended."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.host.container_toolkit import Toolkit
from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_passthrough import (
    choose_driver,
    judge_gpu_access,
    recommend_persistence,
)

UUID = "GPU-fef8089b-1111-2222-3333-444444444444"
NOTHING = Toolkit(None, None, None, (), False)
HOOK = replace(NOTHING, hook="/usr/bin/nvidia-container-runtime-hook")
CDI = replace(
    NOTHING,
    cdi_specs=("/etc/cdi/nvidia.yaml",),
    cdi_enabled=True,
    cdi_devices=("0", UUID, "all"),
    cdi_hook="/usr/bin/nvidia-cdi-hook",
)
ALL_ONLY = replace(CDI, cdi_devices=("all",))
NAMED = replace(NOTHING, engine_has_it=True)
DESKTOP = {"OperatingSystem": "Docker Desktop"}
WSL2 = {**DESKTOP, "KernelVersion": "6.6.87.2-microsoft-standard-WSL2"}


@pytest.mark.parametrize(
    ("version", "info", "toolkit", "way"),
    [
        ("26.1.5+dfsg1", {}, HOOK, "hook"),
        ("29.1.0", {}, HOOK, "hook"),
        ("29.0.0", {}, CDI, "cdi"),
        ("30.0", {}, CDI, "cdi"),
        ("29", {}, CDI, "cdi"),
        ("dev", {}, CDI, "cdi"),  # a build without a number: with a recommendation, and no refusal
        ("28.5.1", {}, CDI, "cdi"),
        ("27.5.1", {}, NAMED, "runtime"),
        ("27.5.1", {}, replace(CDI, engine_has_it=True), "runtime"),
        ("27.5.1", WSL2, NAMED, "docker_desktop"),
        ("", {}, CDI, ""),  # the Docker Engine does not answer: unknown
    ],
)
def test_what_works_is_used(version: str, info: dict[str, Any], toolkit: Toolkit, way: str) -> None:
    access = judge_gpu_access(version, info, toolkit, [UUID])
    assert (access.way, access.problem) == (way, None)


@pytest.mark.parametrize(
    ("version", "info", "toolkit", "wsl2", "what", "words"),
    [
        ("26.1.5", {}, NOTHING, False, "the NVIDIA container toolkit is missing", "no container can use a GPU"),
        ("", {}, NOTHING, False, "the NVIDIA container toolkit is missing", "no container can use a GPU"),
        ("26.1.5", {}, CDI, False, "Docker Engine 26.1.5 gives no GPU to containers through CDI", "anvil_gpu_driver: cdi"),
        ("28.2.2", {}, CDI, False, "Docker Engine 28.2.2 gives no GPU to containers through CDI", "the host has CDI only"),
        ("29.0.0", {}, replace(CDI, cdi_enabled=False), False, "gives no GPU to containers through CDI", "features: {cdi: true}"),
        ("24.0.9", {}, replace(CDI, cdi_enabled=None), False, "gives no GPU to containers through CDI", "CDI is off"),
        ("29.0.0", {}, ALL_ONLY, True, "does not have the GPUs of the inventory", "on WSL2 CDI knows only `all`"),
        ("29.0.0", {}, ALL_ONLY, False, "does not have the GPUs of the inventory", "--device-name-strategy=uuid"),
        ("28.0.4", DESKTOP, NAMED, False, "Docker Desktop gives no GPU to containers on this host", "virtual machine"),
    ],
)
def test_what_does_not_work_is_said_with_the_next_step(
    version: str, info: dict[str, Any], toolkit: Toolkit, wsl2: bool, what: str, words: str
) -> None:
    access = judge_gpu_access(version, info, toolkit, [UUID], wsl2)
    assert access.way == "" and access.problem is not None
    assert what in access.problem.what and words in access.problem.why + access.problem.hint


@pytest.mark.parametrize(
    ("version", "toolkit", "wsl2", "fits", "words"),
    [
        ("26.1.5", CDI, False, "cdi", None),
        ("28.2.2", CDI, False, "cdi", None),
        ("29.0.0", CDI, False, "nvidia", None),
        ("26.1.5", replace(CDI, hook=HOOK.hook), False, "nvidia", None),
        ("26.1.5", HOOK, False, "nvidia", "CDI is off in Docker Engine 26.1.5"),
        ("26.1.5", replace(HOOK, cdi_enabled=True), False, "nvidia", "nvidia-ctk cdi generate"),
        ("24.0.9", replace(CDI, cdi_enabled=None), False, "", "CDI came with Docker Engine 25"),
        ("26.1.5", replace(CDI, cdi_enabled=False), False, "", "features: {cdi: true}"),
        ("26.1.5", ALL_ONLY, True, "", "on WSL2 CDI knows only `all`"),
        ("26.1.5", ALL_ONLY, False, "", "--device-name-strategy=uuid"),
        ("", CDI, False, "", None),  # the Docker Engine does not answer: unknown
    ],
)
def test_devices_of_cdi_on_request_and_which_value_fits(
    version: str, toolkit: Toolkit, wsl2: bool, fits: str, words: str | None
) -> None:
    access = judge_gpu_access(version, {}, toolkit, [UUID], wsl2, "cdi")
    said = "" if access.problem is None else access.problem.as_text()
    assert words in said if words else not said
    assert choose_driver(version, {}, toolkit, [UUID], wsl2) == fits


def test_wsl2_with_the_hook_is_pinned_by_uuid_whatever_cdi_knows() -> None:
    both = replace(ALL_ONLY, hook=HOOK.hook)
    assert judge_gpu_access("29.0.0", {}, both, [UUID], wsl2=True).problem is None


SYSTEMD = {"CgroupVersion": "2", "CgroupDriver": "systemd"}
ROOTLESS = {**SYSTEMD, "SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless", "name=cgroupns"]}


@pytest.mark.parametrize(
    ("version", "info", "toolkit", "words"),
    [
        ("27.0", SYSTEMD, HOOK, ["systemctl daemon-reload takes the GPUs away"]),
        ("29.0", SYSTEMD, replace(CDI, hook=HOOK.hook), []),
        ("27.0", SYSTEMD, replace(CDI, hook=HOOK.hook), ["systemctl daemon-reload takes the GPUs away"]),
        ("27.0", SYSTEMD, replace(HOOK, no_cgroups=True), []),
        ("27.0", {"CgroupVersion": "2", "CgroupDriver": "cgroupfs"}, HOOK, []),
        ("27.0", {"CgroupVersion": "1", "CgroupDriver": "systemd"}, HOOK, []),
        ("27.0", {}, HOOK, []),
        ("27.0", ROOTLESS, HOOK, ["the toolkit's hook may fail in rootless Docker"]),
        ("27.0", ROOTLESS, replace(HOOK, no_cgroups=True), []),
        ("27.0", {}, replace(HOOK, mode="cdi"), ["the toolkit's hook may refuse every container"]),
        ("27.0", {"DockerRootDir": "/var/snap/docker/common/var-lib-docker"}, HOOK, ["the Docker Engine is a snap"]),
        ("28.5.1", {}, CDI, ["may not give GPUs to containers through CDI alone"]),
        ("29.0.0", {}, replace(CDI, cdi_hook=None), ["may not find nvidia-cdi-hook"]),
        ("27.0", {}, NAMED, ["the toolkit's hook was not found"]),
    ],
)
def test_recommendations_have_a_reason_and_a_command_and_are_no_failures(
    version: str, info: dict[str, Any], toolkit: Toolkit, words: list[str]
) -> None:
    access = judge_gpu_access(version, info, toolkit)
    assert access.problem is None and len(access.recommended) == len(words)
    for one, text in zip(access.recommended, words, strict=True):
        assert text in one.what and one.why and one.hint


@pytest.mark.parametrize(("enabled", "count"), [(True, 0), (None, 0), (False, 1)])
def test_persistence_mode_is_recommended_where_it_is_off(enabled: bool | None, count: int) -> None:
    assert len(recommend_persistence(enabled)) == count
