# SPDX-License-Identifier: GPL-3.0-or-later
"""The Docker Engine's daemon.json: merge settings into it, validate it with dockerd, and restart the Docker Engine if it changed.

If the restart fails, the old file is put back and the Docker Engine is restarted with it.
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

LOG_HINT = "read journalctl -u docker, or without systemd /var/log/docker.log"
DEFAULT_PATH = "/etc/docker/daemon.json"
# This file exists from before daemon.json is written until the Docker Engine runs with it: a run that is killed in between
# leaves it, and the next run restarts the Docker Engine.
PENDING = ".anvil-restart"


def merge_settings(old: Mapping[str, Any], new: Mapping[str, Any]) -> Dict[str, Any]:
    """``old`` merged with ``new``: mappings key by key, lists by adding missing items, everything else replaced.

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
    """The settings in a daemon.json; none in an absent or empty file. Raises AnvilError if it is not a JSON object."""
    if text is None or not text.strip():
        return {}
    try:
        found = json.loads(text)
    except ValueError as exc:
        raise fail(
            "daemon.json is not valid JSON; nothing was merged into it",
            where=path,
            why=str(exc),
            hint="correct it by hand (python3 -m json.tool {0} shows the error), or move it away".format(path),
        ) from exc
    if not isinstance(found, dict):
        raise fail(
            "daemon.json is not a JSON object; nothing was merged into it", where=path, hint="correct it by hand, or move it away"
        )
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
    """Let dockerd validate this text. Raises AnvilError with its error."""
    with tempfile.TemporaryDirectory(prefix="anvil-") as folder:
        candidate = os.path.join(folder, "daemon.json")
        write_file(candidate, text, 0o600)
        done = _run(["dockerd", "--validate", "--config-file", candidate])
    if done.returncode != 0:
        raise fail(
            "dockerd rejects the merged settings; nothing was written",
            where=path,
            why=done.stdout.decode("utf-8", "replace").replace(candidate, path).strip(),
            hint="correct docker_host_daemon, or the settings that are already in the file",
        )


def restart_command() -> List[str]:
    """How this host restarts the Docker Engine: with systemd, else the init script (as on WSL2 without systemd)."""
    if os.path.isdir("/run/systemd/system"):
        return ["systemctl", "restart", "docker"]
    return ["service", "docker", "restart"]


def _restart_docker(docker: DockerEngine, argv: Sequence[str], timeout: int) -> None:
    done = _run(argv, timeout)
    if done.returncode != 0:
        output = done.stdout.decode("utf-8", "replace").strip()
        why = output or "it exited with {0} and printed nothing".format(done.returncode)
        raise fail("the Docker Engine could not be restarted", where=" ".join(argv), why=why, hint=LOG_HINT)
    deadline = time.monotonic() + timeout
    while True:
        try:
            DockerEngine(docker.docker_host, timeout=5).version()
            return
        except AnvilError as exc:
            if time.monotonic() >= deadline:
                raise fail(
                    "the Docker Engine does not answer {0} s after its restart".format(timeout),
                    where=docker.docker_host,
                    why=exc.problems[0].why,
                    hint=LOG_HINT,
                ) from exc
        time.sleep(0.2)


@dataclass(frozen=True)
class DaemonSettings:
    """What daemon.json must contain. restart_command: empty: the default of this host. timeout: seconds for a restart."""

    path: str
    settings: Mapping[str, Any]
    restart_command: Tuple[str, ...] = ()
    force_restart: bool = False
    timeout: int = 60


def _roll_back(
    docker: DockerEngine, wanted: DaemonSettings, old: Optional[str], argv: Sequence[str], cause: AnvilError
) -> AnvilError:
    problem = cause.problems[0]
    if old is None:
        remove_file(wanted.path)
    else:
        write_file(wanted.path, old, 0o644)
    try:
        _restart_docker(docker, argv, wanted.timeout)
        remove_file(wanted.path + PENDING)
        after = "the old daemon.json was put back, and the Docker Engine runs with it"
    except AnvilError as exc:
        after = "the old daemon.json was put back, but the Docker Engine does not run: " + exc.problems[0].why
    return fail(problem.what, where=problem.where, why=problem.why + "\n" + after, hint=problem.hint)


def converge_daemon(docker: DockerEngine, wanted: DaemonSettings, check: bool) -> Dict[str, Any]:
    """Merge the settings into daemon.json, and restart the Docker Engine if that changed the file."""
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
        _restart_docker(docker, argv, wanted.timeout)
    except AnvilError as exc:
        raise _roll_back(docker, wanted, old, argv, exc) from exc
    remove_file(pending)
    result["restarted"] = True
    return result
