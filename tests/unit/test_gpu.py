"""What nvidia-smi prints, read without guessing."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.gpu import parse_cards

TWO = """0, GPU-d0f446cf-1771-414c-e116-a39138798a8c, NVIDIA RTX PRO 6000 Blackwell, 12.0, 97887, 4, 580.95.05, 00000000:01:00.0
1, GPU-04d3b6e7-5691-3e86-1d34-c37999440cf1, NVIDIA GeForce RTX 5090, 12.0, 32607, 1000, 580.95.05, 00000000:02:00.0
"""


def test_two_cards() -> None:
    first, second = parse_cards(TWO)
    assert (first.name, first.vram_free_mib) == ("NVIDIA RTX PRO 6000 Blackwell", 97883)
    assert (second.index, second.vram_total_mib, second.compute_capability) == (1, 32607, "12.0")


@pytest.mark.parametrize("word", ["[N/A]", "[Not Supported]", "[Unknown Error]", "ERR!", ""])
def test_what_the_driver_does_not_tell_stays_unknown(word: str) -> None:
    (card,) = parse_cards(f"0, GPU-1, {word}, {word}, {word}, 4, {word}, {word}\n")
    assert (card.name, card.compute_capability, card.vram_total_mib, card.vram_free_mib) == (None,) * 4


@pytest.mark.parametrize(
    "text", ["Unable to determine the device handle for GPU0: Unknown Error\n", "0, [N/A], a, b, c, d, e, f\n"]
)
def test_a_row_that_is_no_card_is_an_error_with_its_text(text: str) -> None:
    with pytest.raises(AnvilError) as caught:
        parse_cards(text)
    assert text.strip() in str(caught.value)


def test_no_rows_are_no_cards() -> None:
    assert parse_cards("") == []
