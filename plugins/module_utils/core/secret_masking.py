# SPDX-License-Identifier: GPL-3.0-or-later
"""Secrets in texts: which names and values look like secrets, and texts, command lines and results without their values. Pure."""

from __future__ import annotations

import functools
import json
import re
from dataclasses import replace
from typing import Any, Iterable, List, Mapping, Sequence, Set, Tuple
from urllib.parse import quote, quote_plus

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.core.printable import HIDDEN, hide_credentials

# A line of a secret of several lines is hidden by itself if it has so many characters.
LONG_LINE = 12
# The patterns are texts: re compiles each at its first use, and a run that masks nothing needs none.
# Words before a key or token that make it an ordinary one: eos_token, sort_key.
_PLAIN_TOKENS = (
    r"EOS|BOS|PAD|UNK|SEP|CLS|MASK|STOP|START|END|BEGIN|EOT|SOT|EOM|TURN|IMAGE|VIDEO|AUDIO|VISION|SPECIAL|REASONING|THINK"
    r"|THINKING|PREFIX|SUFFIX|MAX|MIN|NUM|PER|NEXT|LAST|FIRST|DRAFT|INPUT|OUTPUT|PROMPT|TOOL|NEWLINE|MM"
)
_PLAIN_KEYS = r"SORT|PARTITION|GROUP|BY|CACHE|ROUTING|ROUTE|PRIMARY|FOREIGN|PUBLIC|GPG|INDEX|SHARD|HASH|NUM|TENSOR"
_SECRET_PLURALS = r"API|ACCESS|AUTH|BEARER|REFRESH|SECRET|PRIVATE|MASTER|ADMIN"
_PLAIN_ENDINGS = (
    r"FILE|PATH|DIR|URL|URI|NAME|NAMES|LIMIT|COUNT|SIZE|ID|IDS|TYPE|LEN|LENGTH|PREFIX|SUFFIX|FORMAT|HEADER|ALGORITHM|EXPIRY"
    r"|EXPIRATION|TTL|MANAGER|PROVIDER|BACKEND|DTYPE|POLICY|SOURCE|MODE|ENABLED|VERSION|TIMEOUT|THRESHOLD|HEADS|INDEX|STORE"
    r"|BUDGET|RATE|USAGE|STREAM|HEALING|SCALE|ENDPOINT|HOST|PORT|FIELD|WEIGHT|DIM"
)
_SECRET_WORD = (
    r"(?:HF|GH|API|AUTH|ACCESS|BOT)?TOKEN|(?:API|ACCESS|SECRET|PRIVATE|MASTER|AUTH)?KEY|\w*(?:PASSWORDS?|PASSWD|PASSPHRASE|SECRETS?)"
    r"|CREDENTIALS?|APIKEYS|AUTHORIZATION|BEARER|SIGNATURE"
)
# These say so only at the end of a name; the last two only after another word, and AUTH only before a login.
_SECRET_ENDINGS = frozenset(("PASS", "PW", "JWT", "COOKIE", "PAT", "PWD"))
# What stands for a key where none is needed.
_PLACEHOLDERS = (
    r"0|1|true|false|yes|no|on|off|none|null|empty|dummy|fake|unused|na|n/a|not-needed|not_needed|no-key|no-key-required"
    r"|sk-no-key-required|placeholder|required"
)
# A variable, a file or a placeholder that stands for the value: $KEY, ${KEY:-x}, $(cat /run/secrets/key), <token>.
_REFERENCE = r"\$\w+|\$\{\w+(?::?(?:[-=+](?:\$\{?\w+\}?)?|\?[^}]*))?\}|\$\((?:cat |<)[^)]*\)|`cat [^`]*`|<[^<>]*>"
SECRET_SHAPE = (
    r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_\w{20,}|nvapi-[A-Za-z0-9_-]{20,}"
    r"|glpat-[\w-]{20,}|xox[abprs]-[\w-]{10,}|A[KS]IA[A-Z0-9]{16}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}|AIza[\w-]{30,}"
    r"|(?:gsk|r8|npm|dckr_pat)_[A-Za-z0-9-]{20,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*(?:-----END [A-Z ]*PRIVATE KEY-----)?"
)
# -hft is llama.cpp's token for the hub. Python's argparse takes the beginning of a flag too.
_SHORTENED = r"hft|pwd|api-ke?|hf-to?k?e?|admin-a[\w-]*|ssl-keyfile-p[\w-]*"
_LOOKS_SO = r"(?=[\w.-]{0,60}(?:key|token|secret|pass|pw|cred|auth|jwt|bearer|cookie|signature|pat|hft|api-k|hf-t))[\w.-]{1,80}"
_VALUE = r"""(?:"[^"]*"|'[^']*'|\$\([^)]*\)|\$\{[^}]*\}|[^\s"';&|,)\]}]+)"""
_FLAG_IN_TEXT = r"(?i)(?<![\w-])(--?{0})(=|(?:\s|\\\n){{1,99}})(?!-)({1})".format(_LOOKS_SO, _VALUE)
# NAME=value, name: value, 'name': ['value'], environ['name'] = 'value', as shells, environments, JSON and Python print them.
_ASSIGNED = r"""(?i)(?<![\w.-])(["']?{0}["']?)(\]?\s{{0,9}}[=:]\s{{0,9}}\[?\s{{0,9}}[-?+]?)(?![-?+]?\}})({1})""".format(
    _LOOKS_SO, _VALUE
)
_BEARER = r"(?i)\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{6,}"
# A word that is a flag, and no value that begins with a dash.
_FLAG_WORD = r"(?s)--[A-Za-z][\w.-]*(?:=.*)?|-[A-Za-z]{1,5}(?:-[a-z]+)*(?:=.*)?"
# The user of curl and its like, with a password; not user and group by their numbers.
_LOGIN_FLAGS = ("-u", "--user", "--proxy-user")
_LOGIN = r"[^\s:/]+:(?!\d+$)[^\s:/]+"


