# SPDX-License-Identifier: GPL-3.0-or-later
"""The Docker Engine's daemon.json: merge settings into it, validate it with dockerd, and let the Docker Engine use it.

Settings that dockerd reads again on SIGHUP are reloaded; for every other one the Docker Engine is restarted. If it then does not
run, the old file is put back and the Docker Engine is restarted with it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core import foreign_files
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.files import remove_file, write_file
from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import mask_known
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.host.daemon_settings import (
    is_reloadable,
    lay_out,
    mask_settings,
    merge_settings,
    read_settings,
)
from ansible_collections.anvil.serving.plugins.module_utils.host.docker_installation import (
    Installation,
    describe_installation,
    find_installation,
    read_installation,
)

LOG_HINT = "read journalctl -u docker, or without systemd /var/log/docker.log"
# This file exists from before daemon.json is written until the Docker Engine runs with it: a run that is killed in between
# leaves it, and the next run restarts the Docker Engine.
PENDING = ".anvil-restart"
# A daemon.json is not larger (bytes).
LIMIT = 1024 * 1024
# How long a reload may take (seconds).
RELOAD_SECONDS = 10.0
# Flags of dockerd that say where it reads and writes its own files; the validation uses others.
OWN_FLAGS = ("--config-file", "--pidfile", "-p")
# dockerd says so when it starts with a setting that is in the file and on its command line.
_GIVEN_TWICE = "specified both as a flag and in the configuration file"


@dataclass(frozen=True)
class DaemonSettings:
    """What daemon.json must contain. path: empty: where the Docker Engine of this host reads it.

    restart_command: empty: the default of this host; with a command, the Docker Engine is never only reloaded. timeout: seconds
    for a restart.
    """

    path: str
    settings: Mapping[str, Any]
    restart_command: Tuple[str, ...] = ()
    force_restart: bool = False
    timeout: int = 60


@dataclass(frozen=True)
class _File:
    """A daemon.json as it was found. target: the file behind a link. data: None: there is none."""

    path: str
    target: str
    data: Optional[bytes]
    mode: int = 0o644
    owner: Optional[Tuple[int, int]] = None


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
        raise fail("cannot run {0}".format(argv[0]), where=mask_known(" ".join(argv)), why=str(exc)) from exc


def read_command_line(pid_file: str) -> List[str]:
    """The words of the command line of the dockerd that runs, without its own name; none where it is not known."""
    pid = _find_dockerd(pid_file)
    try:
        with open("/proc/{0}/cmdline".format(pid), "rb") as handle:
            return [word.decode("utf-8", "surrogateescape") for word in handle.read().split(b"\0") if word][1:]
    except OSError:
        return []


def split_flags(words: Sequence[str]) -> Tuple[List[str], str]:
    """The flags of a dockerd without those for its own files, and its ``--config-file``; empty where it has none."""
    flags: List[str] = []
    config, waiting = "", ""
    for word in words:
        name, given, value = word.partition("=")
        if waiting or (name in OWN_FLAGS and given):
            config = (word if waiting else value) if "--config-file" in (waiting, name) else config
            waiting = ""
        elif name in OWN_FLAGS:
            waiting = name
        else:
            flags.append(word)
    return flags, config


def validate_settings(path: str, text: str, flags: Sequence[str] = ()) -> None:
    """Let dockerd validate this text. Raises AnvilError with its error.

    flags: those of the running dockerd; a setting that is in the file and among them would keep it from starting.
    """
    with tempfile.TemporaryDirectory(prefix="anvil-") as folder:
        candidate = os.path.join(folder, "daemon.json")
        write_file(candidate, text, 0o600)
        argv = ["dockerd", "--validate", "--config-file", candidate]
        done = _run(argv)
        twice = _run([*argv, *flags]) if flags and done.returncode == 0 else None
    if done.returncode != 0:
        output = done.stdout.decode("utf-8", "replace").replace(candidate, path).strip()
        raise fail(
            "dockerd rejects the merged settings; nothing was written",
            where=path,
            why=mask_known(output),
            hint="correct docker_host_daemon, or the settings that are already in the file",
        )
    output = "" if twice is None else twice.stdout.decode("utf-8", "replace").replace(candidate, path).strip()
    if _GIVEN_TWICE in output:
        raise fail(
            "the Docker Engine would not start: a setting is in the file and on its command line; nothing was written",
            where=path,
            why=mask_known(output),
            hint="remove it from docker_host_daemon, or from the command line: systemctl edit docker, with an empty ExecStart= "
            "and then one without the flag",
        )


def restart_command() -> List[str]:
    """How this host restarts the Docker Engine: with systemd, else the init script (as on WSL2 without systemd)."""
    if os.path.isdir("/run/systemd/system"):
        return ["systemctl", "restart", "docker"]
    return ["service", "docker", "restart"]


def _restart_docker(docker: DockerEngine, argv: Sequence[str], timeout: int) -> None:
    if os.path.basename(argv[0]) == "systemctl" and "restart" in argv:
        # systemd refuses to start a unit that failed several times within a minute, as with a file that dockerd cannot use.
        _run([*("reset-failed" if word == "restart" else word for word in argv), "docker.socket"], timeout)
    done = _run(argv, timeout)
    if done.returncode != 0:
        output = done.stdout.decode("utf-8", "replace").strip()
        why = output or "it exited with {0} and printed nothing".format(done.returncode)
        raise fail("the Docker Engine could not be restarted", where=" ".join(argv), why=mask_known(why), hint=LOG_HINT)
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


def _find_dockerd(pid_file: str) -> Optional[int]:
    """The process of the Docker Engine; None where it is not known."""
    try:
        with open(pid_file, encoding="ascii") as handle:
            pid = int(handle.read())
        with open("/proc/{0}/comm".format(pid), encoding="ascii") as handle:
            return pid if handle.read().strip() == "dockerd" else None
    except (OSError, ValueError):
        return None


def _reload_docker(docker: DockerEngine, pid_file: str) -> bool:
    """Let dockerd read daemon.json again. False: it did not, and goes on with the settings that it has."""
    pid, began = _find_dockerd(pid_file), time.time()
    if pid is None:
        return False
    try:
        os.kill(pid, signal.SIGHUP)
        while time.time() < began + RELOAD_SECONDS:
            if docker.was_reloaded(began):
                return True
            time.sleep(0.1)
    except (OSError, AnvilError):
        pass
    return False


def _read_file(path: str) -> _File:
    """Raises AnvilError for what is no plain file, is too large or cannot be read."""
    target = os.path.realpath(path)
    try:
        data = foreign_files.read_bytes(target, LIMIT)
        found = os.stat(target)
    except foreign_files.NotReadError as exc:
        if isinstance(exc.__cause__, FileNotFoundError):
            return _File(path, target, None)
        what = "daemon.json cannot be read; nothing was merged into it"
        hint = "look at it with ls -l {0}; set become: true if only root may read it".format(target)
        raise fail(what, where=path, why=exc.problems[0].why, hint=hint) from exc
    return _File(path, target, data, found.st_mode & 0o777, (found.st_uid, found.st_gid))


def _write(found: _File, text: str) -> None:
    """Write the file behind a link, with the mode and the owner that it had."""
    uid, gid = found.owner or (None, None)
    write_file(found.target, text, found.mode, uid, gid)


def _roll_back(docker: DockerEngine, wanted: DaemonSettings, found: _File, argv: Sequence[str], cause: AnvilError) -> AnvilError:
    problem = cause.problems[0]
    if found.data is None:
        remove_file(found.target)
    else:
        _write(found, found.data.decode("utf-8", "surrogateescape"))
    try:
        _restart_docker(docker, argv, wanted.timeout)
        remove_file(found.path + PENDING)
        after = "the old daemon.json was put back, and the Docker Engine runs with it"
    except AnvilError as exc:
        after = "the old daemon.json was put back, but the Docker Engine does not run: " + exc.problems[0].why
    return fail(problem.what, where=problem.where, why=problem.why + "\n" + after, hint=problem.hint)


def _describe(docker: DockerEngine) -> Tuple[Installation, Mapping[str, Any]]:
    """How the Docker Engine is installed, and what it says of itself; nothing if it does not run."""
    try:
        info = docker.info()
    except AnvilError:
        return describe_installation(find_installation()), {}
    return describe_installation(read_installation(info)), info


def converge_daemon(docker: DockerEngine, wanted: DaemonSettings, check: bool) -> Dict[str, Any]:
    """Merge the settings into daemon.json, and let the Docker Engine use it if that changed the file."""
    installation, info = _describe(docker)
    flags, config = split_flags(read_command_line(installation.pid_file))
    path = wanted.path or config or installation.daemon_json
    if not path:
        raise fail(
            "Docker Desktop reads no daemon.json of this host",
            where=docker.docker_host,
            why="its Docker Engine runs in a virtual machine",
            hint="set it in Docker Desktop: Settings, Docker Engine; and leave docker_host_daemon empty for this host",
        )
    found = _read_file(path)
    before = read_settings(path, found.data)
    after = merge_settings(before, wanted.settings)
    pending = os.path.exists(path + PENDING)
    changed = before != after or wanted.force_restart or pending
    result: Dict[str, Any] = {"changed": changed, "restarted": False, "reloaded": False, "settings": mask_settings(after)}
    if not changed:
        return result
    if before != after or found.data is not None:
        validate_settings(path, lay_out(after), flags)
    if before != after:
        shown = "" if found.data is None else lay_out(mask_settings(before))
        result["diff"] = {"before": shown, "after": lay_out(result["settings"]), "before_header": path, "after_header": path}
    if check:
        return result
    write_file(path + PENDING, "", 0o600)
    if before != after:
        _write(found, lay_out(after))
    reload_only = is_reloadable(before, after) and not (wanted.force_restart or pending or wanted.restart_command)
    if reload_only or (after.get("live-restore") is True and info.get("LiveRestoreEnabled") is False):
        # live-restore that is read now keeps the containers running through the restart.
        result["reloaded"] = _reload_docker(docker, installation.pid_file)
    if not (reload_only and result["reloaded"]):
        argv = list(wanted.restart_command) or list(installation.restart) or restart_command()
        try:
            _restart_docker(docker, argv, wanted.timeout)
        except AnvilError as exc:
            raise _roll_back(docker, wanted, found, argv, exc) from exc
        result["restarted"] = True
    remove_file(path + PENDING)
    return result
