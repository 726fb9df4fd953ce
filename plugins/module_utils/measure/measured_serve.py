# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs behind a tier while it is measured: image, arguments, cards and driver. A measurement of another one is stale."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import hide_secrets
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import CDI_PREFIX
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card, read_cards


@dataclass(frozen=True)
class MeasuredServe:
    """image: its digest in a registry, or its id. arguments: without secrets. cards: ``NAME UUID`` of each. Empty: not known."""

    image: str
    arguments: Tuple[str, ...] = ()
    cards: Tuple[str, ...] = ()
    driver: str = ""

    def as_dict(self) -> Dict[str, Any]:
        return {**asdict(self), "arguments": list(self.arguments), "cards": list(self.cards)}


def describe_serves(docker: DockerEngine, containers: Mapping[str, str]) -> Dict[str, Dict[str, Any]]:
    """containers: tier -> the container of its serve. A tier whose container does not exist is left out."""
    found = {tier: docker.inspect_container(name) for tier, name in containers.items()}
    try:
        cards = read_cards() or []
    except AnvilError:  # the report is about the tiers; status.yml tells what is wrong with the driver
        cards = []
    return {tier: _describe(docker, one, cards).as_dict() for tier, one in found.items() if one is not None}


def _describe(docker: DockerEngine, inspected: Mapping[str, Any], cards: Sequence[Card]) -> MeasuredServe:
    image = docker.inspect_image(inspected["Image"])
    digests = sorted(image["RepoDigests"]) if image is not None else []
    config = inspected["Config"]
    requests = inspected["HostConfig"]["DeviceRequests"]
    uuids: List[str] = [str(name).removeprefix(CDI_PREFIX) for request in requests for name in request["DeviceIDs"]]
    named = {card.uuid: card for card in cards}
    drivers = sorted({card.driver for card in cards if card.driver})
    return MeasuredServe(
        image=digests[0].rpartition("@")[2] if digests else str(inspected["Image"]),
        arguments=tuple(hide_secrets([*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())])),
        cards=tuple(sorted(_name_card(uuid, named.get(uuid)) for uuid in uuids)),
        driver=drivers[0] if uuids and drivers else "",
    )


def _name_card(uuid: str, card: Optional[Card]) -> str:
    return "{0} {1}".format(card.name, uuid) if card is not None and card.name else uuid


def list_differences(measured: Mapping[str, Any], now: Mapping[str, Any]) -> List[str]:
    """What has changed since a tier was measured, such as ``driver``. A fact that one side does not know does not differ."""
    names = ("image", "arguments", "cards", "driver")
    return [name for name in names if measured.get(name) and now.get(name) and measured[name] != now[name]]