def _words_of(name: str) -> List[str]:
    """``hf-token``, ``HF_TOKEN`` and ``hfToken`` as HF, TOKEN."""
    return [word.upper() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+", name)]


def is_secret_name(name: str) -> bool:
    """Whether a variable or flag of this name holds a secret: ``HF_TOKEN`` does, ``KEY_FILE`` and ``EOS_TOKEN`` do not."""
    words = _words_of(name)
    if not words:
        return False
    if words[-1] in _SECRET_ENDINGS and (len(words) > 1 or words[-1] not in ("PAT", "PWD")):
        return True
    if re.fullmatch(_PLAIN_ENDINGS, words[-1]) and words[-2:] != ["SECRET", "ID"]:
        return False
    for before, word in zip(["", *words], words):
        if word in ("KEYS", "TOKENS"):
            if re.fullmatch(_SECRET_PLURALS, before):
                return True
        elif re.fullmatch(_SECRET_WORD, word) and not (
            (word == "TOKEN" and re.fullmatch(_PLAIN_TOKENS, before)) or (word == "KEY" and re.fullmatch(_PLAIN_KEYS, before))
        ):
            return True
    return False


def is_secret_flag(word: str) -> bool:
    """Whether the value of a flag such as ``--api-key`` is a secret."""
    name = word.lstrip("-").replace("_", "-")
    return word.startswith("-") and bool(re.fullmatch(_SHORTENED, name.lower()) or is_secret_name(name))


def _is_plain(name: str, value: str) -> bool:
    """Whether a value is no secret: a placeholder, a reference, a switch, a number such as a count of tokens."""
    bare = value.strip("\"'")
    if not bare or re.fullmatch(_PLACEHOLDERS, bare.lower()) or re.fullmatch(_REFERENCE, bare):
        return True
    words = _words_of(name)
    return bool(re.fullmatch(r"[0-9.]{1,12}" if {"TOKEN", "TOKENS"}.intersection(words) else r"[0-9.]{1,3}", bare))


def holds_secret(name: str, value: str) -> bool:
    """Whether ``NAME=value`` holds a secret, by the name: the value is not one that stands for another, or for none."""
    if _words_of(name)[-1:] == ["AUTH"]:
        return bool(re.fullmatch(_LOGIN, value))
    return is_secret_name(name) and not _is_plain(name, value)


def is_secret_entry(name: str, value: str) -> bool:
    """Whether ``NAME=value`` holds a secret, by its name or by the shape of its value."""
    return holds_secret(name, value) or mask_text(value) != value


def collect_values(environment: Mapping[str, str]) -> List[str]:
    """The secret values of an environment that are long enough to be hidden wherever they stand."""
    return [value for name, value in environment.items() if len(value) >= 6 and is_secret_name(name)]


def _escape(value: str) -> Set[str]:
    """A value as programs print it: JSON with and without ``\\u``, Python's repr, quoted for a shell, in HTML or a URL."""
    doubled = value.replace("\\", "\\\\")
    plain_json = json.dumps(value, ensure_ascii=False)[1:-1]
    return {
        json.dumps(value)[1:-1],
        plain_json,
        plain_json.replace("/", "\\/"),
        "".join("\\u{0:04x}".format(ord(each)) if each in "<>&" else each for each in plain_json),
        repr(value)[1:-1],
        repr(value.encode("utf-8", "replace"))[2:-1],
        doubled.replace("'", "\\'"),
        doubled.replace("'", "\\'").replace('"', '\\"'),
        value.replace("'", "'\"'\"'"),
        value.replace("'", "'\\''"),
        value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;").replace("'", "&#x27;"),
        quote(value, safe="", errors="replace"),
        quote_plus(value, errors="replace"),
    }


@functools.lru_cache(maxsize=256)
def list_forms(value: str) -> Tuple[str, ...]:
    """A secret in all forms in which it may stand in a text: as it is, escaped once or twice, and its longer lines."""
    found = {value, *(line.strip() for line in value.splitlines() if len(line.strip()) >= LONG_LINE)}
    for _level in range(2):
        found |= {form for each in found for form in _escape(each)}
    return tuple(found)


def mask_known(text: str, known: Iterable[str] = ()) -> str:
    """The text without known values and without what has the shape of a secret. known: secret, whatever they look like."""
    forms = {form for value in known if len(value) >= 4 for form in list_forms(value)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, HIDDEN)
    return re.sub(SECRET_SHAPE, HIDDEN, re.sub(_BEARER, r"\1 " + HIDDEN, hide_credentials(text)))


def mask_text(text: str, known: Iterable[str] = ()) -> str:
    """As ``mask_known``, and without the values of flags and names for secrets: for command lines and for logs of servers."""
    return re.sub(_ASSIGNED, _mask_assigned, re.sub(_FLAG_IN_TEXT, _mask_flag, mask_known(text, known)))


def _mask_flag(found: Any) -> str:
    name, sign, value = str(found[1]), str(found[2]), str(found[3])
    return name + sign + HIDDEN if is_secret_flag(name) and not _is_plain(name, value) else str(found[0])


def _mask_assigned(found: Any) -> str:
    name, sign, value = str(found[1]), str(found[2]), str(found[3])
    ending = "_".join(_words_of(name)[-2:])  # token_embd.weight is none
    plain = HIDDEN in value or value in ("Bearer", "Basic") or not holds_secret(ending, value)
    return str(found[0]) if plain else name + sign + HIDDEN


def hide_secrets(words: Sequence[str], known: Iterable[str] = ()) -> List[str]:
    """A command line to show: values of flags for keys, tokens and passwords hidden, also within a word for a shell.

    Of several words after ``--api-key``, each is a key (vLLM).
    """
    shown: List[str] = []
    known = list(known)
    flag, before = "", ""
    for word in words:
        head, given, value = word.partition("=")
        if is_secret_flag(head):
            shown.append(head + given + (value if _is_plain(head, value) else HIDDEN))
            flag = "" if given else head
        elif flag and not re.fullmatch(_FLAG_WORD, word):
            shown.append(word if _is_plain(flag, word) else HIDDEN)
        else:
            flag = ""
            login = (before in _LOGIN_FLAGS or holds_secret(before, word)) and re.fullmatch(_LOGIN, word)
            shown.append(HIDDEN if login else mask_text(word, known))
        before = word
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
