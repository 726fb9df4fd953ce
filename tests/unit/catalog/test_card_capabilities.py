"""What a card can run, by its compute capability alone."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.catalog.card_capabilities import (
    CAPABILITIES,
    describe_capability,
    find_capability,
    torch_environment,
)


@pytest.mark.parametrize(
    ("version", "bf16", "fp8", "fp4"),
    [
        ("7.5", False, False, False),
        ("8.0", True, False, False),
        ("8.6", True, False, False),
        ("8.7", True, False, False),
        ("8.9", True, True, False),
        ("9.0", True, True, False),
        ("10.0", True, True, True),
        ("10.3", True, True, True),
        ("11.0", True, True, True),
        ("12.0", True, True, True),
        ("12.1", True, True, True),
    ],
)
def test_the_table(version: str, bf16: bool, fp8: bool, fp4: bool) -> None:
    can = describe_capability(version)["can"]
    assert (can["bf16"], can["fp8"], can["nvfp4"], can["mxfp4"], can["int8"]) == (bf16, fp8, fp4, fp4, True)


def test_the_table_has_no_other_rows() -> None:
    assert len(CAPABILITIES) == 11


@pytest.mark.parametrize("version", ["7.0", "9.9", "13.0", None])
def test_an_unknown_card_is_not_taken_for_another(version: str | None) -> None:
    described = describe_capability(version)
    assert find_capability(version) is None and set(described["can"].values()) == {None} and described["family"] is None
    assert described["sm"] == (None if version is None else "sm_" + version.replace(".", ""))


def test_h200_and_h100_are_one_capability() -> None:
    assert describe_capability("9.0")["sm"] == "sm_90" and describe_capability("9.0")["family"] == "Hopper"


def test_what_cannot_be_computed_can_still_be_read() -> None:
    assert describe_capability("8.6")["can"]["emulated"] == ["fp8", "mxfp4", "nvfp4"]
    assert describe_capability("12.0")["can"]["emulated"] == []


@pytest.mark.parametrize(
    ("versions", "torch", "flashinfer"),
    [
        (["12.0"], "12.0", "12.0f"),
        (["9.0"], "9.0", "9.0a"),
        (["8.9"], "8.9", "8.9"),
        (["12.0", "8.9"], "8.9 12.0", "8.9 12.0f"),
        (["12.0", "12.0"], "12.0", "12.0f"),
        (["12.1", "10.0"], "10.0 12.1", "10.0a 12.1a"),
    ],
)
def test_all_cards_of_a_serve_count(versions: list[str], torch: str, flashinfer: str) -> None:
    made = torch_environment(versions, expandable=False)
    assert made == {"TORCH_CUDA_ARCH_LIST": torch, "FLASHINFER_CUDA_ARCH_LIST": flashinfer}


def test_an_unknown_card_gets_no_kernels_of_another() -> None:
    assert torch_environment(["13.0"], expandable=False) == {"TORCH_CUDA_ARCH_LIST": "13.0"}


def test_the_allocator_is_named_twice() -> None:
    made = torch_environment(["9.0"], expandable=True)
    assert made["PYTORCH_ALLOC_CONF"] == made["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"


@pytest.mark.parametrize(
    ("versions", "one_queue"), [(["9.0", "9.0"], True), (["9.0"], False), (["12.0", "12.0"], False), (["9.0", "12.0"], False)]
)
def test_one_queue_for_tensor_parallel_before_blackwell(versions: list[str], one_queue: bool) -> None:
    assert ("CUDA_DEVICE_MAX_CONNECTIONS" in torch_environment(versions, expandable=False)) is one_queue
