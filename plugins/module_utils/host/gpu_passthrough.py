# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether containers get the GPUs of a host from its Docker Engine, why not, and which settings are recommended. Pure.

Serves ask for GPUs with Compose's ``driver: nvidia``, or ``driver: cdi`` where the inventory says so (``anvil_gpu_driver``).
Docker Engine 25 and later answers ``cdi`` where CDI is on. Docker Engine 29 answers ``nvidia`` through CDI, or else through the
toolkit's hook (moby/moby#50228); before, only through the hook. Late releases of 28 may have the change.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import CDI_DRIVER, NVIDIA_DRIVER
from ansible_collections.anvil.serving.plugins.module_utils.host.container_toolkit import Toolkit
from ansible_collections.anvil.serving.plugins.module_utils.host.docker_installation import (
    DESKTOP,
    ROOTLESS,
    SNAP,
    SNAP_DAEMON_JSON,
    read_installation,
)
from ansible_collections.anvil.serving.plugins.module_utils.host.driver_errors import SLOW_HINT

CDI_SURELY, CDI_PERHAPS = (29, 0), (28, 3)
HOOK = "nvidia-container-runtime-hook"
INSTALL = "install nvidia-container-toolkit, or set docker_host_install: true and docker_host_repositories"


@dataclass(frozen=True)
class GpuAccess:
    """way: ``docker_desktop``, ``hook``, ``cdi`` or ``runtime``; empty: no container gets a GPU, for the reason in ``problem``.

    recommended: settings that avoid a later outage, and what may be wrong; never a failure.
    """

    way: str
    problem: Optional[Problem] = None
    recommended: Tuple[Problem, ...] = ()


def _release(version: str) -> Tuple[int, int]:
    """One that is not understood, such as ``dev``, may do what the newest does."""
    found = re.match(r"(\d+)(?:\.(\d+))?", version)
    return (int(found[1]), int(found[2] or 0)) if found else CDI_PERHAPS


def judge_gpu_access(
    version: str,
    info: Mapping[str, Any],
    toolkit: Toolkit,
    uuids: Sequence[str] = (),
    wsl2: bool = False,
    driver: str = NVIDIA_DRIVER,
) -> GpuAccess:
    """version, info: of the Docker Engine; both empty where it does not answer. uuids: the GPUs that containers must get.

    wsl2: whether the host is one. driver: what serves ask the Docker Engine for, ``nvidia`` or ``cdi``.
    """
    if not version and toolkit.cdi_specs:
        return GpuAccess("")  # the Docker Engine does not answer: it may read them
    if driver == CDI_DRIVER:
        access = _judge_cdi(version, toolkit, uuids, wsl2)
        without_hook = _recommend(read_installation(info), _release(version), info, replace(toolkit, hook=None))
        return replace(access, recommended=tuple(without_hook))
    kind, release = read_installation(info), _release(version)
    recommended = _recommend(kind, release, info, toolkit)
    if kind == DESKTOP:
        if wsl2 or "microsoft" in str(info.get("KernelVersion") or "").lower():
            return GpuAccess("docker_desktop", None, tuple(recommended))
        why = "it runs containers in a virtual machine without GPUs; only Docker Desktop on Windows with WSL2 has them"
        hint = "use a Docker Engine on the host itself: docker_host: unix:///var/run/docker.sock"
        return GpuAccess("", Problem("Docker Desktop gives no GPU to containers on this host", "Docker Desktop", why, hint))
    if toolkit.hook is not None:
        return GpuAccess("hook", None, tuple(recommended))
    if toolkit.cdi_usable and release >= CDI_PERHAPS:
        problem = _missing_device(toolkit, uuids, wsl2)
        if release < CDI_SURELY:
            what = "Docker Engine {0} may not give GPUs to containers through CDI alone".format(version)
            why = "Compose asks with driver: nvidia, which every Docker Engine from 29 on answers through CDI"
            recommended.append(Problem(what, HOOK + " is not on PATH", why, "set anvil_gpu_driver: cdi\nor " + INSTALL))
        elif toolkit.cdi_hook is None:
            what = "the Docker Engine may not find nvidia-cdi-hook"
            why = "it is not on this PATH; the Docker Engine gives GPUs through CDI only where it finds that program at its start"
            recommended.append(Problem(what, "CDI", why, "install nvidia-container-toolkit-base and restart the Docker Engine"))
        return GpuAccess("" if problem else "cdi", problem, tuple(recommended))
    if toolkit.engine_has_it:
        what = "the toolkit's hook was not found, but the Docker Engine names a runtime of NVIDIA"
        why = "{0} is not on this PATH; the Docker Engine may find it on its own".format(HOOK)
        hint = "bring a serve up: its start shows it; if it gets no card: " + INSTALL
        recommended.append(Problem(what, HOOK, why, hint))
        return GpuAccess("runtime", None, tuple(recommended))
    return GpuAccess("", _no_way(version, toolkit), tuple(recommended))


def _judge_cdi(version: str, toolkit: Toolkit, uuids: Sequence[str], wsl2: bool) -> GpuAccess:
    """Whether an explicit request for CDI devices works: the Docker Engine reads descriptions, and they have the GPUs."""
    where, otherwise = "anvil_gpu_driver: cdi", "\nor use anvil_gpu_driver: nvidia"
    if toolkit.cdi_enabled is None:
        what = "Docker Engine {0} does not report that it knows CDI".format(version)
        return GpuAccess("", Problem(what, where, "CDI came with Docker Engine 25", "upgrade the Docker Engine" + otherwise))
    if not toolkit.cdi_enabled:
        what = "CDI is off in Docker Engine {0}".format(version)
        hint = "turn it on: docker_host_daemon: {features: {cdi: true}}" + otherwise
        return GpuAccess("", Problem(what, where, "the Docker Engine reads no descriptions of devices", hint))
    if not toolkit.cdi_specs:
        hint = "describe the GPUs: nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml" + otherwise
        why = "none of the folders that the Docker Engine reads has one"
        return GpuAccess("", Problem("no CDI description of NVIDIA's GPUs exists", where, why, hint))
    problem = _missing_device(toolkit, uuids, wsl2)
    return GpuAccess("" if problem else "cdi", problem)


