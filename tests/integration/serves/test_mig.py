"""Serves on MIG devices of one card, with the engine's own nvidia driver: the ledger counts each device by itself."""

from __future__ import annotations

from dataclasses import replace

from bed import RTX_5090, RTX_PRO_6000
from harness import run_module
from serving import Field

ONE, OTHER = "MIG-c7384736-a75d-5afc-978f-d2f1294409fd", "MIG-a28ad590-3fda-56dd-84fc-0a0b96edc58d"
SLICES = (f"2g.48gb={ONE}=48000=10", f"1g.24gb={OTHER}=24000=10")


def test_the_ledger_charges_each_mig_device_by_itself(field: Field) -> None:
    field.bed.write_gpus([RTX_5090, replace(RTX_PRO_6000, mig=SLICES)])
    field.gpus = [{"alias": "half", "uuid": ONE, "vram_mib": 48000}, {"alias": "quarter", "uuid": OTHER, "vram_mib": 24000}]
    field.edit("heavy", gpu_uuids=(ONE,), vram_mib=47000)
    field.edit("fast", gpu_uuids=(OTHER,), vram_mib=25000)
    refused = field.foresee()
    assert refused["failed"] and field.bed.started() == {}
    assert "serve fast: GPU quarter: 25000 MiB do not fit" in refused["msg"] and "GPU half" not in refused["msg"]
    field.edit("fast", vram_mib=23000)
    assert not field.foresee()["failed"]
    assert [call["NVIDIA_VISIBLE_DEVICES"] for call in field.bed.hook_calls()[-2:]] in ([ONE, OTHER], [OTHER, ONE])
    assert not field.run()["changed"]

    # A second serve on the same MIG device: only serves on this device count, not those on the other device of the card.
    field.edit("heavy", vram_mib=30000)
    field.edit("fast", gpu_uuids=(ONE,))
    crowded = field.run()
    assert crowded["failed"] and "serve fast 23000" in crowded["msg"] and "= 53000 MiB; the GPU has 48000 MiB" in crowded["msg"]

    field.edit("fast", gpu_uuids=(RTX_PRO_6000.uuid,))
    whole = field.run()
    assert whole["failed"] and "pinned to the whole GPU" in whole["msg"] and "which is in MIG mode" in whole["msg"]


def test_the_gate_checks_a_mig_device_against_its_own_memory(field: Field) -> None:
    field.bed.write_gpus([replace(RTX_PRO_6000, mig=(f"1g.24gb={ONE}=700=10",))])
    told = run_module("anvil_host_info")
    assert told["gpus"][0]["mig_devices"] == [{"uuid": ONE, "profile": "1g.24gb", "vram_total_mib": 700, "vram_used_mib": 10}]
    mount = {"kind": "bind", "source": str(field.serves["heavy"].mounts[0].source), "target": "/models"}
    serve = {
        "name": "heavy",
        "engine": "llama_cpp",
        "model": "/models/heavy.gguf",
        "mounts": [mount],
        "args": ["-ngl", "99", "-c", "1024"],
        "gpu_uuids": [ONE],
    }
    fits = run_module("anvil_compatibility", plan={"serves": [serve]}, enforce=False)
    assert fits["fits"], fits["findings"]
    field.bed.write_gpus([replace(RTX_PRO_6000, mig=(f"1g.24gb={ONE}=300=10",))])
    tight = run_module("anvil_compatibility", plan={"serves": [serve]}, enforce=False)
    assert [finding["what"] for finding in tight["findings"]] == ["the model does not fit its share of the card"]
