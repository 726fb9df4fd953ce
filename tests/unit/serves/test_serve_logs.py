"""The logs of serves: time spans, and the two streams."""

from __future__ import annotations

import struct

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.serves.serve_logs import parse_since, split_frames


@pytest.mark.parametrize(("text", "start"), [("", 0), ("10m", 9400), ("90", 9910), ("2h", 2800), ("90s", 9910)])
def test_a_time_span_gives_its_start_time(text: str, start: int) -> None:
    assert parse_since(text, 10000) == start


@pytest.mark.parametrize("text", ["yesterday", "-5m", "1w", "10 m"])
def test_an_invalid_time_span_is_refused(text: str) -> None:
    with pytest.raises(AnvilError, match=r"logs\.since"):
        parse_since(text, 10000)


def frame(stream: int, text: bytes) -> bytes:
    return struct.pack(">BxxxL", stream, len(text)) + text


def test_both_streams_of_a_log_are_split_into_lines_in_order() -> None:
    raw = frame(1, b"one\ntw") + frame(2, b"bad\r\n") + frame(1, b"o\n") + frame(2, b"end")
    assert split_frames(raw) == [("stdout", "one"), ("stderr", "bad"), ("stdout", "two"), ("stderr", "end")]
    assert split_frames(b"") == [] and split_frames(b"no frames at all") == []
