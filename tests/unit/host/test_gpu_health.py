# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The health of cards: only what is certain takes a card out, history does not count, and no line of the log can be forged."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.catalog import gpu_conditions
from ansible_collections.anvil.serving.plugins.module_utils.host import gpu_health_on_host, kernel_log
from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_health import judge_card, judge_cards, judge_devices
from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_snapshot import CardSnapshot, name_bus, parse_snapshots
from ansible_collections.anvil.serving.plugins.module_utils.host.kernel_log import (
    KernelLine,
    parse_dmesg,
    parse_journal,
    parse_kmsg,
    read_kernel_log,
)
from ansible_collections.anvil.serving.plugins.module_utils.host.xid_events import find_events
from conftest import REPO

UUID = "GPU-d0f446cf-1771-414c-e116-a39138798a8c"
HEAD = '<?xml version="1.0" ?>\n<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">\n'
# The fields that a healthy H100 reports, by a driver of 2025.
FIELDS = {
    "gpu_recovery_action": "None",
    "gpu_reset_status": {"reset_required": "Requested functionality has been deprecated"},
    "ecc_errors": {
        "volatile": {"sram_correctable": "0", "sram_uncorrectable_parity": "0", "dram_uncorrectable": "0"},
        "aggregate": {"dram_uncorrectable": "0", "sram_threshold_exceeded": "No"},
        "channel_repair_pending": "No",
    },
    "retired_pages": {"pending_blacklist": "N/A", "pending_retirement": "N/A"},
    "remapped_rows": {"remapped_row_pending": "No", "remapped_row_failure": "No"},
    "clocks_event_reasons": {"clocks_event_reason_sw_power_cap": "Active", "clocks_event_reason_hw_slowdown": "Not Active"},
    "temperature": {"gpu_temp": "41 C", "gpu_temp_tlimit": "46 C", "gpu_temp_slow_tlimit_threshold": "-2 C"},
    "gpu_power_readings": {"instant_power_draw": "311.26 W", "current_power_limit": "700.00 W"},
    "fb_memory_usage": {"total": "81559 MiB", "used": "4 MiB"},
    "utilization": {"gpu_util": "30 %"},
    "fabric": {"state": "Completed", "status": "Success", "health": {"bandwidth": "Full", "route_unhealthy": "False"}},
}


def tags(fields: Any) -> str:
    if isinstance(fields, dict):
        return "".join(f"<{name}>{tags(inner)}</{name}>" for name, inner in fields.items())
    return str(fields)


def document(*cards: dict[str, Any]) -> str:
    texts = [
        f'<gpu id="00000000:{number + 1:02X}:00.0"><product_name>NVIDIA H100</product_name><uuid>{UUID[:-1]}{number}</uuid>'
        f"<pci><pci_bus_id>00000000:{number + 1:02X}:00.0</pci_bus_id></pci>{tags(fields)}</gpu>"
        for number, fields in enumerate(cards)
    ]
    return HEAD + "<nvidia_smi_log><driver_version>580.95.05</driver_version>" + "".join(texts) + "</nvidia_smi_log>\n"


def read(**fields: Any) -> CardSnapshot:
    (card,), trouble = parse_snapshots(document({**FIELDS, **fields}))
    assert not trouble
    return card


def xid(code: int, text: str = ", pid=812, name=python3, x", seconds: float = 100, bus: str = "0000:01:00") -> KernelLine:
    return KernelLine(seconds, f"NVRM: Xid (PCI:{bus}): {code}{text}")


LOADED = KernelLine(50, "NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build")


def judge(card: CardSnapshot, *lines: KernelLine) -> dict[str, str]:
    """key -> verdict."""
    health = judge_card(card, find_events([LOADED, *lines]).get("0000:01:00", ()))
    return {one.key: one.verdict for one in health.findings}


# ------------------------------------------------------------------------------------------------------ what the driver says


