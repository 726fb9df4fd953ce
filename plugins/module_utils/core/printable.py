# SPDX-License-Identifier: GPL-3.0-or-later
"""Texts that a terminal prints and never executes: control and direction characters become ``\\u001b``; and URLs without the
credentials in them. Pure.

Logs, names, labels and messages of containers, files and servers are the words of others. A terminal executes the escape
sequences in them, and characters that change the direction of writing make a line read as another one.
"""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass, replace
from typing import Any, Callable, Mapping

# Colours say nothing that an operator needs: they are left out, not shown.
_COLOUR = re.compile("\x1b\\[[0-9;:]*m")
# C0 and C1, direction marks, overrides and isolates, line separators, invisible tags, halves of surrogate pairs. Not the line
# feed and the tab.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)

# A text, because re compiles it at its first use. A password may hold an @ that nobody encoded.
_LOGIN = r"(?<![A-Za-z])([A-Za-z][A-Za-z0-9+.-]{0,30}://)[^\s/?#\"'<>@]*(?:@[^\s/?#\"'<>@]*)*@"
_SIGNATURE = r"(?i)([?&](?:sig|[\w-]*signature|[\w-]*token|api[_-]?key)=)[^&\s\"'#]+"
HIDDEN = "<hidden>"


def hide_credentials(text: str) -> str:
    """The text with ``<hidden>`` in place of users, passwords, signatures and tokens in URLs."""
    if "://" not in text:
        return text
    if "@" in text:
        text = re.sub(_LOGIN, r"\1" + HIDDEN + "@", text)
    return re.sub(_SIGNATURE, r"\1" + HIDDEN, text) if "=" in text else text


def make_showable(text: str) -> str:
    """As ``make_printable``, and without the credentials in URLs: for all that is told to an operator or logged."""
    return make_printable(hide_credentials(text))


def _escape(found: re.Match[str]) -> str:
    """As JSON writes it, so a JSON text stays one."""
    code = ord(found[0])
    if code > 0xFFFF:
        high, low = divmod(code - 0x10000, 0x400)
        return "\\u{0:04x}\\u{1:04x}".format(0xD800 + high, 0xDC00 + low)
    return "\\u{0:04x}".format(code)


def make_printable(text: str) -> str:
    """The text, which may have several lines, without anything that a terminal executes."""
    if text.isascii() and text.isprintable():
        return text
    return _UNSAFE.sub(_escape, _COLOUR.sub("", text).replace("\r\n", "\n"))


def make_printable_line(text: str) -> str:
    """As ``make_printable``, in one line: a name with a line feed must not look like two rows."""
    return make_printable(text).replace("\n", "\\n").replace("\t", " ")


def make_data_printable(value: Any, clean: Callable[[str], str] = make_printable) -> Any:
    """Data with every text in it made printable: mappings, lists, and frozen dataclasses."""
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, Mapping):
        return {make_data_printable(key, clean): make_data_printable(item, clean) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return (
            [make_data_printable(item, clean) for item in value]
            if isinstance(value, list)
            else tuple(make_data_printable(item, clean) for item in value)
        )
    if is_dataclass(value) and not isinstance(value, type):
        named = {one.name: getattr(value, one.name) for one in fields(value) if one.init}
        return replace(value, **make_data_printable(named, clean))
    return value
