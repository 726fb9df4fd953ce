# SPDX-License-Identifier: GPL-3.0-or-later
"""Watch on a host: its file, its settings, and what runs it (a systemd unit, or a container). Compared first, then written.

New settings are read by the running process; only new code or a new unit restarts it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Optional, Sequence
from urllib.parse import urlsplit

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.program_archive import pack_program
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import LABEL_PREFIX
from ansible_collections.anvil.serving.plugins.module_utils.docker.connection import is_local
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.watch.settings import WatchSettings, format_settings
from ansible_collections.anvil.serving.plugins.module_utils.watch.told_states import FOLDER, SETTINGS

PROGRAM = "ansible_collections.anvil.serving.plugins.module_utils.watch.programs.anvil_watch"
ARCHIVE = "anvil-watch.pyz"
UNIT = "/etc/systemd/system/anvil-watch.service"
BOOTED = "/run/systemd/system"
CONTAINER = "anvil-watch"
LABEL_WATCH = LABEL_PREFIX + "watch"
# What a container of watch may use: five times the memory that it needs.
MEMORY, PROCESSES = 128 << 20, 256
UNIT_TEXT = """\
# Written by anvil.serving; changes made here are overwritten.
[Unit]
Description=anvil-watch: knows whether the serves of this host live, and restarts those that hang
After=docker.service

[Service]
ExecStart={command}
Restart=always
RestartSec=5
MemoryMax=128M
TasksMax=256
NoNewPrivileges=yes
PrivateTmp=yes
ProtectKernelTunables=yes
RestrictSUIDSGID=yes

[Install]
WantedBy=multi-user.target
"""

Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Installation:
    """What is asked for. root: the folder of the collection. runs_in: ``systemd`` or ``container``. image: of the container."""

    root: str
    settings: WatchSettings
    runs_in: str
    image: str

    @property
    def archive(self) -> str:
        return os.path.join(self.root, FOLDER, ARCHIVE)

    @property
    def settings_file(self) -> str:
        return os.path.join(self.root, FOLDER, SETTINGS)


def choose_runner(wanted: str) -> str:
    """``systemd`` where it runs this host, else ``container``."""
    if wanted != "auto":
        return wanted
    return "systemd" if os.path.isdir(BOOTED) else "container"


def run_command(argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(list(argv), capture_output=True, text=True, check=False, timeout=120)


def install(docker: DockerEngine, wanted: Installation, check: bool, run: Run = run_command) -> List[str]:
    """Bring watch to what is wanted. Returns what changed, or would change."""
    if not is_local(docker.docker_host):
        hint = "set anvil_watch: false for this host"
        raise fail("watch needs the Docker Engine's socket", docker.docker_host, "this host reaches it over the network", hint)
    code, settings = pack_program(PROGRAM), format_settings(wanted.settings)
    new_code, new_settings = _read_bytes(wanted.archive) != code, files.differs(wanted.settings_file, settings, 0o644)
    changes = ["program"] * new_code + ["settings"] * new_settings
    if not check:
        os.makedirs(wanted.settings.data, mode=0o755, exist_ok=True)
        if new_settings:
            files.write_file(wanted.settings_file, settings, 0o644)
        if new_code:
            _write_bytes(wanted.archive, code)
    if wanted.runs_in == "systemd":
        changes += _remove_container(docker, check)
        return changes + _run_unit(wanted, new_code, check, run)
    changes += _remove_unit(check, run)
    return changes + _run_container(docker, wanted, code, check)


def remove(docker: DockerEngine, root: str, check: bool, run: Run = run_command) -> List[str]:
    """Remove watch. Its incidents and its ledger stay. Returns what changed, or would change."""
    changes = _remove_unit(check, run) + _remove_container(docker, check)
    folder = os.path.join(root, FOLDER)
    if os.path.isdir(folder):
        changes.append("files")
        if not check:
            shutil.rmtree(folder)
    return changes


def _read_bytes(path: str) -> bytes:
    try:
        with open(path, "rb") as handle:
            return handle.read()
    except FileNotFoundError:
        return b""


def _write_bytes(path: str, content: bytes) -> None:
    """As ``files.write_file``, for bytes."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".anvil-")
    try:
        with os.fdopen(descriptor, "wb") as handle:
            os.fchmod(handle.fileno(), 0o755)
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        os.rename(temporary, path)
    except OSError as exc:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise fail("cannot write the program of watch", path, exc.strerror or str(exc), "df -h shows the free space") from exc


# --------------------------------------------------------------------------------------------------------------- systemd


def _systemctl(run: Run, *words: str) -> None:
    done = run(["systemctl", *words])
    if done.returncode:
        hint = "journalctl -u anvil-watch -n 50 shows its last lines"
        raise fail("systemctl {0} failed".format(" ".join(words)), "anvil-watch.service", done.stderr.strip(), hint)


