# SPDX-License-Identifier: GPL-3.0-or-later
"""What NVML reports about the health and use of each card, where nvidia-ml-py can be imported. Every field may be absent."""

from __future__ import annotations

from typing import Any, Callable, List, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_snapshot import CardSnapshot, name_bus, number_recovery

# Bits of the reasons for lowered clocks: nvmlClocksEventReasons.
REASONS = (("hw_slowdown", 0x8), ("hw_thermal", 0x40), ("hw_power", 0x80), ("sw_thermal", 0x20), ("sw_power", 0x4))
# Fields: whether a reset is required, whether it is recommended (both until R560), and the recovery action (from R565).
RESET_REQUIRED, RESET_RECOMMENDED, RECOVERY_ACTION = 226, 227, 230
# nvmlReturn: a card that is lost, and one that requires a reset.
BROKEN = (15, 16)
UNCORRECTED, CORRECTED, VOLATILE, AGGREGATE = 1, 0, 0, 1
SENSOR, SLOWDOWN = 0, 1
MOST_LINKS, LINK_COUNTERS = 18, (0, 1, 3)  # replays, recoveries, errors of data


class _Card:
    """The questions to one card. broken: the driver's words where it does not work."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self.nvml, self.handle, self.broken = nvml, handle, ""

    def ask(self, name: str, *words: Any) -> Any:
        """The answer; None where it is not supported, or not known to this library."""
        question: Optional[Callable[..., Any]] = getattr(self.nvml, name, None)
        if question is None:
            return None
        try:
            return question(self.handle, *words)
        except self.nvml.NVMLError as exc:
            if getattr(exc, "value", None) in BROKEN:
                self.broken = str(exc)
            return None

    def text(self, name: str) -> str:
        value = self.ask(name)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")

    def scaled(self, name: str, scale: float, *words: Any) -> Optional[float]:
        value = self.ask(name, *words)
        return None if value is None else value / scale

    def fields(self) -> Tuple[Optional[int], Optional[int], Optional[int]]:
        found = self.ask("nvmlDeviceGetFieldValues", [RESET_REQUIRED, RESET_RECOMMENDED, RECOVERY_ACTION])
        if not found or len(found) != 3:
            return None, None, None
        values = [int(one.value.uiVal) if one.nvmlReturn == 0 else None for one in found]
        return values[0], values[1], values[2]

    def devices(self) -> Tuple[str, ...]:
        mode = self.ask("nvmlDeviceGetMigMode")
        if not mode or not mode[0]:
            return ()
        slices = [
            self.ask("nvmlDeviceGetMigDeviceHandleByIndex", place)
            for place in range(self.ask("nvmlDeviceGetMaxMigDeviceCount") or 0)
        ]
        return tuple(_Card(self.nvml, one).text("nvmlDeviceGetUUID") for one in slices if one is not None)

    def link_errors(self) -> Optional[int]:
        counts: List[int] = []
        for link in range(MOST_LINKS):
            if self.ask("nvmlDeviceGetNvLinkState", link) == 1:
                found = [self.ask("nvmlDeviceGetNvLinkErrorCounter", link, counter) for counter in LINK_COUNTERS]
                counts += [int(one) for one in found if one is not None]
        return sum(counts) if counts else None


def _read_card(nvml: Any, index: int, driver: str) -> CardSnapshot:
    try:
        card = _Card(nvml, nvml.nvmlDeviceGetHandleByIndex(index))
    except nvml.NVMLError as exc:
        return CardSnapshot(index=index, driver=driver, broken=str(exc) or "the driver gives no handle")
    memory, use, pci = (
        card.ask(name) for name in ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetUtilizationRates", "nvmlDeviceGetPciInfo")
    )
    required, recommended, action = card.fields()
    rows = card.ask("nvmlDeviceGetRemappedRows")
    pending = card.ask("nvmlDeviceGetRetiredPagesPendingStatus")
    reasons = card.ask("nvmlDeviceGetCurrentClocksEventReasons") or card.ask("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
    bus = getattr(pci, "busId", "")
    uuid = card.text("nvmlDeviceGetUUID")
    return CardSnapshot(
        index=index,
        uuid=uuid,
        name=card.text("nvmlDeviceGetName") or None,
        bus=name_bus(bus.decode("ascii", "replace") if isinstance(bus, bytes) else str(bus)),
        driver=driver,
        devices=card.devices(),
        memory_total=None if memory is None else int(memory.total),
        memory_used=None if memory is None else int(memory.used),
        utilisation=None if use is None else use.gpu / 100,
        temperature=card.scaled("nvmlDeviceGetTemperature", 1, SENSOR),
        slowdown_temperature=card.scaled("nvmlDeviceGetTemperatureThreshold", 1, SLOWDOWN),
        power=card.scaled("nvmlDeviceGetPowerUsage", 1000),
        power_limit=card.scaled("nvmlDeviceGetEnforcedPowerLimit", 1000),
        recovery=None if action is None else number_recovery(action),
        recovery_words="" if action is None else "recovery action {0}".format(action) if action else "None",
        reset_required=None if required is None else bool(required),
        reset_recommended=None if recommended is None else bool(recommended),
        remap_pending=None if rows is None else bool(rows[2]),
        remap_failure=None if rows is None else bool(rows[3]),
        retirement_pending=None if pending is None else bool(pending),
        uncorrected=card.ask("nvmlDeviceGetTotalEccErrors", UNCORRECTED, VOLATILE),
        uncorrected_ever=card.ask("nvmlDeviceGetTotalEccErrors", UNCORRECTED, AGGREGATE),
        corrected=card.ask("nvmlDeviceGetTotalEccErrors", CORRECTED, VOLATILE),
        throttles=tuple(flag for flag, bit in REASONS if reasons & bit),
        link_width=card.ask("nvmlDeviceGetCurrPcieLinkWidth"),
        link_width_most=card.ask("nvmlDeviceGetMaxPcieLinkWidth"),
        nvlink_errors=card.link_errors(),
        broken=card.broken,
    )


def read_nvml_snapshots() -> Optional[List[CardSnapshot]]:
    """None where NVML cannot be asked, or fails as a whole: nvidia-smi says why in words."""
    try:
        import pynvml as nvml

        nvml.nvmlInit()
    except Exception:  # a package that cannot be imported, another one of its name, or a driver that does not answer
        return None
    try:
        version = nvml.nvmlSystemGetDriverVersion()
        driver = version.decode("ascii", "replace") if isinstance(version, bytes) else str(version)
        return [_read_card(nvml, index, driver) for index in range(nvml.nvmlDeviceGetCount())]
    except Exception:  # not the library that we know, or an error of the driver
        return None
    finally:
        nvml.nvmlShutdown()
