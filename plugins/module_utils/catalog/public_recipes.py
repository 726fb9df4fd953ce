# SPDX-License-Identifier: GPL-3.0-or-later
"""Recipes in the public format of vllm-project/recipes, as recipes of this collection. Pure.

Only what serves on the NVIDIA cards of one host is read. A key that is not known is left out: the format is not ours.
Read from the format of August 2026 (``model``, ``features``, ``variants``, ``hardware_overrides``).
"""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import replace
from typing import Any, Dict, Iterator, List, Mapping, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_recipes import (
    COUNT,
    NAME,
    REPOSITORY,
    VARIABLE,
    VERSION,
    WORD,
    Recipe,
    Source,
    read_recipe,
)
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail

# Arguments that the plan sets by itself, or that a proposal decides by the cards.
OWN = (
    "--model",
    "--host",
    "--port",
    "--served-model-name",
    "--max-model-len",
    "--gpu-memory-utilization",
    "--tensor-parallel-size",
)
FAMILIES = {"ada": "Ada", "hopper": "Hopper", "blackwell": "Blackwell"}
KINDS = {"embedding": "embeddings"}
SPECULATIVE = "--speculative-config"
SOURCE = "recipe"
REPOSITORY_URL = "https://github.com/vllm-project/recipes"
UNDATED = "1970-01-01"  # while it is read; a file of theirs may have no date


def is_public_recipe(document: Any) -> bool:
    """Whether a document has the shape of that format: ``model`` is a mapping there, and a text in ours."""
    return isinstance(document, Mapping) and isinstance(document.get("model"), Mapping)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _words(value: Any) -> List[str]:
    return [str(word) for word in value] if isinstance(value, (list, tuple)) else []


def _is_own(word: str) -> bool:
    flag = word.partition("=")[0].replace("_", "-")
    return flag in OWN


def keep_arguments(value: Any) -> List[str]:
    """The arguments without those that are decided elsewhere; JSON with spaces, which no template can be mistaken for."""
    kept: List[str] = []
    words = iter(_words(value))
    for word in words:
        if word.startswith("--") and _is_own(word):
            if "=" not in word:
                next(words, None)
            continue
        kept.append(_space_json(word))
    return kept


def _space_json(word: str) -> str:
    if not word.startswith("{"):
        return word
    try:
        return json.dumps(json.loads(word))
    except ValueError:
        return word


def _gather_speculative(words: Sequence[str]) -> List[str]:
    """``--speculative-config.method mtp`` and its like as one JSON argument."""
    dotted: Dict[str, Any] = {}
    rest: List[str] = []
    feed = iter(words)
    for word in feed:
        name, _dot, key = word.partition(".")
        if name == SPECULATIVE and key:
            value = next(feed, "")
            dotted[key] = int(value) if re.fullmatch(r"[0-9]{1,6}", value) else value
        else:
            rest.append(word)
    return [*([SPECULATIVE, json.dumps(dotted)] if dotted else []), *rest]


def _environment(value: Any) -> Dict[str, str]:
    return {str(key): str(one) for key, one in _mapping(value).items() if VARIABLE.fullmatch(str(key)) and "$" not in str(one)}


def _extra(value: Any) -> Dict[str, Any]:
    found: Dict[str, Any] = {"args": keep_arguments(_mapping(value).get("extra_args"))}
    found["environment"] = _environment(_mapping(value).get("extra_env"))
    return {key: one for key, one in found.items() if one}


def _feature(features: Mapping[str, Any], name: str) -> List[str]:
    """The arguments of a feature, or of its default mode."""
    feature = _mapping(features.get(name))
    modes = _mapping(feature.get("modes"))
    if feature.get("args") is None and modes:
        feature = _mapping(modes.get(str(feature.get("default_mode")), next(iter(modes.values()))))
    return keep_arguments(feature.get("args"))


def _take(words: Sequence[str], flag: str, *switches: str) -> Tuple[str, List[str]]:
    """The value of a flag, and the other words without these switches."""
    value, rest = "", []
    feed = iter(words)
    for word in feed:
        if word == flag:
            value = next(feed, "")
        elif word not in switches:
            rest.append(word)
    return value, rest