def choose_driver(version: str, info: Mapping[str, Any], toolkit: Toolkit, uuids: Sequence[str] = (), wsl2: bool = False) -> str:
    """The value of ``anvil_gpu_driver`` that works on this host: ``nvidia`` where both do; empty: none, or unknown."""
    for driver in (NVIDIA_DRIVER, CDI_DRIVER):
        if judge_gpu_access(version, info, toolkit, uuids, wsl2, driver).way:
            return driver
    return ""


def _no_way(version: str, toolkit: Toolkit) -> Problem:
    what, where = "the NVIDIA container toolkit is missing", HOOK
    if not toolkit.cdi_specs:
        why = "it is not on PATH, and the Docker Engine has no CDI description of the GPUs: no container can use a GPU"
        return Problem(what, where, why, INSTALL)
    what = "Docker Engine {0} gives no GPU to containers through CDI".format(version)
    if toolkit.cdi_usable:
        why = "the host has CDI only, and this Docker Engine answers driver: nvidia only through " + HOOK
        hint = "let serves ask for CDI devices: anvil_gpu_driver: cdi\nor {0}\nor upgrade to Docker Engine 29, which answers both"
        return Problem(what, where, why, hint.format(INSTALL))
    why = "it does not read {0}: CDI is off; and {1} is not on PATH".format(toolkit.cdi_specs[0], HOOK)
    hint = INSTALL + "\nor, from Docker Engine 25 on, turn CDI on: docker_host_daemon: {features: {cdi: true}}"
    hint += " (before 29 with anvil_gpu_driver: cdi)"
    return Problem(what, where, why, hint)


def _missing_device(toolkit: Toolkit, uuids: Sequence[str], wsl2: bool) -> Optional[Problem]:
    """The problem if CDI is the only way and describes none of the GPUs by the UUID that a serve is pinned to."""
    names = set(toolkit.cdi_devices)
    missing = [uuid for uuid in uuids if uuid not in names]
    if not names or not missing:
        return None
    why = "its devices are: {0}; a serve on {1} cannot start (unresolvable CDI devices)".format(
        ", ".join(sorted(names)), ", ".join(missing)
    )
    if wsl2:
        hint = "on WSL2 CDI knows only `all`; {0} knows each GPU: {1}".format(HOOK, INSTALL)
    else:
        hint = "write the description again, with UUIDs: nvidia-ctk cdi generate --device-name-strategy=uuid --output={0}".format(
            toolkit.cdi_specs[0]
        )
    return Problem("the CDI description does not have the GPUs of the inventory", toolkit.cdi_specs[0], why, hint)


def _recommend(kind: str, release: Tuple[int, int], info: Mapping[str, Any], toolkit: Toolkit) -> List[Problem]:
    found = []
    by_hook = toolkit.hook is not None and not (toolkit.cdi_usable and toolkit.cdi_hook and release >= CDI_PERHAPS)
    cgroups = (str(info.get("CgroupVersion") or ""), str(info.get("CgroupDriver") or ""))
    if by_hook and cgroups == ("2", "systemd") and toolkit.no_cgroups is not True and kind != ROOTLESS:
        found.append(
            Problem(
                "systemctl daemon-reload takes the GPUs away from running containers on this host",
                "cgroup v2, the systemd cgroup driver and the toolkit's hook",
                "systemd sets the device rules of each container again and does not know those of the hook (apt runs "
                "daemon-reload too); a server then answers until its next CUDA context (NVIDIA/nvidia-container-toolkit#48)",
                "docker_host_daemon: {exec-opts: [native.cgroupdriver=cgroupfs]}\nor set anvil_gpu_driver: cdi",
            )
        )
    if toolkit.hook is not None and toolkit.mode == "cdi" and release < CDI_PERHAPS:
        found.append(
            Problem(
                "the toolkit's hook may refuse every container",
                "/etc/nvidia-container-runtime/config.toml",
                'mode = "cdi" is set: the hook that this Docker Engine calls is only for the modes auto and legacy',
                "nvidia-ctk config --in-place --set nvidia-container-runtime.mode=auto",
            )
        )
    if kind == ROOTLESS and toolkit.hook is not None and toolkit.no_cgroups is not True:
        found.append(
            Problem(
                "the toolkit's hook may fail in rootless Docker",
                "/etc/nvidia-container-runtime/config.toml",
                "it sets the device rules of a container's cgroup, which rootless Docker may not",
                "nvidia-ctk config --in-place --set nvidia-container-cli.no-cgroups",
            )
        )
    if kind == SNAP:
        found.append(
            Problem(
                "the Docker Engine is a snap: it sees only a part of this host",
                "/var/snap/docker",
                "it mounts folders below /home, /media and /mnt only as far as its interfaces allow, and brings its own toolkit",
                "keep weights in a Docker volume; its settings are in {0}".format(SNAP_DAEMON_JSON),
            )
        )
    return found


def recommend_persistence(enabled: Optional[bool]) -> List[Problem]:
    """enabled: whether persistence mode is on for every GPU; None: unknown."""
    if enabled is not False:
        return []
    why = "the driver initialises the GPUs for each question and each start, which takes up to 40 s with many GPUs"
    return [Problem("persistence mode is off", "nvidia-smi", why, SLOW_HINT)]
