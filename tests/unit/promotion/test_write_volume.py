# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The program that writes into a volume: run on a folder as in a side container, and its functions one by one."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.program_source import read_source
from ansible_collections.anvil.serving.plugins.module_utils.promotion.programs import write_volume

PROGRAM = read_source(write_volume)


def talk(folder: Path, stream: bytes, idle: float = 10) -> tuple[int, list[dict[str, Any]]]:
    """Send the program a stream of bytes; return its exit code and its answers."""
    argv = [sys.executable, "-I", "-S", "-c", PROGRAM, str(folder), str(idle), ".anvil/tmp"]
    done = subprocess.run(argv, input=stream, capture_output=True, check=False, timeout=30)
    assert done.stderr == b"", done.stderr.decode()
    return done.returncode, [json.loads(line) for line in done.stdout.splitlines()]


def framed(**request: Any) -> bytes:
    body = json.dumps(request).encode()
    return b"%d\n" % len(body) + body


def content_of(raw: bytes, /, **altered: Any) -> dict[str, Any]:
    item = {"content": base64.b64encode(raw).decode(), "length": len(raw)}
    return {**item, "sha256": hashlib.sha256(raw).hexdigest(), **altered}


def everything(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        if not path.is_dir() or path.is_symlink():
            content = f"-> {path.readlink()}" if path.is_symlink() else path.read_text()
            found[str(path.relative_to(folder))] = content
    return found


def test_files_folders_and_links_are_written(tmp_path: Path) -> None:
    code, answers = talk(
        tmp_path,
        framed(action="put_folder", path=".anvil/revisions/a", files={"x": content_of(b"1"), "y": content_of(b"2")})
        + framed(action="put_link", path=".anvil/live/r", target="../revisions/a")
        + framed(action="put_link", path="x", target=".anvil/live/r/x")
        + framed(action="put_file", path=".anvil/journal", file=content_of(b"{}")),
    )
    assert code == 0 and all("now" in answer for answer in answers)
    assert everything(tmp_path) == {
        ".anvil/journal": "{}",
        ".anvil/live/r": "-> ../revisions/a",
        ".anvil/revisions/a/x": "1",
        ".anvil/revisions/a/y": "2",
        "x": "-> .anvil/live/r/x",
    }
    assert (tmp_path / "x").read_text() == "1"


@pytest.mark.parametrize("cut", [1, 5, 30, 60])
def test_an_incomplete_request_writes_nothing(tmp_path: Path, cut: int) -> None:
    (tmp_path / "config.toml").write_text("old")
    stream = framed(action="put_file", path="config.toml", file=content_of(b"new content"))
    code, answers = talk(tmp_path, stream[:-cut])
    assert (code, answers) == (0, [])
    assert everything(tmp_path) == {"config.toml": "old"}


@pytest.mark.parametrize(
    "item",
    [
        content_of(b"whole", content=base64.b64encode(b"who").decode()),
        content_of(b"whole", length=4),
        content_of(b"whole", sha256="0" * 64),
        content_of(b"whole", content="!"),
        {},
    ],
)
def test_content_that_differs_from_its_description_is_refused(tmp_path: Path, item: dict[str, Any]) -> None:
    (tmp_path / "config.toml").write_text("old")
    _code, answers = talk(
        tmp_path,
        framed(action="put_file", path="config.toml", file=item)
        + framed(action="put_folder", path="r", files={"good": content_of(b"1"), "bad": item}),
    )
    assert len(answers) == 2 and all("error" in answer for answer in answers)
    assert everything(tmp_path) == {"config.toml": "old"}


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../up", "a/../../b", "a//b", "./a", "a/.", "nul\0"])
def test_paths_outside_the_volume_are_refused(tmp_path: Path, path: str) -> None:
    inside = tmp_path / "volume"
    inside.mkdir()
    _code, answers = talk(
        inside,
        framed(action="put_file", path=path, file=content_of(b"x"))
        + framed(action="put_link", path=path, target="x")
        + framed(action="put_folder", path="r", files={path: content_of(b"x")})
        + framed(action="remove", path=path),
    )
    assert [list(answer) for answer in answers] == [["error"]] * 4
    assert everything(tmp_path) == {}


def test_an_existing_revision_is_kept_and_an_altered_one_replaced(tmp_path: Path) -> None:
    write = framed(action="put_folder", path=".anvil/revisions/a", files={"x": content_of(b"1")})
    talk(tmp_path, write)
    folder = tmp_path / ".anvil/revisions/a"
    inode = folder.stat().st_ino
    talk(tmp_path, write)
    assert folder.stat().st_ino == inode
    (folder / "x").write_text("altered")
    (folder / "more").write_text("more")
    talk(tmp_path, write)
    assert everything(tmp_path) == {".anvil/revisions/a/x": "1"}


def test_sweep_removes_the_files_of_an_interrupted_write(tmp_path: Path) -> None:
    left = tmp_path / ".anvil/tmp/revision"
    left.mkdir(parents=True)
    (left / "x").write_text("half")
    talk(tmp_path, framed(action="sweep"))
    assert everything(tmp_path) == {} and not left.exists()


def test_remove_deletes_links_and_folders_and_accepts_a_missing_path(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x").write_text("1")
    os.symlink("folder", tmp_path / "link")
    _code, answers = talk(tmp_path, b"".join(framed(action="remove", path=path) for path in ("link", "folder", "absent")))
    assert all("now" in answer for answer in answers)
    assert everything(tmp_path) == {}


def test_a_full_disk_is_reported_and_the_old_file_stays(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("old")
    argv = [sys.executable, "-I", "-S", "-c", PROGRAM, str(tmp_path), "10", ".anvil/tmp"]
    stream = framed(action="put_file", path="config.toml", file=content_of(b"x" * 9000))
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        resource.prlimit(program.pid, resource.RLIMIT_FSIZE, (4096, 4096))
        output, _errors = program.communicate(stream, timeout=30)
    assert "File too large" in json.loads(output)["error"]
    assert (tmp_path / "config.toml").read_text() == "old"


def test_the_program_ends_after_the_idle_limit(tmp_path: Path) -> None:
    argv = [sys.executable, "-I", "-S", "-c", PROGRAM, str(tmp_path), "0.2", ".anvil/tmp"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE) as program:
        assert program.wait(10) == 3


# ------------------------------------------------------------------------------------------------- functions one by one


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../up", "a/../../b", "a//b", "./a", "a/.", "nul\0"])
def test_a_path_that_leaves_the_volume_is_an_error(path: str) -> None:
    with pytest.raises(ValueError, match="not a path inside the volume"):
        write_volume.check_path(path)


def test_content_is_decoded_only_if_it_fits_its_description() -> None:
    assert write_volume.decode_content("x", content_of(b"whole")) == b"whole"
    with pytest.raises(ValueError, match="x arrived altered: 5 bytes, 4 were announced"):
        write_volume.decode_content("x", content_of(b"whole", length=4))


def test_a_folder_is_compared_by_names_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "x").write_bytes(b"1")
    assert write_volume.holds_exactly(str(tmp_path), {"below/x": b"1"})
    for other in ({"below/x": b"2"}, {"below/x": b"1", "y": b""}, {}):
        assert not write_volume.holds_exactly(str(tmp_path), other)


def test_a_new_file_never_replaces_another(tmp_path: Path) -> None:
    write_volume.write_new_file(str(tmp_path / "x"), b"1")
    os.symlink("y", tmp_path / "link")
    for name in ("x", "link"):
        with pytest.raises(FileExistsError):
            write_volume.write_new_file(str(tmp_path / name), b"2")
    assert everything(tmp_path) == {"x": "1", "link": "-> y"}


def test_deleting_a_symlink_leaves_its_target(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.symlink("folder", tmp_path / "link")
    for name in ("link", "absent"):
        write_volume.delete(str(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_the_scratch_path_is_emptied_and_one_level_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "a+b").write_text("left by an interrupted write")
    assert write_volume.VolumeFiles("tmp").scratch_path("a/b") == "tmp/a+b"
    assert everything(tmp_path) == {}


def test_a_known_request_returns_the_time_and_an_unknown_one_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    volume = write_volume.VolumeFiles("tmp")
    assert volume.carry_out({"action": "read_clock"})["now"] > 1e9
    with pytest.raises(ValueError, match="unknown action 'format'"):
        volume.carry_out({"action": "format"})