def _run_unit(wanted: Installation, new_code: bool, check: bool, run: Run) -> List[str]:
    command = " ".join(shlex.quote(word) for word in (sys.executable, wanted.archive, wanted.settings_file))
    text = UNIT_TEXT.format(command=command)
    new_unit = files.differs(UNIT, text, 0o644)
    active = not new_unit and run(["systemctl", "is-active", "--quiet", "anvil-watch"]).returncode == 0
    enabled = not new_unit and run(["systemctl", "is-enabled", "--quiet", "anvil-watch"]).returncode == 0
    changes = ["unit"] * new_unit + ["started"] * (not active) + ["restarted"] * (active and new_code)
    if check:
        return changes + ["enabled"] * (not enabled and not new_unit)
    if new_unit:
        files.write_file(UNIT, text, 0o644)
        _systemctl(run, "daemon-reload")
    if not enabled:
        _systemctl(run, "enable", "--quiet", "anvil-watch")
    if new_unit or new_code or not active:
        _systemctl(run, "restart", "anvil-watch")
    return changes + ["enabled"] * (not enabled and not new_unit)


def _remove_unit(check: bool, run: Run) -> List[str]:
    if not os.path.exists(UNIT):
        return []
    if not check:
        _systemctl(run, "disable", "--now", "--quiet", "anvil-watch")
        files.remove_file(UNIT)
        _systemctl(run, "daemon-reload")
    return ["unit removed"]


# ------------------------------------------------------------------------------------------------------------- container


def _describe_container(wanted: Installation, code: bytes, image_id: str, socket: str) -> Dict[str, Any]:
    """The options of ``create_container``, with the hash of all of them as label."""
    mounts = {wanted.root, wanted.settings.data, os.path.dirname(socket)}
    # Whole folders: a certificate that is renewed is another file.
    read = {os.path.dirname(path) for path in wanted.settings.certificates} - mounts - {"/"}
    options: Dict[str, Any] = {
        "name": CONTAINER,
        "user": "0:0",
        "entrypoint": ["python3"],
        "environment": {"PYTHONDONTWRITEBYTECODE": "1"},
        "host_config": {
            "network_mode": "host",  # it reaches the serves where they are published, on loopback
            "binds": ["{0}:{0}".format(path) for path in sorted(mounts)] + ["{0}:{0}:ro".format(path) for path in sorted(read)],
            "restart_policy": {"Name": "unless-stopped"},
            "read_only": True,
            "mem_limit": MEMORY,
            "pids_limit": PROCESSES,
            "cap_drop": ["ALL"],
            "cap_add": ["DAC_OVERRIDE"],  # the lock of a project belongs to the user that deploys
            "security_opt": ["no-new-privileges:true"],
            "log_config": {"Type": "local", "Config": {"max-size": "5m", "max-file": "2"}},
        },
    }
    content = [json.dumps(options, sort_keys=True), image_id, wanted.archive, wanted.settings_file]
    digest = hashlib.sha256("\n".join(content).encode() + code).hexdigest()
    return {**options, "labels": {LABEL_WATCH: digest}}


def _run_container(docker: DockerEngine, wanted: Installation, code: bytes, check: bool) -> List[str]:
    image = docker.inspect_image(wanted.image) if wanted.image else None
    if image is None:
        raise fail(
            "watch has no image to run in",
            "watch_image",
            "this host has no systemd, and no image {0}".format(wanted.image) if wanted.image else "this host has no systemd",
            "name an image with Python 3.9 or newer that is on the host: watch_image: python:3.13-slim",
        )
    socket = os.path.realpath(urlsplit(docker.docker_host).path)
    options = _describe_container(wanted, code, str(image["Id"]), socket)
    found = _find_container(docker)
    same = found is not None and found["Config"]["Labels"].get(LABEL_WATCH) == options["labels"][LABEL_WATCH]
    if found is not None and same and found["State"]["Status"] in ("running", "restarting"):
        return []
    if not check:
        if found is not None and not same:
            docker.remove_container(str(found["Id"]))
        if same and found is not None:
            docker.start_container(str(found["Id"]))
        else:
            docker.start_container(docker.create_container(wanted.image, [wanted.archive, wanted.settings_file], **options))
    return ["started" if found is None or same else "container replaced"]


def _find_container(docker: DockerEngine) -> Optional[Dict[str, Any]]:
    """Our container. Raises AnvilError where another one has the name."""
    found = docker.inspect_container(CONTAINER)
    if found is not None and LABEL_WATCH not in (found["Config"]["Labels"] or {}):
        hint = "rename or remove that container, then run again"
        raise fail("another container already uses the name anvil-watch", CONTAINER, "it lacks the label " + LABEL_WATCH, hint)
    return found


def _remove_container(docker: DockerEngine, check: bool) -> List[str]:
    found = docker.inspect_container(CONTAINER)
    if found is None or LABEL_WATCH not in (found["Config"]["Labels"] or {}):
        return []
    if not check:
        docker.stop_container(str(found["Id"]), 10)
        docker.remove_container(str(found["Id"]))
    return ["container removed"]
