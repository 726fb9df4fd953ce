# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Docker host can run, in one description; and what it lacks, all at once."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.card_capabilities import describe_capability
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, problems_as_dicts
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_cli import read_version
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card
from ansible_collections.anvil.serving.plugins.module_utils.host.nvidia_stack import Toolkit, read_driver, read_toolkit

MIB = 1024 * 1024
OLDEST_ENGINE = "24.0"
OLDEST_COMPOSE = "2.20"


def read_platform() -> str:
    """``wsl2`` or ``linux``: WSL2's kernel says microsoft in its release."""
    return "wsl2" if "microsoft" in platform.release().lower() else "linux"


def describe_card(card: Card) -> Dict[str, Any]:
    return {**asdict(card), "vram_free_mib": card.vram_free_mib, **describe_capability(card.compute_capability)}


def _describe_toolkit(toolkit: Toolkit, engine_info: Mapping[str, Any]) -> Dict[str, Any]:
    return {
        "present": toolkit.present,
        "version": toolkit.version,
        "hook": toolkit.hook,
        "runtime_registered": "nvidia" in (engine_info.get("Runtimes") or {}),
        "cdi_enabled": toolkit.cdi_enabled,
        "cdi_specs": list(toolkit.cdi_specs),
    }


def describe_host(engine: DockerEngine) -> Dict[str, Any]:
    """The facts that anvil_host_info returns. Raises AnvilError where the engine or the driver does not answer."""
    version, info = engine.version(), engine.info()
    driver = read_driver()
    return {
        "changed": False,
        "engine": {
            "version": version.get("Version"),
            "api_version": version.get("ApiVersion"),
            "data_root": info.get("DockerRootDir"),
            "storage_driver": info.get("Driver"),
            "runtimes": sorted(info.get("Runtimes") or {}),
        },
        "compose": read_version(engine.docker_host),
        "platform": read_platform(),
        "nvidia": {
            "present": driver is not None,
            "driver": driver.version if driver else None,
            "cuda": driver.cuda if driver else None,
            "source": driver.source if driver else None,
        },
        "toolkit": _describe_toolkit(read_toolkit(info), info),
        "gpus": [describe_card(card) for card in (driver.cards if driver else ())],
    }


# --------------------------------------------------------------------------------------------------------------- check


@dataclass(frozen=True)
class Wanted:
    """What a host must have. gpus: UUIDs it must have, and with them a driver and a toolkit. folder: where weights go.

    free_mib: MiB that must be free there. builds: images will be built on it.
    """

    gpus: Tuple[str, ...] = ()
    needs_gpu: bool = False
    folder: str = ""
    free_mib: int = 0
    builds: bool = False


@dataclass(frozen=True)
class Lack:
    """One thing that a host lacks. kind: ``engine``, ``compose``, ``buildx``, ``driver``, ``toolkit``, ``gpu`` or ``disk``."""

    kind: str
    problem: Problem


def is_older(version: str, oldest: str) -> bool:
    """Whether ``version`` comes before ``oldest``; only leading numbers count (``26.1.5+dfsg1``, ``v2.40.3``)."""

    def parts(word: str) -> List[int]:
        return [int(number) for number in re.findall(r"\d+", re.split(r"[-+~]", word)[0])[:3]]

    return parts(version) < parts(oldest)


def free_mib(folder: str) -> int:
    """MiB free for this user where ``folder`` is, or would be."""
    place = os.path.abspath(folder)
    while not os.path.exists(place) and place != "/":
        place = os.path.dirname(place)
    told = os.statvfs(place)
    return told.f_bavail * told.f_frsize // MIB


def _engine_lacks(engine: DockerEngine) -> Tuple[List[Lack], Dict[str, Any]]:
    hint = "docker_host_install: true installs it on Debian 12 and 13, Ubuntu 22.04 and 24.04"
    where = engine.docker_host
    try:
        version, info = str(engine.version().get("Version")), engine.info()
    except AnvilError as exc:
        problem = exc.problems[0]
        return [Lack("engine", Problem("no Docker Engine answers", where, problem.why, problem.hint + "; " + hint))], {}
    lacks = []
    if is_older(version, OLDEST_ENGINE):
        what = "Docker Engine {0} is too old".format(version)
        lacks.append(Lack("engine", Problem(what, where, "{0} or newer is wanted".format(OLDEST_ENGINE), hint)))
    return lacks, info


