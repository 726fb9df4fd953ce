# SPDX-License-Identifier: GPL-3.0-or-later
"""The NVIDIA cards and MIG devices of this host, as nvidia-smi reports them. Unknown stays unknown: names prove nothing."""

from __future__ import annotations

import glob
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from typing import Dict, List, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.host.driver_errors import DRIVER_HINT, SLOW_HINT, explain_driver

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
# On WSL2 and NixOS the driver's programs are in a folder that is not on the PATH of a non-interactive shell.
OTHER_PLACES = ("/usr/lib/wsl/lib/nvidia-smi", "/run/current-system/sw/bin/nvidia-smi")
# Without persistence mode the driver initialises every card for each question: 25 to 40 s were reported for 8 to 16 cards.
ANSWER_SECONDS = 120
# The exit code of nvidia-smi after a complete answer with the warning "infoROM is corrupted".
CORRUPT_INFOROM = 14
# The driver's cards by their PCI address, also those that are lost.
PROC_GPUS = "/proc/driver/nvidia/gpus"
MOST_CARDS = 16
# More characters of an answer that is not understood are not shown.
MOST_TEXT = 2000


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

    mig: whether it is in MIG mode, where only its ``mig_devices`` can be used; None: it has no MIG mode. trouble: the driver's
    words about a card that does not work; its uuid is empty where the driver cannot read it.
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
    trouble: Optional[str] = None

    @property
    def vram_free_mib(self) -> Optional[int]:
        if self.vram_total_mib is None or self.vram_used_mib is None:
            return None
        return self.vram_total_mib - self.vram_used_mib

    @property
    def shares_system_memory(self) -> bool:
        """It works and reports no memory of its own: GB10, Jetson, some virtual GPUs."""
        return bool(self.uuid) and self.vram_total_mib is None and not self.trouble and not self.mig


# What the driver prints instead of a value of a card that does not work; [N/A] and its like only mean "not supported".
_BROKEN = re.compile(r"GPU is lost|requires reset|Unknown Error|ERR!", re.IGNORECASE)
_LOST = re.compile(
    r"Unable to de\w+ the device handle for gpu\s*(?:\d+:\s+)?(?P<bus>[0-9a-f]+:[0-9a-f]+:[0-9a-f.]+)?|GPU is lost", re.IGNORECASE
)
_UUID = re.compile(r"(GPU|MIG)-\S+|[0-9a-f]{8}-[0-9a-f-]+", re.IGNORECASE)
_NO_DEVICES = "No devices were found"
_ASIDE = re.compile(r"\s*(?:warning\b|{0})".format(_NO_DEVICES), re.IGNORECASE)


def _text(cell: str) -> Optional[str]:
    word = cell.strip()
    unknown = not word or word.startswith("[") or _BROKEN.search(word) or word in ("N/A", "Not Supported", "Not Available")
    return None if unknown else word


def _number(cell: str) -> Optional[int]:
    found = re.fullmatch(r"(\d+)(?:[.,]\d+)?(?: ?MiB)?", cell.strip())
    return int(found[1]) if found else None


def _split(line: str) -> List[str]:
    """The cells of a row. nvidia-smi quotes nothing."""
    return [cell.strip() for cell in line.split(",")]


def _card_of(row: Sequence[str]) -> Optional[Card]:
    """The card of a row; None: the row is not a card. A card whose UUID the driver cannot read has none."""
    if len(row) < len(QUERY):
        return None
    extra = len(row) - len(QUERY)  # a name with commas
    cells = [*row[:2], ", ".join(row[2 : 3 + extra]), *row[3 + extra :]]
    uuid = _text(cells[1])
    if (uuid is None and not cells[1].strip()) or (uuid is not None and not _UUID.fullmatch(uuid)):
        return None
    broken = next((cell.strip().strip("[]") for cell in (cells[1], cells[4], cells[5]) if _BROKEN.search(cell)), None)
    return Card(
        index=_number(cells[0]),
        uuid=uuid or "",
        name=_text(cells[2]),
        compute_capability=_text(cells[3]),
        vram_total_mib=_number(cells[4]),
        vram_used_mib=_number(cells[5]),
        driver=_text(cells[6]),
        pci_bus_id=_text(cells[7]),
        mig={"Enabled": True, "Disabled": False}.get(cells[8].strip()),
        trouble=broken or (None if uuid else "the driver does not report its UUID"),
    )


