"""Whether what is still to come fits on a disk, and what stops a transfer, a pull or a build where it does not."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.disk_space import count_free_bytes, find_shortage
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.docker import engine_disk
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.engine_disk import EngineDisk
from ansible_collections.anvil.serving.plugins.module_utils.images.docker_cli import run_program
from ansible_collections.anvil.serving.plugins.module_utils.weights import free_space, local_files, uploads
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import make_location
from ansible_collections.anvil.serving.plugins.module_utils.weights.source import Source

MIB, GIB = 1 << 20, 1 << 30


@pytest.mark.parametrize(
    ("left", "free", "reserve", "short"),
    [
        (10 * GIB, 12 * GIB, GIB, 0),
        (10 * GIB, 11 * GIB, GIB, 0),
        (10 * GIB, 10 * GIB, GIB, GIB),  # others took what was free when it began
        (10 * GIB, 10 * GIB, 0, 0),
        (10 * GIB, 10 * GIB - 50 * MIB, 0, 0),  # a file system needs some room of its own
        (0, GIB, GIB, 0),
        (0, 0, GIB, GIB),
        (0, 0, 0, 0),  # the last byte has come
        (None, 65 * MIB, 0, 0),
        (None, 10 * MIB, 0, 54 * MIB),
        (None, 500 * MIB, GIB, 524 * MIB),
    ],
)
def test_what_is_missing(left: int | None, free: int, reserve: int, short: int) -> None:
    assert find_shortage(left, free, reserve) == short


def test_free_bytes_of_a_folder_that_does_not_exist_yet(tmp_path: Path) -> None:
    assert count_free_bytes(str(tmp_path / "a" / "b")) > 0


def test_a_running_transfer_is_stopped_with_its_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_space, "count_free_bytes", lambda _folder: 5 * GIB)
    free_space.refuse_full_disk("/models", 10 * GIB, 6 * GIB, GIB)
    with pytest.raises(AnvilError) as caught:
        free_space.refuse_full_disk("/models", 10 * GIB, 2 * GIB, GIB)
    (problem,) = caught.value.problems
    assert problem.what == "the transfer was stopped, because the disk is about to be full"
    assert problem.why == (
        "2.0 GiB are here, 8.0 GiB are still to come, 5.0 GiB are free, 1.0 GiB are to stay free: 4.0 GiB short"
    )
    assert "what was fetched is kept, and the next run resumes it" in problem.hint


def test_a_copy_that_is_stopped_leaves_no_half_file_and_is_asked_while_one_file_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "from").mkdir()
    (tmp_path / "from" / "big").write_bytes(bytes(12 * MIB))
    location = make_location(str(tmp_path / "to"), "mine")
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(local_files.time, "monotonic", lambda: float(next(clock)))
    sizes = []

    def tick() -> None:
        sizes.append(os.path.getsize(os.path.join(location.files, "big")))
        if len(sizes) == 2:
            free_space.refuse_full_disk(str(tmp_path), 0, 0, 1 << 60)

    with pytest.raises(AnvilError, match="about to be full"):
        local_files.copy_files(location, Source(kind="copy", path=str(tmp_path / "from")), tick)
    assert sizes[1] < 12 * MIB and not os.path.exists(os.path.join(location.files, "big"))


def test_a_piece_that_does_not_fit_is_refused_before_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_space, "count_free_bytes", lambda _folder: GIB)
    piece = uploads.Piece("w", 2 * GIB, 9 * GIB, "0" * 64, str(tmp_path / "piece"))
    with pytest.raises(AnvilError, match=r"7\.0 GiB are still to come"):
        uploads.append_piece(str(tmp_path / "lock"), str(tmp_path / "staging"), piece, 0)
    assert not (tmp_path / "staging").exists()


def test_the_disk_of_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = {"DockerRootDir": str(tmp_path)}
    disk = EngineDisk("unix:///run/docker.sock", info)
    monkeypatch.setattr(engine_disk, "count_free_bytes", lambda _folder: 300 * MIB)
    assert disk.describe_shortage() == ""
    monkeypatch.setattr(engine_disk, "count_free_bytes", lambda _folder: 255 * MIB)
    assert f"255 MiB are free in {tmp_path}, and 256 MiB are to stay free" in disk.describe_shortage()
    monkeypatch.setattr(engine_disk, "CONTAINERD", str(tmp_path / "containerd"))
    (tmp_path / "containerd").mkdir()
    snapshotter = {**info, "DriverStatus": [["driver-type", "io.containerd.snapshotter.v1"]]}
    assert EngineDisk("unix:///run/docker.sock", snapshotter).folders == [str(tmp_path), str(tmp_path / "containerd")]
    for elsewhere in (EngineDisk("tcp://other:2376", info), EngineDisk("unix:///run/docker.sock", {"DockerRootDir": "/no"})):
        assert elsewhere.folders == [] and elsewhere.describe_shortage() == ""


@pytest.mark.slow
def test_a_program_is_stopped_with_the_reason_and_the_end_of_its_log() -> None:
    began = time.monotonic()
    with pytest.raises(AnvilError) as caught:
        run_program(["sh", "-c", "echo step 7; exec sleep 60"], 50, find_obstacle=lambda: "no space left for it: 3 MiB are free")
    (problem,) = caught.value.problems
    assert time.monotonic() - began < 10 and problem.what == "command was stopped"
    assert problem.why == "no space left for it: 3 MiB are free" and problem.log == ("step 7",) and "prune.yml" in problem.hint
    assert run_program([sys.executable, "-c", "print(1)"], 50, find_obstacle=lambda: "not asked in the first second")[1] == "1\n"
    with pytest.raises(AnvilError, match="command did not end in 1 s"):
        run_program(["sleep", "60"], 1)


def test_a_pull_is_stopped_and_its_stream_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = []

    def events() -> Iterator[dict[str, Any]]:
        try:
            while True:
                yield {"id": "a", "status": "Downloading", "progressDetail": {"current": 5}}
        finally:
            closed.append(True)

    docker = DockerEngine("unix:///nowhere/docker.sock")
    monkeypatch.setattr(docker, "_call_sdk", lambda *_words, **_more: events())
    with pytest.raises(AnvilError, match="refused to pull image i:1") as caught:
        docker.pull_image("i:1", lambda: "no space left for it: 3 MiB are free")
    assert caught.value.problems[0].why == "no space left for it: 3 MiB are free" and closed == [True]
