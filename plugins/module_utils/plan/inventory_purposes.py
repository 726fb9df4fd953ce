# SPDX-License-Identifier: GPL-3.0-or-later
"""Sort the tiers of a router by what their serves answer: chat, what the router routes besides, and what it cannot route.

A profile router routes chat only. A gateway router also routes embeddings and reranking (``[[router.purpose_models]]``,
anvil-serving 2.0.2): a client names the model, and there is one serve for each kind and model. ``inventory_audio`` has its audio.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.served_kinds import CHAT, EMBEDDINGS, RERANK, SPEECH
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import TierPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_audio import AUDIO_PURPOSES
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_tiers import AUTO
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import Section

# Kind -> where clients of a gateway router request it.
PURPOSE_PATHS = {EMBEDDINGS: "/v1/embeddings", RERANK: "/v1/rerank"}


@dataclass(frozen=True)
class SortedTiers:
    """chat: for presets and routes. purposes: embeddings and reranking. audio: transcription and speech. ids: those of chat tiers
    (None: not all could be read).

    others: tier that is not for chat -> its kind.
    """

    chat: Tuple[TierPlan, ...]
    purposes: Tuple[TierPlan, ...]
    audio: Tuple[TierPlan, ...]
    ids: Optional[Tuple[str, ...]]
    others: Mapping[str, str]


def sort_tiers(section: Section, generation: str, ids: Optional[Sequence[str]], tiers: Sequence[TierPlan]) -> SortedTiers:
    """A tier that the router cannot route is left out, with a note."""
    others = {tier.id: tier.kind for tier in tiers if tier.kind != CHAT}
    purposes: List[TierPlan] = []
    audio: List[TierPlan] = []
    for tier in tiers:
        if tier.kind == CHAT:
            continue
        if generation == "gateway" and tier.kind in (*PURPOSE_PATHS, *AUDIO_PURPOSES):
            (purposes if tier.kind in PURPOSE_PATHS else audio).append(tier)
            continue
        section.add_note(
            "tiers",
            "tier {0} is left out: serve {1} is for {2}, which a {3} router does not route; clients use the port of the "
            "serve".format(tier.id, tier.answered_by, tier.kind, generation),
        )
    _check_unique(section, purposes)
    for tier in tiers:
        _check_keys_of_kind(section, generation, tier)
    chat = tuple(tier for tier in tiers if tier.kind == CHAT)
    if tiers and not chat and ids is not None and len(tiers) == len(ids):
        section.add_problem(
            "tiers",
            "the router has no tier for chat",
            "add a serve with a chat model, or remove anvil_router; a serve that is for chat after all gets kind: chat",
            "its tiers are for " + ", ".join(sorted(set(others.values()))),
        )
    known = None if ids is None else tuple(tier for tier in ids if tier not in others)
    return SortedTiers(chat, tuple(purposes), tuple(audio), known, others)


def _check_keys_of_kind(section: Section, generation: str, tier: TierPlan) -> None:
    """Keys of a tier that are only for some kinds or generations."""
    wrong: Optional[Tuple[str, str]] = None
    if tier.max_concurrency and tier.kind != CHAT:
        wrong = "max_concurrency", "is only for tiers for chat"
    elif tier.max_concurrency == AUTO and generation != "gateway":
        wrong = "max_concurrency", "auto is only for a gateway router: set a number"
    elif tier.sample_rate and tier.kind != SPEECH:
        wrong = "sample_rate", "is only for tiers for speech"
    elif tier.default and tier.kind not in AUDIO_PURPOSES:
        wrong = "default", "is only for tiers for audio"
    if wrong:
        section.add_problem("tiers", "tier {0} ({1}): {2} {3}".format(tier.id, tier.kind, *wrong), "remove it")


def _check_unique(section: Section, purposes: Sequence[TierPlan]) -> None:
    seen: Dict[Tuple[str, str], str] = {}
    for tier in purposes:
        first = seen.setdefault((tier.kind, tier.model), tier.id)
        if first != tier.id:
            section.add_problem(
                "tiers",
                "tiers {0} and {1} have the same model name {2} for {3}".format(first, tier.id, tier.model, tier.kind),
                "set served_name in one of the two serves, or remove one of the tiers",
                "the router chooses the serve by the name of the model",
            )


def explain_other(tier: str, others: Mapping[str, str]) -> str:
    """Why a tier that is not for chat has no place in a preset, a route or a profile; empty for any other."""
    return "tier {0} is for {1}, not for chat".format(tier, others[tier]) if tier in others else ""
