# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Prepare weights of the controller for sending: list them, hash them, cut them into pieces."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.weights.checksums import hash_file, hash_stream
from ansible_collections.anvil.serving.plugins.module_utils.weights.local_files import LocalFile, compute_signature, open_files
from ansible_collections.anvil.serving.plugins.module_utils.weights.uploads import ControllerFiles


def list_controller_files(path: str) -> ControllerFiles:
    """The names and sizes of the files at a path of the controller, without checksums. Raises AnvilError."""
    try:
        with open_files(path) as files:
            sizes = {name: size for name, size, _open in files}
        signature = compute_signature(path)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as exc:
        raise fail(
            "the weights to send cannot be read",
            where=f"{path} on the controller",
            why=str(exc),
            hint="check the permissions of the folder; an archive that was cut short must be brought again",
        ) from exc
    if not sizes:
        raise fail(
            "there is nothing to send", where=f"{path} on the controller", hint="the folder or archive is empty; check the path"
        )
    return ControllerFiles(signature, sizes, {})


def hash_files(path: str) -> dict[str, str]:
    """The sha256 of every file of a folder or archive."""
    sums = {}
    with open_files(path) as files:
        for name, _size, open_file in files:
            with open_file() as stream:
                sums[name] = hash_stream(stream)
    return sums


def cut_into_pieces(
    files: Iterable[LocalFile], begin: dict[str, int], length: int, folder: str
) -> Iterator[tuple[str, int, int, Path]]:
    """Name, offset, length and temporary file of each piece. begin: the files to cut, each with the offset to begin at.

    All pieces use the same temporary file: the next one overwrites it.
    """
    piece = Path(folder) / "piece"
    for name, size, open_file in files:
        at = begin.get(name)
        if at is None or at >= size > 0:
            continue
        with open_file() as stream:
            stream.seek(at)
            while True:
                left = length
                with piece.open("wb") as out:
                    while left:
                        chunk = stream.read(min(left, 4 << 20))
                        if not chunk:
                            break
                        out.write(chunk)
                        left -= len(chunk)
                yield name, at, length - left, piece
                at += length - left
                if at >= size or left == length:
                    break


def check_archive(path: str, sha256: str) -> None:
    """Raise AnvilError if the archive at a path does not have this checksum. An empty checksum accepts every archive."""
    found = hash_file(path) if sha256 else ""
    if found != sha256:
        raise fail(
            "the archive does not have the checksum that sha256 gives",
            where=f"{path} on the controller",
            why=f"sha256 of the file is {found}, expected {sha256}",
            hint="bring the right archive; nothing was sent",
        )
