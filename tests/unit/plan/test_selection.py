"""Serves that are named for a whole run are selected on the hosts that have them."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.selection import select_serves

FLEET = {"gpu-1": ["chat", "fast"], "gpu-2": ["chat", "heavy"], "gateway": []}


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        (["fast"], {"gpu-1": ["fast"], "gpu-2": [], "gateway": []}),
        (["chat"], {"gpu-1": ["chat"], "gpu-2": ["chat"], "gateway": []}),
        (["fast", "heavy"], {"gpu-1": ["fast"], "gpu-2": ["heavy"], "gateway": []}),
    ],
)
def test_each_host_gets_the_words_that_it_has(wanted: list[str], chosen: dict[str, list[str]]) -> None:
    assert select_serves(wanted, FLEET) == chosen


@pytest.mark.parametrize(
    ("word", "hint"),
    [("fasst", "did you mean fast?"), ("qqq", "use one of: chat, fast, heavy"), ("Fast", "did you mean fast?")],
)
def test_a_word_that_no_host_has_is_an_error_with_a_suggestion(word: str, hint: str) -> None:
    with pytest.raises(AnvilError) as caught:
        select_serves(["fast", word, word], FLEET)
    (problem,) = caught.value.problems
    assert word in problem.what and problem.hint == hint and not problem.why


def test_hosts_whose_serves_are_unknown_are_named_in_the_error() -> None:
    assert select_serves(["fast"], {**FLEET, "gpu-3": None})["gpu-3"] == []
    with pytest.raises(AnvilError, match="the serves of gpu-3 are unknown"):
        select_serves(["night"], {**FLEET, "gpu-3": None})


def test_a_fleet_without_serves() -> None:
    with pytest.raises(AnvilError, match="use one of: none"):
        select_serves(["fast"], {"gateway": []})
