"""The compatibility gate runs before serves are started: it reports all findings at once and changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Mount
from bed import Bed
from serving import FAST_GPU, HEAVY_GPU, Field, actions

WHOLE = ("-c", "1024", "-np", "1", "-t", "1", "-ngl", "99")  # all layers are on the card, so the gate checks its memory
OTHER = [{"repo": "org/other", "revision": "0" * 40}]


def test_an_incompatible_serve_is_refused_with_every_finding_before_anything_changes(field: Field, clean_bed: Bed) -> None:
    field.edit("heavy", engine="vllm")  # vllm reads gguf weights of some architectures only
    field.edit("fast", vram_mib=300, args=WHOLE)  # the estimate is higher
    refused = field.run(compatibility="strict", models_allowed=OTHER)
    assert (
        refused["failed"]
        and not clean_bed.docker("ps", "--all", "--quiet")
        and not Path(field.root, "anvil-serves/compose.yaml").exists()
    )
    for finding in (
        "vllm serves gguf weights of some architectures only",
        "does not fit its share of the card",
        "the origin of the weights is unknown",
    ):
        assert finding in refused["msg"], refused["msg"]
    assert "anvil network" not in clean_bed.docker("network", "ls")
    certain = field.run(models_allowed=OTHER)  # by default a doubtful finding is only a warning
    assert certain["failed"] and "does not fit its share" not in certain["msg"] and "origin of the weights" in certain["msg"]
    assert field.run(check=True, compatibility="strict")["msg"].count("serve heavy") == 1


def test_doubtful_findings_are_warnings_and_with_warn_impossible_ones_too(field: Field) -> None:
    """Ansible prints the same warning once per process, so each run uses another value of vram_mib."""
    field.edit("fast", vram_mib=301, args=WHOLE)
    assert not _find_findings(field.run(compatibility="off", check=True), "301")
    both = field.run(compatibility="warn", check=True, models_allowed=OTHER)
    assert not both["failed"] and len(_find_findings(both, "301")) == 1
    assert any("impossible: serve fast: the origin of the weights" in note for note in _warnings(both))
    field.edit("fast", vram_mib=302)
    warned = field.run()
    (doubt,) = _find_findings(warned, "302")
    assert actions(warned)["fast"][0] == "create" and "doubtful: serve fast" in doubt and "weights:" in doubt


def test_a_running_serve_is_not_checked_again(field: Field) -> None:
    assert not field.run()["failed"]
    again = field.run(models_allowed=[])
    assert not again["failed"] and not again["changed"]


def test_shares_of_a_card_above_its_memory_are_refused(field: Field, clean_bed: Bed) -> None:
    """The chat model runs; the tool model beside it would need more memory than the card has left."""
    share = {"args": ("-c", "1024", "-np", "1", "-t", "1")}
    field.edit("heavy", **share)
    assert not field.run(serves=["heavy"])["failed"]
    field.edit("fast", engine="sglang", gpu_uuids=(HEAVY_GPU,), args=("--mem-fraction-static", "0.2"))
    field.edit("heavy", engine="sglang", args=("--mem-fraction-static", "0.9"))
    refused = field.run(serves=["fast"], compatibility="strict")
    assert refused["failed"] and "heavy 0.90 + fast 0.20 = 1.10" in refused["msg"]
    assert set(field.bed.started()) == {"bed-heavy"} and FAST_GPU not in refused["msg"]


def test_an_engine_is_checked_against_the_cuda_version_of_the_hosts_driver(field: Field, tmp_path: Path) -> None:
    """The bed's driver runs CUDA 13.0."""
    for cuda in ("12.8", "13.0"):
        folder = tmp_path / "engines" / f"sm120_trt-llm-1.0.0_cuda{cuda}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"version": "1.0.0", "pretrained_config": {"dtype": "bfloat16"}}))
        (folder / "rank0.engine").write_bytes(b"engine")
        mount = Mount("bind", str(tmp_path / "engines"), "/engines", True)
        field.edit("heavy", engine="trtllm", model=f"/engines/{folder.name}", mounts=(mount,))
        answer = field.run(check=True, serves=["heavy"], compatibility="strict")
        assert ("is for CUDA 12.8; the driver of the host runs 13.0" in answer.get("msg", "")) is (cuda == "12.8"), answer
        assert not [note for note in _warnings(answer) if "CUDA of the host is not known" in note]


def _find_findings(answer: dict[str, Any], claim: str) -> list[str]:
    return [note for note in _warnings(answer) if f"may use {claim} MiB" in note]


def _warnings(answer: dict[str, Any]) -> list[str]:
    return [str(warning) for warning in answer.get("warnings", [])]
