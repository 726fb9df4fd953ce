# SPDX-License-Identifier: GPL-3.0-or-later
"""The VRAM ledger: which claims hold each GPU, and whether the serves that are about to start fit. Pure.

All amounts are in MiB. Every refusal shows its arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Collection, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import LABEL_VRAM
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card, find_device


@dataclass(frozen=True)
class Budget:
    """A GPU as the inventory describes it: its total memory, and the part that no serve may claim (reserve)."""

    alias: str
    uuid: str
    vram_mib: int
    reserve_mib: int = 0

    def as_text(self) -> str:
        if not self.reserve_mib:
            return "{0} MiB".format(self.vram_mib)
        return "{0} - {1} reserve = {2} MiB".format(self.vram_mib, self.reserve_mib, self.vram_mib - self.reserve_mib)


@dataclass(frozen=True)
class Claim:
    """A container that holds GPUs and keeps them. mib: claimed on each of its GPUs; None: unknown. by_card: UUID -> MiB, where
    they differ."""

    holder: str
    uuids: Tuple[str, ...]
    mib: Optional[int]
    by_card: Mapping[str, int] = field(default_factory=dict)

    def mib_on(self, uuid: str) -> Optional[int]:
        return self.by_card.get(uuid, self.mib)


@dataclass(frozen=True)
class Demand:
    """A serve that is about to start. mib: needed on each of its GPUs; a serve on two GPUs is charged on both. by_card: UUID ->
    MiB, where they differ."""

    serve: str
    uuids: Tuple[str, ...]
    mib: int
    by_card: Mapping[str, int] = field(default_factory=dict)

    def mib_on(self, uuid: str) -> int:
        return self.by_card.get(uuid, self.mib)


def format_claims(mib: int, by_card: Mapping[str, int]) -> str:
    """The label of a container with its claims: one number, or ``UUID=MiB`` for each card."""
    return ",".join("{0}={1}".format(uuid, by_card[uuid]) for uuid in sorted(by_card)) or str(mib)


def parse_claims(text: str) -> Tuple[Optional[int], Dict[str, int]]:
    """The claim on each card, and the claims that differ from card to card; (None, {}) for any other text."""
    if text.isdigit():
        return int(text), {}
    pairs = [part.rpartition("=") for part in text.split(",")]
    if not all(uuid and number.isdigit() for uuid, _sign, number in pairs):
        return None, {}
    found = {uuid: int(number) for uuid, _sign, number in pairs}
    return max(found.values()), found


def read_claims_of_service(anvil: Mapping[str, Any]) -> Tuple[int, Dict[str, int]]:
    """The claims of a serve, from its ``x-anvil``."""
    by_card = {str(uuid): int(mib) for uuid, mib in (anvil.get("vram_by_card") or {}).items()}
    return int(anvil.get("vram_mib") or 0), by_card


@dataclass(frozen=True)
class Verdict:
    """problems: serve -> why it may not start. notes: what was admitted although something is unknown."""

    problems: Dict[str, List[Problem]] = field(default_factory=dict)
    notes: Tuple[str, ...] = ()


def _budget_of(uuid: str, budgets: Sequence[Budget], cards: Sequence[Card]) -> Optional[Budget]:
    """The budget in the inventory, else the whole GPU; None: its size is unknown."""
    for budget in budgets:
        if budget.uuid == uuid:
            return budget
    device = find_device(uuid, cards)
    return None if device is None or device.vram_total_mib is None else Budget(uuid, uuid, device.vram_total_mib)


def _live_free(uuid: str, cards: Sequence[Card], freed: Mapping[str, Optional[int]]) -> Optional[int]:
    """The memory that the driver reports as free, plus what the containers to be removed give back. None: unknown."""
    device = find_device(uuid, cards)
    free = device.vram_free_mib if device else None
    given_back = freed.get(uuid, 0)
    return None if free is None or given_back is None else free + given_back


def _note_shared(uuid: str, alias: str, need: int, cards: Sequence[Card], system_mib: Optional[int]) -> str:
    """What is said of a GPU that shares the memory of its host; empty for every other one.

    What the kernel calls available is an estimate, so it refuses nothing.
    """
    if not any(card.uuid == uuid and card.shares_system_memory for card in cards):
        return ""
    if system_mib is None:
        return "GPU {0} reports no memory of its own, and the host's is unknown: only the claims are counted".format(alias)
    if need <= system_mib:
        return ""
    return "GPU {0} shares the memory of the host: {1} MiB are needed, and the host reports {2} MiB available".format(
        alias, need, system_mib
    )


def _sum(parts: Sequence[Tuple[str, Optional[int]]]) -> str:
    return " + ".join("{0} {1}".format(who, "unknown" if mib is None else mib) for who, mib in parts)


def weigh(
    demands: Sequence[Demand],
    claims: Sequence[Claim],
    budgets: Sequence[Budget],
    cards: Sequence[Card],
    freed: Mapping[str, Optional[int]],
    system_mib: Optional[int] = None,
) -> Verdict:
    """Decide whether the serves fit beside the containers that hold the GPUs. What is unknown is noted and refuses nothing.

    claims: the containers that stay, so without those that are about to be replaced. freed: GPU -> MiB that the replaced
    containers give back; None: unknown. system_mib: MiB that the host has available, for GPUs that share its memory.
    """
    problems: Dict[str, List[Problem]] = {}
    notes: List[str] = []
    for uuid in sorted({uuid for demand in demands if demand.mib for uuid in demand.uuids}):
        budget = _budget_of(uuid, budgets, cards)
        if budget is None:
            continue  # no such GPU: admission reports it
        here = [demand for demand in demands if uuid in demand.uuids]
        held = [(claim.holder, claim.mib_on(uuid)) for claim in claims if uuid in claim.uuids]
        need = sum(demand.mib_on(uuid) for demand in here)
        total = need + sum(mib or 0 for _holder, mib in held)
        room = budget.vram_mib - budget.reserve_mib
        arithmetic = _sum([*held, *(("serve " + demand.serve, demand.mib_on(uuid)) for demand in here)])
        unknown = [holder for holder, mib in held if mib is None]
        free = _live_free(uuid, cards, freed)
        why = hint = ""
        if total > room:
            why = "{0} = {1} MiB; the GPU has {2}: {3} MiB too much".format(arithmetic, total, budget.as_text(), total - room)
            hint = (
                "take one of the others down: ansible-playbook playbooks/down.yml -e serves=NAME\nor lower vram_mib of the serve"
            )
        elif free is not None and need > free:
            why = (
                "the inventory allows it ({0} of {1} MiB), but the driver reports only {2} MiB free of the {3} MiB needed".format(
                    total, room, free, need
                )
            )
            hint = "a process holds memory that no container label declares: run nvidia-smi on the host to find it"
        elif unknown:
            notes.append(
                "GPU {0}: {1} holds an unknown amount of memory; the driver reports {2}".format(
                    budget.alias,
                    " and ".join(unknown),
                    "no free memory ({0}); add the label {1} to that container".format(arithmetic, LABEL_VRAM)
                    if free is None
                    else "{0} MiB free".format(free),
                )
            )
        given_back = freed.get(uuid, 0) or 0
        shared = _note_shared(uuid, budget.alias, need - given_back, cards, system_mib)
        if shared and not why:
            notes.append(shared)
        if why:
            for demand in here:
                what = "GPU {0}: {1} MiB do not fit".format(budget.alias, demand.mib_on(uuid))
                problems.setdefault(demand.serve, []).append(Problem(what, "serve " + demand.serve, why, hint))
    return Verdict(problems, tuple(notes))


def choose_evictions(
    demands: Sequence[Demand],
    claims: Sequence[Claim],
    evictable: Mapping[str, Claim],
    budgets: Sequence[Budget],
    cards: Sequence[Card],
    freed: Mapping[str, Optional[int]],
) -> Tuple[str, ...]:
    """Choose the evictable serves that must go so that the others fit; none where that would not help either.

    evictable: serve -> its claim (which is among ``claims``). The largest go first; a serve on another GPU never goes.
    """
    wanted = {uuid for demand in demands for uuid in demand.uuids}
    candidates = sorted(evictable, key=lambda name: (-(evictable[name].mib or 0), name))
    candidates = [name for name in candidates if wanted.intersection(evictable[name].uuids)]
    gone: List[str] = []
    for name in candidates:
        if not weigh(demands, *_without(gone, claims, evictable, freed, budgets, cards)).problems:
            break
        gone.append(name)
    if weigh(demands, *_without(gone, claims, evictable, freed, budgets, cards)).problems:
        return ()
    # The last one may be large enough to keep one of those before it.
    for name in list(gone):
        fewer = [other for other in gone if other != name]
        if not weigh(demands, *_without(fewer, claims, evictable, freed, budgets, cards)).problems:
            gone = fewer
    return tuple(gone)


def _without(
    gone: Collection[str],
    claims: Sequence[Claim],
    evictable: Mapping[str, Claim],
    freed: Mapping[str, Optional[int]],
    budgets: Sequence[Budget],
    cards: Sequence[Card],
) -> Tuple[Sequence[Claim], Sequence[Budget], Sequence[Card], Mapping[str, Optional[int]]]:
    """The arguments of ``weigh`` after these serves are gone."""
    left = [evictable[name] for name in gone]
    back = dict(freed)
    for claim in left:
        for uuid in claim.uuids:
            known = back.get(uuid, 0)
            mib = claim.mib_on(uuid)
            back[uuid] = None if known is None or mib is None else known + mib
    return [claim for claim in claims if claim not in left], budgets, cards, back
