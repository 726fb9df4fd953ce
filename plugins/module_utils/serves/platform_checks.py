# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the images of serves are for the processor of this host, before they are pulled, and before they are started."""

from __future__ import annotations

import os
import time
from typing import Dict, List, Mapping, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.core.findings import Finding, select_refused, tell_others
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service
from ansible_collections.anvil.serving.plugins.module_utils.docker.connection import is_local
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.side_containers import LABEL_OWNER, confine, describe_owner
from ansible_collections.anvil.serving.plugins.module_utils.images.platform import (
    judge_image,
    judge_offer,
    name_platform,
    read_offer,
    runs_here,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import ObservedImage
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Outcome
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import ProjectState

# What the kernel says of a program for another processor, in the words of runc and of shells.
REFUSALS = ("exec format error", "cannot execute binary file")
# Seconds that a program gets to fail.
TRIAL = 3.0
# A registry that does not answer is asked for no other image.
UNREACHABLE = ("connection", "timeout", "no such host", "unreachable", "deadline", "lookup")


def read_platform_here(docker: DockerEngine) -> str:
    """The platform of the Docker Engine: on this machine, that of the kernel."""
    if is_local(docker.docker_host):
        return name_platform("linux", os.uname().machine)
    told = docker.version()
    return name_platform(told.get("Os"), told.get("Arch"))


def check_offers(state: ProjectState, services: Sequence[Service], outcomes: Mapping[str, Outcome], mode: str) -> List[str]:
    """Before these serves' images are pulled: put refusals into the outcomes; returns notes for the operator.

    A registry that cannot be asked is no finding: the pull itself says why.
    """
    host, found = read_platform_here(state.docker), []
    emulated = _read_emulated(state.docker)
    silent: Dict[str, bool] = {}
    for image in dict.fromkeys(service.image for service in services):
        registry = image.partition("/")[0]
        if silent.get(registry):
            continue
        users = [service for service in services if service.image == image]
        try:
            distribution = state.docker.inspect_distribution(image)
        except AnvilError as exc:
            silent[registry] = any(word in exc.as_text().lower() for word in UNREACHABLE)
            continue
        if distribution is not None:
            finding = judge_offer(read_offer(distribution), host, emulated, _describe_place(users, image))
            found += _put(finding, users, outcomes, mode)
    return found


def check_images(state: ProjectState, services: Sequence[Service], outcomes: Mapping[str, Outcome], mode: str) -> List[str]:
    """Before these serves are started from images of this host. An image for another processor is tried, which is the proof."""
    images = {service.image: state.read_image(service.image) for service in services}
    if not any(images.values()):
        return []
    host, found = read_platform_here(state.docker), []
    for name, image in images.items():
        platform = name_platform(image.system, image.processor) if image is not None else ""
        if image is None or runs_here(platform, host):
            continue
        users = [service for service in services if service.image == name]
        refusal = _try_program(state.docker, image, users[0])
        emulated = _read_emulated(state.docker) if refusal is None else None
        finding = judge_image(platform, host, emulated, refusal, _describe_place(users, name))
        found += _put(finding, users, outcomes, mode)
    return found


def _describe_place(users: Sequence[Service], image: str) -> str:
    return "serve {0}, image {1}".format(", ".join(service.name for service in users), image)


def _put(finding: Optional[Finding], users: Sequence[Service], outcomes: Mapping[str, Outcome], mode: str) -> List[str]:
    if finding is None:
        return []
    for service in users:
        outcomes[service.name].problems.extend(select_refused([finding], mode))
    return tell_others([finding], mode)


def _read_emulated(docker: DockerEngine) -> Optional[frozenset[str]]:
    from ansible_collections.anvil.serving.plugins.module_utils.host.emulation import read_emulated

    return read_emulated() if is_local(docker.docker_host) else None


def _try_program(docker: DockerEngine, image: ObservedImage, service: Service) -> Optional[str]:
    """Start the program of a serve in a side container: no network, no cards, read-only. Returns the kernel's refusal; empty: it
    started; None: that could not be found out.
    """
    words = list(service.entrypoint or image.entrypoint) or list(service.command or image.command)
    if not words:
        return None
    options = {
        "entrypoint": [words[0]],
        "labels": {LABEL_OWNER: describe_owner()},
        "healthcheck": {"test": ["NONE"]},
        "host_config": confine(tmpfs={"/tmp": "size=64m,mode=1777"}, mem_limit="512m", memswap_limit="512m", pids_limit=64),
    }
    try:
        process = docker.open_process(image.id, ["--version"], **options)
    except AnvilError as exc:
        return _find_refusal(exc.as_text()) or None
    try:
        deadline = time.monotonic() + TRIAL
        while not process.has_ended() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.drain()
        return _find_refusal(process.errors.decode("utf-8", "replace"))
    except AnvilError as exc:
        return _find_refusal(exc.as_text()) or None
    finally:
        process.release()


def _find_refusal(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if any(word in line for word in REFUSALS)]
    return lines[-1][:300] if lines else ""
