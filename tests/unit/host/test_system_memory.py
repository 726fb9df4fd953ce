"""What /proc/meminfo tells of the memory that a GPU may share."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.host.system_memory import parse_available_mib, read_available_mib


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        ("MemTotal:       125511680 kB\nMemFree:          801234 kB\nMemAvailable:   102400000 kB\n", 100000),
        ("MemTotal:       125511680 kB\nMemFree:          801234 kB\n", None),  # a kernel before 3.14
        ("", None),
    ],
)
def test_available_memory(text: str, mib: int | None) -> None:
    assert parse_available_mib(text) == mib


def test_this_host_reports_its_memory() -> None:
    assert (read_available_mib() or 0) > 0
