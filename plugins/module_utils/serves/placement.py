# SPDX-License-Identifier: GPL-3.0-or-later
"""Propose hosts and cards for serves that have none: first fit by free memory after the reserve, spread over hosts. Pure.

The claims and the arithmetic are those of the plan and of the VRAM ledger. Nothing is moved.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Tuple, Union

from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import read_settings
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engine_options import SHARE
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import ENGINES, Engine
from ansible_collections.anvil.serving.plugins.module_utils.catalog.parallelism import read_parallelism
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import OFF, ON_DEMAND, RESIDENT
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card, find_device
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import Gpu, HostPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import InventoryCheck, Section
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_vram_claims import KEY, read_share, read_vram_claims
from ansible_collections.anvil.serving.plugins.module_utils.serves.vram_ledger import Budget, Claim, Demand, weigh


@dataclass(frozen=True)
class WantedServe:
    """A serve without a host. keys: as in ``anvil_serves``. cards: how many it needs on each host; 0: it runs on the CPU.

    backends: on how many hosts it shall run.
    """

    name: str
    keys: Mapping[str, Any]
    cards: int = 1
    backends: int = 1


@dataclass(frozen=True)
class HostRoom:
    """A host with its plan. engine_args: engine -> the arguments that ``anvil_engines`` gives. cards: as the driver reports them
    now; empty: only the inventory counts."""

    plan: HostPlan
    engine_args: Mapping[str, Tuple[str, ...]] = field(default_factory=dict)
    cards: Tuple[Card, ...] = ()


@dataclass(frozen=True)
class Placement:
    """A serve on a host. claims: alias -> MiB. arithmetic: one line for each card. notes: what is doubtful."""

    serve: str
    host: str
    claims: Dict[str, int]
    arithmetic: Tuple[str, ...] = ()
    notes: Tuple[str, ...] = ()


@dataclass
class Proposal:
    """placed: in the order in which they were decided. missing: serve -> host -> why it does not fit there; only serves that
    have fewer hosts than wanted."""

    placed: List[Placement] = field(default_factory=list)
    missing: Dict[str, Dict[str, str]] = field(default_factory=dict)


def count_cards(keys: Mapping[str, Any]) -> int:
    """How many cards a serve needs: ``gpus`` (a number, or as many as are listed), else what its arguments say, else 1."""
    listed = keys.get("gpus")
    if isinstance(listed, int) and not isinstance(listed, bool):
        return max(listed, 0)
    if isinstance(listed, (list, tuple)):
        return len(listed)
    return read_parallelism(read_settings(str(keys.get("engine") or ""), _list_words(keys), {})).cards or 1


def _list_words(keys: Mapping[str, Any]) -> Tuple[str, ...]:
    """The arguments of a serve. What is not a list is none: the plan of the host reports it."""
    args = keys.get("args")
    return tuple(str(word) for word in args) if isinstance(args, (list, tuple)) else ()


def _read_mib(value: Any) -> Optional[int]:
    """The claim on a card, of several the largest; None: there is none, or it is not a number."""
    if isinstance(value, Mapping):
        return max((mib for mib in map(_read_mib, value.values()) if mib), default=None)
    if isinstance(value, bool) or not isinstance(value, (int, str)) or not str(value).isdigit():
        return None
    return int(value)


def place_serves(
    wanted: Sequence[WantedServe], rooms: Mapping[str, HostRoom], refused: Mapping[Tuple[str, str], str] = MappingProxyType({})
) -> Proposal:
    """Decide a host and cards for each backend, the largest serves first. refused: (serve, host) -> why it is not tried there.

    Of the hosts, that with the fewest serves of this proposal comes first, then that with the most free memory. On a host, the
    card with the least memory that suffices is taken, so that large gaps stay whole.
    """
    proposal = Proposal()
    for serve in sorted(wanted, key=lambda one: (-_size(one, rooms), one.name)):
        reasons: Dict[str, str] = {}
        found = 0
        for name in sorted(rooms, key=lambda name: _rank(proposal, name, rooms[name])):
            if found == serve.backends:
                break
            answer = refused.get((serve.name, name)) or _try_host(serve, name, rooms[name], proposal.placed)
            if isinstance(answer, Placement):
                proposal.placed.append(answer)
                found += 1
            else:
                reasons[name] = answer
        if found < serve.backends:
            proposal.missing[serve.name] = reasons
    return proposal


def _size(serve: WantedServe, rooms: Mapping[str, HostRoom]) -> int:
    """The MiB that a serve claims on all of its cards; without a claim, those of the largest cards."""
    largest = max((gpu.budget_mib for room in rooms.values() for gpu in room.plan.gpus.values()), default=0)
    return serve.cards * (_read_mib(serve.keys.get("vram_mib")) or largest)


def _rank(proposal: Proposal, name: str, room: HostRoom) -> Tuple[int, int, str]:
    here = [placement for placement in proposal.placed if placement.host == name]
    free = sum(_free_mib(room, gpu, _list_claims(room.plan, here, False)) for gpu in room.plan.gpus.values())
    return len(here), -free, name


def _list_claims(plan: HostPlan, placed: Iterable[Placement], on_demand: bool) -> List[Claim]:
    """The claims of the serves that run together on a host. on_demand: beside a serve on demand, only the resident ones run."""
    together = [
        serve
        for serve in plan.serves
        if serve.gpu_uuids and (serve.residency == RESIDENT or (not on_demand and serve.residency not in (OFF, ON_DEMAND)))
    ]
    claims = [Claim("serve " + one.name, one.gpu_uuids, one.vram_mib, one.vram_by_card) for one in together]
    for placement in placed:
        by_card = {plan.gpus[alias].uuid: mib for alias, mib in placement.claims.items()}
        if by_card:
            claims.append(Claim("serve " + placement.serve, tuple(by_card), max(by_card.values()), by_card))
    return claims


def _free_mib(room: HostRoom, gpu: Gpu, claims: Sequence[Claim]) -> int:
    left = gpu.budget_mib - sum(claim.mib_on(gpu.uuid) or 0 for claim in claims if gpu.uuid in claim.uuids)
    device = find_device(gpu.uuid, room.cards)
    return left if device is None or device.vram_free_mib is None else min(left, device.vram_free_mib)


def _find_clash(serve: WantedServe, plan: HostPlan, here: Sequence[Placement]) -> str:
    container = str(serve.keys.get("container") or "anvil-" + serve.name)
    for other in plan.serves:
        if other.name == serve.name:
            return "it has a serve of this name"
        if other.container == container:
            return "serve {0} has the container name {1}".format(other.name, container)
        if other.port == serve.keys.get("port"):
            return "serve {0} has port {1}".format(other.name, other.port)
    if plan.router and plan.router.port == serve.keys.get("port"):
        return "the router has port {0}".format(plan.router.port)
    return "it has a serve of this name" if any(placement.serve == serve.name for placement in here) else ""


def _list_card_sets(gpus: Sequence[Gpu], count: int) -> List[Tuple[Gpu, ...]]:
    """Sets of cards to try. gpus: in order of their free memory. Equal cards come first: unequal ones run at the pace of the
    slowest."""
    kinds: Dict[Tuple[int, str], List[Gpu]] = {}
    for gpu in gpus:
        kinds.setdefault((gpu.vram_mib, gpu.compute_capability), []).append(gpu)
    alike = [tuple(kind[at : at + count]) for kind in kinds.values() for at in range(len(kind) - count + 1)]
    order = {gpu.uuid: number for number, gpu in enumerate(gpus)}
    alike.sort(key=lambda cards: order[cards[0].uuid])
    mixed = [tuple(gpus[at : at + count]) for at in range(len(gpus) - count + 1)]
    return [*alike, *(cards for cards in mixed if cards not in alike)]


def _try_host(serve: WantedServe, name: str, room: HostRoom, placed: Sequence[Placement]) -> Union[Placement, str]:
    """The placement of a serve on a host, or why there is none."""
    here = [placement for placement in placed if placement.host == name]
    clash = _find_clash(serve, room.plan, here)
    if clash:
        return clash
    if not serve.cards:
        return Placement(serve.name, name, {})
    if len(room.plan.gpus) < serve.cards:
        return "it has {0} of the {1} cards needed".format(len(room.plan.gpus), serve.cards)
    claims = _list_claims(room.plan, here, serve.keys.get("residency") == ON_DEMAND)
    gpus = sorted(room.plan.gpus.values(), key=lambda gpu: (_free_mib(room, gpu, claims), gpu.alias))
    why = ""
    for cards in _list_card_sets(gpus, serve.cards):
        answer = _try_cards(serve, name, room, cards, claims)
        if isinstance(answer, Placement):
            return answer
        why = answer
    return why


def _read_claims(serve: WantedServe, room: HostRoom, cards: Sequence[Gpu]) -> Dict[str, int]:
    """UUID -> MiB, as the plan counts a serve with these cards."""
    keys = dict(serve.keys)
    if isinstance(keys.get("vram_mib"), Mapping):
        keys["vram_mib"] = _read_mib(keys["vram_mib"])  # by aliases of another host
    keys["gpus"] = [gpu.alias for gpu in cards]
    word = str(keys.get("engine") or "")
    engine: Optional[Engine] = ENGINES.get(word)
    section = Section(InventoryCheck(), ("anvil_serves", serve.name), keys)
    args = [*room.engine_args.get(word, ()), *_list_words(keys)]
    settings = read_settings(word, args, {})
    share = read_share(section, engine, settings) if engine else None
    spelling = KEY if section.has(KEY) else settings.spelling(SHARE)
    return read_vram_claims(section, keys["gpus"], cards, share, spelling)


def _try_cards(
    serve: WantedServe, name: str, room: HostRoom, cards: Sequence[Gpu], claims: Sequence[Claim]
) -> Union[Placement, str]:
    needed = _read_claims(serve, room, cards)
    if not needed:
        return "what it claims of a card is not a valid vram_mib"
    uuids = tuple(gpu.uuid for gpu in cards)
    budgets = [Budget(gpu.alias, gpu.uuid, gpu.vram_mib, gpu.reserve_mib) for gpu in cards]
    verdict = weigh([Demand(serve.name, uuids, max(needed.values()), needed)], claims, budgets, room.cards, {})
    for problem in verdict.problems.get(serve.name, ()):
        return "{0}: {1}".format(problem.what, problem.why)
    kinds: Set[Tuple[int, str]] = {(gpu.vram_mib, gpu.compute_capability) for gpu in cards}
    notes = (
        ["the cards differ, so the serve runs at the pace of the slowest and with the memory of the smallest"]
        if len(kinds) > 1
        else []
    )
    return Placement(
        serve.name,
        name,
        {gpu.alias: needed[gpu.uuid] for gpu in room.plan.gpus.values() if gpu.uuid in needed},
        tuple(_add_up(serve.name, room, gpu, budget, needed[gpu.uuid], claims) for gpu, budget in zip(cards, budgets)),
        (*notes, *verdict.notes),
    )


def _add_up(name: str, room: HostRoom, gpu: Gpu, budget: Budget, need: int, claims: Sequence[Claim]) -> str:
    held = [(claim.holder, claim.mib_on(gpu.uuid) or 0) for claim in claims if gpu.uuid in claim.uuids]
    terms = " + ".join("{0} {1}".format(who, mib) for who, mib in [*held, ("serve " + name, need)])
    total = sum(mib for _who, mib in held) + need
    text = "{0}: {1}{2} of {3}; {4} MiB stay free".format(
        gpu.alias, terms, " = {0}".format(total) if held else "", budget.as_text(), gpu.budget_mib - total
    )
    device = find_device(gpu.uuid, room.cards)
    return (
        text
        if device is None or device.vram_free_mib is None
        else text + ", the driver reports {0} MiB free now".format(device.vram_free_mib)
    )
