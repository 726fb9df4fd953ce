"""anvil_model completes a hub cache that an engine left incomplete; the engines' client library then finds all files."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub import Hub
from pulling import Puller

FILES = {"config.json": b'{"a": 1}', "model.safetensors": bytes(range(256)) * 100, "sub/tokenizer.json": b"{}"}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    server = Hub()
    yield server
    server.close()


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    folder.mkdir()
    return folder


@pytest.fixture
def puller(hub: Hub, cache: Path) -> Puller:
    return Puller(hub, cache)


def read_offline(cache: Path, revision: str) -> dict[str, bytes]:
    """Read the snapshot that the client library finds without a network, as an engine does."""
    program = (
        "import sys; from huggingface_hub import snapshot_download; "
        "print(snapshot_download('org/name', revision=sys.argv[2], cache_dir=sys.argv[1], local_files_only=True))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(cache), revision], capture_output=True, text=True, check=True)
    snapshot = Path(done.stdout.strip())
    return {str(path.relative_to(snapshot)): path.read_bytes() for path in snapshot.rglob("*") if path.is_file()}


def leave_incomplete(cache: Path, commit: str) -> None:
    """Leave a cache like an engine that was stopped during the download: the config, and half a blob."""
    home = cache / "models--org--name"
    for folder in ("blobs", "refs", f"snapshots/{commit}"):
        (home / folder).mkdir(parents=True)
    content = FILES["config.json"]
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    (home / "blobs" / blob).write_bytes(content)
    (home / "snapshots" / commit / "config.json").symlink_to(f"../../blobs/{blob}")
    (home / "blobs" / "abc.incomplete").write_bytes(b"half")
    (home / "refs" / "main").write_text(commit)


def test_an_incomplete_cache_is_completed_once(puller: Puller, hub: Hub, cache: Path) -> None:
    commit = hub.add("org/name", FILES)
    leave_incomplete(cache, commit)
    before = sorted(cache.rglob("*"))
    told = puller.run(check=True, layout="hub_cache")
    assert (told["changed"], told["reasons"]) == (True, ["incomplete"])
    assert told["fetch"] == {"files": ["model.safetensors", "sub/tokenizer.json"], "bytes": 25602}
    assert sorted(cache.rglob("*")) == before

    done = puller.run(layout="hub_cache")
    assert (done["changed"], done["fetch"], done["commit"]) == (True, told["fetch"], commit), done
    assert done["target"] == str(cache / "models--org--name" / "snapshots" / commit)
    assert read_offline(cache, "main") == FILES and read_offline(cache, commit) == FILES

    hub.requests.clear()
    assert not puller.run(layout="hub_cache")["changed"] and not puller.run(layout="hub_cache", check=True)["changed"]
    assert puller.run(layout="hub_cache", state="verified", verify="full")["commit"] == commit
    assert hub.requests == []


def test_a_damaged_blob_is_fetched_again_and_nothing_else(puller: Puller, hub: Hub, cache: Path) -> None:
    commit = hub.add("org/name", FILES)
    assert puller.run(layout="hub_cache")["reasons"] == ["missing"]
    damaged = (cache / "models--org--name" / "snapshots" / commit / "model.safetensors").resolve()
    damaged.write_bytes(b"short")
    assert puller.run(layout="hub_cache", state="verified")["failed"]
    mended = puller.run(layout="hub_cache")
    assert (mended["reasons"], mended["fetch"]["files"]) == (["damaged"], ["model.safetensors"])
    assert read_offline(cache, "main") == FILES


def test_a_new_commit_is_fetched_on_request_and_the_old_snapshot_stays(puller: Puller, hub: Hub, cache: Path) -> None:
    old = hub.add("org/name", FILES)
    puller.run(layout="hub_cache")
    new = hub.add("org/name", {**FILES, "config.json": b"new"})
    assert not puller.run(layout="hub_cache")["changed"]
    followed = puller.run(layout="hub_cache", refresh=True)
    assert followed["commit"] == new and followed["fetch"]["files"] == ["config.json"]
    assert read_offline(cache, old) == FILES and read_offline(cache, "main")["config.json"] == b"new"


def test_links_in_place_of_the_folders_of_a_cache_are_never_followed(
    puller: Puller, hub: Hub, cache: Path, tmp_path: Path
) -> None:
    hub.add("org/name", FILES)
    outside = tmp_path / "outside"
    outside.mkdir()
    (cache / "models--org--name").mkdir()
    (cache / "models--org--name" / "blobs").symlink_to(outside)
    refused = puller.run(layout="hub_cache")
    assert "must be a folder" in refused["msg"] and list(outside.iterdir()) == []


def test_only_a_completed_repository_is_removed(puller: Puller, hub: Hub, cache: Path) -> None:
    commit = hub.add("org/name", FILES)
    leave_incomplete(cache, commit)
    assert "was not completed by anvil_model" in puller.run(layout="hub_cache", state="absent")["msg"]
    puller.run(layout="hub_cache")
    assert puller.run(layout="hub_cache", state="absent")["changed"]
    assert not (cache / "models--org--name").exists()
    assert not puller.run(layout="hub_cache", state="absent")["changed"]


def test_a_cache_needs_a_repository(puller: Puller, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    refused = puller.run(layout="hub_cache", repo=None, copy_from=str(tmp_path / "m"), name="x")
    assert "repositories of the hub only" in refused["msg"]
