# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which replicas are replaced one by one."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.router.deployment import choose_rolling


def serves(*actions: tuple[str, str], edge: str = "none") -> dict[str, dict[str, str]]:
    """Replicas by (state, action), and the edge."""
    found = {
        f"router-{number}": {"state": state, "action": action, "container": f"r-{number}"}
        for number, (state, action) in enumerate(actions, 1)
    }
    return {**found, "edge": {"state": "running", "action": edge, "container": "r-edge"}}


RUNS, NEW, DOWN = ("running", "none"), ("running", "recreate"), ("exited", "recreate")


@pytest.mark.parametrize(
    ("given", "rolled"),
    [
        (serves(NEW, NEW), ["router-1", "router-2"]),
        (serves(RUNS, NEW), ["router-2"]),
        (serves(RUNS, RUNS), []),
        # A replica that is down starts first; otherwise the only replica that takes requests would be replaced.
        (serves(NEW, DOWN), ["router-2", "router-1"]),
        (serves(NEW, DOWN, NEW), ["router-2", "router-1", "router-3"]),
        (serves(DOWN, RUNS), []),
        (serves(NEW, ("absent", "create")), []),
        (serves(NEW, NEW, edge="recreate"), ["router-1", "router-2"]),
    ],
)
def test_running_replicas_that_differ_are_replaced_one_by_one(given: dict[str, dict[str, str]], rolled: list[str]) -> None:
    assert choose_rolling(given, "r-edge", True) == rolled
    assert choose_rolling(given, "r-edge", False) == [] == choose_rolling(given, "", True)
