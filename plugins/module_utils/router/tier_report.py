# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of each tier in each router, for ``anvil_router_info``: in use or quiesced, and whether its serve answers."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.router.tier_transitions import NO_API, TransitionApi

# The variable with the token of every router that this collection renders.
TOKEN_VARIABLE = "ANVIL_ROUTER_TOKEN"


def read_own_token(inspected: Mapping[str, Any]) -> str:
    """The token in the environment of a router; empty if there is none."""
    for line in (inspected.get("Config") or {}).get("Env") or ():
        name, _equals, value = str(line).partition("=")
        if name == TOKEN_VARIABLE:
            return value.strip()
    return ""


def describe_tiers(docker: DockerEngine, containers: Sequence[str], token: str) -> Tuple[Dict[str, Dict[str, Any]], List[str]]:
    """Tier -> router -> its state, and warnings for routers that could not be asked.

    Routers keep the state of their tiers in memory, each its own. One that does not run, or that has no token and so no such
    API, is left out. token: empty: the one in the environment of each router.
    """
    found: Dict[str, Dict[str, Any]] = {}
    warnings = []
    for container in containers:
        inspected = docker.inspect_container(container)
        if inspected is None or inspected["State"]["Status"] != "running":
            continue
        try:
            rows = TransitionApi(docker, container, token or read_own_token(inspected)).read_tiers("")
        except AnvilError as exc:
            if NO_API not in exc.as_text():
                warnings.append("the tiers of {0} could not be read: {1}".format(container, exc.problems[0].as_text()))
            continue
        for row in rows:
            found.setdefault(str(row.get("tier_id")), {})[container] = describe_row(row)
    return found, warnings


def describe_row(row: Mapping[str, Any]) -> Dict[str, Any]:
    """One row of a router's report in our words. reason: why the tier is quiesced, or why its serve is not ready."""
    quiesced, ready = row.get("state") == "quiesced", bool(row.get("ready"))
    return {
        "state": "quiesced" if quiesced else "admitted",
        "ready": ready,
        "in_flight": int(row.get("active_requests") or 0),
        "reason": str((row.get("reason") if quiesced else "" if ready else row.get("readiness_reason")) or ""),
    }


def is_quiesced(routers: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether a tier gets no requests in any router. routers: router -> its state."""
    return bool(routers) and all(row["state"] == "quiesced" for row in routers.values())
