# SPDX-License-Identifier: GPL-3.0-or-later
"""Checksums of files and streams, read in pieces: a model is larger than the memory."""

from __future__ import annotations

import hashlib
from typing import Any, Iterator, Optional

PIECE = 4 * 1024 * 1024


def read_pieces(stream: Any) -> Iterator[bytes]:
    """The content of an open stream, at most 4 MiB at a time."""
    while True:
        piece = stream.read(PIECE)
        if not piece:
            return
        yield piece


def hash_stream(stream: Any, size: Optional[int] = None) -> str:
    """The sha256 of what is left in a stream. size: read at most so many bytes, and one more; another process may append."""
    digest, left = hashlib.sha256(), size
    for piece in read_pieces(stream):
        digest.update(piece)
        left = None if left is None else left - len(piece)
        if left is not None and left < 0:
            break
    return digest.hexdigest()


def hash_file(path: str) -> str:
    """The sha256 of a file that only this user can write."""
    with open(path, "rb") as stream:
        return hash_stream(stream)


def hash_git_blob(stream: Any, size: int) -> str:
    """The hash of a file in git. The hub announces it for small files. size: of the file."""
    digest, left = hashlib.sha1("blob {0}\0".format(size).encode()), size  # noqa: S324  git's choice, not ours
    for piece in read_pieces(stream):
        digest.update(piece)
        left -= len(piece)
        if left < 0:
            break
    return digest.hexdigest()
