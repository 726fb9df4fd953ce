# SPDX-License-Identifier: GPL-3.0-or-later
"""The NVIDIA stack of this host: driver, the CUDA it can run, cards, container toolkit and CDI.

NVML is used where nvidia-ml-py can be imported (its answers are the same for every driver version), else ``nvidia-smi``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any, Callable, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import (
    DRIVER_HINT,
    Card,
    MigDevice,
    find_driver,
    read_cards,
    run_nvidia_smi,
)

MIB = 1024 * 1024
CDI_FOLDERS = ("/etc/cdi", "/var/run/cdi")
CDI_KIND = "nvidia.com/gpu"


@dataclass(frozen=True)
class Driver:
    """The driver and its cards. source: ``nvml`` or ``nvidia-smi``; cuda: the newest CUDA it can run, such as ``13.0``."""

    source: str
    version: Optional[str]
    cuda: Optional[str]
    cards: Tuple[Card, ...]


@dataclass(frozen=True)
class Toolkit:
    """What gives containers access to GPUs. hook, runtime: paths; cdi_specs: files that describe the GPUs of the host.

    cdi_enabled: whether the Docker Engine reads such files; None: it does not report that.
    """

    hook: Optional[str]
    runtime: Optional[str]
    version: Optional[str]
    cdi_specs: Tuple[str, ...]
    cdi_enabled: Optional[bool]

    @property
    def present(self) -> bool:
        """Containers can use GPUs: the Docker Engine finds the hook, or CDI is on and describes the GPUs."""
        return self.hook is not None or bool(self.cdi_specs and self.cdi_enabled)


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
    """The driver and its cards from NVML; ``None`` where nvidia-ml-py or the driver's library is missing. Raises AnvilError if
    the driver fails."""
    try:
        import pynvml as nvml
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as exc:
        if exc.value == nvml.NVML_ERROR_LIBRARY_NOT_FOUND:
            return None
        raise fail("the NVIDIA driver does not answer", where="NVML", why=str(exc), hint=DRIVER_HINT) from exc
    try:
        version = _plain(nvml.nvmlSystemGetDriverVersion())
        cuda = nvml.nvmlSystemGetCudaDriverVersion_v2()
        cards = tuple(_nvml_card(nvml, index, version) for index in range(nvml.nvmlDeviceGetCount()))
        return Driver("nvml", version, "{0}.{1}".format(cuda // 1000, cuda % 1000 // 10), cards)
    except nvml.NVMLError as exc:
        raise fail("the NVIDIA driver does not report every card", where="NVML", why=str(exc), hint=DRIVER_HINT) from exc
    finally:
        nvml.nvmlShutdown()


def read_driver() -> Optional[Driver]:
    """The driver and its cards; ``None`` where there is none. Raises AnvilError with the driver's text if it fails."""
    driver = read_nvml()
    if driver is not None:
        return driver
    cards, program = read_cards(), find_driver()
    if cards is None or program is None:
        return None
    # COMPUTE is the shortest section; the CUDA version stands above all sections.
    text = run_nvidia_smi(program, "-q", "-d", "COMPUTE")
    return Driver("nvidia-smi", cards[0].driver if cards else None, parse_cuda_version(text), tuple(cards))


# ------------------------------------------------------------------------------------------------------------- toolkit


def _cdi_specs(folders: Sequence[str]) -> List[str]:
    found = []
    for folder in folders:
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
            path = os.path.join(folder, name)
            if not name.endswith((".yaml", ".yml", ".json")):
                continue
            with open(path, encoding="utf-8", errors="replace") as spec:
                if CDI_KIND in spec.read(4096):
                    found.append(path)
    return found


def parse_toolkit_version(text: str) -> Optional[str]:
    """``1.17.8`` from the output of ``nvidia-ctk --version``."""
    found = re.search(r"version (\d+\.\d+\.\d+)", text)
    return found[1] if found else None


def read_toolkit(engine_info: Mapping[str, Any]) -> Toolkit:
    """The container toolkit of this host. engine_info: the Docker Engine's info (may be empty)."""
    program = shutil.which("nvidia-ctk")
    text = ""
    if program:
        done = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=30,
            check=False,
        )
        text = done.stdout.decode("utf-8", "replace")
    folders = engine_info.get("CDISpecDirs")
    return Toolkit(
        hook=shutil.which("nvidia-container-runtime-hook"),
        runtime=shutil.which("nvidia-container-runtime"),
        version=parse_toolkit_version(text),
        cdi_specs=tuple(_cdi_specs(folders or CDI_FOLDERS)),
        # Docker Engine 25 and later reports its CDI folders, and reports none while CDI is off.
        cdi_enabled=None if folders is None and "CDISpecDirs" not in engine_info else bool(folders),
    )
