# SPDX-License-Identifier: GPL-3.0-or-later
"""The attention memory of each layer, from the config of a Hugging Face model. Pure.

The layouts are those that vLLM allocates (vllm/config/model.py, vllm/v1/kv_cache_interface.py of 0.33.0, vllm/models of 0.32.0)
for the configs of transformers 5.24.0. A word that is not known makes the layout unknown: it never counts as full attention or
as nothing. Unknown on purpose: DeepSeek V4, whose bytes depend on the attention backend that vLLM chooses, and xLSTM, which no
engine serves.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.weights import model_facts as kinds
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import Attention, Layer
from ansible_collections.anvil.serving.plugins.module_utils.weights.recurrent_state import read_state
from ansible_collections.anvil.serving.plugins.module_utils.weights.weight_files import read_count, read_first_count

LAYER_LIMIT = 4096

_HYBRID, _HYBRID_WINDOW = "hybrid", "hybrid_sliding"
_WORDS: Dict[str, str] = {
    **dict.fromkeys(("full_attention", "attention", "global_attention", "global", "full", "indexed_attention"), kinds.FULL),
    **dict.fromkeys(("deepseek_sparse_attention", "minimax_m3_sparse", "attention+mlp", "*"), kinds.FULL),
    **dict.fromkeys(("sliding_attention", "sliding_window_attention", "local_attention", "sliding", "local"), kinds.WINDOW),
    "chunked_attention": kinds.CHUNKED,
    **dict.fromkeys(("linear_attention", "mamba", "mamba2", "conv", "recurrent", "kda", "gdn", "M"), kinds.LINEAR),
    **dict.fromkeys(("moe", "mlp", "sparse", "dense", "-", "E"), kinds.NONE),
    _HYBRID: _HYBRID,
    _HYBRID_WINDOW: _HYBRID_WINDOW,
}

# Layers whose number is a multiple of this have full attention, the others a window (class defaults of transformers).
_WINDOW_PERIODS = {
    "gemma2": 2,
    "gemma3_text": 6,
    "gemma3n_text": 5,
    "gemma4_text": 6,
    "gemma4_unified_text": 6,
    "cohere2": 4,
    "gpt_oss": 2,
    "olmo3": 4,
    "exaone4": 4,
    "exaone_moe": 4,
}
# Types whose sliding_window holds for every layer.
_ALL_WINDOWS = ("mistral", "ministral", "mixtral", "phi3", "phimoe", "starcoder2", "llama", "phi4mm", "voxtral_realtime_text")
_ALL_LINEAR = ("mamba", "mamba2", "falcon_mamba")
_LINEAR_PERIODS = {"qwen3_next": 4, "qwen3_5_text": 4, "qwen3_5_moe_text": 4, "qwen3_5": 4, "qwen3_5_moe": 4, "minimax": 2}
# Types that have a latent in their config, and whose engines keep whole heads.
_NO_LATENT = ("minicpm3", "plm")
# Encoders: a pass over a text leaves nothing behind.
_ENCODERS = re.compile(
    r"bert(?!.*decoder)|electra|mpnet|clip|siglip|^new$|^nomic|^ernie$|^vit$|_encoder$|^esm$|^fnet$|^roformer$|^xmod$|^data2vec-text$"
)
# Types without attention as an engine keeps it, whose configs look like those of a plain decoder.
_NOT_KNOWN = ("xlstm", "blt", "blt_local_decoder", "deepseek_v4", "deepseek_v41")
# Models that run their layers several times, and keep a cache for each time.
_LOOPS = ("num_loops", "total_ut_steps", "loop_num")
# Attention that selects its tokens by an index: only beside a latent is it known what the index keeps.
_INDEXED = ("indexed_attention", "deepseek_sparse_attention")

# Keys that speak of a memory which the branches below do not read.
_STRANGE = re.compile(
    r"compress_r|retention|^cca$|sliding_window_size|attn_window|attention_window|local_window|rwkv|recurrent|lightning|"
    r"sparse_att(?!ention_config$)|attention_type|block_type|kv_share|layer_group|use_cla|index_kpool"
)
# The same for keys that are read only together with a list of layers.
_HYBRID_KEYS = re.compile(r"mamba_|ssm_|^linear_(num|attn)|hybrid|attn_type|attn_layer|swa_|cross_attention_layers|^kda|^gdn")


def _repeat_pattern(layers: int, period: int, last: str, others: str) -> List[str]:
    return [others if (number + 1) % period else last for number in range(layers)]


def _pick_layers(layers: int, chosen: Any, first: int, word: str, others: str) -> Optional[List[str]]:
    """The words of layers of which a config lists the numbers; None if it is no list of numbers."""
    if not isinstance(chosen, list) or any(read_count(number) is None for number in chosen):
        return None
    return [word if number + first in chosen else others for number in range(layers)]


def _read_written_words(text: Mapping[str, Any], layers: int) -> Optional[List[str]]:
    """The layers' words where the config lists them, in any of the ways in which configs do."""
    for key in ("layer_types", "layers_block_type"):
        types = text.get(key)
        if isinstance(types, list) and types:
            return [str(word) for word in types]
    pattern = text.get("hybrid_override_pattern")
    if isinstance(pattern, str) and pattern:
        return list(pattern)
    types = text.get("attn_type_list")
    if isinstance(types, list) and types:
        return ["full_attention" if kind == 1 else "linear_attention" if kind == 0 else str(kind) for kind in types]
    pattern = text.get("hybrid_layer_pattern")  # MiMo: 1 has a window
    if isinstance(pattern, list) and pattern:
        return ["sliding_attention" if kind == 1 else "full_attention" if kind == 0 else str(kind) for kind in pattern]
    sparse = text.get("sparse_attention_config")  # MiniMax M3
    pattern = sparse.get("sparse_attention_freq") if isinstance(sparse, Mapping) else None
    if isinstance(pattern, list) and pattern:
        return ["minimax_m3_sparse" if kind == 1 else "full_attention" if kind == 0 else str(kind) for kind in pattern]
    linear = text.get("linear_attn_config")
    if isinstance(linear, Mapping):
        return _pick_layers(layers, linear.get("full_attn_layers"), 1, "full_attention", "linear_attention")
    for key, word, others in (
        ("attn_layer_indices", "full_attention", "linear_attention"),
        ("full_attn_idxs", "full_attention", "conv"),
        ("hybrid_layer_ids", "hybrid", "mamba"),
    ):
        found = _pick_layers(layers, text.get(key), 0, word, others)
        if found is not None:
            return found
    period, offset = read_count(text.get("attn_layer_period")), read_count(text.get("attn_layer_offset"))
    if period and offset is not None:
        return ["full_attention" if number % period == offset else "linear_attention" for number in range(layers)]
    return None


