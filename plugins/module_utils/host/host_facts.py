# SPDX-License-Identifier: GPL-3.0-or-later
"""What a Docker host has: Docker Engine, Compose, NVIDIA driver, container toolkit and GPUs, in one description."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, TypeVar

from ansible_collections.anvil.serving.plugins.module_utils.catalog.card_capabilities import describe_capability
from ansible_collections.anvil.serving.plugins.module_utils.core.disk_space import MIB, count_free_bytes
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_cli import read_version
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.host.container_toolkit import Toolkit, names_nvidia, read_toolkit
from ansible_collections.anvil.serving.plugins.module_utils.host.docker_installation import read_installation
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card
from ansible_collections.anvil.serving.plugins.module_utils.host.listening_ports import find_held_ports
from ansible_collections.anvil.serving.plugins.module_utils.host.nvidia_stack import read_driver

Read = TypeVar("Read")


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
        "runtime_registered": any(names_nvidia(name, one) for name, one in (engine_info.get("Runtimes") or {}).items()),
        "cdi_enabled": toolkit.cdi_enabled,
        "cdi_specs": list(toolkit.cdi_specs),
        "cdi_devices": list(toolkit.cdi_devices),
    }


def describe_host(docker: DockerEngine, ports: Sequence[int] = (), partial: bool = False) -> Dict[str, Any]:
    """The facts that anvil_host_info returns. Raises AnvilError if the Docker Engine or the driver does not answer.

    ports: TCP ports of which the holders are wanted. partial: what does not answer is in ``unread``, and is no failure.
    """
    unread: List[str] = []

    def read(one: Callable[[], Read], otherwise: Read) -> Read:
        try:
            return one()
        except AnvilError as error:
            if not partial:
                raise
            unread.append(error.as_text())
            return otherwise

    nothing: Dict[str, Any] = {}
    none: List[Dict[str, Any]] = []
    version = read(docker.version, nothing)
    info = read(docker.info, nothing) if version else nothing
    listed = read(docker.list_containers, none) if version and ports else none
    driver = read(read_driver, None)
    root: Optional[str] = info.get("DockerRootDir")
    return {
        "changed": False,
        "engine": {
            "version": version.get("Version"),
            "api_version": version.get("ApiVersion"),
            "data_root": root,
            "storage_driver": info.get("Driver"),
            "runtimes": sorted(info.get("Runtimes") or {}),
            "installation": read_installation(info) if info else "",
        },
        "compose": read_version(docker.docker_host),
        "platform": read_platform(),
        "disk": {"folder": root or "/", "free_mib": count_free_bytes(root or "/") // MIB},
        "nvidia": {
            "present": driver is not None,
            "driver": driver.version if driver else None,
            "cuda": driver.cuda if driver else None,
            "source": driver.source if driver else None,
        },
        "toolkit": _describe_toolkit(read_toolkit(info), info),
        "gpus": [describe_card(card) for card in (driver.cards if driver else ())],
        "held_ports": {str(number): holder for number, holder in find_held_ports(ports, listed).items()},
        "unread": unread,
    }
