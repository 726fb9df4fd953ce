"""What the driver adds to an inventory, and what programs in a serve learn of its cards and of the deploy mode."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.plan.driver_cards import complete_gpus, find_incomplete
from planning import BIG, HEAVY, SMALL, deploy_mode, plan

MIG = "MIG-11111111-2222-3333-4444-555555555555"
CARD = {"uuid": BIG, "index": 0, "name": "NVIDIA H100", "compute_capability": "9.0", "vram_total_mib": 81559}
CARDS: list[dict[str, Any]] = [
    CARD,
    {"uuid": SMALL, "index": 1, "name": None, "compute_capability": None, "vram_total_mib": None},
    {"uuid": "", "index": 2, "name": None, "trouble": "GPU is lost"},
    {**CARD, "uuid": "GPU-x", "mig_devices": [{"uuid": MIG, "profile": "3g.40gb", "vram_total_mib": 40448}]},
]
WHOLE = {"uuid": BIG, "vram_mib": 81559, "compute_capability": "9.0"}


@pytest.mark.parametrize(
    ("gpus", "incomplete"),
    [
        ({"a": WHOLE}, []),
        ({"a": {"uuid": BIG}, "b": WHOLE, "c": {"uuid": BIG, "vram_mib": 1}}, ["a", "c"]),
        ({"a": {**WHOLE, "compute_capability": None}}, ["a"]),
        ({"a": {"vram_mib": 1}}, []),  # without a UUID the driver cannot help
        (None, []),
        ([{"uuid": BIG}], []),
        ({"a": "GPU-x"}, []),
    ],
)
def test_only_entries_that_lack_a_value_need_the_driver(gpus: Any, incomplete: list[str]) -> None:
    assert find_incomplete(gpus) == incomplete


@pytest.mark.parametrize(
    ("entry", "added", "told"),
    [
        ({"uuid": BIG}, {"vram_mib": 81559, "compute_capability": "9.0", "name": "NVIDIA H100"}, []),
        ({"uuid": BIG.upper(), "index": 0}, {"vram_mib": 81559, "compute_capability": "9.0", "name": "NVIDIA H100"}, []),
        ({"uuid": MIG}, {"vram_mib": 40448, "compute_capability": "9.0", "name": "NVIDIA H100 MIG 3g.40gb"}, []),
        ({"uuid": BIG, "vram_mib": 81500, "name": "x"}, {"compute_capability": "9.0"}, ["name: x is written"]),
        ({**WHOLE, "vram_mib": 24000}, {"name": "NVIDIA H100"}, ["vram_mib: 24000 is written, and the driver reports 81559"]),
        ({**WHOLE, "compute_capability": "12.0", "index": 1}, {"name": "NVIDIA H100"}, ["capability: 12.0", "index: 1"]),
        ({"uuid": SMALL}, {}, []),  # the driver does not know either
        ({"uuid": "GPU-absent"}, {}, []),  # anvil_serve and anvil_host_check report it
        ({"uuid": 7}, {}, []),
    ],
)
def test_the_driver_fills_gaps_and_what_differs_is_told(entry: dict[str, Any], added: dict[str, Any], told: list[str]) -> None:
    completed, notes = complete_gpus({"a": entry}, CARDS)
    assert completed == {"a": {**entry, **added}}
    assert len(notes) == len(told) and all(words in note for words, note in zip(told, notes, strict=True)), notes


def test_what_is_not_a_mapping_is_left_for_the_plan() -> None:
    assert complete_gpus("x", CARDS) == ("x", []) and complete_gpus({"a": "x"}, CARDS) == ({"a": "x"}, [])


def environment(*changes: tuple[str, Any], serve: int = 0) -> dict[str, str]:
    found: dict[str, str] = plan(*changes).serves[serve].environment
    return {key: value for key, value in found.items() if key in ("GPU_SM_ARCH", "DETECTED_GPU_NAME")}


def test_a_serve_knows_its_card_whatever_its_engine() -> None:
    assert environment() == {}
    small = ("anvil_gpus.small", {"uuid": SMALL, "vram_mib": 32607, "compute_capability": "8.9", "name": "NVIDIA L4"})
    assert environment(small, serve=1) == {"GPU_SM_ARCH": "sm89", "DETECTED_GPU_NAME": "NVIDIA L4"}
    big = ("anvil_gpus.big.compute_capability", "12.0")
    assert environment(big) == {"GPU_SM_ARCH": "sm120"}
    both = (HEAVY + "gpus", ["big", "small"])
    assert environment(big, both, (HEAVY + "vram_mib", 10000)) == {}
    assert environment(big, small, both, (HEAVY + "vram_mib", 10000))["GPU_SM_ARCH"] == "sm89"
    assert environment(big, (HEAVY + "environment", {"GPU_SM_ARCH": "sm100"})) == {"GPU_SM_ARCH": "sm100"}


@pytest.mark.parametrize(("mode", "flags"), [("chat", ("1", "0")), ("tool", ("0", "1")), ("both", ("1", "1"))])
def test_a_serve_with_a_part_knows_the_deploy_mode(mode: str, flags: tuple[str, str]) -> None:
    changes, facts = deploy_mode(mode)
    for serve in plan(*changes, facts=facts).serves:
        assert (serve.environment["DEPLOY_CHAT"], serve.environment["DEPLOY_TOOL"]) == flags
    assert "DEPLOY_CHAT" not in plan().serves[0].environment
