# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Docker host must have, checked against what it has; everything that is missing is reported at once."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, problems_as_dicts
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_cli import read_version
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import NVIDIA_DRIVER
from ansible_collections.anvil.serving.plugins.module_utils.docker.connection import is_local, name_engine
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.host.container_toolkit import Toolkit, read_toolkit
from ansible_collections.anvil.serving.plugins.module_utils.host.docker_installation import (
    DESKTOP,
    SNAP,
    find_installation,
    read_installation,
)
from ansible_collections.anvil.serving.plugins.module_utils.host.driver_errors import explain_driver
from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_passthrough import (
    choose_driver,
    judge_gpu_access,
    recommend_persistence,
)
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card
from ansible_collections.anvil.serving.plugins.module_utils.host.host_facts import read_platform
from ansible_collections.anvil.serving.plugins.module_utils.host.loopback_ports import judge_loopback_ports, read_guard
from ansible_collections.anvil.serving.plugins.module_utils.host.nvidia_stack import read_driver, read_persistence
from ansible_collections.anvil.serving.plugins.module_utils.host.rootless_engine import find_lowest_port, judge_engine

MIB = 1024 * 1024
OLDEST_DOCKER = "24.0"
OLDEST_COMPOSE = "2.20"


@dataclass(frozen=True)
class Requirements:
    """What a host must have. gpus: UUIDs of GPUs. needs_gpu: a driver is required. folder: where weights are kept.

    free_mib: MiB that must be free there. builds: images are built on this host. indexes: UUID -> the index in the inventory.
    gpu_driver: what serves ask the Docker Engine for, ``nvidia`` or ``cdi``.
    """

    gpus: Tuple[str, ...] = ()
    needs_gpu: bool = False
    folder: str = ""
    free_mib: int = 0
    builds: bool = False
    indexes: Mapping[str, int] = field(default_factory=dict)
    gpu_driver: str = NVIDIA_DRIVER


@dataclass(frozen=True)
class Unmet:
    """A requirement that is not met. kind: ``engine``, ``compose``, ``buildx``, ``driver``, ``toolkit``, ``gpu`` or ``disk``."""

    kind: str
    problem: Problem


def is_older(version: str, oldest: str) -> bool:
    """Whether ``version`` is lower than ``oldest``; only the leading numbers count (``26.1.5+dfsg1``, ``v2.40.3``).

    A version without a number, such as ``dev``, is not known to be older.
    """

    def parts(word: str) -> List[int]:
        return [int(number) for number in re.findall(r"\d+", re.split(r"[-+~]", word)[0])[:3]]

    return bool(parts(version)) and parts(version) < parts(oldest)


def free_mib(folder: str) -> int:
    """MiB that this user can write where ``folder`` is, or would be."""
    place = os.path.abspath(folder)
    while not os.path.exists(place) and place != "/":
        place = os.path.dirname(place)
    stats = os.statvfs(place)
    return stats.f_bavail * stats.f_frsize // MIB


def _check_docker(engine: DockerEngine) -> Tuple[List[Unmet], str, Dict[str, Any]]:
    """What is missing, and the version and description of the Docker Engine."""
    hint = "set docker_host_install: true to install it (Debian 12 and 13, Ubuntu 22.04 and 24.04)"
    where = engine.docker_host
    try:
        told, info = engine.version(), engine.info()
        version, name = str(told.get("Version")), name_engine(told)
    except AnvilError as exc:
        problem = exc.problems[0]
        others = {DESKTOP: "start Docker Desktop, which is installed here", SNAP: "snap start docker"}
        hint = others.get(find_installation(), "; or ".join(filter(None, (problem.hint, hint))))
        return [Unmet("engine", Problem(problem.what, where, problem.why, hint))], "", {}
    unmet = []
    if name.startswith("Podman"):
        why = "it answers at that address with Docker's API; Docker Engine {0} or newer is required".format(OLDEST_DOCKER)
        unmet.append(Unmet("engine", Problem("this is {0}, and no Docker Engine".format(name), where, why, hint)))
    elif is_older(version, OLDEST_DOCKER):
        what = "Docker Engine {0} is too old".format(version)
        unmet.append(Unmet("engine", Problem(what, where, "{0} or newer is required".format(OLDEST_DOCKER), hint)))
    return unmet, version, info


def _check_compose(docker_host: str) -> List[Unmet]:
    version = read_version(docker_host)
    if version and not is_older(version, OLDEST_COMPOSE):
        return []
    what = "Docker Compose {0} is too old".format(version) if version else "the Docker Compose plugin is missing"
    hint = "install it: docker-compose-plugin (Docker's package), docker-compose (Debian's) or docker-compose-v2 (Ubuntu's)"
    return [Unmet("compose", Problem(what, "docker compose version", "{0} or newer is required".format(OLDEST_COMPOSE), hint))]


def _check_buildx(docker_host: str) -> List[Unmet]:
    if read_version(docker_host, "buildx"):
        return []
    hint = (
        "set docker_host_install: true, or install docker-buildx-plugin (Docker's package) or docker-buildx (Debian's, Ubuntu's)"
    )
    why = "images are built on this host, and BuildKit is reached through that plugin"
    return [Unmet("buildx", Problem("the Docker buildx plugin is missing", "docker buildx version", why, hint))]


