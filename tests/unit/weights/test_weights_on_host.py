"""Weights of serves on this host: complete and incomplete hub caches, and hostile files that a container may have put there."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import read_settings
from ansible_collections.anvil.serving.plugins.module_utils.core.findings import DOUBTFUL, UNKNOWN
from ansible_collections.anvil.serving.plugins.module_utils.weights.hub_cache import find_snapshot
from ansible_collections.anvil.serving.plugins.module_utils.weights.weights_on_host import (
    ServeWeights,
    judge_absence,
    read_weights,
)
from weightfiles import write_safetensors

COMMITS = ["9" * 40, "a" * 40]
CONFIG = {"architectures": ["Qwen3ForCausalLM"], "num_hidden_layers": 2, "num_attention_heads": 8, "hidden_size": 64}
INDEX = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}


def snapshot(cache: Path, repo: str = "org/name", commit: str = COMMITS[0], ref: str = "main", **files: Any) -> Path:
    home = cache / ("models--" + repo.replace("/", "--"))
    folder = home / "snapshots" / commit
    folder.mkdir(parents=True)
    if ref:
        (home / "refs" / ref).parent.mkdir(parents=True, exist_ok=True)
        (home / "refs" / ref).write_text(commit)
    for name, content in files.items():
        (folder / name.replace("_", ".", 1)).write_text(json.dumps(content))
    return folder


def read(root: Path, args: str = "", environment: dict[str, str] | None = None, model: str = "org/name") -> ServeWeights | None:
    mounts = [{"kind": "bind", "source": str(root), "target": "/root/.cache/huggingface"}]
    settings = read_settings("vllm", args.split(), environment or {})
    docker: Any = None  # a folder of the host needs no Docker Engine
    return read_weights(docker, {"model": model, "mounts": mounts}, settings)


@pytest.mark.parametrize("below", ["hub", ".", "huggingface/hub"])
def test_a_cache_is_found_below_its_mount(tmp_path: Path, below: str) -> None:
    write_safetensors(snapshot(tmp_path / below, config_json=CONFIG) / "model.safetensors")
    found = read(tmp_path)
    assert found is not None and found.facts is not None and found.findings == ()


@pytest.mark.parametrize(
    ("args", "environment", "below"),
    [
        ("--download-dir /root/.cache/huggingface/far/away", {}, "far/away"),
        ("", {"HF_HUB_CACHE": "/root/.cache/huggingface/x"}, "x"),
        ("", {"HF_HOME": "/root/.cache/huggingface/y"}, "y/hub"),
        ("--download-dir /elsewhere", {"HF_HOME": "/root/.cache/huggingface"}, "hub"),
    ],
)
def test_a_cache_is_found_where_the_engine_is_configured_to_look(
    tmp_path: Path, args: str, environment: dict[str, str], below: str
) -> None:
    write_safetensors(snapshot(tmp_path / below, config_json=CONFIG) / "model.safetensors")
    found = read(tmp_path, args, environment)
    assert found is not None and found.facts is not None


@pytest.mark.parametrize(
    ("revision", "commit"),
    [
        ("", COMMITS[0]),
        ("main", COMMITS[0]),
        ("v1", COMMITS[1]),
        (COMMITS[1], COMMITS[1]),
        ("refs/pr/1", COMMITS[1]),
        ("v2", None),
        ("b" * 40, None),
        ("../../refs/main", None),
        ("/etc/hostname", None),
    ],
)
def test_the_revision_chooses_the_snapshot(tmp_path: Path, revision: str, commit: str | None) -> None:
    first = snapshot(tmp_path)
    snapshot(tmp_path, commit=COMMITS[1], ref="v1")
    pull = tmp_path / "models--org--name" / "refs" / "refs" / "pr"
    pull.mkdir(parents=True)
    (pull / "1").write_text(COMMITS[1])
    expected = str(first.parent / commit) if commit else None
    assert find_snapshot(str(tmp_path), "org/name", revision) == expected


def test_without_refs_a_snapshot_is_chosen_only_if_it_is_the_only_one(tmp_path: Path) -> None:
    only = snapshot(tmp_path, ref="")
    assert find_snapshot(str(tmp_path), "org/name") == str(only)
    snapshot(tmp_path, commit=COMMITS[1], ref="")
    assert find_snapshot(str(tmp_path), "org/name") is None


INCOMPLETE = [
    ({"config_json": CONFIG, "tokenizer_config_json": {}}, "the weights"),
    ({"config_json": CONFIG, "model_safetensors.index.json": INDEX}, "model-00001-of-00002.safetensors"),
    ({"tokenizer_json": {}}, "the weights"),
    ({}, "the weights"),
]


@pytest.mark.parametrize(("files", "missing"), INCOMPLETE)
def test_an_incomplete_cache_is_a_note_since_the_engine_fetches_the_rest(
    tmp_path: Path, files: dict[str, Any], missing: str
) -> None:
    snapshot(tmp_path, **files)
    found = read(tmp_path)
    assert found is not None and found.problems == () and found.facts is None
    (finding,) = found.findings
    assert finding.verdict == UNKNOWN and f"missing: {missing}" in finding.problem.why


@pytest.mark.parametrize(("files", "missing"), INCOMPLETE)
def test_an_incomplete_cache_of_an_offline_serve_is_doubtful(tmp_path: Path, files: dict[str, Any], missing: str) -> None:
    snapshot(tmp_path, **files)
    found = read(tmp_path, environment={"HF_HUB_OFFLINE": "1"})
    assert found is not None and found.problems == ()
    (finding,) = found.findings
    assert finding.verdict == DOUBTFUL and missing in finding.problem.why and "hub_cache" in finding.problem.hint


def test_a_link_to_an_incomplete_blob_counts_as_missing(tmp_path: Path) -> None:
    folder = snapshot(tmp_path, config_json=CONFIG)
    (folder / "model.safetensors").symlink_to("../../blobs/abc")
    found = read(tmp_path)
    assert found is not None and found.findings[0].verdict == UNKNOWN


def test_weights_of_a_revision_that_is_not_in_the_cache_are_not_found(tmp_path: Path) -> None:
    write_safetensors(snapshot(tmp_path, config_json=CONFIG) / "model.safetensors")
    assert read(tmp_path, "--revision v9") is None
    assert read(tmp_path, "--revision=main") is not None


def test_an_offline_serve_without_its_repository_on_the_host_is_doubtful() -> None:
    offline = read_settings("vllm", [], {"TRANSFORMERS_OFFLINE": "yes"})
    assert [finding.verdict for finding in judge_absence("org/name", offline)] == [DOUBTFUL]
    assert judge_absence("/models/a", offline) == ()
    assert judge_absence("org/name", read_settings("vllm", [], {"HF_HUB_OFFLINE": "0"})) == ()


def plant_fifo(path: Path) -> None:
    os.mkfifo(path)


def plant_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def plant_link_out(path: Path) -> None:
    outside = path.parents[4] / "outside"
    outside.write_bytes(b"x" * 100)
    path.symlink_to(outside)


def plant_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("plant", [plant_fifo, plant_device, plant_link_out, plant_folder])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer_config.json"])
def test_hostile_files_in_a_cache_neither_block_nor_refuse_the_check(tmp_path: Path, name: str, plant: Any) -> None:
    root = tmp_path / "root"
    folder = snapshot(root, config_json=CONFIG)
    write_safetensors(folder / "model.safetensors")
    (folder / name).unlink(missing_ok=True)
    plant(folder / name)
    found = read(root)
    assert found is not None and found.problems == ()


def test_a_ref_that_is_a_link_or_a_fifo_is_not_read(tmp_path: Path) -> None:
    folder = snapshot(tmp_path / "root", ref="")
    snapshot(tmp_path / "root", commit=COMMITS[1], ref="")
    refs = folder.parents[1] / "refs"
    refs.mkdir()
    (tmp_path / "outside").write_text(COMMITS[0])
    (refs / "main").symlink_to(tmp_path / "outside")
    assert find_snapshot(str(tmp_path / "root"), "org/name") is None
    (refs / "main").unlink()
    os.mkfifo(refs / "main")
    assert find_snapshot(str(tmp_path / "root"), "org/name") is None


def test_a_gguf_that_links_out_of_its_mount_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").write_bytes(b"secret")
    (tmp_path / "root" / "m.gguf").symlink_to(tmp_path / "outside")
    found = read(tmp_path / "root", model="/root/.cache/huggingface/m.gguf")
    assert found is not None and found.problems == () and [finding.verdict for finding in found.findings] == [UNKNOWN]
    assert "secret" not in found.findings[0].as_text()
