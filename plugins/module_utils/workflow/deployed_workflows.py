# SPDX-License-Identifier: GPL-3.0-or-later
"""The workflows of a host, as its containers and volumes show them: state, version, replicas, address"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.addresses import format_url
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
    COMPOSE_PROJECT,
    COMPOSE_SERVICE,
    LABEL_PREFIX,
)
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine

LABEL_WORKFLOW = LABEL_PREFIX + "workflow"
LABEL_VERSION = LABEL_PREFIX + "workflow_version"
LABEL_MANAGED = LABEL_PREFIX + "managed"
PROJECT = "anvil-workflow-"
VOLUMES = ("-data", "-jobs", "-mlflow")
# The port of a server or edge in its container, and the scheme that it speaks there.
SCHEMES = {8000: "http", 8443: "https"}
RUNNING, STARTING, UNHEALTHY, PARTLY, STOPPED, REMOVED = (
    "running",
    "starting",
    "unhealthy",
    "partly_stopped",
    "stopped",
    "removed",
)
HEALTH = re.compile(r"\s*\((healthy|unhealthy|health: starting)\)$")


@dataclass(frozen=True)
class WorkflowContainer:
    """One container of a workflow. status: the words of the Docker Engine, such as ``Up 3 hours``, without the health.

    health: ``healthy``, ``unhealthy``, ``health: starting``, or empty. address: a URL; empty where it publishes no port.
    """

    name: str
    service: str
    state: str
    status: str
    health: str
    address: str

    @property
    def is_server(self) -> bool:
        return self.service == "server" or self.service.startswith("server-")

    @property
    def is_up(self) -> bool:
        return self.state == "running"


@dataclass(frozen=True)
class DeployedWorkflow:
    """A workflow on a host. up, replicas: its servers that run, and all of them. since: how long its front has been up.

    state: ``running``, ``starting``, ``unhealthy``, ``partly_stopped``, ``stopped``, or ``removed``, which has data only.
    trouble: a line for each container that is not as it should be. data: the volumes that no container has.
    """

    name: str
    version: str
    state: str
    up: int
    replicas: int
    since: str
    address: str
    traces: str
    containers: Tuple[str, ...]
    trouble: Tuple[str, ...] = ()
    data: Tuple[str, ...] = ()

    def as_dict(self) -> Dict[str, Any]:
        return asdict(self)


def list_workflows(docker: DockerEngine) -> List[DeployedWorkflow]:
    """All workflows of a host, by name. It takes two requests, however many there are."""
    rows = docker.list_containers([LABEL_WORKFLOW])
    return describe_workflows(rows, list(docker.list_unused_volumes(LABEL_MANAGED)))


def describe_workflows(rows: Sequence[Mapping[str, Any]], unused: Sequence[str]) -> List[DeployedWorkflow]:
    """rows: listed containers with the label of a workflow. unused: names of volumes that no container has. Pure."""
    found: Dict[str, List[Mapping[str, Any]]] = {}
    for row in rows:
        name = str(row["Labels"].get(LABEL_WORKFLOW, ""))
        if name and row["Labels"].get(COMPOSE_PROJECT) == PROJECT + name:
            found.setdefault(name, []).append(row)
    data: Dict[str, List[str]] = {}
    for volume in sorted(unused):
        suffix = next((one for one in VOLUMES if volume.endswith(one)), "")
        if volume.startswith(PROJECT) and suffix and len(volume) > len(PROJECT + suffix):
            data.setdefault(volume[len(PROJECT) : -len(suffix)], []).append(volume)
    return [_describe_workflow(name, found.get(name, []), data.get(name, [])) for name in sorted({*found, *data})]


def _describe_workflow(name: str, rows: Sequence[Mapping[str, Any]], data: Sequence[str]) -> DeployedWorkflow:
    containers = sorted((read_row(row) for row in rows), key=lambda one: one.name)
    servers = [one for one in containers if one.is_server]
    front = next((one for one in containers if one.service == "edge"), servers[0] if servers else None)
    versions = {str(row["Labels"].get(LABEL_VERSION, "")) for row in rows} - {""}
    return DeployedWorkflow(
        name=name,
        version=" and ".join(sorted(versions)),
        state=judge_state(containers),
        up=sum(1 for one in servers if one.is_up),
        replicas=len(servers),
        since=front.status if front else "",
        address=front.address if front else "",
        traces=next((one.address for one in containers if one.service == "mlflow"), ""),
        containers=tuple(one.name for one in containers),
        trouble=tuple(_list_trouble(containers)),
        data=tuple(data),
    )


def judge_state(containers: Sequence[WorkflowContainer]) -> str:
    """The state of a workflow with these containers."""
    if not containers:
        return REMOVED
    if not any(one.state in ("running", "restarting", "paused") for one in containers):
        return STOPPED
    if not all(one.is_up for one in containers):
        return PARTLY
    if any(one.health == "unhealthy" for one in containers):
        return UNHEALTHY
    return STARTING if any(one.health == "health: starting" for one in containers) else RUNNING


def _list_trouble(containers: Sequence[WorkflowContainer]) -> List[str]:
    if judge_state(containers) == STOPPED:
        return []
    return [
        "container {0}: {1}".format(one.name, one.health if one.is_up else one.status or one.state)
        for one in containers
        if not one.is_up or one.health == "unhealthy"
    ]


def read_row(row: Mapping[str, Any]) -> WorkflowContainer:
    """A row of the list of containers."""
    status = str(row["Status"])
    health = HEALTH.search(status)
    return WorkflowContainer(
        name=str(row["Names"][0]).lstrip("/"),
        service=str(row["Labels"].get(COMPOSE_SERVICE, "")),
        state=str(row["State"]),
        status=HEALTH.sub("", status),
        health=health[1] if health else "",
        address=_find_address(row.get("Ports") or ()),
    )


def _find_address(ports: Sequence[Mapping[str, Any]]) -> str:
    for port in ports:
        if port.get("PublicPort"):
            scheme = SCHEMES.get(int(port["PrivatePort"]), "http")
            return format_url(scheme, str(port["IP"]), int(port["PublicPort"]))
    return ""
