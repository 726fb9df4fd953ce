# SPDX-License-Identifier: GPL-3.0-or-later
"""What the readers of every weight format share: a tensor as a header describes it, bounded JSON, checked numbers.

Files are not trusted: their size is bounded before they are read, and a value of another type counts as absent.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import re
from typing import Any, Dict, Iterable, Iterator, Mapping, NamedTuple, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_files import read_bytes

JSON_LIMIT = 32 * 1024 * 1024


class Tensor(NamedTuple):
    """One tensor as its header describes it: ``dtype`` by name, shape as the format writes it, size in bytes."""

    name: str
    dtype: str
    shape: Tuple[int, ...]
    size: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def find_dominant_type(tensors: Iterable[Tensor]) -> Optional[str]:
    """The type that most elements have; None without tensors."""
    counts: Dict[str, int] = {}
    for tensor in tensors:
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.elements
    return max(sorted(counts), key=lambda dtype: counts[dtype]) if counts else None


def read_count(value: Any) -> Optional[int]:
    """A number of something out of a header: an integer from 0 to a million million, or None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 10**12 else None


def read_first_count(values: Mapping[str, Any], *keys: str) -> Optional[int]:
    """The count under the first of the keys that has one."""
    for key in keys:
        found = read_count(values.get(key))
        if found is not None:
            return found
    return None


# Values that one JSON file may hold: more would take more than 100 MiB of memory. The largest real index has 300 000.
JSON_VALUES = 1_000_000
_LONG_NUMBER, _DIGITS = re.compile(rb"[0-9]{310}"), re.compile(rb"[0-9]{2}")


def parse_json(raw: bytes) -> Any:
    """JSON from a file that is not trusted, within bounds of memory and time. Raises ValueError."""
    values = raw.count(b",") + raw.count(b"[") + raw.count(b"{")
    if values > JSON_VALUES:
        raise ValueError("it holds more than {0:,} values".format(JSON_VALUES))
    # Such a number has digits at two neighbouring places of every 155th byte; a search of each byte takes ten times longer.
    if _DIGITS.search(raw[::155]) and _LONG_NUMBER.search(raw):
        raise ValueError("it holds a number of more than 309 digits")
    try:
        return json.loads(raw.decode("utf-8"))
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc


@contextlib.contextmanager
def pause_collection() -> Iterator[None]:
    """Many small objects at once, none of them in a cycle: Python's search for cycles would take half of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def read_json(path: str) -> Dict[str, Any]:
    """A JSON object from a file of at most ``JSON_LIMIT`` bytes. Raises AnvilError."""
    raw = read_bytes(path, JSON_LIMIT)
    try:
        read = parse_json(raw)
    except ValueError as exc:
        raise fail("not a usable JSON file", where=path, why=str(exc)[:200], hint="fetch the file again") from exc
    if not isinstance(read, dict):
        raise fail("not a usable JSON file", where=path, why="its content is not an object", hint="fetch the file again")
    return read


def read_text(value: Any) -> Optional[str]:
    """A name out of a header, on one line: printable characters only, at most 200 of them; None for anything else."""
    if not isinstance(value, str):
        return None
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in value[:200]) or None
