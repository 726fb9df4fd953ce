# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The access log: who asked for what, the status, how long it took and how large it was. Never what was asked or answered."""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

NOBODY = "-"
PROBES = frozenset({"/livez", "/readyz", "/health"})
# Without an end of the answer: the client closed the connection.
CLOSED = 499
LONGEST_PATH = 200
UNSAFE = re.compile(r"[^\x21-\x7e]")
FLUSH_SECONDS = 0.1


class AccessLog:
    """Lines are collected and written a few times a second: a write for each costs more than the rest of its line."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._lines: list[str] = []
        self._second, self._text = 0, ""

    def add(self, scope: Mapping[str, Any], client: str, status: int, seconds: float, size: int) -> None:
        """A request has ended. Probes that succeed are left out: there is one every second."""
        path = scope["path"]
        if status == 200 and path in PROBES:
            return
        shown = UNSAFE.sub("?", path[:LONGEST_PATH])
        address = (scope.get("client") or (NOBODY,))[0]
        self._lines.append(
            f"{self._write_time()} INFO access client={client} from={address} method={scope['method']} path={shown}"
            f" status={status or CLOSED} ms={seconds * 1000:.1f} bytes={size}\n"
        )
        if len(self._lines) == 1:
            asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)

    def flush(self) -> None:
        if self._lines:
            text, self._lines = "".join(self._lines), []
            self._stream.write(text)
            self._stream.flush()

    def _write_time(self) -> str:
        now = time.time()
        if int(now) != self._second:
            self._second = int(now)
            self._text = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now))
        return f"{self._text},{int(now % 1 * 1000):03d}"