def test_a_healthy_card_is_ok_and_its_figures_are_read() -> None:
    card = read()
    assert judge_card(card).state == "ok"
    assert (card.memory_total, card.memory_used, card.utilisation) == (81559 << 20, 4 << 20, 0.3)
    assert (card.temperature, card.power, card.power_limit, card.uncorrected) == (41, 311.26, 700, 0)
    assert card.throttles == ("sw_power",) and card.recovery == ""


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"gpu_recovery_action": "Reset"}, {"recovery_reset": "out"}),
        ({"gpu_recovery_action": "Reboot"}, {"recovery_reboot": "out"}),
        ({"gpu_recovery_action": "Drain and Reset"}, {"recovery_drain_reset": "out"}),
        ({"gpu_recovery_action": "Drain P2P"}, {"recovery_drain_p2p": "doubtful"}),
        ({"gpu_recovery_action": "Node Reboot Required"}, {"recovery_reboot": "out"}),
        ({"gpu_recovery_action": "Recover IMEX Domain"}, {"recovery_other": "doubtful"}),
        ({"gpu_recovery_action": "N/A"}, {}),
        # Drivers of 535 to 560 have this field instead.
        ({"gpu_recovery_action": "", "gpu_reset_status": {"reset_required": "Yes"}}, {"reset_required": "out"}),
        (
            {"gpu_recovery_action": "", "gpu_reset_status": {"drain_and_reset_recommended": "Yes"}},
            {"reset_recommended": "doubtful"},
        ),
        ({"remapped_rows": {"remapped_row_pending": "Yes"}}, {"remap_pending": "note"}),
        ({"remapped_rows": {"remapped_row_failure": "Yes"}}, {"remap_failure": "out"}),
        ({"remapped_rows": "N/A"}, {}),
        ({"retired_pages": {"pending_retirement": "Yes"}}, {"retirement_pending": "note"}),
        ({"retired_pages": {"pending_blacklist": "Yes"}}, {"retirement_pending": "note"}),
        ({"ecc_errors": {"volatile": {"dram_uncorrectable": "2"}}}, {"uncorrected": "doubtful"}),
        ({"ecc_errors": {"aggregate": {"dram_uncorrectable": "2"}}}, {"uncorrected_ever": "note"}),
        ({"ecc_errors": {"aggregate": {"sram_threshold_exceeded": "Yes"}}}, {"sram_threshold": "doubtful"}),
        ({"ecc_errors": {"volatile": {"double_bit": {"total": "3"}}}}, {"uncorrected": "doubtful"}),
        ({"ecc_errors": {"volatile": {"double_bit": {"total": "N/A"}}}}, {}),
        ({"ecc_errors": {"tpc_repair_pending": "Yes"}}, {"repair_pending": "note"}),
        ({"ecc_errors": {"unrepairable_memory": "Yes"}}, {"unrepairable": "doubtful"}),
        ({"clocks_event_reasons": {"clocks_event_reason_hw_thermal_slowdown": "Active"}}, {"hw_thermal": "doubtful"}),
        (
            {"clocks_event_reasons": "", "clocks_throttle_reasons": {"clocks_throttle_reason_hw_slowdown": "Active"}},
            {"hw_slowdown": "doubtful"},
        ),
        ({"clocks_event_reasons": {"clocks_event_reason_sw_thermal_slowdown": "Active"}}, {"sw_thermal": "note"}),
        ({"clocks_event_reasons": {"clocks_event_reason_sw_power_cap": "Active"}}, {}),
        ({"temperature": {"gpu_temp": "92 C", "gpu_temp_slow_threshold": "90 C"}}, {"hot": "doubtful"}),
        (
            {"temperature": {"gpu_temp": "92 C", "gpu_temp_tlimit": "-3 C", "gpu_temp_slow_tlimit_threshold": "-2 C"}},
            {"hot": "doubtful"},
        ),
        ({"temperature": {"gpu_temp": "N/A", "gpu_temp_slow_threshold": "90 C"}}, {}),
        ({"fabric": {"state": "Completed", "status": "Success", "health": {"bandwidth": "Degraded"}}}, {"fabric": "doubtful"}),
        ({"fabric": {"state": "N/A", "status": "N/A"}}, {}),
        ({"fb_memory_usage": {"total": "GPU requires reset"}}, {"reset_required": "out"}),
        ({"fb_memory_usage": {"total": "GPU is lost"}}, {"lost": "out"}),
        ({"performance_state": "Unknown Error"}, {"odd_value": "note"}),
        # The names of processes are the work of others.
        ({"processes": {"process_info": {"process_name": "GPU is lost"}}}, {}),
    ],
)
def test_what_a_driver_reports(fields: dict[str, Any], found: dict[str, str]) -> None:
    assert judge(read(**fields)) == found


