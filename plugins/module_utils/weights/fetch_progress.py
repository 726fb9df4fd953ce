# SPDX-License-Identifier: GPL-3.0-or-later
"""How far a transfer is, as lines for the operator: ``1.2 GiB of 60.3 GiB, 412.0 MiB/s, 2 min left``."""

from __future__ import annotations

from typing import Callable

LINE_SECONDS = 5.0


def format_bytes(count: int) -> str:
    """Bytes in a unit that people read, to a tenth."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return "{0:.0f} {1}".format(size, unit) if unit == "B" else "{0:.1f} {1}".format(size, unit)


def describe_progress(done: int, need: int, seconds: float) -> str:
    """Bytes done, bytes needed (0: not known), speed and the time that is left."""
    text = "{0} of {1}".format(format_bytes(min(done, need)), format_bytes(need)) if need else format_bytes(done)
    if done <= 0 or seconds <= 0:
        return text
    left = max(0, need - done) * seconds / done
    rest = ", {0:.0f} min left".format(left / 60) if left > 90 else ", {0:.0f} s left".format(left)
    return text + ", {0}/s".format(format_bytes(int(done / seconds))) + (rest if need else "")


class ProgressLines:
    """Writes a line about a transfer at most every five seconds."""

    def __init__(self, write_line: Callable[[str], None], name: str, need: int) -> None:
        self.write_line, self.name, self.need, self.last = write_line, name, need, 0.0

    def report(self, done: int, seconds: float) -> None:
        """done: bytes so far; seconds: since the transfer began."""
        if done and (seconds - self.last >= LINE_SECONDS or not self.last):
            self.last = seconds
            self.write_line("{0}: {1}".format(self.name, describe_progress(done, self.need, seconds)))
