# SPDX-License-Identifier: GPL-3.0-or-later
"""The facts of a TensorRT-LLM engine, from its config.json and the label that is the name of its folder."""

from __future__ import annotations

import os
from typing import Any, Mapping, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import (
    FULL,
    TRT_LABEL,
    Attention,
    Layer,
    ModelFacts,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.weight_files import read_first_count


def read_tensorrt_model(folder: str, names: Sequence[str], config: Mapping[str, Any]) -> ModelFacts:
    """The model of a folder with rank*.engine files. Only the name of the folder says which card it was built for."""
    model, build = config["pretrained_config"], config.get("build_config")
    build = build if isinstance(build, Mapping) else {}
    quant = model.get("quantization")
    quant = quant if isinstance(quant, Mapping) else {}
    mapping = model.get("mapping")
    world = (read_first_count(mapping, "world_size") if isinstance(mapping, Mapping) else None) or 1
    wanted = ["rank{0}.engine".format(rank) for rank in range(min(world, 4096))]
    here = [name for name in wanted if name in names]
    layers, heads = read_first_count(model, "num_hidden_layers"), read_first_count(model, "num_attention_heads")
    width = read_first_count(model, "hidden_size")
    kv_heads = read_first_count(model, "num_key_value_heads") or heads
    head = read_first_count(model, "head_size") or (width // heads if width and heads else None)
    attention = Attention((Layer(FULL, layers, kv_heads, head, head),)) if layers and kv_heads and head else None
    label = os.path.basename(os.path.normpath(folder))
    built = TRT_LABEL.fullmatch(label)
    algorithm = str(quant.get("quant_algo") or model.get("dtype") or "").lower()
    cache = quant.get("kv_cache_quant_algo")
    return ModelFacts(
        path=folder,
        format="trtllm",
        files=tuple(here),
        weights_bytes=sum(os.path.getsize(os.path.join(folder, name)) for name in here),
        architecture=model.get("architecture"),
        quantisation={"float16": "f16", "bfloat16": "bf16", "float32": "f32"}.get(algorithm, algorithm) or None,
        kv_quantisation=str(cache).lower() if cache else None,
        context_length=read_first_count(build, "max_seq_len") or read_first_count(model, "max_position_embeddings"),
        layers=layers,
        embedding_length=width,
        vocabulary=read_first_count(model, "vocab_size"),
        heads=heads,
        attention=attention,
        splits=world,
        missing=tuple(name for name in wanted if name not in here),
        trt={
            "label": label if built else None,
            "sm": int(built["sm"]) if built else None,
            "cuda": built["cuda"] if built else None,
            "version": str(config.get("version") or (built["version"] if built else "")) or None,
            "world_size": world,
            "max_batch_size": read_first_count(build, "max_batch_size"),
        },
    )
