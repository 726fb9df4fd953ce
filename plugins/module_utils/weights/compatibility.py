# SPDX-License-Identifier: GPL-3.0-or-later
"""Check whether each model fits its engine and its cards: every reason against it, before a download or start. Pure.

The quantisation of the weights themselves counts, not the one that a name or a flag claims. What is unknown (a card that the
table does not have, weights that are not here yet) is a note, never a reason to refuse.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Collection, Dict, FrozenSet, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog import engine_options as options
from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import Settings, read_settings
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin, judge_origin
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.weights.card_facts import CardFacts
from ansible_collections.anvil.serving.plugins.module_utils.weights.memory_estimate import Loading, Split, estimate_vram
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import TRT_LABEL, ModelFacts

# Which formats an engine loads. vLLM's own GGUF loader is experimental and slow: here gguf is for llama.cpp only.
# TensorRT-LLM loads its own engines and, through PyTorch (its default since 1.0), safetensors.
FORMATS = {"vllm": ("safetensors",), "sglang": ("safetensors",), "llama_cpp": ("gguf",), "trtllm": ("trtllm", "safetensors")}

# Quantisation of safetensors weights -> the type that a card must support to run them.
NEEDED_TYPES = {"nvfp4": "nvfp4", "fp8": "fp8", "mxfp4": "mxfp4", "bf16": "bf16", "int8": "int8"}
# The first cards that support a type.
SUPPORTED_SINCE = {
    "nvfp4": "Blackwell (sm_100 and later)",
    "mxfp4": "Blackwell (sm_100 and later)",
    "fp8": "sm_89",
    "bf16": "sm_80",
    "int8": "sm_75",
}

# Value of --quantization -> quantisations of weights that it is for. Those that quantise while loading take plain weights too.
PLAIN = frozenset(("f32", "f16", "bf16"))
QUANTIZATION_FLAGS: Mapping[str, FrozenSet[str]] = {
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

# vLLM's default for --gpu-memory-utilization. All serves on a card together should not take more either: 0.90 for one serve, or
# 0.70 + 0.20 for a chat and a tool model.
VLLM_SHARE = 0.90
SHARE_LIMIT = 0.90
HARD_LIMIT = 1.0


@dataclass(frozen=True)
class Candidate:
    """A serve to judge. claim_mib: what the inventory claims for it on each card. config: the content of the configuration file
    that its arguments name, where it is known.

    origin: where its weights come from. facts: what they hold. None where that is not known.
    """

    serve: str
    engine: str
    model: str
    origin: Optional[Origin] = None
    cards: Tuple[str, ...] = ()
    args: Tuple[str, ...] = ()
    claim_mib: int = 0
    facts: Optional[ModelFacts] = None
    environment: Mapping[str, str] = field(default_factory=dict)
    config: Optional[Mapping[str, Any]] = None

    @property
    def settings(self) -> Settings:
        return read_settings(self.engine, self.args, self.environment, self.config)


@dataclass(frozen=True)
class Report:
    """problems: why the serves may not start. notes: what could not be judged. rows: the facts of each serve."""

    problems: Tuple[Problem, ...]
    notes: Tuple[str, ...]
    rows: Mapping[str, Mapping[str, Any]]


def _read_share(candidate: Candidate) -> Optional[float]:
    """The share of each card's memory that the engine takes; None where it does not take a share."""
    share = candidate.settings.number(options.SHARE)
    return VLLM_SHARE if share is None and candidate.engine == "vllm" else share


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
                hint="set engine to {0}, or choose weights in {1} format".format(" or ".join(right), " or ".join(wanted)),
            )
        )
    if facts.kind in ("mmproj", "adapter", "vocab", "imatrix"):
        found.append(
            Problem(
                what="the file is not a model, but a file of kind {0}".format(facts.kind),
                where=where,
                why=facts.path,
                hint="set model to the file of the model itself",
            )
        )
    if facts.missing:
        why = ", ".join(facts.missing[:8])
        found.append(
            Problem(
                what="files of the model are missing",
                where=where,
                why=why,
                hint="fetch the model again with anvil_model, state: present",
            )
        )
    flag = candidate.settings.text(options.QUANTIZATION) if facts.format == "safetensors" else None
    if flag in QUANTIZATION_FLAGS and facts.quantisation and facts.quantisation not in QUANTIZATION_FLAGS[flag or ""]:
        found.append(
            Problem(
                what="--quantization {0} does not match the weights".format(flag),
                where=where,
                why="the weights are {0}".format(facts.quantisation),
                hint="remove the flag, or choose weights of this quantisation",
            )
        )
    context = candidate.settings.tokens(options.CONTEXT) if candidate.engine != "llama_cpp" else None
    if context and facts.context_length and context > facts.context_length:
        found.append(
            Problem(
                what="the requested context is longer than the model's context",
                where=where,
                why="{0} tokens requested; the model was trained for {1}".format(context, facts.context_length),
                hint="set the context (--max-model-len, --context-length or --max-seq-len) to at most {0}".format(
                    facts.context_length
                ),
            )
        )
    return found