def _variants(document: Mapping[str, Any], repo: str) -> Iterator[Tuple[str, Dict[str, Any]]]:
    for key, value in _mapping(document.get("variants")).items():
        values = _mapping(value)
        precision = str(values.get("precision") or "").lower()
        name = str(key).lower().replace("_", "-")
        name = precision if name == "default" and precision else name
        model = str(values.get("model_id") or repo)
        if not NAME.fullmatch(name) or not REPOSITORY.fullmatch(model):
            continue
        found = {"repo": model, "source": SOURCE, **_extra(values)}
        if WORD.fullmatch(precision):
            found["precision"] = precision
        size = values.get("vram_minimum_gb")
        if isinstance(size, (int, float)) and not isinstance(size, bool) and size > 0:
            found["vram_gb"] = size
        if VERSION.fullmatch(str(values.get("min_vllm_version") or "")):
            found["since"] = str(values["min_vllm_version"])
        yield name, found


def _engine(document: Mapping[str, Any], model: Mapping[str, Any]) -> Dict[str, Any]:
    features = _mapping(document.get("features"))
    args = keep_arguments(model.get("base_args"))
    tools, tool_args = _take(_feature(features, "tool_calling"), "--tool-call-parser", "--enable-auto-tool-choice")
    reasoning, more = _take(_feature(features, "reasoning"), "--reasoning-parser")
    found: Dict[str, Any] = {"source": SOURCE, "args": [*args, *more], "environment": _environment(model.get("base_env"))}
    if WORD.fullmatch(tools):
        found.update(tools=tools, tool_args=tool_args)
    if WORD.fullmatch(reasoning):
        found["reasoning"] = reasoning
    if VERSION.fullmatch(str(model.get("min_vllm_version") or "")):
        found["since"] = str(model["min_vllm_version"])
    found["speculative"] = _gather_speculative(_feature(features, "spec_decoding"))
    overrides = _mapping(document.get("hardware_overrides"))
    found["cards"] = {family: _extra(overrides.get(word)) for word, family in FAMILIES.items() if _extra(overrides.get(word))}
    return {key: one for key, one in found.items() if one}


def read_public_recipe(document: Any, where: str) -> Recipe:
    """A recipe of that format. where: its file. Raises AnvilError if it has no model or no variant that can be read."""
    model, meta = _mapping(_mapping(document).get("model")), _mapping(_mapping(document).get("meta"))
    repo = str(model.get("model_id") or "")
    if not REPOSITORY.fullmatch(repo):
        raise fail("the recipe names no model", where, "model.model_id is {0!r}".format(repo[:100]), "use another checkout")
    date = meta.get("date_updated") or meta.get("date_added")
    dated = date.isoformat() if isinstance(date, datetime.date) else str(date or "")[:10]
    own: Dict[str, Any] = {
        "model": repo,
        "source": SOURCE,
        "sources": {SOURCE: {"url": REPOSITORY_URL, "date": UNDATED}},
        "variants": dict(_variants(document, repo)),
        "engines": {"vllm": _engine(document, model)},
    }
    if not own["variants"]:
        raise fail("the recipe has no variant that is understood", where, hint="use another checkout")
    tasks = _words(meta.get("tasks"))
    kind = next((KINDS[task] for task in tasks if task in KINDS), "")
    if kind:
        own["kind"] = "rerank" if "rerank" in repo.lower() else kind
    context = model.get("context_length")
    if isinstance(context, int) and not isinstance(context, bool) and context > 0:
        own["context"] = context
    for key, name in (("parameters", "parameter_count"), ("active", "active_parameters")):
        if COUNT.fullmatch(str(model.get(name) or "")):
            own[key] = str(model[name])
    try:
        return replace(read_recipe(own, where), sources={SOURCE: Source(REPOSITORY_URL, dated)})
    except AnvilError as error:
        raise AnvilError(
            *(Problem("this recipe of vllm-project/recipes cannot be used", where, p.as_text(), p.hint) for p in error.problems)
        ) from error