def test_a_card_of_which_a_driver_tells_nothing_is_ok() -> None:
    (card,), _trouble = parse_snapshots(document({}))
    assert judge_card(card).state == "ok" and card.uncorrected is None and card.recovery is None


@pytest.mark.parametrize(
    ("text", "states"),
    [
        ("WARNING: infoROM is corrupted at gpu 0000:01:00.0\n" + document(FIELDS), ["ok"]),
        (document(FIELDS) + "WARNING: infoROM is corrupted at gpu 0000:01:00.0\n", ["ok"]),
        ("Unable to determine the device handle for GPU0000:81:00.0: Unknown Error\n", ["out"]),
        (
            "Unable to determine the device handle for GPU1: 0000:81:00.0: GPU is lost.  Reboot the system\n" + document(FIELDS),
            ["ok", "out"],
        ),
        ("No devices were found\n", []),
        ("", []),
        (document(FIELDS)[:-40], []),
        ("<nvidia_smi_log><gpu></nvidia_smi_log>", []),
    ],
)
def test_warnings_lost_cards_and_broken_documents(text: str, states: list[str]) -> None:
    cards, trouble = parse_snapshots(text)
    assert [judge_card(card).state for card in cards] == states
    assert bool(trouble) == (not states)


@pytest.mark.parametrize("text", ["00000000:0A:00.0", "0000:0a:00.0", "PCI:0000:0A:00", "0A:00.0", "0000:0a:00"])
def test_addresses_of_a_card_are_the_same(text: str) -> None:
    assert name_bus(text) == "0000:0a:00"


# ------------------------------------------------------------------------------------------------------------------- Xids


@pytest.mark.parametrize("code", [8, 13, 31, 32, 43, 45, 69, 109, 119, 48, 63, 94, 171, 999, 9999])
def test_most_xids_take_no_card_out(code: int) -> None:
    old = read(gpu_recovery_action="", ecc_errors={"volatile": {"dram_uncorrectable": "N/A"}})
    assert "out" not in judge(old, *(xid(code, seconds=100 + number) for number in range(50))).values()


@pytest.mark.parametrize("code", [8, 13, 31, 32, 43, 45, 69, 999])
def test_errors_of_applications_and_unknown_xids_are_notes(code: int) -> None:
    assert judge(read(gpu_recovery_action=""), xid(code)) == {f"xid_{code}": "note"}


SILENT = {"gpu_recovery_action": "N/A", "gpu_reset_status": "", "ecc_errors": ""}
NODE_REBOOT = ", GPU recovery action changed from 0x0 (None) to 0x2 (Node Reboot Required)"
NO_MORE = ", GPU recovery action changed from 0x1 (GPU Reset Required) to 0x0 (None)"


