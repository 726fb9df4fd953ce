# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The writing program run as it is, on a folder; and what is read out of a volume."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.docker.volume import PROGRAM, Entry, Place, Snapshot, hash_revision
from hypothesis import given
from hypothesis import strategies as st

PLACE = Place("cfg", "/etc/anvil", "router", ("config.toml", "profile.json"))
FILES = st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\n/\0"), min_size=1), st.binary())


def talk(folder: Path, stream: bytes, idle: float = 10) -> tuple[int, list[dict[str, Any]]]:
    """Feed the program a stream of bytes; its exit code and its answers."""
    argv = [sys.executable, "-I", "-S", "-c", PROGRAM, str(folder), str(idle), ".anvil/tmp"]
    done = subprocess.run(argv, input=stream, capture_output=True, check=False, timeout=30)
    assert done.stderr == b"", done.stderr.decode()
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def framed(**request: Any) -> bytes:
    body = json.dumps(request).encode()
    return b"%d\n" % len(body) + body


def announced(raw: bytes, /, **lies: Any) -> dict[str, Any]:
    item = {"content": base64.b64encode(raw).decode(), "length": len(raw)}
    return {**item, "sha256": hashlib.sha256(raw).hexdigest(), **lies}


def everything(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_dir() or path.is_symlink():
            content = f"-> {path.readlink()}" if path.is_symlink() else path.read_text()
            found[str(path.relative_to(folder))] = content
    return found


def test_files_folders_and_links_are_written(tmp_path: Path) -> None:
    code, said = talk(
        tmp_path,
        framed(act="put_folder", path=".anvil/revisions/a", files={"x": announced(b"1"), "y": announced(b"2")})
        + framed(act="put_link", path=".anvil/live/r", target="../revisions/a")
        + framed(act="put_link", path="x", target=".anvil/live/r/x")
        + framed(act="put_file", path=".anvil/journal", file=announced(b"{}")),
    )
    assert code == 0 and all("now" in answer for answer in said)
    assert everything(tmp_path) == {
        ".anvil/journal": "{}",
        ".anvil/live/r": "-> ../revisions/a",
        ".anvil/revisions/a/x": "1",
        ".anvil/revisions/a/y": "2",
        "x": "-> .anvil/live/r/x",
    }
    assert (tmp_path / "x").read_text() == "1"


@pytest.mark.parametrize("cut", [1, 5, 30, 60])
def test_a_stream_that_is_cut_writes_nothing(tmp_path: Path, cut: int) -> None:
    (tmp_path / "config.toml").write_text("old")
    stream = framed(act="put_file", path="config.toml", file=announced(b"new content"))
    code, said = talk(tmp_path, stream[:-cut])
    assert (code, said) == (0, [])
    assert everything(tmp_path) == {"config.toml": "old"}


@pytest.mark.parametrize(
    "item",
    [
        announced(b"whole", content=base64.b64encode(b"who").decode()),
        announced(b"whole", length=4),
        announced(b"whole", sha256="0" * 64),
        announced(b"whole", content="!"),
        {},
    ],
)
def test_content_that_is_short_or_altered_is_refused(tmp_path: Path, item: dict[str, Any]) -> None:
    (tmp_path / "config.toml").write_text("old")
    _code, said = talk(
        tmp_path,
        framed(act="put_file", path="config.toml", file=item)
        + framed(act="put_folder", path="r", files={"good": announced(b"1"), "bad": item}),
    )
    assert len(said) == 2 and all("error" in answer for answer in said)
    assert everything(tmp_path) == {"config.toml": "old"}


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../up", "a/../../b", "a//b", "./a", "a/.", "nul\0"])
def test_paths_outside_the_volume_are_refused(tmp_path: Path, path: str) -> None:
    inside = tmp_path / "volume"
    inside.mkdir()
    _code, said = talk(
        inside,
        framed(act="put_file", path=path, file=announced(b"x"))
        + framed(act="put_link", path=path, target="x")
        + framed(act="put_folder", path="r", files={path: announced(b"x")})
        + framed(act="remove", path=path),
    )
    assert [list(answer) for answer in said] == [["error"]] * 4
    assert everything(tmp_path) == {}


def test_an_existing_revision_is_left_alone_and_an_altered_one_replaced(tmp_path: Path) -> None:
    write = framed(act="put_folder", path=".anvil/revisions/a", files={"x": announced(b"1")})
    talk(tmp_path, write)
    folder = tmp_path / ".anvil/revisions/a"
    inode = folder.stat().st_ino
    talk(tmp_path, write)
    assert folder.stat().st_ino == inode
    (folder / "x").write_text("altered")
    (folder / "more").write_text("more")
    talk(tmp_path, write)
    assert everything(tmp_path) == {".anvil/revisions/a/x": "1"}


def test_sweep_removes_what_an_interrupted_write_left(tmp_path: Path) -> None:
    left = tmp_path / ".anvil/tmp/revision"
    left.mkdir(parents=True)
    (left / "x").write_text("half")
    talk(tmp_path, framed(act="sweep"))
    assert everything(tmp_path) == {} and not left.exists()


def test_removing_takes_files_links_and_folders_and_absence_is_fine(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").write_text("1")
    os.symlink("folder", tmp_path / "link")
    _code, said = talk(tmp_path, b"".join(framed(act="remove", path=path) for path in ("link", "folder", "absent")))
    assert all("now" in answer for answer in said)
    assert everything(tmp_path) == {}


def test_a_full_disk_is_told_and_the_old_file_stays(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("old")
    limited = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
    limited += "import signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    argv = [sys.executable, "-I", "-S", "-c", limited + PROGRAM, str(tmp_path), "10", ".anvil/tmp"]
    stream = framed(act="put_file", path="config.toml", file=announced(b"x" * 9000))
    done = subprocess.run(argv, input=stream, capture_output=True, check=False, timeout=30)
    assert "File too large" in json.loads(done.stdout)["error"]
    assert (tmp_path / "config.toml").read_text() == "old"


def test_a_silent_operator_loses_the_lock(tmp_path: Path) -> None:
    argv = [sys.executable, "-I", "-S", "-c", PROGRAM, str(tmp_path), "0.2", ".anvil/tmp"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as program:
        assert program.wait(10) == 3


# ------------------------------------------------------------------------------------------------------------- hashing


@given(FILES, FILES)
def test_revisions_have_one_name_if_and_only_if_their_files_are_the_same(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    assert (hash_revision(one) == hash_revision(other)) == (one == other)


@given(FILES)
def test_the_order_of_files_does_not_matter(files: dict[str, bytes]) -> None:
    assert hash_revision(files) == hash_revision(dict(reversed(list(files.items()))))


def test_bytes_cannot_move_between_files() -> None:
    assert hash_revision({"a": b"b\n1\nx"}) != hash_revision({"a": b"", "b": b"x"})


# ------------------------------------------------------------------------------------------------------------ snapshots


def snapshot(stock: dict[str, Entry], inner: dict[str, Entry]) -> Snapshot:
    return Snapshot(PLACE, stock, inner, {})


def ours(files: dict[str, bytes], name: str | None = None) -> Snapshot:
    """A volume laid out by us, with ``files`` live."""
    revision = name or hash_revision(files)
    inner = {".anvil/live/router": Entry("link", target="../revisions/" + revision)}
    inner[".anvil/revisions/" + revision] = Entry("folder")
    inner.update({f".anvil/revisions/{revision}/{path}": Entry("file", content) for path, content in files.items()})
    stock = {path: Entry("link", target=".anvil/live/router/" + path) for path in PLACE.names}
    return snapshot(stock, inner)


def test_what_is_observed_through_our_links_is_the_live_revision() -> None:
    seen = ours({"config.toml": b"c"})
    assert seen.observed() == {"config.toml": b"c"} and seen.is_ours and seen.live == hash_revision(seen.observed())


def test_altered_revisions_are_not_ours() -> None:
    assert not ours({"config.toml": b"c"}, "a" * 64).is_ours


def test_a_plain_file_over_a_link_is_observed_and_not_ours() -> None:
    seen = ours({"config.toml": b"c", "profile.json": b"p"})
    mixed = snapshot({**seen.stock, "profile.json": Entry("file", b"peer")}, dict(seen.inner))
    assert mixed.observed() == {"config.toml": b"c", "profile.json": b"peer"} and not mixed.is_ours


@pytest.mark.parametrize("target", ["../revisions/zzz", "/etc", "../revisions/../" + "a" * 64, "a" * 64])
def test_a_pointer_to_anything_else_names_no_revision(target: str) -> None:
    assert snapshot({}, {".anvil/live/router": Entry("link", target=target)}).live is None


@pytest.mark.parametrize("bad", ["", "a/b", "..", "-x", "$(id)", "a\nb", ";rm -rf /", "x" * 300, "a\udcff"])
def test_names_that_are_no_names_are_refused(bad: str) -> None:
    with pytest.raises(AnvilError):
        Place(bad, "/etc/anvil", "router", ())
    with pytest.raises(AnvilError):
        Place("cfg", "/etc/anvil", bad, ())


@pytest.mark.parametrize("bad", ["", "/", "etc", "/etc/../x", "/etc/", "//etc", "/etc/anvil:rw"])
def test_mounts_that_are_no_folders_are_refused(bad: str) -> None:
    with pytest.raises(AnvilError):
        Place("cfg", bad, "router", ())
