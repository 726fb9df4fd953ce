"""The context length of models whose config scales their positions, as published for each model."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.weights.context_length import extend_length


@pytest.mark.parametrize(
    ("length", "config", "extended"),
    [
        (32768, {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}, 131072),  # Qwen2.5
        (
            40960,
            {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}},
            131072,
        ),  # Qwen3
        (
            131072,
            {"rope_scaling": {"rope_type": "yarn", "factor": 32.0, "original_max_position_embeddings": 4096}},
            131072,
        ),  # gpt-oss
        (
            163840,
            {"rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096}},
            163840,
        ),  # DeepSeek-V3
        (131072, {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192}}, 131072),
        (131072, {"rope_scaling": {"type": "longrope", "factor": 32}}, 131072),  # Phi-3
        (32768, {"rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]}}, 32768),  # Qwen2-VL
        (131072, {"model_type": "gemma3_text", "rope_scaling": {"rope_type": "linear", "factor": 8.0}}, 131072),
        (4096, {"rope_scaling": {"type": "linear", "factor": 4.0}}, 16384),
        (4096, {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}, "rope_scaling": {"type": "yarn", "factor": 4.0}}, 16384),
        (4096, {"rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 2}, "sliding_attention": {}}}, 8192),
        (4096, {"rope_parameters": {"rope_theta": 1e6, "rope_type": "default"}}, 4096),
        (4096, {"rope_scaling": {"type": "yarn", "factor": "4"}}, 4096),
        (4096, {"rope_scaling": {"type": "yarn", "factor": 1e300}}, 4096),
        (4096, {"rope_scaling": [4]}, 4096),
        (4096, {}, 4096),
        (None, {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}}, None),
    ],
)
def test_a_config_extends_the_context_length(length: int | None, config: dict[str, Any], extended: int | None) -> None:
    assert extend_length(length, config) == extended
