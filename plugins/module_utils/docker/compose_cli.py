# SPDX-License-Identifier: GPL-3.0-or-later
"""The ``docker compose`` command line: it takes argv lists and returns exit code and text. The text is never parsed."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from typing import Dict, List, Mapping, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.files import read_file

# Where the docker command looks for plugins, after the user's own folder.
PLUGIN_FOLDERS = (
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)


@dataclass(frozen=True)
class ComposeResult:
    """One command that has ended. ``text`` is stderr and stdout, for the operator only."""

    argv: Sequence[str]
    code: int
    text: str


def _clean_environment() -> Dict[str, str]:
    """The caller's environment without variables that make Compose use other files or another Docker Engine."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("COMPOSE_") and name not in ("DOCKER_CONTEXT", "DOCKER_HOST")
    }


def find_plugin() -> str:
    """The program that ``docker compose`` runs on this host; empty where only the docker command itself knows."""
    own = os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")
    try:
        if "cliPluginsExtraDirs" in (read_file(os.path.join(own, "config.json")) or ""):
            return ""
    except AnvilError:
        return ""  # the docker command may be able to read what this user cannot
    candidates = (os.path.join(folder, "docker-compose") for folder in (os.path.join(own, "cli-plugins"), *PLUGIN_FOLDERS))
    return next((path for path in candidates if os.access(path, os.X_OK)), "")


def compose_command(docker_host: str) -> List[str]:
    """The beginning of every Compose command line for a Docker Engine.

    The plugin is called directly. The docker command would start it twice, the first time only for its metadata: that is 60
    of the 120 ms of processor time that it takes to start two serves.
    """
    plugin = find_plugin()
    return [plugin, "-H", docker_host] if plugin else ["docker", "-H", docker_host, "compose"]


class Compose:
    """``docker compose`` for one project whose file is ``directory/compose.yaml``."""

    def __init__(
        self,
        project: str,
        directory: str,
        docker_host: str,
        timeout: int = 3600,
        locks: Sequence[int] = (),
        own_files: Optional[Mapping[str, str]] = None,
    ) -> None:
        """timeout: seconds for one command. own_files: service -> its compose file, for services with another than the project's.

        locks: descriptors that every command inherits. If this process is killed during a command, the command continues and
        keeps the locks, so the next run waits for it.
        """
        self.directory = directory
        self.inherited = tuple(locks)
        self.timeout = timeout
        self.own_files = dict(own_files or {})
        self.commands: List[Sequence[str]] = []
        project_options = ["--project-name", project, "--project-directory", directory]
        self.file = os.path.join(directory, "compose.yaml")
        self.base = [*compose_command(docker_host), "--ansi", "never", "--progress", "quiet", *project_options]

    def _run(self, *arguments: str, file: str = "") -> ComposeResult:
        argv = [*self.base, "--file", file or self.file, *arguments]
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
                "the docker command is not installed on this host",
                where="PATH",
                why=str(exc),
                hint="install the Docker CLI with the Compose v2 plugin (apt install docker-cli docker-compose)",
            ) from exc
        except subprocess.TimeoutExpired as exc:
            raise fail(
                "docker compose did not end in {0} s".format(self.timeout),
                where=" ".join(argv),
                hint="find what delays the Docker Engine (journalctl -u docker, docker events --since 1h), then run again",
            ) from exc
        return ComposeResult(argv, done.returncode, done.stdout.decode("utf-8", "replace").strip())

    def up(self, services: Sequence[str], recreate: bool) -> ComposeResult:
        """Create or start only these services; ``recreate`` replaces their containers even where Compose sees no difference.

        One command for all services of the project's file, one more for each service with a file of its own; the first that
        fails is the last.
        """
        words = ["up", "--detach", "--no-deps", "--pull", "never", *(["--force-recreate"] if recreate else [])]
        shared = [name for name in services if name not in self.own_files]
        groups = [(shared, "")] if shared else []
        groups.extend(([name], self.own_files[name]) for name in services if name in self.own_files)
        for names, file in groups:
            ran = self._run(*words, *names, file=file)
            if ran.code != 0:
                break
        return ran

    def start_all(self) -> ComposeResult:
        """Start what is stopped and create what is missing, of all services of the project's file; nothing is recreated."""
        return self._run("up", "--detach", "--no-recreate", "--pull", "never")

    def unpause(self, services: Sequence[str]) -> ComposeResult:
        return self._run("unpause", *services)


def read_version(docker_host: str, plugin: str = "compose") -> str:
    """The version of a plugin of the docker command; an empty string where the plugin is missing."""
    argv = [*compose_command(docker_host), "version", "--short"]
    try:
        done = subprocess.run(
            argv if plugin == "compose" else ["docker", "-H", docker_host, plugin, "version"],
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
