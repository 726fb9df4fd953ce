# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether a card runs weights of a type with an engine, also where its tensor cores do not compute in this type. Pure."""

from __future__ import annotations

import re
from typing import List, Optional

from ansible_collections.anvil.serving.plugins.module_utils.catalog import engine_options as options
from ansible_collections.anvil.serving.plugins.module_utils.catalog.card_capabilities import EMULATED_FROM, SUPPORTED_SINCE
from ansible_collections.anvil.serving.plugins.module_utils.core.findings import Finding, doubtful, impossible, unknown
from ansible_collections.anvil.serving.plugins.module_utils.weights.candidate import Candidate
from ansible_collections.anvil.serving.plugins.module_utils.weights.card_facts import CardFacts
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import ModelFacts

# Types of weights that a card must support, or an engine must emulate.
JUDGED_TYPES = ("nvfp4", "mxfp4", "fp8", "bf16", "int8")
PLAIN_TYPES = ("f32", "f16", "bf16")
# --dtype -> the type in which plain weights are then computed; auto takes that of the weights.
DTYPES = {"half": "f16", "float16": "f16", "bfloat16": "bf16", "float": "f32", "float32": "f32"}
# Classes that vLLM refuses to compute in float16 (_FLOAT16_NOT_SUPPORTED_MODELS: gemma2, gemma3, plamo2, glm4).
NO_FLOAT16 = re.compile(r"(Gemma[23]|Plamo2|Glm4)(For|Text|Model)")
# vLLM's and SGLang's kernels for int8 weights and activations end with sm_90.
INT8_BEFORE = 100
# vLLM's get_min_capability of methods that it does not emulate on older cards.
SINCE = {"awq": 75, "modelopt": 89}
# The first cards that the kernels in the images of an engine were built for.
ENGINE_SINCE = {"vllm": 70, "sglang": 75}
FP4_CACHES = ("nvfp4", "nvfp4_4over6", "fp4_e2m1", "fp4_mx_block16")


def _find_needed_type(candidate: Candidate, facts: ModelFacts) -> Optional[str]:
    if facts.format not in ("safetensors", "pytorch"):
        return None
    needed = facts.quantisation or ""
    if needed in PLAIN_TYPES:
        needed = DTYPES.get((candidate.settings.text(options.DTYPE) or "auto").lower(), needed)
    return needed if needed in JUDGED_TYPES else None


def judge_float16(candidate: Candidate, facts: ModelFacts) -> List[Finding]:
    """``--dtype half`` for a model whose activations do not fit float16: vLLM ends with an error, on every card."""
    told = candidate.settings.text(options.DTYPE) or ""
    if candidate.engine != "vllm" or DTYPES.get(told.lower()) != "f16" or not NO_FLOAT16.match(facts.architecture or ""):
        return []
    return [
        doubtful(
            what="vLLM does not run this model in float16",
            where="serve " + candidate.serve,
            why="{0} {1}, and the model is {2}".format(candidate.settings.spelling(options.DTYPE), told, facts.architecture),
            hint="set {0} bfloat16, or float32 on a card before sm_80".format(candidate.settings.spelling(options.DTYPE)),
        )
    ]


def judge_card(candidate: Candidate, facts: ModelFacts, card: CardFacts) -> List[Finding]:
    where, needed = "serve " + candidate.serve, _find_needed_type(candidate, facts)
    if card.sm is not None and card.sm < ENGINE_SINCE.get(candidate.engine, 0):
        why = "{0}; the kernels of {1} start with sm_{2}".format(
            card.describe(), candidate.engine, ENGINE_SINCE[candidate.engine]
        )
        return [
            doubtful(
                "the card is too old for {0}".format(candidate.engine),
                where,
                why,
                "pin the serve to another card, or use llama_cpp",
            )
        ]
    word = (candidate.settings.text(options.KV_TYPE) or "").lower()
    if candidate.engine in ENGINE_SINCE and word in FP4_CACHES and card.sm is not None and card.sm < 100:
        why = "{0}; {1} {2} needs sm_100".format(card.describe(), candidate.settings.spelling(options.KV_TYPE), word)
        return [doubtful("the card does not take a KV cache in 4 bits", where, why, "choose fp8, or another card")]
    if needed == "int8" and card.sm is not None and card.sm >= INT8_BEFORE and candidate.engine in ("vllm", "sglang"):
        return [
            doubtful(
                what="{0} has no kernels for int8 weights and activations on this card".format(candidate.engine),
                where=where,
                why="{0}; they end with sm_90".format(card.describe()),
                hint="choose fp8, nvfp4 or weight-only weights, or pin the serve to another card",
            )
        ]
    method = facts.quant_method or ""
    since = SINCE.get(method, 0) if candidate.engine == "vllm" and facts.quantisation in ("awq", "fp8") else 0
    if card.sm is not None and card.sm < since:
        what, why = (
            "vLLM does not load {0} weights on this card".format(method),
            "{0}; they need sm_{1}".format(card.describe(), since),
        )
        return [doubtful(what, where, why, "choose weights of another quantisation, or pin the serve to another card")]
    if needed is None or (card.can is not None and needed in card.can):
        return []
    if card.can is None or card.sm is None:
        return [unknown("the capabilities of {0} are unknown, so {1} was not checked".format(card.describe(), needed), where)]
    if needed == "bf16":
        return _judge_bf16(candidate, facts, card)
    from_sm = EMULATED_FROM.get(candidate.engine, {}).get(needed)
    if from_sm is not None and card.sm >= from_sm:
        return [unknown("{0} reads {1} weights and computes in 16 bits".format(card.describe(), needed), where)]
    return [
        doubtful(
            what="{0} weights may not run on this card".format(needed),
            where=where,
            why="{0}; its tensor cores compute in {1} from {2}{3}".format(
                card.describe(),
                needed,
                SUPPORTED_SINCE[needed],
                "" if from_sm is None else ", and {0} emulates it from sm_{1}".format(candidate.engine, from_sm),
            ),
            hint="choose weights of another quantisation, or pin the serve to another card",
        )
    ]


def _judge_bf16(candidate: Candidate, facts: ModelFacts, card: CardFacts) -> List[Finding]:
    """A card older than sm_80. SGLang computes in float16 there, whatever its flags say; vLLM refuses a bfloat16 that it is told,
    and with ``auto`` its releases before 0.9 refuse bfloat16 weights, and later ones compute in float16."""
    where, told = "serve " + candidate.serve, candidate.settings.text(options.DTYPE)
    if candidate.engine == "sglang":
        return [unknown("{0} has no bf16, so the engine computes in float16".format(card.describe()), where)]
    explicit = DTYPES.get((told or "").lower()) == "bf16"
    wide = candidate.engine == "vllm" and NO_FLOAT16.match(facts.architecture or "") is not None
    why = "{0}; bf16 needs {1}".format(card.describe(), SUPPORTED_SINCE["bf16"])
    if explicit:
        what = "bf16 does not run on this card"
        hint = "set {0} {1}".format(candidate.settings.spelling(options.DTYPE), "float32" if wide else "half")
        return [(impossible if candidate.engine == "vllm" else doubtful)(what, where, why, hint)]
    if wide:
        why += ", and vLLM does not run {0} in float16".format(facts.architecture)
        return [doubtful("bf16 weights run on this card in float32 only", where, why, "add --dtype float32 to args")]
    hint = "add --dtype half to args" if candidate.engine == "vllm" else "pin the serve to another card"
    return [doubtful("bf16 weights run on this card in float16 only", where, why, hint)]
