"""The index of a card in the inventory beside the driver's."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import parse_cards
from ansible_collections.anvil.serving.plugins.module_utils.host.host_requirements import compare_indexes
from nvidia_outputs import FAKOLI_DARK

CARDS = parse_cards(FAKOLI_DARK)
FIRST, SECOND = (card.uuid for card in CARDS)


@pytest.mark.parametrize(
    ("indexes", "hints"),
    [
        ({FIRST: 0, SECOND: 1}, []),
        ({FIRST.upper(): 0}, []),
        ({"GPU-not-here": 5}, []),  # another problem says that it is not here
        ({"MIG-c7384736-a75d-5afc-978f-d2f1294409fd": 1}, []),
        ({FIRST: 1, SECOND: 0}, ["set index: 0, or remove index", "set index: 1, or remove index"]),
        ({SECOND: 0}, ["set index: 1, or remove index"]),
    ],
)
def test_an_index_that_is_not_the_driver_s_is_a_recommendation_with_the_right_one(
    indexes: dict[str, int], hints: list[str]
) -> None:
    found = compare_indexes(indexes, CARDS)
    assert [one.hint for one in found] == hints
    assert all(FIRST in one.why and SECOND in one.why for one in found)
