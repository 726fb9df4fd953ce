# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The settings of the server, all from environment variables. Every mistake is reported at once."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from anvil_workflow.environment.variables import SettingsError, read_secret

CLIENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Docker gives a container this name of its host.
OWN_NAMES = ("host.docker.internal",)


@dataclass(frozen=True)
class ApiKey:
    """A key of a client. name: for the access log."""

    name: str
    value: str = field(repr=False)


@dataclass(frozen=True)
class Settings:
    """All settings. timeout, drain: seconds that a request waits, normally and once the server is stopping.

    ttl: seconds that an ended job and its trace are kept. lease: seconds after which another replica takes over the jobs of a
    silent one. hosts: the names of this server. proxies: addresses whose X-Forwarded-For is believed. log_prompts: whether traces
    hold prompts, answers and texts of errors. prices: JSON, model -> price.
    """

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
    body_values: int = 25_000
    api_keys: tuple[ApiKey, ...] = ()
    hosts: tuple[str, ...] = ()
    proxies: tuple[str, ...] = ()
    certificate: str = ""
    tls_port: int = 8443
    callback_hosts: tuple[str, ...] = ()
    replica: str = "1"
    mlflow_uri: str = ""
    mlflow_experiment: str = ""
    mlflow_auth: tuple[str, str] | None = field(default=None, repr=False)
    log_prompts: bool = True
    prices: str = ""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


class _EnvironmentReader:
    """Reads variables one by one and collects the mistakes."""

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
            self.problems.append(f"{name}: {text!r} is not a number >= {least:g}")
            return default
        return value

    def whole(self, name: str, default: int, least: int) -> int:
        return int(self.number(name, default, least))

    def words(self, name: str) -> tuple[str, ...]:
        return tuple(self.environment.get(name, "").replace(",", " ").split())

    def switch(self, name: str, default: bool) -> bool:
        text = self.environment.get(name, "").strip().lower()
        if text in ("", "true", "false"):
            return default if not text else text == "true"
        self.problems.append(f"{name}: {text!r} is neither true nor false")
        return default

    def secret(self, name: str) -> str:
        try:
            return read_secret(name, self.environment)
        except SettingsError as error:
            self.problems.append(str(error))
            return ""


def read_settings(environment: Mapping[str, str] | None = None) -> Settings:
    """Raises SettingsError."""
    given = dict(os.environ if environment is None else environment)
    reader = _EnvironmentReader(given)
    jobs = given.get("WORKFLOW_JOBS") or "sqlite:////data/jobs.sqlite"
    if urlsplit(jobs).scheme not in ("sqlite", "postgresql", "postgres"):
        reader.problems.append(
            "WORKFLOW_JOBS: neither an SQLite nor a PostgreSQL URL: write sqlite:////data/jobs.sqlite or postgresql://user@host/name"
        )
    sync = given.get("WORKFLOW_JOBS_SYNC") or "full"
    if sync not in ("full", "normal"):
        reader.problems.append(f"WORKFLOW_JOBS_SYNC: {sync!r} is neither full nor normal")
    keys = _read_keys(given, reader)
    uri = given.get("MLFLOW_TRACKING_URI", "")
    if uri and urlsplit(uri).scheme not in ("http", "https"):
        reader.problems.append("MLFLOW_TRACKING_URI: not an HTTP URL: write http://host:port, or unset it to turn tracing off")
    user, password = given.get("MLFLOW_TRACKING_USERNAME", ""), reader.secret("MLFLOW_TRACKING_PASSWORD")
    concurrency = reader.whole("WORKFLOW_CONCURRENCY", 0, 1)
    host, replica = given.get("HOST") or "127.0.0.1", given.get("WORKFLOW_REPLICA") or socket.gethostname()
    settings = Settings(
        file=Path(given.get("WORKFLOW_FILE") or "/app/workflow.yaml"),
        host=host,
        port=reader.whole("PORT", 8000, 0),
        timeout=reader.number("WORKFLOW_TIMEOUT", 30, 0),
        drain=reader.number("WORKFLOW_DRAIN", 8, 0),
        concurrency=concurrency or None,
        queue=reader.whole("WORKFLOW_QUEUE", 1000, 0),
        jobs=jobs,
        jobs_password=reader.secret("WORKFLOW_JOBS_PASSWORD"),
        sync=sync,
        ttl=reader.number("WORKFLOW_JOB_TTL", 86400, 1),
        lease=reader.number("WORKFLOW_LEASE", 15, 1),
        body_limit=reader.whole("WORKFLOW_BODY_LIMIT", 1024 * 1024, 1),
        body_values=reader.whole("WORKFLOW_BODY_VALUES", 25_000, 1),
        api_keys=keys,
        hosts=(*reader.words("WORKFLOW_HOSTS"), *OWN_NAMES, socket.gethostname(), host, replica),
        proxies=reader.words("WORKFLOW_PROXIES"),
        certificate=given.get("WORKFLOW_CERTIFICATE_FILE", ""),
        tls_port=reader.whole("WORKFLOW_TLS_PORT", 8443, 0),
        callback_hosts=reader.words("WORKFLOW_CALLBACK_HOSTS"),
        replica=replica,
        mlflow_uri=uri,
        mlflow_experiment=given.get("MLFLOW_EXPERIMENT_NAME", ""),
        mlflow_auth=(user, password) if user else None,
        log_prompts=reader.switch("WORKFLOW_LOG_PROMPTS", True),
        prices=given.get("WORKFLOW_PRICES", ""),
        environment=given,
    )
    if reader.problems:
        raise SettingsError("\n".join(reader.problems))
    return settings


def _read_keys(environment: Mapping[str, str], reader: _EnvironmentReader) -> tuple[ApiKey, ...]:
    """One key per line, ``KEY`` or ``NAME KEY``: a new key can be handed out before the old one is removed."""
    if not environment.get("WORKFLOW_API_KEY_FILE"):
        return ()
    before = len(reader.problems)
    lines = [line.split() for line in reader.secret("WORKFLOW_API_KEY").splitlines() if line.strip()]
    if not lines and len(reader.problems) == before:
        reader.problems.append("WORKFLOW_API_KEY_FILE: the file is empty: write a key into it")
    keys = []
    for number, words in enumerate(lines, 1):
        if len(words) > 2 or not (len(words) == 1 or CLIENT_NAME.fullmatch(words[0])):
            what = f"line {number} is neither a key nor a name and a key: write NAME KEY, the name of letters, digits, . _ -"
            reader.problems.append(f"WORKFLOW_API_KEY_FILE: {what}")
        else:
            keys.append(ApiKey(words[0] if len(words) == 2 else f"key-{number}", words[-1]))
    return tuple(keys)
