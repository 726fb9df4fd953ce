# SPDX-License-Identifier: GPL-3.0-or-later
"""What the readers of every weight format share: a tensor as a header describes it, bounded JSON, checked numbers.

Files are not trusted: their size is bounded before they are read, and a value of another type counts as absent.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Dict, Iterable, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail

JSON_LIMIT = 64 * 1024 * 1024


@dataclass(frozen=True)
class Tensor:
    """One tensor as its header describes it: ``dtype`` by name, shape as the format writes it, size in bytes."""

    name: str
    dtype: str
    shape: Tuple[int, ...]
    size: int

    @property
    def elements(self) -> int:
        count = 1
        for extent in self.shape:
            count *= extent
        return count


def find_dominant_type(tensors: Iterable[Tensor]) -> Optional[str]:
    """The type that most elements have; None without tensors."""
    counts: Dict[str, int] = {}
    for tensor in tensors:
        counts[tensor.dtype] = counts.get(tensor.dtype, 0) + tensor.elements
    return max(sorted(counts), key=lambda dtype: counts[dtype]) if counts else None


def read_count(value: Any) -> Optional[int]:
    """A number of something out of a header: an integer that is not negative, or None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def read_first_count(values: Mapping[str, Any], *keys: str) -> Optional[int]:
    """The count under the first of the keys that has one."""
    for key in keys:
        found = read_count(values.get(key))
        if found is not None:
            return found
    return None


def read_json(path: str) -> Dict[str, Any]:
    """A JSON object from a file of at most ``JSON_LIMIT`` bytes. Raises AnvilError."""
    if size_of_file(path) > JSON_LIMIT:
        raise fail(
            "JSON file is too large to be read",
            where=path,
            why="it has more than {0} MiB".format(JSON_LIMIT >> 20),
            hint="fetch the file again, or choose another model: configuration files are much smaller",
        )
    try:
        with open(path, "rb") as stream:
            read = json.loads(stream.read(JSON_LIMIT).decode("utf-8"))
    except OSError as exc:
        raise unreadable_file(path, exc) from exc
    except (ValueError, RecursionError) as exc:
        raise fail("not a usable JSON file", where=path, why=str(exc)[:200], hint="fetch the file again") from exc
    if not isinstance(read, dict):
        raise fail("not a usable JSON file", where=path, why="its content is not an object", hint="fetch the file again")
    return read


def unreadable_file(path: str, exc: OSError) -> AnvilError:
    """The error for a file that the system does not let us read."""
    return fail(
        "cannot read a file of the model",
        where=path,
        why=exc.strerror or str(exc),
        hint="check the path and its permissions: ls -l " + path,
    )


def size_of_file(path: str) -> int:
    """Its size in bytes. Raises AnvilError."""
    try:
        return os.stat(path).st_size
    except OSError as exc:
        raise unreadable_file(path, exc) from exc
