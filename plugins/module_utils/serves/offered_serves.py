# SPDX-License-Identifier: GPL-3.0-or-later
"""Containers of this host as serves that could replace them: reads the containers, their images and the cards of the host."""

from __future__ import annotations

import re
from typing import Any, Dict, Mapping, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import read_cards
from ansible_collections.anvil.serving.plugins.module_utils.serves.container_as_serve import offer_serve
from ansible_collections.anvil.serving.plugins.module_utils.serves.gpu_claims import cards_of


def offer_serves(
    docker: DockerEngine, names: Sequence[str], serves: Sequence[str], gpus: Sequence[Mapping[str, Any]]
) -> Dict[str, Dict[str, Any]]:
    """Serve -> what ``OfferedServe`` holds. names: ``CONTAINER`` or ``SERVE=CONTAINER``. serves: the name of the serve, for one
    container. gpus: those of the inventory.
    """
    cards = read_cards() or ()
    memory = {card.uuid: card.vram_total_mib for card in cards if card.vram_total_mib}
    aliases = {str(gpu["uuid"]): str(gpu["alias"]) for gpu in gpus}
    offers = {}
    for word in names:
        serve, given, container = word.partition("=")
        if not given:
            serve, container = (serves[0] if len(serves) == len(names) == 1 else ""), word
        raw = docker.inspect_container(container)
        if raw is None:
            continue
        name = serve or re.sub(r"[^a-z0-9_-]+", "-", container.lower()).strip("-_")[:63]
        image = docker.inspect_image(str(raw.get("Image") or "")) or {}
        inherited = (image.get("Config") or {}).get("Env") or ()
        offers[name] = offer_serve(name, raw, inherited, aliases, memory, cards_of(raw, cards)).as_dict()
    return offers
