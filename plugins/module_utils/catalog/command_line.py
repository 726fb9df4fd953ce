# SPDX-License-Identifier: GPL-3.0-or-later
"""The one reader of command lines: arguments, environment and configuration file of a serve become settings. Pure.

A setting is read as its engine reads it: the last flag counts, a flag counts before a variable, ``--a_b`` is ``--a-b``, and
Python's argparse (vLLM, SGLang) accepts the beginning of a flag. What cannot be read is a note, never an error.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog import engine_options as settings_of
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engine_options import (
    MANY,
    OPTIONAL,
    OPTIONS,
    SWITCH,
    TABLE,
    Option,
)
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import ENGINES

TOKENS = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)([kKmMgGtT]?i?)")
POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
UNITS_OF_SGLANG = ("", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti")
MOST_TOKENS = 10**12
LONGEST_TABLE = 65536
ON_WORDS = ("1", "on", "true", "yes", "enabled")
ABBREVIATING = tuple(name for name, engine in ENGINES.items() if engine.abbreviates)


def parse_tokens(text: str, engine: str = "vllm") -> Optional[int]:
    """A number of tokens. vLLM: k is 1000 (32k, 25.6k, 1m), K is 1024 (32K). SGLang: k and M are decimal, Ki and Mi are binary.

    None for anything else, such as ``auto``, ``-1`` and a decimal with a binary unit.
    """
    match = TOKENS.fullmatch(text.strip().replace("_", ""))
    if match is None:
        return None
    number, unit = match.groups()
    if engine == "sglang":
        binary, known = unit.endswith("i"), unit in UNITS_OF_SGLANG
    else:
        binary, known = unit.isupper(), "i" not in unit
    if not known or ("." in number and (binary or not unit)):
        return None
    factor = (1024 if binary else 1000) ** POWERS[unit[:1].lower()]
    tokens = int(float(number) * factor) if "." in number else int(number) * factor
    return tokens if tokens <= MOST_TOKENS else None


def flag_of(word: str) -> str:
    """The flag in a word of a command line (``--max-model-len`` for ``--max_model_len=5``); empty for a word without one."""
    if not re.match(r"--?[A-Za-z]", word):
        return ""
    flag, dot, rest = word.split("=", 1)[0].partition(".")
    return (flag.replace("_", "-") if flag.startswith("--") else flag) + dot + rest


def find_flag(word: str, flags: Iterable[str], abbreviates: bool) -> str:
    """Which of ``flags`` a word of a command line sets; empty for none. abbreviates: the beginning of a flag is enough."""
    bare = flag_of(word).partition(" ")[0]
    known = tuple(flags)
    if bare in known or not abbreviates or len(bare) < 4 or not bare.startswith("--"):
        return bare if bare in known else ""
    return next((flag for flag in known if flag.startswith(bare)), "")


def is_on(word: str) -> bool:
    """Whether the value of an environment variable switches on."""
    return word.strip().lower() in ON_WORDS


@dataclass(frozen=True)
class Given:
    """One setting as it was given. spelling: its flag or variable, as typed. on: False where it is switched off."""

    spelling: str
    words: Tuple[str, ...] = ()
    on: bool = True
    table: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """The settings of one serve. given: setting (see ``engine_options``) -> how it was given. notes: what could not be read.

    has_unread_file: a configuration file may hold further settings.
    """

    engine: str
    given: Mapping[str, Given] = field(default_factory=dict)
    notes: Tuple[str, ...] = ()
    has_unread_file: bool = False

    def has(self, *names: str) -> bool:
        """Whether one of the settings is given, on or off."""
        return any(name in self.given for name in names)

    def is_on(self, name: str) -> bool:
        """Whether a switch is given and on."""
        return name in self.given and self.given[name].on

    def is_off(self, name: str) -> bool:
        """Whether a switch is given and off."""
        return name in self.given and not self.given[name].on

    def words(self, name: str) -> Tuple[str, ...]:
        return self.given[name].words if name in self.given else ()

    def text(self, name: str) -> Optional[str]:
        words = self.words(name)
        return words[-1] if words else None

    def number(self, name: str) -> Optional[float]:
        """A finite number; None for anything else."""
        try:
            value = float(self.text(name) or "")
        except ValueError:
            return None
        return value if math.isfinite(value) else None

    def count(self, name: str) -> Optional[int]:
        """A whole number of at least 0; None for anything else."""
        value = self.number(name)
        return int(value) if value is not None and value >= 0 and value == int(value) else None

    def tokens(self, name: str) -> Optional[int]:
        """A number of tokens. None where the engine decides: not given, ``auto``, ``-1`` and ``0``."""
        text = self.text(name) or ""
        if self.engine == "llama_cpp":  # C++'s stoi: it stops at the first character that is not a digit
            match = re.match(r"\s*\+?([0-9]{1,12})", text)
            return int(match.group(1)) or None if match else None
        return parse_tokens(text, self.engine) or None

    def table(self, name: str) -> Mapping[str, Any]:
        return self.given[name].table if name in self.given else {}

    def spelling(self, name: str) -> str:
        """The flag or variable of a setting as it was typed, or the one to type."""
        if name in self.given:
            return self.given[name].spelling
        option = OPTIONS.get(self.engine, {}).get(name, Option())
        return next(iter((*option.flags, *option.variables)), name)


@cache
def _list_flags(engine: str) -> Mapping[str, Tuple[str, Option, bool]]:
    """Flag -> its setting, its option, and whether the flag switches on."""
    found = {}
    for name, option in OPTIONS.get(engine, {}).items():
        found.update(dict.fromkeys(option.flags, (name, option, True)))
        found.update(dict.fromkeys(option.off, (name, option, False)))
    return found


def _find_option(engine: str, flag: str) -> Optional[Tuple[str, Option, bool]]:
    flags = _list_flags(engine)
    if flag in flags or engine not in ABBREVIATING or not flag.startswith("--"):
        return flags.get(flag)
    meant = {known[0]: known for word, known in flags.items() if word.startswith(flag) and known[2]}
    return next(iter(meant.values())) if len(meant) == 1 else None


def read_json_table(text: str) -> Optional[Dict[str, Any]]:
    """A JSON object; None for anything else."""
    if len(text) > LONGEST_TABLE:
        return None
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return read if isinstance(read, dict) else None


def _set_in_table(table: Dict[str, Any], path: Sequence[str], text: str) -> None:
    """Set one part of a table, as ``--flag.outer.inner value`` does. A value that is not JSON is text."""
    inner = table
    for key in path[:-1]:
        below = inner.get(key)
        inner[key] = below = dict(below) if isinstance(below, Mapping) else {}
        inner = below
    try:
        inner[path[-1]] = json.loads(text[:LONGEST_TABLE])
    except (ValueError, RecursionError):
        inner[path[-1]] = text


def _take_words(args: Sequence[str], start: int, form: str) -> Tuple[str, ...]:
    """The words after a flag that belong to it."""
    if form == SWITCH:
        return ()
    end = start
    while end < len(args) and not flag_of(args[end]) and (form == MANY or end == start):
        end += 1
    return tuple(args[start:end])


def _read_arguments(engine: str, args: Sequence[str], notes: List[str]) -> Dict[str, Given]:
    given: Dict[str, Given] = {}
    number = 0
    while number < len(args):
        typed, equals, value = args[number].partition("=")
        flag = flag_of(args[number])
        number += 1
        if not flag:
            continue
        base, _dot, inside = flag.partition(".")
        found = _find_option(engine, base)
        if found is None:
            continue
        name, option, on = found
        words = (value,) if equals else _take_words(args, number, option.form)
        number += 0 if equals else len(words)
        spelling = typed.partition(".")[0]
        if option.form == SWITCH:
            given[name] = Given(spelling, (), on if not equals else is_on(value) == on)
        elif option.form == OPTIONAL:
            given[name] = Given(spelling, words or ("on",), not words or is_on(words[-1]))
        elif not words:
            continue
        elif option.form == TABLE:
            before = dict(given[name].table) if name in given else {}
            if inside:
                _set_in_table(before, inside.split("."), words[-1])
                given[name] = Given(spelling, (), True, before)
                continue
            read = read_json_table(words[-1])
            if read is None:
                notes.append("{0}: the value is not a JSON object, so it was not read".format(spelling))
            given[name] = Given(spelling, words, True, {**before, **(read or {})})
        else:
            given[name] = Given(spelling, words)
    return given


def _read_variables(
    engine: str, environment: Mapping[str, str], given: Mapping[str, Given], notes: List[str]
) -> Dict[str, Given]:
    """The settings that come from the environment: those that no flag gives."""
    found: Dict[str, Given] = {}
    for name, option in OPTIONS.get(engine, {}).items():
        set_here = [variable for variable in (*option.variables, *option.off_variables) if environment.get(variable)]
        if set_here and name in given:
            notes.append("{0} has no effect, because {1} is in the arguments".format(set_here[0], given[name].spelling))
            continue
        for variable in set_here:
            value = environment[variable]
            if variable in option.off_variables:
                found[name] = Given(variable, (), not is_on(value))
            elif option.form in (SWITCH, OPTIONAL):
                found[name] = Given(variable, (value,), is_on(value))
            else:
                found[name] = Given(variable, (value,))
            break
    return found


def list_config_words(config: Mapping[str, Any]) -> List[str]:
    """A configuration file as the arguments that it stands for: ``max-model-len: 8192`` is ``--max-model-len 8192``."""
    words: List[str] = []
    for key, value in config.items():
        flag = "--" + str(key).replace("_", "-")
        if isinstance(value, bool):
            words += [flag] if value else []
        elif isinstance(value, Mapping):
            words += [flag, json.dumps(value, default=str)]
        elif isinstance(value, (list, tuple)):
            words += [flag, *(json.dumps(item) if isinstance(item, Mapping) else str(item) for item in value)]
        elif value is not None:
            words += [flag, str(value)]
    return words


def read_settings(
    engine: str,
    args: Sequence[str],
    environment: Optional[Mapping[str, str]] = None,
    config: Optional[Mapping[str, Any]] = None,
) -> Settings:
    """The settings of a serve. config: the content of the file that its arguments name; None where it is not known.

    The arguments count before the file, except for TensorRT-LLM, whose file replaces arguments.
    """
    notes: List[str] = []
    given = _read_arguments(engine, args, notes)
    if settings_of.CONFIG in given:
        if config is None:
            notes.append(
                "{0} {1}: the settings in this file were not read".format(
                    given[settings_of.CONFIG].spelling, given[settings_of.CONFIG].words[-1]
                )
            )
        else:
            filed = {
                name: replace(one, spelling="{0} in {1}".format(one.spelling, given[settings_of.CONFIG].words[-1]))
                for name, one in _read_arguments(engine, list_config_words(config), notes).items()
            }
            cache = config.get("kv_cache_config")
            if engine == "trtllm" and isinstance(cache, Mapping) and cache.get("dtype"):
                where = "kv_cache_config.dtype in {0}".format(given[settings_of.CONFIG].words[-1])
                filed[settings_of.KV_TYPE] = Given(where, (str(cache["dtype"]),))
            given = {**given, **filed} if engine == "trtllm" else {**filed, **given}
    given.update(_read_variables(engine, environment or {}, given, notes))
    return Settings(engine, given, tuple(notes), settings_of.CONFIG in given and config is None)
