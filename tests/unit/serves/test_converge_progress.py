"""The progress lines that a converge writes."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.docker.images import Pull
from ansible_collections.anvil.serving.plugins.module_utils.serves.converge_progress import (
    DETAIL_SECONDS,
    ProgressLog,
    describe_bytes,
    describe_pull,
)


def test_the_log_has_only_changes_and_omits_a_serve_that_is_always_ready() -> None:
    log = ProgressLog()
    told = [log.add("a", word, 1) for word in ("ready", "ready")] + [
        log.add("b", word, 2) for word in ("loading", "loading", "ready")
    ]
    assert told == [False, False, True, False, True]
    assert log.lines == ["b: loading (2 s)", "b: ready (2 s)"]


def test_pull_progress_is_logged_at_intervals_and_the_next_state_at_once() -> None:
    log = ProgressLog()
    for second in range(12):
        log.add("a", "pulling x", second, f"{second} MB")
    log.add("a", "creating", 12)
    assert log.lines == [
        "a: pulling x, 0 MB (0 s)",
        f"a: pulling x, {DETAIL_SECONDS:.0f} MB ({DETAIL_SECONDS:.0f} s)",
        f"a: pulling x, {2 * DETAIL_SECONDS:.0f} MB ({2 * DETAIL_SECONDS:.0f} s)",
        "a: creating (12 s)",
    ]


# Pull events of Docker Engine 26.1, shortened.
EVENTS: list[dict[str, Any]] = [
    {"status": "Pulling from llama-server", "id": "big"},
    {"status": "Already exists", "progressDetail": {}, "id": "aaa"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "bbb"},
    {"status": "Downloading", "progressDetail": {"current": 2_500_000, "total": 9_000_000}, "id": "bbb"},
    {"status": "Pulling fs layer", "progressDetail": {}, "id": "ccc"},
    {"status": "Downloading", "progressDetail": {"current": 400_000, "total": 400_000}, "id": "ccc"},
    {"status": "Extracting", "progressDetail": {"current": 32_768, "total": 400_000}, "id": "ccc"},
    {"status": "Pull complete", "progressDetail": {}, "id": "ccc"},
    {"status": "Digest: sha256:0"},
]


def test_pull_events_of_the_engine_are_summarised() -> None:
    pull = Pull()
    assert describe_pull(pull) == describe_pull(None) == ""
    for event in EVENTS:
        pull.add_event(event)
    assert describe_pull(pull) == "2 of 3 layers, 2.9 MB"


@pytest.mark.parametrize(("count", "text"), [(0, "0 kB"), (999_499, "999 kB"), (1_000_000, "1.0 MB"), (9_840_000_000, "9.8 GB")])
def test_byte_counts_are_written_with_units(count: int, text: str) -> None:
    assert describe_bytes(count) == text
