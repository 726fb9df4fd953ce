# SPDX-License-Identifier: GPL-3.0-or-later
"""The LLM engines (vllm, sglang, llama_cpp, trtllm, custom): their entrypoints, and what their containers need. Pure.

``custom`` is any other server: the inventory gives its image, command, port, kind and readiness path, and nothing is known of
its flags.

A new engine is a new entry of ``ENGINES``, a table of its flags in ``engine_options``, and a template
``templates/engines/NAME.j2`` for its command line. Where the engine offers more, it also gets an entry in:
``weights/compatibility.py`` (model formats), ``serves/draining.py`` (requests in flight), ``serves/effective_settings.py``
(settings that the server reports), ``images/recipe.py`` (an image that is built here).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Mapping, Tuple


@dataclass(frozen=True)
class Engine:
    """One LLM engine: its command line, and the defaults of its serves.

    gpu_environment, wsl2_environment: variables for serves with GPUs, and for serves on a WSL2 host.
    key_env: the variable from which the engine reads its API key; empty if it takes the key only on the command line.
    more_keys_flag: the flag for a file with further API keys, which have the same rights as the first.
    shm_size: the most shared memory that its container may take. read_only: it works with a file system that it cannot write.
    read_only_environment: where it then writes what it compiles at run time. cap_add: the capabilities that it keeps; all others
    are dropped. entrypoint_cap_add: those that it keeps besides if the inventory sets its entrypoint.
    torch: the engine runs on PyTorch, so it gets the architectures of its cards.
    flags: flags that the plan itself sets -> the inventory key with their value. variables: environment variables of the same
    settings; the flags of the plan count before them. other_models: environment variables that name another model, which the
    engine then fetches, whatever the plan sets.
    abbreviates: it accepts the beginning of a flag, as Python's argparse does.
    share_flag: the flag for the share of the card's total memory that the engine may use. parallel_flag: the flag for the number
    of cards that share each layer; empty for an engine that splits a model over its cards by itself.
    not_in_name: signs that mean something else in the name of a model. many_names: it serves a model under several names.
    health_path: the path that a router requests to see whether the engine answers. It needs no key and no place in a batch:
    SGLang's /health runs a forward pass.
    names_itself: the flag for the model's name; without it the engine uses the repository or folder as the name.
    launch: option of ``launch`` -> its flags; the plan writes the first. switches: option of ``launch`` whose flag differs
    between releases -> value -> environment; a server ignores a variable that it does not know.
    """

    entrypoint: Tuple[str, ...] = ()
    shm_size: str = ""
    gpu_environment: Mapping[str, str] = field(default_factory=dict)
    wsl2_environment: Mapping[str, str] = field(default_factory=dict)
    torch: bool = False
    read_only: bool = False
    read_only_environment: Mapping[str, str] = field(default_factory=dict)
    cap_add: Tuple[str, ...] = ()
    entrypoint_cap_add: Tuple[str, ...] = ()
    key_env: str = ""
    more_keys_flag: str = ""
    flags: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    other_models: Tuple[str, ...] = ()
    abbreviates: bool = False
    model_is_file: bool = False
    share_flag: str = ""
    parallel_flag: str = ""
    health_path: str = "/health"
    names_itself: str = ""
    not_in_name: str = ""
    many_names: bool = False
    launch: Mapping[str, Tuple[str, ...]] = field(default_factory=dict)
    switches: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)


CUSTOM = "custom"
# Flags of llama-server that stand for a model of the hub with its settings (common/arg.cpp).
LLAMA_PRESETS = (
    "--embd-bge-small-en-default",
    "--embd-e5-small-en-default",
    "--embd-gte-small-default",
    "--embd-gemma-default",
    "--fim-qwen-1.5b-default",
    "--fim-qwen-3b-default",
    "--fim-qwen-7b-default",
    "--fim-qwen-7b-spec",
    "--fim-qwen-14b-spec",
    "--fim-qwen-30b-default",
    "--gpt-oss-20b-default",
    "--gpt-oss-120b-default",
    "--vision-gemma-4b-default",
    "--vision-gemma-12b-default",
)
# Capabilities. A server that runs as root reads weights that belong to another user only with DAC_OVERRIDE. The entrypoint of an
# image may give its folders to a user and become that user. Of an image that nothing is known of: those that Podman gives.
READS_ANY_FILE = ("DAC_OVERRIDE",)
CHANGES_USER = ("CHOWN", "DAC_OVERRIDE", "FOWNER", "KILL", "SETGID", "SETUID")
ANY_IMAGE = (*CHANGES_USER, "FSETID", "NET_BIND_SERVICE", "SETFCAP", "SETPCAP", "SYS_CHROOT")
# Where PyTorch, CUDA and the libraries of kernels keep what they compile, and transformers the code of a model; by default below
# the home folder.
TORCH_CACHES = {
    "CUDA_CACHE_PATH": "/tmp/cuda",
    "DG_JIT_CACHE_DIR": "/tmp/deep-gemm",
    "FLASHINFER_WORKSPACE_BASE": "/tmp/flashinfer",
    "HF_MODULES_CACHE": "/tmp/hf-modules",
    "NUMBA_CACHE_DIR": "/tmp/numba",
    "TILELANG_CACHE_DIR": "/tmp/tilelang",
    "TORCHINDUCTOR_CACHE_DIR": "/tmp/torchinductor",
    "TORCH_EXTENSIONS_DIR": "/tmp/torch-extensions",
    "TRITON_CACHE_DIR": "/tmp/triton",
    "TVM_FFI_CACHE_DIR": "/tmp/tvm-ffi",
}
# PyTorch asks for the name of its user when it is imported, and ends if the image has none for the uid. These count before that.
NAMELESS_USER = {"LOGNAME": "anvil", "USER": "anvil"}
PCI_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
ENGINES: Mapping[str, Engine] = {
    "vllm": Engine(
        entrypoint=("vllm",),
        shm_size="16g",
        read_only_environment={
            **TORCH_CACHES,
            "OUTLINES_CACHE_DIR": "/tmp/outlines",
            "VLLM_CACHE_ROOT": "/tmp/vllm",
            "VLLM_CONFIG_ROOT": "/tmp/vllm-config",
        },
        cap_add=READS_ANY_FILE,
        entrypoint_cap_add=CHANGES_USER,
        gpu_environment=PCI_ORDER,
        torch=True,
        wsl2_environment={"VLLM_USE_V2_MODEL_RUNNER": "0"},  # that runner needs UVA, which WSL2 does not have
        key_env="VLLM_API_KEY",
        flags={"--port": "port", "--host": "publish", "--served-model-name": "served_name", "--model": "model"},
        share_flag="--gpu-memory-utilization",
        parallel_flag="--tensor-parallel-size",
        many_names=True,
        abbreviates=True,
    ),
    "sglang": Engine(
        shm_size="16g",
        read_only_environment={**TORCH_CACHES, "SGLANG_CACHE_DIR": "/tmp/sglang", "SGLANG_DG_CACHE_DIR": "/tmp/deep-gemm"},
        cap_add=CHANGES_USER,
        health_path="/v1/models",
        gpu_environment=PCI_ORDER,
        torch=True,
        flags={
            "--port": "port",
            "--host": "publish",
            "--served-model-name": "served_name",
            "--model-path": "model",
            "--model": "model",
        },
        parallel_flag="--tp-size",
        abbreviates=True,
        not_in_name=":",  # model:module names a LoRA module
    ),
    # https://nvidia.github.io/TensorRT-LLM/commands/trtllm-serve: it has no API key (its issue 9950), and its memory share is a
    # share of the memory that is free after the weights are loaded, not of the card.
    "trtllm": Engine(
        entrypoint=("trtllm-serve",),
        shm_size="16g",
        read_only_environment=TORCH_CACHES,
        cap_add=CHANGES_USER,
        gpu_environment=PCI_ORDER,
        flags={"--port": "port", "--host": "publish", "--served-model-name": "served_name"},
        names_itself="--served_model_name",
        parallel_flag="--tp_size",
    ),
    "llama_cpp": Engine(
        gpu_environment=PCI_ORDER,
        read_only=True,
        key_env="LLAMA_API_KEY",
        more_keys_flag="--api-key-file",
        flags={
            "--port": "port",
            "--host": "publish",
            "--alias": "served_name",
            "-a": "served_name",
            "--model": "model",
            "-m": "model",
            "--hf-repo": "model",
            "-hf": "model",
            "-hfr": "model",
            "--model-url": "model",
            "-mu": "model",
            "--hf-file": "model",
            "-hff": "model",
            "--docker-repo": "model",
            "-dr": "model",
            **dict.fromkeys(LLAMA_PRESETS, "model"),
            "--models-preset": "models",
            "--models-dir": "models",
            "--models-max": "models_max",
            "--sleep-idle-seconds": "idle_unload",
        },
        variables={
            "LLAMA_ARG_PORT": "port",
            "LLAMA_ARG_HOST": "publish",
            "LLAMA_ARG_ALIAS": "served_name",
            "LLAMA_ARG_MODEL": "model",
        },
        other_models=("LLAMA_ARG_HF_REPO", "LLAMA_ARG_HF_FILE", "LLAMA_ARG_MODEL_URL", "LLAMA_ARG_DOCKER_REPO"),
        model_is_file=True,
        launch={
            "context": ("--ctx-size", "-c"),
            "gpu_layers": ("--n-gpu-layers", "--gpu-layers", "-ngl"),
            "threads": ("--threads", "-t"),
            "batch": ("--batch-size", "-b"),
            "ubatch": ("--ubatch-size", "-ub"),
            "flash_attn": ("--flash-attn", "-fa"),
            "mmap": ("--load-mode", "-lm", "--no-mmap", "--mmap"),
        },
        # The flag is --no-mmap in releases before 2026, and --load-mode in later ones.
        switches={
            "mmap": {
                "true": {"LLAMA_ARG_LOAD_MODE": "mmap", "LLAMA_ARG_MMAP": "1"},
                "false": {"LLAMA_ARG_LOAD_MODE": "none", "LLAMA_ARG_NO_MMAP": "1"},
            }
        },
        not_in_name=",",  # since March 2026 (pull request 19926) it divides the names of a model
    ),
    CUSTOM: Engine(gpu_environment=PCI_ORDER, health_path="", cap_add=ANY_IMAGE),
}
