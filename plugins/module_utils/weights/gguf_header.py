# SPDX-License-Identifier: GPL-3.0-or-later
"""The header of a GGUF file, read without a library and without touching the tensors.

A GPU host has neither numpy nor gguf, and the format is a few fields; the unit tests compare this reader with the ``gguf``
library. A file is not trusted: every count is checked against the bytes that are left in the file before anything is read,
and a file that is cut short, or is not a model, is an ``AnvilError`` with the offset.
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from typing import Any, BinaryIO, Dict, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_files import open_file, unreadable_file
from ansible_collections.anvil.serving.plugins.module_utils.weights.weight_files import Tensor

# The most that is read of one file, regardless of the counts in it. Real headers hold the vocabulary and end below 20 MiB.
GGUF_HEADER_LIMIT = 40 * 1024 * 1024
TEXT_LIMIT = 1024 * 1024  # of one text, which must be there; only its first TEXT_KEPT bytes are kept
TEXT_KEPT = 512
# Arrays up to this many numbers are kept (per-layer head counts); longer ones, such as vocabularies, are stepped over.
KEPT_NUMBERS = 4096
KEPT_NUMBERS_TOTAL = 1_000_000
# More values or tensors than this have no meaning: llama.cpp's largest models have some thousands.
COUNT_LIMIT = 32_768
STRINGS_LIMIT = 2_000_000  # strings in arrays: a vocabulary and its merges have below 1 000 000

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

_FIXED = {
    kind: struct.Struct("<" + letter)
    for kind, letter in (
        (0, "B"),
        (1, "b"),
        (2, "H"),
        (3, "h"),
        (4, "I"),
        (5, "i"),
        (6, "f"),
        (7, "?"),
        (10, "Q"),
        (11, "q"),
        (12, "d"),
    )
}
_U32, _U64 = _FIXED[4], _FIXED[10]
_STRING, _ARRAY = 8, 9
# What follows the dimensions of a tensor: its shape, type and offset.
_TENSOR_ENDS = [struct.Struct("<{0}QIQ".format(dimensions)) for dimensions in range(9)]
# A key of the tokenizer with its length before it and a type behind it, as it follows the vocabulary.
_TOKENIZER_KEY = re.compile(rb"[\x0f-\x40]\x00{7}tokenizer\.[a-z_.]{4,50}[\x00-\x0c]\x00{3}")


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
    """Reads little-endian fields from a file that is not trusted. guess: step over string arrays by the key that follows."""

    def __init__(self, stream: BinaryIO, path: str, size: int, guess: bool) -> None:
        self.stream, self.path, self.size, self.guess = stream, path, size, guess
        self.buffer, self.at = bytearray(), 0
        self.kept_numbers, self.strings = 0, 0

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

    def load(self, end: int) -> bool:
        """Have the first ``end`` bytes of the file in the buffer; False where the stream is shorter."""
        while len(self.buffer) < end:
            piece = self.stream.read(max(end - len(self.buffer), len(self.buffer), 1 << 18))
            if not piece:
                return False
            self.buffer += piece
        return True

    def skip(self, count: int, what: str) -> int:
        """Step over ``count`` bytes; returns where they begin in the buffer."""
        self.expect(count, what)
        start = self.at
        if not self.load(start + count):
            raise _CutShortError(*self.broken("the file ends within " + what).problems)
        self.at += count
        return start

    def number(self, form: struct.Struct, what: str) -> Any:
        return form.unpack_from(self.buffer, self.skip(form.size, what))[0]

    def numbers(self, form: struct.Struct, what: str) -> Tuple[Any, ...]:
        return form.unpack_from(self.buffer, self.skip(form.size, what))

    def text(self, what: str) -> str:
        length = self.number(_U64, what)
        if length > TEXT_LIMIT:
            self.expect(length, what)
            raise self.broken("{0} is {1} bytes long".format(what, length))
        start = self.skip(length, what)
        return bytes(self.buffer[start : start + min(length, TEXT_KEPT)]).decode("utf-8", "replace")

    def value(self, kind: int, what: str) -> Any:
        if kind in _FIXED:
            return self.number(_FIXED[kind], what)
        if kind == _STRING:
            return self.text(what)
        raise self.broken("{0} has the unknown type {1}".format(what, kind))

    def array(self, what: str) -> Tuple[int, Any]:
        """The length of an array, and its numbers unless they are many."""
        kind, length = self.number(_U32, what), self.number(_U64, what)
        if kind == _STRING:
            self.skip_strings(length, what)
            return length, None
        if kind not in _FIXED:
            raise self.broken("{0} is an array of the unknown type {1}".format(what, kind))
        form = _FIXED[kind]
        start = self.skip(form.size * length, what)
        self.kept_numbers += length
        if length > KEPT_NUMBERS or self.kept_numbers > KEPT_NUMBERS_TOTAL:
            return length, None
        return length, list(struct.unpack_from("<{0}{1}".format(length, form.format[-1]), self.buffer, start))

    def skip_strings(self, length: int, what: str) -> None:
        """Step over strings, one by one. A long array is stepped over at once where a key of the tokenizer follows it."""
        self.expect(8 * length, what)
        self.strings += length
        if self.strings > STRINGS_LIMIT:
            raise self.broken("{0} has {1} strings".format(what, length))
        if self.guess and length >= 1024:
            following = self.find_following_key(self.at + 8 * length)
            if following is not None:
                self.at = following
                return
        at, limit = self.at, min(self.size, GGUF_HEADER_LIMIT)
        for _number in range(length):
            if at + 8 > len(self.buffer) and (at + 8 > limit or not self.load(at + 8)):
                at += 8
                break
            at += 8 + _U64.unpack_from(self.buffer, at)[0]
        self.skip(at - self.at, what)

    def find_following_key(self, start: int) -> Optional[int]:
        """Where the next key of the tokenizer begins, from ``start`` on; None where no such key is found."""
        limit = min(self.size, GGUF_HEADER_LIMIT)
        complete = False
        while not complete:
            complete = not self.load(min(limit, max(2 * len(self.buffer), start + (1 << 20)))) or len(self.buffer) >= limit
            word = self.buffer.find(b"tokenizer.", start + 8)
            while word >= 0:
                if _TOKENIZER_KEY.match(self.buffer, word - 8):
                    return word - 8
                word = self.buffer.find(b"tokenizer.", word + 1)
            start = max(start, len(self.buffer) - 72)  # a key may be cut by the end of the buffer
        return None


def read_gguf(path: str) -> GgufHeader:
    """Read the header of a GGUF file of version 2 or 3 (some 5 ms for a vocabulary of 150 000 tokens)."""
    try:
        return _read_with(path, guess=True)
    except _CutShortError:
        raise
    except AnvilError:
        # A string of the vocabulary may look like a key. Stepping from string to string is ten times slower, and never wrong.
        return _read_with(path, guess=False)


def _read_with(path: str, guess: bool, size: Optional[int] = None) -> GgufHeader:
    stream, found = open_file(path)
    with stream:
        try:
            return _read_header(_FieldReader(stream, path, found if size is None else size, guess))
        except OSError as exc:
            raise unreadable_file(path, exc) from exc


def holds_gguf_header(path: str, size: int) -> bool:
    """Whether ``path``, the beginning of a GGUF file of ``size`` bytes, holds the whole header."""
    try:
        _read_with(path, guess=False, size=size)
    except _CutShortError:
        return False
    return True


def _read_header(reader: _FieldReader) -> GgufHeader:
    if reader.size < 24 or reader.buffer[reader.skip(4, "the magic") : 4] != b"GGUF":
        raise reader.broken("the file does not begin with GGUF")
    version = reader.number(_U32, "the version")
    if version not in (2, 3):
        known = "big-endian files" if version in (2 << 24, 3 << 24) else "version {0}".format(version)
        raise reader.broken("{0} cannot be read; only little-endian versions 2 and 3 can".format(known))
    tensor_count, value_count = reader.number(_U64, "the tensor count"), reader.number(_U64, "the value count")
    # The shortest value is a key's length, a type and a byte; the shortest tensor a length, dimensions, type and offset.
    reader.expect(13 * value_count + 24 * tensor_count, "{0} values and {1} tensors".format(value_count, tensor_count))
    if value_count > COUNT_LIMIT or tensor_count > COUNT_LIMIT:
        raise reader.broken("it claims {0} values and {1} tensors".format(value_count, tensor_count))

    metadata: Dict[str, Any] = {}
    lengths: Dict[str, int] = {}
    for _number in range(value_count):
        key = reader.text("a key")
        kind = reader.number(_U32, "the type of " + key)
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
        dimensions = reader.number(_U32, "the dimensions of " + name)
        if dimensions > 8:
            raise reader.broken("tensor {0} has {1} dimensions".format(name, dimensions))
        *shape, kind, offset = reader.numbers(_TENSOR_ENDS[dimensions], name)
        word, block, width = GGML_TYPES.get(kind, ("type {0}".format(kind), 1, 0))
        tensor = Tensor(name, word, tuple(shape), -(-math.prod(shape) // block) * width)
        tensors.append(tensor)
        end = max(end, offset + tensor.size)

    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0:
        raise reader.broken("general.alignment is {0!r}".format(alignment))
    data_bytes = max(0, reader.size - -(-reader.at // alignment) * alignment)
    if end > data_bytes:
        raise reader.broken("its tensors need {0} bytes, but the file has {1}".format(end, data_bytes))
    return GgufHeader(version, metadata, lengths, tuple(tensors), data_bytes)
