"""Records of models: where they lie, who is believed, and how a host of an earlier release gets them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.weights import model_record, model_store
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import find_bound_folder, make_location
from ansible_collections.anvil.serving.plugins.module_utils.weights.manifest import find_manifest
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_record import Shelf, find_anchor, find_shelf
from ansible_collections.anvil.serving.plugins.module_utils.weights.source import FetchOptions, Source
from hostiletrees import FILES, own_by_others

NAME = "org/name"
FULL = FetchOptions(reserve_mib=0, full=True)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(model_record, "SYSTEM_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(model_record, "_own_state", lambda: str(tmp_path / "state"))
    for name, content in FILES.items():
        (tmp_path / "brought" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "brought" / name).write_bytes(content)
    return tmp_path / "srv" / "models"


def present(models: Path, check: bool = False) -> dict[str, Any]:
    source = Source("copy", path=str(models.parents[1] / "brought"))
    return model_store.ensure_model(make_location(str(models), NAME), source, FetchOptions(reserve_mib=0), check)


def forget(models: Path) -> Path:
    """Make the host one of an earlier release, which kept the manifest beside the weights only. Returns that manifest."""
    shutil.rmtree(models.parent / ".anvil-serving")
    return models / NAME / ".anvil-model.json"


def test_records_lie_beside_what_containers_mount() -> None:
    volume = "/var/lib/docker/volumes/models"
    assert find_shelf(volume + "/_data") == Shelf(volume + "/anvil-serving/data", volume + "/anvil-serving/data")
    assert find_shelf(volume + "/_data/hub/x").records == volume + "/anvil-serving/data+hub+x"
    assert find_anchor(volume + "/_data/hub") == (volume + "/_data", "hub")
    assert find_anchor("/srv/models/hub") == ("/srv/models/hub", "")


def test_a_volume_that_is_bound_to_a_folder_is_that_folder() -> None:
    assert find_bound_folder({"Options": {"type": "none", "o": "bind", "device": "/srv/models/"}}) == "/srv/models"
    assert find_bound_folder({"Options": {"type": "nfs", "o": "addr=1.2.3.4", "device": ":/x"}}) == ""
    assert find_bound_folder({"Options": None}) == find_bound_folder({}) == ""


def test_a_model_of_an_earlier_release_is_hashed_once_and_not_fetched(models: Path) -> None:
    present(models)
    forget(models)
    inode = (models / NAME / "model.safetensors").stat().st_ino
    for check, changed in ((True, True), (False, True), (False, False), (True, False)):
        told = present(models, check)
        assert (told["changed"], told["reasons"]) == (changed, ["unrecorded"] if changed else [])
        assert told["fetch"] == {"files": [], "bytes": 0}
    assert (models / NAME / "model.safetensors").stat().st_ino == inode
    assert model_store.verify_model(make_location(str(models), NAME), FULL)["commit"]


def test_a_model_of_an_earlier_release_is_verified_and_removed_without_a_record(models: Path) -> None:
    present(models)
    forget(models)
    assert model_store.verify_model(make_location(str(models), NAME), FetchOptions())["commit"]
    assert not (models.parent / ".anvil-serving").exists()  # verifying writes nothing
    assert model_store.remove_model(make_location(str(models), NAME), False)["changed"] and not (models / NAME).exists()


def test_an_altered_file_of_an_earlier_release_is_found_although_its_time_and_size_are_right(models: Path) -> None:
    present(models)
    forget(models)
    path = models / NAME / "model.safetensors"
    seen = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    told = present(models)
    assert told["reasons"] == ["damaged"] and path.read_bytes() == FILES["model.safetensors"]
    assert not present(models)["changed"]


def test_a_manifest_that_appears_later_is_not_believed(models: Path) -> None:
    present(models)
    other = models / "org" / "planted"
    shutil.copytree(models / NAME, other)
    with pytest.raises(AnvilError, match="not made by anvil_model"):
        model_store.verify_model(make_location(str(models), "org/planted"), FULL)
    with pytest.raises(AnvilError, match="not made by anvil_model"):
        model_store.remove_model(make_location(str(models), "org/planted"), False)
    assert find_manifest(str(other / "config.json")) is None and find_manifest(str(models / NAME / "config.json"))


def test_a_manifest_that_is_rewritten_with_the_weights_is_not_believed(models: Path) -> None:
    present(models)
    path, beside = models / NAME / "model.safetensors", models / NAME / ".anvil-model.json"
    manifest = json.loads(beside.read_text())
    path.write_bytes(b"x" * 7000)
    manifest["files"]["model.safetensors"].update(mtime_ns=path.stat().st_mtime_ns, sha256="0" * 64)
    beside.write_text(json.dumps(manifest))
    with pytest.raises(AnvilError, match="its content changed"):
        model_store.verify_model(make_location(str(models), NAME), FetchOptions())
    assert present(models)["reasons"] == ["damaged"] and path.read_bytes() == FILES["model.safetensors"]


def test_a_folder_of_records_that_others_can_change_is_refused(models: Path) -> None:
    present(models)
    folder = models.parent / ".anvil-serving"
    (models / NAME / "config.json").unlink()
    folder.chmod(0o777)
    with pytest.raises(AnvilError, match=r"others may write to it \(mode 777\)"):
        present(models)
    folder.rename(models.parent / "aside")
    folder.symlink_to("aside")
    with pytest.raises(AnvilError, match="it is a link or a file"):
        present(models)


@pytest.fixture
def mounted(models: Path) -> Iterator[Path]:
    models.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "none", str(models)], check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount")
    yield models
    subprocess.run(["umount", str(models)], check=True)


def test_a_mount_point_has_its_staging_folder_inside_and_its_records_elsewhere(mounted: Path) -> None:
    victim = mounted.parents[1] / "victim"
    victim.mkdir()
    (victim / "kept").touch()
    (mounted / ".anvil-staging").mkdir()
    (mounted / ".anvil-staging" / "org+name").symlink_to(victim)
    own_by_others(mounted)
    assert present(mounted)["changed"] and not present(mounted)["changed"]
    shelf = find_shelf(str(mounted))
    assert shelf.records.startswith(str(mounted.parents[1] / "state")) and not shelf.beside
    for path in (mounted / ".anvil-staging", mounted / ".anvil-staging" / "org+name"):
        assert path.stat().st_mode & 0o7777 == 0o700 and path.stat().st_uid == os.geteuid() and not path.is_symlink()
    assert (victim / "kept").exists()
    (mounted / NAME / "config.json").unlink()
    assert present(mounted)["reasons"] == ["damaged"]


def test_a_folder_beside_which_others_can_write_keeps_nothing_there(models: Path) -> None:
    models.mkdir(parents=True)
    models.parent.chmod(0o777)
    assert present(models)["changed"] and not (models.parent / ".anvil-serving").exists()
    assert not present(models)["changed"]
