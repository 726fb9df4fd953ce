# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The cards that a service of a compose file asks for, in any of the forms that Compose knows, and those that it gets. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import CDI_PREFIX
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import UUID

CARD_FILE = re.compile(r"/dev/nvidia[0-9]+")
DRIVER_FILE = re.compile(r"/dev/nvidia(ctl|-uvm|-uvm-tools|-modeset|-caps.*)")
VISIBLE = "NVIDIA_VISIBLE_DEVICES"
ALL = -1


@dataclass
class GpuRequest:
    """uuids: cards by their UUIDs. loose: the number of cards without one; ALL; None for none. refused: other devices."""

    uuids: list[str] = field(default_factory=list)
    loose: int | None = None
    refused: list[str] = field(default_factory=list)

    def add(self, word: str) -> None:
        """One card by UUID, index or the word ``all``."""
        if UUID.fullmatch(word):
            self.uuids.append(word)
        elif word == "all" or self.loose == ALL:
            self.loose = ALL
        else:
            self.loose = (self.loose or 0) + 1


def read_gpu_request(raw: Mapping[str, Any]) -> GpuRequest:
    """raw: one service with plain values."""
    request = GpuRequest()
    reservations = ((raw.get("deploy") or {}).get("resources") or {}).get("reservations") or {}
    for device in [*(reservations.get("devices") or ()), *_as_devices(raw.get("gpus"))]:
        _read_reservation(request, device)
    for device in raw.get("devices") or ():
        _read_device(request, str(device.get("source") if isinstance(device, Mapping) else device))
    visible = (raw.get("environment") or {}).get(VISIBLE)
    if not request.uuids and request.loose is None:
        if visible is not None and str(visible).lower() not in ("", "none", "void"):
            for word in str(visible).split(","):
                request.add(word.strip())
        elif visible is None and raw.get("runtime") == "nvidia":
            request.loose = ALL
    request.uuids = list(dict.fromkeys(request.uuids))
    return request


def _as_devices(gpus: Any) -> list[Any]:
    return [{"count": ALL}] if gpus == "all" else list(gpus or ())


def _read_reservation(request: GpuRequest, device: Mapping[str, Any]) -> None:
    driver, ids = str(device.get("driver") or "nvidia"), [str(one) for one in device.get("device_ids") or ()]
    if driver not in ("nvidia", "cdi") or any("=" in one and not one.startswith(CDI_PREFIX) for one in ids):
        request.refused.append(f"a device of driver {driver}" + (": " + ", ".join(ids) if ids else ""))
        return
    for one in ids:
        request.add(one.removeprefix(CDI_PREFIX))
    if not ids:
        count = device.get("count")
        number = ALL if count in (None, "all", ALL) else int(str(count))
        request.loose = ALL if ALL in (number, request.loose) else (request.loose or 0) + number


def _read_device(request: GpuRequest, device: str) -> None:
    source = device.partition(":")[0]
    if source.startswith(CDI_PREFIX):
        request.add(source.removeprefix(CDI_PREFIX))
    elif CARD_FILE.fullmatch(source):
        request.add(source.removeprefix("/dev/nvidia"))
    elif not DRIVER_FILE.fullmatch(source):
        request.refused.append("the device " + source)


def choose_cards(name: str, request: GpuRequest, chosen: list[str], known: list[str]) -> Iterator[Problem | str]:
    """The UUIDs of the cards that a service gets, or problems. chosen: the UUIDs that ``gpu`` names. known: words for ``gpu``."""
    where = f"compose: services.{name}"
    for what in request.refused:
        hint = "remove it: the only devices of an experiment are NVIDIA cards"
        yield Problem(f"an experiment cannot have {what}", f"{where}.devices", hint=hint)
    if request.uuids:
        yield from request.uuids
        return
    if request.loose is None:
        return
    asked = "all cards" if request.loose == ALL else "1 card" if request.loose == 1 else f"{request.loose} cards"
    if not chosen:
        yield Problem(
            "a GPU must be pinned by its UUID",
            where,
            f"the service asks for {asked}, by number or index",
            "pass -e gpu=ALIAS"
            + (f" (known: {', '.join(known)})" if known else "")
            + ", or write deploy.resources.reservations.devices with driver: nvidia, device_ids: [GPU-…], capabilities: [gpu]",
        )
    elif request.loose not in (ALL, len(chosen)):
        yield Problem(f"the service asks for {asked}, and gpu names {len(chosen)}", where, hint="name as many with -e gpu=…")
    else:
        yield from chosen
