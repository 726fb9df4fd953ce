# SPDX-License-Identifier: GPL-3.0-or-later
"""Which containers hold the GPUs of this host, ours or not, and how much memory each claims."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker import documents
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import COMPOSE_PROJECT, LABEL_VRAM
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.host.container_toolkit import names_nvidia
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import MOST_CARDS, Card, read_minors
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import HOLDING
from ansible_collections.anvil.serving.plugins.module_utils.serves.vram_ledger import Claim, parse_claims

# The kinds of CDI devices that are NVIDIA's GPUs: nvidia.com/gpu, management.nvidia.com/gpu, runtime.nvidia.com/gpu.
_CDI_NAME = re.compile(r"(?:[\w.-]+\.)?nvidia\.com/gpu=(.+)")
# gpu0 and mig0:1: how nvidia-ctk names devices with the strategy type-index.
_TYPE_INDEX = re.compile(r"(?:gpu|mig)(\d+(?::\d+)?)")
_DEVICE_FILE = re.compile(r"/dev/nvidia(\d+)")
# The one device file of all GPUs of WSL2.
WSL_DEVICE = "/dev/dxg"
NOTHING = ("", "none", "void")
# Where a Kubernetes node mounts one file for each GPU of a container, in place of a list in the variable.
DEVICE_MOUNTS = "/var/run/nvidia-container-devices"
# A shortened UUID has at least this many characters after GPU- or MIG-.
SHORTEST = 4


@dataclass(frozen=True)
class HostNames:
    """How this host names its GPUs and runtimes. minors: number of a device file -> UUID of its card. runtimes: the names of
    those that are NVIDIA's, beside the usual ones."""

    minors: Mapping[int, str] = field(default_factory=dict)
    runtimes: Tuple[str, ...] = ()


def read_host_names(docker: DockerEngine, cards: Sequence[Card]) -> HostNames:
    listed = docker.info().get("Runtimes") or {}
    return HostNames(read_minors(cards), tuple(name for name, runtime in listed.items() if names_nvidia(name, runtime)))


def cards_of(raw: Mapping[str, Any], cards: Sequence[Card], names: HostNames = HostNames()) -> Tuple[str, ...]:
    """The UUIDs of the GPUs that a container has; what names no GPU of this host stands as it was written.

    A device request counts before the environment, as for the runtime: it sets the variable anew. A MIG device counts as a GPU:
    it has its own UUID, and its index is ``card:device``.
    """
    document = documents.read_container(raw)
    host = document["HostConfig"]
    asked = _list_requested(host["DeviceRequests"])
    if asked is None and (host["Runtime"] in names.runtimes or names_nvidia(host["Runtime"], None)):
        asked = _list_in_environment(document["Config"]["Env"])
        if DEVICE_MOUNTS in asked:
            targets = [mount["Destination"] for mount in document["Mounts"]]
            asked = [posixpath.basename(path) for path in targets if posixpath.dirname(path) == DEVICE_MOUNTS]
    found = [uuid for word in asked or () for uuid in _resolve(word, cards)]
    for path in (device["PathOnHost"] for device in host["Devices"]):
        number = _DEVICE_FILE.fullmatch(path)
        if number:
            uuid = names.minors.get(int(number[1]))
            found.extend([uuid] if uuid else _resolve(number[1], cards))
        elif path == WSL_DEVICE or _CDI_NAME.fullmatch(path):
            found.extend(_resolve("all" if path == WSL_DEVICE else path, cards))
    return tuple(dict.fromkeys(found))


def _list_requested(requests: Sequence[Mapping[str, Any]]) -> Optional[List[str]]:
    """What the device requests of a container ask for; None: none of them asks for NVIDIA's GPUs."""
    asked: Optional[List[str]] = None
    for request in requests:
        driver, count = request["Driver"], request["Count"]
        # The Docker Engine joins them with commas.
        names = [name.strip() for ids in request["DeviceIDs"] for name in ids.split(",") if name.strip()]
        if driver == "cdi":
            names = [found[1] for found in map(_CDI_NAME.fullmatch, names) if found]
            if not names:
                continue  # the devices of another vendor
        elif driver not in ("", "nvidia", "nvidia.cdi", "nvidia.runtime-hook") or not _wants_gpu(driver, request):
            continue
        if not names:
            names = ["all"] if count < 0 else [str(number) for number in range(min(count, MOST_CARDS))]
        asked = [*(asked or ()), *names]
    return asked


