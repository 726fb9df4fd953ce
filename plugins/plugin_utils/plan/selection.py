# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which hosts have the serves that an operator names for a whole run. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem

MOST_WORDS = 30


def select_serves(wanted: Sequence[str], selectors: Mapping[str, Sequence[str] | None]) -> dict[str, list[str]]:
    """For each host, the wanted words that select a serve of it.

    selectors: host -> the names and tags of its serves; empty or None if it has no serves, or if they are unknown because its
    inventory has mistakes. Raises AnvilError with every word that no host has.
    """
    known = sorted({word for words in selectors.values() for word in words or ()})
    problems = [_describe_unknown(word, known, selectors) for word in dict.fromkeys(wanted) if word not in known]
    if problems:
        raise AnvilError(*problems)
    return {host: [word for word in wanted if word in (words or ())] for host, words in selectors.items()}


def _describe_unknown(word: str, known: Sequence[str], selectors: Mapping[str, Sequence[str] | None]) -> Problem:
    close = difflib.get_close_matches(word, known, n=1)
    named = ", ".join(known[:MOST_WORDS]) + (f" and {len(known) - MOST_WORDS} more" if len(known) > MOST_WORDS else "")
    unknown = sorted(host for host, words in selectors.items() if words is None)
    return Problem(
        f"no host of this run has a serve, a tag or a tier named {word}",
        "serves",
        f"the serves of {', '.join(unknown)} are unknown, because of mistakes in their inventories" if unknown else "",
        f"did you mean {close[0]}?" if close else f"use one of: {named or 'none'}",
    )
