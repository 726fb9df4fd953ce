# SPDX-License-Identifier: GPL-3.0-or-later
"""What a compose file means: ``docker compose config`` interprets it, with ``.env``, env files, ``extends`` and ``include``."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from typing import Any, Dict, List, Mapping, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import mask_text
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_cli import find_plugin

TIMEOUT_SECONDS = 60
NOT_SET = re.compile(r'The \\?"([^"\\]+)\\?" variable is not set')
# A filesystem in memory: what is put there is on no disk.
MEMORY = "/dev/shm"


def find_compose() -> List[str]:
    """The beginning of a Compose command line on this machine; empty where there is no Compose. No Docker Engine is needed."""
    plugin = find_plugin()
    if plugin:
        return [plugin]
    if shutil.which("docker") and _runs(["docker", "compose", "version"]):
        return ["docker", "compose"]
    return []


def _runs(argv: Sequence[str]) -> bool:
    try:
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def run_config(
    compose: Sequence[str],
    folder: str,
    name: str,
    environment: Mapping[str, str],
    extensions: bool = True,
    consistent: bool = True,
) -> Dict[str, Any]:
    """``document`` (JSON), ``text`` (YAML) and ``unset`` of the file ``folder/name``. Raises AnvilError with what Compose says.

    Every profile is active, and paths stay as they are written: they are those of the host, not of this machine. extensions: the
    file has ``x-`` keys in services, which only YAML shows; ``text`` is empty without. consistent: a file whose services refer to
    others that do not exist is an error.
    """
    base = [*compose, "--ansi", "never", "--profile", "*", "--file", name, "config", "--no-path-resolution"]
    base += [] if consistent else ["--no-consistency"]
    outputs, errors = [], ""
    for form in ("json", "yaml") if extensions else ("json",):
        try:
            done = subprocess.run(
                [*base, "--format", form],
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise fail("docker compose config did not end", where="compose", why=str(exc)) from exc
        errors = done.stderr.decode("utf-8", "replace")
        if done.returncode:
            said = "\n".join(line for line in errors.splitlines() if "level=warning" not in line).strip()
            raise fail(
                "Docker Compose cannot read the compose file",
                where="compose",
                why=mask_text(said.replace(folder + os.sep, "")) or "exit code {0}".format(done.returncode),
                hint=_hint(said),
            )
        outputs.append(done.stdout.decode("utf-8", "replace"))
    return {"document": json.loads(outputs[0]), "text": "".join(outputs[1:]), "unset": sorted(set(NOT_SET.findall(errors)))}


def _hint(said: str) -> str:
    if "required variable" in said or "is missing a value" in said:
        return "set the variable in a file .env beside the compose file, or write the value itself"
    if "gpus" in said and "not allowed" in said:
        return "this version of Compose does not know gpus: use deploy.resources.reservations.devices, and pass -e gpu=ALIAS"
    if "Invalid ip address" in said:
        return "publish the port on an IP address without a zone: 127.0.0.1:8000:8000"
    if "(root)" in said and "not allowed" in said:
        return "write the services below the key services: (files without it are of Compose 1)"
    if "not allowed" in said:
        return "correct the key, or use a newer Docker Compose"
    if "env file" in said or "no such file" in said:
        return "put the file beside the compose file"
    return "docker compose -f FILE config shows the same"


def run_config_of_texts(compose: Sequence[str], name: str, texts: Mapping[str, str], consistent: bool = True) -> Dict[str, Any]:
    """As ``run_config``, for files that are given as texts (path below their folder -> text). No variable of this process counts.

    They lie in a folder in memory that only this user can read, and for this call only.
    """
    folder = tempfile.mkdtemp(prefix="anvil-compose-", dir=MEMORY if os.path.isdir(MEMORY) else None)
    try:
        for path, text in texts.items():
            target = os.path.normpath(os.path.join(folder, path))
            if not target.startswith(folder + os.sep):
                raise fail("a file of the compose file lies outside of its folder", where=path)
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
            descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
                handle.write(text)
        extensions = any("x-anvil" in text for text in texts.values())
        return run_config(
            compose, folder, name, {"PATH": os.environ.get("PATH", os.defpath), "HOME": folder}, extensions, consistent
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
