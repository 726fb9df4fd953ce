# SPDX-License-Identifier: GPL-3.0-or-later
"""What a card can run, by its compute capability, and the environment variables that an engine gets for its cards. Pure.

A card's product name is never used: nothing is guessed.

Sources, by column of ``CAPABILITIES``:

* bf16, int8, fp8, fp4: the tensor core input types of NVIDIA's CUDA C++ Programming Guide ("Compute Capabilities",
  tensor core table) and of Transformer Engine's "Datatype and hardware support matrix": bf16 from 8.0, fp8 from 8.9,
  mxfp4 and nvfp4 from 10.0. int8: 7.5 and newer (vLLM, "Supported hardware", INT8 W8A8).
* ``yes`` means that the tensor cores take the type. Weights of another type can often still be read, at the speed of bf16 or
  fp16: ``emulated`` names those, ``EMULATED_FROM`` the cards from which each engine does it.
* ``EMULATED_FROM``: vLLM's page "FP8 W8A8" (weight-only from 7.5, by Marlin kernels) and its Marlin kernels for nvfp4 and mxfp4
  (from 8.0); SGLang's ``can_auto_enable_marlin_fp8`` (8.0) and Triton kernels for mxfp4 (8.0); TensorRT-LLM's support matrix.
* flashinfer: the architecture in the form of FlashInfer's ``FLASHINFER_CUDA_ARCH_LIST``. ``a`` and ``f`` are nvcc's
  architecture-specific and family-specific targets (CUDA 12.9); without the suffix the kernels of those cards are missing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple


@dataclass(frozen=True)
class Capability:
    """A row of the table. sm: ``sm_120``; family: NVIDIA's name of the architecture."""

    version: str
    family: str
    bf16: bool
    int8: bool
    fp8: bool
    fp4: bool
    flashinfer: str

    @property
    def sm(self) -> str:
        return sm_of(self.version)

    @property
    def emulated(self) -> Tuple[str, ...]:
        """Types whose weights are read although the tensor cores do not take them."""
        types = [] if self.fp8 else ["fp8"]
        if self.bf16 and not self.fp4:
            types += ["mxfp4", "nvfp4"]
        return tuple(types)

    @property
    def kv_dtypes(self) -> Tuple[str, ...]:
        """The types in which an engine can hold the KV cache, the smallest last."""
        return ("bf16" if self.bf16 else "fp16", *(["fp8"] if self.fp8 else []))


def _row(version: str, family: str, bf16: bool, fp8: bool, fp4: bool, suffix: str = "") -> Capability:
    return Capability(version, family, bf16, True, fp8, fp4, version + suffix)


CAPABILITIES: Mapping[str, Capability] = {
    row.version: row
    for row in (
        #     version  family       bf16   fp8    fp4    suffix
        _row("7.5", "Turing", False, False, False),  # T4, RTX 20
        _row("8.0", "Ampere", True, False, False),  # A100, A30
        _row("8.6", "Ampere", True, False, False),  # A10, A40, RTX 30
        _row("8.7", "Ampere", True, False, False),  # Jetson Orin
        _row("8.9", "Ada", True, True, False),  # L4, L40S, RTX 40
        _row("9.0", "Hopper", True, True, False, "a"),  # H100, H200, GH200
        _row("10.0", "Blackwell", True, True, True, "a"),  # B200, GB200
        _row("10.3", "Blackwell", True, True, True, "a"),  # B300, GB300
        _row("11.0", "Blackwell", True, True, True, "a"),  # Jetson Thor
        _row("12.0", "Blackwell", True, True, True, "f"),  # RTX PRO 6000, RTX 50
        _row("12.1", "Blackwell", True, True, True, "a"),  # GB10
    )
}

# Engine -> type of weights -> the first architecture (sm) on which the engine computes with them in 16 bits.
EMULATED_FROM: Mapping[str, Mapping[str, int]] = {
    "vllm": {"fp8": 75, "nvfp4": 80, "mxfp4": 80},
    "sglang": {"fp8": 80, "mxfp4": 80},
    "trtllm": {"mxfp4": 90},
}
# The first cards whose tensor cores compute in a type.
SUPPORTED_SINCE: Mapping[str, str] = {
    "nvfp4": "Blackwell (sm_100 and later)",
    "mxfp4": "Blackwell (sm_100 and later)",
    "fp8": "sm_89",
    "bf16": "sm_80",
    "int8": "sm_75",
}

VERSION = re.compile(r"[1-9][0-9]?\.[0-9]")


def sm_of(version: str) -> str:
    """``sm_120`` for ``12.0``."""
    return "sm_" + version.replace(".", "")


def find_capability(version: Optional[str]) -> Optional[Capability]:
    """The row of a compute capability such as ``12.0``; ``None`` for one that is not in the table."""
    return CAPABILITIES.get(version) if version else None


def describe_capability(version: Optional[str]) -> Dict[str, Any]:
    """The part of a card's description in ``anvil_host_info``; every value is null where the capability is unknown."""
    row = find_capability(version)
    return {
        "sm": sm_of(version) if version else None,
        "family": row.family if row else None,
        "can": {
            "bf16": row.bf16 if row else None,
            "int8": row.int8 if row else None,
            "fp8": row.fp8 if row else None,
            "nvfp4": row.fp4 if row else None,
            "mxfp4": row.fp4 if row else None,
            "emulated": list(row.emulated) if row else None,
            "kv_dtypes": list(row.kv_dtypes) if row else None,
        },
    }


def _sort_versions(versions: Sequence[str]) -> Sequence[str]:
    return sorted(set(versions), key=lambda version: [int(part) for part in version.split(".")])


def torch_environment(versions: Sequence[str], expandable: bool) -> Dict[str, str]:
    """Environment variables of a PyTorch engine for the compute capabilities of *all* cards of its serve.

    Kernels that are compiled at the start of the engine are limited to the architectures of these cards.

    expandable: on one card, the allocator grows its segments, which avoids out of memory through fragmentation. On several
    cards the engines share buffers through CUDA IPC, which cannot share such segments. The variable is set under both names:
    PyTorch up to 2.9 ignores the new name for CUDA (pytorch#183387), and later releases call the old name deprecated.

    A serve on several Ampere or Hopper cards gets one hardware queue, so that tensor-parallel communication is launched in
    order with the work that it overlaps (advice of Megatron-Core; Blackwell does not need it).
    """
    known = _sort_versions(versions)
    environment = {"TORCH_CUDA_ARCH_LIST": " ".join(known)}
    rows = [CAPABILITIES[version] for version in known if version in CAPABILITIES]
    if len(rows) == len(known):
        environment["FLASHINFER_CUDA_ARCH_LIST"] = " ".join(row.flashinfer for row in rows)
    if expandable and len(versions) == 1:
        environment["PYTORCH_ALLOC_CONF"] = environment["PYTORCH_CUDA_ALLOC_CONF"] = "expandable_segments:True"
    if len(versions) > 1 and set(known) <= {"8.0", "9.0"}:
        environment["CUDA_DEVICE_MAX_CONNECTIONS"] = "1"
    return environment
