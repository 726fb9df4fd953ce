# SPDX-License-Identifier: GPL-3.0-or-later
"""What kind of file a GGUF file is: a language model, an embedder, a projector, or something that no server loads. Pure.

llama.cpp writes ``general.type`` only since 2024, so the architecture and the tensors decide where it is missing.
"""

from __future__ import annotations

import re
from typing import Any, Iterable, Mapping, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.weights.weight_files import Tensor, read_count

# Kind of a file that llama-server does not load as its model -> what the file is.
NOT_MODELS: Mapping[str, str] = {
    "mmproj": "a projector",
    "adapter": "an adapter (LoRA)",
    "vocab": "a vocabulary without weights",
    "imatrix": "an importance matrix",
    "control_vector": "a control vector",
    "codec": "a decoder of sounds, which is a part of a speech model",
    "draft": "a draft model, which only works beside the model that it drafts for (--model-draft)",
    "other": "not a language model: its header has no block count, as those of image, video and audio models",
}
# Architectures of files that are not models (llama.cpp's converters and cvector-generator), and of draft models (EAGLE-3).
_ARCHITECTURES = {
    "clip": "mmproj",
    "controlvector": "control_vector",
    "imatrix": "imatrix",
    "eagle3": "draft",
    "dflash": "draft",
    "wavtokenizer-dec": "codec",
}
# Architectures that only encode: without a pooling type they return one vector for each token.
_ENCODERS = re.compile(r".*bert(-moe|-v[23])?|gemma-embedding|t5encoder|llama-embed")
# llama.cpp's pooling types (llama.h): 1 mean, 2 CLS, 3 last, 4 rank.
_POOLING = {1: "embeddings", 2: "embeddings", 3: "embeddings", 4: "rerank"}
# Beginnings of the names of tensors that turn a projector's output into embeddings of the language model (clip-impl.h).
_PROJECTION = ("mm.", "resampler.", "model.mm", "mm_")


def find_kind(architecture: str, metadata: Mapping[str, Any], tensors: Sequence[Tensor]) -> str:
    """text, embeddings, rerank, or a key of ``NOT_MODELS``."""
    if architecture in _ARCHITECTURES:
        return _ARCHITECTURES[architecture]
    general = metadata.get("general.type", "model")
    if general in ("adapter", "vocab", "imatrix", "mmproj"):
        return str(general)
    if read_count(metadata.get(architecture + ".block_count")) is None:
        return "other"
    if not tensors:
        return "vocab"
    pooling = metadata.get(architecture + ".pooling_type")
    known = _POOLING.get(pooling) if isinstance(pooling, int) else None
    return known or ("embeddings" if _ENCODERS.fullmatch(architecture) else "text")


def find_unknown_types(tensors: Iterable[Tensor]) -> Tuple[str, ...]:
    """The types of tensors that llama.cpp does not have; forks write such files."""
    return tuple(sorted({tensor.dtype for tensor in tensors if tensor.dtype.startswith("type ")}))


def find_projector_widths(metadata: Mapping[str, Any], tensors: Iterable[Tensor]) -> Tuple[int, ...]:
    """The widths that a projector's output may have. llama.cpp refuses one whose width is not that of the model's embeddings.

    Which number it is depends on the kind of projector (``clip_n_mmproj_embd``): the projection's own or a tensor's.
    """
    found = {read_count(metadata.get("clip.{0}.projection_dim".format(part))) for part in ("vision", "audio")}
    for tensor in tensors:
        if tensor.name.startswith(_PROJECTION):
            found.update(tensor.shape)
    return tuple(sorted(width for width in found if width))
