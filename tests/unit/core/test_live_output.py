"""The files from which the controller reads lines for the operator while a module runs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.live_output import DEAD_SECONDS, create_output_file


def test_the_next_run_removes_only_the_files_of_killed_runs(tmp_path: Path) -> None:
    dead, young, other = (tmp_path / name for name in (f".progress-{'a' * 32}", f".progress-{'b' * 32}", ".progress-of-mine"))
    for path in (dead, young, other):
        path.touch()
    for path in (dead, other):
        os.utime(path, (time.time() - DEAD_SECONDS - 60,) * 2)
    new = tmp_path / f".progress-{'c' * 32}"
    with create_output_file(str(new)) as lines:
        lines.write("heavy: ready\n")
    assert sorted(tmp_path.iterdir()) == sorted([young, other, new]) and new.read_text() == "heavy: ready\n"


def test_an_existing_file_or_link_is_refused_and_not_written(tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / f".progress-{'a' * 32}"
    victim.write_text("mine")
    link.symlink_to(victim)
    for path in (link, victim):
        with pytest.raises(FileExistsError):
            create_output_file(str(path))
    assert victim.read_text() == "mine"
