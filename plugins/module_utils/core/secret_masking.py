# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets in texts: which names and values look like secrets, and texts, command lines and results without their values. Pure."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any, Iterable, List, Mapping, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem

HIDDEN = "<hidden>"
SECRET_WORDS = frozenset(("TOKEN", "KEY", "APIKEY", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "CREDENTIALS"))
NOT_SECRET_ENDINGS = frozenset(("FILE", "PATH", "DIR", "URL", "NAME", "LIMIT", "COUNT", "SIZE", "ID", "TYPE", "LEN"))
NOT_SECRET_VALUES = frozenset(("", "0", "1", "true", "false", "none", "null", "empty", "dummy"))
SECRET_SHAPE = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|nvapi-[A-Za-z0-9_-]{20,}"
    r"|glpat-[\w-]{20,}|xox[abprs]-[\w-]{10,}|AKIA[A-Z0-9]{16}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*(?:-----END [A-Z ]*PRIVATE KEY-----)?"
)
# -hft is llama.cpp's token for the hub. Of several words after --api-key, each is a key (vLLM).
_NAME = r"(?:[\w.-]*(?:key|token|secret|password|passwd|passphrase|credentials?)|pass|pw)"
SECRET_FLAG = re.compile(r"--?(?:{0}|hft)".format(_NAME), re.IGNORECASE)
_VALUE = r"""(?:"[^"]*"|'[^']*'|[^\s"';&|,)\]}]+)"""
_FLAG_IN_TEXT = re.compile(r"(?<![\w-])({0})(=|\s+)(?!-){1}".format(SECRET_FLAG.pattern, _VALUE), re.IGNORECASE)
# NAME=value, name: value, 'name': ['value'], as shells, environments, JSON and Python print them.
_ASSIGNED = re.compile(
    r"""(?<![\w-])(["']?{0}["']?)(\s*[=:]\s*\[?\s*)({1})""".format(_NAME.replace(r"[\w.-]*", r"[\w.-]*?"), _VALUE), re.IGNORECASE
)
_BEARER = re.compile(r"\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_URL_LOGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)[^\s/@:]*(?::[^\s/@]*)?@")
_NUMBER_OR_SWITCH = re.compile(r"[\"']?(?:[0-9.]{1,12}|true|false|none|null|yes|no)[\"']?", re.IGNORECASE)


def is_secret_name(name: str) -> bool:
    """Whether a variable of this name holds a secret: ``HF_TOKEN`` does, ``KEY_FILE`` and ``TOKENIZERS_PARALLELISM`` do not."""
    words = re.split(r"[^A-Z0-9]+", name.upper())
    return bool(SECRET_WORDS.intersection(words)) and words[-1] not in NOT_SECRET_ENDINGS


def is_secret_entry(name: str, value: str) -> bool:
    """Whether ``NAME=value`` holds a secret, by its name or by the shape of its value."""
    return (is_secret_name(name) and value.lower() not in NOT_SECRET_VALUES) or mask_text(value) != value


def collect_values(environment: Mapping[str, str]) -> List[str]:
    """The secret values of an environment that are long enough to be hidden wherever they stand."""
    return [value for name, value in environment.items() if len(value) >= 6 and is_secret_name(name)]


def mask_known(text: str, known: Iterable[str] = ()) -> str:
    """The text without known values and without what has the shape of a secret. known: secret, whatever they look like."""
    for value in sorted({value for value in known if len(value) >= 4}, key=len, reverse=True):
        for form in (value, value.replace("\\", "\\\\").replace('"', '\\"')):
            text = text.replace(form, HIDDEN)
    text = _URL_LOGIN.sub(r"\1" + HIDDEN + "@", text)
    return SECRET_SHAPE.sub(HIDDEN, _BEARER.sub(r"\1 " + HIDDEN, text))


def mask_text(text: str, known: Iterable[str] = ()) -> str:
    """As ``mask_known``, and without the values of flags and names for secrets: for command lines and for logs of servers."""
    text = _FLAG_IN_TEXT.sub(r"\1\2" + HIDDEN, mask_known(text, known))
    return _ASSIGNED.sub(_mask_assigned, text)


def _mask_assigned(found: Any) -> str:
    name, sign, value = str(found[1]), str(found[2]), str(found[3])
    plain = _NUMBER_OR_SWITCH.fullmatch(value) or HIDDEN in value or value in ("Bearer", "Basic")
    return str(found[0]) if plain or not is_secret_name(name.strip("\"'-")) else name + sign + HIDDEN


def hide_secrets(words: Sequence[str], known: Iterable[str] = ()) -> List[str]:
    """A command line to show: values of flags for keys, tokens and passwords hidden, also within a word for a shell."""
    shown: List[str] = []
    known = list(known)
    hiding = False
    for word in words:
        flag, given, _value = word.partition("=")
        if SECRET_FLAG.fullmatch(flag):
            shown.append(flag + ("=" + HIDDEN if given else ""))
            hiding = not given
        elif hiding and not re.match(r"--?[A-Za-z]", word):
            shown.append(HIDDEN)
        else:
            hiding = False
            shown.append(mask_text(word, known))
    return shown


def mask_value(value: Any, known: Iterable[str] = ()) -> Any:
    """A result to show: every text in it masked, lists of words as command lines, mappings also by their keys."""
    known = list(known)
    if isinstance(value, str):
        return mask_text(value, known)
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if isinstance(item, str) and item and is_secret_entry(str(key), item) else mask_value(item, known)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        if all(isinstance(item, str) for item in value):
            return hide_secrets(value, known)
        return [mask_value(item, known) for item in value]
    return value


def mask_problem(problem: Problem, known: Iterable[str] = ()) -> Problem:
    """A problem to report. Its log is what a server printed, which may be its whole command line and environment."""
    known = list(known)
    what, where, why, hint = (mask_known(text, known) for text in (problem.what, problem.where, problem.why, problem.hint))
    log = tuple(mask_text(line, known) for line in problem.log)
    return replace(problem, what=what, where=where, why=why, hint=hint, log=log)
