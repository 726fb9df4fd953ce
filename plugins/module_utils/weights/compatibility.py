# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Does each model fit its engine and its cards? Every reason why not, before anything is downloaded or started. Pure.

The quantisation counts that the weights have, not the one that a name or a flag claims. What is unknown (a card that the
table does not have, weights that are not here yet) is a note, never a verdict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Collection, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import read_flag, read_token_flag
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin, judge_origin
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.weights.memory_estimate import estimate_vram
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import TRT_LABEL, ModelFacts

# Which formats an engine loads. vLLM's own GGUF loader is experimental and slow: gguf means llama.cpp here.
# TensorRT-LLM serves its own engines, and through PyTorch (its default since 1.0) what the others do.
FORMATS = {"vllm": ("safetensors",), "sglang": ("safetensors",), "llama_cpp": ("gguf",), "trtllm": ("trtllm", "safetensors")}

# What a card must be able to do for weights of a quantisation to run as they are meant to.
NEEDS = {"nvfp4": "nvfp4", "fp8": "fp8", "mxfp4": "mxfp4", "bf16": "bf16", "int8": "int8"}
SINCE = {
    "nvfp4": "Blackwell (sm_100 and later)",
    "mxfp4": "Blackwell (sm_100 and later)",
    "fp8": "sm_89",
    "bf16": "sm_80",
    "int8": "sm_75",
}

# --quantization flag -> quantisations of weights it is for. Flags that quantise while loading take plain weights too.
PLAIN = frozenset(("f32", "f16", "bf16"))
FLAGS: Mapping[str, FrozenSet[str]] = {
    "modelopt_fp4": frozenset(("nvfp4",)),
    "modelopt": frozenset(("fp8",)),
    "fp8": PLAIN | {"fp8"},
    "awq": frozenset(("awq",)),
    "awq_marlin": frozenset(("awq",)),
    "gptq": frozenset(("gptq",)),
    "gptq_marlin": frozenset(("gptq",)),
    "mxfp4": PLAIN | {"mxfp4"},
    "bitsandbytes": PLAIN | {"bnb-4bit", "bnb-8bit"},
}

# vLLM takes this share of a card when it is not told. 0.90 is also what a card should give away in all:
# alone 0.90, a chat and a tool model together 0.70 + 0.20.
VLLM_SHARE = 0.90
SHARE_LIMIT = 0.90
HARD_LIMIT = 1.0


@dataclass(frozen=True)
class CardFacts:
    """A card. sm: such as 120; can and emulated: types its tensor cores take, or whose weights are read all the same;
    None where the capability table does not have it.
    """

    uuid: str
    name: str = ""
    sm: Optional[int] = None
    vram_mib: Optional[int] = None
    can: Optional[FrozenSet[str]] = None
    emulated: FrozenSet[str] = frozenset()

    def describe(self) -> str:
        return "{0} ({1}, {2})".format(self.uuid, self.name or "?", "sm_{0}".format(self.sm) if self.sm else "unknown sm")


@dataclass(frozen=True)
class Candidate:
    """A serve about to be started. claim_mib: what its inventory claims on each card.

    origin: where its weights come from, facts: what they hold; None where that is not known.
    """

    serve: str
    engine: str
    model: str
    origin: Optional[Origin] = None
    cards: Tuple[str, ...] = ()
    args: Tuple[str, ...] = ()
    claim_mib: int = 0
    facts: Optional[ModelFacts] = None


@dataclass(frozen=True)
class Report:
    """problems: why the serves may not start; notes: what could not be judged; rows: one line of facts per serve."""

    problems: Tuple[Problem, ...]
    notes: Tuple[str, ...]
    rows: Mapping[str, Mapping[str, Any]]


def _number(word: Optional[str]) -> Optional[float]:
    try:
        return float(word) if word is not None else None
    except ValueError:
        return None


def _share(candidate: Candidate) -> Optional[float]:
    """The share of each card that the engine will take, where it is a share at all."""
    told = _number(read_flag(candidate.args, "--gpu-memory-utilization", "--mem-fraction-static"))
    return VLLM_SHARE if told is None and candidate.engine == "vllm" else told


def _judge_format(candidate: Candidate, facts: ModelFacts) -> List[Problem]:
    where, found = "serve " + candidate.serve, []
    wanted = FORMATS.get(candidate.engine)
    if wanted is not None and facts.format not in wanted:
        right = [engine for engine, forms in FORMATS.items() if facts.format in forms]
        found.append(
            Problem(
                what="{0} does not serve {1} weights".format(candidate.engine, facts.format),
                where=where,
                why="{0} is {1}".format(facts.path, facts.format),
                hint="use engine {0}, or weights in {1} format".format(" or ".join(right), " or ".join(wanted)),
            )
        )
    if facts.kind in ("mmproj", "adapter", "vocab", "imatrix"):
        found.append(Problem(what="this is no model but its {0}".format(facts.kind), where=where, why=facts.path))
    if facts.missing:
        why = ", ".join(facts.missing[:8])
        found.append(
            Problem(what="files of the model are missing", where=where, why=why, hint="fetch them: anvil_model, state: present")
        )
    flag = read_flag(candidate.args, "--quantization", "-q") if facts.format == "safetensors" else None
    if flag in FLAGS and facts.quantisation and facts.quantisation not in FLAGS[flag or ""]:
        found.append(
            Problem(
                what="--quantization {0} does not suit the weights".format(flag),
                where=where,
                why="they are {0}".format(facts.quantisation),
                hint="leave the flag out, or choose weights that are what their name promises",
            )
        )
    asked = read_token_flag(candidate.args, "--max-model-len", "--context-length", "--max-seq-len")
    if asked and facts.context_length and asked > facts.context_length:
        found.append(
            Problem(
                what="the context asked for is longer than the model's",
                where=where,
                why="{0} tokens asked, {1} made for".format(asked, facts.context_length),
                hint="ask for at most {0}".format(facts.context_length),
            )
        )
    return found


