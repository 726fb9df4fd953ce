# SPDX-License-Identifier: GPL-3.0-or-later
"""The serves of a project as watch is told of them: where each answers, and which probe it gets. Pure; no secret is in it."""

from __future__ import annotations

from typing import List, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import OFF, Service
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Project, build_probe
from ansible_collections.anvil.serving.plugins.module_utils.watch.settings import WatchedServe

# A start may take this many times as long as the serve's ready_timeout, and at least so many seconds.
LOAD_FACTOR, LEAST_LOAD = 2.0, 600.0
# Options of llama.cpp's server: it unloads its model when idle; it serves several models and loads them when asked.
SLEEPS, SEVERAL = "--sleep-idle-seconds", "--models-preset"


def list_watched(project: Project) -> Tuple[WatchedServe, ...]:
    """Every serve that publishes a port and is meant to run."""
    found: List[WatchedServe] = []
    for service in project.services.values():
        if project.residency(service) != OFF:
            one = describe_watched(project, service)
            found += [] if one is None else [one]
    return tuple(sorted(found, key=lambda one: one.name))


def list_weight_folders(project: Project) -> Tuple[str, ...]:
    """The folders of the host that serves mount."""
    mounts = [mount for service in project.services.values() for mount in service.mounts]
    return tuple(sorted({mount.source for mount in mounts if mount.kind == "bind" and mount.source.startswith("/")}))


def describe_watched(project: Project, service: Service) -> Optional[WatchedServe]:
    """None for a serve without a port or without a check of its readiness."""
    probe = build_probe(project, service)
    if probe is None:
        return None
    engine, command = str(service.anvil.get("engine") or ""), service.command or ()
    has_probe = SEVERAL not in command and (engine != "custom" or probe.warmup)
    key = str((service.anvil.get("ready") or {}).get("key") or "")
    secrets = service.anvil.get("secrets") or {}
    return WatchedServe(
        name=service.name,
        container=service.container,
        engine=engine,
        host=probe.address[0],
        port=probe.address[1],
        served_name=probe.served_name,
        kind=probe.serves if has_probe else "",
        tls=probe.tls,
        prefix=probe.prefix,
        health_path=probe.health_path if probe.kind == "health" else "",
        key_variable=next((variable for variable, name in sorted(secrets.items()) if key and name == key), ""),
        sleeps=any(word.partition("=")[0] == SLEEPS for word in command),
        idle=int(service.anvil.get("idle") or 0),
        load_seconds=max(LEAST_LOAD, LOAD_FACTOR * probe.timeout),
    )
