# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How a model can be served: engine, weights, cards and context, each with the memory that it needs and the arithmetic. Pure.

The estimate is that of ``weights/memory_estimate`` where the weights are known, else the figure of the recipe. A margin comes on
top: an engine that gets too little memory does not start.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ansible_collections.anvil.serving.plugins.module_utils.catalog import engine_options as options
from ansible_collections.anvil.serving.plugins.module_utils.catalog.card_capabilities import EMULATED_FROM, find_capability
from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import read_settings
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_recipes import (
    GGUF,
    SAFETENSORS,
    EngineRecipe,
    Extra,
    Recipe,
    Variant,
)
from ansible_collections.anvil.serving.plugins.module_utils.catalog.served_kinds import (
    CHAT,
    EMBEDDINGS,
    KINDS,
    LLAMA_KIND_FLAGS,
    RERANK,
    SCORE,
)
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.weights.memory_estimate import MIB, Loading, Split, estimate_vram
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import ModelFacts

MARGIN = 0.10
STEP_MIB = 100  # a claim is rounded up to it
# The context that a serve gets where its model has more, and the shorter ones that are tried after it.
DEFAULT_CONTEXT, POOLING_CONTEXT = 32768, 8192
CONTEXTS = (16384, 8192, 4096)
CARD_COUNTS = (1, 2, 4, 8, 16)
SPLIT_MIB = 1536  # CUDA context, kernels and buffers of each further card, where only the figure of a recipe is known
# What a serve gets without a recipe.
IMPLIED_ENGINES: Mapping[str, tuple[str, ...]] = {SAFETENSORS: ("vllm", "sglang"), GGUF: ("llama_cpp",)}


@dataclass(frozen=True)
class Wish:
    """What an operator asked for; None and empty: not said. gpus: how many cards; 0: none. aliases: these cards."""

    engine: str = ""
    variant: str = ""
    context: int | None = None
    gpus: int | None = None
    aliases: tuple[str, ...] = ()
    speculative: bool = False


@dataclass(frozen=True)
class Weights:
    """What is known of the weights of a variant. commit: of their repository. why: why their headers could not be read."""

    facts: ModelFacts | None = None
    commit: str = ""
    why: str = ""


@dataclass(frozen=True)
class Candidate:
    """One way to serve a model. claim_mib: on each card. beside_mib: of it, what lies beside weights and cache."""

    engine: str
    variant: Variant
    context: int
    cards: int
    claim_mib: int
    beside_mib: int = 0
    commit: str = ""
    arithmetic: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def describe(self) -> str:
        cards = {0: "no card", 1: "1 card"}.get(self.cards, f"{self.cards} cards")
        return f"{self.variant.name} by {self.engine}, {cards}, {self.context:,} tokens"

    def as_options(self, gpus: str) -> str:
        """What to type to get exactly this."""
        return f"-e engine={self.engine} -e variant={self.variant.name} -e gpus={gpus} -e context={self.context}"


def _name_variant(facts: ModelFacts) -> str:
    return re.sub(r"[^a-z0-9._-]+", "-", (facts.quantisation or "weights").lower()).strip("-._") or "weights"


def imply_recipe(model: str, facts: ModelFacts) -> Recipe:
    """A recipe from nothing but the weights. Raises AnvilError for what no engine serves."""
    form = {"gguf": GGUF, "safetensors": SAFETENSORS, "pytorch": SAFETENSORS}.get(facts.format, "")
    if not form:
        raise fail("no serve can be proposed for weights of this format", model, facts.format, "write the serve by hand")
    if facts.kind not in ("text", *KINDS):
        raise fail("these are not the weights of a model", model, f"the header says: {facts.kind}", "give the path of the model")
    kind = CHAT if facts.kind == "text" else facts.kind
    flags = {
        "llama_cpp": (LLAMA_KIND_FLAGS[kind],) if kind in LLAMA_KIND_FLAGS else (),
        "sglang": ("--is-embedding",) if kind in (EMBEDDINGS, RERANK, SCORE) else (),
    }
    precision = (facts.quantisation or "").lower()
    variant = Variant(_name_variant(facts), model, precision, "", form)
    engines = {name: EngineRecipe("", extra=Extra(flags.get(name, ()))) for name in IMPLIED_ENGINES[form]}
    return Recipe(model, "", {}, {variant.name: variant}, engines, kind, context=facts.context_length)


def use_local_weights(recipe: Recipe | None, path: str, facts: ModelFacts) -> Recipe:
    """The recipe with the weights at a path of the host as its only variant; without a recipe, the one that they imply."""
    implied = imply_recipe(path, facts)
    if recipe is None:
        return implied
    (variant,) = implied.variants.values()
    same = [one for one in recipe.variants.values() if (one.format, one.precision) == (variant.format, variant.precision)]
    mine = replace(variant, extra=same[0].extra if same else Extra())
    known = {name: one for name, one in recipe.engines.items() if name in implied.engines}
    return replace(recipe, variants={mine.name: mine}, engines={**known, **_without(implied.engines, known)})


