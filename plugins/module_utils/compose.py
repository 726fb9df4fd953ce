# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The ``docker compose`` command line: argv lists in, exit code and text out. Progress text is never parsed."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import Dict, List, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.errors import fail


@dataclass(frozen=True)
class Ran:
    """One command as it ran. ``text`` is stderr and stdout, for people only."""

    argv: Sequence[str]
    code: int
    text: str


def _clean_environment() -> Dict[str, str]:
    """The caller's environment without what would make compose read other files or talk to another engine."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("COMPOSE_") and name not in ("DOCKER_CONTEXT", "DOCKER_HOST")
    }


class Compose:
    """``docker compose`` for one project whose file is ``directory/compose.yaml``."""

    def __init__(self, project: str, directory: str, docker_host: str, timeout: int = 3600, locks: Sequence[int] = ()) -> None:
        """``timeout``: seconds for one command.

        locks: descriptors that every command inherits. Where this process is killed in the middle of a command, the
        command goes on, and so do the locks: the next run waits for it.
        """
        self.directory = directory
        self.inherited = tuple(locks)
        self.timeout = timeout
        self.commands: List[Sequence[str]] = []
        which = ["--project-name", project, "--project-directory", directory]
        file = os.path.join(directory, "compose.yaml")
        self.base = ["docker", "-H", docker_host, "compose", "--ansi", "never", "--progress", "quiet", *which, "--file", file]

    def _run(self, *words: str) -> Ran:
        argv = [*self.base, *words]
        self.commands.append(argv)
        try:
            done = subprocess.run(
                argv,
                env=_clean_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=self.timeout,
                pass_fds=self.inherited,
                check=False,
            )
        except FileNotFoundError as exc:
            raise fail(
                "the docker command is not on this host",
                where="PATH",
                why=str(exc),
                hint="install the Docker CLI with the Compose v2 plugin (apt install docker-cli docker-compose)",
            ) from exc
        except subprocess.TimeoutExpired as exc:
            raise fail(
                "docker compose did not end in {0} s".format(self.timeout),
                where=" ".join(argv),
                hint="see what the engine is busy with (docker events, journalctl -u docker), then run again",
            ) from exc
        return Ran(argv, done.returncode, done.stdout.decode("utf-8", "replace").strip())

    def up(self, services: Sequence[str], recreate: bool) -> Ran:
        """Create or start just these services; with ``recreate``, replace their containers whatever compose thinks."""
        force = ["--force-recreate"] if recreate else []
        return self._run("up", "--detach", "--no-deps", "--pull", "never", *force, *services)

    def unpause(self, services: Sequence[str]) -> Ran:
        return self._run("unpause", *services)


def read_version(docker_host: str, plugin: str = "compose") -> str:
    """What a plugin of the docker command tells of its version, or an empty string where there is none."""
    short = ["--short"] if plugin == "compose" else []
    try:
        done = subprocess.run(
            ["docker", "-H", docker_host, plugin, "version", *short],
            env=_clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else ""
