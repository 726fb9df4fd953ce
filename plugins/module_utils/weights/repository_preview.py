# SPDX-License-Identifier: GPL-3.0-or-later
"""What a repository of the hub holds, before it is downloaded: its listing, and the headers of its files by range requests.

The files are laid out in a temporary folder as sparse files of the right size, so that the code that reads weights on the host
reads these too.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from dataclasses import dataclass, replace
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.weights.fetch_errors import FetchError
from ansible_collections.anvil.serving.plugins.module_utils.weights.gguf_header import GGUF_HEADER_LIMIT, holds_gguf_header
from ansible_collections.anvil.serving.plugins.module_utils.weights.hub import build_request, list_repository, run_client
from ansible_collections.anvil.serving.plugins.module_utils.weights.hugging_face_model import choose_safetensors
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import ModelLocation
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_description import Load, describe_model
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import GGUF_SPLIT, ModelFacts
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_folder import find_ggufs, read_model
from ansible_collections.anvil.serving.plugins.module_utils.weights.safetensors_header import safetensors_header_size
from ansible_collections.anvil.serving.plugins.module_utils.weights.source import FetchOptions, Source, read_hub_options
from ansible_collections.anvil.serving.plugins.module_utils.weights.weight_files import JSON_LIMIT

MIB = 1024 * 1024
# How much of a file is fetched until its header is complete. Most headers end below the first; a vocabulary of 150 000 tokens
# takes some 6 MiB.
HEADER_STEPS = (MIB, 16 * MIB, GGUF_HEADER_LIMIT)
TEXT_FILES = (
    "config.json",
    "params.json",
    "hf_quant_config.json",
    "tokenizer_config.json",
    "model.safetensors.index.json",
    "consolidated.safetensors.index.json",
)
TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True)
class Preview:
    """A repository laid out without its tensors. size: bytes that a download of it would fetch."""

    folder: str
    commit: str
    size: int


class _HeaderFetcher:
    """Fetches the beginnings of the files of one commit into a folder."""

    def __init__(self, request: Mapping[str, Any], client: str, sizes: Mapping[str, int]) -> None:
        self.request, self.client, self.sizes = request, client, sizes
        self.folder = str(request["folder"])
        self.fetched: Dict[str, int] = dict.fromkeys(sizes, 0)

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def fetch_up_to(self, ends: Mapping[str, int]) -> None:
        """Fetch what is missing of the first ``ends[name]`` bytes of each file."""
        spans = {}
        for name, wanted in ends.items():
            end = min(wanted, self.sizes[name])
            if end > self.fetched[name]:
                spans[name] = [self.fetched[name], end]
                self.fetched[name] = end
        if spans:
            run_client(self.client, {**self.request, "act": "ranges", "spans": spans}, TIMEOUT_SECONDS)

    def lay_out(self) -> None:
        """Give every file of the commit its full length; the parts that were not fetched stay sparse holes."""
        for name, size in self.sizes.items():
            path = self.path(name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "ab"):
                os.truncate(path, size)


def _choose_ggufs(names: Iterable[str], inside: str) -> List[str]:
    """The GGUF files whose headers describe the model: one with its splits, or none where it is not clear which."""
    folder, chosen = os.path.split(inside) if inside.endswith(".gguf") else (inside, "")
    here = [name for name in names if name.endswith(".gguf") and os.path.dirname(name) == folder]
    if chosen:
        split = GGUF_SPLIT.fullmatch(chosen)
        stem = os.path.join(folder, split["stem"] + "-") if split else inside
        return [name for name in here if name.startswith(stem)]
    return here if len(find_ggufs([os.path.basename(name) for name in here])) == 1 else []


def _fetch_headers(fetcher: _HeaderFetcher, inside: str) -> None:
    texts = [name for name, size in fetcher.sizes.items() if os.path.basename(name) in TEXT_FILES and size <= JSON_LIMIT]
    fetcher.fetch_up_to({name: fetcher.sizes[name] for name in texts})
    folder = "" if inside == "." else inside
    here = [os.path.basename(name) for name in fetcher.sizes if os.path.dirname(name) == folder]
    tensors = [os.path.join(folder, name) for name in choose_safetensors(os.path.join(fetcher.folder, folder), here)[0]]
    fetcher.fetch_up_to(dict.fromkeys(tensors, HEADER_STEPS[0]))
    fetcher.fetch_up_to({name: safetensors_header_size(fetcher.path(name)) for name in tensors})
    rest = _choose_ggufs(fetcher.sizes, folder)
    for step in HEADER_STEPS:
        fetcher.fetch_up_to(dict.fromkeys(rest, step))
        rest = [name for name in rest if not holds_gguf_header(fetcher.path(name), fetcher.sizes[name])]


def _name_repository(error: AnvilError, folder: str, source: Source) -> AnvilError:
    """The error with the name of the repository in place of the temporary folder."""
    return AnvilError(
        *(replace(p, where=p.where.replace(folder, source.repo), why=p.why.replace(folder, source.repo)) for p in error.problems)
    )


@contextlib.contextmanager
def preview_repository(source: Source, options: FetchOptions, name: str = "", inside: str = ".") -> Iterator[Preview]:
    """A repository of the hub laid out without its tensors, for as long as the block runs. Raises AnvilError.

    name: of the folder, where that means something (TensorRT-LLM). inside: the file or folder of it that is of interest.
    """
    with tempfile.TemporaryDirectory(prefix="anvil-preview-") as scratch:
        location = ModelLocation(scratch, "hub", os.path.join(scratch, "record"), os.path.join(scratch, "staging"))
        folder = os.path.join(scratch, os.path.basename(name or source.repo))
        commit, files = list_repository(location, source, options)
        sizes = {file: announced.size or 0 for file, announced in files.items()}
        request = {**build_request("ranges", location, replace(source, revision=commit), options), "folder": folder}
        fetcher = _HeaderFetcher(request, options.client, sizes)
        try:
            os.makedirs(folder)
            _fetch_headers(fetcher, inside)
            fetcher.lay_out()
            yield Preview(folder, commit, sum(sizes.values()))
        except FetchError:
            raise
        except AnvilError as exc:
            raise _name_repository(exc, folder, source) from exc


def read_repository_model(source: Source, options: FetchOptions, name: str = "", inside: str = ".") -> Tuple[ModelFacts, Preview]:
    """The facts of a model that is still on the hub; the parameters are those of ``preview_repository``."""
    with preview_repository(source, options, name, inside) as preview:
        facts = read_model(os.path.normpath(os.path.join(preview.folder, inside)))
        return replace(facts, path="{0}@{1}".format(source.repo, preview.commit)), preview


def describe_repository(params: Mapping[str, Any], load: Load) -> Dict[str, Any]:
    """What anvil_model_info returns for a repository: the facts of its model, and the bytes that a download would fetch."""
    source = Source(
        "hub",
        repo=params["repo"],
        revision=params["revision"],
        allow=tuple(params["allow"]),
        ignore=tuple(params["ignore"]),
    )
    facts, preview = read_repository_model(source, read_hub_options(params), inside=params["path"] or ".")
    models = [describe_model(facts, load)]
    return {"changed": False, "models": models, "unreadable": [], "commit": preview.commit, "bytes": preview.size}
