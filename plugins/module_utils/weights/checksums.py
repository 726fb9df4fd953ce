# SPDX-License-Identifier: GPL-3.0-or-later
"""Checksums of files and streams, read in pieces: a model is larger than the memory."""

from __future__ import annotations

import hashlib
import os
from typing import Any, Iterator

PIECE = 4 * 1024 * 1024


def read_pieces(stream: Any) -> Iterator[bytes]:
    """The content of an open stream, at most 4 MiB at a time."""
    while True:
        piece = stream.read(PIECE)
        if not piece:
            return
        yield piece


def hash_stream(stream: Any) -> str:
    """The sha256 of what is left in a stream."""
    digest = hashlib.sha256()
    for piece in read_pieces(stream):
        digest.update(piece)
    return digest.hexdigest()


def hash_file(path: str) -> str:
    """The sha256 of a file."""
    with open(path, "rb") as stream:
        return hash_stream(stream)


def hash_git_blob(path: str) -> str:
    """The hash of a file in git. The hub announces it for small files."""
    digest = hashlib.sha1("blob {0}\0".format(os.path.getsize(path)).encode())  # noqa: S324  git's choice, not ours
    with open(path, "rb") as stream:
        for piece in read_pieces(stream):
            digest.update(piece)
    return digest.hexdigest()
