"""The attention memory of published architectures, read from configs and GGUF headers, compared with known figures."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.weights import model_facts as kinds
from ansible_collections.anvil.serving.plugins.module_utils.weights.attention_layers import read_attention
from ansible_collections.anvil.serving.plugins.module_utils.weights.gguf_attention import read_gguf_attention
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import Attention, Layer
from ansible_collections.anvil.serving.plugins.module_utils.weights.text_config import read_mistral_params, read_text_config
from architectures import ARCHITECTURES, GGUFS, MIB, MISTRAL_PARAMS, RECURRENT_MIB, Architecture, gguf, latent, llama


def read_config(config: dict[str, Any]) -> Attention | None:
    return read_attention(read_text_config(config))


def read_header(meta: dict[str, Any]) -> Attention | None:
    return read_gguf_attention(meta["general.architecture"], meta)


def layers_of(attention: Attention | None) -> dict[str, int]:
    assert attention is not None
    counts: dict[str, int] = {}
    for layer in attention.layers:
        counts[layer.kind] = counts.get(layer.kind, 0) + layer.count
    return counts


def test_the_table_has_at_least_forty_architectures() -> None:
    assert len({row.name for row in (*ARCHITECTURES, *MISTRAL_PARAMS)}) >= 40


@pytest.mark.parametrize("row", ARCHITECTURES, ids=lambda row: row.name)
def test_bytes_per_token_from_a_config(row: Architecture) -> None:
    attention = read_config(row.config)
    assert attention is not None and attention.exact, attention
    assert attention.bytes_per_token == pytest.approx(row.per_token, rel=0.001)


@pytest.mark.parametrize("row", MISTRAL_PARAMS, ids=lambda row: row.name)
def test_bytes_per_token_from_mistrals_params(row: Architecture) -> None:
    attention = read_config(read_mistral_params(row.config))
    assert attention is not None and attention.exact
    assert attention.bytes_per_token == pytest.approx(row.per_token, rel=0.001)


@pytest.mark.parametrize("row", GGUFS, ids=lambda row: row.name)
def test_bytes_per_token_from_a_gguf_header(row: Architecture) -> None:
    attention = read_header(row.config)
    assert attention is not None and attention.exact, attention
    assert attention.bytes_per_token == pytest.approx(row.per_token, rel=0.001)


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "xlstm", "num_hidden_layers": 32, "hidden_size": 4096, "num_heads": 8},
        llama("deepseek_v4", 43, 64, 1, 4096, 512, compress_rates={"compressed_sparse_attention": 4}, sliding_window=128),
        llama("inkling_text", 6, 64, 8, 6144, 128, layer_types=["hybrid_sliding"] * 5 + ["hybrid"], sliding_window_size=512),
        llama("zaya", 4, 8, 2, 2048, 128, layer_types=["hybrid"] * 4, cca_time0=2),
        llama("qwen4_exp_text", 2, 16, 2, 2048, 256, layer_types=["linear_attention", "indexed_attention"], linear_num_heads=1),
        latent("glm5_next_text", 2, 64, 4096, rope=0, layer_types=["linear_attention", "indexed_attention"], index_kpool=16),
        latent("bailing_hybrid", 42, 32, 2560, layer_group_size=4),  # engines differ in the last, shorter group
        latent("deepseek_v41", 4, 128, 7168),  # also where the config leaves out what it compresses
        llama("zaya_old", 4, 8, 2, 2048, 128, cca=True),
        llama("unlimited_ocr", 4, 8, 8, 512, sliding_window_size=128),
        llama("ouro", 48, 16, 16, 2048, 128, total_ut_steps=5000),
    ],
    ids=lambda config: config["model_type"],
)
def test_a_memory_that_is_not_known_is_unknown(config: dict[str, Any]) -> None:
    attention = read_config(config)
    assert attention is not None and not attention.exact and attention.bytes_per_token is None, attention


@pytest.mark.parametrize("key", ["num_loops", "total_ut_steps", "loop_num"])
@pytest.mark.parametrize("loops", [None, 0, 1, 3, True, "3"])
def test_a_model_that_runs_its_layers_several_times_keeps_them_each_time(key: str, loops: Any) -> None:
    attention = read_config(llama("nanbeige", 4, 8, 2, 512, **{key: loops}))
    assert attention is not None and [layer.count for layer in attention.layers] == [12 if loops == 3 else 4], attention


@pytest.mark.parametrize(("architecture", "loops", "layers"), [("nanbeige", 2, 44), ("nanbeige", None, 22), ("llama", 2, 22)])
def test_llama_cpp_keeps_the_layers_of_a_looped_model_each_time(architecture: str, loops: int | None, layers: int) -> None:
    counts = {"block_count": 22, "embedding_length": 2560, "num_loops": loops}
    heads = {"attention.head_count": 20, "attention.head_count_kv": 4}
    attention = read_gguf_attention(architecture, {f"{architecture}.{key}": value for key, value in (counts | heads).items()})
    assert attention is not None and attention.exact and [layer.count for layer in attention.layers] == [layers]


@pytest.mark.parametrize("kind", ["gemma", "gemma2"])
def test_the_text_model_of_paligemma_keeps_its_prompt(kind: str) -> None:
    config = {"model_type": "paligemma", "text_config": llama(kind, 18, 8, 1, 2048, 256, use_bidirectional_attention=True)}
    assert layers_of(read_config(config)).get(kinds.NONE) is None


@pytest.mark.parametrize(("name", "mib"), RECURRENT_MIB)
def test_recurrent_state_of_a_gguf(name: str, mib: float) -> None:
    attention = read_header(next(row.config for row in GGUFS if row.name == name))
    assert attention is not None
    state = sum(layer.count * layer.state for layer in attention.layers)
    assert state / MIB == pytest.approx(mib, rel=0.01)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("Gemma 3 27B", {kinds.WINDOW: 52, kinds.FULL: 10}),
        ("Gemma 3n E4B", {kinds.WINDOW: 16, kinds.FULL: 4, kinds.SHARED: 15}),
        ("Llama 4 Maverick", {kinds.CHUNKED: 36, kinds.FULL: 12}),
        ("gpt-oss 120b", {kinds.WINDOW: 18, kinds.FULL: 18}),
        ("Trinity Large", {kinds.WINDOW: 45, kinds.FULL: 15}),
        ("Kimi Linear 48B", {kinds.MLA: 7, kinds.LINEAR: 20}),
        ("Nemotron 3 Nano 30B", {kinds.LINEAR: 23, kinds.NONE: 23, kinds.FULL: 6}),
        ("Falcon-H1 7B", {kinds.FULL: 44, kinds.LINEAR: 44}),
        ("Mistral 7B v0.1", {kinds.WINDOW: 32}),
        ("Whisper large v3", {kinds.FULL: 32, kinds.CROSS: 32}),
    ],
)
def test_layers_are_counted_by_kind(name: str, counts: dict[str, int]) -> None:
    assert layers_of(read_config(next(row.config for row in ARCHITECTURES if row.name == name))) == counts


@pytest.mark.parametrize(
    "config",
    [
        llama("llama", 4, 8, 8, 512, layer_types=["full_attention", "spiral_attention"] * 2),
        llama("llama", 4, 8, 8, 512, layer_types=["full_attention"] * 3),
        llama("deepseek_v4", 4, 8, 1, 512, compress_ratios=[4, 128, 4, 128]),
        llama("recurrent_gemma", 4, 8, 1, 512, block_types=["recurrent", "attention"]),
        llama("never_seen", 4, 8, 8, 512, sliding_window=128),
        llama("never_seen", 4, 8, 8, 512, mamba_d_state=16),
        llama("hunyuan", 4, 8, 8, 512, use_cla=True, cla_share_factor=2),
        llama("gpt_neo", 4, 8, 8, 512, attention_types=[[["global", "local"], 2]]),
    ],
)
def test_a_config_with_an_unknown_setting_is_unknown(config: dict[str, Any]) -> None:
    attention = read_config(config)
    assert attention is not None and not attention.exact and attention.unknown
    assert attention.bytes_per_token is None


@pytest.mark.parametrize(
    "header",
    [
        gguf("never-seen", 4, 8, 8, 512, ssm__state_size=128),
        gguf("deepseek4", 4, 8, 1, 512, attention__sliding_window=128),
        gguf("gemma4", 4, 8, 8, 512, 64, attention__sliding_window=128),  # its pattern must be in the header
        gguf("llama", 4, 8, 8, 512, attention__indexer__key_length=128),
    ],
)
def test_a_header_with_an_unknown_kind_of_memory_is_unknown(header: dict[str, Any]) -> None:
    attention = read_header(header)
    assert attention is not None and not attention.exact and attention.unknown


def test_null_does_not_mean_the_default() -> None:
    # mistral's class has a window of 4096, which published configs switch off with null
    wrapped = {"model_type": "mistral3", "text_config": {"model_type": "mistral", "sliding_window": None}}
    assert layers_of(read_config(wrapped)) == {kinds.FULL: 32}
    assert layers_of(read_config({"text_config": {"model_type": "mistral"}})) == {kinds.WINDOW: 32}


def test_a_deepseek_without_mla_keeps_full_heads() -> None:
    config = {"model_type": "deepseek_vl_v2", "language_config": llama("deepseek_v2", 12, 10, 10, 1280, use_mla=False)}
    assert layers_of(read_config(config)) == {kinds.FULL: 12}


def test_a_window_that_llama_cpp_ignores_for_an_architecture_is_not_counted() -> None:
    assert layers_of(read_header(gguf("qwen2", 4, 8, 8, 512, attention__sliding_window=128))) == {kinds.FULL: 4}
    lfm2 = gguf("lfm2", 3, 8, [0, 8, 0], 512, shortconv__l_cache=3, attention__sliding_window=128)
    assert layers_of(read_header(lfm2)) == {kinds.LINEAR: 2, kinds.WINDOW: 1}


def test_layer_types_of_draft_layers_are_not_counted() -> None:
    longer = llama("step3p5", 4, 8, 8, 512, sliding_window=128, layer_types=["full_attention", "sliding_attention"] * 3)
    assert layers_of(read_config(longer)) == {kinds.FULL: 2, kinds.WINDOW: 2}


def test_layers_may_differ_in_their_heads() -> None:
    decided = llama("decilm", 3, 64, None, 8192, num_key_value_heads_per_layer=[4, 2, 1], num_key_value_heads=8)
    attention = read_config(decided)
    assert attention is not None
    assert [layer.kv_heads for layer in attention.layers] == [4, 2, 1]
    blocks = [{"attention": {"n_heads_in_group": 8}}, {"attention": {"no_op": True, "n_heads_in_group": None}}]
    attention = read_config(llama("nemotron-nas", 2, 64, None, 8192, block_configs=blocks))
    assert attention == Attention((Layer(kinds.FULL, 1, 8, 128, 128), Layer(kinds.NONE)))
