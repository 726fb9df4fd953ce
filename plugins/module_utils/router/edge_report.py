# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of the edge and of the replicas behind it, for ``anvil_router_info``."""

from __future__ import annotations

import re
import time
from dataclasses import asdict
from typing import Any, Dict, List, Mapping

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.router.certificate_files import describe_expiry, read_expiry
from ansible_collections.anvil.serving.plugins.module_utils.router.edge import Edge, has_tls, loaded_hash
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_layout import parse_config_hash
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_servers import UP, parse_clients

# The files of certificates in the edge's configuration.
CERTIFICATES = re.compile(r" crt (\S+)")


def describe_edge(docker: DockerEngine, container: str) -> Dict[str, Any]:
    """The edge as found; an absent one is not a failure. problem: why a running one could not be read."""
    inspected = docker.inspect_container(container)
    report: Dict[str, Any] = {
        "exists": inspected is not None,
        "container": container,
        "state": "absent" if inspected is None else str(inspected["State"]["Status"]),
        "started_at": "" if inspected is None else str(inspected["State"]["StartedAt"]),
        "restarts": 0 if inspected is None else int(inspected.get("RestartCount") or 0),
        "image_id": "" if inspected is None else str(inspected["Image"]),
        "version": "",
        "loaded": None,
        "tls": False,
        "healthy": False,
        "replicas": [],
        "certificates": [],
        "clients": [],
        "problem": "",
    }
    if report["state"] != "running":
        return report
    edge = Edge(docker, container)
    try:
        servers, info = edge.read_servers(), edge.read_info()
        config = edge.read_config()
        report["certificates"] = [_describe_certificate(edge, path) for path in sorted(set(CERTIFICATES.findall(config)))]
        report["clients"] = [asdict(client) for client in parse_clients(edge.send_command("show table clients"))]
        report["loaded"] = loaded_hash(info) == parse_config_hash(config)
        report["tls"] = has_tls(config)
    except AnvilError as exc:
        report["problem"] = exc.as_text()
        return report
    report["version"] = info.get("Version", "")
    report["healthy"] = not servers or any(server.status == UP for server in servers)
    report["replicas"] = [
        {"name": each.name, "status": each.status, "sessions": each.sessions, "queued": each.queued} for each in servers
    ]
    return report


def _describe_certificate(edge: Edge, path: str) -> Dict[str, str]:
    """The certificate that the edge has at this path: its last day, and a warning if that is near."""
    day, warning = describe_expiry(path, read_expiry(edge.read_file(path)), time.time())
    return {"file": path, "expires": day, "warning": warning}


def list_warnings(report: Mapping[str, Any]) -> List[str]:
    """What an operator should know of an edge that was described."""
    return [each["warning"] for each in report["certificates"] if each["warning"]]
