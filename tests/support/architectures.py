"""Published architectures: the values of their config.json or GGUF header, and the bytes that a token takes in a 16-bit cache.

A row is published where a paper, a vendor or an engine's own log names its figure; the others are computed from an engine's code.
Only values are kept, of the keys that speak of memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# Where the figures come from.
GALLERY = "Raschka, LLM architecture gallery (KV cache / token, bf16)"
PAGED = "arXiv 2309.06180, section 2: 800 KB for each token of OPT-13B"
JAMBA = "arXiv 2403.19887, table 1: GB of KV cache at 256K tokens"
ISCA = "arXiv 2505.09343, table 1: KB for each token"
LOG = "llama.cpp, log of llama_kv_cache"
VLLM = "computed: vLLM 0.33.0, kv_cache_interface.py"
LLAMA_CPP = "computed: llama.cpp, llama-kv-cache.cpp"
PUBLISHED = (GALLERY, PAGED, JAMBA, ISCA, LOG)

KIB, MIB = 1024, 1024 * 1024


@dataclass(frozen=True)
class Architecture:
    """per_token: bytes over all layers whose cache grows, windows included."""

    name: str
    per_token: float
    source: str
    config: dict[str, Any]

    @property
    def is_published(self) -> bool:
        return self.source in PUBLISHED


def llama(
    kind: str, layers: int, heads: int, groups: int | None, width: int, head: int | None = None, **more: Any
) -> dict[str, Any]:
    """The keys that most decoders use."""
    config = {"model_type": kind, "num_hidden_layers": layers, "num_attention_heads": heads, "hidden_size": width, **more}
    if groups is not None:
        config["num_key_value_heads"] = groups
    if head is not None:
        config["head_dim"] = head
    return config


def latent(kind: str, layers: int, heads: int, width: int, rank: int = 512, rope: int = 64, **more: Any) -> dict[str, Any]:
    return llama(kind, layers, heads, heads, width, kv_lora_rank=rank, qk_rope_head_dim=rope, **more)


def pattern(layers: int, period: int, last: str, others: str) -> list[str]:
    return [others if (number + 1) % period else last for number in range(layers)]


QWEN25_7B = llama("qwen2", 28, 28, 4, 3584, sliding_window=32768, use_sliding_window=False, max_window_layers=28)
NEMOTRON_NANO = "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"
NEMOTRON_3_SUPER = "MEMEMEM*" + "EMEMEMEM*" * 2 + "EMEMEMEMEM*" * 4 + "EMEMEMEM*" + "EMEMEMEME"
MIMO_WINDOWS = [0 if n == 0 or (n + 1) % 6 == 0 else 1 for n in range(48)]
STEP_HEADS = {"attention_type": "sliding_attention", "num_attention_heads": 96, "num_attention_groups": 8, "head_dim": 128}
KIMI_K3_FULL = [*range(4, 94, 4), 93]
NEMOTRON_3_NANO = "MEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEM*EMEMEMEM*EMEMEMEME"
FULL, WINDOW, LINEAR = "full_attention", "sliding_attention", "linear_attention"

ARCHITECTURES = (
    # dense and grouped-query
    Architecture("GPT-2 XL", 300 * KIB, GALLERY, {"model_type": "gpt2", "n_layer": 48, "n_head": 25, "n_embd": 1600}),
    Architecture("OPT-13B", 800 * KIB, PAGED, llama("opt", 40, 40, None, 5120)),
    Architecture("Llama 2 7B", 128 * 1024**3 / 262144, JAMBA, llama("llama", 32, 32, 32, 4096)),
    Architecture("Llama 3 8B", 128 * KIB, GALLERY, llama("llama", 32, 32, 8, 4096)),
    Architecture("Llama 3.1 405B", 516096, ISCA, llama("llama", 126, 128, 8, 16384)),
    Architecture("Llama 3.2 1B", 32 * KIB, GALLERY, llama("llama", 16, 32, 8, 2048, 64)),
    Architecture("Nanbeige 4.1 3B", 64 * KIB, GALLERY, llama("llama", 32, 20, 4, 2560, 128)),
    # layers that run several times, with a cache for each time
    Architecture("Ouro 2.6B", 48 * 4 * 2 * 16 * 128 * 2, VLLM, llama("ouro", 48, 16, 16, 2048, 128, total_ut_steps=4)),
    Architecture(
        "IQuest Coder 40B Loop",
        80 * 2 * 2 * 8 * 128 * 2,
        VLLM,
        llama("iquestloopcoder", 80, 40, 8, 5120, 128, loop_num=2, loop_window_size=64),
    ),
    Architecture("Mistral 7B v0.1", 32 * 1024**3 / 262144, JAMBA, llama("mistral", 32, 32, 8, 4096, sliding_window=4096)),
    Architecture("Mixtral 8x7B", 32 * 1024**3 / 262144, JAMBA, llama("mixtral", 32, 32, 8, 4096, sliding_window=None)),
    Architecture("Qwen2.5 7B", 56 * KIB, VLLM, QWEN25_7B),
    Architecture("Qwen2.5 72B", 327680, ISCA, llama("qwen2", 80, 64, 8, 8192, sliding_window=131072, use_sliding_window=False)),
    Architecture("Qwen3 4B", 144 * KIB, GALLERY, llama("qwen3", 36, 32, 8, 2560, 128)),
    Architecture("Qwen3 8B", 144 * KIB, GALLERY, llama("qwen3", 36, 32, 8, 4096, 128)),
    Architecture("Qwen3 32B", 256 * KIB, GALLERY, llama("qwen3", 64, 64, 8, 5120, 128)),
    Architecture("Qwen3 235B-A22B", 188 * KIB, GALLERY, llama("qwen3_moe", 94, 64, 4, 4096, 128)),
    Architecture("Qwen3 Coder 30B-A3B", 96 * KIB, GALLERY, llama("qwen3_moe", 48, 32, 4, 2048, 128)),
    Architecture("OLMo 2 7B", 512 * KIB, GALLERY, llama("olmo2", 32, 32, 32, 4096)),
    Architecture(
        "SmolLM3 3B", 72 * KIB, GALLERY, llama("smollm3", 36, 16, 4, 2048, no_rope_layer_interval=4, use_sliding_window=False)
    ),
    Architecture("Phi-4", 200 * KIB, GALLERY, llama("phi3", 40, 40, 10, 5120, sliding_window=None)),
    Architecture("Phi-3 mini 4k", 384 * KIB, VLLM, llama("phi3", 32, 32, 32, 3072, sliding_window=2047)),
    Architecture("Grok 2", 256 * KIB, GALLERY, llama("git", 64, 64, 8, 8192, 128, architectures=["Grok1ForCausalLM"])),
    Architecture("MiniMax M2", 248 * KIB, GALLERY, llama("minimax_m2", 62, 48, 8, 3072, 128, attn_type_list=[1] * 62)),
    Architecture("GLM-4.5", 368 * KIB, GALLERY, llama("glm4_moe", 92, 96, 8, 5120, 128)),
    Architecture("GLM-4.5-Air", 184 * KIB, VLLM, llama("glm4_moe", 46, 96, 8, 4096, 128)),
    Architecture("Sarvam 30B", 19 * KIB, GALLERY, llama("sarvam_moe", 19, 64, 4, 4096, 64)),
    Architecture("ERNIE 4.5 21B-A3B", 56 * KIB, VLLM, llama("ernie4_5_moe", 28, 20, 4, 2560, 128)),
    Architecture("Command R 35B", 1280 * KIB, VLLM, llama("cohere", 40, 64, 64, 8192)),
    Architecture("Command R+", 256 * KIB, VLLM, llama("cohere", 64, 96, 8, 12288)),
    # other names of the same keys
    Architecture(
        "GLM-4-9B-chat",
        40 * KIB,
        VLLM,
        {
            "model_type": "chatglm",
            "num_layers": 40,
            "num_attention_heads": 32,
            "hidden_size": 4096,
            "kv_channels": 128,
            "multi_query_attention": True,
            "multi_query_group_num": 2,
        },
    ),
    Architecture(
        "Falcon 7B",
        8 * KIB,
        VLLM,
        llama("falcon", 32, 71, None, 4544, multi_query=True, new_decoder_architecture=False),
    ),
    Architecture(
        "Falcon 40B",
        120 * KIB,
        VLLM,
        llama("falcon", 60, 128, None, 8192, num_kv_heads=8, multi_query=True, new_decoder_architecture=True),
    ),
    Architecture(
        "MPT 7B",
        512 * KIB,
        VLLM,
        {"model_type": "mpt", "n_layers": 32, "n_heads": 32, "d_model": 4096, "attn_config": {"alibi": True}},
    ),
    Architecture("GPT-NeoX 20B", 1056 * KIB, VLLM, llama("gpt_neox", 44, 64, None, 6144)),
    Architecture(
        "StarCoder",
        20 * KIB,
        VLLM,
        {"model_type": "gpt_bigcode", "n_layer": 40, "n_head": 48, "n_embd": 6144, "multi_query": True},
    ),
    Architecture("StarCoder2 15B", 80 * KIB, VLLM, llama("starcoder2", 40, 48, 4, 6144, sliding_window=4096)),
    Architecture("MiniCPM3 4B", 930 * KIB, VLLM, latent("minicpm3", 62, 40, 2560, 256, 32, qk_nope_head_dim=64)),
    # windows and chunks
    Architecture("Gemma 2 9B", 336 * KIB, VLLM, llama("gemma2", 42, 16, 8, 3584, 256, sliding_window=4096)),
    Architecture(
        "Gemma 3 270M", 18 * KIB, GALLERY, llama("gemma3_text", 18, 4, 1, 640, 256, sliding_window=512, _sliding_window_pattern=6)
    ),
    Architecture(
        "Gemma 3 27B",
        496 * KIB,
        GALLERY,
        {"model_type": "gemma3", "text_config": llama("gemma3_text", 62, 32, 16, 5376, 128, sliding_window=1024)},
    ),
    Architecture(
        "Gemma 3 4B",
        136 * KIB,
        VLLM,
        {
            "model_type": "gemma3",
            "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34, "sliding_window": 1024},
        },
    ),
    Architecture(
        "Gemma 3n E4B",
        40 * KIB,
        VLLM,
        {
            "model_type": "gemma3n",
            "text_config": llama(
                "gemma3n_text",
                35,
                8,
                2,
                2048,
                256,
                sliding_window=512,
                num_kv_shared_layers=15,
                layer_types=pattern(35, 5, FULL, WINDOW),
            ),
        },
    ),
    Architecture(
        "Gemma 4 31B",
        880 * KIB,
        VLLM,
        {
            "model_type": "gemma4",
            "text_config": llama(
                "gemma4_text",
                60,
                32,
                16,
                5376,
                256,
                num_global_key_value_heads=4,
                global_head_dim=512,
                attention_k_eq_v=True,
                sliding_window=1024,
                layer_types=pattern(60, 6, FULL, WINDOW),
            ),
        },
    ),
    Architecture(
        "gpt-oss 20b",
        48 * KIB,
        GALLERY,
        llama("gpt_oss", 24, 64, 8, 2880, 64, sliding_window=128, layer_types=[WINDOW, FULL] * 12),
    ),
    Architecture(
        "gpt-oss 120b",
        72 * KIB,
        GALLERY,
        llama("gpt_oss", 36, 64, 8, 2880, 64, sliding_window=128, layer_types=[WINDOW, FULL] * 18),
    ),
    Architecture(
        "Command R7B", 128 * KIB, VLLM, llama("cohere2", 32, 32, 8, 4096, 128, sliding_window=4096, sliding_window_pattern=4)
    ),
    Architecture(
        "Command A", 256 * KIB, VLLM, llama("cohere2", 64, 96, 8, 12288, 128, sliding_window=4096, sliding_window_pattern=4)
    ),
    Architecture(
        "Tiny Aya", 72 * KIB, GALLERY, llama("cohere2", 36, 16, 4, 2048, 128, sliding_window=4096, sliding_window_pattern=4)
    ),
    Architecture(
        "OLMo 3 7B",
        512 * KIB,
        GALLERY,
        llama("olmo3", 32, 32, 32, 4096, sliding_window=4096, layer_types=pattern(32, 4, FULL, WINDOW)),
    ),
    Architecture(
        "OLMo 3 32B",
        256 * KIB,
        GALLERY,
        llama("olmo3", 64, 40, 8, 5120, 128, sliding_window=4096, layer_types=pattern(64, 4, FULL, WINDOW)),
    ),
    Architecture(
        "EXAONE 4 32B",
        256 * KIB,
        VLLM,
        llama("exaone4", 64, 40, 8, 5120, 128, sliding_window=4096, sliding_window_pattern="LLLG"),
    ),
    Architecture(
        "Trinity Large",
        240 * KIB,
        GALLERY,
        llama("afmoe", 60, 48, 8, 3072, 128, sliding_window=4096, global_attn_every_n_layers=4),
    ),
    Architecture(
        "Llama 4 Maverick",
        192 * KIB,
        GALLERY,
        {
            "model_type": "llama4",
            "text_config": llama("llama4_text", 48, 40, 8, 5120, 128, attention_chunk_size=8192, no_rope_layers=[]),
        },
    ),
    # latents
    Architecture("DeepSeek V2", 60 * 576 * 2, VLLM, latent("deepseek_v2", 60, 128, 5120)),
    Architecture("DeepSeek V3", 70272, ISCA, latent("deepseek_v3", 61, 128, 7168)),
    Architecture("Kimi K2", 61 * 576 * 2, GALLERY, latent("kimi_k2", 61, 64, 7168)),
    Architecture("Kimi K2.5", 61 * 576 * 2, GALLERY, {"model_type": "kimi_k25", "text_config": latent("kimi_k2", 61, 64, 7168)}),
    Architecture("Sarvam 105B", 36 * KIB, GALLERY, latent("sarvam_mla", 32, 64, 4096)),
    Architecture(
        "Mistral Small 4",
        22.5 * KIB,
        GALLERY,
        {"model_type": "mistral3", "text_config": latent("mistral4", 36, 32, 4096, 256, 64)},
    ),
    Architecture(
        "DeepSeek V3.2",
        61 * (576 * 2 + 132),
        VLLM,
        latent("deepseek_v32", 61, 128, 7168, index_topk=2048, index_head_dim=128, index_n_heads=64),
    ),
    Architecture(
        "GLM-5",
        78 * (576 * 2 + 132),
        VLLM,
        latent("glm_moe_dsa", 78, 64, 6144, index_topk=2048, index_head_dim=128, index_n_heads=32),
    ),
    # recurrent layers
    Architecture(
        "Jamba v0.1", 4 * 1024**3 / 262144, JAMBA, llama("jamba", 32, 32, 8, 4096, attn_layer_period=8, attn_layer_offset=4)
    ),
    Architecture(
        "Granite 4.0 H Small",
        16 * KIB,
        VLLM,
        llama(
            "granitemoehybrid", 40, 32, 8, 4096, layer_types=["attention" if n in (5, 15, 25, 35) else "mamba" for n in range(40)]
        ),
    ),
    Architecture(
        "Nemotron Nano 9B v2", 16 * KIB, VLLM, llama("nemotron_h", 56, 40, 8, 4480, 128, hybrid_override_pattern=NEMOTRON_NANO)
    ),
    Architecture(
        "Nemotron 3 Nano 30B",
        6 * KIB,
        GALLERY,
        llama("nemotron_h", 52, 32, 2, 2688, 128, hybrid_override_pattern=NEMOTRON_3_NANO),
    ),
    Architecture(
        "Nemotron 3 Super 120B",
        8 * KIB,
        GALLERY,
        llama("nemotron_h", 88, 32, 2, 4096, 128, hybrid_override_pattern=NEMOTRON_3_SUPER, mamba_num_heads=128),
    ),
    Architecture(
        "Nemotron 3 Super, as transformers 5 writes it",
        8 * KIB,
        GALLERY,
        llama(
            "nemotron_h",
            88,
            32,
            2,
            4096,
            128,
            layers_block_type=[{"M": "mamba", "E": "moe", "*": "attention"}[letter] for letter in NEMOTRON_3_SUPER],
        ),
    ),
    Architecture(
        "MiMo-V2-Flash",
        9 * 4 * 320 * 2 + 39 * 8 * 320 * 2,
        VLLM,
        llama(
            "mimo_v2_flash",
            48,
            64,
            4,
            4096,
            192,
            v_head_dim=128,
            sliding_window=128,
            swa_num_attention_heads=64,
            swa_num_key_value_heads=8,
            swa_head_dim=192,
            swa_v_head_dim=128,
            hybrid_layer_pattern=MIMO_WINDOWS,
        ),
    ),
    Architecture(
        "Step 3.5 Flash",
        180 * KIB,
        VLLM,
        llama(
            "step3p5",
            45,
            64,
            None,
            4096,
            128,
            num_attention_groups=8,
            sliding_window=512,
            layer_types=[WINDOW if n % 4 else FULL for n in range(48)],  # three are of the draft
            attention_other_setting=STEP_HEADS,
            num_nextn_predict_layers=3,
        ),
    ),
    Architecture(
        "Ling 2.5 1T",
        10 * 576 * 2,
        VLLM,
        latent("bailing_hybrid", 80, 64, 8192, layer_group_size=8, architectures=["BailingMoeV2_5ForCausalLM"]),
    ),
    Architecture(
        "Ling 3.0 Flash",
        7 * 576 * 2,
        VLLM,
        latent("bailing_hybrid", 42, 32, 2560, head_dim=128, layer_group_size=6, short_conv_kernel_size=4, kda_safe_gate=True),
    ),
    Architecture(
        "MiniMax M3",
        60 * 4 * 256 * 2 + 57 * 128 * 2,
        VLLM,
        {
            "model_type": "minimax_m3_vl",
            "text_config": llama(
                "minimax_m3",
                60,
                64,
                4,
                6144,
                128,
                sparse_attention_config={"sparse_index_dim": 128, "sparse_attention_freq": [0] * 3 + [1] * 57},
            ),
        },
    ),
    Architecture(
        "MiniMax M3, as transformers 5 writes it",
        60 * 4 * 256 * 2 + 57 * 128 * 2,
        VLLM,
        {
            "model_type": "minimax_m3_vl",
            "text_config": llama(
                "minimax_m3_vl_text",
                60,
                64,
                4,
                6144,
                128,
                index_head_dim=128,
                layer_types=[FULL] * 3 + ["minimax_m3_sparse"] * 57,
            ),
        },
    ),
    Architecture(
        "Kimi K3",
        24 * 576 * 2,
        VLLM,
        {
            "model_type": "kimi_k3",
            "text_config": latent(
                "kimi_linear",
                93,
                96,
                7168,
                attn_res_block_size=12,
                linear_attn_config={
                    "full_attn_layers": KIMI_K3_FULL,
                    "kda_layers": [n for n in range(1, 94) if n not in KIMI_K3_FULL],
                    "num_heads": 96,
                    "head_dim": 128,
                    "short_conv_kernel_size": 4,
                    "gate_lower_bound": -5.0,
                    "use_full_rank_gate": True,
                },
            ),
        },
    ),
    Architecture("Qwen3-Next 80B", 24 * KIB, VLLM, llama("qwen3_next", 48, 16, 2, 2048, 256, full_attention_interval=4)),
    Architecture(
        "Qwen3.5 397B",
        30 * KIB,
        GALLERY,
        {
            "model_type": "qwen3_5_moe",
            "text_config": llama("qwen3_5_moe_text", 60, 32, 2, 4096, 256, layer_types=pattern(60, 4, FULL, LINEAR)),
        },
    ),
    Architecture(
        "Qwen3.6 27B",
        64 * KIB,
        LOG,
        {
            "model_type": "qwen3_5",
            "text_config": llama(
                "qwen3_5_text", 64, 24, 4, 5120, 256, layer_types=pattern(64, 4, FULL, LINEAR), linear_num_value_heads=48
            ),
        },
    ),
    Architecture(
        "Kimi Linear 48B",
        7 * 576 * 2,
        GALLERY,
        latent(
            "kimi_linear",
            27,
            32,
            2304,
            linear_attn_config={
                "full_attn_layers": [4, 8, 12, 16, 20, 24, 27],
                "kda_layers": [n for n in range(1, 28) if n not in (4, 8, 12, 16, 20, 24, 27)],
                "head_dim": 128,
                "num_heads": 32,
                "short_conv_kernel_size": 4,
            },
        ),
    ),
    Architecture(
        "MiniMax Text 01",
        40 * KIB,
        VLLM,
        llama("minimax_text_01", 80, 64, 8, 6144, 128, attn_type_list=[0 if (n + 1) % 8 else 1 for n in range(80)]),
    ),
    Architecture(
        "Falcon-H1 7B",
        44 * KIB,
        VLLM,
        llama("falcon_h1", 44, 12, 2, 3072, 128, mamba_n_heads=24, mamba_d_head=128, mamba_d_state=256),
    ),
    Architecture(
        "LFM2 1.2B",
        12 * KIB,
        VLLM,
        llama(
            "lfm2",
            16,
            32,
            8,
            2048,
            layer_types=[FULL if n in (2, 5, 8, 10, 12, 14) else "conv" for n in range(16)],
            conv_L_cache=3,
        ),
    ),
    Architecture(
        "Zamba2 2.7B",
        9 * 32 * 320 * 2,
        VLLM,
        llama(
            "zamba2",
            54,
            32,
            32,
            2560,
            hybrid_layer_ids=[6, 12, 18, 24, 30, 36, 42, 47, 51],
            attention_head_dim=160,
            kv_channels=80,
            n_mamba_heads=8,
            mamba_headdim=640,
            mamba_d_state=64,
        ),
    ),
    Architecture("Mamba 2.8B", 0, VLLM, {"model_type": "mamba", "num_hidden_layers": 64, "hidden_size": 2560, "state_size": 16}),
    # a text model inside another one
    Architecture(
        "Mistral Small 3.1 24B",
        160 * KIB,
        GALLERY,
        {"model_type": "mistral3", "text_config": llama("mistral", 40, 32, 8, 5120, 128, sliding_window=None)},
    ),
    Architecture(
        "InternVL3 8B",
        56 * KIB,
        VLLM,
        {"model_type": "internvl_chat", "llm_config": QWEN25_7B, "vision_config": {"hidden_size": 1024}},
    ),
    Architecture(
        "Qwen2.5-VL 7B", 56 * KIB, VLLM, {**QWEN25_7B, "model_type": "qwen2_5_vl", "vision_config": {"hidden_size": 1280}}
    ),
    Architecture(
        "Qwen2.5-Omni 7B",
        56 * KIB,
        VLLM,
        {
            "model_type": "qwen2_5_omni",
            "thinker_config": {
                "model_type": "qwen2_5_omni_thinker",
                "text_config": {**QWEN25_7B, "model_type": "qwen2_5_omni_text"},
            },
        },
    ),
    Architecture(
        "Qwen3-VL 8B", 144 * KIB, VLLM, {"model_type": "qwen3_vl", "text_config": llama("qwen3_vl_text", 36, 32, 8, 4096, 128)}
    ),
    Architecture(
        "Qwen3-Omni 30B-A3B",
        96 * KIB,
        VLLM,
        {"model_type": "qwen3_omni_moe", "thinker_config": {"text_config": llama("qwen3_omni_moe_text", 48, 32, 4, 2048, 128)}},
    ),
    Architecture(
        "LLaVA 1.5 7B", 512 * KIB, VLLM, {"model_type": "llava", "text_config": {"model_type": "llama", "vocab_size": 32064}}
    ),
    # encoders, and a decoder with an encoder
    Architecture("bge-m3", 0, VLLM, llama("xlm-roberta", 24, 16, None, 1024)),
    Architecture("BERT base", 0, VLLM, llama("bert", 12, 12, None, 768)),
    Architecture("ModernBERT", 0, VLLM, llama("modernbert", 22, 12, None, 768)),
    Architecture(
        "bge-reranker-v2-m3",
        0,
        VLLM,
        llama("xlm-roberta", 24, 16, None, 1024, architectures=["XLMRobertaForSequenceClassification"]),
    ),
    Architecture(
        "EmbeddingGemma 300M",
        0,
        VLLM,
        llama("gemma3_text", 24, 3, 1, 768, 256, sliding_window=512, use_bidirectional_attention=True),
    ),
    Architecture("Qwen3-Embedding 0.6B", 112 * KIB, VLLM, llama("qwen3", 28, 16, 8, 1024, 128)),
    Architecture(
        "Whisper large v3",
        160 * KIB,
        VLLM,
        {
            "model_type": "whisper",
            "is_encoder_decoder": True,
            "decoder_layers": 32,
            "decoder_attention_heads": 20,
            "d_model": 1280,
            "max_source_positions": 1500,
        },
    ),
)

# Mistral's own params.json
MISTRAL_PARAMS = (
    Architecture(
        "Pixtral 12B",
        160 * KIB,
        VLLM,
        {
            "dim": 5120,
            "n_layers": 40,
            "head_dim": 128,
            "n_heads": 32,
            "n_kv_heads": 8,
            "vocab_size": 131072,
            "vision_encoder": {"hidden_size": 1024},
        },
    ),
    Architecture(
        "Mistral Large 3",
        61 * 576 * 2,
        GALLERY,
        {
            "dim": 7168,
            "n_layers": 61,
            "n_heads": 128,
            "n_kv_heads": 128,
            "kv_lora_rank": 512,
            "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 128,
        },
    ),
)


def gguf(
    architecture: str, layers: int, heads: int, groups: int | list[int], width: int, key: int = 0, **more: Any
) -> dict[str, Any]:
    """The keys of a GGUF header that speak of memory. more: ends of keys, with __ for a dot."""
    values: dict[str, Any] = {
        "block_count": layers,
        "embedding_length": width,
        "attention.head_count": heads,
        "attention.head_count_kv": groups,
    }
    if key:
        values.update({"attention.key_length": key, "attention.value_length": key})
    values.update({name.replace("__", "."): value for name, value in more.items()})
    return {"general.architecture": architecture, **{f"{architecture}.{name}": value for name, value in values.items()}}


def delta(layers: int, heads: int, groups: int, width: int, inner: int, kind: str = "qwen35", **more: Any) -> dict[str, Any]:
    """A GGUF header of the Qwen3.5 family."""
    state = {
        "ssm__conv_kernel": 4,
        "ssm__inner_size": inner,
        "ssm__state_size": 128,
        "ssm__group_count": 16,
        "ssm__time_step_rank": inner // 128,
    }
    return gguf(kind, layers, heads, groups, width, 256, full_attention_interval=4, **state, **more)


GGUFS = (
    Architecture("Llama 3 8B", 128 * KIB, GALLERY, gguf("llama", 32, 32, 8, 4096)),
    Architecture("Qwen2.5 7B", 56 * KIB, LLAMA_CPP, gguf("qwen2", 28, 28, 4, 3584)),
    Architecture("Mistral 7B v0.1", 128 * KIB, LLAMA_CPP, gguf("llama", 32, 32, 8, 4096, attention__sliding_window=4096)),
    Architecture("Phi-3 mini 4k", 384 * KIB, LLAMA_CPP, gguf("phi3", 32, 32, 32, 3072, attention__sliding_window=2047)),
    Architecture("GLM-4.5-Air", 184 * KIB, LLAMA_CPP, gguf("glm4moe", 47, 96, 8, 4096, 128, nextn_predict_layers=1)),
    Architecture("Gemma 2 2B", 2 * 416 * MIB / 8192, LOG, gguf("gemma2", 26, 8, 4, 2304, 256, attention__sliding_window=4096)),
    Architecture("Gemma 3 27B", 496 * KIB, GALLERY, gguf("gemma3", 62, 32, 16, 5376, 128, attention__sliding_window=1024)),
    Architecture("Gemma 3n E4B", 40 * KIB, LLAMA_CPP, gguf("gemma3n", 35, 8, 2, 2048, 256, attention__sliding_window=512)),
    Architecture(
        "Gemma 4 12B",
        (68 * MIB / 8192 + 765 * MIB / 4608) * 32 / 34 * 2,  # the log is of q8_0
        LOG,
        gguf(
            "gemma4",
            48,
            16,
            [1 if (n + 1) % 6 == 0 else 8 for n in range(48)],
            3840,
            512,
            attention__key_length_swa=256,
            attention__value_length_swa=256,
            attention__sliding_window=1024,
            attention__sliding_window_pattern=[bool((n + 1) % 6) for n in range(48)],
            attention__shared_kv_layers=0,
        ),
    ),
    Architecture(
        "gpt-oss 20b",
        3072 * MIB / 131072 + 18 * MIB / 768,
        LOG,
        gguf("gpt-oss", 24, 64, 8, 2880, 64, attention__sliding_window=128),
    ),
    Architecture("Llama 4 Scout", 192 * KIB, LLAMA_CPP, gguf("llama4", 48, 40, 8, 5120, 128)),
    Architecture("Command R7B", 128 * KIB, LLAMA_CPP, gguf("cohere2", 32, 32, 8, 4096, 128, attention__sliding_window=4096)),
    Architecture("OLMo 3 7B", 512 * KIB, GALLERY, gguf("olmo2", 32, 32, 32, 4096, attention__sliding_window=4096)),
    Architecture(
        "Laguna",
        (13824 * MIB / 1048576 + 40.5 * MIB / 1024) * 32 / 18 * 2,  # the log is of q4_0
        LOG,
        gguf("laguna", 48, 48, 8, 2048, 128, attention__sliding_window=512),
    ),
    Architecture(
        "DeepSeek V3",
        70272,
        ISCA,
        gguf("deepseek2", 61, 128, 1, 7168, 576, attention__kv_lora_rank=512, attention__key_length_mla=192),
    ),
    Architecture(
        "DeepSeek V3, converted before MLA",
        61 * 128 * (192 + 128) * 2,
        LLAMA_CPP,
        {**gguf("deepseek2", 61, 128, 128, 7168, 192, attention__kv_lora_rank=512), "deepseek2.attention.value_length": 128},
    ),
    Architecture(
        "GLM-5.2",
        (44928 + 2688) * MIB / 524288,
        LOG,
        gguf(
            "glm-dsa",
            79,
            64,
            1,
            6144,
            576,
            nextn_predict_layers=1,
            attention__kv_lora_rank=512,
            attention__key_length_mla=256,
            attention__indexer__head_count=32,
            attention__indexer__key_length=128,
            attention__indexer__top_k=2048,
            attention__indexer__types=[n < 3 or (n - 2) % 4 == 0 for n in range(79)],
        ),
    ),
    Architecture("Qwen3-Next 80B", 24 * KIB, LLAMA_CPP, delta(48, 16, 2, 2048, 4096, "qwen3next")),
    Architecture("Qwen3.5 4B", 4224 * MIB / 135168, LOG, delta(32, 16, 4, 2560, 4096)),
    Architecture("Qwen3.6 27B", 8192 * MIB / 131072, LOG, delta(64, 24, 4, 5120, 6144)),
    Architecture(
        "Jamba v0.1",
        4 * 1024**3 / 262144,
        JAMBA,
        gguf(
            "jamba",
            32,
            32,
            [8 if n % 8 == 4 else 0 for n in range(32)],
            4096,
            ssm__conv_kernel=4,
            ssm__inner_size=8192,
            ssm__state_size=16,
        ),
    ),
    Architecture(
        "Granite 4.0 H Small",
        16 * KIB,
        LLAMA_CPP,
        gguf(
            "granitehybrid",
            40,
            32,
            [8 if n in (5, 15, 25, 35) else 0 for n in range(40)],
            4096,
            ssm__conv_kernel=4,
            ssm__inner_size=8192,
            ssm__state_size=128,
            ssm__group_count=1,
        ),
    ),
    Architecture(
        "Nemotron Nano 9B v2",
        16 * KIB,
        LLAMA_CPP,
        gguf(
            "nemotron_h",
            56,
            40,
            [8 if word == "*" else 0 for word in NEMOTRON_NANO],
            4480,
            128,
            feed_forward_length=[15680 if word == "-" else 0 for word in NEMOTRON_NANO],
            ssm__conv_kernel=4,
            ssm__inner_size=10240,
            ssm__state_size=128,
            ssm__group_count=8,
        ),
    ),
    Architecture(
        "Falcon-H1 7B",
        44 * KIB,
        LLAMA_CPP,
        gguf("falcon-h1", 44, 12, 2, 3072, 128, ssm__conv_kernel=4, ssm__inner_size=3072, ssm__state_size=256),
    ),
    Architecture(
        "LFM2 1.2B",
        12 * KIB,
        LLAMA_CPP,
        gguf("lfm2", 16, 32, [8 if n in (2, 5, 8, 10, 12, 14) else 0 for n in range(16)], 2048, shortconv__l_cache=3),
    ),
    Architecture(
        "MiMo-V2-Flash",
        9 * 4 * 320 * 2 + 39 * 8 * 320 * 2,
        LLAMA_CPP,
        gguf(
            "mimo2",
            48,
            64,
            [8 if window else 4 for window in MIMO_WINDOWS],
            4096,
            attention__key_length=192,
            attention__value_length=128,
            attention__sliding_window=128,
            attention__sliding_window_pattern=MIMO_WINDOWS,
        ),
    ),
    Architecture(
        "Step 3.5 Flash",
        180 * KIB,
        LLAMA_CPP,
        gguf(
            "step35",
            45,
            64,
            8,
            4096,
            128,
            attention__sliding_window=512,
            attention__sliding_window_pattern=[n % 4 for n in range(45)],
        ),
    ),
    Architecture(
        "Kimi K3",
        24 * 576 * 2,
        LLAMA_CPP,
        gguf(
            "kimi-k3",
            93,
            96,
            [1 if n + 1 in KIMI_K3_FULL else 0 for n in range(93)],
            7168,
            576,
            attention__key_length_mla=192,
            attention__value_length_mla=128,
            attention__kv_lora_rank=512,
            ssm__conv_kernel=4,
            kda__head_dim=128,
            kda__gate_lower_bound=-5.0,
        ),
    ),
    Architecture("RWKV7 World 2.9B", 0, LLAMA_CPP, gguf("rwkv7", 32, 0, 0, 2560, wkv__head_size=64)),
    Architecture("RWKV6 Finch 7B", 0, LLAMA_CPP, gguf("rwkv6", 32, 0, 0, 4096, wkv__head_size=64, time_mix_extra_dim=64)),
    Architecture("QRWKV6 32B", 0, LLAMA_CPP, gguf("rwkv6qwen2", 64, 0, 0, 5120, wkv__head_size=128, token_shift_count=1)),
    Architecture("nomic-embed-text", 0, LLAMA_CPP, gguf("nomic-bert", 12, 12, 12, 768)),
)

# MiB of recurrent state of one sequence, as llama.cpp's log has it (llama_memory_recurrent).
RECURRENT_MIB = (("Qwen3.5 4B", 50.25), ("Qwen3.6 27B", 149.62), ("RWKV7 World 2.9B", 20.62), ("QRWKV6 32B", 161.25))
