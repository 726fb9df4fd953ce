"""The kind of a GGUF file, from headers as converters write them."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.weights.gguf_kind import (
    find_kind,
    find_projector_widths,
    find_unknown_types,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.weight_files import Tensor

WEIGHT = Tensor("blk.0.attn_q.weight", "Q8_0", (32, 32), 1088)


@pytest.mark.parametrize(
    ("architecture", "metadata", "tensors", "kind"),
    [
        ("llama", {"llama.block_count": 32}, [WEIGHT], "text"),
        ("qwen3", {"general.type": "model", "qwen3.block_count": 36}, [WEIGHT], "text"),
        # llama.cpp's own vocabularies; the older ones have no general.type.
        ("llama", {"llama.block_count": 32}, [], "vocab"),
        ("llama", {"general.type": "vocab", "llama.block_count": 32}, [], "vocab"),
        ("controlvector", {"controlvector.layer_count": 31}, [WEIGHT], "control_vector"),
        ("llama", {"general.type": "adapter", "adapter.type": "lora"}, [WEIGHT], "adapter"),
        ("imatrix", {}, [WEIGHT], "imatrix"),
        ("llama", {"general.type": "imatrix"}, [WEIGHT], "imatrix"),
        ("clip", {"clip.has_vision_encoder": True}, [WEIGHT], "mmproj"),
        ("clip", {"general.type": "mmproj"}, [WEIGHT], "mmproj"),
        ("eagle3", {"eagle3.block_count": 1}, [WEIGHT], "draft"),
        # Image and video models: ggml issue 15143 (qwen_image), unsloth issue 10352 (minimax_h3), stable-diffusion.cpp (flux).
        ("qwen_image", {"general.quantization_version": 2, "general.file_type": 7}, [WEIGHT], "other"),
        ("minimax_h3", {"general.file_type": 7}, [WEIGHT], "other"),
        ("flux", {}, [WEIGHT], "other"),
        ("bert", {"bert.block_count": 12, "bert.pooling_type": 2}, [WEIGHT], "embeddings"),
        ("qwen3", {"qwen3.block_count": 28, "qwen3.pooling_type": 3}, [WEIGHT], "embeddings"),
        ("bert", {"bert.block_count": 24, "bert.pooling_type": 4}, [WEIGHT], "rerank"),
        ("llama", {"llama.block_count": 32, "llama.pooling_type": 0}, [WEIGHT], "text"),
        # Older converters omit the pooling type; an encoder can only give embeddings.
        ("bert", {"bert.block_count": 12}, [WEIGHT], "embeddings"),
        ("nomic-bert-moe", {"nomic-bert-moe.block_count": 12, "nomic-bert-moe.pooling_type": 0}, [WEIGHT], "embeddings"),
        ("t5encoder", {"t5encoder.block_count": 24}, [WEIGHT], "embeddings"),
        ("t5", {"t5.block_count": 24}, [WEIGHT], "text"),
        ("wavtokenizer-dec", {"wavtokenizer-dec.block_count": 12}, [WEIGHT], "codec"),
        ("llama", {"llama.block_count": 32, "llama.pooling_type": [4]}, [WEIGHT], "text"),
        ("llama", {"llama.block_count": "32"}, [WEIGHT], "other"),
    ],
)
def test_the_header_and_the_tensors_decide_the_kind_of_a_file(
    architecture: str, metadata: dict[str, Any], tensors: list[Tensor], kind: str
) -> None:
    assert find_kind(architecture, metadata, tensors) == kind


def test_tensor_types_of_forks_are_found() -> None:
    # 156 is ik_llama.cpp's IQ3_KS (its issue 605), 42 a fork's (llama.cpp issue 11975).
    tensors = [
        WEIGHT,
        Tensor("a", "type 156", (256, 4), 0),
        Tensor("b", "type 42", (256, 4), 0),
        Tensor("c", "type 156", (8,), 0),
    ]
    assert find_unknown_types(tensors) == ("type 156", "type 42")
    assert find_unknown_types([WEIGHT]) == ()


def test_the_widths_of_a_projector_are_found() -> None:
    meta = {"clip.vision.projection_dim": 768, "clip.audio.projection_dim": 2560}
    tensors = [Tensor("mm.2.bias", "F32", (4096,), 16384), Tensor("v.blk.0.weight", "F16", (1024, 64), 0)]
    assert find_projector_widths(meta, tensors) == (768, 2560, 4096)
    assert find_projector_widths({"clip.vision.projection_dim": -1}, []) == ()
