"""Files on the host are written whole or not at all; a lock serialises runs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError


def test_a_file_has_its_mode_and_no_temporary_file_is_left(tmp_path: Path) -> None:
    path = tmp_path / "env" / "heavy.env"
    files.write_file(str(path), "A='1'\n", 0o600)
    assert path.read_text() == "A='1'\n" and path.stat().st_mode & 0o777 == 0o600
    assert os.listdir(path.parent) == ["heavy.env"]
    assert not files.differs(str(path), "A='1'\n", 0o600)


@pytest.mark.parametrize(("content", "mode"), [("other", 0o600), ("same", 0o644)])
def test_a_file_differs_if_its_content_or_its_mode_differs(tmp_path: Path, content: str, mode: int) -> None:
    path = str(tmp_path / "f")
    files.write_file(path, "same", 0o600)
    assert files.differs(path, content, mode)


def test_a_full_disk_keeps_the_old_file_and_the_error_names_the_remedy(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.fail("this test mounts a tiny file system: run it as root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", str(disk)], check=True)
    try:
        path = disk / "compose.yaml"
        files.write_file(str(path), "old", 0o644)
        with pytest.raises(AnvilError, match="free space on that file system"):
            files.write_file(str(path), "x" * 100_000, 0o644)
        assert path.read_text() == "old" and os.listdir(disk) == ["compose.yaml"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_file_in_place_of_a_folder_is_a_plain_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AnvilError, match="cannot write"):
        files.write_file(str(tmp_path / "file" / "below"), "x", 0o644)


def test_a_second_holder_waits_for_the_lock(tmp_path: Path) -> None:
    order = []

    def second() -> None:
        with files.hold_lock(str(tmp_path), 10):
            order.append("second")

    with files.hold_lock(str(tmp_path), 1):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_the_lock_of_a_killed_holder_is_free(tmp_path: Path) -> None:
    path = str(tmp_path / ".lock")
    take = f"import fcntl, os, time; f = os.open({path!r}, os.O_CREAT | os.O_RDWR); fcntl.flock(f, 2)"
    holder = take + "; print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", holder], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        with pytest.raises(AnvilError, match="another run is converging this project"), files.hold_lock(str(tmp_path), 0.3):
            pass
        process.kill()
    with files.hold_lock(str(tmp_path), 0.3):
        pass


def test_a_lock_is_not_taken_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").touch()
    (tmp_path / ".lock").symlink_to("victim")
    with pytest.raises(AnvilError, match="cannot lock"), files.hold_lock(str(tmp_path), 1):
        pass
