# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Weights that come from the controller: the host's side of what the action plugin of anvil_model does.

The controller announces what it has, sends the files that are missing piece by piece, and asks for them to be put in place.
A file counts only when its sha256 is the announced one; what came before an interruption is kept under that sum.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from dataclasses import asdict, dataclass
from typing import Any, Dict, Iterator, Mapping, Optional

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.files import hold_lock

PIECE = 4 * 1024 * 1024


@dataclass(frozen=True)
class Announced:
    """What the controller has. signature: changes when its folder or archive does. sizes: bytes by name; sums: sha256 by name,
    empty as long as nothing shows that they are needed.
    """

    signature: str
    sizes: Mapping[str, int]
    sums: Mapping[str, str]

    def as_dict(self) -> Dict[str, Any]:
        return asdict(self)


def read_announced(raw: Mapping[str, Any]) -> Announced:
    sizes = {str(name): int(size) for name, size in raw["sizes"].items()}
    return Announced(str(raw["signature"]), sizes, {str(name): str(word) for name, word in raw["sums"].items()})


@dataclass(frozen=True)
class Piece:
    """Bytes of a file from ``at`` on, in a temporary file on this host; the file is ``size`` bytes long in all."""

    name: str
    at: int
    size: int
    sha256: str
    path: str


def hash_stream(stream: Any) -> Iterator[bytes]:
    """The pieces of a stream."""
    while True:
        piece = stream.read(PIECE)
        if not piece:
            return
        yield piece


def _part(staging: str, name: str, sha256: str) -> str:
    key = hashlib.sha256("{0}@{1}".format(name, sha256).encode("utf-8")).hexdigest()
    return os.path.join(staging, "parts", key)


def arrived(staging: str, name: str, sha256: str) -> int:
    """How many bytes of a file are here from earlier pieces; of one that is whole, all."""
    part = _part(staging, name, sha256)
    for path in (part + ".whole", part):
        with contextlib.suppress(FileNotFoundError):
            return os.path.getsize(path)
    return 0


def take_piece(staging: str, piece: Piece) -> None:
    """Append a piece to what came before it; the last one makes the file count, if its sum is right. Raises AnvilError."""
    with hold_lock(staging, 60):
        part = _part(staging, piece.name, piece.sha256)
        os.makedirs(os.path.dirname(part), exist_ok=True)
        here = arrived(staging, piece.name, piece.sha256)
        if here != piece.at:
            raise fail(
                "another run sends the same file",
                where=piece.name,
                why="{0} bytes are here, and the piece begins at {1}".format(here, piece.at),
                hint="let the other run end, then run again: what came is kept",
            )
        try:
            with open(piece.path, "rb") as incoming, open(part, "ab") as outgoing:
                shutil.copyfileobj(incoming, outgoing, PIECE)
                outgoing.flush()
                os.fsync(outgoing.fileno())
        except OSError as exc:
            with contextlib.suppress(OSError):
                os.truncate(part, piece.at)
            raise fail(
                "a piece of the weights could not be written", where=piece.name, why=str(exc), hint="run again: what came is kept"
            ) from exc
        if os.path.getsize(part) >= piece.size:
            _check_whole(part, piece)


def _check_whole(part: str, piece: Piece) -> None:
    digest = hashlib.sha256()
    with open(part, "rb") as stream:
        for chunk in hash_stream(stream):
            digest.update(chunk)
    if digest.hexdigest() != piece.sha256:
        os.unlink(part)
        raise fail(
            "a file is not what the controller announced",
            where=piece.name,
            why="sha256 is {0}, {1} was announced".format(digest.hexdigest(), piece.sha256),
            hint="run again: the file was thrown away and the others are kept; it was altered on its way, or while it was sent",
        )
    os.rename(part, part + ".whole")


def collect(staging: str, files: str, wanted: Mapping[str, Optional[str]]) -> Dict[str, Dict[str, Any]]:
    """Move the files that are whole into the staged model. wanted: sha256 by name."""
    taken: Dict[str, Dict[str, Any]] = {}
    for name, sha256 in wanted.items():
        whole, staged = _part(staging, name, str(sha256)) + ".whole", os.path.join(files, name)
        if not os.path.exists(whole):
            raise fail("a file did not arrive", where=name, hint="run again: what came is kept")
        os.makedirs(os.path.dirname(staged), exist_ok=True)
        taken[name] = {"size": os.path.getsize(whole), "sha256": sha256}
        os.rename(whole, staged)
    return taken
