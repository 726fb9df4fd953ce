"""The capabilities of a card, derived from its compute capability."""

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
def test_each_compute_capability_has_its_number_formats(version: str, bf16: bool, fp8: bool, fp4: bool) -> None:
    can = describe_capability(version)["can"]
    assert (can["bf16"], can["fp8"], can["nvfp4"], can["mxfp4"], can["int8"]) == (bf16, fp8, fp4, fp4, True)


def test_the_table_has_no_other_rows() -> None:
    assert len(CAPABILITIES) == 11


@pytest.mark.parametrize("version", ["7.0", "9.9", "13.0", None])
def test_the_capabilities_of_an_unknown_card_are_unknown(version: str | None) -> None:
    described = describe_capability(version)
    assert find_capability(version) is None and set(described["can"].values()) == {None} and described["family"] is None
    assert described["sm"] == (None if version is None else "sm_" + version.replace(".", ""))


def test_h100_and_h200_share_a_compute_capability() -> None:
    assert describe_capability("9.0")["sm"] == "sm_90" and describe_capability("9.0")["family"] == "Hopper"


def test_formats_that_a_card_only_emulates_are_listed() -> None:
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
def test_kernels_are_built_for_every_card_of_a_serve(versions: list[str], torch: str, flashinfer: str) -> None:
    made = torch_environment(versions, expandable=False)
    assert made == {"TORCH_CUDA_ARCH_LIST": torch, "FLASHINFER_CUDA_ARCH_LIST": flashinfer}


def test_an_unknown_card_gets_no_flashinfer_kernels() -> None:
    assert torch_environment(["13.0"], expandable=False) == {"TORCH_CUDA_ARCH_LIST": "13.0"}


def test_the_allocator_is_set_under_its_old_and_its_new_name() -> None:
    made = torch_environment(["9.0"], expandable=True)
    assert made["PYTORCH_ALLOC_CONF"] == made["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"


@pytest.mark.parametrize(
    ("versions", "one_queue"), [(["9.0", "9.0"], True), (["9.0"], False), (["12.0", "12.0"], False), (["9.0", "12.0"], False)]
)
def test_several_cards_before_blackwell_get_one_connection(versions: list[str], one_queue: bool) -> None:
    assert ("CUDA_DEVICE_MAX_CONNECTIONS" in torch_environment(versions, expandable=False)) is one_queue
