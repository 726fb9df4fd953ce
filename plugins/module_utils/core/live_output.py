# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines for the operator while a module still runs: a small file that the action plugin reads from the controller.

The controller chooses a token that nobody can guess, and with it the file's name. Telling is best effort: who cannot write
there does not fail for it.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from typing import IO, Iterator, Optional

# It becomes part of a file's name.
TOKEN = re.compile(r"[0-9a-f]{32}")
# A run that is killed leaves its file; the longest silence of one that lives is much shorter.
DEAD_SECONDS = 86400.0


def path_of(token: str) -> str:
    """Where the lines of a run are: a folder that every user of the host may write to, whatever become makes of the module."""
    return "/tmp/.anvil-progress-" + token


def open_lines(path: str) -> IO[str]:
    """A new file for lines, which nobody prepared as a link, in place of those that killed runs left there. Raises OSError."""
    with contextlib.suppress(OSError):
        _remove_dead(*os.path.split(path))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    return os.fdopen(descriptor, "w", encoding="utf-8")


def _remove_dead(folder: str, name: str) -> None:
    kind = name.rpartition("-")[0]
    for entry in os.scandir(folder):
        found, _dash, token = entry.name.rpartition("-")
        if found == kind and TOKEN.fullmatch(token):
            with contextlib.suppress(OSError):  # another user's
                if entry.stat(follow_symlinks=False).st_mtime < time.time() - DEAD_SECONDS:
                    os.unlink(entry.path)


class Teller:
    """Appends lines to the file of a token. Without a token it keeps silent."""

    def __init__(self, token: Optional[str]) -> None:
        self.path = path_of(token) if token and TOKEN.fullmatch(token) else ""
        self.mute = not self.path
        self.stream: Optional[IO[str]] = None

    def say(self, line: str) -> None:
        if self.mute:
            return
        try:
            if self.stream is None:
                self.stream = open_lines(self.path)
            self.stream.write(" ".join(line.split()) + "\n")
            self.stream.flush()
        except OSError:
            self.mute = True

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
            with contextlib.suppress(OSError):
                os.unlink(self.path)


@contextlib.contextmanager
def telling(token: Optional[str]) -> Iterator[Teller]:
    """A teller for the time of the block; its file is gone afterwards."""
    teller = Teller(token)
    try:
        yield teller
    finally:
        teller.close()