def _judge_card(candidate: Candidate, facts: ModelFacts, card: CardFacts) -> Tuple[List[Problem], List[str]]:
    where = "serve " + candidate.serve
    if facts.format == "trtllm":
        return _judge_trt(candidate, facts, card)
    need = NEEDS.get(facts.quantisation or "") if facts.format == "safetensors" else None
    if need is None:
        return [], []
    if card.can is None:
        return [], ["{0}: what {1} can run is not known, so {2} was not judged".format(where, card.describe(), need)]
    if need in card.can:
        return [], []
    if need == "mxfp4" and need in card.emulated:
        return [], ["{0}: {1} reads mxfp4 weights and computes in 16 bits".format(where, card.describe())]
    return [
        Problem(
            what="{0} weights do not run on this card".format(need),
            where=where,
            why="{0}; {1} needs {2}".format(card.describe(), need, SINCE[need]),
            hint="choose weights of another quantisation, or pin the serve to another card",
        )
    ], []


def _judge_trt(candidate: Candidate, facts: ModelFacts, card: CardFacts) -> Tuple[List[Problem], List[str]]:
    where, trt = "serve " + candidate.serve, facts.trt or {}
    if trt.get("sm") is None:
        problem = Problem(
            what="the engine's folder does not say which card it was built for",
            where=where,
            why="{0} does not match {1}".format(facts.path, TRT_LABEL.pattern),
            hint="name it such as sm90_trt-llm-0.17.0_cuda12.8",
        )
        return [problem], []
    if card.sm is None:
        return [], ["{0}: the architecture of {1} is not known, so the engine was not judged".format(where, card.describe())]
    if trt["sm"] != card.sm:
        problem = Problem(
            what="the engine was built for another card",
            where=where,
            why="{0} is for sm_{1}, {2}".format(trt["label"], trt["sm"], card.describe()),
            hint="build the engine on this card, or choose one built for sm_{0}".format(card.sm),
        )
        return [problem], []
    return [], []


def _judge_trt_cuda(candidate: Candidate, facts: ModelFacts, cuda: Optional[str]) -> Tuple[List[Problem], List[str]]:
    """The CUDA in an engine's label must be the host's: the engine holds code compiled and tuned for that release."""
    where, trt = "serve " + candidate.serve, facts.trt or {}
    built = trt.get("cuda")
    if built is None:
        return [], []  # without a label, the missing sm is said already
    if cuda is None:
        return [], ["{0}: the CUDA of the host is not known, so that of the engine was not judged".format(where)]
    if built.split(".")[:2] == cuda.split(".")[:2]:
        return [], []
    problem = Problem(
        what="the engine was built for another CUDA",
        where=where,
        why="{0} is for CUDA {1}, and the host's driver runs {2}".format(trt["label"], built, cuda),
        hint="build the engine with CUDA {0}, or choose one built for it".format(cuda),
    )
    return [problem], []


def _judge_memory(candidate: Candidate, facts: ModelFacts, cards: Sequence[CardFacts]) -> Tuple[List[Problem], Dict[str, Any]]:
    context = read_token_flag(candidate.args, "--max-model-len", "--context-length", "--max-seq-len", "-c", "--ctx-size")
    dtype = read_flag(candidate.args, "--kv-cache-dtype", "--cache-type-k", "-ctk") or "auto"
    try:
        # One request of the full context is what an engine must hold to start; llama.cpp's -c is for all slots together.
        estimate = estimate_vram(facts, context or None, 1, dtype, max(1, len(cards)))
    except AnvilError as exc:
        return list(exc.problems), {}
    found = []
    share = _share(candidate)
    for card in cards:
        if card.vram_mib is None:
            continue
        limit = int(card.vram_mib * (share if share is not None else 1.0))
        told = "{0:,} MiB x {1:g}".format(card.vram_mib, share) if share is not None else "{0:,} MiB".format(card.vram_mib)
        if candidate.claim_mib and candidate.claim_mib < limit:
            limit, told = candidate.claim_mib, "claimed: vram_mib"
        if estimate.total_mib > limit:
            found.append(
                Problem(
                    what="the model does not fit its share of the card",
                    where="serve " + candidate.serve,
                    why="it needs {0:,} MiB of {1:,} ({2}) on {3}\n{4}".format(
                        estimate.total_mib, limit, told, card.describe(), "\n".join(estimate.arithmetic)
                    ),
                    hint="a shorter context, a smaller KV type, another quantisation, more cards, or a larger share",
                )
            )
    return found, estimate.as_dict()