def _judge_card(candidate: Candidate, facts: ModelFacts, card: CardFacts) -> Tuple[List[Problem], List[str]]:
    where = "serve " + candidate.serve
    if facts.format == "trtllm":
        return _judge_trt(candidate, facts, card)
    need = NEEDED_TYPES.get(facts.quantisation or "") if facts.format == "safetensors" else None
    if need is None:
        return [], []
    if card.can is None:
        return [], ["{0}: the capabilities of {1} are unknown, so {2} was not checked".format(where, card.describe(), need)]
    if need in card.can:
        return [], []
    if need == "mxfp4" and need in card.emulated:
        return [], ["{0}: {1} reads mxfp4 weights and computes in 16 bits".format(where, card.describe())]
    return [
        Problem(
            what="{0} weights do not run on this card".format(need),
            where=where,
            why="{0}; {1} needs {2}".format(card.describe(), need, SUPPORTED_SINCE[need]),
            hint="choose weights of another quantisation, or pin the serve to another card",
        )
    ], []


def _judge_trt(candidate: Candidate, facts: ModelFacts, card: CardFacts) -> Tuple[List[Problem], List[str]]:
    where, trt = "serve " + candidate.serve, facts.trt or {}
    if trt.get("sm") is None:
        problem = Problem(
            what="it is unknown which card the TensorRT-LLM engine was built for",
            where=where,
            why="the name of {0} does not match {1}".format(facts.path, TRT_LABEL.pattern),
            hint="rename the folder to its card, TensorRT-LLM and CUDA, such as sm90_trt-llm-0.17.0_cuda12.8",
        )
        return [problem], []
    if card.sm is None:
        return [], [
            "{0}: the architecture of {1} is not known, so the TensorRT-LLM engine was not judged".format(where, card.describe())
        ]
    if trt["sm"] != card.sm:
        problem = Problem(
            what="the TensorRT-LLM engine was built for another card",
            where=where,
            why="{0} is for sm_{1}; the card is {2}".format(trt["label"], trt["sm"], card.describe()),
            hint="build it on this card, or choose one that was built for sm_{0}".format(card.sm),
        )
        return [problem], []
    return [], []


def _judge_trt_cuda(candidate: Candidate, facts: ModelFacts, cuda: Optional[str]) -> Tuple[List[Problem], List[str]]:
    """The CUDA in the label of a TensorRT-LLM engine must be the host's: the engine holds code compiled for that release."""
    where, trt = "serve " + candidate.serve, facts.trt or {}
    built = trt.get("cuda")
    if built is None:
        return [], []  # no label: _judge_trt reports it
    if cuda is None:
        return [], ["{0}: the CUDA of the host is not known, so the CUDA of the TensorRT-LLM engine was not judged".format(where)]
    if built.split(".")[:2] == cuda.split(".")[:2]:
        return [], []
    problem = Problem(
        what="the TensorRT-LLM engine was built for another CUDA",
        where=where,
        why="{0} is for CUDA {1}; the driver of the host runs {2}".format(trt["label"], built, cuda),
        hint="build it with CUDA {0}, or choose one that was built with it".format(cuda),
    )
    return [problem], []


def _judge_memory(candidate: Candidate, facts: ModelFacts, cards: Sequence[CardFacts]) -> Tuple[List[Problem], Dict[str, Any]]:
    context = candidate.settings.tokens(options.CONTEXT)
    dtype = candidate.settings.text(options.KV_TYPE) or "auto"
    try:
        # To start, an engine must hold one request of the full context; llama.cpp's -c is for all slots together.
        estimate = estimate_vram(facts, context or None, 1, dtype, Split(tensor=max(1, len(cards))), Loading(candidate.engine))
    except AnvilError as exc:
        return list(exc.problems), {}
    found = []
    share = _read_share(candidate)
    for card in cards:
        if card.vram_mib is None:
            continue
        limit = int(card.vram_mib * (share if share is not None else 1.0))
        limited_by = "{0:,} MiB x {1:g}".format(card.vram_mib, share) if share is not None else "{0:,} MiB".format(card.vram_mib)
        if candidate.claim_mib and candidate.claim_mib < limit:
            limit, limited_by = candidate.claim_mib, "claimed: vram_mib"
        if estimate.total_mib > limit:
            found.append(
                Problem(
                    what="the model does not fit its share of the card",
                    where="serve " + candidate.serve,
                    why="it needs {0:,} MiB, but may use {1:,} MiB ({2}) of {3}\n{4}".format(
                        estimate.total_mib, limit, limited_by, card.describe(), "\n".join(estimate.arithmetic)
                    ),
                    hint="set a shorter context or a smaller KV cache type in args, a larger vram_mib or gpu_memory_utilization, "
                    "or more gpus; or choose weights of another quantisation",
                )
            )
    return found, estimate.as_dict()


