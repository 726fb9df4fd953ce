# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of one model, as data: architecture, size, quantisation, shape of the KV cache. Pure.

``model_folder`` finds these facts, from the headers of the files and never from their names. What a header does not say
stays None.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Dict, Mapping, Optional, Tuple

# A GGUF model that is split into several files names them in this way.
GGUF_SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
# The folder of a TensorRT-LLM engine names the card, release and CUDA it was built for; its files do not.
TRT_LABEL = re.compile(r"sm(?P<sm>\d+)_trt-llm-(?P<version>[\d.]+).*_cuda(?P<cuda>[\d.]+)")


@dataclass(frozen=True)
class KvShape:
    """What one token leaves in the KV cache, in elements over all layers.

    full: of the layers that keep every token. windowed: of the layers that keep only the last ``window`` tokens.
    text: how the numbers were computed.
    """

    full: int
    windowed: int = 0
    window: int = 0
    text: str = ""


@dataclass(frozen=True)
class ModelFacts:
    """One model. Sizes in bytes.

    quantisation: in lower case for Hugging Face methods (nvfp4, fp8, awq), as ggml writes it for GGUF (Q4_K_M, IQ4_XS).
    kind: text, embeddings, mmproj, adapter, vocab or imatrix. splits: number of files. missing: files that belong to the model
    according to the others, and are not there. trt: what a TensorRT-LLM engine was built for.
    """

    path: str
    format: str
    files: Tuple[str, ...]
    weights_bytes: int
    name: Optional[str] = None
    architecture: Optional[str] = None
    parameters: Optional[int] = None
    quantisation: Optional[str] = None
    kv_quantisation: Optional[str] = None
    context_length: Optional[int] = None
    layers: Optional[int] = None
    embedding_length: Optional[int] = None
    vocabulary: Optional[int] = None
    experts: Optional[int] = None
    kv_heads: Optional[int] = None
    kv: Optional[KvShape] = None
    chat_template: bool = False
    kind: str = "text"
    splits: int = 1
    missing: Tuple[str, ...] = ()
    trt: Optional[Mapping[str, Any]] = None
    notes: Tuple[str, ...] = ()

    def as_dict(self) -> Dict[str, Any]:
        plain = asdict(self)
        plain["kv_bytes_per_token"] = None if self.kv is None else 2 * (self.kv.full + self.kv.windowed)
        return plain
