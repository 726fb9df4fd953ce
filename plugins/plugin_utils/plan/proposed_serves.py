# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Serves without a host, from a file or from the inventory: placed on hosts of a fleet, and written as their layers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml
from ansible.parsing.yaml.dumper import AnsibleDumper
from ansible.template import Templar
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card, MigDevice
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import suggest_name
from ansible_collections.anvil.serving.plugins.module_utils.serves.placement import (
    HostRoom,
    Placement,
    Proposal,
    WantedServe,
    count_cards,
    place_serves,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.from_variables import plan_host
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.host_variables import read_variables
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.stray_variables import ENDINGS

# How often the plan of a host may refuse a proposal before no other host is tried.
MOST_ROUNDS = 20


@dataclass
class Fleet:
    """The hosts of a play. rooms: the hosts with a plan. serves: host -> its serves as written. left_out: host -> why it is not
    considered. variables: host -> its ``anvil_*`` variables. engines: host -> its ``anvil_engines``."""

    rooms: dict[str, HostRoom] = field(default_factory=dict)
    serves: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    variables: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    engines: dict[str, Mapping[str, Any]] = field(default_factory=dict)


def _read_card(described: Mapping[str, Any]) -> Card:
    known = {one.name: described.get(one.name) for one in fields(Card)}
    devices = [
        MigDevice(**{one.name: device.get(one.name) for one in fields(MigDevice)}) for device in known["mig_devices"] or ()
    ]
    return Card(**{**known, "mig_devices": tuple(devices)})


def read_fleet(loader: Any, variables: Mapping[str, Mapping[str, Any]], looks: Mapping[str, Mapping[str, Any]]) -> Fleet:
    """Plan every host. looks: host -> the result of anvil_host_info; a host that gave none is left out. Empty: not asked."""
    fleet = Fleet()
    for host, known in variables.items():
        look = looks.get(host, {})
        if looks and "gpus" not in look:
            fleet.left_out[host] = str(look.get("msg") or "it was not asked").strip().splitlines()[0]
            continue
        templar = Templar(loader, dict(known))
        anvil = {name: value for name, value in known.items() if name.startswith("anvil_")}
        cards = look.get("gpus") or []
        try:
            plan = plan_host(templar, host, anvil, False, (lambda cards=cards: cards) if looks else None)
        except AnvilError as error:
            first = error.problems[0]
            fleet.left_out[host] = f"its inventory has a mistake: {first.where}: {first.what}"
            continue
        values = read_variables(templar, anvil).values
        engines = values.get("anvil_engines") or {}
        args = {str(name): tuple(map(str, (keys or {}).get("args") or ())) for name, keys in engines.items()}
        fleet.rooms[host] = HostRoom(plan, args, tuple(_read_card(card) for card in cards))
        written, found = values.get("anvil_serves") or {}, values.get("anvil_discovered") or {}
        fleet.serves[host] = {
            str(name): {**(found.get(name) or {}), **(written.get(name) or {})} for name in {**found, **written}
        }
        fleet.variables[host], fleet.engines[host] = known, engines
    return fleet


def choose_serves(fleet: Fleet, name: str, document: Any, backends: int) -> list[WantedServe]:
    """The serves of a file, or one of them, or a serve of the inventory that is to run on further hosts."""
    if document is None and not name:
        raise fail("no serve is named", hint="type -e serve=NAME for one more backend, or -e serves=FILE.yml for new serves")
    if document is None:
        source = next((serves[name] for serves in fleet.serves.values() if name in serves), None)
        known = sorted({one for serves in fleet.serves.values() for one in serves})
        if source is None:
            hint = suggest_name(name, known, "give a file with new serves: -e serves=FILE.yml")
            raise fail("no host has a serve of this name", f"serve {name}", hint=hint)
        return [WantedServe(name, source, count_cards(source), backends)]
    serves = document.get("anvil_serves", document) if isinstance(document, Mapping) else None
    if not isinstance(serves, Mapping) or not all(isinstance(keys, Mapping) for keys in serves.values()):
        raise fail(
            "the file has no serves", hint="write it as anvil_serves, and gpus as a number: {new: {engine: vllm, …, gpus: 1}}"
        )
    if name and name not in serves:
        raise fail("the file has no serve of this name", f"serve {name}", hint=suggest_name(name, map(str, serves)))
    chosen = {str(one): keys for one, keys in serves.items() if not name or one == name}
    return [WantedServe(one, keys, count_cards(keys), backends) for one, keys in chosen.items()]


def place_on_hosts(loader: Any, fleet: Fleet, wanted: Sequence[WantedServe]) -> Proposal:
    """Place the serves, and let the plan of each host judge them. A host whose plan refuses a serve is not considered for it."""
    refused: dict[tuple[str, str], str] = {}
    for _round in range(MOST_ROUNDS):
        proposal = place_serves(wanted, fleet.rooms, refused)
        serves: dict[str, dict[str, Any]] = {}
        known = len(refused)
        for one in proposal.placed:
            here = {**serves.get(one.host, {}), one.serve: _keys_on(wanted, one)}
            why = find_refusal(loader, fleet, one.host, here)
            if why:
                refused[one.serve, one.host] = why
            else:
                serves[one.host] = here
        if len(refused) == known:
            return proposal
    return replace(proposal, placed=[one for one in proposal.placed if (one.serve, one.host) not in refused])


def find_refusal(loader: Any, fleet: Fleet, host: str, serves: Mapping[str, Mapping[str, Any]]) -> str:
    """Why the plan of a host refuses these serves; empty: it does not."""
    try:
        plan_with(loader, fleet, host, serves)
    except AnvilError as error:
        return "; ".join(f"{problem.where}: {problem.what}" for problem in error.problems)
    return ""


def plan_with(loader: Any, fleet: Fleet, host: str, serves: Mapping[str, Mapping[str, Any]]) -> HostPlan:
    """The plan of a host with these serves. Raises AnvilError if it refuses them."""
    known = fleet.variables[host]
    anvil = {name: value for name, value in known.items() if name.startswith("anvil_")}
    # The layer that comes last.
    anvil["anvil_serves__zzzz_proposed"] = dict(serves)
    cards = fleet.rooms[host].cards
    described = [{**vars(card), "vram_free_mib": card.vram_free_mib} for card in cards]
    return plan_host(Templar(loader, dict(known)), host, anvil, False, (lambda: described) if cards else None)


def _keys_on(wanted: Sequence[WantedServe], placement: Placement) -> dict[str, Any]:
    """The keys of a serve on its host: its own, with the cards there."""
    keys = dict(next(one.keys for one in wanted if one.name == placement.serve))
    keys["gpus"] = list(placement.claims)
    if isinstance(keys.get("vram_mib"), Mapping):
        keys["vram_mib"] = dict(placement.claims)
    return keys


def render_files(wanted: Sequence[WantedServe], proposal: Proposal) -> dict[str, str]:
    """Path -> the YAML of one serve on one host, as a layer of its own: ``host_vars/gpu1/placed-fast.yml``."""
    files = {}
    for one in proposal.placed:
        layer = "anvil_serves__placed_" + re.sub(r"\W", "_", one.serve)
        sums = "".join(f"# {line}\n" for line in (*one.arithmetic, *one.notes))
        body = yaml.dump(
            {layer: {one.serve: _keys_on(wanted, one)}}, Dumper=AnsibleDumper, sort_keys=False, allow_unicode=True, width=120
        )
        files[f"host_vars/{one.host}/placed-{one.serve}.yml"] = f"---\n# Proposed by playbooks/place.yml.\n{sums}{body}"
    return files


def check_folder(folder: Path, files: Iterable[str]) -> None:
    """Refuse to create a folder of host variables that would hide a file: Ansible reads only one of the two."""
    hidden = {}
    for path in files:
        host = (folder / path).parent
        hidden.update({f"{host}{ending}": host for ending in ENDINGS if Path(f"{host}{ending}").exists()})
    if hidden:
        raise AnvilError(
            *(
                Problem(
                    "Ansible would no longer read this file, because the proposal is written into a folder of that name",
                    file,
                    hint=f"move it into the folder first: mkdir -p {host} && mv {file} {host}/main.yml",
                )
                for file, host in hidden.items()
            )
        )


def _with_reason(reasons: Mapping[str, str], why: str) -> list[str]:
    return sorted(host for host, reason in reasons.items() if reason == why)


def describe_proposal(fleet: Fleet, wanted: Sequence[WantedServe], proposal: Proposal, files: Mapping[str, str]) -> list[str]:
    """What is printed: each backend with its arithmetic, what has no place and why, and the YAML."""
    lines = []
    for one in proposal.placed:
        cards = " on " + ", ".join(one.claims) if one.claims else " without a card"
        lines.append(f"serve {one.serve}: {one.host}{cards}")
        lines += [f"  {line}" for line in (*one.arithmetic, *one.notes)]
    for serve, reasons in proposal.missing.items():
        backends = next(one.backends for one in wanted if one.name == serve)
        count = sum(one.serve == serve for one in proposal.placed)
        lines.append(f"serve {serve}: {count} of {backends} backends have a place")
        lines += [f"  {', '.join(_with_reason(reasons, why))}: {why}" for why in dict.fromkeys(reasons.values())]
    lines += [f"{host} is left out: {why}" for host, why in fleet.left_out.items()]
    for path, text in files.items():
        lines += ["", f"{path}:", *(f"  {line}" for line in text.splitlines())]
    return lines
