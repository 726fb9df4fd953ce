# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the policy of models allows everything that a serve names: adapters, drafts, tokenizers, code, addresses. Pure.

Used only where an inventory has ``anvil_models_allowed``. What names a source and is not understood is then refused too.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field
from typing import Any, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog import model_sources as sources
from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import flag_of, is_on
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import COMMIT, Origin, judge_origin
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_sources import Mention

# Python's pickles: a file of this kind can run code when it is loaded. GGML's old .bin files are none.
PICKLES = re.compile(r".*\.(?:bin|pt|pth|ckpt|pkl|pickle)", re.IGNORECASE)
PICKLE_LOADERS = ("pt", "npcache")
LOADERS = (
    *("auto", "safetensors", "dummy", "sharded_state", "gguf", "bitsandbytes", "mistral", "hf", "runai_streamer"),
    *("runai_streamer_sharded", "fastsafetensors", "instanttensor", "tensorizer", "layered"),
)
OWN_HUB = ("https://huggingface.co", "https://huggingface.co/", "https://hf.co")
# Words that stand for files of the model itself.
OWN_WORDS = ("", "auto", "vllm", "none")
FETCH = "fetch it with anvil_model into a volume of the serve, and name it by its path in the container"


@dataclass(frozen=True)
class Judged:
    """A serve, as far as the policy looks at it.

    targets: the folders of its container that a volume or folder of the host holds. secrets: the variables whose values come from
    secrets. origin: of its model; None where it is not known yet. config: the content of its configuration file. read_files:
    False before the host is contacted, when no file can be read.
    """

    engine: str
    model: str
    args: Tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    entrypoint: Tuple[str, ...] = ()
    targets: Tuple[str, ...] = ()
    secrets: Tuple[str, ...] = ()
    origin: Optional[Origin] = None
    config: Optional[Mapping[str, Any]] = None
    read_files: bool = False


@dataclass(frozen=True)
class Refusal:
    """Why the policy refuses a serve. place: ``args``, ``environment`` or ``secrets``; spelling: what was typed."""

    place: str
    spelling: str
    what: str
    why: str
    hint: str


def _is_below(path: str, folders: Sequence[str]) -> bool:
    clean = posixpath.normpath(path)
    return any(clean == folder or clean.startswith(folder.rstrip("/") + "/") for folder in map(posixpath.normpath, folders))


def _judge_path(serve: Judged, one: Mention) -> Optional[Tuple[str, str, str]]:
    if PICKLES.fullmatch(one.value) and serve.engine != "llama_cpp":
        return (
            "{0} names a file that can run code when it is loaded".format(one.spelling),
            one.value,
            "use weights in the format safetensors",
        )
    if one.role != sources.NAMED and not _is_below(one.value, serve.targets):
        what = "{0} names weights of an unknown origin".format(one.spelling)
        return what, "no volume of the serve holds {0}".format(one.value), FETCH
    return None


def _judge_repository(one: Mention, allowed: Sequence[Origin], runs_code: bool, pinnable: bool) -> Optional[Tuple[str, str, str]]:
    origin = Origin(one.value, one.revision)
    refused = judge_origin("", origin, allowed)
    what = "{0} names a model that is not allowed".format(one.spelling)
    if refused is not None:
        listed = any(entry.repo == one.value for entry in allowed)
        return what, refused.why, FETCH if listed and not pinnable else refused.hint + "; or " + FETCH
    if runs_code and not _may_run_code(origin, allowed):
        return _refuse_code(one.spelling, str(origin))
    return None


def _may_run_code(origin: Origin, allowed: Sequence[Origin]) -> bool:
    return any(entry == origin and entry.code for entry in allowed)


def _refuse_code(spelling: str, whose: str) -> Tuple[str, str, str]:
    return (
        "{0} runs code that comes with a model".format(spelling),
        "{0} has no code: true in anvil_models_allowed".format(whose),
        "read the code of that commit, then add code: true to its entry; or remove {0}".format(spelling.partition(" ")[0]),
    )


def _judge_code(serve: Judged, one: Mention, allowed: Sequence[Origin]) -> Optional[Tuple[str, str, str]]:
    """Code that comes with the model: its entry must say so, and the commit of the code must be fixed."""
    by_path = serve.model.startswith("/")
    origin = serve.origin if by_path else Origin(serve.model, one.revision)
    if origin is None:
        if serve.read_files or any(entry.code for entry in allowed):
            return None  # an unknown origin is refused by itself
        return _refuse_code(one.spelling, "no entry")
    if origin in allowed and not _may_run_code(origin, allowed):
        return _refuse_code(one.spelling, str(origin))
    if not by_path and serve.engine == "vllm" and not COMMIT.fullmatch(one.code_revision):
        return (
            "{0} runs code whose commit is not fixed".format(one.spelling),
            "--code-revision is {0}".format(one.code_revision or "not set"),
            "add --code-revision with the 40 hexadecimal digits of the commit; for code in the model's own repository that is the"
            " one of --revision",
        )
    return None


