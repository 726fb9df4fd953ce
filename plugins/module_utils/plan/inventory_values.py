# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The words of an inventory: what a value may be, how a mistake in it is told, and where it stands.

``Check`` collects every mistake; ``Node`` is a mapping of the inventory with its path. Pure: nothing is decided here.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any, Iterable, List, Mapping, Optional, Pattern, Sequence, Tuple, Union

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem

Path = Tuple[Union[str, int], ...]


class _Unread:
    """Stands where a value could not be read (a template failed). Its problem is reported by who tried to read it."""

    def __repr__(self) -> str:
        return "<unread>"


UNREAD = _Unread()
LONGEST_WAIT_SECONDS = 24 * 3600
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
NAME_RULE = "use 1 to 63 of a-z, 0-9, _ and -, starting with a letter or a digit"
CONTAINER = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,62}")
CONTAINER_RULE = "use 2 to 63 of a-z, A-Z, 0-9, _, . and -, starting with a letter or a digit"
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
ABSOLUTE = re.compile(r"/[^\0\n]*")
ANYTHING = re.compile(r"[^\0]*", re.DOTALL)
NO_SPACE = re.compile(r"[^\s\0]+")
UUID = re.compile(
    r"(GPU|MIG)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    r"|MIG-GPU-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/[0-9]{1,2}/[0-9]{1,2}",
    re.IGNORECASE,
)
IMAGE = re.compile(
    r"(?P<name>[a-zA-Z0-9][a-zA-Z0-9.-]*(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+|[a-z0-9]+([._-]+[a-z0-9]+)*)"
    r"(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?"
)
SIZE = re.compile(r"[0-9]{1,12}([bkmg]|[kmg]b)?", re.IGNORECASE)
NUMBER = re.compile(r"-?[0-9]{1,15}")
SECRET_WORDS = frozenset(("TOKEN", "KEY", "APIKEY", "SECRET", "PASSWORD", "PASSWD", "PASSPHRASE", "CREDENTIAL", "CREDENTIALS"))
NOT_THE_SECRET = frozenset(("FILE", "PATH", "DIR", "URL", "NAME", "LIMIT", "COUNT", "SIZE", "ID", "TYPE", "LEN"))
NO_SECRETS = frozenset(("", "0", "1", "true", "false"))
SECRET_SHAPE = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|nvapi-[A-Za-z0-9_-]{20,})"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY"
)


def path_text(path: Path) -> str:
    """``anvil_serves.heavy.gpus[0]``; a key that is not a plain word stands in brackets."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += "[{0}]".format(step)
        elif re.fullmatch(r"[\w-]+", step):
            text += ("." if text else "") + step
        else:
            text += "[{0!r}]".format(shorten(step))
    return text


def shorten(text: str, width: int = 60) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def describe(value: Any) -> str:
    """A value of the inventory in an operator's words, short enough for one line."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "the boolean {0}".format("true" if value else "false")
    if isinstance(value, str):
        return "the text {0!r}".format(shorten(str(value)))
    if isinstance(value, (int, float)):
        return "the number {0}".format(shorten(str(value)))
    return kind_of(value)


