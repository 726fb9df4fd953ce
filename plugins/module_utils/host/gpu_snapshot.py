# SPDX-License-Identifier: GPL-3.0-or-later
"""What ``nvidia-smi -q -x`` reports about the health and use of each card. Pure; every field may be absent.

The names of fields differ between drivers: the present one stands first, older ones after it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.gpu_conditions import RECOVERY_ACTIONS, RECOVERY_WORDS

MIB = 1 << 20
# What a driver prints instead of the value of a card that does not work.
BROKEN = re.compile(r"GPU is lost|requires reset|Unknown Error|ERR!", re.IGNORECASE)
# The reasons for lowered clocks that say something about the health of a card: flag -> the end of the field's name.
THROTTLES = {
    "hw_slowdown": "hw_slowdown",
    "hw_thermal": "hw_thermal_slowdown",
    "hw_power": "hw_power_brake_slowdown",
    "sw_thermal": "sw_thermal_slowdown",
    "sw_power": "sw_power_cap",
}
MOST_TEXT = 200


@dataclass(frozen=True)
class CardSnapshot:
    """One card. None is unknown. Temperatures in °C, power in W, memory in bytes, utilisation 0 to 1.

    recovery: the flag of the driver's recovery action; empty: none is needed. throttles: the active reasons for lowered clocks.
    broken: the driver's words where it reports an error instead of a value.
    """

    index: Optional[int] = None
    uuid: str = ""
    name: Optional[str] = None
    bus: str = ""
    driver: Optional[str] = None
    devices: Tuple[str, ...] = ()
    memory_total: Optional[int] = None
    memory_used: Optional[int] = None
    utilisation: Optional[float] = None
    temperature: Optional[float] = None
    slowdown_temperature: Optional[float] = None
    slowdown_margin: Optional[float] = None
    power: Optional[float] = None
    power_limit: Optional[float] = None
    recovery: Optional[str] = None
    recovery_words: str = ""
    reset_required: Optional[bool] = None
    reset_recommended: Optional[bool] = None
    remap_pending: Optional[bool] = None
    remap_failure: Optional[bool] = None
    retirement_pending: Optional[bool] = None
    repair_pending: Optional[bool] = None
    unrepairable: Optional[bool] = None
    sram_threshold: Optional[bool] = None
    uncorrected: Optional[int] = None
    uncorrected_ever: Optional[int] = None
    corrected: Optional[int] = None
    throttles: Tuple[str, ...] = ()
    link_width: Optional[int] = None
    link_width_most: Optional[int] = None
    nvlink_errors: Optional[int] = None
    fabric: str = ""
    broken: str = ""


def read_number(text: Optional[str]) -> Optional[float]:
    """``41 C`` -> 41.0; None for N/A and every other text."""
    found = re.match(r"\s*(-?\d+(?:[.,]\d+)?)\s*(?:[A-Za-z%]\w{0,3}|x)?\s*$", text or "")
    return float(found[1].replace(",", ".")) if found else None


def read_flag(text: Optional[str]) -> Optional[bool]:
    return {"yes": True, "active": True, "no": False, "not active": False}.get((text or "").strip().lower())


def name_bus(text: str) -> str:
    """The address of a card without its function: ``00000000:01:00.0`` -> ``0000:01:00``; empty for other text."""
    found = re.fullmatch(r"(?:PCI:)?(?:([0-9a-f]{4,8}):)?([0-9a-f]{2}):([0-9a-f]{2})(?:\.[0-9a-f])?", text.strip(), re.IGNORECASE)
    return "{0:04x}:{1}:{2}".format(int(found[1] or "0", 16), found[2].lower(), found[3].lower()) if found else ""


def read_recovery(text: Optional[str]) -> Tuple[Optional[str], str]:
    """The flag of a recovery action in nvidia-smi's words, and these words; (None, "") where it is not reported."""
    words = (text or "").strip()
    squeezed = re.sub(r"[^a-z0-9]", "", words.lower())
    if squeezed in ("", "na", "notsupported", "unknownerror") or "deprecated" in squeezed:
        return None, ""
    return RECOVERY_WORDS.get(squeezed, "recovery_other"), words[:MOST_TEXT]


