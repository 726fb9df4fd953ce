# SPDX-License-Identifier: GPL-3.0-or-later
"""Check what a serve claims of the memory of its cards, against the share that its engine takes, and against all other claims."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import Settings
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engine_options import KV_BYTES, SHARE
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import Engine
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import OFF, ON_DEMAND, RESIDENT
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import Gpu, ServePlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_gpus import InventoryGpus
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    UNREAD,
    InventoryCheck,
    Section,
    describe_value,
    suggest_name,
)

KEY = "gpu_memory_utilization"
MOST_MIB = 10**7
# Claim and share may differ by this part of the card before it is told: a share has few decimals, and a claim may have a margin.
ABOVE_CLAIM, BELOW_CLAIM = 0.01, 0.10


def read_share(section: Section, engine: Engine, settings: Settings) -> Optional[float]:
    """The share of each card's total memory that the engine takes, as the inventory sets it; None if it sets none.

    Only for an engine whose share covers all of its memory (``share_flag``): that of SGLang is for weights and KV cache alone.
    """
    value: Any = section.raw.get(KEY)
    if not engine.share_flag or settings.has(KV_BYTES):
        return None
    share = settings.number(SHARE) if value is None else value
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share <= 1:
        return None
    return float(share)


def read_vram_claims(
    section: Section, aliases: Sequence[str], cards: Sequence[Gpu], share: Optional[float], spelling: str
) -> Dict[str, int]:
    """UUID of each card -> MiB claimed on it.

    Without ``vram_mib`` it is the engine's share of the card, else the whole budget of the smallest card. spelling: how the share
    was written.
    """
    value = section.raw.get("vram_mib")
    given: Optional[Mapping[str, int]] = None
    if isinstance(value, Mapping):
        given = _read_claim_of_each(section, aliases, value)
    else:
        claim = section.read_integer("vram_mib", 1, MOST_MIB, "MiB")
        given = None if claim is None else dict.fromkeys(aliases, claim)
    if section.has("vram_mib") and not aliases and not section.has("gpus"):
        if given is not None:
            section.add_problem(
                "vram_mib",
                "memory of a GPU is claimed, but the serve has no GPU",
                "set gpus: [alias], or remove vram_mib",
            )
        return {}
    if section.has("vram_mib"):
        claims = {card.uuid: given[card.alias] for card in cards if given and card.alias in given}
        _compare_with_share(section, cards, claims, share, spelling)
        return claims
    if not cards:
        return {}
    return _claim_budget(section, cards) if share is None else _claim_share(section, cards, share, spelling)


def _read_claim_of_each(section: Section, aliases: Sequence[str], value: Mapping[Any, Any]) -> Dict[str, int]:
    """``vram_mib`` as a mapping: alias of a GPU of the serve -> MiB."""
    inner = Section(section.check, section.path_of("vram_mib"), value)
    found: Dict[str, int] = {}
    for alias in value:
        if alias not in aliases:
            hint = suggest_name(str(alias), aliases, "the serve has no gpus")
            section.check.add_problem(inner.path_of(str(alias)), "the serve does not use GPU {0!r}".format(str(alias)[:60]), hint)
            continue
        claim = inner.read_integer(alias, 1, MOST_MIB, "MiB")
        if claim is not None:
            found[alias] = claim
        elif not inner.has(alias):
            inner.add_problem(alias, "GPU {0} has no claim".format(alias), "set it to the MiB that the serve takes of it")
    for alias in aliases:
        if alias not in value:
            section.add_problem(
                "vram_mib", "it has no claim for GPU {0}".format(alias), "add {0}: MiB, or set one number for all".format(alias)
            )
    return found


def _claim_budget(section: Section, cards: Sequence[Gpu]) -> Dict[str, int]:
    budget = min(card.budget_mib for card in cards)
    section.check.add_note(
        section.path,
        "vram_mib is not set, so the serve claims the whole budget of {0} ({1} MiB)".format(
            ", ".join(card.alias for card in cards), budget
        ),
    )
    return {card.uuid: budget for card in cards}


def _share_mib(card: Gpu, share: float) -> int:
    return min(card.vram_mib, -int(-card.vram_mib * share // 1))


def _claim_share(section: Section, cards: Sequence[Gpu], share: float, spelling: str) -> Dict[str, int]:
    """Never more than the budget: what the engine takes beyond it is told, and the engine decides whether it gets it."""
    claims = {}
    for card in cards:
        taken = _share_mib(card, share)
        claims[card.uuid] = min(taken, card.budget_mib)
        if taken > card.budget_mib:
            section.add_note(
                KEY,
                "{0} of {1} is {2} MiB, more than its budget ({3} - {4} reserve = {5} MiB): the reserve is not kept free".format(
                    share, card.alias, taken, card.vram_mib, card.reserve_mib, card.budget_mib
                ),
            )
    section.check.add_note(
        section.path,
        "vram_mib is not set, so the serve claims its {0} {1:g}: {2}".format(
            spelling, share, ", ".join("{0} MiB of {1}".format(claims[card.uuid], card.alias) for card in cards)
        ),
    )
    return claims


def _compare_with_share(
    section: Section, cards: Sequence[Gpu], claims: Mapping[str, int], share: Optional[float], spelling: str
) -> None:
    """Tell a claim that the share of the engine contradicts: the ledger counts the claim, the engine takes the share."""
    for card in cards:
        claim = claims.get(card.uuid)
        if claim is None or share is None:
            continue
        taken = _share_mib(card, share)
        if taken - claim > ABOVE_CLAIM * card.vram_mib:
            does = "the engine takes {0} MiB more than other serves are told".format(taken - claim)
        elif claim - taken > BELOW_CLAIM * card.vram_mib:
            does = "{0} MiB of the claim are never used".format(claim - taken)
        else:
            continue
        section.add_note(
            "vram_mib",
            "{0} {1:g} of {2} ({3} MiB) is {4} MiB, but the claim is {5} MiB: {6}. Remove vram_mib, or set {7}: derive".format(
                spelling, share, card.alias, card.vram_mib, taken, claim, does, KEY
            ),
        )


def read_memory_share(
    section: Section, name: str, engine: Engine, settings: Settings, claims: Mapping[str, int], cards: Sequence[Gpu]
) -> Tuple[str, ...]:
    """The arguments for ``gpu_memory_utilization``, a share of the card's total memory. ``derive`` computes it from the claims.

    name: of the engine; empty: unknown. The share is rounded down to three decimals, and all cards of a serve share one flag, so
    the smallest one counts: the claim is exceeded on no card.
    """
    value = section.raw.get(KEY)
    if value is None or value is UNREAD:
        return ()
    flag = engine.share_flag if name else "?"
    if not flag:
        section.add_problem(KEY, "engine {0} has no gpu_memory_utilization".format(name), "remove it: it is for engine vllm")
        return ()
    if settings.has(SHARE):
        section.add_problem(KEY, "{0} is also in args".format(settings.spelling(SHARE)), "keep one of the two")
        return ()
    if value == "derive":
        if not section.has("gpus"):
            section.add_problem(KEY, "derive needs a GPU, and the serve has none", "set gpus: [alias]")
        if not cards or not all(claims.get(card.uuid) for card in cards):
            return ()
        value = min(claims[card.uuid] * 1000 // card.vram_mib for card in cards) / 1000
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        section.add_problem(
            KEY,
            "must be a number or the word derive, not {0}".format(describe_value(value)),
            "use derive, or a share such as 0.88",
        )
        return ()
    if not 0 < value <= 1:  # false for NaN too
        section.add_problem(
            KEY, "{0} is not a share of a card".format(describe_value(value)), "use a number above 0 and at most 1"
        )
        return ()
    return (flag, "{0:g}".format(value))


def check_vram_budgets(check: InventoryCheck, described: Sequence[ServePlan], gpus: InventoryGpus) -> None:
    """Check that serves that may run at the same time fit the cards.

    All resident and evictable serves run together. An on-demand serve evicts the evictable ones, so it must fit beside the
    resident ones only.
    """
    serves = [serve for serve in described if serve.residency != OFF]
    on_demand = [serve for serve in serves if serve.residency == ON_DEMAND]
    resident = [serve for serve in serves if serve.residency == RESIDENT]
    for alias, gpu in gpus.by_alias.items():
        _check_vram_sum(check, [serve for serve in serves if serve.residency != ON_DEMAND], alias, gpu)
        for serve in on_demand:
            if alias in serve.gpus:
                _check_vram_sum(check, [*resident, serve], alias, gpu)


def _claim_on(serve: ServePlan, gpu: Gpu) -> int:
    return serve.vram_by_card.get(gpu.uuid, serve.vram_mib)


def _check_vram_sum(check: InventoryCheck, serves: Sequence[ServePlan], alias: str, gpu: Gpu) -> None:
    claims = [serve for serve in serves if alias in serve.gpus and serve.vram_mib]
    total = sum(_claim_on(serve, gpu) for serve in claims)
    if total <= gpu.budget_mib:
        return
    terms = " + ".join("serve {0} {1}".format(serve.name, _claim_on(serve, gpu)) for serve in claims)
    budget = "{0} MiB".format(gpu.budget_mib)
    if gpu.reserve_mib:
        budget = "{0} - {1} reserve = {2}".format(gpu.vram_mib, gpu.reserve_mib, budget)
    alone = len(claims) == 1
    check.add_problem(
        ("anvil_serves", claims[0].name, "vram_mib") if alone else ("anvil_gpus", alias),
        "GPU {0} is over its budget: {1}{2} MiB; the GPU has {3}".format(
            alias, terms, "" if alone else " = {0}".format(total), budget
        ),
        "set vram_mib to at most {0}".format(budget.rpartition("= ")[2])
        if alone
        else "set a smaller vram_mib (a serve without one claims its gpu_memory_utilization, or the whole budget), "
        "or move a serve to another GPU",
    )
