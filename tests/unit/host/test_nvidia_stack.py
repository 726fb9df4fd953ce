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
    parse_toolkit_version,
    read_nvml,
    read_toolkit,
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


def test_the_toolkit_tells_its_version() -> None:
    assert parse_toolkit_version("NVIDIA Container Toolkit CLI version 1.17.8\ncommit: f202b80a\n") == "1.17.8"
    assert parse_toolkit_version("") is None


def test_cdi_counts_only_when_the_engine_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia.yaml").write_text("cdiVersion: 0.5.0\nkind: nvidia.com/gpu\n")
    (tmp_path / "other.yaml").write_text("cdiVersion: 0.5.0\nkind: vendor.com/device\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    on = read_toolkit({"CDISpecDirs": [str(tmp_path)]})
    assert on.cdi_specs == (str(tmp_path / "nvidia.yaml"),) and on.cdi_enabled is True and on.present
    off = read_toolkit({"CDISpecDirs": []})
    assert off.cdi_enabled is False and not off.present
    assert read_toolkit({}).cdi_enabled is None


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        self.value = value

    def __str__(self) -> str:
        return {3: "Not Supported", 9: "Driver Not Loaded", 12: "NVML Shared Library Not Found", 15: "GPU is lost"}[self.value]


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
    ("call", "value", "words"), [("nvmlInit", 9, "Driver Not Loaded"), ("nvmlDeviceGetHandleByIndex", 15, "GPU is lost")]
)
def test_nvml_that_fails_is_an_error_with_its_words(monkeypatch: pytest.MonkeyPatch, call: str, value: int, words: str) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", _nvml(**{call: _refuse(value)}))
    with pytest.raises(AnvilError) as caught:
        read_nvml()
    assert words in str(caught.value)
