# SPDX-License-Identifier: GPL-3.0-or-later
"""The LLM engines (vllm, sglang, llama_cpp, trtllm): their entrypoints, their flags, and what their containers need. Pure.

A new engine is a new entry of ``ENGINES`` and a template ``templates/engines/NAME.j2`` for its command line. Where the engine
offers more, it also gets an entry in: ``weights/compatibility.py`` (model formats), ``serves/draining.py`` (requests in flight),
``serves/effective_settings.py`` (settings that the server reports), ``images/recipe.py`` (an image that is built here).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Mapping, Optional, Sequence, Tuple


@dataclass(frozen=True)
class Engine:
    """One LLM engine: its command line, and the defaults of its serves.

    gpu_environment, wsl2_environment: variables for serves with GPUs, and for serves on a WSL2 host.
    key_env: the variable from which the engine reads its API key; empty if it takes the key only on the command line.
    more_keys_flag: the flag for a file with further API keys, which have the same rights as the first.
    torch: the engine runs on PyTorch, so it gets the architectures of its cards. kv_flags: flags for the type of the KV cache.
    flags: flags that the plan itself sets -> the inventory key with their value.
    context_flags: flags that limit the context of one request. slot_flags: flags for the number by which it is divided.
    tool_flags: the engine supports tools if one of these flags is given; empty if it always does.
    share_flag: the flag for the share of the card's total memory that the engine may use.
    names_itself: the flag for the model's name; without it the engine uses the repository or folder as the name.
    launch: option of ``launch`` -> its flags; the plan writes the first. switches: option of ``launch`` whose flag differs
    between releases -> value -> environment; a server ignores a variable that it does not know.
    """

    entrypoint: Tuple[str, ...] = ()
    ipc: str = ""
    shm_size: str = ""
    gpu_environment: Mapping[str, str] = field(default_factory=dict)
    wsl2_environment: Mapping[str, str] = field(default_factory=dict)
    torch: bool = False
    kv_flags: Tuple[str, ...] = ()
    read_only: bool = False
    cap_drop: Tuple[str, ...] = ()
    key_env: str = ""
    more_keys_flag: str = ""
    flags: Mapping[str, str] = field(default_factory=dict)
    context_flags: Tuple[str, ...] = ()
    slot_flags: Tuple[str, ...] = ()
    tool_flags: Tuple[str, ...] = ()
    model_is_file: bool = False
    share_flag: str = ""
    names_itself: str = ""
    launch: Mapping[str, Tuple[str, ...]] = field(default_factory=dict)
    switches: Mapping[str, Mapping[str, Mapping[str, str]]] = field(default_factory=dict)


TOKENS = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([km])|([0-9]{1,12})([KM]?)")
UNITS = {"": 1, "k": 1000, "m": 1000**2, "K": 1024, "M": 1024**2}


def parse_tokens(text: str) -> Optional[int]:
    """A number of tokens as vLLM reads it: k is 1000 (32k, 25.6k), K is 1024 (32K). None for anything else, such as ``auto``."""
    match = TOKENS.fullmatch(text)
    if match is None:
        return None
    decimal, unit, whole, binary = match.groups()
    return int(float(decimal) * UNITS[unit]) if decimal else int(whole) * UNITS[binary]


def flag_of(word: str) -> str:
    """The flag in a word of a command line (``--max-model-len`` for ``--max_model_len=5``); empty for a word without one."""
    if not re.match(r"--?[A-Za-z]", word):
        return ""
    flag = word.split("=", 1)[0]
    return flag.replace("_", "-") if flag.startswith("--") else flag


def read_flag(args: Sequence[str], *flags: str) -> Optional[str]:
    """The value of the last of these flags that has one; the forms are ``--flag value`` and ``--flag=value``."""
    found = None
    for number, word in enumerate(args):
        if flag_of(word) in flags:
            _flag, given, value = word.partition("=")
            found = value if given else args[number + 1] if number + 1 < len(args) else found
    return found


def read_token_flag(args: Sequence[str], *flags: str) -> Optional[int]:
    """The number of tokens after the last of these flags; None without a number (``auto``)."""
    return parse_tokens(read_flag(args, *flags) or "")


PCI_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
ENGINES: Mapping[str, Engine] = {
    "vllm": Engine(
        entrypoint=("vllm",),
        ipc="host",
        gpu_environment=PCI_ORDER,
        torch=True,
        kv_flags=("--kv-cache-dtype",),
        wsl2_environment={"VLLM_USE_V2_MODEL_RUNNER": "0"},  # that runner needs UVA, which WSL2 does not have
        key_env="VLLM_API_KEY",
        flags={"--port": "port", "--host": "publish", "--served-model-name": "served_name", "--model": "model"},
        context_flags=("--max-model-len",),
        tool_flags=("--enable-auto-tool-choice",),
        share_flag="--gpu-memory-utilization",
    ),
    "sglang": Engine(
        shm_size="16g",
        gpu_environment=PCI_ORDER,
        torch=True,
        kv_flags=("--kv-cache-dtype",),
        flags={
            "--port": "port",
            "--host": "publish",
            "--served-model-name": "served_name",
            "--model-path": "model",
            "--model": "model",
        },
        context_flags=("--context-length",),
        tool_flags=("--tool-call-parser",),
    ),
    # https://nvidia.github.io/TensorRT-LLM/commands/trtllm-serve: it has no API key (its issue 9950), and its memory share is a
    # share of the memory that is free after the weights are loaded, not of the card.
    "trtllm": Engine(
        entrypoint=("trtllm-serve",),
        ipc="host",
        gpu_environment=PCI_ORDER,
        flags={"--port": "port", "--host": "publish", "--served-model-name": "served_name"},
        context_flags=("--max-seq-len",),
        tool_flags=("--tool-parser",),
        names_itself="--served_model_name",
    ),
    "llama_cpp": Engine(
        gpu_environment=PCI_ORDER,
        read_only=True,
        cap_drop=("ALL",),
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
            "--models-preset": "models",
            "--models-dir": "models",
            "--models-max": "models_max",
            "--sleep-idle-seconds": "idle_unload",
        },
        context_flags=("-c", "--ctx-size"),
        slot_flags=("-np", "--parallel"),
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
    ),
}
