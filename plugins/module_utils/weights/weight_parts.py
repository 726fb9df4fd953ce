# SPDX-License-Identifier: GPL-3.0-or-later
"""Which bytes of the weights an engine divides, converts, packs or leaves out while it loads them, by their names. Pure."""

from __future__ import annotations

import re
from typing import Iterable, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import WeightParts
from ansible_collections.anvil.serving.plugins.module_utils.weights.weight_files import Tensor

_LAYER = re.compile(r"(?:model\.)?(?:language_model\.)?(?:model\.)?layers\.(\d{1,5})\.")
_BLOCK = re.compile(r"blk\.(\d{1,5})\.")
_DRAFT = re.compile(r"(?:^|\.)mtp\.")
# The parts of Qwen's Omni models that speak; vLLM and SGLang load the thinker only.
_SPEECH = ("talker.", "token2wav.", "code2wav.")
# Not linear layers that quantisation on load packs: embeddings, the head, norms, routers.
_KEPT = re.compile(r"embed|lm_head|norm|(?:^|\.)(?:gate|router|wte|wpe)\.weight$|bias$")
# Layers of experts, also where one tensor holds all of them (GraniteMoe, Step-3).
_EXPERTS = re.compile(r"\.experts\.|\.block_sparse_moe\.(?:input|output)_linear\.|\.moe\.(?:gate|up|down)_proj\.")
_ATTENTION = re.compile(r"\.(?:self_attn|self_attention|attention|attn)\.")
_FLOATS = ("F32", "F16", "BF16")


def _is_idle(name: str, layers: Optional[int], tied: bool) -> bool:
    """Whether a tensor is not loaded: a layer of a draft, a part that speaks, or a head that is the embedding."""
    if "layers." in name:
        layer = _LAYER.match(name)
        if layers and layer and int(layer[1]) >= layers:
            return True
    if name.startswith(_SPEECH):
        return True
    return (tied and name == "lm_head.weight") or ("mtp." in name and _DRAFT.search(name) is not None)


def measure_safetensors(tensors: Iterable[Tensor], layers: Optional[int], tied: bool) -> WeightParts:
    """The parts of a Hugging Face checkpoint. layers: of the model itself. tied: the head is the embedding."""
    experts = attention = linear = elements = wide = narrow = idle = 0
    for tensor in tensors:
        name, size = tensor.name, tensor.size
        if _is_idle(name, layers, tied):
            idle += size
            continue
        if _EXPERTS.search(name):
            experts += size
        elif _ATTENTION.search(name):
            attention += size
        if tensor.dtype not in _FLOATS:
            continue
        if tensor.dtype == "F32":
            wide += size
        else:
            narrow += size
        if len(tensor.shape) > 1 and not _KEPT.search(name):
            linear += size
            elements += size // (4 if tensor.dtype == "F32" else 2)
    return WeightParts(experts, linear, elements, wide, narrow, idle, attention=attention)


def measure_gguf(tensors: Sequence[Tensor], layers: Optional[int]) -> WeightParts:
    """The parts of a GGUF model. llama.cpp keeps the token embedding in the host's memory, unless it is the head as well."""
    has_head = any(tensor.name == "output.weight" for tensor in tensors)
    experts = idle = host = 0
    for tensor in tensors:
        block = _BLOCK.match(tensor.name)
        if layers and block and int(block[1]) >= layers:
            idle += tensor.size
        elif "_exps." in tensor.name:
            experts += tensor.size
        elif (tensor.name == "token_embd.weight" and has_head) or tensor.name.startswith("per_layer_token_embd."):
            host += tensor.size
    return WeightParts(experts=experts, idle=idle, host=host)
