# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the server is told, by its environment alone. All mistakes at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from .environment import SettingsError, read_secret


@dataclass(frozen=True)
class Settings:
    """timeout, drain: seconds a request waits; ttl: seconds a finished job is kept; lease: seconds a replica may be silent."""

    file: Path
    host: str = "127.0.0.1"
    port: int = 8000
    timeout: float = 30.0
    drain: float = 8.0
    concurrency: int | None = None
    queue: int = 1000
    jobs: str = "sqlite:////data/jobs.sqlite"
    jobs_password: str = field(default="", repr=False)
    sync: str = "full"
    ttl: float = 86400.0
    lease: float = 15.0
    body_limit: int = 1024 * 1024
    api_keys: tuple[str, ...] = field(default=(), repr=False)
    callback_hosts: tuple[str, ...] = ()
    replica: str = "1"
    mlflow_uri: str = ""
    mlflow_experiment: str = ""
    mlflow_auth: tuple[str, str] | None = field(default=None, repr=False)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


class _Reader:
    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment, self.problems = environment, list[str]()

    def number(self, name: str, default: float, least: float) -> float:
        text = self.environment.get(name, "").strip()
        if not text:
            return default
        try:
            value = float(text)
            if not least <= value < float("inf"):
                raise ValueError
        except ValueError:
            self.problems.append(f"{name}: {text!r} is no number of {least:g} or more")
            return default
        return value

    def whole(self, name: str, default: int, least: int) -> int:
        return int(self.number(name, default, least))

    def secret(self, name: str) -> str:
        try:
            return read_secret(name, self.environment)
        except SettingsError as error:
            self.problems.append(str(error))
            return ""


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Raises SettingsError."""
    given = dict(os.environ if environment is None else environment)
    read = _Reader(given)
    jobs = given.get("WORKFLOW_JOBS") or "sqlite:////data/jobs.sqlite"
    if urlsplit(jobs).scheme not in ("sqlite", "postgresql", "postgres"):
        read.problems.append("WORKFLOW_JOBS: write sqlite:////data/jobs.sqlite or postgresql://user@host/name")
    sync = given.get("WORKFLOW_JOBS_SYNC") or "full"
    if sync not in ("full", "normal"):
        read.problems.append(f"WORKFLOW_JOBS_SYNC: {sync!r} is neither full nor normal")
    keys = _read_keys(given, read)
    uri = given.get("MLFLOW_TRACKING_URI", "")
    if uri and urlsplit(uri).scheme not in ("http", "https"):
        read.problems.append("MLFLOW_TRACKING_URI: write http://host:port, or leave it out for no tracing")
    user, password = given.get("MLFLOW_TRACKING_USERNAME", ""), read.secret("MLFLOW_TRACKING_PASSWORD")
    concurrency = read.whole("WORKFLOW_CONCURRENCY", 0, 1)
    settings = Settings(
        file=Path(given.get("WORKFLOW_FILE") or "/app/workflow.yaml"),
        host=given.get("HOST") or "127.0.0.1",
        port=read.whole("PORT", 8000, 0),
        timeout=read.number("WORKFLOW_TIMEOUT", 30, 0),
        drain=read.number("WORKFLOW_DRAIN", 8, 0),
        concurrency=concurrency or None,
        queue=read.whole("WORKFLOW_QUEUE", 1000, 0),
        jobs=jobs,
        jobs_password=read.secret("WORKFLOW_JOBS_PASSWORD"),
        sync=sync,
        ttl=read.number("WORKFLOW_JOB_TTL", 86400, 1),
        lease=read.number("WORKFLOW_LEASE", 15, 1),
        body_limit=read.whole("WORKFLOW_BODY_LIMIT", 1024 * 1024, 1),
        api_keys=keys,
        callback_hosts=tuple(given.get("WORKFLOW_CALLBACK_HOSTS", "").replace(",", " ").split()),
        replica=given.get("WORKFLOW_REPLICA") or socket.gethostname(),
        mlflow_uri=uri,
        mlflow_experiment=given.get("MLFLOW_EXPERIMENT_NAME", ""),
        mlflow_auth=(user, password) if user else None,
        environment=given,
    )
    if read.problems:
        raise SettingsError("\n".join(read.problems))
    return settings


def _read_keys(environment: Mapping[str, str], read: _Reader) -> tuple[str, ...]:
    """One key a line, so that a new one can be given out before the old one goes."""
    if not environment.get("WORKFLOW_API_KEY_FILE"):
        return ()
    keys = tuple(line.strip() for line in read.secret("WORKFLOW_API_KEY").splitlines() if line.strip())
    if not keys and not read.problems:
        read.problems.append("WORKFLOW_API_KEY_FILE: the file is empty: write a key into it")
    return keys
