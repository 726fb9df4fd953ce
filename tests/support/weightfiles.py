# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Write small GGUF and safetensors files with their libraries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import safetensors.numpy


def write_gguf(path: Path, arch: str = "llama", quant: gguf.GGMLQuantizationType | None = None, **values: object) -> Path:
    w = gguf.GGUFWriter(str(path), arch)
    w.add_context_length(4096)
    w.add_block_count(2)
    w.add_embedding_length(256)
    w.add_head_count(8)
    w.add_head_count_kv(2)
    w.add_token_list([b"a", "ä".encode(), b"c" * 300])
    w.add_token_scores([0.0, 1.0, 2.0])
    w.add_bool("general.is_fine", True)
    for key, value in values.items():
        getattr(w, "add_" + key)(value)
    w.add_tensor("token_embd.weight", np.zeros((3, 256), np.float32))
    for layer in range(2):
        data = np.zeros((256, 256), np.float32)
        packed = gguf.quants.quantize(data, quant) if quant is not None else data
        w.add_tensor(f"blk.{layer}.attn_q.weight", packed, raw_dtype=quant)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def write_safetensors(path: Path) -> Path:
    safetensors.numpy.save_file({"a.weight": np.zeros((4, 8), np.float16), "b": np.ones((3,), np.float32)}, str(path), {"k": "v"})
    return path


def sparse_safetensors(path: Path, tensors: dict[str, tuple[str, list[int], int]]) -> None:
    """A file whose header is true and whose tensors are holes."""
    header, end = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    raw = json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw)
    with path.open("r+b") as stream:
        stream.truncate(8 + len(raw) + end)


def hf_folder(folder: Path, config: dict[str, Any], **tensors: tuple[str, list[int], int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    sparse_safetensors(folder / "model.safetensors", tensors or {"w.weight": ("BF16", [1024, 1024], 2 << 20)})
    return folder
