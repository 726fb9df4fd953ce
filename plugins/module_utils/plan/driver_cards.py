# SPDX-License-Identifier: GPL-3.0-or-later
"""Complete ``anvil_gpus`` with what the driver of the host reports, where the inventory left values out. Pure.

The driver's answer is given, as ``anvil_host_info`` returns it. A written value stays as it is; one that differs from the
driver's is told.
"""

from __future__ import annotations

from typing import Any, Dict, Iterable, List, Mapping, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import format_path

# Values that the plan needs; for these the driver is asked.
NEEDED_KEYS = ("vram_mib", "compute_capability")
# The key of an entry -> the key of a card in anvil_host_info.
DRIVER_KEYS: Mapping[str, str] = {
    "vram_mib": "vram_total_mib",
    "compute_capability": "compute_capability",
    "name": "name",
    "index": "index",
}
# The inventory may round: a driver of another version reports some MiB more or less.
NEAR_MIB = 256


def find_incomplete(gpus: Any) -> List[str]:
    """The aliases of cards that lack a value which the driver knows. What is not a mapping is reported by the plan."""
    if not isinstance(gpus, Mapping):
        return []
    return [
        str(alias)
        for alias, entry in gpus.items()
        if isinstance(entry, Mapping) and entry.get("uuid") and any(entry.get(key) is None for key in NEEDED_KEYS)
    ]


def _list_by_uuid(cards: Iterable[Mapping[str, Any]]) -> Dict[str, Dict[str, Any]]:
    """UUID in lower case -> the values of a card or MIG device. A MIG device computes as its card does."""
    found: Dict[str, Dict[str, Any]] = {}
    for card in cards:
        found[str(card.get("uuid")).lower()] = {key: card.get(source) for key, source in DRIVER_KEYS.items()}
        for device in card.get("mig_devices") or ():
            mine = {"vram_mib": device.get("vram_total_mib"), "compute_capability": card.get("compute_capability")}
            name = "{0} MIG {1}".format(card.get("name"), device.get("profile")) if card.get("name") else None
            found[str(device.get("uuid")).lower()] = {**mine, "name": name}
    return found


def complete_gpus(gpus: Any, cards: Iterable[Mapping[str, Any]]) -> Tuple[Any, List[str]]:
    """``anvil_gpus`` with the driver's values where it has none, and a note for each written value that differs.

    An index is not filled in: it says how a serve is pinned, and the driver's may change with the slots.
    """
    if not isinstance(gpus, Mapping):
        return gpus, []
    known = _list_by_uuid(cards)
    completed: Dict[Any, Any] = {}
    notes: List[str] = []
    for alias, entry in gpus.items():
        card = known.get(str(entry.get("uuid")).lower()) if isinstance(entry, Mapping) else None
        completed[alias] = entry
        if card is None:
            continue
        completed[alias] = dict(entry)
        for key, value in card.items():
            written = entry.get(key)
            if written is None and value is not None and key != "index":
                completed[alias][key] = value
            elif written is not None and value is not None and _differs(key, written, value):
                where = format_path(("anvil_gpus", str(alias), key))
                notes.append("{0}: {1} is written, and the driver reports {2}".format(where, written, value))
    return completed, notes


def _differs(key: str, written: Any, reported: Any) -> bool:
    if key == "vram_mib":
        return isinstance(written, int) and abs(written - int(reported)) > NEAR_MIB
    return str(written) != str(reported)
