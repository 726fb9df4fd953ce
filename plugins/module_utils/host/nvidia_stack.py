# SPDX-License-Identifier: GPL-3.0-or-later
"""The NVIDIA driver of this host: its version, the CUDA it can run, its cards, and persistence mode.

NVML is used where nvidia-ml-py can be imported (its answers are the same for every driver version), else ``nvidia-smi``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Callable, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.host.driver_errors import explain_driver
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import (
    Card,
    MigDevice,
    ask_nvidia_smi,
    find_driver,
    read_cards,
)

MIB = 1024 * 1024


@dataclass(frozen=True)
class Driver:
    """The driver and its cards. source: ``nvml`` or ``nvidia-smi``; cuda: the newest CUDA it can run, such as ``13.0``."""

    source: str
    version: Optional[str]
    cuda: Optional[str]
    cards: Tuple[Card, ...]


def parse_cuda_version(text: str) -> Optional[str]:
    """The newest CUDA the driver can run, from ``nvidia-smi -q``; drivers from 595 on call it "CUDA UMD Version"."""
    found = re.search(r"CUDA (?:UMD )?Version\s*:\s*(\d+\.\d+)", text)
    return found[1] if found else None


# ---------------------------------------------------------------------------------------------------------------- NVML


def _plain(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _read_optional(nvml: Any, read: Callable[..., Any], *arguments: Any) -> Any:
    """The answer, or None where the card does not support the question. A lost card raises the error."""
    try:
        return read(*arguments)
    except nvml.NVMLError as exc:
        if exc.value in (nvml.NVML_ERROR_NOT_SUPPORTED, nvml.NVML_ERROR_NO_PERMISSION, nvml.NVML_ERROR_NOT_FOUND):
            return None
        raise


def _nvml_mig(nvml: Any, handle: Any) -> Tuple[Optional[bool], Tuple[MigDevice, ...]]:
    mode = _read_optional(nvml, nvml.nvmlDeviceGetMigMode, handle)
    if mode is None or not mode[0]:
        return (None if mode is None else False), ()
    found = []
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        device = _read_optional(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex, handle, number)
        if device is not None:
            name = _plain(nvml.nvmlDeviceGetName(device))
            memory = _read_optional(nvml, nvml.nvmlDeviceGetMemoryInfo, device)
            total, used = (None, None) if memory is None else (memory.total // MIB, memory.used // MIB)
            found.append(MigDevice(_plain(nvml.nvmlDeviceGetUUID(device)), name.rpartition("MIG ")[2], total, used))
    return True, tuple(found)


def _nvml_card(nvml: Any, index: int, driver: str) -> Card:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    capability = _read_optional(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle)
    memory = _read_optional(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    mig, devices = _nvml_mig(nvml, handle)
    name = _read_optional(nvml, nvml.nvmlDeviceGetName, handle)
    pci = _read_optional(nvml, nvml.nvmlDeviceGetPciInfo, handle)
    return Card(
        index=index,
        uuid=_plain(nvml.nvmlDeviceGetUUID(handle)),
        name=None if name is None else _plain(name),
        compute_capability=None if capability is None else "{0}.{1}".format(*capability),
        vram_total_mib=None if memory is None else memory.total // MIB,
        vram_used_mib=None if memory is None else memory.used // MIB,
        driver=driver,
        pci_bus_id=None if pci is None else _plain(pci.busId),
        mig=mig,
        mig_devices=devices,
    )


def read_nvml() -> Optional[Driver]:
    """The driver and its cards from NVML; ``None`` where nvidia-ml-py or the driver's library is missing, or another or an older
    package has its name: then nvidia-smi answers. Raises AnvilError if the driver fails."""
    try:
        import pynvml as nvml
    except Exception:  # a package that cannot be imported, for whatever reason
        return None
    try:
        return _ask_nvml(nvml)
    except AnvilError:
        raise
    except Exception:  # not the library that we know: AttributeError, TypeError, ...
        return None


def _ask_nvml(nvml: Any) -> Optional[Driver]:
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as exc:
        if exc.value == nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            return None
        what, hint = explain_driver(str(exc))
        raise fail(what, where="NVML", why=str(exc), hint=hint) from exc
    try:
        version = _plain(nvml.nvmlSystemGetDriverVersion())
        cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()
        cards = tuple(_read_nvml_card(nvml, index, version) for index in range(nvml.nvmlDeviceGetCount()))
        return Driver("nvml", version, "{0}.{1}".format(cuda // 1000, cuda % 1000 // 10), cards)
    except nvml.NVMLError as exc:
        what, hint = explain_driver(str(exc), "the NVIDIA driver does not report its cards")
        raise fail(what, where="NVML", why=str(exc), hint=hint) from exc
    finally:
        nvml.nvmlShutdown()


def _read_nvml_card(nvml: Any, index: int, driver: str) -> Card:
    """A card; one that does not work keeps the driver's words, and does not hide the others."""
    try:
        return _nvml_card(nvml, index, driver)
    except nvml.NVMLError as exc:
        return Card(index, "", None, None, None, None, driver, None, trouble=str(exc))


def read_driver() -> Optional[Driver]:
    """The driver and its cards; ``None`` where there is none. Raises AnvilError with the driver's text if it fails."""
    driver = read_nvml()
    if driver is not None:
        return driver
    cards, program = read_cards(), find_driver()
    if cards is None or program is None:
        return None
    # COMPUTE is the shortest section; the CUDA version stands above all sections.
    text = _ask_or_nothing(program, "-q", "-d", "COMPUTE")
    version = next((card.driver for card in cards if card.driver), None)
    return Driver("nvidia-smi", version, parse_cuda_version(text), tuple(cards))


def _ask_or_nothing(program: str, *words: str) -> str:
    """What nvidia-smi answers to a question that the cards do not depend on; empty if it does not answer in time."""
    try:
        return ask_nvidia_smi(program, *words)[1]
    except AnvilError:
        return ""


def read_persistence() -> Optional[bool]:
    """Whether persistence mode is on for every card; None: unknown, as on WSL2, which has no such mode."""
    program = find_driver()
    if program is None:
        return None
    text = _ask_or_nothing(program, "--query-gpu=persistence_mode", "--format=csv,noheader")
    words = {line.strip() for line in text.splitlines()} & {"Enabled", "Disabled"}
    return None if not words else words == {"Enabled"}
