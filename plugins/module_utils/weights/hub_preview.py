# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a repository of the hub holds, before it is downloaded: its listing, and of its files the headers, by range requests.

They are laid out in a temporary folder as sparse files of the right size: what reads weights that are there reads these.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from dataclasses import dataclass, replace
from typing import Any, Dict, Iterable, Iterator, List, Mapping, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.weights.headers import (
    GGUF_HEADER_LIMIT,
    JSON_LIMIT,
    holds_gguf_header,
    safetensors_header_size,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.hub import HubError, ask_hub
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import (
    SPLIT,
    ModelFacts,
    choose_safetensors,
    find_ggufs,
    read_model,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_store import (
    Fetching,
    Load,
    Place,
    Source,
    describe_model,
    hub_request,
    list_hub,
    read_hub,
)

MIB = 1024 * 1024
# How much of a file is fetched to find its header. Most are below the first; a vocabulary of 150 000 tokens is some 6 MiB.
WINDOWS = (MIB, 16 * MIB, GGUF_HEADER_LIMIT)
TEXTS = ("config.json", "hf_quant_config.json", "model.safetensors.index.json", "tokenizer_config.json")
TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True)
class Shadow:
    """A repository laid out without its tensors. size: bytes that a download of it would fetch."""

    folder: str
    commit: str
    size: int


class _Peek:
    """Fetches the beginnings of files of one commit into a folder."""

    def __init__(self, request: Mapping[str, Any], client: str, sizes: Mapping[str, int]) -> None:
        self.request, self.client, self.sizes = request, client, sizes
        self.folder = str(request["folder"])
        self.here: Dict[str, int] = dict.fromkeys(sizes, 0)

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def fetch(self, ends: Mapping[str, int]) -> None:
        """Have the first ``ends[name]`` bytes of each file here."""
        spans = {}
        for name, wanted in ends.items():
            end = min(wanted, self.sizes[name])
            if end > self.here[name]:
                spans[name] = [self.here[name], end]
                self.here[name] = end
        if spans:
            ask_hub(self.client, {**self.request, "act": "peek", "spans": spans}, TIMEOUT_SECONDS)

    def lay_out(self) -> None:
        """Every file of the commit, as long as it will be; what was not fetched is a hole."""
        for name, size in self.sizes.items():
            path = self.path(name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "ab"):
                os.truncate(path, size)


def _choose_ggufs(names: Iterable[str], inside: str) -> List[str]:
    """The GGUF files whose headers tell of the model: one with its splits, or none where nobody said which."""
    folder, asked = os.path.split(inside) if inside.endswith(".gguf") else (inside, "")
    here = [name for name in names if name.endswith(".gguf") and os.path.dirname(name) == folder]
    if asked:
        split = SPLIT.fullmatch(asked)
        stem = os.path.join(folder, split["stem"] + "-") if split else inside
        return [name for name in here if name.startswith(stem)]
    return here if len(find_ggufs(folder, [os.path.basename(name) for name in here])) == 1 else []


def _fetch_headers(peek: _Peek, inside: str) -> None:
    texts = [name for name, size in peek.sizes.items() if os.path.basename(name) in TEXTS and size <= JSON_LIMIT]
    peek.fetch({name: peek.sizes[name] for name in texts})
    folder = "" if inside == "." else inside
    here = [os.path.basename(name) for name in peek.sizes if os.path.dirname(name) == folder]
    tensors = [os.path.join(folder, name) for name in choose_safetensors(os.path.join(peek.folder, folder), here)[0]]
    peek.fetch(dict.fromkeys(tensors, WINDOWS[0]))
    peek.fetch({name: safetensors_header_size(peek.path(name)) for name in tensors})
    rest = _choose_ggufs(peek.sizes, folder)
    for window in WINDOWS:
        peek.fetch(dict.fromkeys(rest, window))
        rest = [name for name in rest if not holds_gguf_header(peek.path(name), peek.sizes[name])]


def _renamed(error: AnvilError, folder: str, source: Source) -> AnvilError:
    """The error with the repository's name where it has that of the temporary folder."""
    return AnvilError(
        *(replace(p, where=p.where.replace(folder, source.repo), why=p.why.replace(folder, source.repo)) for p in error.problems)
    )


@contextlib.contextmanager
def shadow_of(source: Source, how: Fetching, name: str = "", inside: str = ".") -> Iterator[Shadow]:
    """A repository of the hub laid out without its tensors, for as long as the block runs. Raises AnvilError.

    name: of the folder, where that means something (TensorRT-LLM). inside: the file or folder of it that is asked about.
    """
    with tempfile.TemporaryDirectory(prefix="anvil-peek-") as scratch:
        place = Place(scratch, "hub")
        folder = os.path.join(scratch, os.path.basename(name or source.repo))
        commit, wanted = list_hub(place, source, how)
        sizes = {file: want.size or 0 for file, want in wanted.items()}
        request = {**hub_request("peek", place, replace(source, revision=commit), how), "folder": folder}
        peek = _Peek(request, how.client or sys.executable, sizes)
        try:
            os.makedirs(folder)
            _fetch_headers(peek, inside)
            peek.lay_out()
            yield Shadow(folder, commit, sum(sizes.values()))
        except HubError:
            raise
        except AnvilError as exc:
            raise _renamed(exc, folder, source) from exc


def inspect_repository(source: Source, how: Fetching, name: str = "", inside: str = ".") -> Tuple[ModelFacts, Shadow]:
    """The facts of a model that is still on the hub; see ``shadow_of``."""
    with shadow_of(source, how, name, inside) as shadow:
        facts = read_model(os.path.normpath(os.path.join(shadow.folder, inside)))
        return replace(facts, path="{0}@{1}".format(source.repo, shadow.commit)), shadow


def describe_repository(params: Mapping[str, Any], load: Load) -> Dict[str, Any]:
    """What anvil_model_info tells of a repository: the facts of its model, and what a download would fetch."""
    source = Source(
        "hub",
        repo=params["repo"],
        revision=params["revision"],
        allow=tuple(params["allow"]),
        ignore=tuple(params["ignore"]),
    )
    facts, shadow = inspect_repository(source, read_hub(params), inside=params["path"] or ".")
    told = [describe_model(facts, load)]
    return {"changed": False, "models": told, "unreadable": [], "commit": shadow.commit, "bytes": shadow.size}
