# SPDX-License-Identifier: GPL-3.0-or-later
"""How each LLM engine spells the settings that this collection reads: flags, negated flags, environment variables. Pure.

Sources: vLLM ``vllm/engine/arg_utils.py`` and ``vllm/config``; SGLang ``python/sglang/srt/server_args.py``; llama.cpp
``common/arg.cpp`` and ``tools/server/README.md``; TensorRT-LLM ``tensorrt_llm/commands/serve.py``. An option that is not in a
table is not read; the program of the image judges it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Mapping, Tuple

# Settings, by the name under which every room asks for them.
CONTEXT = "context"  # tokens of one request (llama.cpp: of all slots together)
SLOTS = "slots"  # requests that share the context (llama.cpp)
BATCH = "batch"  # tokens of one step
KV_TYPE, KV_VALUE_TYPE = "kv_type", "kv_value_type"
KV_BYTES = "kv_bytes"  # memory of the KV cache on each card
KV_TOKENS = "kv_tokens"  # the most tokens that the KV cache holds
KV_OFFLOAD = "kv_offload"  # off: the KV cache stays in the host's memory
SHARE = "share"  # share of each card's total memory
TENSOR, PIPELINE, DATA = "tensor", "pipeline", "data"
DATA_LOCAL, DATA_RANK, DATA_BACKEND = "data_local", "data_rank", "data_backend"
DATA_ATTENTION = "data_attention"  # the data parallel size is that of attention only, inside the tensor ranks
ATTENTION_DATA = "attention_data"  # the data parallel size of attention only
ATTENTION_CONTEXT, EXPERT_DATA = "attention_context", "expert_data"  # further sizes inside the tensor ranks
EXPERT = "expert"
CONTEXT_RANKS = "context_ranks"  # ranks that divide the tokens of a sequence, among the tensor ranks
PREFILL_RANKS = "prefill_ranks"  # ranks for the same, with cards of their own
NODES, NODE_RANK, EXECUTOR = "nodes", "node_rank", "executor"
FIRST_CARD, CARD_STEP = "first_card", "card_step"
SPLIT_MODE, TENSOR_SPLIT, MAIN_CARD, DEVICES, RPC = "split_mode", "tensor_split", "main_card", "devices", "rpc"
STAGES = "stages"  # layers of each pipeline stage
LAYERS = "layers"  # layers on the cards
FIT = "fit"
HOST_WEIGHTS, HOST_EXPERTS = "host_weights", "host_experts"  # a part of the weights stays in the host's memory (a switch)
TEXT_ONLY = "text_only"  # a part of a multimodal model is not loaded
MEDIA_LIMITS = "media_limits"
UNIFIED_MEMORY = "unified_memory"
SWA_FULL = "swa_full"  # layers with a window keep every token
FLASH = "flash"  # flash attention
PROJECTOR = "projector"
DEVICE = "device"  # what the engine computes on: cuda, cpu, …
DTYPE, QUANTIZATION, LOAD_FORMAT, REVISION = "dtype", "quantization", "load_format", "revision"
ONLINE_QUANTIZATION = "online_quantization"  # how weights are quantised while they are loaded, by their layers
OVERRIDES, ROPE_SCALING, ROPE_SCALE, YARN_CONTEXT = "overrides", "rope_scaling", "rope_scale", "yarn_context"
LONG_CONTEXT = "long_context"  # a context above the model's is allowed
SPECULATIVE, DRAFT = "speculative", "draft"
CONFIG = "config"  # a file with further settings
NAMES = "names"
LORAS = "loras"
TOOLS = "tools"
SLEEP = "sleep"  # the engine can release its memory
ROOT_PATH, API_PREFIX, SOCKET = "root_path", "api_prefix", "socket"
NO_HTTP = "no_http"  # the engine answers no HTTP requests, or gRPC only
TLS_KEY, TLS_CERTIFICATE = "tls_key", "tls_certificate"
RUNNER, TASK, CONVERT, EMBEDDINGS, RERANK, POOLING = "runner", "task", "convert", "embeddings", "rerank", "pooling"
MODELSCOPE = "modelscope"
OFFLINE = "offline"
CACHE, CACHE_HOME = "cache", "cache_home"  # the folder of the hub cache, and the one that has it as hub/

# How many words of the command line belong to an option. OPTIONAL: the next word, unless it is a flag. MANY: the words up to the
# next flag. TABLE: a JSON object, or its parts: --flag.key value.
ONE, SWITCH, OPTIONAL, MANY, TABLE = "one", "switch", "optional", "many", "table"


@dataclass(frozen=True)
class Option:
    """One setting of an engine. flags: the first is the one that messages name. off: the flags that switch it off.

    variables: environment variables with the same value, below the flags. off_variables: those that switch it off.
    """

    flags: Tuple[str, ...] = ()
    form: str = ONE
    off: Tuple[str, ...] = ()
    variables: Tuple[str, ...] = ()
    off_variables: Tuple[str, ...] = ()


def _switch(name: str, *others: str) -> Option:
    return Option(("--" + name, *others), SWITCH, ("--no-" + name,))


def _variable(*names: str) -> Option:
    return Option((), SWITCH, variables=names)


HUB_OFFLINE = _variable("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
HUB_CACHE = Option(("--download-dir",), variables=("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"))
HUB_HOME = Option((), variables=("HF_HOME",))
VLLM: Dict[str, Option] = {
    CONTEXT: Option(("--max-model-len",)),
    BATCH: Option(("--max-num-batched-tokens",)),
    KV_TYPE: Option(("--kv-cache-dtype",)),
    KV_BYTES: Option(("--kv-cache-memory-bytes", "--kv-cache-memory")),
    SHARE: Option(("--gpu-memory-utilization", "--device-memory-utilization")),
    TENSOR: Option(("--tensor-parallel-size", "-tp")),
    PIPELINE: Option(("--pipeline-parallel-size", "-pp")),
    DATA: Option(("--data-parallel-size", "-dp")),
    DATA_LOCAL: Option(("--data-parallel-size-local", "-dpl")),
    DATA_RANK: Option(("--data-parallel-rank", "-dpn")),
    DATA_BACKEND: Option(("--data-parallel-backend", "-dpb")),
    EXPERT: _switch("enable-expert-parallel", "-ep"),
    CONTEXT_RANKS: Option(("--decode-context-parallel-size", "-dcp")),
    PREFILL_RANKS: Option(("--prefill-context-parallel-size", "-pcp")),
    NODES: Option(("--nnodes", "-n")),
    NODE_RANK: Option(("--node-rank", "-r")),
    EXECUTOR: Option(("--distributed-executor-backend",)),
    HOST_WEIGHTS: Option(("--cpu-offload-gb", "--offload-group-size")),
    TEXT_ONLY: _switch("language-model-only", "--mm-encoder-only"),
    MEDIA_LIMITS: Option(("--limit-mm-per-prompt",), TABLE),
    STAGES: _variable("VLLM_PP_LAYER_PARTITION"),
    SWA_FULL: _switch("disable-hybrid-kv-cache-manager"),
    DEVICE: Option(("--device",)),
    DTYPE: Option(("--dtype",)),
    QUANTIZATION: Option(("--quantization", "-q")),
    ONLINE_QUANTIZATION: Option(("--quantization-config",), TABLE),
    LOAD_FORMAT: Option(("--load-format",)),
    REVISION: Option(("--revision",)),
    OVERRIDES: Option(("--hf-overrides",), TABLE),
    ROPE_SCALING: Option(("--rope-scaling",), TABLE),
    LONG_CONTEXT: _variable("VLLM_ALLOW_LONG_MAX_MODEL_LEN"),
    SPECULATIVE: Option(("--speculative-config", "-sc"), TABLE),
    DRAFT: Option(("--spec-model",)),
    CONFIG: Option(("--config",)),
    NAMES: Option(("--served-model-name",), MANY),
    LORAS: Option(("--lora-modules",), MANY),
    TOOLS: _switch("enable-auto-tool-choice"),
    SLEEP: _switch("enable-sleep-mode"),
    ROOT_PATH: Option(("--root-path",)),
    SOCKET: Option(("--uds",)),
    NO_HTTP: Option(("--grpc", "--headless"), SWITCH, ("--no-grpc", "--no-headless")),
    TLS_KEY: Option(("--ssl-keyfile",)),
    TLS_CERTIFICATE: Option(("--ssl-certfile",)),
    RUNNER: Option(("--runner",)),
    TASK: Option(("--task",)),
    CONVERT: Option(("--convert",)),
    POOLING: Option(("--pooler-config", "--override-pooler-config"), TABLE),
    MODELSCOPE: _variable("VLLM_USE_MODELSCOPE"),
    OFFLINE: HUB_OFFLINE,
    CACHE: HUB_CACHE,
    CACHE_HOME: HUB_HOME,
}
SGLANG: Dict[str, Option] = {
    CONTEXT: Option(("--context-length",)),
    BATCH: Option(("--chunked-prefill-size",)),
    KV_TYPE: Option(("--kv-cache-dtype",)),
    SHARE: Option(("--mem-fraction-static",)),
    TENSOR: Option(("--tp-size", "--tensor-parallel-size", "--tp")),
    PIPELINE: Option(("--pp-size", "--pipeline-parallel-size", "--pp")),
    DATA: Option(("--dp-size", "--data-parallel-size", "--dp")),
    DATA_ATTENTION: Option(("--enable-dp-attention",), SWITCH),
    ATTENTION_DATA: Option(("--attn-dp-size", "--attention-data-parallel-size")),
    ATTENTION_CONTEXT: Option(("--attn-cp-size", "--attention-context-parallel-size")),
    EXPERT_DATA: Option(("--moe-dp-size", "--moe-data-parallel-size")),
    EXPERT: Option(("--ep-size", "--expert-parallel-size", "--ep")),
    CONTEXT_RANKS: Option(("--dcp-size", "--decode-context-parallel-size")),
    NODES: Option(("--nnodes",)),
    NODE_RANK: Option(("--node-rank",)),
    FIRST_CARD: Option(("--base-gpu-id",)),
    CARD_STEP: Option(("--gpu-id-step",)),
    # The last ones are KTransformers': experts stay with the processor.
    HOST_WEIGHTS: Option(("--cpu-offload-gb", "--offload-group-size", "--kt-weight-path", "--kt-method")),
    HOST_EXPERTS: Option(("--ple-offload-embedding",), SWITCH, ("--no-ple-offload-embedding",)),  # embeddings of each layer
    TEXT_ONLY: Option(("--language-only", "--language-model-only", "--encoder-only"), SWITCH),
    STAGES: _variable("SGLANG_PP_LAYER_PARTITION"),
    SWA_FULL: Option(("--disable-hybrid-swa-memory",), SWITCH),
    KV_TOKENS: Option(("--max-total-tokens",)),
    DEVICE: Option(("--device",)),
    NO_HTTP: Option(("--grpc-mode", "--smg-grpc-mode"), SWITCH),
    DTYPE: Option(("--dtype",)),
    QUANTIZATION: Option(("--quantization", "--torchao-config", "--modelopt-quant")),
    LOAD_FORMAT: Option(("--load-format",)),
    REVISION: Option(("--revision",)),
    OVERRIDES: Option(("--json-model-override-args",), TABLE),
    LONG_CONTEXT: _variable("SGLANG_ALLOW_OVERWRITE_LONGER_CONTEXT_LEN"),
    SPECULATIVE: Option(("--speculative-algorithm",)),
    DRAFT: Option(("--speculative-draft-model-path", "--speculative-draft-model")),
    CONFIG: Option(("--config",)),
    NAMES: Option(("--served-model-name",)),
    LORAS: Option(("--lora-paths",), MANY),
    TOOLS: Option(("--tool-call-parser",)),
    SLEEP: Option(("--enable-memory-saver",), SWITCH),
    ROOT_PATH: Option(("--fastapi-root-path",)),
    TLS_KEY: Option(("--ssl-keyfile",)),
    TLS_CERTIFICATE: Option(("--ssl-certfile",)),
    EMBEDDINGS: Option(("--is-embedding",), SWITCH),
    MODELSCOPE: _variable("SGLANG_USE_MODELSCOPE"),
    OFFLINE: HUB_OFFLINE,
    CACHE: HUB_CACHE,
    CACHE_HOME: HUB_HOME,
}
TRTLLM: Dict[str, Option] = {
    CONTEXT: Option(("--max-seq-len",)),
    BATCH: Option(("--max-num-tokens",)),
    KV_TYPE: Option(("--kv-cache-dtype",)),
    TENSOR: Option(("--tp-size", "--tensor-parallel-size")),
    PIPELINE: Option(("--pp-size", "--pipeline-parallel-size")),
    EXPERT: Option(("--ep-size", "--moe-expert-parallel-size")),
    PREFILL_RANKS: Option(("--cp-size", "--context-parallel-size")),
    DATA_ATTENTION: Option(("--enable-attention-dp",), SWITCH),
    REVISION: Option(("--revision",)),
    CONFIG: Option(("--extra-llm-api-options", "--config")),
    TOOLS: Option(("--tool-parser",)),
    NAMES: Option(("--served-model-name",)),
    NO_HTTP: Option(("--grpc",), SWITCH),
    OFFLINE: HUB_OFFLINE,
    CACHE: Option((), variables=HUB_CACHE.variables),
    CACHE_HOME: HUB_HOME,
}
LLAMA: Dict[str, Option] = {
    CONTEXT: Option(("-c", "--ctx-size"), variables=("LLAMA_ARG_CTX_SIZE",)),
    SLOTS: Option(("-np", "--parallel"), variables=("LLAMA_ARG_N_PARALLEL",)),
    BATCH: Option(("-ub", "--ubatch-size"), variables=("LLAMA_ARG_UBATCH",)),
    KV_TYPE: Option(("-ctk", "--cache-type-k"), variables=("LLAMA_ARG_CACHE_TYPE_K",)),
    KV_VALUE_TYPE: Option(("-ctv", "--cache-type-v"), variables=("LLAMA_ARG_CACHE_TYPE_V",)),
    KV_OFFLOAD: Option(
        ("-kvo", "--kv-offload"),
        SWITCH,
        ("-nkvo", "--no-kv-offload"),
        ("LLAMA_ARG_KV_OFFLOAD",),
        ("LLAMA_ARG_NO_KV_OFFLOAD",),
    ),
    SPLIT_MODE: Option(("-sm", "--split-mode"), variables=("LLAMA_ARG_SPLIT_MODE",)),
    TENSOR_SPLIT: Option(("-ts", "--tensor-split"), variables=("LLAMA_ARG_TENSOR_SPLIT",)),
    MAIN_CARD: Option(("-mg", "--main-gpu"), variables=("LLAMA_ARG_MAIN_GPU",)),
    DEVICES: Option(("-dev", "--device"), variables=("LLAMA_ARG_DEVICE",)),
    RPC: Option(("--rpc",), variables=("LLAMA_ARG_RPC",)),
    LAYERS: Option(("-ngl", "--gpu-layers", "--n-gpu-layers"), variables=("LLAMA_ARG_N_GPU_LAYERS",)),
    FIT: Option(("-fit", "--fit"), OPTIONAL, variables=("LLAMA_ARG_FIT",)),
    HOST_WEIGHTS: Option(
        ("-ot", "--override-tensor", "-ncmoe", "--n-cpu-moe", "-ncffn", "--n-cpu-ffn"),
        variables=("LLAMA_ARG_OVERRIDE_TENSOR", "LLAMA_ARG_N_CPU_MOE", "LLAMA_ARG_N_CPU_FFN"),
    ),
    HOST_EXPERTS: Option(("-cmoe", "--cpu-moe"), SWITCH, variables=("LLAMA_ARG_CPU_MOE",)),
    UNIFIED_MEMORY: _variable("GGML_CUDA_ENABLE_UNIFIED_MEMORY"),
    SWA_FULL: Option(("--swa-full",), SWITCH, variables=("LLAMA_ARG_SWA_FULL",)),
    FLASH: Option(("-fa", "--flash-attn"), OPTIONAL, variables=("LLAMA_ARG_FLASH_ATTN",)),
    PROJECTOR: Option(("-mm", "--mmproj", "-mmu", "--mmproj-url"), variables=("LLAMA_ARG_MMPROJ", "LLAMA_ARG_MMPROJ_URL")),
    ROPE_SCALING: Option(("--rope-scaling",), variables=("LLAMA_ARG_ROPE_SCALING_TYPE",)),
    ROPE_SCALE: Option(("--rope-scale",), variables=("LLAMA_ARG_ROPE_SCALE",)),
    YARN_CONTEXT: Option(("--yarn-orig-ctx",), variables=("LLAMA_ARG_YARN_ORIG_CTX",)),
    DRAFT: Option(
        ("-md", "--model-draft", "--spec-draft-model", "-hfd", "-hfrd", "--hf-repo-draft"),
        variables=("LLAMA_ARG_MODEL_DRAFT", "LLAMA_ARG_HFD_REPO"),
    ),
    LORAS: Option(("--lora", "--lora-scaled")),
    NAMES: Option(("-a", "--alias"), variables=("LLAMA_ARG_ALIAS",)),
    API_PREFIX: Option(("--api-prefix",), variables=("LLAMA_ARG_API_PREFIX",)),
    TLS_KEY: Option(("--ssl-key-file",), variables=("LLAMA_ARG_SSL_KEY_FILE",)),
    TLS_CERTIFICATE: Option(("--ssl-cert-file",), variables=("LLAMA_ARG_SSL_CERT_FILE",)),
    EMBEDDINGS: Option(("--embedding", "--embeddings"), SWITCH, variables=("LLAMA_ARG_EMBEDDINGS",)),
    RERANK: Option(("--reranking", "--rerank"), SWITCH, variables=("LLAMA_ARG_RERANKING",)),
    POOLING: Option(("--pooling",), variables=("LLAMA_ARG_POOLING",)),
    OFFLINE: Option(("--offline",), SWITCH, variables=("LLAMA_ARG_OFFLINE",)),
}
OPTIONS: Mapping[str, Mapping[str, Option]] = {
    "vllm": VLLM,
    "sglang": SGLANG,
    "trtllm": TRTLLM,
    "llama_cpp": LLAMA,
    "custom": {},
}
