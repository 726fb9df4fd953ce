# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""JSON that others wrote: how many values it holds before it is read, and reading it with one kind of error."""

from __future__ import annotations

import json
import re
from typing import Any

# A text, or the signs before values. A text that does not end is one too: else each quote in it would be tried again.
PIECE = re.compile(rb'"(?:[^"\\]++|\\.?)*+(?:"|\Z)|([,\[{]++)', re.DOTALL)


def read_json(text: str | bytes | bytearray) -> Any:
    """The data in a text. Raises ValueError, also for what is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def holds_more_values(text: bytes, most: int) -> bool:
    """Whether JSON has more values than that. A parser needs hundreds of bytes for each, whatever they hold."""
    if text.count(b",") + text.count(b"[") + text.count(b"{") < most:
        return False
    found = 0
    for piece in PIECE.finditer(text):
        if piece.lastindex:
            found += piece.end() - piece.start()
            if found >= most:
                return True
    return False
