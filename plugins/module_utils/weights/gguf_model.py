# SPDX-License-Identifier: GPL-3.0-or-later
"""The facts of a GGUF model, from the header of its file and of the files it is split into."""

from __future__ import annotations

import os
from typing import Any, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.weights.gguf_attention import read_gguf_attention
from ansible_collections.anvil.serving.plugins.module_utils.weights.gguf_header import FILE_TYPES, GgufHeader, read_gguf
from ansible_collections.anvil.serving.plugins.module_utils.weights.gguf_kind import (
    find_kind,
    find_projector_widths,
    find_unknown_types,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import (
    GGUF_SPLIT,
    ModelFacts,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.weight_files import (
    Tensor,
    find_dominant_type,
    read_count,
    read_first_count,
    read_text,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.weight_parts import measure_gguf


def _read_heads(value: Any) -> Optional[int]:
    """The most attention heads of a layer: GGUF writes one number for all, or a list."""
    return max((read_count(item) or 0 for item in (value if isinstance(value, list) else [value])), default=0) or None


def _find_quantisation(meta: Mapping[str, Any], tensors: Sequence[Tensor]) -> Tuple[Optional[str], Tuple[str, ...]]:
    """The name of the quantisation mix, and a note where the header names one that its own tensors contradict."""
    dominant = find_dominant_type(tensors)
    claimed = FILE_TYPES.get(read_first_count(meta, "general.file_type") or 0) if "general.file_type" in meta else None
    if claimed is None:
        return dominant, ()
    # The name of a mix (Q4_K_M, IQ3_M) is not the type of its tensors: only the names of plain types can be compared with them.
    plain = {"F32", "F16", "BF16"}
    if claimed in plain and dominant is not None and dominant != claimed:
        return dominant, ("general.file_type is {0}, but most weights are {1}".format(claimed, dominant),)
    if claimed not in plain and {tensor.dtype for tensor in tensors} <= plain:
        return dominant, ("general.file_type is {0}, but no tensor is quantised".format(claimed),)
    return claimed, ()


def _collect_facts(path: str, headers: Sequence[GgufHeader], files: Sequence[str], missing: Sequence[str]) -> ModelFacts:
    meta = headers[0].metadata
    tensors = [tensor for header in headers for tensor in header.tensors]
    architecture = meta.get("general.architecture")
    if not isinstance(architecture, str):
        raise fail(
            "not a usable GGUF file",
            where=path,
            why="the header has no general.architecture",
            hint="fetch the file again, or convert the model again with llama.cpp's converter",
        )
    quantisation, notes = _find_quantisation(meta, tensors)
    kind = find_kind(architecture, meta, tensors)
    blocks = read_count(meta.get(architecture + ".block_count"))
    drafts = read_count(meta.get(architecture + ".nextn_predict_layers")) or 0
    return ModelFacts(
        path=path,
        format="gguf",
        files=tuple(files),
        weights_bytes=sum(header.data_bytes for header in headers),
        name=read_text(meta.get("general.name")),
        base_name=read_text(meta.get("general.basename")),
        architecture=read_text(architecture),
        parameters=sum(tensor.elements for tensor in tensors),
        quantisation=quantisation,
        context_length=read_count(meta.get(architecture + ".context_length")),
        layers=blocks,
        embedding_length=read_count(meta.get(architecture + ".embedding_length")),
        vocabulary=headers[0].lengths.get("tokenizer.ggml.tokens") or read_count(meta.get(architecture + ".vocab_size")),
        experts=read_count(meta.get(architecture + ".expert_count")),
        heads=_read_heads(meta.get(architecture + ".attention.head_count")),
        attention=read_gguf_attention(architecture, meta),
        parts=measure_gguf(tensors, blocks - drafts if blocks else None),
        chat_template=isinstance(meta.get("tokenizer.chat_template"), str),
        kind=kind,
        unknown_types=find_unknown_types(tensors),
        projector_widths=find_projector_widths(meta, tensors) if kind == "mmproj" else (),
        splits=len(files) + len(missing),
        missing=tuple(missing),
        notes=notes,
    )


def read_gguf_model(path: str) -> ModelFacts:
    """The model of a GGUF file. Where its header or name says that it is one of several files, the others are read too."""
    folder, name = os.path.split(path)
    named = GGUF_SPLIT.fullmatch(name)
    first = read_gguf(path)
    counted = read_count(first.metadata.get("split.count")) or 0
    if counted > 1 and not named:
        raise fail(
            "split model whose file was renamed",
            where=path,
            why="its header says that the model is split into {0} files".format(counted),
            hint="rename the files to NAME-00001-of-{0:05d}.gguf and so on: llama.cpp finds them by these names".format(counted),
        )
    if not named or (not counted and int(named["count"]) == 1):
        return _collect_facts(path, [first], [name], [])
    count = int(named["count"])
    if count > 9999 or counted not in (0, count):
        raise fail(
            "split model contradicts itself",
            where=path,
            why="its name says {0} files, its header {1}".format(count, counted),
            hint="fetch the files again, under the names that they have at their source",
        )
    names = ["{0}-{1:05d}-of-{2:05d}.gguf".format(named["stem"], number, count) for number in range(1, count + 1)]
    here = [part for part in names if os.path.isfile(os.path.join(folder, part))]
    headers = [first if part == name else read_gguf(os.path.join(folder, part)) for part in here]
    return _collect_facts(path, headers, here, [part for part in names if part not in here])
