# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether an engine can load the files of a model: their format, their quantisation, and the context that is asked for. Pure."""

from __future__ import annotations

from typing import Any, FrozenSet, Iterator, List, Mapping, Optional

from ansible_collections.anvil.serving.plugins.module_utils.catalog import engine_options as options
from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import Settings
from ansible_collections.anvil.serving.plugins.module_utils.catalog.served_kinds import (
    CHAT,
    EMBEDDINGS,
    KINDS,
    LLAMA_KIND_FLAGS,
    derive_kind,
)
from ansible_collections.anvil.serving.plugins.module_utils.core.findings import Finding, doubtful, impossible, unknown
from ansible_collections.anvil.serving.plugins.module_utils.weights.candidate import Candidate
from ansible_collections.anvil.serving.plugins.module_utils.weights.context_length import (
    LENGTHS,
    is_extending,
    list_scalings,
    read_length,
    scale_length,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import ModelFacts

# Which formats an engine loads. TensorRT-LLM loads its own engines and, through PyTorch (its default since 1.0), safetensors.
FORMATS = {
    "vllm": ("safetensors", "pytorch"),
    "sglang": ("safetensors", "pytorch"),
    "llama_cpp": ("gguf",),
    "trtllm": ("trtllm", "safetensors", "pytorch"),
}
KNOWN_FORMATS = ("safetensors", "pytorch", "gguf", "trtllm")
# Quantisations that no release of vLLM, SGLang and TensorRT-LLM loads on an NVIDIA card -> what loads them.
FOREIGN_QUANTISATIONS = {"exl2": "ExLlamaV2", "exl3": "ExLlamaV3", "mlx": "MLX, on Apple's processors"}
# Those that none of the releases known to this collection loads, by engine.
_RESEARCH = ("bitnet", "eetq", "higgs", "quanto", "quip", "quip_sharp", "sinq", "spqr", "vptq")
UNSUPPORTED_QUANTISATIONS = {
    "vllm": (*_RESEARCH, "w4a8_awq", "w4a16_awq", "int8_sq"),  # the last ones are modelopt's, for TensorRT-LLM
    "sglang": _RESEARCH,
    "trtllm": _RESEARCH,
}
# vLLM and SGLang have loaders for GGUF that cover some architectures and are slow.
EXPERIMENTAL = (("vllm", "gguf"), ("sglang", "gguf"))
# Formats of Hugging Face folders.
PLAIN_FORMATS = ("safetensors", "pytorch")
# Kinds of files that are not a model.
PARTS = ("mmproj", "adapter", "vocab", "imatrix", "control_vector", "codec", "draft", "other")

# Value of --quantization -> quantisations of weights that it is for. Those that quantise while loading take plain weights too.
PLAIN = frozenset(("f32", "f16", "bf16"))
QUANTIZATION_FLAGS: Mapping[str, FrozenSet[str]] = {
    "modelopt_fp4": frozenset(("nvfp4",)),
    "nvfp4": PLAIN | {"nvfp4"},
    "modelopt": frozenset(("fp8", "nvfp4")),
    "modelopt_fp8": frozenset(("fp8",)),
    "fp8": PLAIN | {"fp8"},
    "fbgemm_fp8": PLAIN | {"fp8"},
    "w8a8_fp8": PLAIN | {"fp8"},
    "w8a8_int8": frozenset(("int8",)),
    "awq": frozenset(("awq",)),
    "awq_marlin": frozenset(("awq",)),
    "gptq": frozenset(("gptq",)),
    "gptq_marlin": frozenset(("gptq",)),
    "moe_wna16": frozenset(("awq", "gptq")),
    "mxfp4": PLAIN | {"mxfp4"},
    "bitsandbytes": PLAIN | {"bnb-4bit", "bnb-8bit"},
}
ENGINE_NAMES = {"vllm": "vLLM", "sglang": "SGLang", "llama_cpp": "llama-server"}
# Classes that SGLang serves without --is-embedding for embeddings or scores (is_generation_model of its 0.5.23).
SGLANG_POOLING = (
    *("LlamaEmbeddingModel", "MistralModel", "Qwen3Model", "CLIPModel", "BertModel", "Contriever", "XLMRobertaModel"),
    *("EmbeddingGemma2Model", "Lfm2BidirectionalModel", "LlamaForSequenceClassificationWithNormal_Weights"),
    *("InternLM2ForRewardModel", "Qwen2ForRewardModel", "Qwen3ForRewardModel"),
    *(name + "ForSequenceClassification" for name in ("Llama", "Qwen2", "Qwen3", "Bert", "XLMRoberta", "Gemma2")),
)
# Inner configs of multimodal models.
INNER = ("text_config", "llm_config", "language_config", "thinker_config")


def judge_format(candidate: Candidate, facts: ModelFacts) -> List[Finding]:
    return [*_judge_files(candidate, facts), *_judge_quantization_flag(candidate, facts), *_judge_context(candidate, facts)]


def _judge_files(candidate: Candidate, facts: ModelFacts) -> Iterator[Finding]:
    where, wanted = "serve " + candidate.serve, FORMATS.get(candidate.engine)
    if wanted is None or facts.format not in KNOWN_FORMATS:
        yield unknown("whether {0} serves {1} weights is not known".format(candidate.engine or "the engine", facts.format), where)
    elif facts.format not in wanted:
        right = " or ".join(engine for engine, forms in FORMATS.items() if facts.format in forms)
        experimental = (candidate.engine, facts.format) in EXPERIMENTAL
        what = "{0} serves {1} weights of some architectures only" if experimental else "{0} does not serve {1} weights"
        yield (doubtful if experimental else impossible)(
            what=what.format(candidate.engine, facts.format),
            where=where,
            why="{0} is {1}".format(facts.path, facts.format),
            hint="set engine to {0}, or choose weights in {1} format".format(right, " or ".join(wanted)),
        )
    if facts.kind in PARTS:
        yield impossible(
            what="the file is not a model, but a file of kind {0}".format(facts.kind),
            where=where,
            why=facts.path,
            hint="set model to the file of the model itself",
        )
    if facts.unknown_types and candidate.engine == "llama_cpp":
        yield doubtful(
            what="llama.cpp does not know the types of the tensors",
            where=where,
            why="{0}: {1}".format(facts.path, ", ".join(facts.unknown_types[:4])),
            hint="use an image with the fork that made the file, or choose weights of another quantisation",
        )
    if facts.format in PLAIN_FORMATS and candidate.engine in FORMATS and facts.quantisation in FOREIGN_QUANTISATIONS:
        yield impossible(
            what="{0} does not load {1} weights".format(candidate.engine, facts.quantisation),
            where=where,
            why="{0} was quantised for {1}".format(facts.path, FOREIGN_QUANTISATIONS[facts.quantisation]),
            hint="choose weights of another quantisation",
        )
    elif (
        facts.format in PLAIN_FORMATS
        and candidate.engine in FORMATS
        and facts.quantisation in UNSUPPORTED_QUANTISATIONS.get(candidate.engine, ())
    ):
        yield doubtful(
            what="{0} may not load {1} weights".format(candidate.engine, facts.quantisation),
            where=where,
            why="{0}: no release that is known has this quantisation".format(facts.path),
            hint="choose weights of another quantisation",
        )
    if facts.missing:
        yield impossible(
            what="files of the model are missing",
            where=where,
            why=", ".join(facts.missing[:8]),
            hint="fetch the model again with anvil_model, state: present",
        )


def judge_kind(candidate: Candidate, facts: ModelFacts) -> List[Finding]:
    """Whether the engine serves the model for the planned kind. vLLM goes by the class of the weights, and so does SGLang for
    some classes; llama.cpp, and SGLang for any other class, go by a flag."""
    if derive_kind(candidate.settings) != CHAT or candidate.settings.has_unread_file:
        return []
    if candidate.kind == CHAT:
        return list(_judge_chat(candidate, facts))
    return list(_judge_other_kind(candidate, facts))


def _judge_chat(candidate: Candidate, facts: ModelFacts) -> Iterator[Finding]:
    """A serve that is planned for chat, and whose model is not for chat."""
    if facts.kind not in KINDS:
        return
    if candidate.engine == "llama_cpp" and facts.kind in LLAMA_KIND_FLAGS:
        yield doubtful(
            what="the model does not chat: it is for {0}".format(facts.kind),
            where="serve " + candidate.serve,
            why="the header of {0} says so; without a flag llama-server answers such requests with 501".format(facts.path),
            hint="add {0} to args".format(LLAMA_KIND_FLAGS[facts.kind]),
        )
    pools = candidate.engine == "vllm" and candidate.settings.text(options.RUNNER) != "generate"
    if pools or (candidate.engine == "sglang" and facts.architecture in SGLANG_POOLING):
        yield doubtful(
            what="the model does not chat: {0} serves it for {1}".format(ENGINE_NAMES[candidate.engine], facts.kind),
            where="serve " + candidate.serve,
            why="{0} in {1}".format(facts.architecture or "its class", facts.path),
            hint="set kind: {0} in anvil_serves.{1}".format(facts.kind, candidate.serve),
        )


def _judge_other_kind(candidate: Candidate, facts: ModelFacts) -> Iterator[Finding]:
    """A serve that is planned for embeddings or reranking, and whose engine would serve chat."""
    flag, kind = "", candidate.kind
    if candidate.engine == "llama_cpp":
        flag = LLAMA_KIND_FLAGS.get(kind, "")
    elif facts.format in PLAIN_FORMATS and kind == EMBEDDINGS:
        if candidate.engine == "vllm" and facts.kind == "text":
            flag = "--runner pooling"
        elif candidate.engine == "sglang" and facts.architecture not in SGLANG_POOLING:
            flag = "--is-embedding"
    if flag:
        yield doubtful(
            what="{0} serves the model for chat, not for {1}".format(ENGINE_NAMES[candidate.engine], kind),
            where="serve " + candidate.serve,
            why="kind: {0}, but neither args nor {1} in {2} say so".format(kind, facts.architecture or "its class", facts.path),
            hint="add {0} to args of anvil_serves.{1}, or correct its kind".format(flag, candidate.serve),
        )


def _judge_quantization_flag(candidate: Candidate, facts: ModelFacts) -> Iterator[Finding]:
    given = candidate.settings.text(options.QUANTIZATION) or ""
    flag = given.lower().replace("-", "_")
    if facts.format not in PLAIN_FORMATS or not facts.quantisation or facts.quantisation in QUANTIZATION_FLAGS.get(flag, ()):
        return
    if flag in QUANTIZATION_FLAGS:
        yield doubtful(
            what="--quantization {0} does not match the weights".format(given),
            where="serve " + candidate.serve,
            why="the weights are {0}".format(facts.quantisation),
            hint="remove the flag, or choose weights of this quantisation",
        )


def list_overrides(settings: Settings) -> Iterator[Mapping[str, Any]]:
    """The overrides of the config, and those of its inner configs."""
    overrides = settings.table(options.OVERRIDES)
    yield overrides
    for name in INNER:
        if isinstance(overrides.get(name), Mapping):
            yield overrides[name]


def find_context_limit(facts: ModelFacts, settings: Settings) -> Optional[int]:
    """The longest context in tokens that the model has with these settings; None where that is not known."""
    limit = facts.context_length
    scalings = [settings.table(options.ROPE_SCALING)]
    for table in list_overrides(settings):
        lengths = [read_length(table.get(name)) for name in LENGTHS]
        limit = next((int(length) for length in lengths if length), limit)
        scalings += list_scalings(table)
    scaled = [scale_length(limit, scaling) for scaling in scalings if is_extending(scaling)]
    known = [length for length in scaled if length is not None]
    return limit if not scaled else max(known) if len(known) == len(scaled) else None


def _judge_context(candidate: Candidate, facts: ModelFacts) -> Iterator[Finding]:
    """llama.cpp is not judged: it cuts a context that is too long, and says so."""
    settings, where = candidate.settings, "serve " + candidate.serve
    context = settings.tokens(options.CONTEXT) if candidate.engine != "llama_cpp" else None
    limit = find_context_limit(facts, settings)
    if not context:
        return
    if facts.context_length and limit is None:
        yield unknown(
            "the scaling of positions was not understood, so the context of {0} tokens was not judged".format(context), where
        )
    elif limit and context > limit:
        flag = settings.spelling(options.CONTEXT)
        if settings.is_on(options.LONG_CONTEXT):
            allows = settings.spelling(options.LONG_CONTEXT)
            yield unknown(
                "{0} {1} is longer than the model's context of {2} tokens; {3} allows it".format(flag, context, limit, allows),
                where,
            )
            return
        yield doubtful(
            what="the requested context is longer than the model's context",
            where=where,
            why="{0} tokens requested; the model was trained for {1}".format(context, limit),
            hint="set the context ({0}) to at most {1}, or scale the positions (YaRN)".format(flag.partition(" ")[0], limit),
        )
