# SPDX-License-Identifier: GPL-3.0-or-later
"""The NVIDIA cards and MIG devices of this host, as nvidia-smi reports them. Unknown stays unknown: names prove nothing."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from typing import Dict, List, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail

# Order matters: it is the order of the columns that parse_cards reads.
QUERY = (
    "index",
    "uuid",
    "name",
    "compute_cap",
    "memory.total",
    "memory.used",
    "driver_version",
    "pci.bus_id",
    "mig.mode.current",
)
# On WSL2 the driver's programs are in a folder that is not on the PATH of a non-interactive shell.
WSL_NVIDIA_SMI = "/usr/lib/wsl/lib/nvidia-smi"


@dataclass(frozen=True)
class MigDevice:
    """A slice of a card in MIG mode; ``profile`` such as ``3g.20gb``. Memory in MiB; None is unknown.

    The profile's name is not the size: a 3g.20gb has 19968 MiB.
    """

    uuid: str
    profile: str
    vram_total_mib: Optional[int] = None
    vram_used_mib: Optional[int] = None

    @property
    def vram_free_mib(self) -> Optional[int]:
        if self.vram_total_mib is None or self.vram_used_mib is None:
            return None
        return self.vram_total_mib - self.vram_used_mib


@dataclass(frozen=True)
class Card:
    """One card as the driver describes it. Memory in MiB; ``compute_capability`` such as ``12.0``; None is unknown.

    mig: whether it is in MIG mode, where only its ``mig_devices`` can be used; None: it has no MIG mode.
    """

    index: Optional[int]
    uuid: str
    name: Optional[str]
    compute_capability: Optional[str]
    vram_total_mib: Optional[int]
    vram_used_mib: Optional[int]
    driver: Optional[str]
    pci_bus_id: Optional[str]
    mig: Optional[bool] = None
    mig_devices: Tuple[MigDevice, ...] = ()

    @property
    def vram_free_mib(self) -> Optional[int]:
        if self.vram_total_mib is None or self.vram_used_mib is None:
            return None
        return self.vram_total_mib - self.vram_used_mib


def _text(cell: str) -> Optional[str]:
    word = cell.strip()
    return None if not word or word.startswith("[") or word in ("N/A", "ERR!", "Unknown Error") else word


def _number(cell: str) -> Optional[int]:
    word = _text(cell)
    return int(word) if word is not None and word.isdigit() else None


def parse_cards(text: str) -> List[Card]:
    """Read ``nvidia-smi --query-gpu=... --format=csv,noheader,nounits``. Raises AnvilError for a row that is not a card."""
    cards = []
    for row in csv.reader(io.StringIO(text), skipinitialspace=True):
        if not row:
            continue
        uuid = _text(row[1]) if len(row) == len(QUERY) else None
        if uuid is None:
            raise fail("the NVIDIA driver does not report every card", where="nvidia-smi", why=text.strip(), hint=DRIVER_HINT)
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
                mig={"Enabled": True, "Disabled": False}.get(row[8].strip()),
            )
        )
    return cards


_LISTED_CARD = re.compile(r"GPU \d+: .*\(UUID: (?P<uuid>GPU-[^)\s]+)\)")
_LISTED_MIG = re.compile(r"\s+MIG (?P<profile>\S+)\s+Device\s+\d+: \(UUID: (?P<uuid>MIG-[^)\s]+)\)")


def parse_mig_devices(text: str) -> Dict[str, Tuple[MigDevice, ...]]:
    """Read ``nvidia-smi -L``: the MIG devices of each card that is listed, by the card's UUID."""
    found: Dict[str, Tuple[MigDevice, ...]] = {}
    card = ""
    for line in text.splitlines():
        head, inner = _LISTED_CARD.match(line), _LISTED_MIG.match(line)
        if head:
            card = head["uuid"]
            found[card] = ()
        elif inner and card:
            found[card] += (MigDevice(inner["uuid"], inner["profile"]),)
    return found


def parse_mig_memory(text: str) -> Dict[str, List[Tuple[Optional[int], Optional[int]]]]:
    """Read ``nvidia-smi -q -x``: total and used MiB of each MIG device in the order of ``-L``, by the card's UUID."""
    from xml.etree import ElementTree  # needed only for cards in MIG mode

    try:
        root = ElementTree.fromstring(text)  # noqa: S314  the driver's own output
    except ElementTree.ParseError as exc:
        raise fail("the NVIDIA driver does not answer", where="nvidia-smi -q -x", why=str(exc), hint=DRIVER_HINT) from exc
    found: Dict[str, List[Tuple[Optional[int], Optional[int]]]] = {}
    for card in root.iter("gpu"):
        listed = sorted(card.iter("mig_device"), key=lambda device: _number(device.findtext("index", "")) or 0)
        memory = [device.find("fb_memory_usage") for device in listed]
        found[card.findtext("uuid", "").strip()] = [
            (None, None) if usage is None else (_mib(usage.findtext("total", "")), _mib(usage.findtext("used", "")))
            for usage in memory
        ]
    return found


