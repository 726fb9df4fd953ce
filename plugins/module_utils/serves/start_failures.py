# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the engine or docker compose said when a serve could not start, in an operator's words. Pure."""

from __future__ import annotations

import re
from typing import Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.service import Service

# What the engine and compose say when a container cannot start -> what that means, and what to do.
_EXPLANATIONS: Tuple[Tuple[str, str, str], ...] = (
    (
        r"port is already allocated|address already in use",
        "port {port} is taken",
        "somebody took it after it was found free: end that process or give the serve another port, then run again",
    ),
    (
        r"container name .* is already in use",
        "the container name {container} is taken",
        "somebody took it after it was found free: retire or adopt that container, then run again",
    ),
    (
        r"could not select device driver",
        "the engine has no nvidia device driver",
        "install nvidia-container-toolkit on the host and restart the engine: it looks for the driver when it starts",
    ),
    (
        r"nvidia-container-cli|unknown device",
        "the NVIDIA runtime refused the card",
        "is the card still there? nvidia-smi -L on the host tells; anvil_gpus must hold the same UUID",
    ),
    (
        r"no such file or directory|executable file not found|permission denied",
        "the image cannot run the entrypoint or command",
        "see which program the image has: the message above names the one that was asked for",
    ),
    (r"no space left on device", "the engine has no room left", "docker system df on the host tells what holds it"),
    (
        r"failed to respond|Cannot connect to the Docker daemon|connection refused|EOF",
        "the engine went away while it was asked to start the serve",
        "see why dockerd ended (journalctl -u docker), start it, then run again",
    ),
)
_IMAGE_EXPLANATIONS: Tuple[Tuple[str, str], ...] = (
    (r"manifest unknown|not found|name unknown", "the registry answers and has no such image: is name and tag right?"),
    (r"denied|unauthorized|authentication", "the registry wants a login: docker login on the host, or is the name misspelt?"),
    (r"no space left", "the host's disk is full: docker system df tells what holds it"),
    (
        r"connection refused|no such host|no route to host|timeout|unreachable|lookup|EOF",
        "the registry cannot be reached from the host: is it up? or docker load the image there",
    ),
)


def explain(service: Service, said: str, image_here: bool) -> Problem:
    """What compose or the engine said, in an operator's words."""
    where = "serve " + service.name
    if not image_here:
        what = "image {0} is not on this host and cannot be pulled".format(service.image)
        hints = [hint for pattern, hint in _IMAGE_EXPLANATIONS if re.search(pattern, said, re.IGNORECASE)]
        return Problem(what, where, said, hints[0] if hints else "can the host reach its registry? or docker load it there")
    for pattern, what, hint in _EXPLANATIONS:
        if re.search(pattern, said):
            port = ", ".join("{0}:{1}".format(bind, number) for bind, number, _target in service.ports)
            return Problem(what.format(port=port, container=service.container), where, said, hint)
    return Problem(
        "docker compose could not start it", where, said, "the message above is the engine's; nothing else was touched"
    )