@pytest.mark.parametrize(
    ("fields", "lines", "found"),
    [
        # A driver that reports no recovery action: the catalogue decides.
        (SILENT, [xid(79, ", GPU has fallen off the bus.")], {"xid_79": "out"}),
        (SILENT, [xid(95)], {"xid_95": "out"}),
        (SILENT, [xid(154, NODE_REBOOT)], {"xid_154": "out"}),
        (SILENT, [xid(154, ", GPU recovery action changed from 0x0 (None) to 0x1 (PF FLR)")], {"xid_154": "out"}),
        (SILENT, [xid(154, ", GPU recovery action changed from 0x0 (None) to 0x3 (Drain P2P)")], {"xid_154": "doubtful"}),
        (SILENT, [KernelLine(9, "NVRM: GPU at 0000:01:00.0 has fallen off the bus.")], {"xid_79": "out"}),
        (SILENT, [KernelLine(9, "NVRM: GPU 0000:01:00.0: GPU has fallen off the bus.")], {"xid_79": "out"}),
        (SILENT, [xid(95, bus="0000:01:00 GPU-I:05")], {"xid_95": "out"}),
        # Before the last load of the driver, on another card, or before the driver took its demand back.
        (SILENT, [xid(79), LOADED], {}),
        (SILENT, [xid(79, bus="0000:02:00")], {}),
        (SILENT, [xid(95), xid(154, NODE_REBOOT), xid(154, NO_MORE)], {}),
        (SILENT, [xid(154, NO_MORE), xid(95)], {"xid_95": "out"}),
        # Reset since: the driver says so, or its counters.
        ({}, [xid(95), xid(154, NODE_REBOOT), xid(79)], {"xid_79": "note", "xid_95": "note", "xid_154": "note"}),
        ({"gpu_recovery_action": "Reset"}, [xid(95)], {"recovery_reset": "out", "xid_95": "note"}),
        ({**SILENT, "gpu_reset_status": {"reset_required": "No"}}, [xid(95)], {"xid_95": "note"}),
        (
            {**SILENT, "ecc_errors": {"volatile": {"dram_uncorrectable": "0"}}},
            [xid(95), xid(140)],
            {"xid_95": "note", "xid_140": "note"},
        ),
        (
            {**SILENT, "ecc_errors": {"volatile": {"dram_uncorrectable": "1"}}},
            [xid(95)],
            {"xid_95": "out", "uncorrected": "doubtful"},
        ),
        # A card that is lost now.
        ({"fb_memory_usage": {"total": "GPU is lost"}}, [xid(79)], {"lost": "out", "xid_79": "note"}),
    ],
)
def test_which_xids_count(fields: dict[str, Any], lines: list[KernelLine], found: dict[str, str]) -> None:
    assert judge(read(**fields), *lines) == found


def test_a_card_that_the_driver_no_more_lists_is_named_by_its_xid() -> None:
    cards = judge_cards([read()], find_events([xid(79, bus="0000:81:00")]))
    assert [(one.card.bus, one.state) for one in cards] == [("0000:01:00", "ok"), ("0000:81:00", "out")]


def test_every_condition_has_a_known_verdict_a_remedy_and_a_source() -> None:
    conditions = [*gpu_conditions.FLAGS.values(), *gpu_conditions.XIDS.values()]
    assert {one.verdict for one in conditions} == set(gpu_conditions.VERDICTS)
    assert {one.remedy for one in conditions} == {"", "reset", "reboot", "replace"}
    assert all(one.source.startswith("https://docs.nvidia.com/") and one.about for one in conditions)
    assert not set(gpu_conditions.APPLICATION_XIDS) & set(gpu_conditions.XIDS)


# ------------------------------------------------------------------------------------------------------------- the kernel log

LINE = "NVRM: Xid (PCI:0000:01:00): 79, GPU has fallen off the bus."


def test_only_lines_of_the_kernel_that_begin_as_the_drivers_count() -> None:
    text = "".join(
        (
            f"4,812,100000000,-;{LINE}\n SUBSYSTEM=pci\n",
            f"12,813,100000001,-;{LINE}\n",  # what a program writes has the facility of users
            f"28,813,100000001,-;{LINE}\n",
            f"6,814,100000002,-;python[812]: {LINE}\n",
            f"6,815,100000003,c;audit: comm={LINE}\n",
            f"6,816,100000003,-;audit: x\\x0a{LINE}\n",
            f"{LINE}\n",
        )
    )
    assert parse_kmsg(text) == [KernelLine(100.0, LINE)]
    raw = f"<4>[  100.000000] {LINE}\n<12>[  100.1] {LINE}\n<6>[  100.2] x[1]: {LINE}\n[  100.3] {LINE}\n"
    assert parse_dmesg(raw) == [KernelLine(100.0, LINE)]
    good = {"MESSAGE": LINE, "_TRANSPORT": "kernel", "SYSLOG_FACILITY": "0", "_SOURCE_MONOTONIC_TIMESTAMP": "100000000"}
    bad = [
        {"_TRANSPORT": "syslog"},
        {"SYSLOG_FACILITY": "1"},
        {"MESSAGE": "a\n" + LINE},
        {"MESSAGE": [78, 86]},
        {"_TRANSPORT": None},
    ]
    journal = "\n".join([*(json.dumps({**good, **one}) for one in bad), "{", "[1]", json.dumps(good), "NVRM: "])
    assert parse_journal(journal) == [KernelLine(100.0, LINE)]


