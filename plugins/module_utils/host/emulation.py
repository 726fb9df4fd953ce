# SPDX-License-Identifier: GPL-3.0-or-later
"""Which processors this host emulates for programs in containers: the handlers of binfmt_misc that the kernel has."""

from __future__ import annotations

import os
from typing import FrozenSet, Iterable, Mapping, Optional

HANDLERS = "/proc/sys/fs/binfmt_misc"
# e_machine in the header of an ELF program, in the byte order of the program -> the name in platforms of images.
MACHINES: Mapping[str, str] = {
    "3e00": "amd64",
    "0300": "386",
    "b700": "arm64",
    "2800": "arm",
    "f300": "riscv64",
    "1500": "ppc64le",
    "0016": "s390x",
}
ELF = "7f454c46"


def read_emulated(folder: str = HANDLERS) -> Optional[FrozenSet[str]]:
    """The processors that this host emulates; None where the kernel does not show its handlers."""
    try:
        names = os.listdir(folder)
        status = _read(os.path.join(folder, "status"))
    except OSError:
        return None
    if status.strip() != "enabled":
        return frozenset()
    texts = []
    for name in names:
        if name in ("status", "register"):
            continue
        try:
            texts.append(_read(os.path.join(folder, name)))
        except OSError:
            continue  # it was removed meanwhile
    return list_emulated(texts)


def list_emulated(handlers: Iterable[str]) -> FrozenSet[str]:
    """The processors in the texts of handlers. Only one with flag F counts: others look for theirs in the container."""
    found = set()
    for text in handlers:
        lines = text.splitlines()
        keys = dict(line.partition(" ")[::2] for line in lines)
        magic = keys.get("magic", "")
        is_on = bool(lines) and lines[0].strip() == "enabled" and "F" in keys.get("flags:", "")
        if is_on and keys.get("offset", "0") == "0" and magic.startswith(ELF) and len(magic) >= 40:
            found.add(MACHINES.get(magic[36:40], ""))
    return frozenset(found - {""})


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as stream:
        return stream.read(4096)
