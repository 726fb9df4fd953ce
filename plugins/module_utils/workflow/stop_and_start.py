# SPDX-License-Identifier: GPL-3.0-or-later
"""Stop a deployed workflow, and start it again from the files that its deployment left on the host.

A stopped workflow stays stopped when the host boots. Nothing is recreated: only ``workflow.yml`` says what a workflow should be.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.http_request import Tls, request_http
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_cli import Compose, ComposeResult
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import COMPOSE_PROJECT
from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import published_address
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves import decisions
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import (
    GRACE_SECONDS,
    LOCK_SECONDS,
    LOG_LINES,
    Project,
)
from ansible_collections.anvil.serving.plugins.module_utils.workflow.deployed_workflows import (
    LABEL_WORKFLOW,
    PROJECT,
    SCHEMES,
    WorkflowContainer,
    list_workflows,
    read_row,
)
from ansible_collections.anvil.serving.plugins.module_utils.workflow.test_request import trust_anyone

# A line of our own compose file.
CONTAINER_NAME = re.compile(r'^    container_name: "([a-z0-9-]+)"$', re.MULTILINE)
NAME = re.compile(re.escape(PROJECT) + r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
POLL = 0.3
DEPLOY = "ansible-playbook playbooks/workflow.yml -i INVENTORY -e workflow=FILE"
REST = ("exited", "created", "dead")


@dataclass(frozen=True)
class Step:
    """What happens to one container. reasons: words of the vocabulary of anvil_serve."""

    container: str
    action: str
    reasons: Tuple[str, ...] = ()


def check_name(project: Project) -> None:
    """Raises AnvilError for a project that cannot be one of a workflow."""
    if not NAME.fullmatch(project.name):
        name = project.name[len(PROJECT) :]
        what = "{0!r} cannot be the name of a workflow".format(name) if name else "no workflow is named"
        hint = "pass -e name=NAME; ansible-playbook playbooks/workflow_list.yml -i INVENTORY prints the names"
        raise fail(what, where="name", hint=hint)


def decide_stop(containers: Sequence[WorkflowContainer]) -> List[Step]:
    """The containers to stop, in order: first what takes requests, last what the servers need. Pure."""

    def rank(one: WorkflowContainer) -> Tuple[int, str]:
        return (0 if one.service == "edge" else 1 if one.is_server else 2), one.name

    return [Step(one.name, decisions.STOP) for one in sorted(containers, key=rank) if one.state not in REST]


def decide_start(containers: Sequence[WorkflowContainer], wanted: Sequence[str]) -> List[Step]:
    """The containers to start. wanted: all that the compose file has. Pure."""
    there = {one.name: one for one in containers}
    steps = []
    for name in wanted:
        one = there.get(name)
        if one is None:
            steps.append(Step(name, decisions.CREATE, ("missing",)))
        elif one.state == "paused":
            steps.append(Step(name, decisions.UNPAUSE, ("paused",)))
        elif one.state in REST:
            steps.append(Step(name, decisions.START, ("stopped",)))
    return steps


def stop_workflow(docker: DockerEngine, project: Project, check: bool) -> Dict[str, Any]:
    """Stop all containers of a workflow. Its jobs are handed over to the next start. Returns what anvil_workflow returns."""
    containers = _read_containers(docker, project)
    steps = decide_stop(containers)
    result = _describe(docker, project, containers, steps)
    if check or not steps:
        return result
    with files.hold_lock(project.directory, LOCK_SECONDS):
        for step in decide_stop(_read_containers(docker, project)):
            docker.stop_container(step.container, GRACE_SECONDS)
    return result


def start_workflow(docker: DockerEngine, project: Project, timeout: float, check: bool) -> Dict[str, Any]:
    """Start a workflow and wait until it is ready. Returns what anvil_workflow returns; raises AnvilError if it is not."""
    text = files.read_file(os.path.join(project.directory, "compose.yaml"))
    containers = _read_containers(docker, project)
    if text is None:
        if containers:
            raise fail(
                "the files of this workflow are not on the host",
                where=project.directory,
                why="compose.yaml does not exist there",
                hint="deploy it: " + DEPLOY,
            )
        return _describe(docker, project, (), ())
    wanted = CONTAINER_NAME.findall(text)
    steps = decide_start(containers, wanted)
    result = _describe(docker, project, containers, steps, True)
    if check:
        return result
    began = time.monotonic()
    if steps:
        with files.hold_lock(project.directory, LOCK_SECONDS) as lock:
            _start(docker, project, wanted, lock)
    _await_ready(docker, project, timeout)
    for serve in result["serves"].values():
        serve.update(ready=True, state="running", seconds=round(time.monotonic() - began, 1))
    return result


def _start(docker: DockerEngine, project: Project, wanted: Sequence[str], lock: int) -> None:
    compose = Compose(project.name, project.directory, docker.docker_host, locks=(lock,))
    there = _read_containers(docker, project)
    steps = decide_start(there, wanted)
    paused = [step.container for step in steps if step.action == decisions.UNPAUSE]
    if paused:
        _require(compose.unpause([one.service for one in there if one.name in paused]), project)
    if len(steps) > len(paused):
        _require(compose.start_all(), project)


def _require(done: ComposeResult, project: Project) -> None:
    if done.code != 0:
        raise fail(
            "the workflow could not be started",
            where="project " + project.name,
            why=done.text[-1500:],
            hint="correct what is written above, or deploy the workflow again, which makes what is missing: " + DEPLOY,
        )


def _read_containers(docker: DockerEngine, project: Project) -> List[WorkflowContainer]:
    rows = docker.list_containers([COMPOSE_PROJECT + "=" + project.name, LABEL_WORKFLOW])
    return [read_row(row) for row in rows]


def _describe(
    docker: DockerEngine,
    project: Project,
    containers: Sequence[WorkflowContainer],
    steps: Sequence[Step],
    has_files: bool = False,
) -> Dict[str, Any]:
    """What anvil_workflow returns. known: the names of all workflows of the host, where this one is not there."""
    found = bool(containers) or has_files or os.path.exists(os.path.join(project.directory, "compose.yaml"))
    return {
        "changed": bool(steps),
        "found": found,
        "known": [] if found else [one.name for one in list_workflows(docker)],
        "serves": {one.container: {"action": one.action, "reasons": list(one.reasons)} for one in steps},
        "files": [],
        "removed": [],
    }


def _await_ready(docker: DockerEngine, project: Project, timeout: float) -> None:
    """Wait until the front of the workflow, its edge or its only server, answers that it is ready. Raises AnvilError."""
    containers = _read_containers(docker, project)
    servers = [one for one in containers if one.is_server]
    front = next((one for one in containers if one.service == "edge"), servers[0] if servers else None)
    if front is None:
        raise fail("the workflow has no server", where="project " + project.name, hint="deploy it: " + DEPLOY)
    deadline = time.monotonic() + timeout
    seen = "it was not asked"
    while time.monotonic() < deadline:
        raw = docker.inspect_container(front.name)
        if raw is None or raw["State"]["Status"] in REST or int(raw.get("RestartCount") or 0) >= 3:
            seen = "its process ended"
            break
        seen = _ask(raw)
        if seen.startswith("200 "):
            return
        time.sleep(POLL)
    raise fail(
        "the workflow was started, but it is not ready",
        where="container " + front.name,
        why="time limit: {0:g} s; the last answer of /readyz: {1}".format(timeout, seen[:500]),
        hint="correct what the log below shows, then run again",
        log=docker.read_log(front.name, LOG_LINES),
    )


def _ask(raw: Mapping[str, Any]) -> str:
    """The answer of ``/readyz`` at the published port, as ``STATUS BODY``."""
    bindings = (raw.get("HostConfig") or {}).get("PortBindings") or {}
    for port, scheme in SCHEMES.items():
        for host in bindings.get("{0}/tcp".format(port)) or ():
            address = published_address(str(host.get("HostIp") or "0.0.0.0"), int(host["HostPort"]))
            try:
                reply = request_http(address, "GET", "/readyz", 5.0, tls=Tls(trust_anyone()) if scheme == "https" else None)
            except AnvilError as exc:
                return exc.problems[0].why
            return "{0} {1}".format(reply.status, reply.body)
    return "200 it publishes no port"