def kind_of(value: Any) -> str:
    """What sort of thing a value is, without showing it."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    return "nothing" if value is None else "a {0}".format(type(value).__name__)


def nearest(word: str, known: Iterable[str]) -> str:
    """The known word that was most likely meant, or nothing."""
    close = difflib.get_close_matches(word[:200].lower(), list(known), 1, 0.6)
    return close[0] if close else ""


def suggest(word: str, known: Iterable[str], nothing: str = "there are none") -> str:
    words = list(known)
    close = nearest(word, words)
    if close:
        return "did you mean {0}?".format(close)
    return "known: {0}".format(shorten(", ".join(words), 300)) if words else nothing


def looks_secret(name: str) -> bool:
    """Does this variable hold a secret? ``HF_TOKEN`` does; ``KEY_FILE`` and ``TOKENIZERS_PARALLELISM`` do not."""
    words = re.split(r"[^A-Z0-9]+", name.upper())
    return bool(SECRET_WORDS.intersection(words)) and words[-1] not in NOT_THE_SECRET


@dataclass
class Check:
    """What was found wrong so far, and what the operator should know although it is not wrong."""

    problems: List[Problem] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)

    def wrong(self, path: Path, what: str, hint: str = "", why: str = "") -> None:
        self.problems.append(Problem(what=what, where=path_text(path), why=why, hint=hint))

    def note(self, path: Path, text: str) -> None:
        self.notes.append("{0}: {1}".format(path_text(path), text))

    def mapping(self, path: Path, value: Any, example: str) -> Optional[Node]:
        """The value as a mapping to read from; None if it is absent, unread or wrong."""
        if value is None or value is UNREAD:
            return None
        if not isinstance(value, Mapping):
            self.wrong(path, "a mapping is wanted, not {0}".format(kind_of(value)), example)
            return None
        return Node(self, path, value)

    def items(self, path: Path, value: Any, example: str) -> Optional[List[Tuple[Path, Any]]]:
        """The value as a list of (path, item); None if it is absent, unread or wrong."""
        if value is None or value is UNREAD:
            return None
        if not isinstance(value, (list, tuple)):
            self.wrong(path, "a list is wanted, not {0}".format(describe(value)), example)
            return None
        return [((*path, number), item) for number, item in enumerate(value) if item is not UNREAD]

    def plain(self, path: Path, value: Any, pattern: Pattern[str], rule: str) -> Optional[str]:
        """The value as text that matches, or None after saying what is wrong."""
        if value is UNREAD:
            return None
        if not isinstance(value, str):
            self.wrong(path, "text is wanted, not {0}".format(describe(value)), rule)
        elif not value:
            self.wrong(path, "is empty", rule)
        elif not pattern.fullmatch(value):
            self.wrong(path, "{0!r} will not do".format(shorten(str(value))), rule)
        else:
            return str(value)
        return None


@dataclass
class Node:
    """A mapping of the inventory with its path. A key without a value counts as a key that is not there."""

    check: Check
    path: Path
    raw: Mapping[Any, Any]

    def at(self, key: str) -> Path:
        return (*self.path, key)

    def has(self, key: str) -> bool:
        return self.raw.get(key) is not None

    def known(self, keys: Sequence[str]) -> None:
        for key in self.raw:
            if key not in keys:
                self.check.wrong((*self.path, str(key)), "unknown key", suggest(str(key), keys))

    def entries(self, pattern: Pattern[str], rule: str) -> List[Tuple[str, Path, Any]]:
        """(key, path, value) of each entry whose key will do."""
        found = []
        for key, value in self.raw.items():
            path = (*self.path, str(key))
            if not isinstance(key, str):
                self.check.wrong(path, "the name is {0}, not text".format(describe(key)), "put it in quotes")
            elif not pattern.fullmatch(key):
                self.check.wrong(path, "{0!r} will not do as a name".format(shorten(str(key))), rule)
            else:
                found.append((str(key), path, value))
        return found

    def text(self, key: str, rule: str, pattern: Pattern[str] = ANYTHING) -> Optional[str]:
        if not self.has(key):
            return None
        return self.check.plain(self.at(key), self.raw[key], pattern, rule)

    def word(self, key: str, known: Sequence[str]) -> Optional[str]:
        value = self.raw.get(key)
        if value is None or value is UNREAD:
            return None
        if isinstance(value, str) and value in known:
            return str(value)
        self.check.wrong(self.at(key), "unknown {0}: {1}".format(key, describe(value)), suggest(str(value), known))
        return None

    def whole(self, key: str, lowest: int, highest: int, unit: str = "") -> Optional[int]:
        """A whole number; digits in quotes will do (``-e`` gives text)."""
        value = self.raw.get(key)
        if value is None or value is UNREAD:
            return None
        rule = "a whole number{0} from {1} to {2}".format(unit and " of " + unit, lowest, highest)
        if isinstance(value, str) and NUMBER.fullmatch(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.check.wrong(self.at(key), "a whole number is wanted, not {0}".format(describe(value)), rule)
        elif not lowest <= value <= highest:
            self.check.wrong(self.at(key), "{0} is out of range".format(shorten(str(value))), rule)
        else:
            return int(value)
        return None

    def boolean(self, key: str) -> Optional[bool]:
        value = self.raw.get(key)
        if value is None or value is UNREAD:
            return None
        if isinstance(value, bool):
            return value
        self.check.wrong(self.at(key), "true or false is wanted, not {0}".format(describe(value)), "true or false")
        return None


def read_image(node: Node) -> Optional[str]:
    rule = "repository/name:tag or repository/name@sha256:…"
    text = node.text("image", rule, IMAGE)
    if text is None:
        return None
    found = IMAGE.fullmatch(text)
    if found and not found.group("tag") and not found.group("digest"):
        node.check.wrong(node.at("image"), "{0!r} has neither tag nor digest".format(shorten(text)), rule)
        return None
    if found and found.group("tag") == "latest" and not found.group("digest"):
        node.check.note(node.at("image"), "the tag latest moves: a digest says which image runs")
    return text


def is_loopback(bind: str) -> bool:
    return ipaddress.ip_address(bind.strip("[]")).is_loopback


def read_address(check: Check, path: Path, text: str) -> Optional[str]:
    """An IP address as compose writes it: IPv6 in brackets."""
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        check.wrong(path, "{0!r} is not an IP address".format(shorten(text)), "an address of this host: 127.0.0.1")
        return None
    return "[{0}]".format(address) if address.version == 6 else str(address)
