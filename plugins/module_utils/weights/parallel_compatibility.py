# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the parallel sizes of a serve use exactly its cards, and divide what they share. Pure."""

from __future__ import annotations

from typing import Iterator, List

from ansible_collections.anvil.serving.plugins.module_utils.catalog import engine_options as options
from ansible_collections.anvil.serving.plugins.module_utils.catalog.parallelism import Parallelism, read_parallelism
from ansible_collections.anvil.serving.plugins.module_utils.core.findings import Finding, doubtful, impossible, unknown
from ansible_collections.anvil.serving.plugins.module_utils.weights.candidate import Candidate

MOST_RANKS = 64  # that a hint proposes
PARALLEL_ENGINES = ("vllm", "sglang", "trtllm")


def judge_parallelism(candidate: Candidate) -> List[Finding]:
    """llama.cpp splits a model by itself. A TensorRT-LLM engine was built for a number of cards."""
    facts = candidate.facts
    if not candidate.cards or (facts is not None and facts.format == "trtllm"):
        return []
    if candidate.engine == "llama_cpp":
        return list(_judge_split_mode(candidate))
    if candidate.engine not in PARALLEL_ENGINES:
        return []
    parallelism = read_parallelism(candidate.settings)
    return [*_judge_number(candidate, parallelism), *_judge_divisors(candidate, parallelism)]


def _judge_number(candidate: Candidate, parallelism: Parallelism) -> Iterator[Finding]:
    where, cards, settings = "serve " + candidate.serve, len(candidate.cards), candidate.settings
    tensor = settings.spelling(options.TENSOR)
    if parallelism.problem:
        yield impossible("the engine refuses its parallel sizes", where, parallelism.problem, "correct the flag")
    elif parallelism.cards is None:
        yield unknown("the engine may use cards of other hosts, so its parallel sizes were not judged", where)
    elif settings.has_unread_file and not settings.has(options.TENSOR):
        yield unknown("how the engine uses the {0} cards may be in its configuration file".format(cards), where)
    elif parallelism.cards != cards:
        yield impossible(
            what="the parallel sizes do not make the number of cards",
            where=where,
            why="{0}; the serve is pinned to {1}".format(
                parallelism.arithmetic, "1 card" if cards == 1 else "{0} cards".format(cards)
            ),
            hint="set {0} {1}, or pin the serve to {2}".format(
                tensor, cards, "1 card" if parallelism.cards == 1 else "{0} cards".format(parallelism.cards)
            ),
        )


def _judge_divisors(candidate: Candidate, parallelism: Parallelism) -> Iterator[Finding]:
    where, facts, settings = "serve " + candidate.serve, candidate.facts, candidate.settings
    ranks = parallelism.tensor // max(1, parallelism.attention_data)
    if facts is None or parallelism.problem:
        return
    if facts.heads and ranks > 1 and facts.heads % ranks:
        fits = [str(count) for count in range(1, min(ranks, MOST_RANKS) + 1) if facts.heads % count == 0]
        yield impossible(
            what="the attention heads cannot be divided over the cards",
            where=where,
            why="{0} heads / {1} cards of {2}".format(facts.heads, ranks, settings.spelling(options.TENSOR)),
            hint="set {0} to {1}, and use further cards with {2}".format(
                settings.spelling(options.TENSOR), " or ".join(fits), settings.spelling(options.PIPELINE)
            ),
        )
    heads = facts.kv_heads or 0
    if heads > 1 and ranks > 1 and heads % ranks and ranks % heads:
        yield doubtful(
            what="the KV heads can be neither divided over the cards nor copied to them evenly",
            where=where,
            why="{0} KV heads, {1} {2}".format(heads, settings.spelling(options.TENSOR), ranks),
            hint="choose a size that divides {0} or is a multiple of it".format(heads),
        )
    slices = (parallelism.experts or parallelism.tensor) // parallelism.whole if facts.experts else parallelism.tensor
    if facts.block and facts.width and slices > 1 and candidate.engine in ("vllm", "sglang"):
        each = facts.width // slices
        if facts.width % slices or each % facts.block:
            expert = settings.spelling(options.EXPERT)
            yield doubtful(
                what="the fp8 blocks of the weights cannot be divided over the cards",
                where=where,
                why="a width of {0} in {1} slices is {2:g}, which {3} does not divide".format(
                    facts.width, slices, facts.width / slices, facts.block
                ),
                hint=("add {0}, or set a smaller {1}" if facts.experts else "set a smaller {1}").format(
                    expert if candidate.engine == "vllm" else expert + " {0}".format(parallelism.tensor),
                    settings.spelling(options.TENSOR),
                ),
            )
    if facts.layers and parallelism.pipeline > facts.layers:
        yield impossible(
            what="there are more pipeline stages than layers",
            where=where,
            why="{0} {1}; the model has {2} layers".format(
                settings.spelling(options.PIPELINE), parallelism.pipeline, facts.layers
            ),
            hint="set {0} to at most {1}".format(settings.spelling(options.PIPELINE), facts.layers),
        )


def _judge_split_mode(candidate: Candidate) -> Iterator[Finding]:
    settings, cards = candidate.settings, len(candidate.cards)
    if (settings.text(options.SPLIT_MODE) or "layer").lower() != "none" or settings.has(options.DEVICES, options.RPC):
        return
    where, main = "serve " + candidate.serve, settings.count(options.MAIN_CARD) or 0
    flag = "{0} none".format(settings.spelling(options.SPLIT_MODE))
    if main >= cards:
        yield impossible(
            what="the main card does not exist",
            where=where,
            why="{0} {1}; the serve has cards 0 to {2}".format(settings.spelling(options.MAIN_CARD), main, cards - 1),
            hint="set it to at most {0}".format(cards - 1),
        )
    elif cards > 1:
        yield doubtful(
            what="only one of the {0} cards is used".format(cards),
            where=where,
            why="{0} puts the whole model on card {1}".format(flag, main),
            hint="remove {0}, or pin the serve to one card".format(flag),
        )
