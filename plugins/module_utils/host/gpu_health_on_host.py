# SPDX-License-Identifier: GPL-3.0-or-later
"""Read the health of this host's cards: from NVML or ``nvidia-smi``, asked once, and from the kernel log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.host.driver_errors import explain_driver
from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_health import CardHealth, judge_cards
from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_snapshot import parse_snapshots
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import ask_nvidia_smi, find_driver
from ansible_collections.anvil.serving.plugins.module_utils.host.kernel_log import read_kernel_log
from ansible_collections.anvil.serving.plugins.module_utils.host.nvml_snapshot import read_nvml_snapshots
from ansible_collections.anvil.serving.plugins.module_utils.host.xid_events import find_events


@dataclass(frozen=True)
class HostHealth:
    """trouble, hint: what is wrong with the driver as a whole, and what to do. log_trouble: why no Xid could be read."""

    cards: Tuple[CardHealth, ...] = ()
    source: str = ""
    trouble: str = ""
    hint: str = ""
    log_source: str = ""
    log_trouble: str = ""

    def as_dict(self) -> Dict[str, Any]:
        return {
            "cards": [one.as_dict() for one in self.cards],
            "source": self.source,
            "trouble": self.trouble,
            "hint": self.hint,
            "kernel_log": self.log_source,
            "kernel_log_trouble": self.log_trouble,
        }


def read_health() -> Optional[HostHealth]:
    """The health of every card; None where there is no NVIDIA driver."""
    snapshots = read_nvml_snapshots()
    program = find_driver() if snapshots is None else None
    if snapshots is None and program is None:
        return None
    log = read_kernel_log()
    events = find_events(log.lines)
    if snapshots is not None or program is None:
        return HostHealth(tuple(judge_cards(snapshots or (), events)), "nvml", "", "", log.source, log.trouble)
    try:
        _code, text = ask_nvidia_smi(program, "-q", "-x")
    except AnvilError as exc:
        problem = exc.problems[0]
        cards = tuple(judge_cards((), events))
        return HostHealth(
            cards, "nvidia-smi", "{0}: {1}".format(problem.what, problem.why), problem.hint, log.source, log.trouble
        )
    snapshots, trouble = parse_snapshots(text)
    cards = tuple(judge_cards(snapshots, events))
    if trouble and "No devices were found" not in trouble:
        what, hint = explain_driver(trouble)
        return HostHealth(cards, "nvidia-smi", "{0}: {1}".format(what, trouble), hint, log.source, log.trouble)
    return HostHealth(cards, "nvidia-smi", "", "", log.source, log.trouble)
