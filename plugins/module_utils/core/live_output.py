# SPDX-License-Identifier: GPL-3.0-or-later
"""Lines for the operator while a module still runs: a small file on the host that the action plugin reads.

The controller chooses a random token, which is part of the file's name. Writing is best effort: a failure to write a line never
fails the module.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from typing import IO, Iterator, Optional

TOKEN = re.compile(r"[0-9a-f]{32}")
# A file without a new line for so long was left by a killed run (seconds).
DEAD_SECONDS = 86400.0


def output_path(token: str) -> str:
    """The file with the lines of a run. Every user of the host may write to its folder, so ``become`` makes no difference."""
    return "/tmp/.anvil-progress-" + token


def create_output_file(path: str) -> IO[str]:
    """Create the file, after removing those of killed runs. Raises OSError, also where the path exists, even as a symlink."""
    with contextlib.suppress(OSError):
        _remove_dead_files(*os.path.split(path))
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    return os.fdopen(descriptor, "w", encoding="utf-8")


def _remove_dead_files(folder: str, name: str) -> None:
    kind = name.rpartition("-")[0]
    for entry in os.scandir(folder):
        found, _dash, token = entry.name.rpartition("-")
        if found == kind and TOKEN.fullmatch(token):
            with contextlib.suppress(OSError):  # a file of another user
                if entry.stat(follow_symlinks=False).st_mtime < time.time() - DEAD_SECONDS:
                    os.unlink(entry.path)


class LiveOutput:
    """Appends lines to the file of a token. Without a token it writes nothing."""

    def __init__(self, token: Optional[str]) -> None:
        self.path = output_path(token) if token and TOKEN.fullmatch(token) else ""
        self.disabled = not self.path
        self.stream: Optional[IO[str]] = None

    def write_line(self, line: str) -> None:
        if self.disabled:
            return
        try:
            if self.stream is None:
                self.stream = create_output_file(self.path)
            self.stream.write(" ".join(line.split()) + "\n")
            self.stream.flush()
        except OSError:
            self.disabled = True

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
            with contextlib.suppress(OSError):
                os.unlink(self.path)


@contextlib.contextmanager
def open_live_output(token: Optional[str]) -> Iterator[LiveOutput]:
    """A ``LiveOutput`` for the time of the block; its file is removed at the end."""
    output = LiveOutput(token)
    try:
        yield output
    finally:
        output.close()
