"""Faults of GPUs: the driver is lost between the check and the start, and two cards have the same name."""

from __future__ import annotations

from pathlib import Path

import pytest
from bed import FAKOLI_DARK, Gpu
from serving import FAST_GPU, HEAVY_GPU, Field, actions

TWINS = tuple(Gpu(uuid, "NVIDIA GeForce RTX 3090", 24576, compute_cap="8.6") for uuid in (HEAVY_GPU, FAST_GPU))


def test_a_driver_lost_between_check_and_start_is_reported_and_the_next_run_converges(
    field: Field, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = tmp_path / "as-it-was.csv"
    seen.write_text(field.bed.gpu_table.read_text())
    monkeypatch.setenv("FAKE_GPUS", str(seen))  # only the check reads this table; the engine's hook reads that of the bed
    field.bed.pull_gpu(HEAVY_GPU)
    lost = field.run()
    assert lost["failed"] and "serve heavy" in lost["msg"] and HEAVY_GPU in lost["msg"], lost["msg"]
    assert "unknown device" in lost["msg"]
    assert lost["serves"]["fast"]["ready"]
    kept = field.bed.started()["bed-fast"]
    field.bed.write_gpus(FAKOLI_DARK)
    seen.write_text(field.bed.gpu_table.read_text())
    again = field.run()
    assert not again["failed"] and field.bed.started()["bed-fast"] == kept
    assert actions(field.run()) == {"heavy": ("none", []), "fast": ("none", [])}


def test_two_cards_with_the_same_name_are_distinguished_by_their_uuids(field: Field) -> None:
    field.bed.write_gpus(TWINS)
    field.gpus = [
        {"alias": alias, "uuid": gpu.uuid, "vram_mib": 24576} for alias, gpu in zip(("left", "right"), TWINS, strict=True)
    ]
    for name in ("heavy", "fast"):
        field.edit(name, vram_mib=20000)
    assert not field.run()["failed"]
    assert sorted(call["NVIDIA_VISIBLE_DEVICES"] for call in field.bed.hook_calls()[-2:]) == sorted((HEAVY_GPU, FAST_GPU))
    for name, uuid in (("heavy", HEAVY_GPU), ("fast", FAST_GPU)):
        assert uuid in field.bed.docker("exec", f"bed-{name}", "nvidia-smi", "-L")
    field.edit("fast", gpu_uuids=(HEAVY_GPU,))
    crowded = field.run()
    assert crowded["failed"] and "GPU left: 20000 MiB do not fit" in crowded["msg"]
