# SPDX-License-Identifier: GPL-3.0-or-later
"""Which model lies at a path, and which models lie below a folder: by the headers of the files, never by their names.

Three kinds: GGUF files (with the files they are split into), Hugging Face folders (safetensors and config.json), TensorRT-LLM
engines.
"""

from __future__ import annotations

import os
import re
from typing import List, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_files import is_inside, open_file, walk_folder
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import GGUF_SPLIT, ModelFacts
from ansible_collections.anvil.serving.plugins.module_utils.weights.weight_files import read_json

TENSORRT_FILE = re.compile(r"rank\d+\.engine")
_PLAIN_WEIGHTS = re.compile(
    r".*\.safetensors(?:\.index\.json)?|(?:pytorch_model|model|consolidated)[-.\w]*\.(?:bin|pt)(?:\.index\.json)?"
)


class NoModelError(AnvilError):
    """There is no model at a path: a folder without weights, or one with several models."""


def _list_files(folder: str, inside: Optional[str]) -> List[str]:
    """The names of the files of a folder, without links that lead out of ``inside``."""
    names = next(walk_folder(folder, 0))[1]
    if inside is None:
        return list(names)
    root = os.path.realpath(inside)
    return [name for name in names if is_inside(os.path.realpath(os.path.join(folder, name)), root)]


def _is_mistral(names: Sequence[str]) -> bool:
    """Whether a folder has Mistral's own format only: params.json and consolidated files."""
    has_weights = any(name.startswith("consolidated") and name.endswith(".safetensors") for name in names)
    return has_weights and "params.json" in names and "config.json" not in names


def read_model(path: str, inside: Optional[str] = None) -> ModelFacts:
    """The model at a path: a GGUF or safetensors file, or a folder with one model.

    inside: the folder that the engine sees; a link out of it does not count, since the engine cannot follow it either. Raises
    NoModelError where there is no model, NotReadError for a file that cannot be read, AnvilError for one that is damaged.
    """
    # Only the reader of the format that is there is loaded.
    if not os.path.isdir(path):
        open_file(path, inside)[0].close()
        if path.endswith(".safetensors"):
            from ansible_collections.anvil.serving.plugins.module_utils.weights.hugging_face_model import read_safetensors_file

            return read_safetensors_file(path)
        return _read_gguf(path)
    names = _list_files(path, inside)
    if _is_mistral(names):
        from ansible_collections.anvil.serving.plugins.module_utils.weights.hugging_face_model import read_hugging_face_model

        return read_hugging_face_model(path, names)
    if "config.json" in names:
        config = read_json(os.path.join(path, "config.json"))
        if isinstance(config.get("pretrained_config"), dict):
            from ansible_collections.anvil.serving.plugins.module_utils.weights.tensorrt_model import read_tensorrt_model

            return read_tensorrt_model(path, names, config)
        if any(_PLAIN_WEIGHTS.fullmatch(name) for name in names):
            from ansible_collections.anvil.serving.plugins.module_utils.weights.hugging_face_model import read_hugging_face_model

            return read_hugging_face_model(path, names)
    ggufs = find_ggufs(names)
    if len(ggufs) == 1:
        return _read_gguf(os.path.join(path, ggufs[0]))
    why = (
        "the folder holds {0} GGUF models: {1}".format(len(ggufs), ", ".join(ggufs[:8]))
        if ggufs
        else "the folder holds no GGUF file, no safetensors files with config.json or params.json, and no TensorRT-LLM engine"
    )
    hint = (
        "give the path of one of these files"
        if ggufs
        else "check the path; a model is config.json or params.json with *.safetensors or rank*.engine files, or a *.gguf file"
    )
    raise NoModelError(Problem("it is not clear which model to use" if ggufs else "there is no model here", path, why, hint))


def _read_gguf(path: str) -> ModelFacts:
    from ansible_collections.anvil.serving.plugins.module_utils.weights.gguf_model import read_gguf_model

    return read_gguf_model(path)


def find_ggufs(names: Sequence[str]) -> List[str]:
    """The GGUF models among the files of a folder, one file name for each: of a split model the first."""
    found, stems = [], set()
    for name in sorted(names):
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
        paths = [os.path.join(here, name) for name in find_ggufs(names)]
        weights = any(name.endswith(".safetensors") or TENSORRT_FILE.fullmatch(name) for name in names)
        if ("config.json" in names and weights) or _is_mistral(names):
            paths.append(here)
        for path in paths:
            try:
                found.append(read_model(path))
            except AnvilError as exc:
                broken.append(exc)
    return found, broken
