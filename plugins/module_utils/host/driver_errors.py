# SPDX-License-Identifier: GPL-3.0-or-later
"""Errors of the NVIDIA driver, as nvidia-smi, NVML and the container toolkit print them: their meaning and what to do. Pure."""

from __future__ import annotations

import re
from typing import Tuple

SLOW_HINT = (
    "turn persistence mode on, so that the driver does not initialise every GPU for each question: "
    "systemctl enable --now nvidia-persistenced (or nvidia-smi -pm 1)"
)
DRIVER_HINT = "type nvidia-smi on the host and repair what it reports: no container can use a GPU until it works"

# Words of the driver -> their meaning, and what to do.
_EXPLANATIONS: Tuple[Tuple[str, str, str], ...] = (
    (
        r"driver/library version mismatch|API mismatch",
        "the NVIDIA driver was upgraded, and the kernel still runs the old version",
        "reboot the host (or stop what uses the GPUs, then: rmmod nvidia_uvm nvidia_drm nvidia_modeset nvidia; nvidia-smi)",
    ),
    (
        r"couldn'?t communicate with the NVIDIA driver|driver not loaded|no NVIDIA driver",
        "the kernel module of the NVIDIA driver is not loaded",
        "modprobe nvidia shows the reason; after a kernel upgrade the module may be missing (dkms status), or not be signed for "
        "Secure Boot (mokutil --sb-state); then reboot",
    ),
    (
        r"GPU access blocked by the operating system",
        "the operating system blocks the access to the GPU",
        "on WSL2 type wsl --update and wsl --shutdown on Windows and update the driver there; elsewhere read dmesg",
    ),
    (
        r"(?:in)?sufficient permissions|enough permissions",
        "this user may not ask the NVIDIA driver",
        "set become: true, or give the user access to /dev/nvidia*",
    ),
    (
        r"couldn'?t find libnvidia-ml|libnvidia-ml\.so[.\d]*: cannot open|load library failed|NVML Shared Library Not Found",
        "a library of the NVIDIA driver is missing",
        "install the driver's libraries in the version of its kernel module (cat /proc/driver/nvidia/version), then ldconfig",
    ),
    (
        r"GPU is lost|fallen off the bus|device handle for GPU",
        "a GPU does not answer the driver any more",
        "dmesg | grep -i xid shows why; reboot the host, and check power, cooling and seat of the card if it happens again",
    ),
    (
        r"system not yet initialized|cuda\w* error:? 802|error 802|fabric manager|in the process of being initialized",
        "the fabric that connects the GPUs is not ready",
        "systemctl status nvidia-fabricmanager: it must run, in the version of the driver; read dmesg | grep -i nvswitch",
    ),
    (
        r"GPU requires reset|requires a reset",
        "a GPU must be reset",
        "stop what uses it and type nvidia-smi --gpu-reset -i INDEX, or reboot the host",
    ),
    (r"reboot the system|system is not in ready state|reboot required", "the driver asks for a reboot", "reboot the host"),
    (
        r"(?:NVML|nvml error|cuda error): unknown error",
        "the NVIDIA driver cannot be initialised",
        "dmesg | grep -i -e nvrm -e xid shows why; if nothing else helps, reboot the host",
    ),
    (r"timed? ?out", "the NVIDIA driver does not answer in time", SLOW_HINT),
)


def explain_driver(text: str, otherwise: str = "the NVIDIA driver does not answer") -> Tuple[str, str]:
    """What an error of the driver means, and what to do; ``otherwise`` for an error that is not known."""
    for pattern, what, hint in _EXPLANATIONS:
        if re.search(pattern, text, re.IGNORECASE):
            return what, hint
    return otherwise, DRIVER_HINT
