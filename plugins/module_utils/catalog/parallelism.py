# SPDX-License-Identifier: GPL-3.0-or-later
"""How a serve uses its cards, from its settings: tensor, pipeline, data and further parallel sizes of each engine. Pure.

Sources: vLLM ``vllm/config/parallel.py`` (world size: tensor x pipeline x prefill context; data ranks each have such a world;
decode context reuses tensor ranks); SGLang ``arg_groups/parallel_hook.py`` (data and context parallelism of attention, and data
parallelism of experts, lie inside the tensor ranks; ``--enable-dp-attention`` makes of ``--dp-size`` the size of attention);
TensorRT-LLM ``commands/serve.py`` (tensor x pipeline x context).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import List, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog import engine_options as options
from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import Settings

# Settings that say how an engine uses its cards. With one of them, the plan adds no parallel flag.
STATING = (
    options.TENSOR,
    options.PIPELINE,
    options.DATA,
    options.DATA_LOCAL,
    options.DATA_RANK,
    options.PREFILL_RANKS,
    options.NODES,
    options.NODE_RANK,
    options.FIRST_CARD,
    options.CARD_STEP,
)
# Sizes that must be at least 1. The local data parallel size may be 0, on a host that only serves vLLM's API.
SIZES = (
    options.TENSOR,
    options.PIPELINE,
    options.DATA,
    options.PREFILL_RANKS,
    options.CONTEXT_RANKS,
    options.NODES,
    options.ATTENTION_DATA,
    options.ATTENTION_CONTEXT,
    options.EXPERT_DATA,
)
# SGLang's sizes that lie inside the tensor ranks, so that together they must divide them.
INSIDE_TENSOR = ((options.ATTENTION_DATA, options.ATTENTION_CONTEXT), (options.EXPERT_DATA,))


@dataclass(frozen=True)
class Parallelism:
    """The parallel sizes of a serve. data: copies of the model on this host. attention_data: groups of tensor ranks with their
    own attention. experts: ranks that divide the routed experts, on all hosts; 0 where they are divided like the other layers.
    whole: of these ranks, how many hold experts of their own, so that an expert is cut into experts / whole slices.

    cards: how many cards the engine takes on this host; None where the arguments do not say it. arithmetic: such as
    ``tensor 2 x pipeline 2 = 4``. problem: sizes that the engine refuses; empty if there are none.
    """

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    prefill: int = 1
    context: int = 1
    attention_data: int = 1
    experts: int = 0
    whole: int = 1
    cards: Optional[int] = 1
    arithmetic: str = ""
    problem: str = ""


def _size(settings: Settings, name: str) -> int:
    return settings.count(name) or 1


def _find_problem(settings: Settings, tensor: int, data: int, context: int, prefill: int) -> str:
    for name in SIZES:
        if settings.number(name) is not None and not settings.count(name):
            return "{0} is {1}; it must be at least 1".format(settings.spelling(name), settings.text(name))
    if context > 1 and prefill == 1 and tensor % context:
        return "{0} {1} does not divide {2} {3}".format(
            settings.spelling(options.CONTEXT_RANKS), context, settings.spelling(options.TENSOR), tensor
        )
    if settings.engine == "sglang":
        return _find_problem_inside(settings, tensor, data)
    return ""


def _find_problem_inside(settings: Settings, tensor: int, data: int) -> str:
    """What SGLang refuses of the sizes that lie inside its tensor ranks."""
    spelled = settings.spelling(options.TENSOR)
    attention = _size(settings, options.ATTENTION_DATA)
    if settings.is_on(options.DATA_ATTENTION) and attention == 1 and tensor % data:
        return "with {0}, {1} {2} must divide {3} {4}".format(
            settings.spelling(options.DATA_ATTENTION), settings.spelling(options.DATA), data, spelled, tensor
        )
    if attention > 1 and data > 1 and not settings.is_on(options.DATA_ATTENTION):
        return "{0} {1} and {2} {3} exclude each other".format(
            settings.spelling(options.DATA), data, settings.spelling(options.ATTENTION_DATA), attention
        )
    for names in INSIDE_TENSOR:
        given = [name for name in names if _size(settings, name) > 1]
        product = math.prod(_size(settings, name) for name in given)
        if product > 1 and tensor % product:
            return "{0} does not divide {1} {2}".format(
                " x ".join("{0} {1}".format(settings.spelling(name), settings.text(name)) for name in given), spelled, tensor
            )
    return ""


def states_parallelism(settings: Settings) -> bool:
    """Whether the arguments say how the engine uses its cards, or may say it in a file that was not read."""
    return settings.has(*STATING) or settings.has_unread_file


def read_parallelism(settings: Settings) -> Parallelism:
    """How vllm, sglang or trtllm uses its cards. llama.cpp has no parallel sizes: it splits by memory."""
    tensor, pipeline = _size(settings, options.TENSOR), _size(settings, options.PIPELINE)
    data, prefill = _size(settings, options.DATA), _size(settings, options.PREFILL_RANKS)
    context, nodes = _size(settings, options.CONTEXT_RANKS), _size(settings, options.NODES)
    problem = _find_problem(settings, tensor, data, context, prefill)
    # vLLM: tensor x data ranks divide experts, as whole experts or each of them in slices (its page "Data Parallel Deployment").
    # SGLang and TensorRT-LLM: the tensor ranks, which divide the other layers too.
    experts = tensor * prefill * data if settings.engine == "vllm" else 0
    if settings.engine == "sglang":
        whole = math.gcd(settings.count(options.EXPERT) or 1, tensor)
    else:
        whole = experts if experts and settings.is_on(options.EXPERT) else 1
    attention_data = 1
    if settings.engine == "sglang" and settings.is_on(options.DATA_ATTENTION):
        attention_data, data = max(data, _size(settings, options.ATTENTION_DATA)), 1
    elif settings.engine == "sglang":
        attention_data = _size(settings, options.ATTENTION_DATA)
    elif settings.engine == "trtllm" and settings.is_on(options.DATA_ATTENTION):
        attention_data = tensor
    if settings.has(options.DATA_RANK):
        data = 1
    elif settings.count(options.DATA_LOCAL):
        data = _size(settings, options.DATA_LOCAL)
    terms: List[Tuple[str, int]] = [("tensor", tensor), ("pipeline", pipeline), ("context", prefill), ("data", data)]
    cards: Optional[int] = tensor * pipeline * prefill * data
    arithmetic = "{0} = {1}".format(" x ".join("{0} {1}".format(*term) for term in terms if term[1] > 1) or "tensor 1", cards)
    launched = settings.text(options.EXECUTOR) in ("ray", "external_launcher") or settings.text(options.DATA_BACKEND) == "ray"
    if nodes > 1 or launched or settings.count(options.DATA_LOCAL) == 0 or settings.has(options.NODE_RANK):
        cards = None
    elif cards is not None and settings.has(options.FIRST_CARD, options.CARD_STEP):
        first, step = settings.count(options.FIRST_CARD) or 0, _size(settings, options.CARD_STEP)
        arithmetic += ", from card {0} in steps of {1}".format(first, step)
        cards = first + step * (cards - 1) + 1
    return Parallelism(tensor, pipeline, data, prefill, context, attention_data, experts, whole, cards, arithmetic, problem)