def _judge_shares(candidates: Sequence[Candidate], cards: Mapping[str, CardFacts]) -> Tuple[List[Problem], List[str]]:
    """The shares of all serves on one card must add up."""
    problems, notes = [], []
    for uuid, card in cards.items():
        shares = [(c.serve, _share(c)) for c in candidates if uuid in c.cards]
        known = [(serve, share) for serve, share in shares if share is not None]
        total = round(sum(share for _serve, share in known), 4)
        told = " + ".join("{0} {1:.2f}".format(serve, share) for serve, share in known)
        for serve, share in known:
            if not 0 < share <= 1:
                problems.append(Problem(what="not a share of a card", where="serve " + serve, why="{0:g}".format(share)))
        if total > HARD_LIMIT or (len(known) > 1 and total > SHARE_LIMIT):
            problems.append(
                Problem(
                    what="the shares of the card's memory do not add up",
                    where="GPU " + card.describe(),
                    why="{0} = {1:.2f}, and {2:.2f} may be given away".format(told, total, SHARE_LIMIT),
                    hint="alone 0.90; a chat and a tool model together 0.70 and 0.20 (--gpu-memory-utilization)",
                )
            )
        elif total > SHARE_LIMIT:
            notes.append("GPU {0}: {1} leaves little for CUDA contexts and the desktop".format(card.describe(), told))
    return problems, notes


# What leaves a part of the model in the host's memory, so that the card needs less than all of it.
OFFLOADS = ("--cpu-moe", "-cmoe", "--n-cpu-moe", "-ncmoe", "--override-tensor", "-ot", "--cpu-offload-gb", "--fit")


def _stays_outside(candidate: Candidate, facts: ModelFacts) -> bool:
    """Whether the arguments keep a part of the weights off the cards: how much then fits is for the engine to say."""
    layers = _number(read_flag(candidate.args, "--n-gpu-layers", "--gpu-layers", "-ngl"))
    some = candidate.engine == "llama_cpp" and layers is not None and layers < (facts.layers or 0)
    return some or any(word.partition("=")[0] in OFFLOADS for word in candidate.args)


def judge(
    candidates: Sequence[Candidate],
    cards: Sequence[CardFacts],
    allowed: Optional[Sequence[Origin]] = None,
    cuda: Optional[str] = None,
    only: Optional[Collection[str]] = None,
) -> Report:
    """Every reason why a serve may not start, of all serves and cards at once.

    allowed: None allows every model. cuda: the CUDA of the host's driver, such as 13.0. only: the serves that are judged; the
    shares of the others count all the same.
    """
    problems: List[Problem] = []
    notes: List[str] = []
    rows: Dict[str, Dict[str, Any]] = {}
    by_uuid = {card.uuid: card for card in cards}
    for candidate in candidates:
        if only is not None and candidate.serve not in only:
            continue
        where, facts = "serve " + candidate.serve, candidate.facts
        refused = judge_origin(where, candidate.origin, allowed)
        problems += [refused] if refused else []
        mine = [by_uuid[uuid] for uuid in candidate.cards if uuid in by_uuid]
        problems += [
            Problem(what="GPU {0} is not on this host".format(uuid), where=where, hint="correct the uuid in anvil_gpus")
            for uuid in candidate.cards
            if uuid not in by_uuid
        ]
        row: Dict[str, Any] = {"engine": candidate.engine, "model": candidate.model, "gpus": [card.describe() for card in mine]}
        rows[candidate.serve] = row
        if facts is None:
            notes.append("{0}: the weights are not on this host, so quantisation and memory were not judged".format(where))
            continue
        row.update(format=facts.format, quantisation=facts.quantisation, parameters=facts.parameters)
        notes += ["{0}: {1}".format(where, note) for note in facts.notes]
        problems += _judge_format(candidate, facts)
        for card in mine:
            more, said = _judge_card(candidate, facts, card)
            problems += more
            notes += said
        if facts.format == "trtllm":
            more, said = _judge_trt_cuda(candidate, facts, cuda)
            problems += more
            notes += said
        world = (facts.trt or {}).get("world_size")
        if world and candidate.cards and world != len(candidate.cards):
            why = "it was built for {0} cards and is pinned to {1}".format(world, len(candidate.cards))
            problems.append(Problem(what="the engine wants another number of cards", where=where, why=why))
        if mine and _stays_outside(candidate, facts):
            notes.append("{0}: a part of the model stays in the host's memory, so memory was not judged".format(where))
        elif mine:
            more, row["vram"] = _judge_memory(candidate, facts, mine)
            problems += more
    more, said = _judge_shares(candidates, by_uuid)
    return Report(tuple(problems + more), tuple(notes + said), rows)