def _without(engines: Mapping[str, EngineRecipe], known: Mapping[str, EngineRecipe]) -> dict[str, EngineRecipe]:
    return {name: one for name, one in engines.items() if name not in known}


def can_run(precision: str, engine: str, capability: str) -> bool:
    """Whether an engine can compute with weights of a precision on a card. What is not known can run."""
    row = find_capability(capability)
    native = {"fp8": row.fp8, "nvfp4": row.fp4, "mxfp4": row.fp4} if row else {}
    if native.get(precision, True) or row is None or engine not in EMULATED_FROM:
        return True
    first = EMULATED_FROM[engine].get(precision)
    return first is not None and int(row.sm.removeprefix("sm_")) >= first


def list_contexts(recipe: Recipe, weights: Mapping[str, Weights], wish: Wish) -> list[int]:
    """The contexts to try, the preferred one first."""
    if wish.context:
        return [wish.context, *(one for one in CONTEXTS if one < wish.context)]
    known = [recipe.context, *(one.facts.context_length for one in weights.values() if one.facts)]
    longest = min((one for one in known if one), default=POOLING_CONTEXT)
    first = min(longest, DEFAULT_CONTEXT if recipe.kind == CHAT else POOLING_CONTEXT)
    return [first, *(one for one in CONTEXTS if one < first)]


def list_candidates(
    recipe: Recipe, weights: Mapping[str, Weights], engines: Sequence[str], most_cards: int, wish: Wish
) -> Iterator[Candidate]:
    """Every way to serve the model, the preferred one first: a long context counts most, then few cards, then the order of the
    variants. engines: those that the hosts have an image of; they come first. most_cards: of a host.
    """
    counts = [wish.gpus] if wish.gpus is not None else [one for one in CARD_COUNTS if one <= most_cards] or [0]
    if wish.aliases:
        counts = [len(wish.aliases)]
    for context in list_contexts(recipe, weights, wish):
        for count in counts:
            for name, variant in recipe.variants.items():
                if wish.variant not in ("", name):
                    continue
                known = [one for one in recipe.engines_of(variant) if wish.engine in ("", one)]
                for engine in sorted(known, key=lambda one: one not in engines)[: None if wish.engine else 1]:
                    made = make_candidate(recipe, engine, variant, weights.get(name, Weights()), count, context, wish.speculative)
                    if made is not None:
                        yield made


def make_candidate(
    recipe: Recipe, engine: str, variant: Variant, weights: Weights, cards: int, context: int, speculative: bool
) -> Candidate | None:
    """A candidate with its claim; None where the model cannot be divided over so many cards, or no figure is known."""
    if cards == 0:
        return Candidate(engine, variant, context, 0, 0, commit=weights.commit) if engine == "llama_cpp" else None
    facts = weights.facts
    if facts is None:
        return _claim_by_recipe(recipe, engine, variant, weights, cards, context)
    if engine != "llama_cpp" and facts.heads and facts.heads % cards:
        return None
    settings = read_settings(engine, [*recipe.engines[engine].extra.args, *variant.extra.args], {})
    kv_type = (settings.text(options.KV_TYPE) or "auto").lower()
    split = Split(pipeline=cards) if engine == "llama_cpp" else Split(tensor=cards)
    estimate = estimate_vram(facts, context, 1, kv_type, split, Loading(engine, speculative=speculative))
    claim = _round_up(estimate.total_mib * (1 + MARGIN))
    margin = f"claim: {estimate.total_mib:,} MiB + {MARGIN:.0%} margin = {claim:,} MiB" + (" on each card" if cards > 1 else "")
    notes = list(estimate.notes)
    if speculative:
        notes.append("the memory of the model for speculative decoding was not counted")
    sums = (*estimate.arithmetic, margin)
    return Candidate(engine, variant, context, cards, claim, estimate.allowance_mib, weights.commit, sums, tuple(notes))


def _claim_by_recipe(
    recipe: Recipe, engine: str, variant: Variant, weights: Weights, cards: int, context: int
) -> Candidate | None:
    if variant.vram_gb is None:
        return None
    total = math.ceil(variant.vram_gb * 10**9 / MIB)
    beside = SPLIT_MIB if cards > 1 else 0
    claim = _round_up(total / cards + beside)
    dated = recipe.sources[variant.source].date if variant.source in recipe.sources else ""
    text = f"recipe: {variant.vram_gb:g} GB ({variant.source}{', ' + dated if dated else ''}) = {total:,} MiB"
    if cards > 1:
        text += f" / {cards} cards + {beside:,} MiB"
    why = weights.why or "not asked"
    note = f"the weights were not read ({why}), so the cache of {context:,} tokens was not counted by itself"
    return Candidate(engine, variant, context, cards, claim, 0, weights.commit, (f"{text}; claim: {claim:,} MiB",), (note,))


def _round_up(mib: float) -> int:
    return math.ceil(mib / STEP_MIB) * STEP_MIB
