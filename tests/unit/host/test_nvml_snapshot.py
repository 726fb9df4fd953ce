# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The health of cards through a stand-in for nvidia-ml-py (another project's library): a card, and answers that are missing."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.host import gpu_health_on_host, kernel_log
from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_health import judge_card
from ansible_collections.anvil.serving.plugins.module_utils.host.nvml_snapshot import read_nvml_snapshots


class NVMLError(Exception):
    def __init__(self, value: int, words: str = "Not Supported") -> None:
        super().__init__(words)
        self.value = value


def refuse(value: int = 3, words: str = "Not Supported") -> Any:
    def ask(*_words: object) -> object:
        raise NVMLError(value, words)

    return ask


def fields(*values: int | None) -> Any:
    row = [SimpleNamespace(nvmlReturn=3 if value is None else 0, value=SimpleNamespace(uiVal=value)) for value in values]
    return lambda _handle, _ids: row


def library(**changed: Any) -> SimpleNamespace:
    answers: dict[str, Any] = {
        "NVMLError": NVMLError,
        "nvmlInit": lambda: None,
        "nvmlShutdown": lambda: None,
        "nvmlSystemGetDriverVersion": lambda: b"580.95.05",
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetUUID": lambda handle: "MIG-1" if handle == "slice" else "GPU-1",
        "nvmlDeviceGetName": lambda _handle: b"NVIDIA H100",
        "nvmlDeviceGetPciInfo": lambda _handle: SimpleNamespace(busId=b"00000000:0A:00.0"),
        "nvmlDeviceGetMemoryInfo": lambda _handle: SimpleNamespace(total=80 << 30, used=1 << 30),
        "nvmlDeviceGetUtilizationRates": lambda _handle: SimpleNamespace(gpu=40),
        "nvmlDeviceGetTemperature": lambda _handle, _sensor: 41,
        "nvmlDeviceGetPowerUsage": lambda _handle: 311260,
        "nvmlDeviceGetFieldValues": fields(None, None, 0),
        "nvmlDeviceGetRemappedRows": lambda _handle: (0, 0, 0, 0),
        "nvmlDeviceGetTotalEccErrors": lambda _handle, _kind, _span: 0,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda _handle: 0x4,
        "nvmlDeviceGetMigMode": lambda _handle: (0, 0),
    }
    return SimpleNamespace(**{**answers, **changed})


def read(monkeypatch: pytest.MonkeyPatch, **changed: Any) -> Any:
    monkeypatch.setitem(sys.modules, "pynvml", library(**changed))
    found = read_nvml_snapshots()
    return found and found[0]


def test_figures_of_a_healthy_card(monkeypatch: pytest.MonkeyPatch) -> None:
    card = read(monkeypatch)
    assert (card.uuid, card.name, card.bus, card.driver) == ("GPU-1", "NVIDIA H100", "0000:0a:00", "580.95.05")
    assert (card.memory_total, card.utilisation, card.temperature, card.power) == (80 << 30, 0.4, 41, 311.26)
    assert card.recovery == "" and card.throttles == ("sw_power",) and card.power_limit is None
    assert judge_card(card).state == "ok"


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"nvmlDeviceGetFieldValues": fields(None, None, 1)}, {"recovery_reset": "out"}),
        ({"nvmlDeviceGetFieldValues": fields(None, None, 2)}, {"recovery_reboot": "out"}),
        ({"nvmlDeviceGetFieldValues": fields(None, None, 3)}, {"recovery_drain_p2p": "doubtful"}),
        ({"nvmlDeviceGetFieldValues": fields(None, None, 99)}, {"recovery_other": "doubtful"}),
        ({"nvmlDeviceGetFieldValues": fields(1, 0, None)}, {"reset_required": "out"}),
        ({"nvmlDeviceGetFieldValues": refuse()}, {}),
        ({"nvmlDeviceGetRemappedRows": lambda _handle: (0, 1, 1, 0)}, {"remap_pending": "note"}),
        ({"nvmlDeviceGetRemappedRows": lambda _handle: (0, 1, 0, 1)}, {"remap_failure": "out"}),
        ({"nvmlDeviceGetRetiredPagesPendingStatus": lambda _handle: 1}, {"retirement_pending": "note"}),
        ({"nvmlDeviceGetCurrentClocksEventReasons": lambda _handle: 0x48}, {"hw_thermal": "doubtful"}),
        ({"nvmlDeviceGetTemperature": refuse(15, "GPU is lost")}, {"lost": "out"}),
        ({"nvmlDeviceGetMemoryInfo": refuse(16, "GPU requires reset")}, {"reset_required": "out"}),
        ({"nvmlDeviceGetHandleByIndex": refuse(15, "GPU is lost")}, {"lost": "out"}),
        (
            {
                "nvmlDeviceGetNvLinkState": lambda _handle, link: int(link < 2),
                "nvmlDeviceGetNvLinkErrorCounter": lambda *_words: 2,
            },
            {"nvlink_errors": "note"},
        ),
    ],
)
def test_what_nvml_reports(monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any], found: dict[str, str]) -> None:
    assert {one.key: one.verdict for one in judge_card(read(monkeypatch, **changed)).findings} == found


def test_the_slices_of_a_card_belong_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    card = read(
        monkeypatch,
        nvmlDeviceGetMigMode=lambda _handle: (1, 1),
        nvmlDeviceGetMaxMigDeviceCount=lambda _handle: 2,
        nvmlDeviceGetMigDeviceHandleByIndex=lambda _handle, place: "slice" if place == 0 else refuse(6)(),
    )
    assert card.devices == ("MIG-1",)


@pytest.mark.parametrize(
    "changed", [{"nvmlInit": refuse(18)}, {"nvmlDeviceGetCount": refuse(9)}, {"nvmlSystemGetDriverVersion": None}]
)
def test_a_library_that_fails_leaves_it_to_nvidia_smi(monkeypatch: pytest.MonkeyPatch, changed: dict[str, Any]) -> None:
    assert read(monkeypatch, **changed) is None


def test_nvml_is_asked_before_nvidia_smi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library())
    monkeypatch.setenv(kernel_log.KMSG_VARIABLE, "/dev/null/none")
    monkeypatch.setattr(gpu_health_on_host, "find_driver", lambda: None)
    health = gpu_health_on_host.read_health()
    assert health is not None and health.source == "nvml" and [one.state for one in health.cards] == ["ok"]
