# SPDX-License-Identifier: GPL-3.0-or-later
"""Read typed values of the inventory: text, choices, numbers, images, addresses. Every mistake is collected with its path.

``InventoryCheck`` collects the mistakes; ``Section`` is a mapping of the inventory with its path. No default is decided here.
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
    """Stands for a value that could not be read because its template failed. The caller that templated it reports the problem."""

    def __repr__(self) -> str:
        return "<unread>"


UNREAD = _Unread()
LONGEST_WAIT_SECONDS = 24 * 3600
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
NAME_RULE = "1 to 63 of a-z, 0-9, _ and -, starting with a letter or a digit"
CONTAINER = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,62}")
CONTAINER_RULE = "2 to 63 of a-z, A-Z, 0-9, _, . and -, starting with a letter or a digit"
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


def format_path(path: Path) -> str:
    """The path as ``anvil_serves.heavy.gpus[0]``. A key that is not a plain word stands in brackets."""
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


def describe_value(value: Any) -> str:
    """A value with its type, for a message of one line: ``the text 'abc'``."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "the boolean {0}".format("true" if value else "false")
    if isinstance(value, str):
        return "the text {0!r}".format(shorten(str(value)))
    if isinstance(value, (int, float)):
        return "the number {0}".format(shorten(str(value)))
    return describe_type(value)


def describe_type(value: Any) -> str:
    """The type of a value, without the value."""
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


def find_similar(word: str, known: Iterable[str]) -> str:
    """The known word that is most similar to ``word``, or an empty string."""
    close = difflib.get_close_matches(word[:200].lower(), list(known), 1, 0.6)
    return close[0] if close else ""


def suggest_name(word: str, known: Iterable[str], nothing: str = "none is defined") -> str:
    """The hint for an unknown name: the most similar known one, or all of them. nothing: the hint if none is known."""
    words = list(known)
    close = find_similar(word, words)
    if close:
        return "did you mean {0}?".format(close)
    return "use one of: {0}".format(shorten(", ".join(words), 300)) if words else nothing


@dataclass
class InventoryCheck:
    """The result of checking an inventory: every mistake so far, and notes on what is not wrong but good to know."""

    problems: List[Problem] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)

    def add_problem(self, path: Path, what: str, hint: str = "", why: str = "") -> None:
        self.problems.append(Problem(what=what, where=format_path(path), why=why, hint=hint))

    def add_note(self, path: Path, text: str) -> None:
        self.notes.append("{0}: {1}".format(format_path(path), text))

    def read_mapping(self, path: Path, value: Any, example: str) -> Optional[Section]:
        """The value as a section; None if it is absent, unread or not a mapping. example: shown as the hint."""
        if value is None or value is UNREAD:
            return None
        if not isinstance(value, Mapping):
            self.add_problem(path, "must be a mapping, not {0}".format(describe_type(value)), "for example: " + example)
            return None
        return Section(self, path, value)

    def read_list(self, path: Path, value: Any, example: str) -> Optional[List[Tuple[Path, Any]]]:
        """The value as a list of (path, item); None if it is absent, unread or not a list. example: shown as the hint."""
        if value is None or value is UNREAD:
            return None
        if not isinstance(value, (list, tuple)):
            self.add_problem(path, "must be a list, not {0}".format(describe_value(value)), "for example: " + example)
            return None
        return [((*path, number), item) for number, item in enumerate(value) if item is not UNREAD]

    def match_text(self, path: Path, value: Any, pattern: Pattern[str], rule: str) -> Optional[str]:
        """The value as text that matches the pattern; None if it is unread or wrong. rule: what is allowed, for the hint."""
        if value is UNREAD:
            return None
        if not isinstance(value, str):
            self.add_problem(path, "must be text, not {0}".format(describe_value(value)), "use " + rule)
        elif not value:
            self.add_problem(path, "must not be empty", "use " + rule)
        elif not pattern.fullmatch(value):
            self.add_problem(path, "{0!r} is not valid".format(shorten(str(value))), "use " + rule)
        else:
            return str(value)
        return None


