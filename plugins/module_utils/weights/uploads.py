# SPDX-License-Identifier: GPL-3.0-or-later
"""Weights that come from the controller: the host's side of what the action plugin of anvil_model does.

The controller announces its files, sends those that are missing in pieces, and then asks the host to put them in place. A file
counts only when its sha256 is the announced one; the part that arrived before an interruption is kept under that checksum.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from dataclasses import asdict, dataclass
from typing import Any, Dict, Mapping, Optional

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.files import hold_lock
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_files import open_file
from ansible_collections.anvil.serving.plugins.module_utils.weights.checksums import PIECE, hash_file
from ansible_collections.anvil.serving.plugins.module_utils.weights.free_space import refuse_full_disk

LOCK_SECONDS = 60


@dataclass(frozen=True)
class ControllerFiles:
    """The files that the controller announces.

    signature: changes when its folder or archive does. sizes: bytes by name. sums: sha256 by name, empty until they are needed.
    """

    signature: str
    sizes: Mapping[str, int]
    sums: Mapping[str, str]

    def as_dict(self) -> Dict[str, Any]:
        return asdict(self)


def read_controller_files(raw: Mapping[str, Any]) -> ControllerFiles:
    """The announcement as the action plugin sends it."""
    sizes = {str(name): int(size) for name, size in raw["sizes"].items()}
    return ControllerFiles(str(raw["signature"]), sizes, {str(name): str(word) for name, word in raw["sums"].items()})


@dataclass(frozen=True)
class Piece:
    """Bytes of a file from ``at`` on, in a temporary file on this host; the whole file has ``size`` bytes."""

    name: str
    at: int
    size: int
    sha256: str
    path: str


def _part_path(staging: str, name: str, sha256: str) -> str:
    key = hashlib.sha256("{0}@{1}".format(name, sha256).encode("utf-8")).hexdigest()
    return os.path.join(staging, "parts", key)


def count_arrived(staging: str, name: str, sha256: str) -> int:
    """How many bytes of a file are here from earlier pieces; of a whole file, all."""
    part = _part_path(staging, name, sha256)
    for path in (part + ".whole", part):
        with contextlib.suppress(FileNotFoundError):
            return os.path.getsize(path)
    return 0


def append_piece(lock: str, staging: str, piece: Piece, reserve: int = 0) -> None:
    """Append a piece to what came before it. After the last piece the checksum of the file is compared. Raises AnvilError.

    reserve: bytes that are to stay free on the disk.
    """
    refuse_full_disk(staging, piece.size, piece.at, reserve)
    with hold_lock(lock, LOCK_SECONDS):
        part = _part_path(staging, piece.name, piece.sha256)
        os.makedirs(os.path.dirname(part), exist_ok=True)
        here = count_arrived(staging, piece.name, piece.sha256)
        if here != piece.at:
            raise fail(
                "another run sends the same file",
                where=piece.name,
                why="{0} bytes are here, but the piece begins at byte {1}".format(here, piece.at),
                hint="wait for the other run to end, then run again: the part that has arrived is kept",
            )
        try:
            with open_file(piece.path)[0] as incoming, open(part, "ab") as outgoing:
                shutil.copyfileobj(incoming, outgoing, PIECE)
                outgoing.flush()
                os.fsync(outgoing.fileno())
        except OSError as exc:
            with contextlib.suppress(OSError):
                os.truncate(part, piece.at)
            raise fail(
                "a piece of the weights could not be written",
                where=piece.name,
                why=str(exc),
                hint="check the disk of the host (df), then run again: the part that has arrived is kept",
            ) from exc
        if os.path.getsize(part) >= piece.size:
            _check_whole_file(part, piece)


def _check_whole_file(part: str, piece: Piece) -> None:
    found = hash_file(part)
    if found != piece.sha256:
        os.unlink(part)
        raise fail(
            "a file arrived with a different checksum than the controller announced",
            where=piece.name,
            why="sha256 of the file is {0}, announced was {1}".format(found, piece.sha256),
            hint="run again: the file was removed and the others are kept. It changed on the way, or on the controller meanwhile",
        )
    os.rename(part, part + ".whole")


def collect_files(staging: str, files: str, wanted: Mapping[str, Optional[str]]) -> Dict[str, Dict[str, Any]]:
    """Move the whole files into ``files``, the staged model. wanted: sha256 by name. Returns size and sha256 of each."""
    taken: Dict[str, Dict[str, Any]] = {}
    for name, sha256 in wanted.items():
        whole, staged = _part_path(staging, name, str(sha256)) + ".whole", os.path.join(files, name)
        if not os.path.exists(whole):
            raise fail("a file did not arrive", where=name, hint="run again: the part that has arrived is kept")
        os.makedirs(os.path.dirname(staged), exist_ok=True)
        taken[name] = {"size": os.path.getsize(whole), "sha256": sha256}
        os.rename(whole, staged)
    return taken