def judge_processor(name: str) -> List[Problem]:
    """What to know about the processor of the Docker Engine (empty: unknown). None is refused: the images decide."""
    if name.lower() in ("", "x86_64", "amd64"):
        return []
    if name.lower() in ("aarch64", "arm64"):
        what = "containers of this host run on arm64"
        why = "an image for linux/amd64 only ends with 'exec format error', or runs slowly under emulation"
        return [Problem(what, "Docker Engine", why, "choose images that have linux/arm64: docker manifest inspect IMAGE")]
    why = "the collection is tested on x86_64 and written for x86_64 and arm64"
    hint = "expect that images for it are missing; x86_64 and arm64 are supported"
    return [Problem("nothing is known of hosts with the processor {0}".format(name), "Docker Engine", why, hint)]


def _name_trouble(card: Card) -> Problem:
    what, hint = explain_driver(str(card.trouble), "a GPU does not work")
    return Problem(what, "GPU " + (card.uuid or card.pci_bus_id or str(card.index)), str(card.trouble), hint)


def compare_indexes(indexes: Mapping[str, int], cards: Sequence[Card]) -> List[Problem]:
    """A recommendation for each card whose index in the inventory is not the driver's."""
    here = {card.uuid.lower(): card for card in cards if card.uuid}
    found = []
    for uuid, index in indexes.items():
        card = here.get(uuid.lower())
        if card is None or card.index is None or card.index == index:
            continue
        found.append(
            Problem(
                "GPU {0} has index {1} in the inventory, and {2} on this host".format(uuid, index, card.index),
                "anvil_gpus",
                "the driver lists: "
                + ", ".join("{0} = {1} ({2})".format(one.index, one.uuid, one.name or "unknown") for one in here.values())
                + "; only the UUID pins a serve, except with gpu_pin: index on WSL2",
                "set index: {0}, or remove index".format(card.index),
            )
        )
    return found


def _check_gpus(
    required: Requirements, version: str, engine_info: Mapping[str, Any], toolkit: Toolkit
) -> Tuple[List[Unmet], List[Problem]]:
    """What is missing, and what is recommended."""
    try:
        driver = read_driver()
    except AnvilError as exc:
        return [Unmet("driver", exc.problems[0])], []
    if driver is None:
        if not required.needs_gpu:
            return [], []
        hint = "on WSL2 install it on Windows only" if read_platform() == "wsl2" else "install NVIDIA's driver and reboot"
        return [Unmet("driver", Problem("there is no NVIDIA driver", "nvidia-smi", "nvidia-smi is not on PATH", hint))], []
    unmet = []
    wsl2 = read_platform() == "wsl2"
    access = judge_gpu_access(version, engine_info, toolkit, required.gpus, wsl2, required.gpu_driver)
    if access.problem is not None:
        unmet.append(Unmet("toolkit", access.problem))
    recommended = [*access.recommended, *recommend_persistence(read_persistence())]
    recommended += [_name_trouble(card) for card in driver.cards if card.trouble]
    recommended += compare_indexes(required.indexes, driver.cards)
    here = {card.uuid for card in driver.cards if card.uuid} | {one.uuid for card in driver.cards for one in card.mig_devices}
    known = "the driver lists: " + (", ".join(sorted(here)) or "none")
    known += "".join("; " + str(card.trouble) for card in driver.cards if card.trouble)
    hint = "correct the uuid in anvil_gpus: nvidia-smi -L lists the UUIDs"
    for uuid in required.gpus:
        if uuid not in here:
            unmet.append(Unmet("gpu", Problem("GPU {0} is not on this host".format(uuid), "anvil_gpus", known, hint)))
    return unmet, recommended


def _check_disk(required: Requirements, engine_info: Mapping[str, Any]) -> List[Unmet]:
    folder = required.folder or str(engine_info.get("DockerRootDir") or "")
    if not folder or not required.free_mib:
        return []
    free = free_mib(folder)
    if free >= required.free_mib:
        return []
    why = "{0} MiB are required for weights, {1} MiB are free: {2} MiB short".format(
        required.free_mib, free, required.free_mib - free
    )
    return [
        Unmet(
            "disk",
            Problem(
                "too little free disk space", folder, why, "free some space, or keep weights and images on another file system"
            ),
        )
    ]


def check_host(engine: DockerEngine, required: Requirements, tolerate: Sequence[str] = ()) -> Dict[str, Any]:
    """Return what anvil_host_check returns: ``missing`` (kinds that are not met), every problem, and what is recommended.

    tolerate: kinds that are reported but do not fail the task.
    """
    unmet, version, info = _check_docker(engine)
    unmet += _check_compose(engine.docker_host)
    unmet += _check_buildx(engine.docker_host) if required.builds else []
    toolkit = read_toolkit(info)
    without_gpus, recommended = _check_gpus(required, version, info, toolkit)
    unmet += without_gpus
    unmet += _check_disk(required, info)
    processor = str(info.get("Architecture") or "")
    local = is_local(engine.docker_host)
    guarded = read_guard() if local else None
    recommended = [
        *judge_processor(processor),
        *judge_engine(info, find_lowest_port(info) if local else 0),
        *judge_loopback_ports(version, info, guarded),
        *recommended,
    ]
    problems = [each.problem for each in unmet]
    result: Dict[str, Any] = {"changed": False, "platform": read_platform(), "architecture": processor}
    result["installation"] = read_installation(info) if info else find_installation()
    result["gpu_driver"] = choose_driver(version, info, toolkit, required.gpus, read_platform() == "wsl2")
    result["recommended"] = problems_as_dicts(recommended)
    result["missing"] = sorted({each.kind for each in unmet})
    if any(each.kind not in tolerate for each in unmet):
        return {**result, "problems": problems}
    return {**result, "tolerated": problems_as_dicts(problems)}
