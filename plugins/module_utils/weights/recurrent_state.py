# SPDX-License-Identifier: GPL-3.0-or-later
"""The recurrent state that one sequence keeps in a layer of linear attention, Mamba or short convolution, in bytes. Pure."""

from __future__ import annotations

from typing import Any, Mapping

from ansible_collections.anvil.serving.plugins.module_utils.weights.weight_files import read_count, read_first_count

# Types whose state vLLM keeps in 32 bits although the config does not say so.
_WIDE = ("nemotron_h", "kimi_linear")


def read_state(text: Mapping[str, Any]) -> int:
    """Bytes for one sequence and layer, as vLLM shapes it (mamba_utils.py); 0 where the config does not give the numbers.

    The convolution keeps 16 bits, the state 16 or what the config says.
    """

    def read(*keys: str) -> int:
        return read_first_count(text, *keys) or 0

    said = str(text.get("mamba_ssm_dtype") or text.get("mamba_ssm_cache_dtype") or "")
    width = 4 if said == "float32" or (not said and text["model_type"] in _WIDE) else 2
    hidden, kernel = read("hidden_size"), read("linear_conv_kernel_dim", "mamba_d_conv", "conv_kernel") or 4
    linear = text.get("linear_attn_config")
    if isinstance(linear, Mapping):  # Kimi: queries, keys and values have their own convolution
        heads, head = read_count(linear.get("num_heads")) or 0, read_count(linear.get("head_dim")) or 0
        taps = (read_count(linear.get("short_conv_kernel_size")) or 4) - 1
        return 3 * heads * head * taps * 2 + heads * head * head * width
    if text["model_type"] == "bailing_hybrid":  # Ling 3 is as Kimi, Ling 2.5 has lightning attention without a convolution
        heads, taps = read("num_attention_heads"), read("short_conv_kernel_size")
        head = read("head_dim") or (hidden // heads if heads else 0)
        return 3 * heads * head * (taps - 1) * 2 + heads * head * head * 4 if taps else heads * head * head * width
    if read("linear_num_heads") and read("linear_head_dim"):  # Kimi, as transformers 5 writes it
        heads, head = read("linear_num_heads"), read("linear_head_dim")
        return 3 * heads * head * (kernel - 1) * 2 + heads * head * head * 4
    if read("linear_num_value_heads"):  # gated delta net
        keys, key, values, value = (
            read("linear_num_key_heads"),
            read("linear_key_head_dim"),
            read("linear_num_value_heads"),
            read("linear_value_head_dim"),
        )
        return (2 * keys * key + values * value) * (kernel - 1) * 2 + values * key * value * width
    if read("conv_L_cache"):  # LFM2
        return (read("conv_dim") or hidden) * (read("conv_L_cache") - 1) * 2
    depth = read("mamba_d_state", "ssm_state_size", "state_size")
    heads = read("mamba_n_heads", "mamba_num_heads", "n_mamba_heads")
    if text["model_type"] == "mamba2":
        heads = heads or read("num_heads")
    if depth and heads:  # Mamba 2
        inner = read("mamba_d_ssm", "mamba_intermediate_size") or read("mamba_expand", "expand") * hidden
        head = read("mamba_d_head", "mamba_head_dim", "mamba_headdim") or inner // heads
        inner = heads * head
        groups = read("mamba_n_groups", "mamba_ngroups", "n_groups") or 1
        return (inner + 2 * groups * depth) * (kernel - 1) * 2 + inner * depth * width
    if text["model_type"] in ("mamba", "falcon_mamba"):
        depth = depth or 16
    if depth:  # Mamba
        inner = read("mamba_expand") * hidden or read("intermediate_size") or 2 * hidden
        return inner * (kernel - 1) * 2 + inner * depth * width
    if text["model_type"].startswith("minimax"):  # lightning attention
        heads = read("num_attention_heads")
        head = read("head_dim") or (hidden // heads if heads else 0)
        return heads * head * head * width
    return 0