def _mib(text: str) -> Optional[int]:
    """``19968 MiB`` -> 19968."""
    number, _blank, unit = text.strip().partition(" ")
    return _number(number) if unit == "MiB" else None


@dataclass(frozen=True)
class Device:
    """A card or MIG device, to which a serve can be pinned. Memory in MiB; None is unknown."""

    uuid: str
    vram_total_mib: Optional[int]
    vram_free_mib: Optional[int]


def find_device(uuid: str, cards: Sequence[Card]) -> Optional[Device]:
    """The card or MIG device of that UUID."""
    for card in cards:
        if card.uuid == uuid:
            return Device(uuid, card.vram_total_mib, card.vram_free_mib)
        for device in card.mig_devices:
            if device.uuid == uuid:
                return Device(uuid, device.vram_total_mib, device.vram_free_mib)
    return None


def find_driver() -> Optional[str]:
    """The path of ``nvidia-smi``; ``None`` where there is no NVIDIA driver."""
    return shutil.which("nvidia-smi") or shutil.which(WSL_NVIDIA_SMI)


def run_nvidia_smi(program: str, *words: str) -> str:
    """The output of ``nvidia-smi``. Raises AnvilError with its output if it fails or hangs; a host without cards is no error."""
    try:
        done = subprocess.run(
            [program, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise fail("the NVIDIA driver does not answer", where=program, why=str(exc), hint=DRIVER_HINT) from exc
    text = done.stdout.decode("utf-8", "replace")
    if done.returncode != 0 and "No devices were found" not in text and not _UNKNOWN_FIELD.search(text):
        raise fail("the NVIDIA driver does not answer", where=program, why=text.strip(), hint=DRIVER_HINT)
    return text


DRIVER_HINT = "type nvidia-smi on the host and repair what it reports: no container can use a GPU until it works"
_UNKNOWN_FIELD = re.compile(r'Field "(?P<field>[^"]+)" is not a valid field to query')


def query_cards(program: str) -> str:
    """The driver's CSV with the columns of ``QUERY``. A field that an old driver does not know (compute_cap: before 510;
    mig.mode.current: before 450) is an empty column: unknown."""
    fields = list(QUERY)
    while True:
        text = run_nvidia_smi(program, "--query-gpu=" + ",".join(fields), "--format=csv,noheader,nounits")
        unknown = _UNKNOWN_FIELD.search(text)
        if unknown is None or unknown["field"] not in fields:
            break
        fields.remove(unknown["field"])
    if len(fields) == len(QUERY) or "No devices were found" in text:
        return text
    return "".join(_widen(row, fields) for row in csv.reader(io.StringIO(text), skipinitialspace=True))


def _widen(row: Sequence[str], fields: Sequence[str]) -> str:
    if len(row) != len(fields):
        return ", ".join(row) + "\n"
    cells = dict(zip(fields, row))
    return ", ".join(cells.get(field, "") for field in QUERY) + "\n"


def read_cards() -> Optional[List[Card]]:
    """The cards of this host; ``None`` where there is no NVIDIA driver. Raises AnvilError if the driver fails."""
    program = find_driver()
    if program is None:
        return None
    text = query_cards(program)
    cards = [] if "No devices were found" in text else parse_cards(text)
    if not any(card.mig for card in cards):
        return cards
    devices, memory = parse_mig_devices(run_nvidia_smi(program, "-L")), parse_mig_memory(run_nvidia_smi(program, "-q", "-x"))
    return [replace(card, mig_devices=_with_memory(devices.get(card.uuid, ()), memory.get(card.uuid, []))) for card in cards]


def _with_memory(devices: Tuple[MigDevice, ...], memory: Sequence[Tuple[Optional[int], Optional[int]]]) -> Tuple[MigDevice, ...]:
    """The devices with the memory from the other listing; without it where the two list a different number of devices."""
    if len(devices) != len(memory):
        return devices
    return tuple(replace(one, vram_total_mib=total, vram_used_mib=used) for one, (total, used) in zip(devices, memory))
