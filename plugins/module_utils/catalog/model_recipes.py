# SPDX-License-Identifier: GPL-3.0-or-later
"""Recipes: what is known of serving a model, each fact with its source and date; and the arguments that follow from them. Pure.

``read_recipe`` is the schema: it reports every key that is unknown, missing or of another type.
"""

from __future__ import annotations

import datetime
import json
import re
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.card_capabilities import CAPABILITIES
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import CUSTOM, ENGINES
from ansible_collections.anvil.serving.plugins.module_utils.catalog.served_kinds import CHAT, KINDS
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem

USES = ("chat", "coding", "reasoning", "tools", "vision", "audio", "embeddings", "rerank", "transcription")
FAMILIES = tuple(sorted({row.family for row in CAPABILITIES.values()}))
SAFETENSORS, GGUF = "safetensors", "gguf"
FORMATS = (SAFETENSORS, GGUF)
# The engines that load a format.
FORMAT_ENGINES: Mapping[str, Tuple[str, ...]] = {SAFETENSORS: ("vllm", "sglang", "trtllm"), GGUF: ("llama_cpp",)}
# Flags for the parsers of tool calls and of reasoning; None is the place of the parser's name.
TOOL_FLAGS: Mapping[str, Tuple[Optional[str], ...]] = {
    "vllm": ("--enable-auto-tool-choice", "--tool-call-parser", None),
    "sglang": ("--tool-call-parser", None),
}
REASONING_FLAGS: Mapping[str, Tuple[Optional[str], ...]] = {
    "vllm": ("--reasoning-parser", None),
    "sglang": ("--reasoning-parser", None),
}
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,4}){0,2}|b[0-9]{1,6}")
COUNT = re.compile(r"[0-9]{1,4}(\.[0-9]{1,3})?[MBT]")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
WORD = re.compile(r"[a-z0-9][a-z0-9_+.-]{0,40}")
URL = re.compile(r"https://[^\s\"'<>]{4,300}")
PATTERN = re.compile(r"[\w.*?/-]{1,200}")
TEMPLATE = re.compile(r"\{\{|\{%|\{#")


@dataclass(frozen=True)
class Source:
    """Where a fact was read. date: of the page, or of the last change of the file."""

    url: str
    date: str


@dataclass(frozen=True)
class Extra:
    """What is added to a serve: arguments, and environment variables."""

    args: Tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Variant:
    """Weights of a model in one precision, which is empty where no source names it.

    vram_gb: memory on all cards together, in 10^9 bytes, as its source says; None where no source does. file: pattern of the
    file, for GGUF. since: of vLLM, where this variant needs a newer release.
    """

    name: str
    repo: str
    precision: str
    source: str
    format: str = SAFETENSORS
    file: str = ""
    vram_gb: Optional[float] = None
    since: str = ""
    extra: Extra = Extra()