def parse_cards(text: str) -> List[Card]:
    """Read ``nvidia-smi --query-gpu=... --format=csv,noheader,nounits``: the cards, also those that do not work.

    Warnings and header lines beside the rows do not count. Raises AnvilError if there is other text and no card at all.
    """
    cards, others = [], []
    for line in text.replace("\ufeff", "").splitlines():
        row = _split(line)
        card, lost = _card_of(row), _LOST.search(line)
        if card is not None:
            cards.append(card)
        elif lost:
            cards.append(Card(None, "", None, None, None, None, None, lost["bus"], trouble=line.strip()))
        elif line.strip() and not _ASIDE.match(line) and row[0] != QUERY[0]:
            others.append(line.strip())
    if others and not cards:
        what, hint = explain_driver(text, "the NVIDIA driver does not report any card")
        raise fail(what, where="nvidia-smi", why=text.strip()[:MOST_TEXT], hint=hint)
    return cards


_LISTED_CARD = re.compile(r"GPU \d+: .*\(UUID: (?P<uuid>[^)\s]+)\)")
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

    end = "</nvidia_smi_log>"
    try:
        # Warnings may stand before and after the document.
        document = text[max(text.find("<?xml"), 0) : text.rfind(end) + len(end) if end in text else None]
        root = ElementTree.fromstring(document)  # noqa: S314  the driver's own output
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


def read_minors(cards: Sequence[Card]) -> Dict[int, str]:
    """Number of a device file (``/dev/nvidia0``) -> UUID of its card. It need not be the card's index."""
    found = {}
    for path in glob.iglob(os.path.join(PROC_GPUS, "*", "information")):
        try:
            with open(path, encoding="utf-8", errors="replace") as handle:
                text = handle.read()
        except OSError:  # a card that is lost
            continue
        minor, uuid = re.search(r"Device Minor:\s*(\d+)", text), re.search(r"GPU UUID:\s*(\S+)", text)
        if minor and uuid and any(card.uuid == uuid[1] for card in cards):
            found[int(minor[1])] = uuid[1]
    return found


def find_driver() -> Optional[str]:
    """The path of ``nvidia-smi``; ``None`` where there is no NVIDIA driver."""
    return next((path for path in (shutil.which("nvidia-smi"), *map(shutil.which, OTHER_PLACES)) if path), None)


