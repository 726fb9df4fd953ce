# SPDX-License-Identifier: GPL-3.0-or-later
"""The numbers that a config.json leaves out because they are the defaults of its class in transformers. Pure data.

A text config inside a multimodal config is saved without the values that its class has by default, so google/gemma-3-4b-it
names no heads at all.
"""

from __future__ import annotations

from typing import Dict

_COLUMNS = (
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_size",
    "sliding_window",
    "max_position_embeddings",
    "vocab_size",
)

# model_type, the columns above (- for none), then other keys; a line that starts with spaces goes on. From the configuration
# classes of transformers 5.24.0.
_ROWS = """
llama 32 32 - - 4096 - 2048 32000
mistral 32 32 8 - 4096 4096 - 32000
ministral 32 32 8 - 4096 4096 - 32000
ministral3 34 32 8 128 4096 - 262144 131072
mistral4 36 32 32 - 4096 - 1048576 131072 kv_lora_rank=256 qk_nope_head_dim=64 qk_rope_head_dim=64
mixtral 32 32 8 - 4096 - - 32000
qwen2 32 32 32 - 4096 4096 32768 151936 max_window_layers=28
qwen2_moe 24 16 16 - 2048 4096 32768 151936 max_window_layers=28
qwen2_vl_text 80 64 8 - 8192 4096 32768 152064
qwen2_5_vl_text 80 64 8 - 8192 4096 32768 152064
qwen2_5_omni_text 28 28 4 - 3584 32768 32768 152064
qwen3 32 32 32 128 4096 4096 32768 151936 max_window_layers=28
qwen3_moe 24 32 4 - 2048 4096 32768 151936
qwen3_next 48 16 2 256 2048 - 32768 151936
  linear_conv_kernel_dim=4 linear_key_head_dim=128 linear_num_key_heads=16 linear_num_value_heads=32 linear_value_head_dim=128
qwen3_vl_text 32 32 32 128 4096 - 128000 151936
qwen3_vl_moe_text 24 16 16 - 2048 - 128000 151936
qwen3_omni_moe_text 28 28 4 - 2048 - 32768 3584
qwen3_5_text 32 16 4 256 4096 - 32768 248320
  linear_conv_kernel_dim=4 linear_key_head_dim=128 linear_num_key_heads=16 linear_num_value_heads=32 linear_value_head_dim=128
qwen3_5_moe_text 40 16 2 256 2048 - 32768 248320
  linear_conv_kernel_dim=4 linear_key_head_dim=128 linear_num_key_heads=16 linear_num_value_heads=32 linear_value_head_dim=128
gemma 28 16 16 256 3072 - 8192 256000
gemma2 26 8 4 256 2304 4096 8192 256000
gemma3_text 26 8 4 256 2304 4096 131072 262208
gemma3n_text 35 8 2 256 2048 512 32768 262400 num_kv_shared_layers=15
gemma4_text 30 8 4 256 2304 512 131072 262144 global_head_dim=512
gemma4_unified_text 30 8 4 256 2304 1024 262144 262144 global_head_dim=512
gpt_oss 36 64 8 64 2880 128 131072 201088
deepseek_v2 32 32 - - 4096 - 2048 102400 kv_lora_rank=512 qk_nope_head_dim=128 qk_rope_head_dim=64
deepseek_v3 61 128 128 - 7168 - 4096 129280 kv_lora_rank=512 qk_nope_head_dim=128 qk_rope_head_dim=64
deepseek_v32 61 128 128 - 7168 - 163840 129280 index_head_dim=128 kv_lora_rank=512 qk_nope_head_dim=128 qk_rope_head_dim=64
glm 40 32 2 128 4096 - 131072 151552
glm4 40 32 2 128 4096 - 131072 151552
glm4_moe 46 96 8 - 4096 - 131072 151552
glm4_moe_lite 47 20 20 - 2048 - 202752 154880 kv_lora_rank=512 qk_nope_head_dim=192 qk_rope_head_dim=64
glm_moe_dsa 78 64 64 - 6144 - 202752 154880 index_head_dim=128 kv_lora_rank=512 qk_nope_head_dim=192 qk_rope_head_dim=64
glm4v_text 40 32 2 - 4096 - 32768 151552
glm4v_moe_text 46 96 8 - 4096 - 65536 151424
glm_ocr_text 16 16 8 - 1024 - 131072 59392
llama4_text 48 40 8 128 5120 - - 202048 attention_chunk_size=8192 no_rope_layer_interval=4
mllama_text_model 40 32 8 - 4096 - 131072 128256
jamba 32 32 8 - 4096 - 262144 65536 attn_layer_offset=4 attn_layer_period=8 mamba_d_conv=4 mamba_d_state=16 mamba_expand=2
bamba 32 32 8 - 4096 - 262144 128000 mamba_d_conv=4 mamba_d_state=256 mamba_expand=2 mamba_n_groups=1 mamba_n_heads=128
nemotron_h - 32 8 128 4096 - 4096 131072 conv_kernel=4 mamba_head_dim=64 mamba_num_heads=128 n_groups=8 ssm_state_size=128
granite 32 32 - - 4096 - 2048 32000
granitemoe 32 32 - - 4096 - 2048 32000
granitemoehybrid 32 32 - - 4096 - 2048 32000 mamba_d_conv=4 mamba_d_state=256 mamba_expand=2 mamba_n_groups=1 mamba_n_heads=128
minimax_m2 62 48 8 128 3072 - 196608 200064
kimi_linear 27 32 32 - 2304 - 1048576 163840 kv_lora_rank=512
  linear_conv_kernel_dim=4 qk_nope_head_dim=128 qk_rope_head_dim=64
phi 24 32 - - 2048 - 2048 51200
phi3 32 32 - - 3072 - 4096 32064
phimoe 32 32 8 - 4096 - - 32064
cohere 40 64 - - 8192 - 8192 256000
cohere2 40 64 - - 8192 4096 8192 256000
falcon 32 71 - - 4544 - 2048 65024 multi_query=1
falcon_h1 32 32 8 - 4096 - 8192 128000 mamba_d_conv=4 mamba_d_state=256 mamba_expand=2 mamba_n_groups=1 mamba_n_heads=128
gpt2 12 12 - - 768 - 1024 50257
gptj 28 16 - - 4096 - 2048 50400
gpt_neox 44 64 - - 6144 - 2048 50432
gpt_bigcode 12 12 - - 768 - 1024 50257 multi_query=1
opt 12 12 - - 768 - 2048 50272
mpt 24 16 - - 2048 - - 50368
starcoder2 30 24 2 - 3072 - 4096 49152
stablelm 32 32 32 - 2560 - 4096 50304
olmo2 32 32 - - 4096 - 2048 50304
olmo3 32 32 - - 4096 4096 2048 50304
lfm2 32 32 8 - 2560 - 128000 65536 conv_L_cache=3
lfm2_moe 32 32 8 - 2048 - 128000 65536 conv_L_cache=3
exaone4 32 32 32 - 4096 4096 2048 102400
exaone_moe 32 32 32 - 4096 4096 2048 102400
smollm3 36 16 4 - 2048 - 32768 128256 no_rope_layer_interval=4
ernie4_5 18 16 2 128 1024 - 131072 103424
ernie4_5_moe 28 20 4 - 2560 - 131072 103424
ernie4_5_vl_moe_text 28 20 4 - 2560 - 131072 103424
aria_text 32 32 - - 4096 - 2048 32000
zamba2 54 32 - - 2560 - 4096 32000 mamba_d_conv=4 mamba_d_state=64 mamba_expand=2
whisper - - - - - - - 51865 decoder_attention_heads=6 decoder_layers=4 max_source_positions=1500 max_target_positions=448
voxtral_realtime_text 32 32 8 - 4096 4096 - 32000
dots1 62 32 32 - 4608 4096 2048 152064
seed_oss 64 80 8 128 4096 - 524288 155136
apertus 32 32 - - 4096 - 65536 131072
minicpm3 62 40 40 - 2560 - 32768 73448 kv_lora_rank=256 qk_nope_head_dim=64 qk_rope_head_dim=32
"""


def find_defaults(model_type: str) -> Dict[str, int]:
    """The defaults of a model type; empty where the type is not in the table, or its class has none."""
    rows = _ROWS.replace("\n  ", " ")
    start = rows.find("\n{0} ".format(model_type)) if model_type else -1
    if start < 0:
        return {}
    words = rows[start + 1 : rows.index("\n", start + 1)].split()[1:]
    found = {key: int(word) for key, word in zip(_COLUMNS, words) if word != "-"}
    for word in words[len(_COLUMNS) :]:
        key, _sign, number = word.partition("=")
        found[key] = int(number)
    return found
