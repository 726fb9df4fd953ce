# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the plan knows of each engine: its entrypoint, its flags, and what its container needs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Mapping, Optional, Sequence, Tuple


@dataclass(frozen=True)
class Engine:
    """What the plan decides for a serve of this engine when the inventory does not say.

    gpu_environment, wsl2_environment: added for serves that have GPUs, and for those on a WSL2 host.
    key_env: the variable the engine reads its API key from; empty: it takes the key on the command line only.
    more_keys_flag: names a file of further keys, which are as good as the first.
    torch: it runs on PyTorch, and is told the architecture of its cards. kv_flags: what sets the type of the KV cache.
    flags: what the plan itself sets on the command line -> the key of the inventory that says it.
    context_flags: what limits the context of one request. slot_flags: what that is divided by.
    tool_flags: the engine supports tools when one of these is given; none: it always does.
    share_flag: takes the share of the card's total memory that the engine may use.
    names_itself: it calls a model by its repository or folder unless this flag says another name.
    launch: option of ``launch`` -> the flags that say it, the first of which the plan writes. switches: option of ``launch``
    whose flag differs from release to release -> value -> environment: a server overlooks a variable that it does not know.
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


def read_tokens(text: str) -> Optional[int]:
    """A number of tokens as vLLM reads it: 32k and 25.6k are thousands, 32K is 1024s. None for ``auto`` and the like."""
    match = TOKENS.fullmatch(text)
    if match is None:
        return None
    decimal, unit, whole, binary = match.groups()
    return int(float(decimal) * UNITS[unit]) if decimal else int(whole) * UNITS[binary]


def flag_of(word: str) -> str:
    """``--max_model_len=5`` -> ``--max-model-len``; empty for a word that is no flag."""
    if not re.match(r"--?[A-Za-z]", word):
        return ""
    flag = word.split("=", 1)[0]
    return flag.replace("_", "-") if flag.startswith("--") else flag


def read_flag(args: Sequence[str], *flags: str) -> Optional[str]:
    """The value of the last of these flags that has one, written as ``--flag value`` or ``--flag=value``."""
    found = None
    for number, word in enumerate(args):
        if flag_of(word) in flags:
            _flag, given, value = word.partition("=")
            found = value if given else args[number + 1] if number + 1 < len(args) else found
    return found


def read_token_flag(args: Sequence[str], *flags: str) -> Optional[int]:
    """The number of tokens behind the last of these flags; None for none, and for ``auto`` and the like."""
    return read_tokens(read_flag(args, *flags) or "")


PCI_ORDER = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
ENGINES: Mapping[str, Engine] = {
    "vllm": Engine(
        entrypoint=("vllm",),
        ipc="host",
        gpu_environment=PCI_ORDER,
        torch=True,
        kv_flags=("--kv-cache-dtype",),
        wsl2_environment={"VLLM_USE_V2_MODEL_RUNNER": "0"},  # that runner wants UVA, which WSL2 does not have
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
    # https://nvidia.github.io/TensorRT-LLM/commands/trtllm-serve: it has no API key (its issue 9950), and the memory share it
    # takes is one of what is free once the weights are loaded, not of the card.
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
        # --no-mmap until 2026, then --load-mode.
        switches={
            "mmap": {
                "true": {"LLAMA_ARG_LOAD_MODE": "mmap", "LLAMA_ARG_MMAP": "1"},
                "false": {"LLAMA_ARG_LOAD_MODE": "none", "LLAMA_ARG_NO_MMAP": "1"},
            }
        },
    ),
}
