# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known of one model, as data: architecture, size, quantisation, the attention memory of its layers. Pure.

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

# Kinds of layers, by what one sequence leaves in them:
FULL = "full"  # keys and values of every token
MLA = "mla"  # one latent of every token, the same for all heads
WINDOW = "window"  # keys and values of the last ``window`` tokens
CHUNKED = "chunked"  # keys and values of the tokens in the current chunk of ``window`` tokens
CROSS = "cross"  # keys and values of exactly ``window`` tokens of an encoder
LINEAR = "linear"  # a recurrent state of ``state`` elements, whatever the length
SHARED = "shared"  # nothing: it reads the cache of another layer
NONE = "none"  # nothing: it has no attention, or keeps none of it (encoders)
UNKNOWN = "unknown"  # the config calls it by a word that is not known


@dataclass(frozen=True)
class Layer:
    """A run of ``count`` equal layers.

    kv_heads, key, value: heads in the cache, and elements of a key and of a value of one head. window: tokens. state: elements
    of the recurrent state of one sequence. token_bytes: bytes for each token beside keys and values, whatever the KV type.
    """

    kind: str
    count: int = 1
    kv_heads: int = 0
    key: int = 0
    value: int = 0
    window: int = 0
    state: int = 0
    token_bytes: int = 0

    @property
    def elements(self) -> int:
        """Elements of one token in the cache of one layer."""
        return self.kv_heads * (self.key + self.value)


@dataclass(frozen=True)
class Attention:
    """The attention memory of a model, layer by layer. unknown: words that were not understood; with one, nothing is counted."""

    layers: Tuple[Layer, ...]
    unknown: Tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        return not self.unknown and not any(layer.kind == UNKNOWN for layer in self.layers)

    @property
    def kv_heads(self) -> int:
        """The most KV heads of a layer; 0 without a cache."""
        return max([layer.kv_heads for layer in self.layers], default=0)

    @property
    def bytes_per_token(self) -> Optional[int]:
        """Bytes of one token in a cache of a 16-bit type, while it is inside all windows; None where the layout is not exact."""
        if not self.exact:
            return None
        return sum(
            layer.count * (2 * layer.elements + layer.token_bytes)
            for layer in self.layers
            if layer.kind in (FULL, MLA, WINDOW, CHUNKED)
        )


@dataclass(frozen=True)
class WeightParts:
    """Bytes of the weights, by what an engine does with them when it loads them. The parts overlap.

    experts: of routed experts, which expert parallelism divides. linear: of 16-bit or wider linear layers, which quantisation on
    load packs; linear_elements: their elements. wide, narrow: of floats of 32 and of 16 bits, which ``dtype`` converts. idle: not
    loaded, such as layers for speculative decoding, or a second copy of tied embeddings. host: kept in the host's memory
    (llama.cpp's token embedding). attention: of the attention, which some engines copy to every rank.
    """

    experts: int = 0
    linear: int = 0
    linear_elements: int = 0
    wide: int = 0
    narrow: int = 0
    idle: int = 0
    host: int = 0
    attention: int = 0


@dataclass(frozen=True)
class ModelFacts:
    """One model. Sizes in bytes.

    quantisation: in lower case for Hugging Face methods (nvfp4, fp8, awq), as ggml writes it for GGUF (Q4_K_M, IQ4_XS).
    quant_method: what quantised a Hugging Face checkpoint, in its own word (modelopt, compressed-tensors, fp8).
    block: elements of a weight that share one scale in each direction (fp8 in blocks). width: of the inner layer of an expert, or
    of the whole MLP in a model without experts.
    base_name: the model's family and version without size and quantisation. kind: text, embeddings, rerank, or a key of
    ``gguf_kind.NOT_MODELS``. unknown_types: of tensors that the engine cannot load. projector_widths: of a projector's output;
    one of them is the width of the model that it belongs to. splits: number of files. missing: files that belong to the model
    according to the others, and are not there. attention: None where the headers do not describe the layers. trt: what a
    TensorRT-LLM engine was built for.
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
    quant_method: Optional[str] = None
    context_length: Optional[int] = None
    layers: Optional[int] = None
    embedding_length: Optional[int] = None
    vocabulary: Optional[int] = None
    experts: Optional[int] = None
    heads: Optional[int] = None
    block: Optional[int] = None
    width: Optional[int] = None
    attention: Optional[Attention] = None
    parts: WeightParts = WeightParts()
    chat_template: bool = False
    kind: str = "text"
    base_name: Optional[str] = None
    unknown_types: Tuple[str, ...] = ()
    projector_widths: Tuple[int, ...] = ()
    splits: int = 1
    missing: Tuple[str, ...] = ()
    trt: Optional[Mapping[str, Any]] = None
    notes: Tuple[str, ...] = ()

    @property
    def kv_heads(self) -> Optional[int]:
        return None if self.attention is None or not self.attention.exact else self.attention.kv_heads

    def as_dict(self) -> Dict[str, Any]:
        plain = asdict(self)
        plain["kv_heads"] = self.kv_heads
        plain["kv_bytes_per_token"] = None if self.attention is None else self.attention.bytes_per_token
        return plain
