"""Weights that the controller sends in pieces: how pieces are counted, stored and cut."""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
from pathlib import Path

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.weights.fetch_progress import describe_progress
from ansible_collections.anvil.serving.plugins.module_utils.weights.local_files import open_files
from ansible_collections.anvil.serving.plugins.module_utils.weights.uploads import (
    Piece,
    append_piece,
    collect_files,
    count_arrived,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.weights.upload import (
    cut_into_pieces,
    hash_files,
    list_controller_files,
)

CONTENT = bytes(range(256)) * 4
SUM = hashlib.sha256(CONTENT).hexdigest()


def piece(folder: Path, at: int, content: bytes) -> Piece:
    path = folder / "piece"
    path.write_bytes(content)
    return Piece("w", at, len(CONTENT), SUM, str(path))


def test_pieces_are_joined_and_only_a_complete_file_is_collected(tmp_path: Path) -> None:
    staging, files = str(tmp_path / "staging"), str(tmp_path / "files")
    append_piece(staging, staging, piece(tmp_path, 0, CONTENT[:600]))
    assert count_arrived(staging, "w", SUM) == 600 and count_arrived(staging, "w", "0" * 64) == 0
    with pytest.raises(AnvilError, match="did not arrive"):
        collect_files(staging, files, {"w": SUM})
    with pytest.raises(AnvilError, match="another run sends the same file"):
        append_piece(staging, staging, piece(tmp_path, 0, CONTENT[:600]))
    append_piece(staging, staging, piece(tmp_path, 600, CONTENT[600:]))
    assert count_arrived(staging, "w", SUM) == len(CONTENT)
    assert collect_files(staging, files, {"w": SUM}) == {"w": {"size": len(CONTENT), "sha256": SUM}}
    assert (tmp_path / "files" / "w").read_bytes() == CONTENT


def test_a_file_with_a_wrong_checksum_is_discarded(tmp_path: Path) -> None:
    staging = str(tmp_path / "staging")
    with pytest.raises(AnvilError, match="different checksum than the controller announced"):
        append_piece(staging, staging, piece(tmp_path, 0, CONTENT[::-1]))
    assert count_arrived(staging, "w", SUM) == 0


@pytest.mark.parametrize("form", ["folder", "tar.gz", "zip", "file"])
def test_files_and_archives_are_cut_into_pieces_that_add_up_to_the_content(tmp_path: Path, form: str) -> None:
    folder = tmp_path / "m"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "w").write_bytes(CONTENT)
    (folder / "empty").write_bytes(b"")
    (folder / "config.json").write_bytes(b"{}")
    source = folder
    if form == "tar.gz":
        source = tmp_path / "m.tar.gz"
        with tarfile.open(source, "w:gz") as tar:
            tar.add(folder, ".")
    elif form == "zip":
        source = tmp_path / "m.zip"
        with zipfile.ZipFile(source, "w") as box:
            for name in ("sub/w", "empty", "config.json"):
                box.write(folder / name, name)
    elif form == "file":
        source = folder / "sub" / "w"
    large = "w" if form == "file" else "sub/w"
    announced = list_controller_files(str(source))
    assert announced.sizes[large] == len(CONTENT) and hash_files(str(source))[large] == SUM

    begin = {name: 300 if name == large else 0 for name in announced.sizes if name != "config.json"}
    with open_files(str(source)) as files:
        pieces = [
            (name, at, count, path.read_bytes()) for name, at, count, path in cut_into_pieces(files, begin, 500, str(tmp_path))
        ]
    assert {name for name, *_rest in pieces} == set(begin)
    assert [(at, count) for name, at, count, _raw in pieces if name == large] == [(300, 500), (800, 224)]
    assert b"".join(raw for name, _at, _count, raw in pieces if name == large) == CONTENT[300:]


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    with pytest.raises(AnvilError, match="nothing to send"):
        list_controller_files(str(tmp_path / "nothing"))


@pytest.mark.parametrize(
    ("done", "need", "seconds", "told"),
    [
        (0, 100 << 20, 1.0, "0 B of 100.0 MiB"),
        (50 << 20, 100 << 20, 5.0, "50.0 MiB of 100.0 MiB, 10.0 MiB/s, 5 s left"),
        (1 << 30, 61 << 30, 10.0, "1.0 GiB of 61.0 GiB, 102.4 MiB/s, 10 min left"),
        (5 << 20, 0, 5.0, "5.0 MiB, 1.0 MiB/s"),
    ],
)
def test_progress_is_described_in_words(done: int, need: int, seconds: float, told: str) -> None:
    assert describe_progress(done, need, seconds) == told