@dataclass(frozen=True)
class EngineRecipe:
    """How one engine serves the model. since: its oldest release. cards: NVIDIA's name of an architecture -> what its cards need.

    tools, reasoning: the names of the parsers. tool_args: further arguments for tool calls. speculative: arguments that turn on
    speculative decoding; an option, never a default.
    """

    source: str
    since: str = ""
    extra: Extra = Extra()
    tools: str = ""
    tool_args: Tuple[str, ...] = ()
    reasoning: str = ""
    cards: Mapping[str, Extra] = field(default_factory=dict)
    speculative: Tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A model. context: tokens that it was made for. notes: what an operator should know. origin: the file of the recipe."""

    model: str
    source: str
    sources: Mapping[str, Source]
    variants: Mapping[str, Variant]
    engines: Mapping[str, EngineRecipe]
    kind: str = CHAT
    uses: Tuple[str, ...] = ()
    parameters: str = ""
    active: str = ""
    context: Optional[int] = None
    notes: Tuple[str, ...] = ()
    origin: str = ""

    def engines_of(self, variant: Variant) -> Tuple[str, ...]:
        """The engines of the recipe that load a variant, in the order of the recipe."""
        return tuple(name for name in self.engines if name in FORMAT_ENGINES[variant.format])


def _fill(flags: Sequence[Optional[str]], word: str) -> Tuple[str, ...]:
    return tuple(word if flag is None else flag for flag in flags)


def compose_arguments(
    recipe: Recipe, engine: str, variant: Variant, families: Sequence[str] = (), speculative: bool = False
) -> Extra:
    """The arguments and variables of a serve. families: the architectures of its cards; what differs between them is left out."""
    known = recipe.engines[engine]
    args = [*known.extra.args]
    if known.tools:
        args += [*_fill(TOOL_FLAGS.get(engine, ()), known.tools), *known.tool_args]
    if known.reasoning:
        args += _fill(REASONING_FLAGS.get(engine, ()), known.reasoning)
    for_cards = known.cards.get(families[0], Extra()) if len(set(families)) == 1 else Extra()
    args += [*for_cards.args, *variant.extra.args]
    if speculative:
        args += known.speculative
    return Extra(tuple(args), {**known.extra.environment, **for_cards.environment, **variant.extra.environment})


def compare_versions(left: str, right: str) -> Optional[int]:
    """-1, 0 or 1; None for versions of different kinds, such as 0.9 and b6000."""
    if left.startswith("b") != right.startswith("b"):
        return None
    numbers = [[int(part) for part in text.lstrip("b").split(".")] for text in (left, right)]
    size = max(map(len, numbers))
    one, two = ([*part, *[0] * (size - len(part))] for part in numbers)
    return (one > two) - (one < two)


def version_of_image(image: str) -> str:
    """The version in the tag of an image, such as 0.19.1 for v0.19.1-cu130; empty if the tag has none."""
    _name, colon, tag = image.partition("@")[0].rpartition(":")
    found = re.search(r"(?:^|[^0-9A-Za-z.])v?([0-9]+\.[0-9]+(?:\.[0-9]+)?)(?![0-9.])", "-" + tag) if colon else None
    build = re.search(r"(?:^|-)(b[0-9]{3,6})(?:-|$)", tag)
    return found.group(1) if found and "/" not in tag else build.group(1) if build and "/" not in tag else ""


class _Reader:
    """Reads typed values of a recipe, and collects every mistake with its path."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.problems: List[Problem] = []

    def add(self, path: str, what: str, hint: str = "") -> None:
        self.problems.append(Problem(what, "{0}: {1}".format(self.where, path) if path else self.where, hint=hint))

    def mapping(self, path: str, value: Any, keys: Sequence[str] = (), required: Sequence[str] = ()) -> Mapping[str, Any]:
        """The value as a mapping with text keys; with ``keys``, no others are allowed."""
        if not isinstance(value, Mapping):
            self.add(path, "must be a mapping")
            return {}
        for key in value:
            if not isinstance(key, str):
                self.add(path, "the key {0!r} is no text".format(key))
            elif keys and key not in keys:
                self.add(_below(path, key), "unknown key", "use one of: {0}".format(", ".join(keys)))
        for key in required:
            if value.get(key) is None:
                self.add(_below(path, key), "is missing")
        return {key: one for key, one in value.items() if isinstance(key, str) and one is not None}

    def text(self, path: str, value: Any, form: Any, what: str) -> str:
        if value is None:
            return ""
        if not isinstance(value, str) or not form.fullmatch(value) or TEMPLATE.search(value):
            self.add(path, "{0!r} is not {1}".format(value, what))
            return ""
        return str(value)

    def choice(self, path: str, value: Any, words: Sequence[str]) -> str:
        if value not in words:
            self.add(path, "{0!r} is not known".format(value), "use one of: {0}".format(", ".join(words)))
            return ""
        return str(value)

    def words(self, path: str, value: Any) -> Tuple[str, ...]:
        """A list of texts without what Ansible would read as a template."""
        if value is None:
            return ()
        if not isinstance(value, (list, tuple)):
            self.add(path, "must be a list")
            return ()
        for number, word in enumerate(value):
            if not isinstance(word, str) or not word or "\0" in word:
                self.add("{0}[{1}]".format(path, number), "must be text, not {0!r}".format(word), "quote it")
            elif TEMPLATE.search(word):
                self.add("{0}[{1}]".format(path, number), "Ansible would read it as a template", "write JSON with spaces")
        return tuple(str(word) for word in value)

    def number(self, path: str, value: Any, least: float, most: float) -> Optional[float]:
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
            self.add(path, "{0!r} is no number from {1:g} to {2:g}".format(value, least, most))
            return None
        return float(value)

    def environment(self, path: str, value: Any) -> Mapping[str, str]:
        found: Dict[str, str] = {}
        for key, one in self.mapping(path, {} if value is None else value).items():
            if not VARIABLE.fullmatch(key):
                self.add(_below(path, key), "is no name of a variable")
            if not isinstance(one, str) or TEMPLATE.search(one) or "\0" in one:
                self.add(_below(path, key), "must be text without a template", "quote it")
            found[key] = str(one)
        return found

    def addition(self, path: str, values: Mapping[str, Any]) -> Extra:
        return Extra(
            self.words(_below(path, "args"), values.get("args")),
            self.environment(_below(path, "environment"), values.get("environment")),
        )


def _below(path: str, key: str) -> str:
    return "{0}.{1}".format(path, key) if path else key


RECIPE_KEYS = ("model", "kind", "uses", "parameters", "active", "context", "source", "sources", "variants", "engines", "notes")
VARIANT_KEYS = ("repo", "precision", "format", "file", "vram_gb", "since", "args", "environment", "source")
ENGINE_KEYS = ("source", "since", "args", "environment", "tools", "tool_args", "reasoning", "cards", "speculative")
LONGEST_NOTE = 300


def _read_sources(read: _Reader, value: Any) -> Dict[str, Source]:
    found = {}
    for name, one in read.mapping("sources", value).items():
        path = _below("sources", name)
        values = read.mapping(path, one, ("url", "date"), ("url", "date"))
        date = values.get("date", "")
        date = date.isoformat() if isinstance(date, datetime.date) else str(date)
        try:
            datetime.date.fromisoformat(date)
        except ValueError:
            if date:
                read.add(_below(path, "date"), "{0!r} is no date".format(date), "write it as 2026-08-21")
        found[name] = Source(read.text(_below(path, "url"), values.get("url"), URL, "an address with https"), date)
    return found


