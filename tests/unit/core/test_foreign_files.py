"""Files that another user can write: only regular files are read, only as far as asked, and never out of their folder."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core import foreign_files
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_files import open_file, read_bytes, walk_folder


def plant(folder: Path) -> dict[str, Path]:
    """One file of every kind that must not be read."""
    os.mkfifo(folder / "fifo")
    (folder / "folder").mkdir()
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(folder / "socket"))
    listening.close()
    (folder / "device").symlink_to("/dev/zero")
    (folder / "terminal").symlink_to("/dev/tty")
    (folder / "circle").symlink_to("circle")
    (folder / "dangling").symlink_to("nowhere")
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("fifo", "it is a FIFO"),
        ("folder", "it is a folder"),
        ("socket", "it is a socket"),
        ("device", "it is a character device"),
        ("terminal", "it is a character device"),
        ("circle", "Too many levels of symbolic links"),
        ("dangling", "No such file"),
    ],
)
def test_what_is_not_a_regular_file_is_refused_at_once(tmp_path: Path, name: str, why: str) -> None:
    path = plant(tmp_path)[name]
    with pytest.raises(AnvilError, match=why) as caught:
        read_bytes(str(path), 1000)
    assert caught.value.problems[0].hint


def test_a_link_is_followed_inside_the_folder_only(tmp_path: Path) -> None:
    cache, secret = tmp_path / "cache", tmp_path / "secret"
    (cache / "blobs").mkdir(parents=True)
    (cache / "blobs" / "one").write_bytes(b"content")
    secret.write_bytes(b"secret")
    (cache / "good").symlink_to("blobs/one")
    (cache / "bad").symlink_to("../secret")
    (cache / "out").symlink_to(tmp_path)
    assert read_bytes(str(cache / "good"), 100, str(cache)) == b"content"
    for path in ("bad", "out/secret"):
        with pytest.raises(AnvilError, match=r"a link to .*/secret, outside"):
            read_bytes(str(cache / path), 100, str(cache))
    assert read_bytes(str(cache / "bad"), 100) == b"secret"
    assert read_bytes(str(cache / "good"), 100, "/") == b"content"


def test_no_more_than_the_limit_is_read(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_bytes(str(path), 5) == b"12345"
    with pytest.raises(AnvilError, match="it has 5 bytes, and at most 4 are read"):
        read_bytes(str(path), 4)


def test_a_file_of_proc_has_size_zero_and_gives_nothing() -> None:
    assert read_bytes("/proc/self/status", 100) == b""


def test_an_opened_file_is_never_left_open(tmp_path: Path) -> None:
    plant(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for path in tmp_path.iterdir():
        with pytest.raises(AnvilError):
            open_file(str(path))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_walk_lists_regular_files_and_ends(tmp_path: Path) -> None:
    plant(tmp_path)
    (tmp_path / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / ".hidden").mkdir()
    for folder in (".", "a", "a/b", "a/b/c", ".hidden"):
        (tmp_path / folder / "file").touch()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    found = {os.path.relpath(folder, tmp_path): names for folder, names in walk_folder(str(tmp_path), 2)}
    assert found == {".": ("file",), "a": ("file",), "a/b": ("file",), "folder": ()}


def test_a_walk_refuses_a_folder_with_too_many_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_files, "ENTRY_LIMIT", 3)
    for number in range(4):
        (tmp_path / str(number)).touch()
    with pytest.raises(AnvilError, match="more than 3 entries"):
        list(walk_folder(str(tmp_path), 2))


def test_a_walk_of_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AnvilError, match="No such file"):
        list(walk_folder(str(tmp_path / "none"), 2))
