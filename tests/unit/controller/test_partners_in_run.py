# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""No host of a serve over several hosts changes unless all of them are in the run and none of them failed."""

from __future__ import annotations

import json

import pytest
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.partners_in_run import Run, choose_parts, find_obstacles

SERVICES = {
    "big": {"anvil": {"hosts": ["a", "b"], "rank": 0, "tags": ["night"]}},
    "member": {"anvil": {"hosts": ["a", "b"], "rank": 1, "tags": ["night"]}},
    "small": {"anvil": {}},
}
PROJECT = {"name": "anvil-serves", "services": json.dumps(SERVICES)}
ALL = ("a", "b", "c")


@pytest.mark.parametrize(
    ("only", "state", "run", "told"),
    [
        ([], "up", Run(ALL, ALL), ""),
        ([], "up", Run(("a",), ("a",)), "b not in this run"),
        (["small"], "up", Run(("a",), ("a",)), ""),
        (["night"], "restarted", Run(("a",), ("a",)), "b not in this run"),
        ([], "recreated", Run(ALL, ("a", "c")), "b failed in this run"),
        ([], "down", Run(("a",), ("a",)), ""),
        (["big"], "rolled_back", Run(ALL, ALL), "not rolled back"),
    ],
)
def test_what_keeps_a_serve_from_changing(only: list[str], state: str, run: Run, told: str) -> None:
    found = find_obstacles(PROJECT, only, state, run)
    assert bool(found) == bool(told)
    for problem in found:
        assert told in problem.what + problem.why and problem.where in ("serve big", "serve member") and problem.hint


def test_members_are_chosen_apart() -> None:
    assert choose_parts(PROJECT, [], "members") == choose_parts(PROJECT, ["night"], "members") == ["member"]
    assert choose_parts(PROJECT, [], "others") == ["big", "small"] and choose_parts(PROJECT, ["small"], "members") == []
