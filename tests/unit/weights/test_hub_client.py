"""The hub client: as a separate process, against a small hub on loopback, and function by function."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.program_source import read_source
from ansible_collections.anvil.serving.plugins.module_utils.weights.programs import hub_client
from ansible_collections.anvil.serving.plugins.module_utils.weights.programs.hub_client import (
    AlteredFileError,
    HashedFile,
    call_with_retries,
    carry_out,
    check_file,
    classify_error,
)
from hub import Hub, git_blob

pytestmark = pytest.mark.slow

LARGE = bytes(range(256)) * 64
FILES = {"config.json": b"{}", "sub/model.safetensors": LARGE}


def named(name: str, *bases: type[BaseException], **values: Any) -> BaseException:
    """An error whose class has that name, as a library raises it."""
    error = type(name, bases or (Exception,), {})("told")
    vars(error).update(values)
    return error


def caused_by(error: BaseException, cause: BaseException) -> BaseException:
    error.__cause__ = cause
    return error


ENTRY = type(named("EntryNotFoundError"))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (named("GatedRepoError"), "gated"),
        (named("RemoteEntryNotFoundError", ENTRY), "entry"),
        (named("HTTPError", response=SimpleNamespace(status_code=403)), "token"),
        (named("HTTPError", response=SimpleNamespace(status_code=500)), "hub"),
        (OSError(28, "No space left on device"), "disk"),
        (OSError("Consistency check failed: file should be of size 2"), "cut"),
        (named("ConnectTimeout"), "offline"),
        (
            caused_by(named("LocalEntryNotFoundError", type(named("EntryNotFoundError"))), named("RevisionNotFoundError")),
            "revision",
        ),
        (named("LocalEntryNotFoundError", type(named("EntryNotFoundError"))), "offline"),
        (ValueError("x"), "hub"),
    ],
)
def test_each_error_has_a_kind(error: BaseException, kind: str) -> None:
    assert classify_error(error) == kind


def test_a_request_to_an_overloaded_hub_is_retried_and_a_refusal_is_final(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr(hub_client.time, "sleep", waits.append)
    answers = [
        named("HTTPError", response=SimpleNamespace(status_code=429, headers={"Retry-After": "7"})),
        named("HTTPError", response=SimpleNamespace(status_code=503, headers={})),
        "fine",
    ]

    def call(word: str) -> str:
        answer = answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return word + str(answer)

    assert call_with_retries(call, "is ") == "is fine" and waits == [7.0, 2.0]
    answers.append(named("HTTPError", response=SimpleNamespace(status_code=404, headers={})))
    with pytest.raises(Exception, match="told"):
        call_with_retries(call, "")
    answers += [named("HTTPError", response=SimpleNamespace(status_code=500, headers={})) for _attempt in range(6)]
    with pytest.raises(Exception, match="told"):
        call_with_retries(call, "")
    assert answers == []


def test_a_file_is_hashed_while_it_is_written_including_its_earlier_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HashedFile, "STRIDE", 1000)
    path = tmp_path / "part"
    path.write_bytes(LARGE[:700])
    file = HashedFile(str(path))
    assert file.tell() == 700
    for start in range(700, len(LARGE), 300):
        file.write(LARGE[start : start + 300])
    assert file.sha256.hexdigest() == hashlib.sha256(LARGE).hexdigest()
    file.truncate(10)
    assert file.sha256.hexdigest() == hashlib.sha256(LARGE[:10]).hexdigest()
    file.close()
    assert path.read_bytes() == LARGE[:10]


@pytest.mark.parametrize(
    ("announced", "why"),
    [
        ({"size": 2, "sha256": None, "blob": git_blob(b"{}")}, ""),
        ({"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest(), "blob": None}, ""),
        ({"size": None, "sha256": None, "blob": None}, ""),
        ({"size": 3, "sha256": None, "blob": None}, "size is 2, the hub announces 3"),
        ({"size": 2, "sha256": "0" * 64, "blob": None}, "sha256 is"),
        ({"size": 2, "sha256": None, "blob": "0" * 40}, "git blob is"),
    ],
)
def test_a_file_that_differs_from_its_announcement_is_removed(tmp_path: Path, announced: dict[str, Any], why: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"{}")
    if why:
        with pytest.raises(AlteredFileError, match=why):
            check_file("config.json", str(path), announced)
        assert not path.exists()
    else:
        found = check_file("config.json", str(path), announced)
        assert found == {"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}


@pytest.fixture
def hub() -> Iterator[Hub]:
    made = Hub()
    yield made
    made.close()


def request(hub: Hub, folder: Path, act: str, **more: Any) -> dict[str, Any]:
    where = {"folder": str(folder / "files"), "parts": str(folder / "parts"), "home": str(folder / "home")}
    plain = {"act": act, "repo": "org/name", "revision": "main", "endpoint": hub.endpoint, "token": "", "workers": 2}
    return {**plain, **where, **more}


def test_a_repository_is_listed_and_its_files_are_fetched(hub: Hub, tmp_path: Path) -> None:
    commit = hub.add("org/name", FILES)
    listed = carry_out(request(hub, tmp_path, "list"))
    assert listed["commit"] == commit
    assert listed["files"]["config.json"] == {"size": 2, "sha256": None, "blob": git_blob(b"{}")}
    sha256 = hashlib.sha256(LARGE).hexdigest()
    assert listed["files"]["sub/model.safetensors"] == {"size": len(LARGE), "sha256": sha256, "blob": None}

    answer = carry_out(request(hub, tmp_path, "fetch", revision=commit, files=listed["files"]))
    assert answer["failures"] == [] and answer["files"]["sub/model.safetensors"] == {"size": len(LARGE), "sha256": sha256}
    assert {name: (tmp_path / "files" / name).read_bytes() for name in FILES} == FILES
    hub.requests.clear()
    again = carry_out(request(hub, tmp_path, "fetch", revision=commit, files=listed["files"]))
    assert again == answer and hub.requests == []  # complete files are only verified


def test_a_transfer_resumes_at_the_end_of_a_partial_file(hub: Hub, tmp_path: Path) -> None:
    commit = hub.add("org/name", FILES)
    sha256 = hashlib.sha256(LARGE).hexdigest()
    name = "sub/model.safetensors"
    (tmp_path / "parts").mkdir()
    key = hashlib.sha256(f"{name}@{sha256}".encode()).hexdigest()
    (tmp_path / "parts" / key).write_bytes(LARGE[:5000])
    files = {name: {"size": len(LARGE), "sha256": sha256, "blob": None}}
    assert carry_out(request(hub, tmp_path, "fetch", revision=commit, files=files))["failures"] == []
    assert hub.fetched(name) == ["bytes=5000-"]


def test_every_failed_file_is_reported_with_the_kind_of_its_error(hub: Hub, tmp_path: Path) -> None:
    commit = hub.add("org/name", FILES)
    hub.faults.altered.add("sub/model.safetensors")
    files = {
        "absent.json": {"size": 1, "sha256": None, "blob": None},
        "sub/model.safetensors": {"size": len(LARGE), "sha256": hashlib.sha256(LARGE).hexdigest(), "blob": None},
    }
    failures = carry_out(request(hub, tmp_path, "fetch", revision=commit, files=files))["failures"]
    assert sorted((one["file"], one["kind"]) for one in failures) == [
        ("absent.json", "entry"),
        ("sub/model.safetensors", "checksum"),
    ]
    assert carry_out(request(hub, tmp_path, "list", repo="org/absent"))["error"]["kind"] == "missing"
    assert carry_out(request(hub, tmp_path, "list", revision="v9"))["error"]["kind"] == "revision"


def test_only_the_given_ranges_are_requested_and_appended(hub: Hub, tmp_path: Path) -> None:
    hub.add("org/name", FILES)
    name = "sub/model.safetensors"
    assert carry_out(request(hub, tmp_path, "ranges", spans={name: [0, 100], "config.json": [0, 2]})) == {}
    assert carry_out(request(hub, tmp_path, "ranges", spans={name: [100, 250]})) == {}
    assert (tmp_path / "files" / name).read_bytes() == LARGE[:250]
    assert (tmp_path / "files" / "config.json").read_bytes() == b"{}"
    assert hub.fetched(name) == ["bytes=0-99", "bytes=100-249"]


def test_the_client_runs_from_its_source_alone(hub: Hub, tmp_path: Path) -> None:
    commit = hub.add("org/name", FILES)
    argv = [sys.executable, "-I", "-c", read_source(hub_client)]
    body = json.dumps(request(hub, tmp_path, "list"))
    ran = subprocess.run(argv, input=body, capture_output=True, text=True, check=True, timeout=60)
    assert json.loads(ran.stdout.splitlines()[-1])["commit"] == commit
    without = subprocess.run(
        [*argv[:1], "-I", "-S", *argv[2:]], input=body, capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(without.stdout)["error"]["kind"] == "client"
