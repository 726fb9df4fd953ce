# SPDX-License-Identifier: GPL-3.0-or-later
"""What anvil_watch is asked for: its options become settings, every mistake at once; then watch is installed or removed."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any, Dict, List, Mapping

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import service_as_dict
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import MOUNT
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_layout import (
    CONFIG_FOLDER,
    WATCH_FOLDER,
    WATCH_SOCKET,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import read_project
from ansible_collections.anvil.serving.plugins.module_utils.watch.installation import (
    Installation,
    choose_runner,
    install,
    remove,
)
from ansible_collections.anvil.serving.plugins.module_utils.watch.liveness import Limits
from ansible_collections.anvil.serving.plugins.module_utils.watch.settings import Pointer, WatchSettings
from ansible_collections.anvil.serving.plugins.module_utils.watch.watched_serves import list_watched, list_weight_folders


def read_limits(given: Mapping[str, Any]) -> Dict[str, float]:
    """Raises AnvilError with every mistake."""
    known = [one.name for one in fields(Limits)]
    problems: List[Problem] = []
    read: Dict[str, float] = {}
    for name, value in given.items():
        where = "limits." + str(name)
        if name not in known:
            problems.append(Problem("is not known", where, hint="known: " + ", ".join(known)))
            continue
        try:
            read[str(name)] = number = float(value)
        except (TypeError, ValueError):
            number = -1.0
        if not 0 < number < 1e6 or isinstance(value, bool):
            problems.append(Problem("is not a number above 0", where, why=ascii(value)[:100], hint="{0}: 30".format(name)))
    if problems:
        raise AnvilError(*problems)
    return read


def converge_watch(docker: DockerEngine, params: Mapping[str, Any], check: bool) -> Dict[str, Any]:
    """The result of anvil_watch."""
    if params["state"] == "absent":
        changes = remove(docker, params["root"], check)
        return {"changed": bool(changes), "changes": changes, "runs_in": ""}
    limits = read_limits(params["limits"])
    raw = params["project"] or {"name": "", "directory": "", "compose": "", "services": {}}
    # The values of secrets are not needed: watch reads the key of a serve from the environment of its container.
    names = {name for one in raw["services"].values() for name in ((one.get("anvil") or {}).get("secrets") or {}).values()}
    project = read_project(raw, dict.fromkeys(names, "unused"), ())
    watched = list_watched(project)
    pointers = [Pointer(name, MOUNT) for name in params["routers"]]
    pointers += [Pointer(params["edge"], CONFIG_FOLDER)] if params["edge"] else []
    settings = WatchSettings(
        project.name,
        project.directory,
        params["data"],
        docker.docker_host,
        params["port"],
        params["restarts_per_hour"],
        watched,
        limits,
        {serve.name: service_as_dict(project.services[serve.name]) for serve in watched},
        {str(gpu["uuid"]): int(gpu["vram_mib"]) - int(gpu.get("reserve_mib") or 0) for gpu in params["gpus"]},
        tuple(pointers),
        tuple(params["certificates"]),
        list_weight_folders(project),
        os.path.join(params["root"], WATCH_FOLDER, WATCH_SOCKET) if params["for_edge"] else "",
    )
    wanted = Installation(params["root"], settings, choose_runner(params["runs_in"]), params["image"])
    changes = install(docker, wanted, check)
    return {"changed": bool(changes), "changes": changes, "runs_in": wanted.runs_in}
