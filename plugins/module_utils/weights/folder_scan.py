# SPDX-License-Identifier: GPL-3.0-or-later
"""Scan a folder of models on the host, and the ports that are in use there; ``discovered_serves`` decides the rest."""

from __future__ import annotations

import socket
from dataclasses import replace
from typing import Any, Dict, Optional, Set

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail, problems_as_dicts
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.weights.discovered_serves import Scan, plan_serves
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import resolve_path
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_folder import find_models


def _find_used_ports(docker: DockerEngine, first: int, last: int) -> Set[int]:
    """Ports of a range that a container publishes, or that a process of this host listens on."""
    held = {
        int(port["PublicPort"])
        for entry in docker.list_containers()
        for port in entry.get("Ports") or []
        if port.get("PublicPort")
    }
    for port in range(first, last + 1):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                held.add(port)
    return held


def scan_models(docker: DockerEngine, volume: Optional[str], path: str, scan: Scan) -> Dict[str, Any]:
    """What anvil_discover returns: the serves that the models of a folder or volume become."""
    if not 1 <= scan.first_port <= scan.last_port <= 65535:
        raise fail(
            "the range of ports is not valid",
            where="first_port, last_port",
            why="{0} to {1}".format(scan.first_port, scan.last_port),
            hint="give ports from 1 to 65535, the first not above the last",
        )
    folder = resolve_path(docker, volume, "." if volume else path, create=False)
    found, broken = find_models(folder)
    kept = {int(serve["port"]) for serve in scan.kept.values() if isinstance(serve.get("port"), int)}
    # The port of a serve of the last scan may be in use by that serve.
    taken = {*scan.taken, *(_find_used_ports(docker, scan.first_port, scan.last_port) - kept)}
    decided = plan_serves(found, replace(scan, folder=folder, source=volume or folder, taken=taken))
    before, after = set(scan.kept), set(decided.serves)
    return {
        "changed": False,
        "serves": decided.serves,
        "added": sorted(after - before),
        "gone": sorted(before - after),
        "skipped": [{"path": file.path, "why": file.why} for file in decided.skipped],
        "notes": list(decided.notes),
        "unreadable": [problem for error in broken for problem in problems_as_dicts(error.problems)],
        "problems": decided.problems,
    }