def ask_nvidia_smi(program: str, *words: str) -> Tuple[int, str]:
    """Exit code and output of ``nvidia-smi``. Raises AnvilError if it cannot be run, or does not answer in time."""
    try:
        process = subprocess.Popen(
            [program, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C"},
        )
    except OSError as exc:
        raise fail("the NVIDIA driver does not answer", where=program, why=str(exc), hint=DRIVER_HINT) from exc
    try:
        output, _error = process.communicate(timeout=ANSWER_SECONDS)
    except subprocess.TimeoutExpired as exc:
        process.kill()  # and not waited for: a process that hangs in the driver cannot be killed
        why = "{0} did not answer within {1} s".format(" ".join([program, *words[:1]]), ANSWER_SECONDS)
        hint = SLOW_HINT + "\nif that does not help: dmesg | grep -i -e nvrm -e xid"
        raise fail("the NVIDIA driver does not answer in time", where=program, why=why, hint=hint) from exc
    return process.returncode, output.decode("utf-8", "replace")


def run_nvidia_smi(program: str, *words: str) -> str:
    """The output of ``nvidia-smi``. Raises AnvilError with its output and what it means if it fails."""
    code, text = ask_nvidia_smi(program, *words)
    if code not in (0, CORRUPT_INFOROM) and _NO_DEVICES not in text:
        what, hint = explain_driver(text)
        raise fail(what, where=program, why=text.strip()[:MOST_TEXT] or "it exited with {0}".format(code), hint=hint)
    return text


_UNKNOWN_FIELD = re.compile(r'Field "(?P<field>[^"]+)" is not a valid field to query')


def query_cards(program: str, *select: str) -> str:
    """The driver's CSV with the columns of ``QUERY``, also where it comes with warnings or an exit code.

    A field that an old driver does not know (compute_cap: before 510; mig.mode.current: before 450) is an empty column: unknown.
    """
    fields = list(QUERY)
    while True:
        code, text = ask_nvidia_smi(program, *select, "--query-gpu=" + ",".join(fields), "--format=csv,noheader,nounits")
        unknown = _UNKNOWN_FIELD.search(text)
        if unknown is None or unknown["field"] not in fields:
            break
        fields.remove(unknown["field"])
    if code and not text.strip():
        raise fail("the NVIDIA driver does not answer", where=program, why="it exited with {0}".format(code), hint=DRIVER_HINT)
    if len(fields) == len(QUERY):
        return text
    return "".join(_widen(line, fields) for line in text.splitlines())


def _widen(line: str, fields: Sequence[str]) -> str:
    row = _split(line)
    if len(row) != len(fields):
        return line + "\n"
    cells = dict(zip(fields, row))
    return ", ".join(cells.get(field, "") for field in QUERY) + "\n"


def read_cards() -> Optional[List[Card]]:
    """The cards of this host, also those that do not work; ``None`` where there is no NVIDIA driver.

    Raises AnvilError if the driver fails. A sick card does not hide the others, nor what else the driver says.
    """
    program = find_driver()
    if program is None:
        return None
    cards = parse_cards(query_cards(program))
    if any(card.index is None and not card.uuid for card in cards):
        cards = _query_one_by_one(program, cards)
    if not any(card.mig for card in cards):
        return cards
    try:
        devices, memory = parse_mig_devices(run_nvidia_smi(program, "-L")), parse_mig_memory(run_nvidia_smi(program, "-q", "-x"))
    except AnvilError:
        if not any(card.trouble for card in cards):
            raise
        devices, memory = {}, {}
    return [replace(card, mig_devices=_with_memory(devices.get(card.uuid, ()), memory.get(card.uuid, []))) for card in cards]


def _query_one_by_one(program: str, known: Sequence[Card]) -> List[Card]:
    """Ask for each card alone: nvidia-smi ends at the first one that is lost, and does not list those after it."""
    try:
        names = sorted(os.listdir(PROC_GPUS))
    except OSError:
        names = []
    found = {_key_of(card): card for card in known}
    for name in names or map(str, range(MOST_CARDS)):
        try:
            cards = parse_cards(query_cards(program, "-i", name))
        except AnvilError:
            cards = []
        if not cards and not names:
            break  # the first index that no card has
        found.update({_key_of(card): card for card in cards})
    return sorted(found.values(), key=lambda card: (card.index is None, card.index or 0))


def _key_of(card: Card) -> str:
    return card.uuid or card.pci_bus_id or "{0} {1}".format(card.index, card.trouble)


def _with_memory(devices: Tuple[MigDevice, ...], memory: Sequence[Tuple[Optional[int], Optional[int]]]) -> Tuple[MigDevice, ...]:
    """The devices with the memory from the other listing; without it where the two list a different number of devices."""
    if len(devices) != len(memory):
        return devices
    return tuple(replace(one, vram_total_mib=total, vram_used_mib=used) for one, (total, used) in zip(devices, memory))
