# SPDX-License-Identifier: GPL-3.0-or-later
"""Which containers hold the GPUs of this host, ours or not, and how much memory each claims."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import COMPOSE_PROJECT, LABEL_VRAM
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import HOLDING
from ansible_collections.anvil.serving.plugins.module_utils.serves.vram_ledger import Claim


def cards_of(raw: Mapping[str, Any], cards: Sequence[Card]) -> Tuple[str, ...]:
    """The UUIDs of the GPUs of a container, requested by UUID, by index, by count or by the runtime's variable.

    A MIG device counts as a GPU: it has its own UUID, and its index is ``card:device``.
    """
    host, config = raw["HostConfig"], raw["Config"]
    asked: List[str] = []
    for request in host.get("DeviceRequests") or []:
        if (request.get("Driver") or "nvidia") not in ("nvidia", "cdi"):
            continue
        count = int(request.get("Count") or 0)
        asked.extend(request.get("DeviceIDs") or (["all"] if count < 0 else [str(number) for number in range(count)]))
    if host.get("Runtime") == "nvidia":
        lines = [line for line in config.get("Env") or [] if line.startswith("NVIDIA_VISIBLE_DEVICES=")]
        asked.extend(word for line in lines for word in line.partition("=")[2].split(",") if word not in ("", "none", "void"))
    by_index = {str(card.index): card.uuid for card in cards}
    for card in cards:
        by_index.update({"{0}:{1}".format(card.index, number): one.uuid for number, one in enumerate(card.mig_devices)})
    found: List[str] = []
    for word in (name.rpartition("nvidia.com/gpu=")[2] for name in asked):
        found.extend([uuid for card in cards for uuid in _usable(card)] if word == "all" else [by_index.get(word, word)])
    return tuple(dict.fromkeys(found))


def _usable(card: Card) -> Tuple[str, ...]:
    """The devices of a card that a container can hold: in MIG mode its MIG devices, else the card itself."""
    return tuple(device.uuid for device in card.mig_devices) if card.mig else (card.uuid,)


def _label_mib(labels: Mapping[str, str]) -> Optional[int]:
    word = labels.get(LABEL_VRAM, "")
    return int(word) if word.isdigit() else None


def claim_of(raw: Mapping[str, Any], cards: Sequence[Card]) -> Optional[Claim]:
    """The claim of a container, from the Docker Engine's description of it; None if it has no GPU."""
    uuids = cards_of(raw, cards)
    if not uuids:
        return None
    labels = raw["Config"].get("Labels") or {}
    project = labels.get(COMPOSE_PROJECT, "")
    holder = "container {0} ({1}{2})".format(
        str(raw["Name"]).lstrip("/"), "project {0}, ".format(project) if project else "", raw["State"]["Status"]
    )
    return Claim(holder, uuids, _label_mib(labels))


def read_claims(docker: DockerEngine, listed: Sequence[Mapping[str, Any]], cards: Sequence[Card]) -> Dict[str, Claim]:
    """Container id -> its claim, for all containers that hold a GPU now."""
    found = {}
    for entry in listed:
        if entry["State"] not in HOLDING:
            continue
        raw = docker.inspect_container(str(entry["Id"]))
        claim = None if raw is None else claim_of(raw, cards)
        if claim is not None:
            found[str(entry["Id"])] = claim
    return found
