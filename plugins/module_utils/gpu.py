# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The NVIDIA cards of this host, as the driver tells of them. Unknown stays unknown: nothing is guessed from names."""

from __future__ import annotations

import csv
import io
import shutil
import subprocess
from dataclasses import dataclass
from typing import List, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.errors import fail

# Order matters: it is the order of the columns that parse_cards reads.
QUERY = ("index", "uuid", "name", "compute_cap", "memory.total", "memory.used", "driver_version", "pci.bus_id")


@dataclass(frozen=True)
class Card:
    """One card as the driver describes it. Memory in MiB; ``compute_capability`` such as ``12.0``; None is unknown."""

    index: Optional[int]
    uuid: str
    name: Optional[str]
    compute_capability: Optional[str]
    vram_total_mib: Optional[int]
    vram_used_mib: Optional[int]
    driver: Optional[str]
    pci_bus_id: Optional[str]

    @property
    def vram_free_mib(self) -> Optional[int]:
        if self.vram_total_mib is None or self.vram_used_mib is None:
            return None
        return self.vram_total_mib - self.vram_used_mib


def _text(cell: str) -> Optional[str]:
    word = cell.strip()
    return None if not word or word.startswith("[") or word in ("N/A", "ERR!") else word


def _number(cell: str) -> Optional[int]:
    word = _text(cell)
    return int(word) if word is not None and word.isdigit() else None


def parse_cards(text: str) -> List[Card]:
    """Read ``nvidia-smi --query-gpu=... --format=csv,noheader,nounits``. Rows that are no card raise AnvilError."""
    cards = []
    for row in csv.reader(io.StringIO(text), skipinitialspace=True):
        if not row:
            continue
        uuid = _text(row[1]) if len(row) == len(QUERY) else None
        if uuid is None:
            raise fail("the NVIDIA driver does not answer for every card", where="nvidia-smi", why=text.strip())
        cards.append(
            Card(
                index=_number(row[0]),
                uuid=uuid,
                name=_text(row[2]),
                compute_capability=_text(row[3]),
                vram_total_mib=_number(row[4]),
                vram_used_mib=_number(row[5]),
                driver=_text(row[6]),
                pci_bus_id=_text(row[7]),
            )
        )
    return cards


def _ask_driver(words: Sequence[str]) -> Tuple[int, str]:
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=30, check=False
    )
    return done.returncode, done.stdout.decode("utf-8", "replace")


def read_cards() -> Optional[List[Card]]:
    """The cards of this host; ``None`` where there is no NVIDIA driver. A driver that fails is an AnvilError."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        code, text = _ask_driver([program, "--query-gpu=" + ",".join(QUERY), "--format=csv,noheader,nounits"])
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise fail("the NVIDIA driver does not answer", where=program, why=str(exc)) from exc
    if code != 0 and "No devices were found" not in text:
        raise fail(
            "the NVIDIA driver does not answer",
            where=program,
            why=text.strip(),
            hint="nvidia-smi must work on the host before a container can have a card",
        )
    return [] if "No devices were found" in text else parse_cards(text)
