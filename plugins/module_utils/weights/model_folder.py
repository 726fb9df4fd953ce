# SPDX-License-Identifier: GPL-3.0-or-later
"""Which model lies at a path, and which models lie below a folder: by the headers of the files, never by their names.

Three kinds: GGUF files (with the files they are split into), Hugging Face folders (safetensors and config.json), TensorRT-LLM
engines.
"""

from __future__ import annotations

import os
import re
from typing import List, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_files import walk_folder
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import GGUF_SPLIT, ModelFacts
from ansible_collections.anvil.serving.plugins.module_utils.weights.weight_files import read_json

TENSORRT_FILE = re.compile(r"rank\d+\.engine")


def _list_files(folder: str) -> List[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_file())
    except OSError as exc:
        raise fail(
            "cannot read the folder of the model",
            where=folder,
            why=exc.strerror or str(exc),
            hint="check the path and its permissions: ls -ld " + folder,
        ) from exc


def read_model(path: str) -> ModelFacts:
    """The model at a path: a GGUF or safetensors file, or a folder with one model. Raises AnvilError where there is none."""
    # Only the reader of the format that is there is loaded.
    if not os.path.isdir(path):
        if path.endswith(".safetensors"):
            from ansible_collections.anvil.serving.plugins.module_utils.weights.hugging_face_model import read_safetensors_file

            return read_safetensors_file(path)
        return _read_gguf(path)
    names = _list_files(path)
    if "config.json" in names:
        config = read_json(os.path.join(path, "config.json"))
        if isinstance(config.get("pretrained_config"), dict):
            from ansible_collections.anvil.serving.plugins.module_utils.weights.tensorrt_model import read_tensorrt_model

            return read_tensorrt_model(path, names, config)
        if any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names):
            from ansible_collections.anvil.serving.plugins.module_utils.weights.hugging_face_model import read_hugging_face_model

            return read_hugging_face_model(path, names)
    ggufs = find_ggufs(path, names)
    if len(ggufs) == 1:
        return _read_gguf(os.path.join(path, ggufs[0]))
    why = (
        "the folder holds {0} GGUF models: {1}".format(len(ggufs), ", ".join(ggufs[:8]))
        if ggufs
        else "the folder holds no GGUF file, no safetensors files with config.json and no TensorRT-LLM engine"
    )
    raise fail(
        "it is not clear which model to use" if ggufs else "there is no model here",
        where=path,
        why=why,
        hint="give the path of one of these files"
        if ggufs
        else "check the path; a model is config.json with *.safetensors or rank*.engine files, or a *.gguf file",
    )


def _read_gguf(path: str) -> ModelFacts:
    from ansible_collections.anvil.serving.plugins.module_utils.weights.gguf_model import read_gguf_model

    return read_gguf_model(path)


def find_ggufs(folder: str, names: Optional[Sequence[str]] = None) -> List[str]:
    """The GGUF models of a folder, one file name for each: of a split model the first."""
    found, stems = [], set()
    for name in sorted(_list_files(folder) if names is None else names):
        if not name.endswith(".gguf"):
            continue
        split = GGUF_SPLIT.fullmatch(name)
        if split is None:
            found.append(name)
        elif (split["stem"], split["count"]) not in stems:
            stems.add((split["stem"], split["count"]))
            found.append(name)
    return found


def find_models(folder: str, depth: int = 5) -> Tuple[List[ModelFacts], List[AnvilError]]:
    """Every model below a folder, and an error for each that cannot be read."""
    found: List[ModelFacts] = []
    broken: List[AnvilError] = []
    for here, names in walk_folder(folder, depth):
        paths = [os.path.join(here, name) for name in find_ggufs(here, names)]
        if "config.json" in names and any(name.endswith(".safetensors") or TENSORRT_FILE.fullmatch(name) for name in names):
            paths.append(here)
        for path in paths:
            try:
                found.append(read_model(path))
            except AnvilError as exc:
                broken.append(exc)
    return found, broken