def _compose_lacks(docker_host: str) -> List[Lack]:
    version = read_version(docker_host)
    if version and not is_older(version, OLDEST_COMPOSE):
        return []
    what = "Docker Compose {0} is too old".format(version) if version else "the Docker Compose plugin is missing"
    hint = "install docker-compose-plugin (or Debian's docker-compose, Ubuntu's docker-compose-v2)"
    return [Lack("compose", Problem(what, "docker compose version", "{0} or newer is wanted".format(OLDEST_COMPOSE), hint))]


def _buildx_lacks(docker_host: str) -> List[Lack]:
    if read_version(docker_host, "buildx"):
        return []
    hint = "install docker-buildx-plugin (or Debian's and Ubuntu's docker-buildx), or docker_host_install: true"
    why = "images are to be built on this host, and its builder is reached through that plugin"
    return [Lack("buildx", Problem("the Docker buildx plugin is missing", "docker buildx version", why, hint))]


def _gpu_lacks(wanted: Wanted, engine_info: Mapping[str, Any]) -> List[Lack]:
    try:
        driver = read_driver()
    except AnvilError as exc:
        return [Lack("driver", exc.problems[0])]
    if driver is None:
        if not wanted.needs_gpu:
            return []
        hint = "on WSL2 install it on Windows only" if read_platform() == "wsl2" else "install NVIDIA's driver and reboot"
        return [Lack("driver", Problem("there is no NVIDIA driver", "nvidia-smi", "it is not on PATH", hint))]
    lacks = []
    if not read_toolkit(engine_info).present:
        lacks.append(
            Lack(
                "toolkit",
                Problem(
                    "the NVIDIA container toolkit is missing",
                    "nvidia-container-runtime-hook",
                    "it is not on PATH, and the engine has no CDI description of the cards: no container can have one",
                    "install nvidia-container-toolkit, or docker_host_install: true with docker_host_toolkit_repository",
                ),
            )
        )
    here = {card.uuid for card in driver.cards} | {device.uuid for card in driver.cards for device in card.mig_devices}
    missing = "GPU {0} is not on this host"
    for uuid in wanted.gpus:
        if uuid not in here:
            known = "the driver knows: " + (", ".join(sorted(here)) or "none")
            lacks.append(
                Lack(
                    "gpu",
                    Problem(missing.format(uuid), "anvil_gpus", known, "nvidia-smi -L tells the UUIDs"),
                )
            )
    return lacks


def _disk_lacks(wanted: Wanted, engine_info: Mapping[str, Any]) -> List[Lack]:
    folder = wanted.folder or str(engine_info.get("DockerRootDir") or "")
    if not folder or not wanted.free_mib:
        return []
    free = free_mib(folder)
    if free >= wanted.free_mib:
        return []
    why = "{0} MiB are wanted for weights, {1} MiB are free: {2} MiB short".format(wanted.free_mib, free, wanted.free_mib - free)
    return [Lack("disk", Problem("too little disk", folder, why, "free some, or keep weights and images on another file system"))]


def check_host(engine: DockerEngine, wanted: Wanted, tolerate: Sequence[str] = ()) -> Dict[str, Any]:
    """What anvil_host_check returns: ``missing`` (kinds of what the host lacks), and every problem, never only the first.

    tolerate: kinds that are told and do not fail the task.
    """
    lacks, info = _engine_lacks(engine)
    lacks += _compose_lacks(engine.docker_host)
    lacks += _buildx_lacks(engine.docker_host) if wanted.builds else []
    lacks += _gpu_lacks(wanted, info)
    lacks += _disk_lacks(wanted, info)
    problems = [lack.problem for lack in lacks]
    result: Dict[str, Any] = {"changed": False, "platform": read_platform()}
    result["missing"] = sorted({lack.kind for lack in lacks})
    if any(lack.kind not in tolerate for lack in lacks):
        return {**result, "problems": problems}
    return {**result, "tolerated": problems_as_dicts(problems)}
