# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The first inventory of a host, made from what ``anvil_host_info`` reads there; and how a later reading differs. Pure.

What a host says is never a template on the controller: only harmless characters of it get into a file.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.catalog.card_capabilities import VERSION
from ansible_collections.anvil.serving.plugins.module_utils.plan.driver_cards import NEAR_MIB
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import NAME, UUID
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.templating import render_template

ROUTER_PORTS = tuple(range(8000, 8010))
SERVE_PORTS = tuple(range(30001, 30011))
# What stays free on a card where nothing else is known; an eighth of a small card.
RESERVE_MIB = 2048
# Words in the name of a card that do not tell it from others.
_FILLER = re.compile(r"nvidia|geforce|tesla|graphics|device|\d+gb|hbm\d\w*|pcie|nvl|sxm\d*", re.IGNORECASE)
FILES = ("main", "gpus", "serves", "router", "secrets")


def clean(text: Any) -> str:
    """The words of a host without what YAML or Jinja could read as more than words."""
    return re.sub(r"[^\w .,:;+()/@-]", "", str(text or ""), flags=re.ASCII).strip()


@dataclass(frozen=True)
class FirstCard:
    """An entry of ``anvil_gpus``. vram_mib: None where the driver reports no memory."""

    alias: str
    uuid: str
    name: str
    vram_mib: int | None
    reserve_mib: int
    compute_capability: str


@dataclass(frozen=True)
class Reading:
    """What is known of a host. versions: of its programs, as text. unusable: the cards that no serve can use, as text."""

    cards: tuple[FirstCard, ...]
    versions: Mapping[str, str]
    unusable: tuple[str, ...] = ()


def read_facts(facts: Mapping[str, Any], known: Sequence[FirstCard] = ()) -> Reading:
    """The reading in an answer of ``anvil_host_info``. known: the cards of the inventory; they keep alias and reserve."""
    found: list[FirstCard] = []
    unusable = []
    for card in facts["gpus"]:
        parts = card["mig_devices"] if card["mig"] else [card]
        label = f"{clean(card['name']) or 'a card'} at {clean(card['pci_bus_id']) or 'an unknown address'}"
        if card["trouble"] or not parts:
            unusable.append(f"{label}: {clean(card['trouble']) or 'MIG is on, and there is no MIG device'}")
            continue
        for part in parts:
            if not UUID.fullmatch(str(part["uuid"])):
                unusable.append(f"{label}: its UUID is not readable")
                continue
            name = clean(f"{card['name'] or ''} {part.get('profile', '')}")
            capability = str(card["compute_capability"] or "")
            vram = part["vram_total_mib"]
            reserve = min(RESERVE_MIB, (vram or RESERVE_MIB * 8) // 8)
            shown = capability if VERSION.fullmatch(capability) else ""
            found.append(FirstCard("", str(part["uuid"]), name, vram, reserve, shown))
    versions = {
        "driver": facts["nvidia"]["driver"],
        "cuda": facts["nvidia"]["cuda"],
        "docker": facts["engine"]["version"],
        "compose": facts["compose"],
    }
    return Reading(name_cards(found, known), {key: clean(value) for key, value in versions.items()}, tuple(unusable))


def name_cards(found: Sequence[FirstCard], known: Sequence[FirstCard]) -> tuple[FirstCard, ...]:
    """The cards with their aliases: those of the inventory first, in its order; a new one is called after its name."""
    old = {card.uuid.lower(): (place, card) for place, card in enumerate(known)}
    kept, fresh = [], []
    for card in found:
        place, mine = old.get(card.uuid.lower(), (0, None))
        if mine is None:
            fresh.append(card)
        else:
            kept.append((place, replace(card, alias=mine.alias, reserve_mib=mine.reserve_mib)))
    stems = Counter(_stem(card.name) for card in fresh)
    taken = {card.alias for card in known}
    named = []
    for card in fresh:
        stem = _stem(card.name)
        choices = ([stem] if stems[stem] == 1 else []) + [f"{stem}-{number}" for number in range(len(found) + len(known) + 1)]
        alias = next(choice for choice in choices if choice not in taken)
        taken.add(alias)
        named.append(replace(card, alias=alias))
    return (*(card for _place, card in sorted(kept, key=lambda one: one[0])), *named)


def _stem(name: str) -> str:
    """``NVIDIA GeForce RTX 5090`` -> ``rtx-5090``."""
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word and not _FILLER.fullmatch(word)]
    stem = "-".join(words)[:50].strip("-")
    return stem if NAME.fullmatch(stem) else "gpu"


