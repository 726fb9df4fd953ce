# SPDX-License-Identifier: GPL-3.0-or-later
"""Check whether each model fits its engine and its cards: every finding with its verdict, before a download or start. Pure.

The quantisation of the weights themselves counts, not the one that a name or a flag claims. Only what is certain is impossible;
the engine itself is still there to refuse what is doubtful.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Collection, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog import engine_options as options
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import CUSTOM
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin, judge_origin
from ansible_collections.anvil.serving.plugins.module_utils.catalog.source_policy import Judged, judge_sources
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.core.findings import (
    DOUBTFUL,
    IMPOSSIBLE,
    UNKNOWN,
    Finding,
    doubtful,
    impossible,
    unknown,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.candidate import Candidate
from ansible_collections.anvil.serving.plugins.module_utils.weights.card_compatibility import judge_card, judge_float16
from ansible_collections.anvil.serving.plugins.module_utils.weights.card_facts import CardFacts
from ansible_collections.anvil.serving.plugins.module_utils.weights.format_compatibility import judge_format, judge_kind
from ansible_collections.anvil.serving.plugins.module_utils.weights.memory_compatibility import judge_memory, read_share
from ansible_collections.anvil.serving.plugins.module_utils.weights.parallel_compatibility import judge_parallelism
from ansible_collections.anvil.serving.plugins.module_utils.weights.tensorrt_compatibility import judge_tensorrt

# All serves on a card together should not take more than this: 0.90 for one serve, or 0.70 + 0.20 for a chat and a tool model.
SHARE_LIMIT = 0.90
HARD_LIMIT = 1.0


@dataclass(frozen=True)
class Report:
    """rows: the facts of each serve, for the operator."""

    findings: Tuple[Finding, ...]
    rows: Mapping[str, Mapping[str, Any]]

    @property
    def problems(self) -> Tuple[Problem, ...]:
        """What is impossible."""
        return tuple(finding.problem for finding in self.findings if finding.verdict == IMPOSSIBLE)

    @property
    def warnings(self) -> Tuple[Problem, ...]:
        """What is doubtful."""
        return tuple(finding.problem for finding in self.findings if finding.verdict == DOUBTFUL)

    @property
    def notes(self) -> Tuple[str, ...]:
        """What could not be judged, and other facts that are good to know."""
        return tuple(finding.as_text() for finding in self.findings if finding.verdict == UNKNOWN)


def _judge_shares(candidates: Sequence[Candidate], cards: Mapping[str, CardFacts]) -> List[Finding]:
    """The shares of all serves on a card should not exceed the card."""
    found: List[Finding] = []
    told = set()
    for uuid, card in cards.items():
        shares = [(one, read_share(one)) for one in candidates if uuid in one.cards]
        known = [(one, share) for one, share in shares if share is not None]
        for one, share in known:
            if not 0 < share <= 1 and one.serve not in told:
                told.add(one.serve)
                spelling = one.settings.spelling(options.SHARE)
                found.append(
                    impossible(
                        what="the share of the card's memory is not valid",
                        where="serve " + one.serve,
                        why="{0} is {1:g}".format(spelling, share),
                        hint="set {0} above 0 and up to 1, such as 0.90".format(spelling.partition(" ")[0]),
                    )
                )
        total = round(sum(share for _one, share in known), 4)
        terms = " + ".join("{0} {1:.2f}".format(one.serve, share) for one, share in known)
        where = "GPU " + card.describe()
        if total > HARD_LIMIT or (len(known) > 1 and total > SHARE_LIMIT):
            found.append(
                doubtful(
                    what="the serves take too much of the card's memory",
                    where=where,
                    why="{0} = {1:.2f}; at most {2:.2f} should be taken".format(terms, total, SHARE_LIMIT),
                    hint="set --gpu-memory-utilization to 0.90 for one serve; to 0.70 and 0.20 for a chat and a tool model",
                )
            )
        elif total > SHARE_LIMIT:
            found.append(unknown("{0} leaves little memory for CUDA contexts and the desktop".format(terms), where))
    return found


def _judge_policy(candidate: Candidate, allowed: Optional[Sequence[Origin]]) -> List[Finding]:
    """What the policy refuses besides the origin of the model itself."""
    if allowed is None:
        return []
    where, facts = "serve " + candidate.serve, candidate.facts
    judged = Judged(
        candidate.engine,
        candidate.model,
        candidate.args,
        candidate.environment,
        candidate.entrypoint,
        candidate.targets,
        candidate.secrets,
        candidate.origin,
        candidate.config,
        read_files=True,
    )
    found = [impossible(one.what, where, one.why, one.hint) for one in judge_sources(judged, allowed)]
    if facts is not None and facts.format == "pytorch":
        why = "the weights are pickles (.bin, .pt), and anvil_models_allowed is set"
        hint = "use a commit of the model with weights in the format safetensors"
        found.append(impossible("the weights can run code when they are loaded", where, why, hint))
    return found


def _judge_candidate(
    candidate: Candidate, cards: Mapping[str, CardFacts], allowed: Optional[Sequence[Origin]], cuda: Optional[str]
) -> Tuple[List[Finding], Dict[str, Any]]:
    """The findings about one serve, and its row."""
    where, facts = "serve " + candidate.serve, candidate.facts
    found: List[Finding] = [unknown(note, where) for note in candidate.settings.notes]
    refused = judge_origin(where, candidate.origin, allowed)
    found += [Finding(IMPOSSIBLE, refused)] if refused else []
    found += _judge_policy(candidate, allowed)
    mine = [cards[uuid] for uuid in candidate.cards if uuid in cards]
    hint = "correct the uuid in anvil_gpus: nvidia-smi -L on the host lists the UUIDs"
    found += [
        impossible("GPU {0} is not on this host".format(uuid), where, hint=hint) for uuid in candidate.cards if uuid not in cards
    ]
    row: Dict[str, Any] = {"engine": candidate.engine, "model": candidate.model, "gpus": [card.describe() for card in mine]}
    device = (candidate.settings.text(options.DEVICE) or "").lower()
    on_cpu = device == "cpu" and candidate.engine != "llama_cpp"
    if on_cpu:
        flag = candidate.settings.spelling(options.DEVICE)
        found.append(unknown("{0} cpu: the engine does not use its cards, so they were not judged".format(flag), where))
    else:
        found += judge_parallelism(candidate)
    if candidate.engine == CUSTOM:
        found.append(unknown("what a server with engine custom loads, and how much memory it takes, is not known", where))
        return found, row
    if facts is None:
        found.append(unknown("the weights are not on this host, so quantisation and memory were not judged", where))
        return found, row
    row.update(format=facts.format, quantisation=facts.quantisation, parameters=facts.parameters)
    found += [unknown(note, where) for note in facts.notes]
    found += judge_format(candidate, facts)
    found += judge_kind(candidate, facts)
    if on_cpu:
        return found, row
    found += judge_float16(candidate, facts)
    if facts.format == "trtllm":
        found += judge_tensorrt(candidate, facts, mine, cuda)
    else:
        for card in mine:
            found += judge_card(candidate, facts, card)
    if mine:
        more, row["vram"] = judge_memory(candidate, facts, mine)
        found += more
    return found, row


def judge_candidates(
    candidates: Sequence[Candidate],
    cards: Sequence[CardFacts],
    allowed: Optional[Sequence[Origin]] = None,
    cuda: Optional[str] = None,
    only: Optional[Collection[str]] = None,
) -> Report:
    """Every finding about all serves and cards at once.

    allowed: None allows every model. cuda: the CUDA of the host's driver, such as 13.0. only: the serves that are judged; the
    others only count with their shares of the cards.
    """
    by_uuid = {card.uuid: card for card in cards}
    found: List[Finding] = []
    rows: Dict[str, Dict[str, Any]] = {}
    for candidate in candidates:
        if only is None or candidate.serve in only:
            more, rows[candidate.serve] = _judge_candidate(candidate, by_uuid, allowed, cuda)
            found += more
    return Report(tuple(dict.fromkeys(found + _judge_shares(candidates, by_uuid))), rows)