def number_recovery(action: int) -> str:
    """The flag of a recovery action by its number in NVML."""
    return RECOVERY_ACTIONS.get(action, "recovery_other")


class _Element:
    """An element of the document, of which every part may be absent."""

    def __init__(self, element: Any) -> None:
        self._element = element

    def text(self, *paths: str) -> Optional[str]:
        """The text at the first path that exists."""
        for path in paths:
            found = self._element.find(path)
            if found is not None:
                return str(found.text or "").strip()
        return None

    def number(self, *paths: str) -> Optional[float]:
        """The first path with a number."""
        return next((value for value in (read_number(self.text(path)) for path in paths) if value is not None), None)

    def flag(self, *paths: str) -> Optional[bool]:
        return next((value for value in (read_flag(self.text(path)) for path in paths) if value is not None), None)

    def memory(self, path: str) -> Optional[int]:
        found = re.fullmatch(r"(\d+) MiB", self.text(path) or "")
        return int(found[1]) * MIB if found else None

    def sum(self, path: str, part: str) -> Optional[int]:
        """The sum of the counters below a path whose name has that part; None where none is a number."""
        found = self._element.find(path)
        values = [read_number(one.text) for one in ([] if found is None else found.iter()) if part in str(one.tag)]
        known = [int(value) for value in values if value is not None]
        return sum(known) if known else None


def _count(card: _Element, span: str) -> Tuple[Optional[int], Optional[int]]:
    """Uncorrected and corrected errors. Drivers before 440 have one total for each kind of error."""
    path = "ecc_errors/" + span
    old = card.number(path + "/double_bit/total")
    uncorrected = card.sum(path, "uncorrectable")
    corrected = [
        value for value in (card.number(path + "/sram_correctable"), card.number(path + "/dram_correctable")) if value is not None
    ]
    single = card.number(path + "/single_bit/total")
    if uncorrected is None and old is not None:
        uncorrected = int(old)
    return uncorrected, int(sum(corrected)) if corrected else None if single is None else int(single)


def _read_fabric(card: _Element) -> str:
    """What the fabric says of itself, where that is not that all is well or that there is none."""
    state, status = card.text("fabric/state") or "", card.text("fabric/status") or ""
    found = [] if status.lower() in ("", "n/a", "success", "nvml_success") or state.lower() == "n/a" else ["status: " + status]
    for name, good in (("bandwidth", "full"), ("route_unhealthy", "false"), ("access_timeout_recovery", "false")):
        value = card.text("fabric/health/" + name) or ""
        if value.lower() in ("degraded", "true"):
            found.append("{0}: {1} (not {2})".format(name.replace("_", " "), value, good))
    return ", ".join(found)[:MOST_TEXT]