def _read_variant(read: _Reader, name: str, value: Any, sources: Sequence[str]) -> Variant:
    path = _below("variants", name)
    read.text(path, name, NAME, "a name")
    values = read.mapping(path, value, VARIANT_KEYS, ("repo", "source"))
    form = values.get("format", SAFETENSORS)
    return Variant(
        name,
        read.text(_below(path, "repo"), values.get("repo"), REPOSITORY, "a repository"),
        read.text(_below(path, "precision"), values.get("precision"), WORD, "a precision such as fp8"),
        read.choice(_below(path, "source"), values.get("source"), sources),
        read.choice(_below(path, "format"), form, FORMATS) or SAFETENSORS,
        read.text(_below(path, "file"), values.get("file"), PATTERN, "a pattern of files"),
        read.number(_below(path, "vram_gb"), values.get("vram_gb"), 0.1, 100000),
        read.text(_below(path, "since"), values.get("since"), VERSION, "a version; quote it"),
        read.addition(path, values),
    )


def _read_engine(read: _Reader, name: str, value: Any, sources: Sequence[str]) -> EngineRecipe:
    path = _below("engines", name)
    read.choice(path, name, [one for one in ENGINES if one != CUSTOM])
    values = read.mapping(path, value, ENGINE_KEYS, ("source",))
    cards = {}
    for family, one in read.mapping(_below(path, "cards"), values.get("cards", {}), FAMILIES).items():
        below = _below(_below(path, "cards"), family)
        cards[family] = read.addition(below, read.mapping(below, one, ("args", "environment")))
    for key, flags in (("tools", TOOL_FLAGS), ("reasoning", REASONING_FLAGS)):
        if key in values and name not in flags:
            read.add(_below(path, key), "engine {0} has no such parser".format(name), "use args")
    return EngineRecipe(
        read.choice(_below(path, "source"), values.get("source"), sources),
        read.text(_below(path, "since"), values.get("since"), VERSION, "a version; quote it"),
        read.addition(path, values),
        read.text(_below(path, "tools"), values.get("tools"), WORD, "the name of a parser"),
        read.words(_below(path, "tool_args"), values.get("tool_args")),
        read.text(_below(path, "reasoning"), values.get("reasoning"), WORD, "the name of a parser"),
        cards,
        read.words(_below(path, "speculative"), values.get("speculative")),
    )


def check_words(recipe: Recipe) -> List[str]:
    """Words of a recipe that look like JSON and are not: an engine would refuse them."""
    groups = [
        *((name, (*one.extra.args, *one.tool_args, *one.speculative)) for name, one in recipe.engines.items()),
        *((name, one.extra.args) for name, one in recipe.variants.items()),
    ]
    broken = []
    for name, words in groups:
        for word in words:
            if word.startswith("{"):
                try:
                    json.loads(word)
                except ValueError:
                    broken.append("{0}: {1}".format(name, word))
    return broken


def read_recipe(document: Any, where: str) -> Recipe:
    """A recipe of this collection's own format. where: its file. Raises AnvilError with every mistake."""
    read = _Reader(where)
    values = read.mapping("", document, RECIPE_KEYS, ("model", "source", "sources", "variants", "engines"))
    sources = _read_sources(read, values.get("sources", {}))
    variants = {
        name: _read_variant(read, name, one, tuple(sources))
        for name, one in read.mapping("variants", values.get("variants", {})).items()
    }
    engines = {
        name: _read_engine(read, name, one, tuple(sources))
        for name, one in read.mapping("engines", values.get("engines", {})).items()
    }
    uses = read.words("uses", values.get("uses"))
    for number, use in enumerate(uses):
        read.choice("uses[{0}]".format(number), use, USES)
    notes = read.words("notes", values.get("notes"))
    for number, note in enumerate(notes):
        if len(note) > LONGEST_NOTE:
            read.add("notes[{0}]".format(number), "longer than {0} characters".format(LONGEST_NOTE))
    context = read.number("context", values.get("context"), 1, 10**8)
    recipe = Recipe(
        read.text("model", values.get("model"), REPOSITORY, "a repository"),
        read.choice("source", values.get("source"), tuple(sources)),
        sources,
        variants,
        engines,
        read.choice("kind", values.get("kind", CHAT), KINDS),
        uses,
        read.text("parameters", values.get("parameters"), COUNT, "a size such as 27B"),
        read.text("active", values.get("active"), COUNT, "a size such as 3B"),
        None if context is None else int(context),
        notes,
        where,
    )
    for name, variant in variants.items():
        if variant.source and not recipe.engines_of(variant):
            read.add(_below("variants", name), "no engine of this recipe loads {0}".format(variant.format))
    for word in check_words(recipe):
        read.add("", "not valid JSON: {0}".format(word))
    if read.problems:
        raise AnvilError(*read.problems)
    return recipe