def test_a_kernel_log_that_may_not_be_read_is_asked_for_in_another_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "kmsg"
    log.write_text(f"4,1,100000000,-;{LINE}\n" * 5000)
    found = read_kernel_log(path=str(log))
    assert len(found.lines) == kernel_log.MOST_LINES and not found.trouble
    monkeypatch.setattr(kernel_log.shutil, "which", lambda name: name)

    def run(argv: Sequence[str]) -> str:
        if argv[0] == "journalctl":
            raise OSError("no journal")
        return f"<4>[  100.000000] {LINE}\n"

    missing = str(tmp_path / "none")
    assert read_kernel_log(run, missing) == kernel_log.KernelLog((KernelLine(100.0, LINE),), "dmesg")

    def refuse(_argv: Sequence[str]) -> str:
        raise OSError("Operation not permitted")

    found = read_kernel_log(refuse, missing)
    assert not found.lines and "dmesg: Operation not permitted" in found.trouble
    os.mkfifo(tmp_path / "pipe")
    assert "is no device" in read_kernel_log(refuse, str(tmp_path / "pipe")).trouble


# ---------------------------------------------------------------------------------------------------------- what follows from it


def test_a_start_is_refused_once_for_each_card_with_what_to_type() -> None:
    sick = judge_card(read(gpu_recovery_action="Reset", remapped_rows={"remapped_row_failure": "Yes"}))
    mig = judge_card(CardSnapshot(1, "GPU-2", "A100", devices=("MIG-1",), throttles=("hw_thermal",)))
    found = judge_devices([sick.card.uuid, sick.card.uuid, "MIG-1", "GPU-unknown"], [sick, mig], "serve heavy")
    assert [one.verdict for one in found] == ["impossible", "doubtful"]
    problem = found[0].problem
    assert problem.where == "serve heavy" and "GPU 0 (NVIDIA H100, GPU-d0f446cf" in problem.what
    assert "recovery action Reset" in problem.why and "no spare left" in problem.why
    assert "have the card replaced" in problem.hint and "anvil_compatibility=warn" in problem.hint


def test_a_driver_that_fails_is_told_and_the_log_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    log = tmp_path / "kmsg"
    log.write_text(f"4,1,100000000,-;{LINE}\n")
    monkeypatch.setenv(kernel_log.KMSG_VARIABLE, str(log))
    monkeypatch.setattr(gpu_health_on_host, "find_driver", lambda: "nvidia-smi")
    text = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.95\n"
    monkeypatch.setattr(gpu_health_on_host, "ask_nvidia_smi", lambda *_words: (18, text))
    health = gpu_health_on_host.read_health()
    assert health is not None and "the kernel still runs the old version" in health.trouble and "reboot the host" in health.hint
    assert [(one.card.bus, one.state) for one in health.cards] == [("0000:01:00", "out")]


def test_the_page_has_every_condition_as_the_code_has_it() -> None:
    names = {
        gpu_conditions.CATALOGUE: "Xid catalogue",
        gpu_conditions.MEMORY: "memory",
        gpu_conditions.RETIREMENT: "page retirement",
    }
    names |= {gpu_conditions.NVML: "NVML", gpu_conditions.SMI: "nvidia-smi"}
    page = (REPO / "docs" / "gpu-health.md").read_text()
    rows = [
        *(f"| {one.about} | `{one.verdict}` | {one.remedy} | {names[one.source]} |" for one in gpu_conditions.FLAGS.values()),
        *(f"| {code} | {one.about} | `{one.verdict}` | {one.remedy} |" for code, one in sorted(gpu_conditions.XIDS.items())),
    ]
    assert not [row for row in rows if row + "\n" not in page], "\n".join(rows)