def _choose_words(text: Mapping[str, Any], layers: int) -> Tuple[List[str], Tuple[str, ...]]:
    """The word of each layer, and the keys that were not understood."""
    kind, window = text["model_type"], read_count(text.get("sliding_window"))
    written = _read_written_words(text, layers)
    strange = [
        key for key in text if _STRANGE.search(str(key)) and text[key] and not str(key).startswith(("num_kv_shared", "mtp_"))
    ]
    strange = [key for key in strange if key != "layers_block_type"]
    if written is not None:
        return written, tuple(strange)
    group = read_count(text.get("layer_group_size"))
    if kind == "bailing_hybrid" and group and layers % group == 0:  # engines differ in what a last group that is not full is
        return _repeat_pattern(layers, group, "full_attention", "linear_attention"), tuple(
            key for key in strange if key != "layer_group_size"
        )
    interval = read_count(text.get("full_attention_interval")) or _LINEAR_PERIODS.get(kind)
    if interval:
        return _repeat_pattern(layers, interval, "full_attention", "linear_attention"), tuple(strange)
    if kind in _ALL_LINEAR:
        return ["linear_attention"] * layers, tuple(strange)
    if kind == "falcon_h1":
        return [_HYBRID] * layers, tuple(strange)
    chunk = read_count(text.get("attention_chunk_size"))
    if chunk and kind.startswith("llama4"):
        roped = text.get("no_rope_layers")
        if isinstance(roped, list) and len(roped) == layers:
            return ["chunked_attention" if rope else "full_attention" for rope in roped], tuple(strange)
        period = read_count(text.get("no_rope_layer_interval")) or 4
        return _repeat_pattern(layers, period, "full_attention", "chunked_attention"), tuple(strange)
    strange += [key for key in text if _HYBRID_KEYS.search(str(key)) and text[key]]
    if not window:
        return ["full_attention"] * layers, tuple(strange)
    pattern = text.get("sliding_window_pattern", text.get("_sliding_window_pattern", text.get("global_attn_every_n_layers")))
    if isinstance(pattern, str) and pattern and set(pattern) <= {"L", "G"}:
        letters = {"L": "sliding_attention", "G": "full_attention"}
        return [letters[pattern[number % len(pattern)]] for number in range(layers)], tuple(strange)
    every = read_count(pattern) or _WINDOW_PERIODS.get(kind)
    if every:
        return _repeat_pattern(layers, every, "full_attention", "sliding_attention"), tuple(strange)
    if "use_sliding_window" in text or kind.startswith("qwen") or kind in ("dots1", "smollm3"):
        first = layers if text.get("use_sliding_window") is not True else read_count(text.get("max_window_layers")) or 0
        return ["sliding_attention" if number >= first else "full_attention" for number in range(layers)], tuple(strange)
    if kind not in _ALL_WINDOWS:
        strange.append("sliding_window of {0}".format(kind or "?"))
    return ["sliding_attention"] * layers, tuple(strange)


