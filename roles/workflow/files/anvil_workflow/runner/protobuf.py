# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The few protobuf fields that traces need: written for a request, read from its answer."""

from __future__ import annotations

from collections.abc import Iterator


def _encode_varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def encode_bytes(field_number: int, value: bytes) -> bytes:
    return _encode_varint(field_number << 3 | 2) + _encode_varint(len(value)) + value


def encode_text(field_number: int, value: str) -> bytes:
    return encode_bytes(field_number, value.encode("utf-8", "replace"))


def encode_attribute(key: str, value: str) -> bytes:
    return encode_text(1, key) + encode_bytes(2, encode_text(1, value))


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        number |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return number, at


def _read_fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The numbers and the byte fields of a message. Raises ValueError or IndexError."""
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        value, at = _read_varint(data, at)
        if tag & 7 == 2:
            yield tag >> 3, data[at : at + value]
            at += value
        elif tag & 7 == 0:
            yield tag >> 3, value
        else:
            raise ValueError("another wire type")


def read_rejected(answer: bytes) -> tuple[int, str]:
    """How many spans an ExportTraceServiceResponse rejects, and why. An answer that cannot be read rejects nothing."""
    try:
        partial = next((value for number, value in _read_fields(answer) if number == 1 and isinstance(value, bytes)), b"")
        found = dict(_read_fields(partial))
    except (ValueError, IndexError):
        return 0, ""
    rejected, reason = found.get(1, 0), found.get(2, b"")
    text = reason.decode("utf-8", "replace")[:200] if isinstance(reason, bytes) else ""
    return (rejected if isinstance(rejected, int) else 0), text
