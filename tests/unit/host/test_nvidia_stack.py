"""The NVIDIA stack: versions, CDI, and NVML through a stand-in for nvidia-ml-py (another project's library, not ours)."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import nvidia_outputs as recorded
import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import MigDevice
from ansible_collections.anvil.serving.plugins.module_utils.host.nvidia_stack import (
    parse_cuda_version,
    read_driver,
    read_nvml,
    read_persistence,
)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (recorded.LOG_535, "12.2"),
        ("CUDA UMD Version                          : 13.1\n", "13.1"),
        ("CUDA Version                              : N/A\n", None),
        (recorded.LOG_NOT_FOUND, None),
        ("", None),
    ],
)
def test_the_cuda_a_driver_can_run(text: str, version: str | None) -> None:
    assert parse_cuda_version(text) == version


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        self.value = value

    def __str__(self) -> str:
        return {
            3: "Not Supported",
            9: "Driver Not Loaded",
            12: "NVML Shared Library Not Found",
            15: "GPU is lost",
            18: "Driver/library version mismatch",
        }[self.value]


def _refuse(value: int) -> object:
    def ask(*_words: object) -> object:
        raise NVMLError(value)

    return ask


def _nvml(**changed: object) -> SimpleNamespace:
    """nvidia-ml-py with one H200, as bindings of 12.x answer."""
    answers = {
        "NVMLError": NVMLError,
        "NVML_ERROR_NOT_SUPPORTED": 3,
        "NVML_ERROR_NO_PERMISSION": 4,
        "NVML_ERROR_NOT_FOUND": 6,
        "NVML_ERROR_LIBRARY_NOT_FOUND": 12,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: "570.86.15",
        "nvmlSystemGetCudaDriverVersion_v2": lambda: 12080,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUUID": lambda handle: "MIG-1" if handle == "slice" else "GPU-1",
        "nvmlDeviceGetName": lambda handle: "NVIDIA H200 MIG 1g.18gb" if handle == "slice" else b"NVIDIA H200",
        "nvmlDeviceGetCudaComputeCapability": lambda _handle: (9, 0),
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(
            total=(16384 if handle == "slice" else 143771) << 20, used=(100 if handle == "slice" else 1) << 20
        ),
        "nvmlDeviceGetPciInfo": lambda _handle: SimpleNamespace(busId=b"00000000:19:00.0"),
        "nvmlDeviceGetMigMode": lambda _handle: (0, 0),
        "nvmlDeviceGetMaxMigDeviceCount": lambda _handle: 2,
        "nvmlDeviceGetMigDeviceHandleByIndex": lambda _handle, number: "slice" if number == 0 else _refuse(6)(),
    }
    return SimpleNamespace(**{**answers, **changed})


def test_nvml_tells_what_nvidia_smi_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _nvml())
    driver = read_nvml()
    assert driver is not None and (driver.source, driver.version, driver.cuda) == ("nvml", "570.86.15", "12.8")
    (card,) = driver.cards
    assert (card.uuid, card.name, card.compute_capability, card.vram_free_mib, card.mig, card.pci_bus_id) == (
        "GPU-1",
        "NVIDIA H200",
        "9.0",
        143770,
        False,
        "00000000:19:00.0",
    )


def test_nvml_unknown_stays_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _nvml(nvmlDeviceGetMemoryInfo=_refuse(3), nvmlDeviceGetMigMode=_refuse(3)))
    driver = read_nvml()
    assert driver is not None and driver.cards[0].vram_total_mib is None and driver.cards[0].mig is None


def test_nvml_lists_mig_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _nvml(nvmlDeviceGetMigMode=lambda _handle: (1, 1)))
    driver = read_nvml()
    assert driver is not None and driver.cards[0].mig_devices == (MigDevice("MIG-1", "1g.18gb", 16384, 100),)


def test_nvml_without_a_library_leaves_it_to_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _nvml(nvmlInit=_refuse(12)))
    assert read_nvml() is None


@pytest.mark.parametrize(
    ("call", "value", "words"),
    [
        ("nvmlInit", 9, "Driver Not Loaded"),
        ("nvmlInit", 18, "reboot the host"),
        ("nvmlDeviceGetCount", 15, "GPU is lost"),
    ],
)
def test_nvml_that_fails_is_an_error_with_its_words(monkeypatch: pytest.MonkeyPatch, call: str, value: int, words: str) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _nvml(**{call: _refuse(value)}))
    with pytest.raises(AnvilError) as caught:
        read_nvml()
    assert words in str(caught.value)


@pytest.mark.parametrize("call", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetUUID", "nvmlDeviceGetMemoryInfo"])
def test_a_card_that_nvml_has_lost_does_not_hide_the_other_one(monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    healthy = getattr(_nvml(), call)
    lost = {call: lambda handle: _refuse(15)() if handle == 0 else healthy(handle)}
    monkeypatch.setitem(sys.modules, "pynvml", _nvml(nvmlDeviceGetCount=lambda: 2, **lost))
    driver = read_nvml()
    assert driver is not None and [(card.uuid, card.trouble) for card in driver.cards] == [("", "GPU is lost"), ("GPU-1", None)]


@pytest.mark.parametrize("missing", ["nvmlDeviceGetMigMode", "nvmlSystemGetCudaDriverVersion_v2", "nvmlInit"])
def test_an_old_or_foreign_package_of_that_name_leaves_it_to_nvidia_smi(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    package = _nvml()
    delattr(package, missing)
    monkeypatch.setitem(sys.modules, "pynvml", package)
    assert read_nvml() is None


def test_a_package_that_cannot_be_imported_leaves_it_to_nvidia_smi(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text("raise RuntimeError('built for another Python')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    program = tmp_path / "nvidia-smi"
    program.write_text(
        f"#!/bin/sh\ncase \"$1\" in -q) cat <<'END'\n{recorded.LOG_535}\nEND\n;; *persistence*) echo Disabled;; "
        f"*) cat <<'END'\n{recorded.T4}END\n;; esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    driver = read_driver()
    assert driver is not None and (driver.source, driver.cuda, driver.version) == ("nvidia-smi", "12.2", "535.183.01")
    assert read_persistence() is False
