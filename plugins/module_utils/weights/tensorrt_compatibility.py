# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a TensorRT-LLM engine runs on the cards of its serve: architecture, CUDA and number of cards. Pure."""

from __future__ import annotations

from typing import Iterator, List, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.findings import Finding, doubtful, impossible, unknown
from ansible_collections.anvil.serving.plugins.module_utils.weights.candidate import Candidate
from ansible_collections.anvil.serving.plugins.module_utils.weights.card_facts import CardFacts
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import TRT_LABEL, ModelFacts


def judge_tensorrt(candidate: Candidate, facts: ModelFacts, cards: Sequence[CardFacts], cuda: Optional[str]) -> List[Finding]:
    found = [finding for card in cards for finding in _judge_architecture(candidate, facts, card)]
    return [*found, *_judge_cuda(candidate, facts, cuda), *_judge_number(candidate, facts)]


def _judge_architecture(candidate: Candidate, facts: ModelFacts, card: CardFacts) -> Iterator[Finding]:
    where, trt = "serve " + candidate.serve, facts.trt or {}
    if trt.get("sm") is None:
        yield unknown(
            "it is unknown which card the TensorRT-LLM engine was built for",
            where,
            "the name of {0} does not match {1}".format(facts.path, TRT_LABEL.pattern),
        )
    elif card.sm is None:
        yield unknown(
            "the architecture of {0} is not known, so the TensorRT-LLM engine was not judged".format(card.describe()), where
        )
    elif trt["sm"] != card.sm:
        yield impossible(
            what="the TensorRT-LLM engine was built for another card",
            where=where,
            why="{0} is for sm_{1}; the card is {2}".format(trt["label"], trt["sm"], card.describe()),
            hint="build it on this card, or choose one that was built for sm_{0}".format(card.sm),
        )


def _judge_cuda(candidate: Candidate, facts: ModelFacts, cuda: Optional[str]) -> Iterator[Finding]:
    """The CUDA in the label should be the host's: the engine holds code that was compiled for that release."""
    where, trt = "serve " + candidate.serve, facts.trt or {}
    built = trt.get("cuda")
    if built is None:
        return
    if cuda is None:
        yield unknown("the CUDA of the host is not known, so the CUDA of the TensorRT-LLM engine was not judged", where)
    elif built.split(".")[:2] != cuda.split(".")[:2]:
        yield doubtful(
            what="the TensorRT-LLM engine was built for another CUDA",
            where=where,
            why="{0} is for CUDA {1}; the driver of the host runs {2}".format(trt["label"], built, cuda),
            hint="build it with CUDA {0}, or choose one that was built with it".format(cuda),
        )


def _judge_number(candidate: Candidate, facts: ModelFacts) -> Iterator[Finding]:
    world, cards = (facts.trt or {}).get("world_size"), len(candidate.cards)
    if world and cards and world != cards:
        yield impossible(
            what="the TensorRT-LLM engine was built for another number of cards",
            where="serve " + candidate.serve,
            why="it was built for {0} cards; the serve is pinned to {1}".format(world, cards),
            hint="pin the serve to {0} cards, or choose an engine that was built for {1}".format(world, cards),
        )
