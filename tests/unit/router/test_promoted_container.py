# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Parsing of what Docker reports about a container."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.router.promoted_container import parse_time


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:01.5Z", 1.5),
        ("2026-07-04T10:00:00.123456789Z", 1783159200.123456789),
        ("2026-07-04T10:00:00Z", 1783159200.0),
        ("0001-01-01T00:00:00Z", 0.0),
        ("", 0.0),
    ],
)
def test_timestamps_of_the_engine_are_parsed(text: str, seconds: float) -> None:
    assert parse_time(text) == pytest.approx(seconds)
