# SPDX-License-Identifier: GPL-3.0-or-later
"""What a sick card reports, and what it means: Xids of the kernel log, and flags of the driver. Pure.

A condition takes a card out of admission only where its source says that no work may start before it is mended. Facts: NVIDIA's
Xid catalogue, "GPU Memory Error Management" (response flags, row remapping), and the documentation of NVML and nvidia-smi.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Tuple

# Verdicts, the worst last. OUT: no serve is started on the card.
NOTE, DOUBTFUL, OUT = "note", "doubtful", "out"
VERDICTS = (NOTE, DOUBTFUL, OUT)
# Remedies.
NOTHING, RESET, REBOOT, REPLACE = "", "reset", "reboot", "replace"

CATALOGUE = "https://docs.nvidia.com/deploy/xid-errors/analyzing-xid-catalog.html"
MEMORY = "https://docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt/"
RETIREMENT = "https://docs.nvidia.com/deploy/dynamic-page-retirement/"
NVML = "https://docs.nvidia.com/deploy/nvml-api/"
SMI = "https://docs.nvidia.com/deploy/nvidia-smi/"


@dataclass(frozen=True)
class Condition:
    """verdict, remedy: as above. about: what it is. source: where its meaning is documented."""

    verdict: str
    remedy: str
    about: str
    source: str


# What the driver reports of a card.
FLAGS: Dict[str, Condition] = {
    "lost": Condition(OUT, REBOOT, "the driver does not reach the card any more", CATALOGUE),
    "recovery_reset": Condition(OUT, RESET, "recovery action Reset: the card must be reset before it is used again", MEMORY),
    "recovery_reboot": Condition(OUT, REBOOT, "recovery action Reboot: the fault may have harmed the operating system", MEMORY),
    "recovery_drain_reset": Condition(
        OUT, RESET, "recovery action Drain and Reset: reduced capacity; running work may end, and none should start", MEMORY
    ),
    "recovery_drain_p2p": Condition(
        DOUBTFUL, NOTHING, "recovery action Drain P2P: work that uses several cards must end before the driver can judge", MEMORY
    ),
    "recovery_other": Condition(DOUBTFUL, NOTHING, "a recovery action that is not in this table", NVML),
    "reset_required": Condition(OUT, RESET, "the driver says that the card requires a reset", SMI),
    "reset_recommended": Condition(DOUBTFUL, RESET, "the driver recommends to drain and reset the card", SMI),
    "remap_failure": Condition(OUT, REPLACE, "a row of the memory could not be remapped: it has no spare left", MEMORY),
    "remap_pending": Condition(NOTE, RESET, "a row is remapped at the next reset; new work may start until then", MEMORY),
    "unrepairable": Condition(DOUBTFUL, REPLACE, "the driver reports memory that cannot be repaired", SMI),
    "sram_threshold": Condition(DOUBTFUL, REPLACE, "more SRAM errors than NVIDIA's threshold for a diagnosis", MEMORY),
    "repair_pending": Condition(NOTE, RESET, "a repair takes effect at the next reset", SMI),
    "retirement_pending": Condition(NOTE, RESET, "pages of the memory are retired at the next reset", RETIREMENT),
    "uncorrected": Condition(DOUBTFUL, NOTHING, "uncorrected memory errors since the driver was loaded", MEMORY),
    "uncorrected_ever": Condition(NOTE, NOTHING, "uncorrected memory errors in the life of the card", MEMORY),
    "hw_slowdown": Condition(DOUBTFUL, NOTHING, "its clocks are halved or less by the hardware: heat or power", NVML),
    "hw_thermal": Condition(DOUBTFUL, NOTHING, "its clocks are lowered by the hardware: too hot", NVML),
    "hw_power": Condition(DOUBTFUL, NOTHING, "its clocks are lowered by an external power brake", NVML),
    "sw_thermal": Condition(NOTE, NOTHING, "its clocks are lowered by the driver: near its highest temperature", NVML),
    "hot": Condition(DOUBTFUL, NOTHING, "it is as hot as where the hardware slows it down", SMI),
    "link_width": Condition(NOTE, NOTHING, "its PCI Express link has fewer lanes than card and slot allow", SMI),
    "nvlink_errors": Condition(NOTE, NOTHING, "its NVLink connections count errors", NVML),
    "fabric": Condition(DOUBTFUL, NOTHING, "the fabric of the cards is degraded or not ready", NVML),
    "odd_value": Condition(NOTE, NOTHING, "the driver reports an error instead of a value", SMI),
}

APPLICATION = "error of the application or of its library"
_TIMEOUT = "the processor on the card did not answer the driver"
_ECC = "uncorrectable memory error"

# Xids that say something about the card. Those that are not in any of these tables are notes.
XIDS: Dict[int, Condition] = {
    46: Condition(DOUBTFUL, RESET, "the card stopped processing", CATALOGUE),
    48: Condition(DOUBTFUL, RESET, _ECC, CATALOGUE),
    54: Condition(DOUBTFUL, NOTHING, "the power cable of the card is not connected", CATALOGUE),
    62: Condition(DOUBTFUL, RESET, "a processor on the card halted", CATALOGUE),
    63: Condition(NOTE, RESET, "a row or page of the memory is replaced at the next reset", CATALOGUE),
    64: Condition(DOUBTFUL, RESET, "a row or page of the memory could not be recorded for replacement", CATALOGUE),
    74: Condition(DOUBTFUL, RESET, "an NVLink connection failed; the cause may be the card at its other end", CATALOGUE),
    79: Condition(OUT, REBOOT, "the card has fallen off the bus", CATALOGUE),
    92: Condition(NOTE, NOTHING, "many correctable memory errors", CATALOGUE),
    94: Condition(NOTE, RESET, "memory error that ended one application; others may go on until a reset", CATALOGUE),
    95: Condition(OUT, RESET, "memory error that was not contained: a reset comes before any other start", CATALOGUE),
    109: Condition(DOUBTFUL, RESET, "a change of the context timed out", CATALOGUE),
    110: Condition(OUT, REBOOT, "security fault: the machine must be switched off and on", CATALOGUE),
    119: Condition(DOUBTFUL, RESET, _TIMEOUT, CATALOGUE),
    120: Condition(DOUBTFUL, RESET, "error of the processor on the card", CATALOGUE),
    121: Condition(NOTE, RESET, "corrected errors between card and processor", CATALOGUE),
    136: Condition(DOUBTFUL, RESET, "the training of a link failed", CATALOGUE),
    140: Condition(OUT, RESET, "memory error that the driver could not handle", CATALOGUE),
    143: Condition(OUT, RESET, "the card could not be initialised", CATALOGUE),
    156: Condition(DOUBTFUL, RESET, "a part of the card is retired at the next reset", CATALOGUE),
    157: Condition(NOTE, NOTHING, "a part of the card could not be retired; work may go on", CATALOGUE),
    158: Condition(OUT, RESET, "fatal timeout of the card", CATALOGUE),
    160: Condition(NOTE, RESET, "a channel of the memory is repaired at the next reset", CATALOGUE),
    161: Condition(NOTE, NOTHING, "a channel of the memory could not be repaired", CATALOGUE),
    167: Condition(DOUBTFUL, NOTHING, "fatal timeout on PCI Express", CATALOGUE),
    169: Condition(DOUBTFUL, NOTHING, "a processor on the card halted", CATALOGUE),
    171: Condition(DOUBTFUL, RESET, _ECC + " (DRAM), in addition to Xid 48", CATALOGUE),
    172: Condition(DOUBTFUL, RESET, _ECC + " (SRAM), in addition to Xid 48", CATALOGUE),
    **{code: Condition(DOUBTFUL, RESET, "an NVLink connection reported an error", CATALOGUE) for code in range(144, 151)},
}
# The driver sums up what other Xids need: its text has the recovery action as a number.
SUMMARY = 154
# Xids of memory: they are history where the counters of uncorrected errors are at 0, because a reset sets these back.
MEMORY_XIDS = (48, 95, 140, 171, 172)
# Xids after which nvidia-smi cannot report the card as one that works, unless it has come back.
LOSING_XIDS = (79,)
# Xids whose cause is the application (the catalogue's action: restart or check it, or ignore). They say nothing about a card.
APPLICATION_XIDS: Tuple[int, ...] = (
    *(8, 11, 13, 31, 32, 37, 38, 39, 40, 41, 43, 44, 45, 60, 66, 67, 68, 69, 70, 71, 72, 75, 76, 77, 80, 82, 83, 84, 85, 86, 88),
    *(89, 96, 97, 98, 99, 100, 101, 102, 103, 104, 105, *range(126, 136), 137, 139, 141),
)
# The numbers of NVML's recovery actions -> the flag. The enumeration of NVML 13; 5 has had two meanings.
RECOVERY_ACTIONS: Dict[int, str] = {
    0: "",
    1: "recovery_reset",
    2: "recovery_reboot",
    3: "recovery_drain_p2p",
    4: "recovery_drain_reset",
    7: "recovery_reboot",
}
# The words of nvidia-smi for them, in small letters and without blanks.
RECOVERY_WORDS: Dict[str, str] = {
    "none": "",
    "reset": "recovery_reset",
    "gpureset": "recovery_reset",
    "gpuresetrequired": "recovery_reset",
    "reboot": "recovery_reboot",
    "nodereboot": "recovery_reboot",
    "noderebootrequired": "recovery_reboot",
    "systemreboot": "recovery_reboot",
    "osreboot": "recovery_reboot",
    "drainp2p": "recovery_drain_p2p",
    "drainandreset": "recovery_drain_reset",
}


def describe_xid(code: int) -> Condition:
    """What an Xid means; one that no table has is a note."""
    if code in XIDS:
        return XIDS[code]
    if code in APPLICATION_XIDS:
        return Condition(NOTE, NOTHING, APPLICATION, CATALOGUE)
    return Condition(NOTE, NOTHING, "not in the table of this version", CATALOGUE)