def _judge_source(serve: Judged, one: Mention, allowed: Sequence[Origin], runs_code: bool) -> Optional[Tuple[str, str, str]]:
    """A value that is a path or a repository."""
    if one.value in OWN_WORDS or one.value == serve.model or sources.SPECULATION.fullmatch(one.value):
        return None
    if sources.URL.match(one.value):
        return _refuse_download(one)
    if one.value.startswith("/"):
        return _judge_path(serve, one)
    if one.value.startswith((".", "~")) or serve.engine == "llama_cpp":
        what = "{0} names weights of an unknown origin".format(one.spelling)
        return what, "{0} is not an absolute path".format(one.value), FETCH
    return _judge_repository(one, allowed, runs_code, pinnable=one.role != sources.ADAPTERS)


def _refuse_download(one: Mention) -> Tuple[str, str, str]:
    what = "{0} lets the engine fetch something whose content is not fixed".format(one.spelling)
    return what, "" if one.value.lower() in ("on", "1", "true") else one.value, FETCH


def _judge_unknown(one: Mention) -> Optional[Tuple[str, str, str]]:
    name = one.spelling.rpartition(".")[2] if not one.spelling.startswith("--") else flag_of(one.spelling).lstrip("-")
    named = bool(sources.SOURCE_NAME.fullmatch(name.replace("_", "-").lower()))
    if one.place in ("environment", "secrets"):
        named = bool(sources.SOURCE_VARIABLE.search(one.spelling))
        if not sources.URL.search(one.value) and not (named and sources.REPOSITORY.fullmatch(one.value)):
            return None
    looks = sources.URL.search(one.value) or sources.REPOSITORY.fullmatch(one.value)
    if one.value.startswith("/") or sources.PLAIN_WORD.fullmatch(one.value) or not (looks or named):
        return None
    what = "{0} seems to name a model or an address".format(one.spelling or one.value)
    why = "{0!r}; with anvil_models_allowed, what this collection does not know is refused".format(one.value[:120])
    return what, why, "remove it; if it names weights, " + FETCH


def _judge_mention(serve: Judged, one: Mention, allowed: Sequence[Origin], runs_code: bool) -> Optional[Tuple[str, str, str]]:
    if one.place == "secrets":
        return "{0} names a source, and its value is a secret".format(one.spelling), "it cannot be judged", "remove it"
    if one.role in (sources.WEIGHTS, sources.NAMED, sources.ADAPTERS):
        return _judge_source(serve, one, allowed, runs_code)
    if one.role in (sources.UNPINNED, sources.DOWNLOAD):
        return _refuse_download(one)
    if one.role == sources.FILE and sources.URL.match(one.value):
        return _refuse_download(one)
    if one.role == sources.HUB and one.value not in OWN_HUB:
        why = "{0}: another hub may serve other files under the same commit".format(one.value)
        return "{0} replaces the Hugging Face hub".format(one.spelling), why, "remove it; anvil_model has the option endpoint"
    if one.role == sources.REDIRECT:
        return "{0} exchanges models for others".format(one.spelling), one.value, "remove it, and set model to the path itself"
    if one.role == sources.OPEN and is_on(one.value):
        why = "a request may then bring code, or load weights that the policy does not know"
        return "{0} lets clients choose what is loaded".format(one.spelling), why, "remove it"
    if one.role == sources.LOADER and one.value in PICKLE_LOADERS:
        what = "{0} {1} loads files that can run code".format(one.spelling, one.value)
        return what, "", "use weights in the format safetensors, without {0}".format(one.spelling)
    if one.role == sources.LOADER and one.value not in LOADERS:
        return "{0} {1} is not known".format(one.spelling, one.value), "", "use one of: " + ", ".join(LOADERS)
    if one.role == sources.CODE_FILE:
        if sources.URL.match(one.value):
            return _refuse_download(one)
        model = serve.model if serve.model.startswith("/") else ""
        return _judge_code(serve, one, allowed) if model and _is_below(one.value, [model]) else None
    if one.role == sources.UNKNOWN:
        return _judge_unknown(one)
    return None


def judge_sources(serve: Judged, allowed: Optional[Sequence[Origin]]) -> List[Refusal]:
    """Why the policy refuses what a serve names besides its model; empty where it may run, or where there is no policy.

    The model itself is judged by ``model_policy.judge_origin``.
    """
    if allowed is None:
        return []
    words = (*serve.entrypoint[1:], *serve.args)
    mentions = sources.read_command_line(serve.engine, words)
    config = sources.find_config_flag(mentions)
    if config is not None and serve.config is not None:
        mentions += sources.read_config(serve.engine, serve.config, config.value)
    mentions += sources.read_environment(serve.environment, serve.secrets)
    # A switch counts as it was typed last.
    switches = [one for one in mentions if one.role == sources.CODE and "." not in one.spelling.partition(" ")[0]]
    nested = [one for one in mentions if one.role == sources.CODE and one not in switches]
    code = [one for one in (*switches[-1:], *nested) if is_on(one.value)]
    found: List[Refusal] = []
    for one in mentions:
        refused = _judge_mention(serve, one, allowed, bool(code))
        if refused is not None:
            found.append(Refusal(one.place, one.spelling, *refused))
    for one in code:
        refused = _judge_code(serve, one, allowed)
        if refused is not None:
            found.append(Refusal(one.place, one.spelling, *refused))
    if config is not None and serve.config is None and serve.read_files:
        what = "the settings in {0} were not read, so what they name is not known".format(config.value)
        hint = "put the file into a volume of the serve (the host's Python needs PyYAML), or write its settings into args"
        found.append(Refusal("args", config.spelling, what, "", hint))
    return list(dict.fromkeys(found))
