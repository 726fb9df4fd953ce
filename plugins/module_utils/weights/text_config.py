# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of a config.json that describes the text model: found in nested configs, class defaults added, one name for each key.

Mistral's own params.json is read as well. Pure.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional

from ansible_collections.anvil.serving.plugins.module_utils.weights.architecture_defaults import find_defaults
from ansible_collections.anvil.serving.plugins.module_utils.weights.weight_files import read_count

# Where the text model of a multimodal model is described; thinker_config holds a text_config itself.
_NESTED = (
    "thinker_config",
    "text_config",
    "llm_config",
    "language_config",
    "language_model_config",
    "llm",
    "text_model",
    "language_model",
    "decoder_config",
)

# The name that this collection reads -> other names of it, best first.
_ALIASES = {
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers", "n_block"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads", "attention_heads"),
    "hidden_size": ("n_embd", "d_model", "n_embed", "dim", "model_dim"),
    "num_key_value_heads": ("n_head_kv", "num_kv_heads", "n_kv_heads", "num_attention_groups", "num_query_groups"),
    "head_dim": ("attention_head_dim", "kv_channels", "hidden_size_per_head", "head_size", "d_kv", "d_head"),
    "max_position_embeddings": (
        "n_positions",
        "seq_length",
        "max_seq_len",
        "model_max_length",
        "max_sequence_length",
        "max_seq_length",
        "n_ctx",
        "max_target_positions",
    ),
    "vocab_size": ("padded_vocab_size", "n_vocab"),
}

# Keys of the outer config that hold for the text model where it does not have them.
_OUTER = ("max_position_embeddings", "vocab_size", "quantization_config", "torch_dtype", "dtype")

# architectures[0] without these endings, in lower case, is the model type where a config does not name it.
_ENDINGS = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel", "Model", "ForSequenceClassification", "ForMaskedLM")


def _find_nested(config: Mapping[str, Any]) -> Optional[Mapping[str, Any]]:
    for key in _NESTED:
        inner = config.get(key)
        if isinstance(inner, Mapping) and inner:
            return inner
    return None


def name_model_type(config: Mapping[str, Any]) -> str:
    """The model type of a config, from its architecture where it does not say; empty if unknown."""
    named = config.get("model_type")
    if isinstance(named, str) and named:
        return named[:64]
    architectures = config.get("architectures")
    word = architectures[0] if isinstance(architectures, list) and architectures else ""
    if not isinstance(word, str) or len(word) > 64:
        return ""
    for ending in _ENDINGS:
        if word.endswith(ending):
            word = word[: -len(ending)]
            break
    # GptOss -> gpt_oss, Qwen3Next -> qwen3_next, DeepseekV3 -> deepseek_v3
    return "".join("_" + char.lower() if char.isupper() and number else char.lower() for number, char in enumerate(word))


def read_text_config(config: Mapping[str, Any]) -> Dict[str, Any]:
    """The text model's config: flat, with the defaults of its class, and numbers under the names that llama uses.

    ``model_type`` is the text model's. Values of the wrong type are left as they are; who reads them checks.
    """
    outer, text, depth = config, config, 0
    while depth < 3:
        inner = _find_nested(text)
        if inner is None:
            break
        outer, text, depth = text, inner, depth + 1
    found = {key: value for key, value in text.items() if value is not None}
    for key in _OUTER:
        if key not in found and config.get(key) is not None:
            found[key] = config[key]
    model_type = name_model_type(text)
    if not model_type and depth:
        # A nested config without a type is the one that belongs to the outer type: gemma3 -> gemma3_text.
        model_type = name_model_type(outer)
        model_type = next((word for word in (model_type + "_text", model_type) if find_defaults(word)), model_type)
    found["model_type"] = model_type
    attention = text.get("attn_config")
    if isinstance(attention, Mapping) and read_count(attention.get("kv_n_heads")):
        found.setdefault("num_key_value_heads", attention["kv_n_heads"])
    if text.get("multi_query_attention") is True and read_count(text.get("multi_query_group_num")):
        found["num_key_value_heads"] = text["multi_query_group_num"]
    for key, others in _ALIASES.items():
        if read_count(found.get(key)) is None:
            number = next((found[other] for other in others if read_count(found.get(other))), None)
            if number is not None:
                found[key] = number
    for key, default in find_defaults(model_type).items():
        # A key that is there and null (sliding_window: null) is not left out.
        if key not in found and key not in text:
            found[key] = default
    return found


def read_mistral_params(params: Mapping[str, Any]) -> Dict[str, Any]:
    """Mistral's params.json (``--config-format mistral``) as a config.json has it."""
    found: Dict[str, Any] = {key: value for key, value in params.items() if not isinstance(value, Mapping)}
    window = params.get("sliding_window")
    if isinstance(window, list):
        # One number for each layer of a repeated pattern; null is full attention.
        layers = read_count(params.get("n_layers")) or 0
        if 0 < layers <= 4096 and window:
            words = ["sliding_attention" if read_count(word) else "full_attention" for word in window]
            found["layer_types"] = [words[number % len(words)] for number in range(layers)]
            found["sliding_window"] = max([read_count(word) or 0 for word in window])
    else:
        found["sliding_window"] = window
    moe = params.get("moe")
    if isinstance(moe, Mapping):
        found["num_local_experts"] = moe.get("num_experts")
    found["model_type"] = "deepseek_v3" if params.get("kv_lora_rank") else "mistral"
    vision = params.get("vision_encoder") or params.get("multimodal")
    found["architectures"] = ["PixtralForConditionalGeneration" if vision else "MistralForCausalLM"]
    return found
