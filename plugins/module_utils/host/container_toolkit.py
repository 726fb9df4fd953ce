# SPDX-License-Identifier: GPL-3.0-or-later
"""What gives containers the GPUs of this host: the NVIDIA container toolkit, and descriptions of the GPUs for CDI."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

CDI_FOLDERS = ("/etc/cdi", "/var/run/cdi")
CDI_KIND = "nvidia.com/gpu"
TOOLKIT_CONFIG = "/etc/nvidia-container-runtime/config.toml"
# More of a CDI description or configuration than this is not read (bytes).
SPEC_LIMIT = 4 * 1024 * 1024


@dataclass(frozen=True)
class Toolkit:
    """What gives containers access to GPUs.

    hook, runtime, cdi_hook: paths of programs on this PATH. cdi_specs: files that describe the GPUs of the host; cdi_devices:
    the names in them, such as ``all``, ``0`` and UUIDs. cdi_enabled: whether the Docker Engine reads such files; None: it does
    not report that. engine_has_it: the Docker Engine names a runtime of NVIDIA, or is Docker Desktop. no_cgroups, mode: settings
    of the toolkit; None, empty: not set.
    """

    hook: Optional[str]
    runtime: Optional[str]
    version: Optional[str]
    cdi_specs: Tuple[str, ...]
    cdi_enabled: Optional[bool]
    cdi_devices: Tuple[str, ...] = ()
    cdi_hook: Optional[str] = None
    engine_has_it: bool = False
    no_cgroups: Optional[bool] = None
    mode: str = ""

    @property
    def cdi_usable(self) -> bool:
        """The Docker Engine reads CDI descriptions, and there is one of the GPUs."""
        return bool(self.cdi_specs and self.cdi_enabled)

    @property
    def present(self) -> bool:
        """There is something that gives containers the GPUs; ``gpu_passthrough`` judges whether the Docker Engine uses it."""
        return self.hook is not None or self.cdi_usable or self.engine_has_it


def parse_cdi_spec(text: str) -> Optional[List[str]]:
    """The device names in a CDI description of NVIDIA's GPUs, in JSON or YAML; None: it describes something else.

    A host need not have a YAML parser, and the descriptions are written by a program: the two keys are found by their lines.
    """
    try:
        spec = json.loads(text)
    except ValueError:
        if not re.search(r"""^["']?kind["']?:\s*["']?{0}["']?\s*(?:#.*)?$""".format(re.escape(CDI_KIND)), text, re.MULTILINE):
            return None
        found = re.findall(r"""^\s*(?:-\s+)?["']?name["']?:[ \t]*["']?([^"'\s]+)""", text, re.MULTILINE)
        return list(dict.fromkeys(found))
    if not isinstance(spec, dict) or spec.get("kind") != CDI_KIND:
        return None
    devices = spec.get("devices")
    listed = devices if isinstance(devices, list) else []
    return [str(device["name"]) for device in listed if isinstance(device, dict) and "name" in device]


def _read_text(path: str) -> str:
    """The text of a plain file; empty for anything that cannot be read: a stale link, a folder, a pipe."""
    try:
        if not os.path.isfile(path):
            return ""
        with open(path, encoding="utf-8", errors="replace") as handle:
            return handle.read(SPEC_LIMIT)
    except OSError:
        return ""


def _read_cdi(folders: Sequence[str]) -> Dict[str, List[str]]:
    """The descriptions of NVIDIA's GPUs in these folders, with their device names."""
    found = {}
    for folder in folders:
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        for path in (os.path.join(folder, name) for name in names if name.endswith((".yaml", ".yml", ".json"))):
            devices = parse_cdi_spec(_read_text(path).lstrip("\ufeff"))
            if devices is not None:
                found[path] = devices
    return found


def parse_toolkit_version(text: str) -> Optional[str]:
    """``1.17.8`` from the output of ``nvidia-ctk --version``."""
    found = re.search(r"version (\d+\.\d+\.\d+)", text)
    return found[1] if found else None


def _read_version() -> Optional[str]:
    program = shutil.which("nvidia-ctk")
    if not program:
        return None
    try:
        done = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_toolkit_version(done.stdout.decode("utf-8", "replace"))


def names_nvidia(name: str, runtime: Any) -> bool:
    """Whether a runtime of the Docker Engine is one of NVIDIA's, by its name or by the program that it runs."""
    path = str(runtime.get("path") or "") if isinstance(runtime, Mapping) else ""
    # Docker Engine 23 and later also accept the path of a program as the name.
    return os.path.basename(name).startswith("nvidia") or os.path.basename(path).startswith("nvidia-container-runtime")


def read_toolkit(engine_info: Mapping[str, Any]) -> Toolkit:
    """The container toolkit of this host. engine_info: the Docker Engine's info (may be empty)."""
    folders = engine_info.get("CDISpecDirs")
    specs = _read_cdi(folders or CDI_FOLDERS)
    config = _read_text(TOOLKIT_CONFIG)
    no_cgroups = re.search(r"^\s*no-cgroups\s*=\s*(true|false)", config, re.MULTILINE)
    mode = re.search(r"""^\s*mode\s*=\s*["'](\w+)["']""", config, re.MULTILINE)
    runtimes = engine_info.get("Runtimes") or {}
    return Toolkit(
        hook=shutil.which("nvidia-container-runtime-hook"),
        runtime=shutil.which("nvidia-container-runtime"),
        version=_read_version(),
        cdi_specs=tuple(specs),
        # Docker Engine 25 and later reports its CDI folders, and reports none while CDI is off.
        cdi_enabled=None if folders is None and "CDISpecDirs" not in engine_info else bool(folders),
        cdi_devices=tuple(dict.fromkeys(name for devices in specs.values() for name in devices)),
        cdi_hook=shutil.which("nvidia-cdi-hook"),
        engine_has_it=engine_info.get("OperatingSystem") == "Docker Desktop"
        or any(names_nvidia(str(name), runtime) for name, runtime in runtimes.items()),
        no_cgroups=None if no_cgroups is None else no_cgroups[1] == "true",
        mode=mode[1] if mode else "",
    )
