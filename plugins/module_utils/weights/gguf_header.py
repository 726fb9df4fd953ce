# SPDX-License-Identifier: GPL-3.0-or-later
"""The header of a GGUF file, read without a library and without touching the tensors.

A GPU host has neither numpy nor gguf, and the format is a few fields; the unit tests compare this reader with the ``gguf``
library. A file is not trusted: every count is checked against the bytes that are left in the file before anything is read,
and a file that is cut short, or is not a model, is an ``AnvilError`` with the offset.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO, Dict, List, Mapping, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.weights.weight_files import Tensor, size_of_file, unreadable_file

# The most that is read of one file, regardless of the counts in it. Real GGUF headers hold the vocabulary and end below 32 MiB.
GGUF_HEADER_LIMIT = 256 * 1024 * 1024
TEXT_LIMIT = 1024 * 1024
# Arrays up to this many numbers are kept (per-layer head counts); longer ones, such as vocabularies, are stepped over.
KEPT_NUMBERS = 4096

# ggml's tensor types: number -> name, elements per block, bytes per block (ggml.h; gguf-py's GGML_QUANT_SIZES).
GGML_TYPES: Dict[int, Tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}

# general.file_type: number -> name (gguf-py's LlamaFileType without its MOSTLY_).
FILE_TYPES: Dict[int, str] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
}

_FIXED = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class GgufHeader:
    """metadata: every value except long arrays, of which only the length is kept (in ``lengths``)."""

    version: int
    metadata: Mapping[str, Any]
    lengths: Mapping[str, int]
    tensors: Tuple[Tensor, ...]
    data_bytes: int


class _CutShortError(AnvilError):
    """The stream ends before the header does."""


class _FieldReader:
    """Reads little-endian fields from a file that is not trusted."""

    def __init__(self, stream: BinaryIO, path: str, size: int) -> None:
        self.stream, self.path, self.size, self.at = stream, path, size, 0

    def broken(self, why: str) -> AnvilError:
        return fail(
            "not a usable GGUF file",
            where=self.path,
            why="{0} (at byte {1} of {2})".format(why, self.at, self.size),
            hint="fetch the file again: the download was cut short, or the file is not a model",
        )

    def expect(self, count: int, what: str) -> None:
        """Raise AnvilError unless ``count`` more bytes are left and within the limit of a header."""
        if count > self.size - self.at:
            raise self.broken("the file ends within {0}: {1} bytes are missing".format(what, count - (self.size - self.at)))
        if self.at + count > GGUF_HEADER_LIMIT:
            raise self.broken("{0} goes beyond the {1} MiB that a header may have".format(what, GGUF_HEADER_LIMIT >> 20))

    def take(self, count: int, what: str) -> bytes:
        self.expect(count, what)
        piece = self.stream.read(count)
        if len(piece) != count:
            raise _CutShortError(*self.broken("the file ends within " + what).problems)
        self.at += count
        return piece

    def skip(self, count: int, what: str) -> None:
        self.expect(count, what)
        self.stream.seek(count, os.SEEK_CUR)
        self.at += count

    def number(self, form: str, what: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form), what))[0]

    def text(self, what: str) -> str:
        length = self.number("<Q", "the length of " + what)
        if length > TEXT_LIMIT:
            self.expect(length, what)
            raise self.broken("{0} is {1} bytes long".format(what, length))
        return self.take(length, what).decode("utf-8", "replace")

    def value(self, kind: int, what: str) -> Any:
        if kind in _FIXED:
            return self.number(_FIXED[kind], what)
        if kind == _STRING:
            return self.text(what)
        raise self.broken("{0} has the unknown type {1}".format(what, kind))

    def array(self, what: str) -> Tuple[int, Any]:
        """The length of an array, and its numbers unless they are many."""
        kind, length = self.number("<I", what), self.number("<Q", what)
        if kind == _STRING:
            self.expect(8 * length, what)
            for _number in range(length):
                self.skip(self.number("<Q", what), what)
            return length, None
        if kind not in _FIXED:
            raise self.broken("{0} is an array of the unknown type {1}".format(what, kind))
        width = struct.calcsize(_FIXED[kind])
        if length > KEPT_NUMBERS:
            self.skip(width * length, what)
            return length, None
        self.expect(width * length, what)
        return length, [self.number(_FIXED[kind], what) for _number in range(length)]


def read_gguf(path: str) -> GgufHeader:
    """Read the header of a GGUF file of version 2 or 3 (some 60 ms for a vocabulary of 150 000 tokens)."""
    size = size_of_file(path)
    try:
        with open(path, "rb") as stream:
            return _read_header(_FieldReader(stream, path, size))
    except OSError as exc:
        raise unreadable_file(path, exc) from exc


def holds_gguf_header(path: str, size: int) -> bool:
    """Whether ``path``, the beginning of a GGUF file of ``size`` bytes, holds the whole header."""
    try:
        with open(path, "rb") as stream:
            _read_header(_FieldReader(stream, path, size))
    except _CutShortError:
        return False
    except OSError as exc:
        raise unreadable_file(path, exc) from exc
    return True


def _read_header(reader: _FieldReader) -> GgufHeader:
    if reader.size < 24 or reader.take(4, "the magic") != b"GGUF":
        raise reader.broken("the file does not begin with GGUF")
    version = reader.number("<I", "the version")
    if version not in (2, 3):
        known = "big-endian files" if version in (2 << 24, 3 << 24) else "version {0}".format(version)
        raise reader.broken("{0} cannot be read; only little-endian versions 2 and 3 can".format(known))
    tensor_count, value_count = reader.number("<Q", "the tensor count"), reader.number("<Q", "the value count")
    # The shortest value is a key's length, a type and a byte; the shortest tensor a length, dimensions, type and offset.
    reader.expect(13 * value_count + 24 * tensor_count, "{0} values and {1} tensors".format(value_count, tensor_count))

    metadata: Dict[str, Any] = {}
    lengths: Dict[str, int] = {}
    for _number in range(value_count):
        key = reader.text("a key")
        kind = reader.number("<I", "the type of " + key)
        if kind == _ARRAY:
            lengths[key], numbers = reader.array(key)
            if numbers is not None:
                metadata[key] = numbers
        else:
            metadata[key] = reader.value(kind, key)

    tensors: List[Tensor] = []
    end = 0
    for _number in range(tensor_count):
        name = reader.text("a tensor's name")
        dimensions = reader.number("<I", "the dimensions of " + name)
        if dimensions > 8:
            raise reader.broken("tensor {0} has {1} dimensions".format(name, dimensions))
        shape = tuple(reader.number("<Q", "the shape of " + name) for _dimension in range(dimensions))
        kind, offset = reader.number("<I", "the type of " + name), reader.number("<Q", "the offset of " + name)
        word, block, width = GGML_TYPES.get(kind, ("type {0}".format(kind), 1, 0))
        tensor = Tensor(name, word, shape, 0)
        tensor = Tensor(name, word, shape, -(-tensor.elements // block) * width)
        tensors.append(tensor)
        end = max(end, offset + tensor.size)

    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0:
        raise reader.broken("general.alignment is {0!r}".format(alignment))
    data_bytes = max(0, reader.size - -(-reader.at // alignment) * alignment)
    if end > data_bytes:
        raise reader.broken("its tensors need {0} bytes, but the file has {1}".format(end, data_bytes))
    return GgufHeader(version, metadata, lengths, tuple(tensors), data_bytes)
