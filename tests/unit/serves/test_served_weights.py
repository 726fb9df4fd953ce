"""Weights that were exchanged on disk while a serve runs, by the files' sizes, times and samples."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.serves.served_weights import (
    RECORD,
    _list_weights,
    _read_rows,
    find_exchanged,
    read_record,
)

LATER = 4_000_000_000.0


def seen(state: str = "running", started: str = "2001-01-01T00:00:00Z") -> Any:
    return SimpleNamespace(id="c1", state=state, started_at=started)


def exchange(path: Path, content: bytes) -> None:
    new = path.with_suffix(".new")
    new.write_bytes(content)
    new.rename(path)


EVENTS: dict[str, tuple[Callable[[Path], object], bool]] = {
    "nothing": (lambda path: None, False),
    "touched": (lambda path: os.utime(path, (5, 5)), False),
    "moved away and back": (lambda path: (path.rename(path.with_suffix(".x")), path.with_suffix(".x").rename(path)), False),
    "the same bytes in a new file": (lambda path: exchange(path, path.read_bytes()), False),
    "other bytes of the same length": (lambda path: exchange(path, b"b" * 100), True),
    "another length": (lambda path: exchange(path, b"a" * 101), True),
    "overwritten in place": (lambda path: path.write_bytes(b"c" * 100), True),
    "gone": (lambda path: path.unlink(), False),
    "a folder in its place": (lambda path: (path.unlink(), path.mkdir()), True),
}


@pytest.mark.parametrize("event", EVENTS)
def test_which_events_are_an_exchange(tmp_path: Path, event: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"a" * 100)
    record = {"c1": _read_rows(str(path), LATER)}
    do, exchanged = EVENTS[event]
    do(path)
    assert bool(find_exchanged(record, seen())) is exchanged
    # A process that started since has loaded the new file; a stopped one holds none; without a record nothing is known.
    assert not find_exchanged(record, seen(started="2090-01-01T00:00:00Z"))
    assert not find_exchanged(record, seen("exited")) and not find_exchanged({}, seen())


def test_a_file_that_changed_after_the_start_is_not_recorded(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"a")
    assert _read_rows(str(path), 1.0) == {} and list(_read_rows(str(path), LATER)) == [str(path)]


def test_the_files_of_a_model(tmp_path: Path) -> None:
    names = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf", "n-00001-of-00002.gguf", "a.safetensors", "config.json"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    assert [Path(one).name for one in _list_weights(str(tmp_path / names[0]))] == names[:2]
    assert [Path(one).name for one in _list_weights(str(tmp_path / "a.safetensors"))] == ["a.safetensors"]
    assert sorted(Path(one).name for one in _list_weights(str(tmp_path))) == sorted(names[:4])


@pytest.mark.parametrize("text", ["{", "[]", '{"c1": []}'])
def test_a_broken_record_is_an_empty_one(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    assert read_record(str(tmp_path)) == {}
