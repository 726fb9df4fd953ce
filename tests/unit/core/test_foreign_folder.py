"""A folder that others write: paths below it never lead out of it, also while somebody swaps folders for links."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core import foreign_folder
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_folder import ForeignError, ForeignFolder, open_folder
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_removal import remove
from hostiletrees import limit_seconds, open_to_others, plant_deep, swap_in_a_loop

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[ForeignFolder]:
    (tmp_path / "own").mkdir()
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "file").write_text("secret")
    with open_folder(str(tmp_path / "own")) as opened:
        yield opened


def test_a_link_in_any_part_of_a_path_is_refused(folder: ForeignFolder) -> None:
    os.symlink("../victim", folder.shown("out"))
    os.symlink("../victim/file", folder.shown("file"))
    for path in ("out/file", "file"):
        with pytest.raises(ForeignError, match="link"):
            folder.open(path)
    with pytest.raises(ForeignError, match="it is a link, and must be a folder"):
        folder.write("out/file", b"x", 0o644)
    for path in ("../victim/file", "/etc/passwd", "a/../../victim/file", "a\0b"):
        with pytest.raises(ForeignError, match="leads out"):
            folder.open(path)
    folder.write("file", b"new", 0o600)  # the link itself is replaced
    assert Path(folder.shown("file")).read_text() == "new" and not os.path.islink(folder.shown("file"))
    assert Path(folder.shown("../victim/file")).read_text() == "secret"


def test_links_are_followed_inside_only_where_that_is_asked_for(folder: ForeignFolder) -> None:
    folder.write("blobs/one", b"content", 0o644)
    folder.link("snapshots/a/sub/file", "../../../blobs/one")
    folder.link("snapshots/b", "a/sub")
    for path in ("snapshots/a/sub/file", "snapshots/b/file"):
        with folder.open(path, links=True) as stream:
            assert stream.read() == b"content"
    for target, why in (
        ("../../../victim/file", "leads out of"),
        ("/etc/passwd", "out of"),
        ("loop", "in a circle"),
        ("..", "a link to a folder"),
        ("../snapshots", "it is a folder"),
    ):
        folder.link("snapshots/loop", target)
        with pytest.raises(ForeignError, match=why):
            folder.open("snapshots/loop", links=True)


def test_a_link_on_the_way_to_the_folder_counts_only_if_root_or_this_user_made_it(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "link").symlink_to("own")
    open_folder(str(tmp_path / "link")).close()
    if os.geteuid() == 0:
        os.lchown(tmp_path / "link", 65534, 65534)
        with pytest.raises(ForeignError, match="user 65534 has made a link to own there"):
            open_folder(str(tmp_path / "link"))


def test_a_tree_of_any_depth_is_removed(folder: ForeignFolder) -> None:
    os.mkdir(folder.shown("deep"))
    plant_deep(Path(folder.shown("deep")), 3000)
    handles = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ForeignError, match="levels deep"):
        list(folder.walk())
    with limit_seconds():
        remove(folder, "deep")
    assert os.listdir(folder.handle) == [] and len(os.listdir("/proc/self/fd")) == handles


def test_a_walk_ends_at_its_limit(folder: ForeignFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign_folder, "ENTRY_LIMIT", 3)
    for name in "abcd":
        folder.write(name, b"", 0o644)
    with pytest.raises(ForeignError, match="more than 3 entries"):
        list(folder.walk())


def test_a_file_that_is_swapped_between_its_check_and_the_hard_link_is_refused(folder: ForeignFolder, tmp_path: Path) -> None:
    folder.write("file", b"checked", 0o644)
    with folder.open("file") as stream:
        os.rename(tmp_path / "victim" / "file", folder.shown("file"))
        with pytest.raises(ForeignError, match="replaced while it was read"):
            folder.give_link("file", str(tmp_path / "target"), stream)
    assert not (tmp_path / "target").exists()


def test_nothing_is_followed_while_another_user_swaps_links(tmp_path: Path) -> None:
    open_to_others(tmp_path)
    folder, victim = tmp_path / "own", tmp_path / "victim"
    folder.mkdir()
    (victim / "b").mkdir(parents=True)
    for name in ("f", "b/f"):
        (victim / name).write_text("secret")
    before = sorted((str(path), path.lstat().st_mode, path.lstat().st_mtime_ns) for path in (victim, *victim.rglob("*")))
    tried = refused = 0
    (folder / "a" / "b").mkdir(parents=True)
    for name in ("f", "a/b/f"):
        (folder / name).write_text("own")
    links = {"a": victim, "a/b": victim, "f": victim / "f"}
    with swap_in_a_loop(folder, links), open_folder(str(folder)) as opened:
        deadline = time.monotonic() + 3
        while time.monotonic() < deadline:
            tried += 1
            try:
                for path in ("a/b/f", "f"):
                    with opened.open(path, links=tried % 2 == 0) as stream:
                        assert stream.read() == b"own"
                opened.write("a/new", b"x", 0o777)
                opened.write("a/b/new", b"x", 0o777)
                remove(opened, "a/new")
                list(opened.walk())
                if tried % 50 == 0:
                    remove(opened, "a/b")
            except (ForeignError, OSError):
                refused += 1
    after = sorted((str(path), path.lstat().st_mode, path.lstat().st_mtime_ns) for path in (victim, *victim.rglob("*")))
    assert after == before and tried > 100
    assert refused  # the swaps were seen
