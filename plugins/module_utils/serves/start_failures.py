# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a serve could not start: errors of the Docker Engine and docker compose, with their meaning and what to do. Pure."""

from __future__ import annotations

import re
from typing import Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service

# An error of the Docker Engine or docker compose -> its meaning, and what to do.
_EXPLANATIONS: Tuple[Tuple[str, str, str], ...] = (
    (
        r"port is already allocated|address already in use",
        "port {port} is taken",
        "it was free a moment before: end the process that took it, or give the serve another port, then run again",
    ),
    (
        r"container name .* is already in use",
        "the container name {container} is taken",
        "it was free a moment before: retire or adopt the container that took it, then run again",
    ),
    (
        r"could not select device driver",
        "the Docker Engine has no nvidia device driver",
        "install nvidia-container-toolkit on the host and restart the Docker Engine, which looks for it only at its start",
    ),
    (
        r"nvidia-container-cli|unknown device",
        "the NVIDIA runtime refused the GPU",
        "run nvidia-smi -L on the host: anvil_gpus must have a UUID that it lists",
    ),
    (
        r"no such file or directory|executable file not found|permission denied",
        "the image cannot run the entrypoint or command",
        "the message above names the program; check that the image contains it",
    ),
    (
        r"no space left on device",
        "the disk of the Docker Engine is full",
        "docker system df on the host shows what uses the space",
    ),
    (
        r"failed to respond|Cannot connect to the Docker daemon|connection refused|EOF",
        "the Docker Engine stopped while the serve was started",
        "find out why dockerd ended (journalctl -u docker), start it, then run again",
    ),
)
_IMAGE_EXPLANATIONS: Tuple[Tuple[str, str], ...] = (
    (r"manifest unknown|not found|name unknown", "the registry has no such image: check the name and the tag"),
    (r"denied|unauthorized|authentication", "the registry requires a login (docker login on the host), or the name is misspelt"),
    (r"no space left", "the disk of the host is full: docker system df shows what uses the space"),
    (
        r"connection refused|no such host|no route to host|timeout|unreachable|lookup|EOF",
        "the host cannot reach the registry: check that it is up, or docker load the image on the host",
    ),
)


def explain_failure(service: Service, error: str, image_here: bool) -> Problem:
    """The problem to report for an error of docker compose or the Docker Engine. image_here: the host has the image."""
    where = "serve " + service.name
    if not image_here:
        what = "image {0} is not on this host and cannot be pulled".format(service.image)
        hints = [hint for pattern, hint in _IMAGE_EXPLANATIONS if re.search(pattern, error, re.IGNORECASE)]
        return Problem(
            what,
            where,
            error,
            hints[0] if hints else "check that the host can reach the registry, or docker load the image on the host",
        )
    for pattern, what, hint in _EXPLANATIONS:
        if re.search(pattern, error):
            port = ", ".join("{0}:{1}".format(bind, number) for bind, number, _target in service.ports)
            return Problem(what.format(port=port, container=service.container), where, error, hint)
    return Problem(
        "docker compose could not start the container",
        where,
        error,
        "correct what the error above names, then run again; the other serves keep running",
    )