def _judge_shares(candidates: Sequence[Candidate], cards: Mapping[str, CardFacts]) -> Tuple[List[Problem], List[str]]:
    """The shares of all serves on a card must not exceed the card."""
    problems, notes = [], []
    for uuid, card in cards.items():
        shares = [(c.serve, _read_share(c)) for c in candidates if uuid in c.cards]
        known = [(serve, share) for serve, share in shares if share is not None]
        total = round(sum(share for _serve, share in known), 4)
        terms = " + ".join("{0} {1:.2f}".format(serve, share) for serve, share in known)
        for serve, share in known:
            if not 0 < share <= 1:
                problems.append(
                    Problem(
                        what="the share of the card's memory is not valid",
                        where="serve " + serve,
                        why="it is {0:g}".format(share),
                        hint="set --gpu-memory-utilization above 0 and up to 1, such as 0.90",
                    )
                )
        if total > HARD_LIMIT or (len(known) > 1 and total > SHARE_LIMIT):
            problems.append(
                Problem(
                    what="the serves take too much of the card's memory",
                    where="GPU " + card.describe(),
                    why="{0} = {1:.2f}; at most {2:.2f} may be taken".format(terms, total, SHARE_LIMIT),
                    hint="set --gpu-memory-utilization to 0.90 for one serve; to 0.70 and 0.20 for a chat and a tool model",
                )
            )
        elif total > SHARE_LIMIT:
            notes.append("GPU {0}: {1} leaves little memory for CUDA contexts and the desktop".format(card.describe(), terms))
    return problems, notes


def _is_offloaded(candidate: Candidate, facts: ModelFacts) -> bool:
    """Whether the arguments keep a part of the weights off the cards. Only the engine knows how much then fits."""
    settings = candidate.settings
    layers = settings.number(options.LAYERS)
    partly = candidate.engine == "llama_cpp" and layers is not None and layers < (facts.layers or 0)
    return partly or settings.has(options.HOST_WEIGHTS, options.HOST_EXPERTS, options.FIT)


def judge_candidates(
    candidates: Sequence[Candidate],
    cards: Sequence[CardFacts],
    allowed: Optional[Sequence[Origin]] = None,
    cuda: Optional[str] = None,
    only: Optional[Collection[str]] = None,
) -> Report:
    """Every reason why a serve may not start, for all serves and cards at once.

    allowed: None allows every model. cuda: the CUDA of the host's driver, such as 13.0. only: the serves that are judged; the
    others only count with their shares of the cards.
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
            Problem(
                what="GPU {0} is not on this host".format(uuid),
                where=where,
                hint="correct the uuid in anvil_gpus: nvidia-smi -L on the host lists the UUIDs",
            )
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
            more, more_notes = _judge_card(candidate, facts, card)
            problems += more
            notes += more_notes
        if facts.format == "trtllm":
            more, more_notes = _judge_trt_cuda(candidate, facts, cuda)
            problems += more
            notes += more_notes
        world = (facts.trt or {}).get("world_size")
        if world and candidate.cards and world != len(candidate.cards):
            why = "it was built for {0} cards; the serve is pinned to {1}".format(world, len(candidate.cards))
            hint = "pin the serve to {0} cards, or choose an engine that was built for {1}".format(world, len(candidate.cards))
            problems.append(
                Problem(what="the TensorRT-LLM engine was built for another number of cards", where=where, why=why, hint=hint)
            )
        if mine and _is_offloaded(candidate, facts):
            notes.append(
                "{0}: the arguments keep a part of the model in the host's memory, so GPU memory was not judged".format(where)
            )
        elif mine:
            more, row["vram"] = _judge_memory(candidate, facts, mine)
            problems += more
    more, more_notes = _judge_shares(candidates, by_uuid)
    return Report(tuple(problems + more), tuple(notes + more_notes), rows)