def _read_card(element: Any, index: int, driver: Optional[str]) -> CardSnapshot:
    card = _Element(element)
    uncorrected, corrected = _count(card, "volatile")
    recovery, words = read_recovery(card.text("gpu_recovery_action"))
    uuid = card.text("uuid") or ""
    powers = ("gpu_power_readings", "power_readings")
    reasons = ("clocks_event_reasons/clocks_event_reason_", "clocks_throttle_reasons/clocks_throttle_reason_")
    used = card.number("utilization/gpu_util")
    most = [card.number("pci/pci_gpu_link_info/link_widths/" + name) for name in ("max_link_width", "current_link_width")]
    channel, tpc = card.flag("ecc_errors/channel_repair_pending"), card.flag("ecc_errors/tpc_repair_pending")
    texts = [str(one.text or "") for one in element.iter() if not str(one.tag).startswith("process")]
    broken = next((text.strip() for text in texts if BROKEN.search(text)), "")
    return CardSnapshot(
        index=index,
        uuid=uuid if re.fullmatch(r"GPU-[\w-]+|[0-9a-fA-F]{8}-[0-9a-fA-F-]+", uuid) else "",
        name=card.text("product_name"),
        bus=name_bus(card.text("pci/pci_bus_id") or "") or name_bus(str(element.get("id") or "")),
        driver=driver,
        devices=tuple(one.findtext("uuid", "").strip() for one in element.iter("mig_device") if one.findtext("uuid")),
        memory_total=card.memory("fb_memory_usage/total"),
        memory_used=card.memory("fb_memory_usage/used"),
        utilisation=None if used is None else used / 100,
        temperature=card.number("temperature/gpu_temp"),
        slowdown_temperature=card.number("temperature/gpu_temp_slow_threshold"),
        slowdown_margin=_read_margin(card),
        power=card.number(
            *(one + name for one in powers for name in ("/instant_power_draw", "/power_draw", "/average_power_draw"))
        ),
        power_limit=card.number(*(one + name for one in powers for name in ("/current_power_limit", "/power_limit"))),
        recovery=recovery,
        recovery_words=words,
        reset_required=card.flag("gpu_reset_status/reset_required"),
        reset_recommended=card.flag("gpu_reset_status/drain_and_reset_recommended"),
        remap_pending=card.flag("remapped_rows/remapped_row_pending"),
        remap_failure=card.flag("remapped_rows/remapped_row_failure"),
        retirement_pending=card.flag("retired_pages/pending_retirement", "retired_pages/pending_blacklist"),
        repair_pending=None if channel is None and tpc is None else bool(channel or tpc),
        unrepairable=card.flag("ecc_errors/unrepairable_memory"),
        sram_threshold=card.flag("ecc_errors/aggregate/sram_threshold_exceeded"),
        uncorrected=uncorrected,
        uncorrected_ever=_count(card, "aggregate")[0],
        corrected=corrected,
        throttles=tuple(flag for flag, end in THROTTLES.items() if card.flag(*(start + end for start in reasons))),
        link_width=None if most[1] is None else int(most[1]),
        link_width_most=None if most[0] is None else int(most[0]),
        fabric=_read_fabric(card),
        broken=broken[:MOST_TEXT],
    )


def _read_margin(card: _Element) -> Optional[float]:
    """How far it is from where the hardware slows it down, where the driver reports margins instead of temperatures."""
    left, slow = card.number("temperature/gpu_temp_tlimit"), card.number("temperature/gpu_temp_slow_tlimit_threshold")
    return None if left is None or slow is None else left - slow


_LOST = re.compile(
    r"Unable to de\w+ the device handle for gpu\s*(?:\d+:\s+)?(?P<bus>[0-9a-f]+:[0-9a-f]+:[0-9a-f.]+)?", re.IGNORECASE
)


def parse_snapshots(text: str) -> Tuple[List[CardSnapshot], str]:
    """The cards in the output of ``nvidia-smi -q -x``, and what is wrong with it as a whole (empty: nothing).

    Warnings around the document do not count; a line about a card that is lost is a card.
    """
    from xml.etree import ElementTree

    end = "</nvidia_smi_log>"
    start, stop = text.find("<nvidia_smi_log"), text.rfind(end)
    around = text if start < 0 else text[:start] + text[stop + len(end) :]
    lost = [
        CardSnapshot(bus=name_bus((found["bus"] or "").rstrip(".")), broken=line.strip()[:MOST_TEXT])
        for line in around.splitlines()
        for found in [_LOST.search(line)]
        if found
    ]
    if start < 0 or stop < 0:
        return lost, "" if lost else text.strip()[:2000] or "it printed nothing"
    try:
        root = ElementTree.fromstring(text[start : stop + len(end)])  # noqa: S314  the driver's own output
    except (ElementTree.ParseError, ValueError) as exc:
        return lost, str(exc)
    driver = root.findtext("driver_version")
    cards = [_read_card(one, number, driver.strip() if driver else None) for number, one in enumerate(root.findall("gpu"))]
    known: Dict[str, None] = dict.fromkeys(card.bus for card in cards)
    return cards + [card for card in lost if not card.bus or card.bus not in known], ""