def _read_heads(text: Mapping[str, Any], kind: str) -> Tuple[int, int, int]:
    """KV heads, and elements of a key and of a value, of the layers of one kind. Zeros where the config does not say."""
    heads, width = read_first_count(text, "num_attention_heads") or 0, read_first_count(text, "hidden_size") or 0
    named, head = read_count(text.get("num_key_value_heads")), read_count(text.get("head_dim"))
    grouped = heads if named is None else named
    if text.get("multi_query") and text.get("new_decoder_architecture") is not True:
        grouped = 1  # Falcon and GPTBigCode; the newer Falcon names groups
    head = head or (width // heads if heads else 0)
    value = read_count(text.get("v_head_dim")) if text["model_type"].startswith("mimo") else None
    if kind == kinds.WINDOW:
        other = text.get("attention_other_setting")  # Step 3.5: layers with a window have other heads
        other = other if isinstance(other, Mapping) else {}
        grouped = read_first_count(text, "swa_num_key_value_heads") or read_count(other.get("num_attention_groups")) or grouped
        head = read_count(text.get("swa_head_dim")) or read_count(other.get("head_dim")) or head
        value = read_count(text.get("swa_v_head_dim")) or value
    elif text["model_type"].startswith("gemma4"):
        head = read_count(text.get("global_head_dim")) or head
        if text.get("attention_k_eq_v") is not False:
            grouped = read_count(text.get("num_global_key_value_heads")) or grouped
    return grouped, head, value or head


def _has_indexer(text: Mapping[str, Any], number: int) -> bool:
    """Whether a layer of sparse attention selects its tokens itself; the others take the selection of a layer before."""
    types = text.get("indexer_types", text.get("index_topk_pattern"))
    if isinstance(types, (list, str)) and number < len(types):
        return types[number] in ("full", "F")
    frequency, offset = read_count(text.get("index_topk_freq")) or 1, read_first_count(text, "index_skip_topk_offset")
    return max(number - (2 if offset is None else offset) + 1, 0) % frequency == 0


def _read_latent(text: Mapping[str, Any]) -> Optional[Layer]:
    """A layer of multi-head latent attention; None where the model has none."""
    latent, rope = read_count(text.get("kv_lora_rank")), read_count(text.get("qk_rope_head_dim"))
    if not latent or rope is None or text["model_type"] in _NO_LATENT or text.get("use_mla") is False:
        return None
    index = read_count(text.get("index_head_dim")) if text.get("index_topk") else None
    # The indexer of DeepSeek V3.2 keeps one key in fp8 for each token, and a scale of 4 bytes for each 128 elements.
    return Layer(kinds.MLA, 1, 1, latent + rope, token_bytes=index + index // 128 * 4 if index else 0)


def _read_block_index(text: Mapping[str, Any]) -> int:
    """Bytes for each token of the indexer of MiniMax M3: one key of 16 bits, whatever the KV type."""
    sparse = text.get("sparse_attention_config")
    named = read_count(sparse.get("sparse_index_dim")) if isinstance(sparse, Mapping) else None
    return 2 * (named or read_count(text.get("index_head_dim")) or 128)


def _overrides(text: Mapping[str, Any], number: int) -> Mapping[str, Any]:
    """What a config says of one layer only: lists with a number for each layer, or per_layer_config of transformers 5."""
    found: Dict[str, Any] = {}
    for key, names in (
        ("num_key_value_heads", ("num_key_value_heads", "num_key_value_heads_per_layer", "num_kv_heads")),
        ("head_dim", ("head_dim",)),
    ):
        for name in names:
            values = text.get(name)
            if isinstance(values, list) and number < len(values) and read_count(values[number]) is not None:
                found[key] = values[number]
    layers = text.get("per_layer_config")
    own = layers.get(str(number)) if isinstance(layers, Mapping) else None
    return {**found, **own} if isinstance(own, Mapping) else found


def _build_layer(text: Mapping[str, Any], kind: str, latent: Optional[Layer], state: int, index: int = 0) -> List[Layer]:
    """index: bytes for each token of an indexer beside the keys and values of full attention."""
    if kind == kinds.NONE:
        return [Layer(kinds.NONE)]
    if kind == kinds.LINEAR:
        return [Layer(kinds.LINEAR, state=state)]
    if kind in (_HYBRID, _HYBRID_WINDOW):
        attention = kinds.FULL if kind == _HYBRID else kinds.WINDOW
        return [*_build_layer(text, attention, latent, state), Layer(kinds.LINEAR, state=state)]
    if latent is not None and kind == kinds.FULL:
        return [latent]
    window = read_count(text.get("attention_chunk_size" if kind == kinds.CHUNKED else "sliding_window")) or 0
    if kind in (kinds.WINDOW, kinds.CHUNKED) and not window:
        kind = kinds.FULL
    heads, key, value = _read_heads(text, kind)
    if text["model_type"] in _NO_LATENT:
        key = value = (read_count(text.get("qk_nope_head_dim")) or 0) + (read_count(text.get("qk_rope_head_dim")) or 0)
    return [Layer(kind, 1, heads, key, value, window if kind != kinds.FULL else 0, token_bytes=index)]


def _merge_layers(layers: Sequence[Layer]) -> Tuple[Layer, ...]:
    """Equal layers as one, in the order in which they first appear."""
    counts: Dict[Layer, int] = {}
    for layer in layers:
        counts[layer] = counts.get(layer, 0) + 1
    return tuple(replace(layer, count=count) for layer, count in counts.items())


def _repeat_loops(text: Mapping[str, Any], layers: Sequence[Layer], loops: int) -> List[Layer]:
    """The layers of a looped model, each time that they run. IQuest's LoopCoder sees everything the first time only."""
    window = read_count(text.get("loop_window_size"))
    again = [
        replace(layer, kind=kinds.WINDOW, window=window) if window and layer.kind == kinds.FULL else layer for layer in layers
    ]
    return [*layers, *again * (loops - 1)]


def _read_blocks(text: Mapping[str, Any], blocks: Sequence[Any]) -> Optional[Attention]:
    """Nemotron NAS (DeciLM): each block says how many heads share one KV head, or that it has no attention."""
    heads, _key, _value = _read_heads({**text, "num_key_value_heads": None}, kinds.FULL)
    head = _read_heads(text, kinds.FULL)[1]
    found = []
    for block in blocks:
        attention = block.get("attention") if isinstance(block, Mapping) else None
        if not isinstance(attention, Mapping):
            return None
        group = read_count(attention.get("n_heads_in_group"))
        if attention.get("no_op") or attention.get("replace_with_linear"):
            found.append(Layer(kinds.NONE))
        elif group:
            found.append(Layer(kinds.FULL, 1, heads // group, head, head))
        else:
            return Attention((), ("block_configs",))
    return Attention(_merge_layers(found))


def _read_decoder(text: Mapping[str, Any]) -> Optional[Attention]:
    """An encoder-decoder (Whisper, BART): the decoder's own tokens, and those of the encoder once for each sequence."""
    layers, heads = (
        read_first_count(text, "decoder_layers", "num_decoder_layers"),
        read_first_count(text, "decoder_attention_heads"),
    )
    width, source = (
        read_first_count(text, "hidden_size"),
        read_first_count(text, "max_source_positions", "max_position_embeddings"),
    )
    if not layers or not heads or not width or layers > LAYER_LIMIT:
        return None
    head = width // heads
    own = Layer(kinds.FULL, layers, heads, head, head)
    return Attention(
        (own, Layer(kinds.CROSS, layers, heads, head, head, source or 0)), () if source else ("max_source_positions",)
    )


def read_attention(text: Mapping[str, Any]) -> Optional[Attention]:
    """The layers of a model; None where its config does not describe them. text: from ``text_config``."""
    kind = text["model_type"]
    layers = read_first_count(text, "num_hidden_layers") or 0
    if text.get("is_encoder_decoder") is True or "decoder_layers" in text:
        return _read_decoder(text)
    if layers > LAYER_LIMIT:
        return None
    if kind in _NOT_KNOWN:
        return Attention((Layer(kinds.UNKNOWN, layers),), (kind,))
    # The text models of PaliGemma look both ways within their prompt, and keep it for the answer all the same.
    both_ways = text.get("use_bidirectional_attention") in (True, "all") and kind not in ("gemma", "gemma2")
    both_ways = both_ways or text.get("is_causal") is False
    if layers and (both_ways or (_ENCODERS.search(kind) and not text.get("is_decoder"))):
        return Attention((Layer(kinds.NONE, layers),))
    blocks = text.get("block_configs")
    if isinstance(blocks, list) and 0 < len(blocks) <= LAYER_LIMIT:
        return _read_blocks(text, blocks)
    if kind.startswith("longcat_flash"):
        layers *= 2  # two attentions in each layer
    words, strange = _choose_words(text, layers)
    if layers and not kind.startswith("nemotron_h"):
        words = words[:layers]  # the others are of layers for speculative decoding
    if not words or len(words) > LAYER_LIMIT or (layers and len(words) != layers and not kind.startswith("nemotron_h")):
        return None if not words else Attention((), ("{0} words for {1} layers".format(len(words), layers),))
    unknown = [*strange, *(word for word in dict.fromkeys(words) if word not in _WORDS)]
    if unknown:
        return Attention((Layer(kinds.UNKNOWN, len(words)),), tuple(unknown))
    latent, state = _read_latent(text), read_state(text)
    unknown = [word for word in _INDEXED if word in words and latent is None]
    if not state and any(_WORDS[word] in (kinds.LINEAR, _HYBRID, _HYBRID_WINDOW) for word in words):
        unknown.append("the size of the recurrent state of {0}".format(kind or "?"))
    if unknown:
        return Attention((Layer(kinds.UNKNOWN, len(words)),), tuple(unknown))
    shared = read_count(text.get("num_kv_shared_layers")) or 0
    found: List[Layer] = []
    for number, word in enumerate(words):
        if number >= len(words) - shared > 0:
            found.append(Layer(kinds.SHARED))
        else:
            own = replace(latent, token_bytes=0) if latent is not None and not _has_indexer(text, number) else latent
            index = _read_block_index(text) if word == "minimax_m3_sparse" else 0
            found += _build_layer({**text, **_overrides(text, number)}, _WORDS[word], own, state, index)
    if any(layer.kind in (kinds.FULL, kinds.WINDOW, kinds.CHUNKED) and not layer.elements for layer in found):
        return None
    loops = read_first_count(text, *_LOOPS) or 1
    if loops * len(found) > LAYER_LIMIT:
        return Attention((Layer(kinds.UNKNOWN, len(found)),), ("{0} loops".format(loops),))
    return Attention(_merge_layers(_repeat_loops(text, found, loops)))
