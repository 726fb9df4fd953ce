"""The compatibility gate before serves are started: all findings at once, and nothing touched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Mount
from bed import Bed
from serving import FAST_GPU, HEAVY_GPU, Field, actions


def test_what_does_not_fit_is_refused_with_every_finding_and_nothing_is_touched(field: Field, clean_bed: Bed) -> None:
    field.edit("heavy", engine="vllm")  # gguf is for llama.cpp
    field.edit("fast", vram_mib=300)  # the estimate is more than that
    refused = field.run(models_allowed=[{"repo": "org/other", "revision": "0" * 40}])
    assert (
        refused["failed"]
        and not clean_bed.docker("ps", "--all", "--quiet")
        and not Path(field.root, "anvil-serves/compose.yaml").exists()
    )
    for finding in (
        "vllm does not serve gguf weights",
        "does not fit its share of the card",
        "the origin of the weights is unknown",
    ):
        assert finding in refused["msg"], refused["msg"]
    assert "anvil network" not in clean_bed.docker("network", "ls")
    assert field.run(check=True)["msg"].count("serve heavy") == 1


def test_warned_of_or_not_looked_at(field: Field) -> None:
    field.edit("fast", vram_mib=300)
    before = len(_warnings(field.run(compatibility="off", check=True)))
    warned = field.run(compatibility="warn")
    assert actions(warned)["fast"][0] == "create" and any("does not fit its share" in note for note in _warnings(warned)[before:])


def test_what_runs_already_is_not_judged_again(field: Field) -> None:
    assert not field.run()["failed"]
    again = field.run(models_allowed=[])
    assert not again["failed"] and not again["changed"]


def test_shares_of_a_card_that_do_not_add_up(field: Field, clean_bed: Bed) -> None:
    """The chat model runs; the tool model beside it would take more than is left of the card."""
    share = {"args": ("-c", "1024", "-np", "1", "-t", "1")}
    field.edit("heavy", **share)
    assert not field.run(serves=["heavy"])["failed"]
    field.edit("fast", engine="sglang", gpu_uuids=(HEAVY_GPU,), args=("--mem-fraction-static", "0.2"))
    field.edit("heavy", engine="sglang", args=("--mem-fraction-static", "0.9"))
    refused = field.run(serves=["fast"])
    assert refused["failed"] and "heavy 0.90 + fast 0.20 = 1.10" in refused["msg"]
    assert set(field.bed.started()) == {"bed-heavy"} and FAST_GPU not in refused["msg"]


def test_an_engine_is_judged_by_the_cuda_of_the_hosts_driver(field: Field, tmp_path: Path) -> None:
    """The bed's driver runs CUDA 13.0."""
    for cuda in ("12.8", "13.0"):
        folder = tmp_path / "engines" / f"sm120_trt-llm-1.0.0_cuda{cuda}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"version": "1.0.0", "pretrained_config": {"dtype": "bfloat16"}}))
        (folder / "rank0.engine").write_bytes(b"engine")
        mount = Mount("bind", str(tmp_path / "engines"), "/engines", True)
        field.edit("heavy", engine="trtllm", model=f"/engines/{folder.name}", mounts=(mount,))
        answer = field.run(check=True, serves=["heavy"])
        assert ("is for CUDA 12.8; the driver of the host runs 13.0" in answer.get("msg", "")) is (cuda == "12.8"), answer
        assert not [note for note in _warnings(answer) if "CUDA of the host is not known" in note]


def _warnings(answer: dict[str, Any]) -> list[str]:
    return [str(warning) for warning in answer.get("warnings", [])]
