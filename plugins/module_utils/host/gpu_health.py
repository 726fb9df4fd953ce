# SPDX-License-Identifier: GPL-3.0-or-later
"""The health of a card, from what the driver reports and its Xids: what is wrong, how certain that is, and what to do. Pure.

An Xid is history as soon as the driver says that no recovery is needed, or its counters show that the card was reset since.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.gpu_conditions import (
    DOUBTFUL,
    FLAGS,
    LOSING_XIDS,
    MEMORY_XIDS,
    NOTE,
    NOTHING,
    OUT,
    REBOOT,
    REPLACE,
    RESET,
    SUMMARY,
    VERDICTS,
    Condition,
    describe_xid,
)
from ansible_collections.anvil.serving.plugins.module_utils.core.findings import Finding, doubtful, impossible
from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_snapshot import CardSnapshot, number_recovery
from ansible_collections.anvil.serving.plugins.module_utils.host.xid_events import XidEvent, drop_recovered

OK = "ok"
SHOW = "ansible-playbook playbooks/gpu_health.yml shows the health of every card"
STATES = (OK, *VERDICTS)


@dataclass(frozen=True)
class CardFinding:
    """One thing about a card. key: a flag of the catalogue, or ``xid_N``. why: the evidence. source: of the meaning."""

    verdict: str
    remedy: str
    key: str
    what: str
    why: str
    source: str


@dataclass(frozen=True)
class CardHealth:
    """A card and what is wrong with it, the worst first."""

    card: CardSnapshot
    findings: Tuple[CardFinding, ...] = ()

    @property
    def state(self) -> str:
        """``ok``, or the worst verdict."""
        return self.findings[0].verdict if self.findings else OK

    @property
    def name(self) -> str:
        index = "" if self.card.index is None else " {0}".format(self.card.index)
        words = ", ".join(one for one in (self.card.name, self.card.uuid or self.card.bus) if one)
        return "GPU{0} ({1})".format(index, words) if words else "GPU" + index

    def explain_remedy(self, remedy: str) -> str:
        """What to type."""
        target = (self.card.bus and self.card.bus + ".0") or self.card.uuid or "INDEX"
        if remedy == RESET:
            return "stop what uses the card, then type on the host: nvidia-smi --gpu-reset -i {0}; or reboot the host".format(
                target
            )
        if remedy == REBOOT:
            return "reboot the host; if it happens again, check power, cooling and seat of the card"
        if remedy == REPLACE:
            return "have the card replaced: nvidia-bug-report.sh collects what its vendor asks for"
        return ""

    def as_dict(self) -> Dict[str, Any]:
        card = self.card
        return {
            "index": card.index,
            "uuid": card.uuid,
            "name": card.name,
            "pci_bus_id": card.bus,
            "driver": card.driver,
            "state": self.state,
            "memory_total_bytes": card.memory_total,
            "memory_used_bytes": card.memory_used,
            "utilization": card.utilisation,
            "temperature_celsius": card.temperature,
            "power_watts": card.power,
            "power_limit_watts": card.power_limit,
            "uncorrected_errors": card.uncorrected,
            "throttles": list(card.throttles),
            "findings": [
                {
                    "verdict": one.verdict,
                    "remedy": one.remedy,
                    "key": one.key,
                    "what": one.what,
                    "why": one.why,
                    "do": self.explain_remedy(one.remedy),
                    "source": one.source,
                }
                for one in self.findings
            ],
        }


def judge_card(card: CardSnapshot, events: Sequence[XidEvent] = ()) -> CardHealth:
    """events: the card's Xids since the driver was loaded, oldest first."""
    found = [*_judge_driver(card), *_judge_events(card, events)]
    return CardHealth(card, tuple(sorted(found, key=lambda one: -VERDICTS.index(one.verdict))))


def judge_cards(cards: Sequence[CardSnapshot], events: Mapping[str, Sequence[XidEvent]]) -> List[CardHealth]:
    """Every card of a host; also one that the driver lists no more, and whose last Xid says why."""
    found = [judge_card(card, events.get(card.bus, ()) if card.bus else ()) for card in cards]
    listed = {card.bus for card in cards}
    for bus, some in sorted(events.items()):
        if bus not in listed and any(event.code in LOSING_XIDS for event in some):
            found.append(judge_card(CardSnapshot(bus=bus, broken="nvidia-smi does not list it"), some))
    return found


def _flag(key: str, why: str = "") -> CardFinding:
    condition = FLAGS[key]
    return CardFinding(condition.verdict, condition.remedy, key, condition.about, why, condition.source)


def _judge_driver(card: CardSnapshot) -> List[CardFinding]:
    found = []
    if card.broken:
        lowered = card.broken.lower()
        lost = not card.uuid or "is lost" in lowered or "device handle" in lowered or "fallen off" in lowered
        key = "reset_required" if "requires reset" in lowered else "lost" if lost else "odd_value"
        found.append(_flag(key, card.broken))
    if card.recovery:
        found.append(_flag(card.recovery, "the driver reports: " + card.recovery_words))
    flags = (
        ("reset_required", card.reset_required if card.recovery is None else None),
        ("reset_recommended", card.reset_recommended if card.recovery is None else None),
        ("remap_failure", card.remap_failure),
        ("remap_pending", card.remap_pending),
        ("unrepairable", card.unrepairable),
        ("sram_threshold", card.sram_threshold),
        ("repair_pending", card.repair_pending),
        ("retirement_pending", card.retirement_pending),
    )
    found += [_flag(key) for key, raised in flags if raised]
    if card.uncorrected:
        found.append(_flag("uncorrected", "{0} errors".format(card.uncorrected)))
    elif card.uncorrected_ever:
        found.append(_flag("uncorrected_ever", "{0} errors".format(card.uncorrected_ever)))
    return found + _judge_speed(card)


