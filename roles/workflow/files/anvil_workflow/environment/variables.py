# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Environment variables in texts, ``${NAME}`` and ``${NAME:-default}``, and secrets that are read from files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")

# A password may hold an @ that nobody encoded.
LOGIN = re.compile(r"(?<![A-Za-z])([A-Za-z][A-Za-z0-9+.-]{0,30}://)[^\s/?#\"'<>@]*(?:@[^\s/?#\"'<>@]*)*@")


class SettingsError(Exception):
    """Environment variables that cannot be used: all of them, one per line."""


def hide_credentials(text: str) -> str:
    """The text without users and passwords in URLs: for logs, answers and job records."""
    return LOGIN.sub(r"\1<hidden>@", text) if "://" in text and "@" in text else text


def find_variables(text: str) -> Iterator[tuple[str, str | None]]:
    """Each variable that the text refers to, with its default."""
    for match in REFERENCE.finditer(text):
        yield match[1], match[2]


def expand(text: str, environment: Mapping[str, str] | None = None) -> str:
    """The text with the values of its variables. Raises SettingsError for one that is not set and has no default."""
    values = os.environ if environment is None else environment

    def replace(match: re.Match[str]) -> str:
        value = values.get(match[1]) or match[2]
        if value is None:
            raise SettingsError(f"the environment variable {match[1]} is not set, and the workflow file needs it: set it")
        return value

    return REFERENCE.sub(replace, text)


def read_secret(name: str, environment: Mapping[str, str]) -> str:
    """The secret in the file that ``NAME_FILE`` names, or else in ``NAME``; empty where neither is set."""
    path = environment.get(f"{name}_FILE", "")
    if not path:
        return environment.get(name, "").strip()
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise SettingsError(f"{name}_FILE: {path} cannot be read: {error.strerror}") from None