def _wants_gpu(driver: str, request: Mapping[str, Any]) -> bool:
    """Where no driver is named, the Docker Engine chooses one by the capabilities: NVIDIA's has gpu and nvidia."""
    wanted = request.get("Capabilities")
    if driver or not wanted or not isinstance(wanted, (list, tuple)):
        return True
    return any(isinstance(one, (list, tuple)) and not {"gpu", "nvidia"}.isdisjoint(map(str, one)) for one in wanted)


def _list_in_environment(lines: Sequence[str]) -> List[str]:
    """What NVIDIA's runtime reads from the environment: the last value of the variable; ``void`` anywhere in it means no GPU.

    An image of before 2018 sets CUDA_VERSION alone, and means all GPUs.
    """
    values = dict(line.partition("=")[::2] for line in lines)
    if "NVIDIA_VISIBLE_DEVICES" not in values:
        return ["all"] if values.get("CUDA_VERSION") and not values.get("NVIDIA_REQUIRE_CUDA") else []
    words = [word.strip() for word in values["NVIDIA_VISIBLE_DEVICES"].split(",")]
    return [] if "void" in words else words


def _resolve(word: str, cards: Sequence[Card]) -> List[str]:
    """The GPUs of one word: ``all``, an index, a UUID or the beginning of one, a name of CDI, a PCI address."""
    cdi = _CDI_NAME.fullmatch(word)
    name = cdi[1] if cdi else word
    if name in NOTHING:
        return []
    if name.lower() == "all":
        return [uuid for card in cards for uuid in _usable(card)]
    numbered = _TYPE_INDEX.fullmatch(name)
    index = numbered[1] if numbered else name
    uuids = []
    for card in cards:
        if index == str(card.index) or name.lower() == str(card.pci_bus_id).lower()[-max(len(name), 7) :]:
            uuids.append(card.uuid)
        uuids.extend(one.uuid for number, one in enumerate(card.mig_devices) if index == "{0}:{1}".format(card.index, number))
    known = [uuid for card in cards for uuid in (card.uuid, *(one.uuid for one in card.mig_devices)) if uuid]
    if not uuids:
        uuids = [uuid for uuid in known if uuid.lower() == name.lower()]
    if not uuids and len(name) >= len("GPU-") + SHORTEST:
        uuids = [uuid for uuid in known if uuid.lower().startswith(name.lower())]
    return uuids if len(uuids) == 1 and uuids[0] else [name]


def _usable(card: Card) -> Tuple[str, ...]:
    """The devices of a card that a container can hold: in MIG mode its MIG devices, else the card itself."""
    if card.mig:
        return tuple(device.uuid for device in card.mig_devices)
    return (card.uuid,) if card.uuid else ()


def claim_of(raw: Mapping[str, Any], cards: Sequence[Card], names: HostNames = HostNames()) -> Optional[Claim]:
    """The claim of a container, from the Docker Engine's description of it; None if it has no GPU."""
    uuids = cards_of(raw, cards, names)
    if not uuids:
        return None
    document = documents.read_container(raw)
    labels, state, name = document["Config"]["Labels"], document["State"]["Status"], document["Name"].lstrip("/")
    project = labels.get(COMPOSE_PROJECT, "")
    holder = "container {0} ({1}{2})".format(name, "project {0}, ".format(project) if project else "", state)
    return Claim(holder, uuids, *parse_claims(labels.get(LABEL_VRAM, "")))


def read_claims(docker: DockerEngine, listed: Sequence[Mapping[str, Any]], cards: Sequence[Card]) -> Dict[str, Claim]:
    """Container id -> its claim, for all containers that hold a GPU now."""
    found, names = {}, read_host_names(docker, cards)
    for entry in listed:
        if entry["State"] not in HOLDING:
            continue
        raw = docker.inspect_container(str(entry["Id"]))
        claim = None if raw is None else claim_of(raw, cards, names)
        if claim is not None:
            found[str(entry["Id"])] = claim
    return found
