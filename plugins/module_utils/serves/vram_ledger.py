# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who claims how much of which card, and does it add up? Pure; every refusal shows its arithmetic. All amounts in MiB."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Collection, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card, find_device


@dataclass(frozen=True)
class Budget:
    """A card as the inventory has it: its total memory, and what of it no serve may claim."""

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
    """What holds cards now and keeps them. ``mib`` is claimed on each of its cards; None: nobody said how much."""

    holder: str
    uuids: Tuple[str, ...]
    mib: Optional[int]


@dataclass(frozen=True)
class Want:
    """A serve that is about to start. ``mib`` on each of its cards: one that spans two cards is charged on both."""

    serve: str
    uuids: Tuple[str, ...]
    mib: int


@dataclass(frozen=True)
class Verdict:
    """problems: why a serve may not start, by its name. notes: what was admitted although something is unknown."""

    problems: Dict[str, List[Problem]] = field(default_factory=dict)
    notes: Tuple[str, ...] = ()


def _budget_of(uuid: str, budgets: Sequence[Budget], cards: Sequence[Card]) -> Optional[Budget]:
    """The inventory's budget, or the whole card where the inventory does not say; None: nobody knows its size."""
    for budget in budgets:
        if budget.uuid == uuid:
            return budget
    device = find_device(uuid, cards)
    return None if device is None or device.vram_total_mib is None else Budget(uuid, uuid, device.vram_total_mib)


def _live_free(uuid: str, cards: Sequence[Card], freed: Mapping[str, Optional[int]]) -> Optional[int]:
    """What the driver says is free, and what containers about to go will give back. None: not known."""
    device = find_device(uuid, cards)
    free = device.vram_free_mib if device else None
    given_back = freed.get(uuid, 0)
    return None if free is None or given_back is None else free + given_back


def _sum(parts: Sequence[Tuple[str, Optional[int]]]) -> str:
    return " + ".join("{0} {1}".format(who, "unknown" if mib is None else mib) for who, mib in parts)


def weigh(
    wants: Sequence[Want],
    claims: Sequence[Claim],
    budgets: Sequence[Budget],
    cards: Sequence[Card],
    freed: Mapping[str, Optional[int]],
) -> Verdict:
    """Whether the wanted serves fit beside what holds the cards.

    claims: what stays, so not the containers that are about to be replaced. freed: card -> MiB that those give back
    when they go; None where that is not known.
    """
    problems: Dict[str, List[Problem]] = {}
    notes: List[str] = []
    for uuid in sorted({uuid for want in wants if want.mib for uuid in want.uuids}):
        budget = _budget_of(uuid, budgets, cards)
        if budget is None:
            continue  # no such card: admission says so
        here = [want for want in wants if uuid in want.uuids]
        held = [(claim.holder, claim.mib) for claim in claims if uuid in claim.uuids]
        need = sum(want.mib for want in here)
        total = need + sum(mib or 0 for _holder, mib in held)
        room = budget.vram_mib - budget.reserve_mib
        arithmetic = _sum([*held, *(("serve " + want.serve, want.mib) for want in here)])
        unknown = [holder for holder, mib in held if mib is None]
        free = _live_free(uuid, cards, freed)
        why = hint = ""
        if total > room:
            why = "{0} = {1} MiB, and it has {2}: {3} MiB too much".format(arithmetic, total, budget.as_text(), total - room)
            hint = "take down or retire one of the others, or lower vram_mib"
        elif free is not None and need > free:
            why = "by the inventory it fits ({0} of {1} MiB), but the driver has {2} MiB left for the {3} wanted".format(
                total, room, free, need
            )
            hint = "something holds memory that no label tells of: nvidia-smi on the host names its processes"
        elif unknown and free is None:
            why = "{0}: how much {1} needs is unknown, and the driver does not tell what is free".format(
                arithmetic, " and ".join(unknown)
            )
            hint = "give that container the label anvil.serving.vram_mib, or take it down"
        elif unknown:
            notes.append("GPU {0}: {1} holds it without saying how much; {2} MiB are free".format(budget.alias, unknown[0], free))
        if why:
            for want in here:
                what = "GPU {0} has no room for {1} MiB".format(budget.alias, want.mib)
                problems.setdefault(want.serve, []).append(Problem(what, "serve " + want.serve, why, hint))
    return Verdict(problems, tuple(notes))


def choose_evictions(
    wants: Sequence[Want],
    claims: Sequence[Claim],
    evictable: Mapping[str, Claim],
    budgets: Sequence[Budget],
    cards: Sequence[Card],
    freed: Mapping[str, Optional[int]],
) -> Tuple[str, ...]:
    """The evictable serves that must go so that the wanted ones fit; none where that would not help either.

    evictable: serve -> its claim (which is among ``claims``). The largest go first; one whose card nobody wants never does.
    """
    wanted = {uuid for want in wants for uuid in want.uuids}
    order = sorted(evictable, key=lambda name: (-(evictable[name].mib or 0), name))
    order = [name for name in order if wanted.intersection(evictable[name].uuids)]
    gone: List[str] = []
    for name in order:
        if not weigh(wants, *_without(gone, claims, evictable, freed, budgets, cards)).problems:
            break
        gone.append(name)
    if weigh(wants, *_without(gone, claims, evictable, freed, budgets, cards)).problems:
        return ()
    # The largest may have made one of the earlier ones needless.
    for name in list(gone):
        fewer = [other for other in gone if other != name]
        if not weigh(wants, *_without(fewer, claims, evictable, freed, budgets, cards)).problems:
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
    """The arguments of ``weigh`` after these serves have gone."""
    left = [evictable[name] for name in gone]
    back = dict(freed)
    for claim in left:
        for uuid in claim.uuids:
            known = back.get(uuid, 0)
            back[uuid] = None if known is None or claim.mib is None else known + claim.mib
    return [claim for claim in claims if claim not in left], budgets, cards, back
