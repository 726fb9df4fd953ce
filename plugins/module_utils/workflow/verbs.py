# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verbs of a workflow on its host: bring it up, roll it replica by replica, ask it once, take it away.

Converging a service is the business of ``serves``; here is only what a workflow has on top: private files, an order
among its services, and replicas of which one at a time may be away.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from dataclasses import dataclass, field, replace
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.probes import request_http
from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine, published_address
from ansible_collections.anvil.serving.plugins.module_utils.docker.service import COMPOSE_PROJECT, LABEL_PREFIX, Service
from ansible_collections.anvil.serving.plugins.module_utils.router.edge import MAINT, Edge, reload_edge
from ansible_collections.anvil.serving.plugins.module_utils.serves import drift, verbs
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import (
    GRACE_SECONDS,
    LOCK_SECONDS,
    LOG_LINES,
    Order,
    Project,
    read_project,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import Reader, inspect
from ansible_collections.anvil.serving.plugins.module_utils.workflow import job_stores

PRIVATE = "private"
# Servers, database and MLflow run under this uid, and nobody else on the host can read their private files.
UID = 10001
LABEL_WORKFLOW = LABEL_PREFIX + "workflow"
OUR_FILES = ("compose.yaml", ".lock", ".mounted.json", "edge/haproxy.cfg")
OUR_FOLDERS = ("env", PRIVATE, "edge", "wheels")
# Whatever the workflow was deployed with: how it is described when it is removed may be another way.
VOLUMES = ("-data", "-jobs", "-mlflow")
# A database knows its password from when it was made: the file stays as long as the volume does.
PASSWORD_OF = {"jobs_password": "-jobs", "mlflow_password": "-mlflow"}
ENDED = ("completed", "failed", "cancelled")
REPLACED = (drift.CREATE, drift.RECREATE, drift.START, drift.UNPAUSE)
POLL = 0.2
# Asked inside the container: a replica behind the edge publishes nothing.
ASK_READY = (
    "import http.client\n"
    "c = http.client.HTTPConnection('127.0.0.1', 8000, timeout=5)\n"
    "c.request('GET', '/readyz')\n"
    "r = c.getresponse()\n"
    "print(r.status, r.read(500).decode('utf-8', 'replace'))\n"
)


@dataclass(frozen=True)
class Work:
    """What is wanted of one workflow.

    private: name -> value of the private files that the controller knows. generated: names of those that are made here, at
    random, once. replicas: services behind the edge; empty without one. edge: container; empty without one. drain_timeout,
    ready_timeout: seconds for one replica.
    """

    project: Project
    private: Mapping[str, str] = field(default_factory=dict, repr=False)
    generated: Tuple[str, ...] = ()
    replicas: Tuple[str, ...] = ()
    edge: str = ""
    drain_timeout: float = 60.0
    ready_timeout: float = 120.0


# ---------------------------------------------------------------------------------------------------------------- present


def _private_path(project: Project, name: str) -> str:
    return os.path.join(project.directory, PRIVATE, name)


def _stale_private(work: Work) -> Dict[str, str]:
    """Path -> content of the private files that are to be written. A random one that exists stays what it is."""
    wanted = {_private_path(work.project, name): value for name, value in work.private.items()}
    for name in work.generated:
        path = _private_path(work.project, name)
        wanted[path] = files.read_file(path) or secrets.token_urlsafe(24)
    return {path: value for path, value in wanted.items() if files.differs(path, value, 0o600, UID)}


def _leftover_private(work: Work) -> List[str]:
    wanted = {_private_path(work.project, name) for name in (*work.private, *work.generated, *PASSWORD_OF)}
    return [path for path in files.list_files(os.path.join(work.project.directory, PRIVATE)) if path not in wanted]


def _readers_of(project: Project, paths: Sequence[str]) -> List[str]:
    return [name for name, service in project.services.items() if any(mount.source in paths for mount in service.mounts)]


def converge(engine: DockerEngine, work: Work, check: bool) -> Dict[str, Any]:
    """Bring the workflow to what was rendered; what anvil_serve returns, and ``rolled``: the replicas in their order."""
    servers = work.replicas if work.edge else ()
    if check:
        return _foresee(engine, work, job_stores.find_move(engine, work.project, servers))
    with files.hold_lock(work.project.directory, LOCK_SECONDS) as lock:
        move = job_stores.find_move(engine, work.project, servers)
        foreseen = _foresee(engine, work, move)
        if foreseen.get("problems"):
            return foreseen
        for path, value in _stale_private(work).items():
            files.write_file(path, value, 0o600, UID)
        for path in _leftover_private(work):
            files.remove_file(path)
        if move is not None:
            foreseen["moved"] = _move_jobs(engine, work, move, lock)
        rolled = _roll(engine, work, foreseen, lock) if work.edge else []
        done = verbs.carry_out_held(engine, work.project, Order(), lock)
        if done["problems"]:
            return _merge(foreseen, done, rolled)
        if work.edge:
            foreseen["changed"] = bool(reload_edge(engine, work.edge, False, 30, 30, False)["changed"]) or foreseen["changed"]
        for name in foreseen["removed"]:
            engine.stop_container(name, GRACE_SECONDS)
            engine.remove_container(name)
        return _merge(foreseen, done, rolled)


def _move_jobs(engine: DockerEngine, work: Work, move: job_stores.Move, lock: Optional[int]) -> int:
    """From the old store to the one that is wanted. The workflow answers nobody meanwhile."""
    job_stores.make_room(engine, work.project, move)
    if move.spread:
        _carry_out(engine, work, [job_stores.DATABASE], lock)
    moved = job_stores.carry_over(engine, work.project, move)
    job_stores.finish_move(engine, work.project, move)
    return moved


def _foresee(engine: DockerEngine, work: Work, move: Optional[job_stores.Move]) -> Dict[str, Any]:
    """What a run will do. A private file that is about to change replaces the containers that read it."""
    project = work.project if move is None else job_stores.without_subnets(work.project)
    foreseen = verbs.carry_out_held(engine, project, Order(), None)
    stale, leftover = _stale_private(work), _leftover_private(work)
    for name in _readers_of(work.project, list(stale)):
        told = foreseen["serves"][name]
        if told["action"] == drift.NONE:
            told.update(action=drift.RECREATE, reasons=["mounted_file"])
    # All of this project is ours: what an earlier deployment had and this one has not (a replica, MLflow) goes.
    removed = Reader(engine, work.project).orphans()
    foreseen["files"] = sorted({*foreseen["files"], *stale, *leftover})
    foreseen["changed"] = foreseen["changed"] or bool(stale or leftover or removed or move)
    return {**foreseen, "rolled": [], "removed": removed, "moved": 0, "warnings": []}


def _merge(foreseen: Dict[str, Any], done: Dict[str, Any], rolled: List[str]) -> Dict[str, Any]:
    """The last look at every service, with what was done to each on the way there."""
    for name, told in done["serves"].items():
        first = foreseen["serves"][name]
        if told["action"] == drift.NONE:
            told.update({key: first[key] for key in ("action", "reasons", "changes")})
    kept = {key: foreseen[key] for key in ("files", "created", "diff", "removed", "moved")}
    return {**done, **kept, "warnings": [], "changed": foreseen["changed"] or done["changed"], "rolled": rolled}


def _roll(engine: DockerEngine, work: Work, foreseen: Mapping[str, Any], lock: Optional[int]) -> List[str]:
    """Database first; then one replica after the other, each drained before and ready before the next."""
    actions = {name: told["action"] for name, told in foreseen["serves"].items()}
    behind = [name for name in work.project.services if name not in work.replicas and name != "edge"]
    _carry_out(engine, work, [name for name in behind if actions[name] in REPLACED], lock)
    edge = _running_edge(engine, work.edge)
    # Those that carry nothing come first, so that there is another one when a busy one goes.
    order = sorted(
        (name for name in work.replicas if actions[name] in REPLACED),
        key=lambda name: actions[name] == drift.RECREATE,
    )
    if edge is None:
        _carry_out(engine, work, order, lock)
        return order
    for name in order:
        container = work.project.services[name].container
        known = any(server.name == container for server in edge.read_servers())
        if known:
            edge.drain(container, work.drain_timeout)
        _carry_out(engine, work, [name], lock)
        _await_replica(engine, work, container)
        if known:
            edge.readmit(container, work.ready_timeout)
    _readmit_forgotten(edge, work)
    return order


def _readmit_forgotten(edge: Edge, work: Work) -> None:
    """A run that was killed may have left a drained replica behind."""
    containers = [work.project.services[name].container for name in work.replicas]
    for server in edge.read_servers():
        if server.status == MAINT and server.name in containers:
            edge.readmit(server.name, work.ready_timeout)


def _running_edge(engine: DockerEngine, container: str) -> Optional[Edge]:
    raw = engine.inspect_container(container)
    return Edge(engine, container) if raw is not None and raw["State"]["Status"] == "running" else None


def _carry_out(engine: DockerEngine, work: Work, names: Sequence[str], lock: Optional[int]) -> None:
    """Converge just these services. Raises AnvilError for what did not come up."""
    if not names:
        return
    done = verbs.carry_out_held(engine, replace(work.project, only=tuple(names)), Order(), lock)
    if done["problems"]:
        raise AnvilError(*done["problems"])


def _await_replica(engine: DockerEngine, work: Work, container: str) -> None:
    """Until the replica itself says that it is ready. One that does not gets no requests, and the others stay as they were."""
    deadline = time.monotonic() + work.ready_timeout
    said = ""
    while time.monotonic() < deadline:
        seen = inspect(engine, container)
        if seen is None or seen.state in ("exited", "dead") or seen.restarts >= 3:
            said = "its process ended"
            break
        try:
            ran = engine.exec_in(container, ["python3", "-I", "-c", ASK_READY])
            said = ran.output.strip()[-500:]
        except AnvilError as exc:
            said = exc.problems[0].why
        if said.startswith("200 "):
            return
        time.sleep(POLL)
    raise fail(
        "the new replica did not get ready",
        where="container " + container,
        why=said,
        hint="it gets no requests; the other replicas were left as they are, and go on answering",
        log=engine.read_log(container, LOG_LINES),
    )


# ----------------------------------------------------------------------------------------------------------------- absent


def remove(engine: DockerEngine, project: Project, purge: bool, check: bool) -> Dict[str, Any]:
    """Remove the workflow's containers, network and files; its data only with ``purge``. What is not ours stays."""
    ours = engine.list_containers([COMPOSE_PROJECT + "=" + project.name, LABEL_WORKFLOW])
    containers = sorted(entry["Names"][0].lstrip("/") for entry in ours)
    volumes = [project.name + suffix for suffix in VOLUMES]
    there = [name for name in volumes if purge and engine.inspect_volume(name) is not None]
    network = engine.inspect_network(project.name) is not None
    passwords = [_private_path(project, name) for name, suffix in PASSWORD_OF.items() if _stays(engine, project, suffix, purge)]
    leftovers = [path for path in _leftover_files(project.directory) if path not in passwords]
    result: Dict[str, Any] = {
        "changed": bool(containers or there or network or leftovers),
        "removed": containers + ["network " + project.name] * network + ["volume " + name for name in there],
        "files": leftovers,
        "kept": [name for name in volumes if not purge and engine.inspect_volume(name) is not None],
        "serves": {},
    }
    if check or not result["changed"]:
        return result
    with files.hold_lock(project.directory, LOCK_SECONDS):
        for entry in ours:
            engine.stop_container(str(entry["Id"]), GRACE_SECONDS)
            engine.remove_container(str(entry["Id"]))
        if network:
            engine.remove_network(project.name)
        for name in there:
            engine.remove_volume(name)
        for path in leftovers:
            files.remove_file(path)
    files.remove_file(os.path.join(project.directory, ".lock"))
    for folder in (*(os.path.join(project.directory, one) for one in OUR_FOLDERS), project.directory):
        try:
            os.rmdir(folder)
        except OSError:  # not there, or somebody keeps files of his own in it
            continue
    return result


def _stays(engine: DockerEngine, project: Project, suffix: str, purge: bool) -> bool:
    return not purge and engine.inspect_volume(project.name + suffix) is not None


def _leftover_files(directory: str) -> List[str]:
    own = [path for path in (os.path.join(directory, name) for name in OUR_FILES) if os.path.lexists(path)]
    return sorted({*own, *(path for folder in OUR_FOLDERS for path in files.list_files(os.path.join(directory, folder)))})


# ---------------------------------------------------------------------------------------------------------------- request


@dataclass(frozen=True)
class Told:
    """An answer with its body read: the JSON in it, or the text."""

    status: int
    body: Any


def _call(service: Service, method: str, path: str, key: str, body: Optional[Mapping[str, Any]] = None) -> Told:
    bind, port, _target = service.ports[0]
    reply = request_http(published_address(bind, port), method, path, 60.0, body=body, token=key)
    try:
        return Told(reply.status, json.loads(reply.body))
    except ValueError:
        return Told(reply.status, reply.body)


def ask_once(service: Service, key: str, inputs: Mapping[str, Any], timeout: float) -> Dict[str, Any]:
    """One real run through the published port, to its end. Raises AnvilError if it does not complete.

    Returns ``outputs`` and ``seconds``.
    """
    began = time.monotonic()
    where = "POST /run on port {0}".format(service.ports[0][1])
    reply = _call(service, "POST", "/run", key, inputs)
    while reply.status == 202 or (reply.status == 200 and _state(reply) not in ("", *ENDED)):
        if time.monotonic() - began > timeout:
            raise fail("the run did not end in {0:g} s".format(timeout), where=where, hint="raise workflow_request_timeout")
        time.sleep(POLL)
        reply = _call(service, "GET", where_is(reply), key)
    if reply.status == 0:
        raise fail("the workflow does not answer", where=where, why=str(reply.body), hint="see its log")
    if reply.status != 200 or _state(reply) not in ("", "completed"):
        told = json.dumps(reply.body, ensure_ascii=False) if not isinstance(reply.body, str) else reply.body
        raise fail(
            "the workflow is up, and the one request that was made of it failed",
            where=where,
            why="{0}: {1}".format(reply.status, told[:1000]),
            hint="do its models answer? give inputs of your own with workflow_request, or say workflow_verify=false",
        )
    outputs = reply.body.get("outputs", reply.body) if isinstance(reply.body, Mapping) else reply.body
    return {"outputs": outputs, "seconds": round(time.monotonic() - began, 3)}


def _state(reply: Told) -> str:
    return str(reply.body.get("status") or "") if isinstance(reply.body, Mapping) else ""


def where_is(reply: Told) -> str:
    """Where to ask for the job that an answer tells of."""
    return "/status/{0}".format(reply.body.get("job_id") or reply.body.get("id"))


def describe_size(engine: DockerEngine, images: Mapping[str, str]) -> Dict[str, float]:
    """Name -> size of each image that is here, in units of 10**6 bytes."""
    found = {name: engine.inspect_image(reference) for name, reference in images.items()}
    return {name: round(int(image["Size"]) / 1e6, 1) for name, image in found.items() if image is not None}


# ------------------------------------------------------------------------------------------------------------------ order


def read_work(params: Mapping[str, Any]) -> Work:
    """The parameters of anvil_workflow as Work. Raises AnvilError for a secret that is wanted and has no value."""
    project = read_project(params["project"], params["secrets"], ())
    wanted = {name for names in params["private"].values() for name in names}
    private = {name: str(params[name]) for name in ("api_key", "model_key") if name in wanted}
    missing = sorted(name for name, value in private.items() if not value)
    if missing:
        raise AnvilError(*(Problem("it has no value", name, hint="give workflow_" + name) for name in missing))
    return Work(
        project=project,
        private=private,
        generated=tuple(sorted(wanted - set(private))),
        replicas=tuple(params["replicas"]),
        edge=str(params["edge"]),
        drain_timeout=float(params["drain_timeout"]),
        ready_timeout=float(params["ready_timeout"]),
    )


def carry_out(engine: DockerEngine, params: Mapping[str, Any], check: bool) -> Dict[str, Any]:
    """What anvil_workflow does and returns."""
    if params["state"] == "absent":
        return remove(engine, read_project(params["project"], _any_value(params["project"]), ()), params["purge"], check)
    work = read_work(params)
    result = converge(engine, work, check)
    if params["request"] is not None and not check and not result.get("problems"):
        front = next(service for service in work.project.services.values() if service.name in ("edge", "server"))
        result["answer"] = ask_once(front, work.private.get("api_key", ""), params["request"], params["request_timeout"])
    return result


def _any_value(raw: Mapping[str, Any]) -> Dict[str, str]:
    """Whoever removes a workflow need not know its secrets."""
    told = [service.get("anvil") or {} for service in (raw.get("services") or {}).values()]
    return {name: "unknown" for anvil in told for name in (anvil.get("secrets") or {}).values()}
