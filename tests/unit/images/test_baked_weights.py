"""Weights in an image obey anvil_models_allowed, by the manifest beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.images.baked_weights import check_baked_weights

GOOD, OTHER = Origin("org/good", "a" * 40), Origin("org/other", "b" * 40)


def put_model(folder: Path, origin: Origin, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("weights")
    listed = {name: {"size": 7, "mtime_ns": 0, "sha256": "0" * 64} for name in names}
    source = {"kind": "hub", "repo": origin.repo} if origin.repo else {"kind": "url", "sha256": origin.sha256}
    (folder / ".anvil-model.json").write_text(json.dumps({"source": source, "commit": origin.revision, "files": listed}))


def refusals(folder: Path, *allowed: Origin) -> list[str]:
    try:
        check_baked_weights(str(folder), allowed)
    except AnvilError as error:
        return [problem.as_text() for problem in error.problems]
    return []


def test_without_a_list_every_model_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("weights")
    check_baked_weights(str(tmp_path), None)
    assert refusals(tmp_path, GOOD)


@pytest.mark.parametrize("origin", [GOOD, Origin(sha256="c" * 64)])
def test_a_model_of_the_list_is_allowed(tmp_path: Path, origin: Origin) -> None:
    put_model(tmp_path / "w", origin, "model.gguf", "original/model.gguf")
    assert refusals(tmp_path / "w", origin) == refusals(tmp_path, origin) == []
    assert "model is not allowed" in refusals(tmp_path, OTHER)[0]


def test_every_model_of_a_folder_is_judged_and_told_once(tmp_path: Path) -> None:
    for name, origin in (("a", GOOD), ("b", OTHER), ("c", OTHER)):
        put_model(tmp_path / name, origin, "x.safetensors", "y.safetensors")
    told = refusals(tmp_path, GOOD)
    assert len(told) == 1 and "org/other" in told[0]


def test_a_file_that_no_manifest_lists_and_one_of_another_size_are_refused(tmp_path: Path) -> None:
    put_model(tmp_path, GOOD, "model.gguf", "config.json")
    (tmp_path / "extra.bin").write_text("smuggled")
    (tmp_path / "config.json").write_text("replaced by something longer")
    (told,) = refusals(tmp_path, GOOD)
    assert "config.json, extra.bin" in told and "no known origin" in told


def test_a_hub_cache_is_judged_by_its_paths(tmp_path: Path) -> None:
    home = tmp_path / "models--org--good"
    put_model(home / "snapshots" / GOOD.revision, GOOD, "config.json")
    for name in (f"snapshots/{GOOD.revision}/.anvil-model.json", "blobs/abc", "refs/main"):
        (home / name).parent.mkdir(exist_ok=True)
        (home / name).write_text("")
    assert refusals(tmp_path, GOOD) == [] == refusals(home, GOOD)
    assert "org/good" in refusals(tmp_path, OTHER)[0]
