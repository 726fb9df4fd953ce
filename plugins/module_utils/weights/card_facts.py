# SPDX-License-Identifier: GPL-3.0-or-later
"""Cards as the compatibility check needs them: memory, and the types that their compute capability supports. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, FrozenSet, List, Mapping, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.catalog.card_capabilities import find_capability

if TYPE_CHECKING:
    from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card


OLDEST_SM = 75  # of the capability table; older tensor cores take 16-bit floats only


@dataclass(frozen=True)
class CardFacts:
    """A card. sm: such as 120. can: types that its tensor cores compute in. emulated: types whose weights it reads, to compute
    in another type. ``can`` is None where the capability table does not have the card.
    """

    uuid: str
    name: str = ""
    sm: Optional[int] = None
    vram_mib: Optional[int] = None
    can: Optional[FrozenSet[str]] = None
    emulated: FrozenSet[str] = frozenset()

    def describe(self) -> str:
        return "{0} ({1}, {2})".format(self.uuid, self.name or "?", "sm_{0}".format(self.sm) if self.sm else "unknown sm")


def describe_card(uuid: str, name: Optional[str], version: Optional[str], vram_mib: Optional[int]) -> CardFacts:
    """A card with its row of the capability table. version: its compute capability, such as 12.0."""
    row = find_capability(version)
    sm = int(version.replace(".", "")) if version and version.replace(".", "").isdigit() else None
    if row is None and sm is not None and sm < OLDEST_SM:
        return CardFacts(uuid, name or "", sm, vram_mib, frozenset())
    can = None if row is None else frozenset(word for word in ("bf16", "int8", "fp8") if getattr(row, word))
    if row is not None and can is not None and row.fp4:
        can |= {"nvfp4", "mxfp4"}
    return CardFacts(uuid, name or "", sm, vram_mib, can, frozenset(row.emulated if row else ()))


def describe_cards(cards: Sequence[Card]) -> List[CardFacts]:
    """Cards as the driver describes them, and their MIG devices with the capability of the card."""
    found = []
    for card in cards:
        parts = [(card.uuid, card.vram_total_mib), *((one.uuid, one.vram_total_mib) for one in card.mig_devices)]
        found += [describe_card(uuid, card.name, card.compute_capability, vram_mib) for uuid, vram_mib in parts]
    return found


def describe_reported_cards(gpus: Sequence[Mapping[str, Any]]) -> List[CardFacts]:
    """The same, from what anvil_host_info returns as ``gpus``."""
    found = []
    for gpu in gpus:
        for one in (gpu, *(gpu.get("mig_devices") or ())):
            found.append(
                describe_card(str(one["uuid"]), gpu.get("name"), gpu.get("compute_capability"), one.get("vram_total_mib"))
            )
    return found
