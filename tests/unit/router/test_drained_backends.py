# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The marks of drained backends in an edge's configuration."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.router.drained_backends import (
    DRAINED,
    TEMPORARY,
    list_backends,
    list_drained,
    list_kept,
    mark_drained,
)

CONFIG = """backend routers
    server anvil-router-1 10.87.213.3:8000 disabled

backend tier-chat
    server gpu1:fast gpu1.example.org:30103 maxconn 256 ssl verify required
    server gpu2:fast 10.0.0.2:30103 maxconn 256
    server gpu2:slow 127.0.0.1:20001 maxconn 256

backend tier-code
    server gpu2:fast 10.0.0.2:30103 maxconn 9
"""


@pytest.mark.parametrize("marks", [{}, {"gpu1:fast": DRAINED}, {"gpu2:fast": TEMPORARY, "gpu2:slow": DRAINED}])
def test_marks_are_read_as_they_were_written_and_can_be_taken_away(marks):
    marked = mark_drained(CONFIG, marks)
    assert list_drained(marked) == marks
    assert list_kept(marked) == {name: mark for name, mark in marks.items() if mark == DRAINED}
    assert mark_drained(marked, marks) == marked and mark_drained(marked, {}) == CONFIG
    assert list_backends(marked) == {"gpu1": ["gpu1:fast"], "gpu2": ["gpu2:fast", "gpu2:slow"]}


def test_a_backend_of_several_tiers_is_marked_in_each_and_a_replica_in_none():
    marked = mark_drained(CONFIG, {"gpu2:fast": DRAINED, "anvil-router-1": DRAINED})
    assert [line for line in marked.split("\n") if line.endswith(DRAINED)] == [
        "    server anvil-router-1 10.87.213.3:8000 disabled",
        "    server gpu2:fast 10.0.0.2:30103 maxconn 256 disabled",
        "    server gpu2:fast 10.0.0.2:30103 maxconn 9 disabled",
    ]
