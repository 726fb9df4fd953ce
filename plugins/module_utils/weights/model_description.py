# SPDX-License-Identifier: GPL-3.0-or-later
"""The facts of models with an estimate of the GPU memory that they need: what anvil_model_info returns."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Dict, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import problems_as_dicts
from ansible_collections.anvil.serving.plugins.module_utils.weights.memory_estimate import Loading, Split, estimate_vram
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import (
    Attention,
    Layer,
    ModelFacts,
    WeightParts,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_folder import find_models, read_model


@dataclass(frozen=True)
class Load:
    """The load that an estimate is for. context: tokens per request, None for the model's own. concurrency: requests at once."""

    context: Optional[int]
    concurrency: int
    kv_dtype: str
    cards: int


def _assume_engine(facts: ModelFacts, cards: int) -> Tuple[Split, Loading]:
    """The engine that a format is for, and how it uses several cards unless its arguments say otherwise."""
    if facts.format == "gguf":
        return Split(pipeline=cards), Loading("llama_cpp")
    return Split(tensor=cards), Loading("vllm" if facts.format == "safetensors" else "trtllm")


def describe_model(facts: ModelFacts, load: Load) -> Dict[str, Any]:
    """The facts of one model with its estimate."""
    estimate = estimate_vram(facts, load.context, load.concurrency, load.kv_dtype, *_assume_engine(facts, load.cards))
    return {**facts.as_dict(), "vram": estimate.as_dict()}


def describe_models(path: str, load: Load, discover: bool) -> Dict[str, Any]:
    """The model at a path, or with ``discover`` every model below it."""
    found, broken = find_models(path) if discover else ([read_model(path)], [])
    return {
        "changed": False,
        "models": [describe_model(facts, load) for facts in found],
        "unreadable": [problem for error in broken for problem in problems_as_dicts(error.problems)],
    }


def read_described_facts(described: Mapping[str, Any]) -> ModelFacts:
    """The facts in a description of ``describe_model``, as anvil_model_info returns it."""
    plain: Dict[str, Any] = {one.name: described[one.name] for one in fields(ModelFacts) if one.name in described}
    attention = plain.get("attention")
    if attention is not None:
        layers = tuple(Layer(**layer) for layer in attention["layers"])
        plain["attention"] = Attention(layers, tuple(attention["unknown"]))
    if plain.get("parts") is not None:
        plain["parts"] = WeightParts(**plain["parts"])
    for name in ("files", "unknown_types", "projector_widths", "missing", "notes"):
        if name in plain:
            plain[name] = tuple(plain[name])
    return ModelFacts(**plain)