@dataclass
class Section:
    """A mapping of the inventory with its path. A key without a value counts as absent."""

    check: InventoryCheck
    path: Path
    raw: Mapping[Any, Any]

    def path_of(self, key: str) -> Path:
        return (*self.path, key)

    def has(self, key: str) -> bool:
        return self.raw.get(key) is not None

    def add_problem(self, key: str, what: str, hint: str = "", why: str = "") -> None:
        self.check.add_problem(self.path_of(key), what, hint, why)

    def add_note(self, key: str, text: str) -> None:
        self.check.add_note(self.path_of(key), text)

    def check_keys(self, keys: Sequence[str]) -> None:
        for key in self.raw:
            if key not in keys:
                self.check.add_problem((*self.path, str(key)), "unknown key", suggest_name(str(key), keys))

    def read_entries(self, pattern: Pattern[str], rule: str) -> List[Tuple[str, Path, Any]]:
        """(key, path, value) of each entry whose key matches the pattern."""
        found = []
        for key, value in self.raw.items():
            path = (*self.path, str(key))
            if not isinstance(key, str):
                self.check.add_problem(path, "the name must be text, not {0}".format(describe_value(key)), "put it in quotes")
            elif not pattern.fullmatch(key):
                self.check.add_problem(path, "{0!r} is not a valid name".format(shorten(str(key))), "use " + rule)
            else:
                found.append((str(key), path, value))
        return found

    def read_text(self, key: str, rule: str, pattern: Pattern[str] = ANYTHING) -> Optional[str]:
        if not self.has(key):
            return None
        return self.check.match_text(self.path_of(key), self.raw[key], pattern, rule)

    def read_choice(self, key: str, known: Sequence[str]) -> Optional[str]:
        value = self.raw.get(key)
        if value is None or value is UNREAD:
            return None
        if isinstance(value, str) and value in known:
            return str(value)
        shown = repr(shorten(str(value))) if isinstance(value, str) else describe_value(value)
        self.add_problem(key, "unknown {0}: {1}".format(key, shown), suggest_name(str(value), known))
        return None

    def read_integer(self, key: str, lowest: int, highest: int, unit: str = "") -> Optional[int]:
        """A whole number. Digits in quotes are accepted, because ``-e`` passes text."""
        value = self.raw.get(key)
        if value is None or value is UNREAD:
            return None
        rule = "use a whole number{0} from {1} to {2}".format(unit and " of " + unit, lowest, highest)
        if isinstance(value, str) and NUMBER.fullmatch(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            self.add_problem(key, "must be a whole number, not {0}".format(describe_value(value)), rule)
        elif not lowest <= value <= highest:
            self.add_problem(key, "{0} is out of range".format(shorten(str(value))), rule)
        else:
            return int(value)
        return None

    def read_boolean(self, key: str) -> Optional[bool]:
        value = self.raw.get(key)
        if value is None or value is UNREAD:
            return None
        if isinstance(value, bool):
            return value
        self.add_problem(key, "must be true or false, not {0}".format(describe_value(value)), "use true or false without quotes")
        return None


def read_image(section: Section) -> Optional[str]:
    """The key ``image``: a reference with a tag or a digest."""
    rule = "repository/name:tag or repository/name@sha256:…"
    text = section.read_text("image", rule, IMAGE)
    if text is None:
        return None
    found = IMAGE.fullmatch(text)
    if found and not found.group("tag") and not found.group("digest"):
        section.add_problem("image", "{0!r} has neither a tag nor a digest".format(shorten(text)), "use " + rule)
        return None
    if found and found.group("tag") == "latest" and not found.group("digest"):
        section.add_note("image", "the tag latest can change at any time: a digest (name@sha256:…) pins the image")
    return text


def is_loopback(bind: str) -> bool:
    return ipaddress.ip_address(bind.strip("[]")).is_loopback


def read_address(check: InventoryCheck, path: Path, text: str) -> Optional[str]:
    """An IP address as compose expects it: IPv6 in brackets."""
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        check.add_problem(
            path, "{0!r} is not an IP address".format(shorten(text)), "use an IP address of this host, such as 127.0.0.1"
        )
        return None
    return "[{0}]".format(address) if address.version == 6 else str(address)