def read_written(document: Any) -> Reading:
    """The reading that an inventory holds: ``anvil_gpus`` and ``init_read``. What it has in another shape is left out."""
    values = document if isinstance(document, Mapping) else {}
    entries = values.get("anvil_gpus")
    cards = [
        FirstCard(
            str(alias),
            str(entry["uuid"]),
            clean(entry.get("name")),
            entry.get("vram_mib") if isinstance(entry.get("vram_mib"), int) else None,
            entry["reserve_mib"] if isinstance(entry.get("reserve_mib"), int) else 0,
            str(entry.get("compute_capability") or ""),
        )
        for alias, entry in (entries.items() if isinstance(entries, Mapping) else ())
        if isinstance(entry, Mapping) and entry.get("uuid")
    ]
    versions = values.get("init_read")
    known = versions.items() if isinstance(versions, Mapping) else ()
    return Reading(tuple(cards), {str(key): str(value) for key, value in known})


def compare_readings(written: Reading, now: Reading) -> list[str]:
    """A line for each thing that differs. What either side does not know does not differ."""
    before, after = ({card.uuid.lower(): card for card in one.cards} for one in (written, now))
    lines = []
    for uuid, card in after.items():
        old = before.get(uuid)
        if old is None:
            lines.append(f"new card: {card.name or 'without a name'}, {card.uuid}, {_mib(card.vram_mib)}")
            continue
        far = None not in (old.vram_mib, card.vram_mib) and abs(int(old.vram_mib or 0) - int(card.vram_mib or 0)) > NEAR_MIB
        if far:
            lines.append(f"{old.alias}: vram_mib {old.vram_mib} is written, and the driver reports {card.vram_mib}")
        if old.compute_capability and card.compute_capability and old.compute_capability != card.compute_capability:
            what = f"compute_capability {old.compute_capability} is written"
            lines.append(f"{old.alias}: {what}, and the driver reports {card.compute_capability}")
    lines += [f"card {card.alias} is not on the host any more: {card.uuid}" for key, card in before.items() if key not in after]
    for key, value in now.versions.items():
        old_value = written.versions.get(key, "")
        if old_value and value and old_value != value:
            lines.append(f"{key}: {old_value} was read, and now it is {value}")
    return lines + [f"not usable: {text}" for text in now.unusable]


def _mib(number: int | None) -> str:
    return "memory unknown" if number is None else f"{number} MiB"


def lay_out_gpus(name: str, reading: Reading) -> str:
    """The text of gpus.yml."""
    return render_template(
        "inventory/gpus.yml.j2", host=name, cards=reading.cards, unusable=reading.unusable, versions=reading.versions
    )


def lay_out_difference(name: str, written: Reading, now: Reading, path: str) -> list[str]:
    """The unified diff from what is written to what the host has now, as lines of gpus.yml. Values that hardly differ and names
    that are not written are no difference."""
    names = {card.uuid.lower(): card.name for card in now.cards}
    old = [replace(card, name=names.get(card.uuid.lower(), card.name)) for card in written.cards]
    before = lay_out_gpus(name, Reading(tuple(old), written.versions))
    after = lay_out_gpus(name, Reading(now.cards, now.versions, now.unusable))
    return list(difflib.unified_diff(before.splitlines(), after.splitlines(), path, f"{path} (as the host is now)", lineterm=""))


def lay_out_inventory(
    name: str,
    folder: str,
    facts: Mapping[str, Any],
    gpu_driver: str,
    token_expression: str,
) -> dict[str, str]:
    """The files of ``host_vars/NAME``: name -> text. token_expression: the path of the token's file, as a Jinja expression."""
    reading = read_facts(facts)
    held = {int(number): clean(holder) for number, holder in facts["held_ports"].items()}
    router_port = next((port for port in ROUTER_PORTS if port not in held), ROUTER_PORTS[0])
    first = reading.cards[0] if reading.cards else None
    values = {
        "host": name,
        "folder": folder,
        "cards": reading.cards,
        "versions": reading.versions,
        "unusable": reading.unusable,
        "platform": facts["platform"],
        "gpu_driver": gpu_driver,
        "router_port": router_port,
        "serve_port": next((port for port in SERVE_PORTS if port not in held), SERVE_PORTS[0]),
        "claim_mib": ((first.vram_mib or 24576) - first.reserve_mib) * 9 // 10 if first else 0,
        "held": [f"{number} is held by {holder}" for number, holder in sorted(held.items()) if number < router_port],
        "token_expression": token_expression,
    }
    return {f"{file}.yml": render_template(f"inventory/{file}.yml.j2", **values) for file in FILES}


def lay_out_hosts(name: str, connection: Mapping[str, Any]) -> str:
    """The text of hosts.yml. connection: the variables of Ansible by which the host was reached."""
    return render_template("inventory/hosts.yml.j2", host=name, connection=connection)
