# SPDX-License-Identifier: GPL-3.0-or-later
"""The header of a safetensors file, read without a library and without touching the tensors.

A file is not trusted: a header that contradicts itself or the size of the file is an ``AnvilError``. The unit tests compare
this reader with the ``safetensors`` library.
"""

from __future__ import annotations

import math
from typing import Dict, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_files import open_file, unreadable_file
from ansible_collections.anvil.serving.plugins.module_utils.weights.weight_files import Tensor, parse_json, pause_collection

# The safetensors library's own limit is 100 MB; the largest real headers have 10 MB.
SAFETENSORS_HEADER_LIMIT = 32 * 1024 * 1024

# Bits of one element of a safetensors dtype; tensors of F4 and F6 come in whole bytes only.
_INTEGERS = {int}
SAFETENSORS_BITS: Dict[str, int] = {
    "F4": 4,
    "F6_E2M3": 6,
    "F6_E3M2": 6,
    "BOOL": 8,
    "U8": 8,
    "I8": 8,
    "F8_E5M2": 8,
    "F8_E4M3": 8,
    "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8,
    "F8_E5M2FNUZ": 8,
    "I16": 16,
    "U16": 16,
    "F16": 16,
    "BF16": 16,
    "I32": 32,
    "U32": 32,
    "F32": 32,
    "I64": 64,
    "U64": 64,
    "F64": 64,
    "C64": 64,
}


def safetensors_header_size(path: str) -> int:
    """The number of bytes before the data of a safetensors file; its first eight bytes say so."""
    with open_file(path)[0] as stream:
        return 8 + min(int.from_bytes(stream.read(8), "little"), SAFETENSORS_HEADER_LIMIT)


def read_safetensors(path: str) -> Tuple[Tensor, ...]:
    """Read the header of a safetensors file: 8 bytes of length, then JSON. Raises AnvilError."""

    def broken(why: str) -> AnvilError:
        return fail(
            "not a usable safetensors file",
            where=path,
            why=why,
            hint="fetch the file again: the download was cut short, or the file is not a model (perhaps a Git LFS pointer)",
        )

    stream, size = open_file(path)
    try:
        with stream:
            head = stream.read(8)
            length = int.from_bytes(head, "little")
            if len(head) < 8 or length < 2 or length > SAFETENSORS_HEADER_LIMIT or length > size - 8:
                raise broken("its header claims {0} bytes, but the file has {1}".format(length, size))
            raw = stream.read(length)
    except OSError as exc:
        raise unreadable_file(path, exc) from exc
    try:
        with pause_collection():
            header = parse_json(raw)
            tensors, end = [], 0
            for name, entry in header.items():
                if name == "__metadata__":
                    continue
                (first, last), shape, dtype = entry["data_offsets"], tuple(entry["shape"]), str(entry["dtype"])
                if not {type(first), type(last), *map(type, shape)} <= _INTEGERS:
                    raise ValueError("tensor {0} has a shape or a place that is not made of integers".format(name))
                if first < 0 or last < first or (shape and min(shape) < 0):
                    raise ValueError("tensor {0} lies at {1} to {2}".format(name, first, last))
                bits, elements = SAFETENSORS_BITS.get(dtype), math.prod(shape)
                if bits is not None and bits * elements != 8 * (last - first):
                    raise ValueError("tensor {0} has {1} bytes instead of {2}".format(name, last - first, bits * elements // 8))
                tensors.append(Tensor(name, dtype, shape, last - first))
                end = max(end, last)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ArithmeticError) as exc:
        raise broken("its header cannot be read: {0}".format(str(exc)[:200] or type(exc).__name__)) from exc
    if 8 + length + end != size:
        raise broken("its tensors end at byte {0}, but the file has {1} bytes".format(8 + length + end, size))
    return tuple(tensors)