def _judge_speed(card: CardSnapshot) -> List[CardFinding]:
    """Heat, power and links. A limit of power that the driver keeps (sw_power) is how every busy card runs."""
    causes: List[str] = [key for key in ("hw_thermal", "hw_power", "sw_thermal") if key in card.throttles]
    if "hw_slowdown" in card.throttles and not {"hw_thermal", "hw_power"} & set(causes):
        causes.append("hw_slowdown")
    seen = "" if card.temperature is None else "{0:g} °C".format(card.temperature)
    found = [_flag(key, seen) for key in causes]
    limit = card.slowdown_temperature
    at_limit = card.temperature is not None and limit is not None and 0 < limit <= card.temperature
    if "hw_thermal" not in causes and (at_limit or (card.slowdown_margin is not None and card.slowdown_margin <= 0)):
        found.append(_flag("hot", seen))
    if card.link_width and card.link_width_most and card.link_width < card.link_width_most:
        found.append(_flag("link_width", "{0} of {1} lanes".format(card.link_width, card.link_width_most)))
    if card.nvlink_errors:
        found.append(_flag("nvlink_errors", "{0} errors".format(card.nvlink_errors)))
    if card.fabric:
        found.append(_flag("fabric", card.fabric))
    return found


def _judge_events(card: CardSnapshot, events: Sequence[XidEvent]) -> List[CardFinding]:
    """One finding for each Xid, with how often it came and its last words."""
    grouped: Dict[int, List[XidEvent]] = {}
    for event in drop_recovered(events):
        grouped.setdefault(event.code, []).append(event)
    found = []
    for code, some in sorted(grouped.items()):
        times = "" if len(some) == 1 else "{0} times, the last ".format(len(some))
        why = "kernel log: {0}{1:.0f} s after the boot: {2}".format(times, some[-1].seconds, some[-1].text)
        condition = _describe_summary(some[-1]) if code == SUMMARY else describe_xid(code)
        over = "" if condition.verdict == NOTE else _find_recovery(card, code)
        verdict, remedy = (NOTE, NOTHING) if over else (condition.verdict, condition.remedy)
        what = "Xid {0}: {1}".format(code, condition.about)
        found.append(CardFinding(verdict, remedy, "xid_{0}".format(code), what, why + over, condition.source))
    return found


def _describe_summary(event: XidEvent) -> Condition:
    key = "" if event.action is None else number_recovery(event.action)
    return FLAGS[key] if key else describe_xid(SUMMARY)


def _find_recovery(card: CardSnapshot, code: int) -> str:
    """Why an Xid is history, as the end of a sentence; empty: nothing shows that."""
    if card.broken and not card.uuid:
        return ""
    if card.recovery is not None:
        return "; what the driver reports now counts: recovery action {0}".format(card.recovery_words or "None")
    if card.reset_required is not None and code != SUMMARY:
        return "; what the driver reports now counts: reset required: {0}".format("yes" if card.reset_required else "no")
    if code in MEMORY_XIDS and card.uncorrected == 0:
        return "; its counters of uncorrected errors are at 0: it was reset since"
    return ""


def describe_sick(cards: Sequence[CardHealth]) -> List[str]:
    """A line for each card that is out or doubtful."""
    lines = []
    for card in cards:
        bad = [one for one in card.findings if one.verdict != NOTE]
        if bad:
            lines.append("{0} is {1}: {2}; {3}".format(card.name, card.state, "; ".join(one.what for one in bad), SHOW))
    return lines


def find_card(device: str, cards: Sequence[CardHealth]) -> Optional[CardHealth]:
    """The card of a UUID, or of the MIG device with this UUID."""
    return next((one for one in cards if one.card.uuid == device or device in one.card.devices), None)


def judge_devices(devices: Sequence[str], cards: Sequence[CardHealth], where: str) -> List[Finding]:
    """What speaks against a start on these cards, once for each card: certain or doubtful. Notes are no finding."""
    chosen: List[CardHealth] = []
    for device in devices:
        one = find_card(device, cards)
        if one is not None and one not in chosen:
            chosen.append(one)
    found: List[Finding] = []
    for card in chosen:
        certain = [one for one in card.findings if one.verdict == OUT]
        rest = [one for one in card.findings if one.verdict == DOUBTFUL]
        if certain:
            found.append(impossible(card.name + " takes no serve", where, _join(certain), _advise(card, certain, True)))
        elif rest:
            found.append(doubtful(card.name + " may be sick", where, _join(rest), _advise(card, rest, False)))
    return found


def _join(findings: Sequence[CardFinding]) -> str:
    return "\n".join("{0}{1}".format(one.what, " ({0})".format(one.why) if one.why else "") for one in findings)


def _advise(card: CardHealth, findings: Sequence[CardFinding], certain: bool) -> str:
    remedies = {one.remedy for one in findings}
    worst = next((remedy for remedy in (REPLACE, REBOOT, RESET) if remedy in remedies), NOTHING)
    lines = [card.explain_remedy(worst)] if worst else []
    lines.append(SHOW)
    if certain:
        lines.append("to start on it all the same: -e anvil_compatibility=warn")
    return "\n".join(lines)
