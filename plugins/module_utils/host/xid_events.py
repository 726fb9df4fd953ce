# SPDX-License-Identifier: GPL-3.0-or-later
"""The Xids in the driver's lines of the kernel log, by card. Those before the last load of the driver do not count. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Dict, List, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.gpu_conditions import SUMMARY
from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_snapshot import name_bus
from ansible_collections.anvil.serving.plugins.module_utils.host.kernel_log import KernelLine

_ADDRESS = r"(?:PCI:)?(?P<bus>[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2})(?:\.[0-9a-f])?"
_XID = re.compile(
    r"NVRM: Xid \(" + _ADDRESS + r"(?: GPU-I:\w+)?(?: GPU-CI:\w+)?\): (?P<code>\d{1,4})(?P<text>[, ].*|$)", re.IGNORECASE
)
_OFF_BUS = re.compile(r"NVRM: GPU (?:at )?" + _ADDRESS + r":? (?:GPU )?has fallen off the bus", re.IGNORECASE)
# The driver writes it once, when its module is loaded.
_LOADED = re.compile(r"NVRM: loading NVIDIA UNIX ")
_ACTION = re.compile(r"recovery action changed from 0x[0-9a-f]+ \([^)]*\) to 0x(?P<action>[0-9a-f]+)", re.IGNORECASE)
MOST_TEXT = 200
OFF_BUS = 79


@dataclass(frozen=True)
class XidEvent:
    """One Xid of one card. seconds: since the boot. action: the recovery action that the driver named, of Xid 154 alone."""

    seconds: float
    bus: str
    code: int
    text: str
    action: Optional[int] = None


def find_events(lines: Sequence[KernelLine]) -> Dict[str, Tuple[XidEvent, ...]]:
    """The Xids since the driver was loaded, oldest first, by the address of the card."""
    found: Dict[str, List[XidEvent]] = {}
    for line in lines:
        if _LOADED.match(line.text):
            found = {}
            continue
        event = _read_event(line)
        if event is not None:
            found.setdefault(event.bus, []).append(event)
    return {bus: tuple(events) for bus, events in found.items()}


def _read_event(line: KernelLine) -> Optional[XidEvent]:
    seen = _XID.match(line.text)
    if seen:
        code, text = int(seen["code"]), seen["text"].lstrip(", ")[:MOST_TEXT]
        action = _ACTION.search(text) if code == SUMMARY else None
        return XidEvent(line.seconds, name_bus(seen["bus"]), code, text, int(action["action"], 16) if action else None)
    seen = _OFF_BUS.match(line.text)
    return XidEvent(line.seconds, name_bus(seen["bus"]), OFF_BUS, "the card has fallen off the bus") if seen else None


def drop_recovered(events: Sequence[XidEvent]) -> Tuple[XidEvent, ...]:
    """The Xids since the driver last said that no recovery is needed any more."""
    last = max((place for place, event in enumerate(events) if event.action == 0), default=-1)
    return tuple(events[last + 1 :])
