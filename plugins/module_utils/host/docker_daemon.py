# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The engine's daemon.json: merged, validated by dockerd itself, and the engine restarted only when it changed.

Whatever goes wrong after the file was written puts the old one back and starts the engine on it again.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.files import read_file, remove_file, write_file
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine

LOG_HINT = "journalctl -u docker tells more; without systemd, /var/log/docker.log"
DEFAULT_PATH = "/etc/docker/daemon.json"
# Stands beside the file from before it is written until the engine runs with it: a run that is killed in between leaves
# it, and the next one restarts.
PENDING = ".anvil-restart"


def merge_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> Dict[str, Any]:
    """``old`` with ``new`` over it: mappings key by key, lists by adding what is not there yet, all else replaced.

    Keys that ``new`` does not name stay as they are, in their order.
    """
    merged = dict(old)
    for key, value in new.items():
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            merged[key] = merge_settings(before, value)
        elif isinstance(before, list) and isinstance(value, list):
            merged[key] = before + [item for item in value if item not in before]
        else:
            merged[key] = value
    return merged


def read_settings(path: str, text: Optional[str]) -> Dict[str, Any]:
    """The settings in a daemon.json; an absent or empty file holds none. What is no JSON object is an AnvilError."""
    if text is None or not text.strip():
        return {}
    try:
        found = json.loads(text)
    except ValueError as exc:
        raise fail(
            "daemon.json is broken, so nothing was merged into it",
            where=path,
            why=str(exc),
            hint="mend it by hand (python3 -m json.tool {0}), or move it away; it was left as it is".format(path),
        ) from exc
    if not isinstance(found, dict):
        raise fail("daemon.json holds no JSON object, so nothing was merged into it", where=path, hint="mend it by hand")
    return found


def _run(argv: Sequence[str], timeout: int = 120) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise fail("cannot run {0}".format(argv[0]), where=" ".join(argv), why=str(exc)) from exc


def validate_settings(path: str, text: str) -> None:
    """Ask dockerd whether it would start with this text. Raises AnvilError with its words."""
    with tempfile.TemporaryDirectory(prefix="anvil-") as folder:
        candidate = os.path.join(folder, "daemon.json")
        write_file(candidate, text, 0o600)
        done = _run(["dockerd", "--validate", "--config-file", candidate])
    if done.returncode != 0:
        raise fail(
            "dockerd would not start with the merged settings, so nothing was written",
            where=path,
            why=done.stdout.decode("utf-8", "replace").replace(candidate, path).strip(),
            hint="correct docker_host_daemon, or what the file says already",
        )


def restart_command() -> List[str]:
    """How this host restarts its engine: systemd where it runs, else the init script (WSL2 without systemd has that)."""
    if os.path.isdir("/run/systemd/system"):
        return ["systemctl", "restart", "docker"]
    return ["service", "docker", "restart"]


def _restart(engine: DockerEngine, argv: Sequence[str], timeout: int) -> None:
    done = _run(argv, timeout)
    if done.returncode != 0:
        said = done.stdout.decode("utf-8", "replace").strip()
        why = said or "it ended with {0} and said nothing".format(done.returncode)
        raise fail("the engine could not be restarted", where=" ".join(argv), why=why, hint=LOG_HINT)
    deadline = time.monotonic() + timeout
    while True:
        try:
            DockerEngine(engine.docker_host, timeout=5).version()
            return
        except AnvilError as exc:
            if time.monotonic() >= deadline:
                raise fail(
                    "the engine does not answer {0} s after its restart".format(timeout),
                    where=engine.docker_host,
                    why=exc.problems[0].why,
                    hint=LOG_HINT,
                ) from exc
        time.sleep(0.2)


@dataclass(frozen=True)
class DaemonSettings:
    """What daemon.json has to hold. restart_command: empty is this host's own way. timeout: seconds of a restart."""

    path: str
    settings: Mapping[str, Any]
    restart_command: Tuple[str, ...] = ()
    force_restart: bool = False
    timeout: int = 60


def _roll_back(
    engine: DockerEngine, wanted: DaemonSettings, old: Optional[str], argv: Sequence[str], cause: AnvilError
) -> AnvilError:
    problem = cause.problems[0]
    if old is None:
        remove_file(wanted.path)
    else:
        write_file(wanted.path, old, 0o644)
    try:
        _restart(engine, argv, wanted.timeout)
        remove_file(wanted.path + PENDING)
        after = "the old daemon.json is back, and the engine runs with it"
    except AnvilError as exc:
        after = "the old daemon.json is back, but the engine does not run: " + exc.problems[0].why
    return fail(problem.what, where=problem.where, why=problem.why + "\n" + after, hint=problem.hint)


def converge_daemon(engine: DockerEngine, wanted: DaemonSettings, check: bool) -> Dict[str, Any]:
    """Bring daemon.json to hold the settings, and restart the engine if that changed it."""
    path, pending = wanted.path, wanted.path + PENDING
    old = read_file(path)
    before = read_settings(path, old)
    after = merge_settings(before, wanted.settings)
    changed = before != after or wanted.force_restart or os.path.exists(pending)
    result: Dict[str, Any] = {"changed": changed, "restarted": False, "settings": after}
    if not changed:
        return result
    text = json.dumps(after, indent=2) + "\n" if before != after else old
    if text is not None:
        validate_settings(path, text)
        result["diff"] = {"before": old or "", "after": text, "before_header": path, "after_header": path}
    if check:
        return result
    write_file(pending, "", 0o600)
    if text is not None:
        write_file(path, text, 0o644)
    argv = list(wanted.restart_command) or restart_command()
    try:
        _restart(engine, argv, wanted.timeout)
    except AnvilError as exc:
        raise _roll_back(engine, wanted, old, argv, exc) from exc
    remove_file(pending)
    result["restarted"] = True
    return result
