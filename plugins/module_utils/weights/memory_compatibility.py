# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a model fits the memory of its cards, under the split that its engine makes of it. Pure.

Only weights are certain. The KV cache and the allowance are an estimate, so what overflows through them is doubtful.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog import engine_options as options
from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import Settings
from ansible_collections.anvil.serving.plugins.module_utils.catalog.parallelism import read_parallelism
from ansible_collections.anvil.serving.plugins.module_utils.core.findings import Finding, doubtful, impossible, unknown
from ansible_collections.anvil.serving.plugins.module_utils.weights.candidate import Candidate
from ansible_collections.anvil.serving.plugins.module_utils.weights.card_facts import CardFacts
from ansible_collections.anvil.serving.plugins.module_utils.weights.context_length import LENGTHS
from ansible_collections.anvil.serving.plugins.module_utils.weights.format_compatibility import (
    INNER,
    PLAIN,
    find_context_limit,
    list_overrides,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.memory_estimate import (
    MIB,
    Estimate,
    Loading,
    Split,
    choose_batch_tokens,
    estimate_vram,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import ModelFacts

VLLM_SHARE = 0.90  # vLLM's default for --gpu-memory-utilization
LEAST_FIT_CONTEXT = 4096  # llama.cpp's default for --fit-ctx
HINT = (
    "set a shorter context or a smaller KV cache type in args, a larger vram_mib or gpu_memory_utilization, or more gpus; "
    "or choose weights of another quantisation"
)
# Overrides of a config that leave the sizes of the model as they are.
POSITIONS = (*LENGTHS, "rope_scaling", "rope_parameters", "rope_theta", "architectures", "dtype", "torch_dtype")
SIZES = ("num_hidden_layers", "num_layers", "n_layer", "hidden_size", "num_experts", "n_routed_experts")
CUDA_DEVICE = re.compile(r"CUDA([0-9]{1,3})", re.IGNORECASE)


def read_share(candidate: Candidate) -> Optional[float]:
    """The share of each card's memory that the engine takes; None where it does not take a share."""
    settings = candidate.settings
    if candidate.engine == "vllm" and settings.tokens(options.KV_BYTES):
        return None  # vLLM then takes the weights and exactly this cache
    share = settings.number(options.SHARE)
    return VLLM_SHARE if share is None and candidate.engine == "vllm" else share


@dataclass(frozen=True)
class _Placed:
    """The memory that one card needs, in MiB. certain: of it, what lies there whatever the engine does. least: what the engine
    needs to start."""

    card: CardFacts
    total_mib: int
    certain_mib: int
    least_mib: int = 0


def judge_memory(
    candidate: Candidate, facts: ModelFacts, cards: Sequence[CardFacts]
) -> Tuple[List[Finding], Optional[Dict[str, Any]]]:
    """The findings, and the estimate as plain types; None where the engine decides what lies on the cards."""
    where, settings = "serve " + candidate.serve, candidate.settings
    if (settings.number(options.HOST_WEIGHTS) != 0 and settings.has(options.HOST_WEIGHTS)) or settings.is_on(
        options.HOST_EXPERTS
    ):
        given = options.HOST_WEIGHTS if settings.has(options.HOST_WEIGHTS) else options.HOST_EXPERTS
        note = "{0} keeps a part of the model in the host's memory, so GPU memory was not judged"
        return [unknown(note.format(settings.spelling(given)), where)], None
    judge = _judge_llama if candidate.engine == "llama_cpp" else _judge_parallel
    found, estimate = judge(candidate, facts, cards)
    if estimate is None:
        return found, None
    if settings.has(options.PROJECTOR):
        found.append(
            unknown("the memory of the projector ({0}) was not counted".format(settings.spelling(options.PROJECTOR)), where)
        )
    drafted = options.DRAFT if settings.has(options.DRAFT) else options.SPECULATIVE
    if settings.has(options.DRAFT) or settings.table(options.SPECULATIVE).get("model"):
        found.append(unknown("the memory of the model for {0} was not counted".format(settings.spelling(drafted)), where))
    return [*found, *(unknown(note, where) for note in estimate.notes)], estimate.as_dict()


def _read_batch(settings: Settings, cards: Sequence[CardFacts]) -> Optional[int]:
    """Tokens of one step: the flag's, or vLLM's default for the smallest card; None for the engine's own."""
    known = [card for card in cards if card.vram_mib is not None]
    if settings.tokens(options.BATCH) or settings.engine != "vllm" or not known:
        return settings.tokens(options.BATCH)
    return min(choose_batch_tokens(card.vram_mib or 0, "a100" in card.name.lower() or card.sm == 121) for card in known)


def _estimate(
    settings: Settings, facts: ModelFacts, context: Optional[int], split: Split, cards: Sequence[CardFacts] = ()
) -> Estimate:
    """To start, an engine must hold one request of the full context; llama.cpp's context is for all slots together."""
    dtype = (settings.text(options.DTYPE) or "auto").lower()
    online = settings.spelling(options.ONLINE_QUANTIZATION) if settings.has(options.ONLINE_QUANTIZATION) else None
    loading = Loading(
        engine=settings.engine,
        batch_tokens=_read_batch(settings, cards),
        value_dtype=(settings.text(options.KV_VALUE_TYPE) or "").lower() or None,
        dtype=dtype,
        quantization=settings.text(options.QUANTIZATION) or online,
        swa_full=settings.is_on(options.SWA_FULL),
        speculative=settings.has(options.SPECULATIVE),
    )
    return estimate_vram(facts, context, 1, (settings.text(options.KV_TYPE) or "auto").lower(), split, loading)


def _find_overridden(settings: Settings) -> Set[str]:
    """The keys of the model's config that the arguments override."""
    return {str(key) for table in list_overrides(settings) for key in table} - set(INNER)


def _may_shrink(settings: Settings, facts: ModelFacts) -> bool:
    """Whether the weights may lie in less memory than their files take: quantised or converted while loading, or left out."""
    plain = facts.quantisation in PLAIN
    quantised = settings.has(options.QUANTIZATION, options.ONLINE_QUANTIZATION)
    on_load = plain and (quantised or settings.text(options.LOAD_FORMAT) == "bitsandbytes")
    if facts.format == "pytorch" or _find_overridden(settings) - set(POSITIONS):
        return True  # their sizes were not read, or the model is built with other sizes
    limits = settings.table(options.MEDIA_LIMITS)
    if limits and not any(limits.values()):
        return True  # vLLM then leaves out the parts that read images and sounds
    return on_load or facts.quantisation in ("f32", "f64", None) or settings.has(options.TEXT_ONLY) or facts.format == "gguf"


def _judge_parallel(
    candidate: Candidate, facts: ModelFacts, cards: Sequence[CardFacts]
) -> Tuple[List[Finding], Optional[Estimate]]:
    settings = candidate.settings
    parallelism = read_parallelism(settings)
    split = Split(
        tensor=parallelism.tensor,
        pipeline=parallelism.pipeline,
        data=parallelism.data * parallelism.prefill,
        experts=parallelism.experts,
        attention=parallelism.attention_data,
        context=parallelism.context,
    )
    used = list(cards)[: parallelism.cards] if parallelism.cards else list(cards)
    if facts.format == "trtllm":
        split, used = Split(tensor=int((facts.trt or {}).get("world_size") or len(cards))), list(cards)
    elif parallelism.problem or (parallelism.cards or 0) > len(candidate.cards):
        return [], None  # told already, and on these cards there is nothing to place
    # A context that the engine fits to the memory (auto, -1) needs room for one token.
    fitted = settings.has(options.CONTEXT) and settings.tokens(options.CONTEXT) is None
    context = 1 if fitted else settings.tokens(options.CONTEXT) or find_context_limit(facts, settings)
    most = settings.tokens(options.KV_TOKENS)
    found: List[Finding] = []
    if most and context and context > most:
        found.append(_note_small_cache(candidate, "{0} {1}".format(settings.spelling(options.KV_TOKENS), most), context))
        context = most
    resized = sorted(_find_overridden(settings).intersection(SIZES))
    if resized:
        note = "{0} changes {1}, so GPU memory was not judged".format(settings.spelling(options.OVERRIDES), ", ".join(resized))
        return [unknown(note, "serve " + candidate.serve)], None
    estimate = _estimate(settings, facts, context, split, used)
    cache = settings.tokens(options.KV_BYTES) if candidate.engine == "vllm" else None
    total = estimate.total_mib
    if cache:
        total = estimate.total_mib - estimate.cache_mib + -(-cache // MIB)
        if estimate.cache_mib > -(-cache // MIB):
            found.append(
                doubtful(
                    what="one request of the full context does not fit the KV cache",
                    where="serve " + candidate.serve,
                    why="{0} gives {1:,} MiB; it needs {2:,} MiB\n{3}".format(
                        settings.spelling(options.KV_BYTES), cache // MIB, estimate.cache_mib, "\n".join(estimate.arithmetic)
                    ),
                    hint="set a shorter context or a larger {0}".format(settings.spelling(options.KV_BYTES)),
                )
            )
    # Which tensors are experts is not known.
    unseen = bool(parallelism.experts > parallelism.tensor and facts.experts and not facts.parts.experts)
    if parallelism.pipeline > 1 and settings.has(options.STAGES):
        unseen = True  # the stages have different numbers of layers
    certain = 0 if unseen or not estimate.weights_certain or _may_shrink(settings, facts) else estimate.weights_mib
    least = total
    if candidate.engine == "sglang" and context and not settings.has(options.CONTEXT):
        least = _estimate(settings, facts, 1, split, used).total_mib
    return [*found, *_judge_cards(candidate, [_Placed(card, total, certain, least) for card in used], estimate)], estimate


def _note_small_cache(candidate: Candidate, why: str, context: int) -> Finding:
    """SGLang starts with a KV cache of any size, and refuses the requests that do not fit it."""
    note = "the KV cache does not hold one request of {0:,} tokens ({1}); longer requests are refused"
    return unknown(note.format(context, why), "serve " + candidate.serve)


def _judge_cards(candidate: Candidate, placed: Sequence[_Placed], estimate: Estimate) -> List[Finding]:
    """Cards with equal memory and need are one finding."""
    where, share = "serve " + candidate.serve, read_share(candidate)
    # SGLang's share is for weights and cache; what else it needs lies beside it.
    beside = estimate.allowance_mib if candidate.engine == "sglang" and share is not None else 0
    told = candidate.settings.has(options.SHARE) and candidate.engine == "vllm" and share is not None and 0 < share <= 1
    groups: Dict[Tuple[int, int, int, int, int], List[CardFacts]] = {}
    for one in placed:
        if one.card.vram_mib is not None:
            claim = candidate.claim_by_card.get(one.card.uuid, candidate.claim_mib)
            groups.setdefault((one.card.vram_mib, one.total_mib, one.certain_mib, one.least_mib, claim), []).append(one.card)
    found = []
    for (vram, total, certain, start, claim), cards in groups.items():
        limit = int(vram * (share if share is not None and 0 < share <= 1 else 1.0))
        limited_by = "{0:,} MiB x {1:g}".format(vram, share) if share is not None else "{0:,} MiB".format(vram)
        on = ", ".join(card.describe() for card in cards[:8])
        if certain > (limit if told else vram):
            found.append(
                impossible(
                    what="the weights do not fit the card",
                    where=where,
                    why="they take {0:,} MiB, and there are {1:,} MiB ({2}) on {3}\n{4}".format(
                        certain, limit if told else vram, limited_by if told else "all of its memory", on, estimate.arithmetic[0]
                    ),
                    hint="use more gpus, or choose weights of another quantisation",
                )
            )
            continue
        inside = beside
        if claim and claim < limit:
            limit, limited_by, inside = claim, "claimed: vram_mib", 0
        need, least = total - inside, start - inside
        if need > limit >= least > 0:
            found.append(_note_small_cache(candidate, "{0:,} MiB of {1:,} MiB on {2}".format(need, limit, on), estimate.context))
        elif need > limit:
            found.append(
                doubtful(
                    what="the model does not fit its share of the card",
                    where=where,
                    why="it needs {0:,} MiB, but may use {1:,} MiB ({2}) of {3}\n{4}".format(
                        need, limit, limited_by, on, "\n".join(estimate.arithmetic)
                    ),
                    hint=HINT,
                )
            )
    return found


def _read_shares(settings: Settings, cards: Sequence[CardFacts]) -> List[float]:
    """The part of the model that llama.cpp puts on each card: its --tensor-split, or by their memory."""
    words = re.split(r"[,/]", settings.text(options.TENSOR_SPLIT) or "")
    try:
        wanted = [max(0.0, float(word)) for word in words][: len(cards)]
    except ValueError:
        wanted = []
    wanted += [0.0] * (len(cards) - len(wanted))
    if not sum(wanted) or sum(wanted) == float("inf"):
        wanted = [float(card.vram_mib or 0) for card in cards]
    total = sum(wanted) or 1.0
    return [part / total for part in wanted]


def _choose_llama_cards(settings: Settings, cards: Sequence[CardFacts]) -> Optional[List[CardFacts]]:
    """The cards that llama.cpp loads the model on; None where that is not known."""
    chosen = list(cards)
    if settings.has(options.DEVICES):
        numbers = [CUDA_DEVICE.fullmatch(word.strip()) for word in (settings.text(options.DEVICES) or "").split(",")]
        found = [int(match.group(1)) for match in numbers if match]
        if len(found) < len(numbers) or any(number >= len(cards) for number in found):
            return None
        chosen = [cards[number] for number in found]
    if (settings.text(options.SPLIT_MODE) or "layer").lower() == "none":
        main = settings.count(options.MAIN_CARD) or 0
        return chosen[main : main + 1] or None
    return chosen


def _find_why_not(candidate: Candidate, facts: ModelFacts, cards: Sequence[CardFacts]) -> str:
    """Why the arguments do not say what llama.cpp puts on the cards; empty if they do."""
    settings = candidate.settings
    for name in (options.RPC, options.UNIFIED_MEMORY):
        if settings.is_on(name):
            return "{0} lets a part of the model lie elsewhere".format(settings.spelling(name))
    layers = (settings.text(options.LAYERS) or "auto").lower()
    flag = settings.spelling(options.LAYERS)
    if layers in ("auto", "-1") and not settings.is_off(options.FIT):
        return "without {0}, llama.cpp puts what does not fit into the host's memory".format(flag)
    count = settings.count(options.LAYERS)
    if count == 0:
        return "{0} 0 keeps the model in the host's memory".format(flag)
    if count is not None and facts.layers and count <= facts.layers:  # the output is one more
        return "{0} {1} of {2} layers keeps a part of the model in the host's memory".format(flag, count, facts.layers)
    if _choose_llama_cards(settings, cards) is None:
        return "which cards it uses is not known ({0})".format(settings.spelling(options.DEVICES))
    return ""


def _judge_value_type(candidate: Candidate) -> List[Finding]:
    """llama.cpp quantises the values of its cache only with flash attention, and ends with an error without it."""
    settings = candidate.settings
    word, flash = (settings.text(options.KV_VALUE_TYPE) or "f16").lower(), (settings.text(options.FLASH) or "auto").lower()
    if word in ("f32", "f16", "bf16") or flash not in ("off", "0", "disabled", "false"):
        return []
    return [
        impossible(
            what="llama.cpp does not quantise the values of its KV cache without flash attention",
            where="serve " + candidate.serve,
            why="{0} {1}, {2} {3}".format(
                settings.spelling(options.KV_VALUE_TYPE), word, settings.spelling(options.FLASH), flash
            ),
            hint="remove one of the two",
        )
    ]


def _judge_llama(candidate: Candidate, facts: ModelFacts, cards: Sequence[CardFacts]) -> Tuple[List[Finding], Optional[Estimate]]:
    settings, where = candidate.settings, "serve " + candidate.serve
    why_not = _find_why_not(candidate, facts, cards)
    refused = _judge_value_type(candidate)
    chosen = _choose_llama_cards(settings, cards)
    context, fitted = settings.tokens(options.CONTEXT), False
    if not context and not settings.is_off(options.FIT):
        context, fitted = min(LEAST_FIT_CONTEXT, facts.context_length or LEAST_FIT_CONTEXT), True
    estimate = _estimate(settings, facts, context, Split())
    if why_not or not chosen:
        return [*refused, unknown("{0}, so GPU memory was not judged".format(why_not), where)], estimate
    cache = 0 if settings.is_off(options.KV_OFFLOAD) else estimate.cache_mib
    total, weights = estimate.weights_mib + cache + estimate.allowance_mib, estimate.weights_mib
    memory = sum(card.vram_mib or 0 for card in chosen)
    found: List[Finding] = list(refused)
    if fitted:
        note = "without {0}, llama.cpp fits the context to the memory: {1} tokens were judged".format(
            settings.spelling(options.CONTEXT), context
        )
        found.append(unknown(note, where))
    if any(card.vram_mib is None for card in chosen):
        return found, estimate
    if estimate.weights_certain and weights > memory and len(chosen) > 1:
        why = "they take {0:,} MiB, and the {1} cards have {2:,} MiB together\n{3}".format(
            weights, len(chosen), memory, estimate.arithmetic[0]
        )
        hint = "use more gpus, choose weights of another quantisation, or leave out {0}".format(settings.spelling(options.LAYERS))
        return [*found, impossible("the weights do not fit the cards", where, why, hint)], estimate
    placed = [
        # Where a layer lies is not known to the MiB: on several cards only the sum is certain.
        _Placed(card, round(total * part), weights if estimate.weights_certain and len(chosen) == 1 else 0)
        for card, part in zip(chosen, _read_shares(settings, chosen))
    ]
    return [*found, *_judge_cards(candidate, placed, estimate)], estimate
