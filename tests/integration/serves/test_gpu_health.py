# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A sick card takes no serve; what runs on it goes on. The driver and the kernel log are stand-ins of the bed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from drive import succeed
from harness import run_module
from serving import FAST_GPU, HEAVY_GPU, Field, scripted

RESET = "<gpu_recovery_action>Reset</gpu_recovery_action>"
UNCONTAINED = "NVRM: Xid (PCI:0000:01:00): 95, pid=812, name=python3, Uncontained: LTC TAG (0x2,0x0). RST: Yes, D-RST: No"


def test_a_sick_card_takes_no_serve_and_loses_none(field: Field, tmp_path: Path) -> None:
    field.edit("heavy", **{**scripted(SERVES="heavy"), "secrets": {}})
    field.edit("fast", **{**scripted(SERVES="fast"), "secrets": {}})
    bed = field.bed
    bed.set_health(HEAVY_GPU, RESET)
    for check in (True, False):
        refused = field.run(check=check)
        assert (
            refused["failed"]
            and "takes no serve" in refused["msg"]
            and "nvidia-smi --gpu-reset -i 0000:02:00.0" in refused["msg"]
        )
        assert "the driver reports: Reset" in refused["msg"] and not bed.started()
    bed.set_health(HEAVY_GPU, "<gpu_recovery_action>None</gpu_recovery_action>")
    bed.log_kernel("NVRM: Xid (PCI:0000:01:00): 31, pid=812, name=python3, Ch 00000008, intr 00000000. MMU Fault")
    assert not field.run()["failed"]
    before = bed.started()

    # Both cards become sick under running serves: nothing is stopped, and nothing is read in a run that starts nothing.
    bed.set_health(HEAVY_GPU, RESET)
    bed.log_kernel(UNCONTAINED)
    again = field.run()
    assert not again["failed"] and not again["changed"] and bed.started() == before
    # A change would replace the container: it is refused before the old one is touched.
    field.edit("fast", environment={"SERVES": "fast", "MORE": "1"})
    refused = field.run()
    assert refused["failed"] and "Xid 95" in refused["msg"] and bed.started() == before
    # The operator decides otherwise.
    allowed = field.run(compatibility="warn")
    assert not allowed["failed"] and any("takes no serve" in str(one) for one in allowed["warnings"]), allowed["warnings"]

    inventory = tmp_path / "hosts.ini"
    inventory.write_text(f"gpu1 ansible_connection=local ansible_python_interpreter={sys.executable}\n")
    printed = succeed("gpu_health", inventory)
    calm = {"ANSIBLE_STDOUT_CALLBACK": "anvil.serving.calm"}
    assert "out: Xid 95: memory error that was not contained" in printed and "do: stop what uses the card" in printed
    (told,) = json.loads(succeed("gpu_health", inventory, "-e", "output=json", **calm))["hosts"]["gpu1"]["results"][0]
    assert {one["uuid"]: one["state"] for one in told["cards"]} == {HEAVY_GPU: "out", FAST_GPU: "out"}
    # The driver was loaded again: what was before it is history.
    bed.set_health(HEAVY_GPU, "")
    bed.log_kernel("NVRM: loading NVIDIA UNIX Open Kernel Module for x86_64  580.95.05  Release Build", 200)
    found = run_module("anvil_host_info", health=True)["health"]
    assert {one["state"] for one in found["cards"]} == {"ok"}
