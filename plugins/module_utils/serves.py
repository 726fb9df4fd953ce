# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verbs of a serve, over a whole project at once: read the engine once, decide, admit, act, wait until ready."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils import drift, files, readiness
from ansible_collections.anvil.serving.plugins.module_utils.admission import Neighbour, admit
from ansible_collections.anvil.serving.plugins.module_utils.compose import Compose
from ansible_collections.anvil.serving.plugins.module_utils.drift import Change, Decision, Image, Observed
from ansible_collections.anvil.serving.plugins.module_utils.engine import Engine, published_address
from ansible_collections.anvil.serving.plugins.module_utils.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.gpu import read_cards
from ansible_collections.anvil.serving.plugins.module_utils.spec import (
    COMPOSE_PROJECT,
    COMPOSE_SERVICE,
    LABEL_PREFIX,
    Service,
    service_from_dict,
)

LOG_LINES = 20
LOCK_SECONDS = 600.0


@dataclass(frozen=True)
class Project:
    """A compose project as the controller rendered it, with the values of its secrets.

    secrets: name in ``anvil_secrets`` -> value. only: the services to act on; empty means all. files: path below
    the project's folder -> text, for what services mount from there.
    """

    name: str
    directory: str
    compose: str
    services: Mapping[str, Service]
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    only: Tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    def chosen(self) -> List[Service]:
        return [service for name, service in self.services.items() if not self.only or name in self.only]

    def secret_environment(self, service: Service) -> Dict[str, str]:
        """The variables of a service's env file, with values."""
        return {env: self.secrets[name] for env, name in (service.anvil.get("secrets") or {}).items()}


@dataclass
class Outcome:
    """What became of one serve; the shape that anvil_serve returns."""

    decision: Decision
    seen: Optional[Observed] = None
    state: str = ""
    ready: Optional[bool] = None
    seconds: float = 0.0
    problems: List[Problem] = field(default_factory=list)


def read_project(raw: Mapping[str, Any], secrets: Mapping[str, str], only: Sequence[str]) -> Project:
    """Check what the controller handed over. Raises AnvilError for unknown names and secrets that cannot be written."""
    services = {name: service_from_dict(service) for name, service in (raw.get("services") or {}).items()}
    problems = [
        Problem(
            what="no serve {0} in project {1}".format(name, raw["name"]),
            where="serves",
            hint="the project has: " + (", ".join(sorted(services)) or "none"),
        )
        for name in only
        if name not in services
    ]
    for service in services.values():
        for env, name in (service.anvil.get("secrets") or {}).items():
            where = "serve {0}, variable {1}".format(service.name, env)
            if not secrets.get(name):
                problems.append(Problem(what="secret {0} has no value".format(name), where=where, hint="set it in anvil_secrets"))
            elif any(sign in secrets[name] for sign in "\n\r'\0"):
                problems.append(
                    Problem(
                        what="secret {0} cannot be written to an env file".format(name),
                        where=where,
                        why="it holds a line break or a single quote",
                        hint="choose a token without them",
                    )
                )
    if problems:
        raise AnvilError(*problems)
    name, directory, compose = str(raw["name"]), str(raw["directory"]), str(raw["compose"])
    return Project(name, directory, compose, services, secrets, tuple(only), dict(raw.get("files") or {}))


# ------------------------------------------------------------------------------------------------------------- reading


class Reader:
    """One reading of the engine: the list of containers once, and the rest only as far as it is asked for."""

    def __init__(self, engine: Engine, project: Project) -> None:
        self.engine = engine
        self.project = project
        self.listed = engine.list_containers()
        self._images: Dict[str, Optional[Image]] = {}

    def image(self, reference: str) -> Optional[Image]:
        if reference not in self._images:
            raw = self.engine.inspect_image(reference)
            self._images[reference] = None if raw is None else drift.observe_image(raw)
        return self._images[reference]

    def container_of(self, service: Service) -> Optional[Observed]:
        """The service's container: by our project's labels, else by its name."""
        labelled = [
            entry["Id"]
            for entry in self.listed
            if entry["Labels"].get(COMPOSE_PROJECT) == self.project.name and entry["Labels"].get(COMPOSE_SERVICE) == service.name
        ]
        named = [entry["Id"] for entry in self.listed if "/" + service.container in (entry["Names"] or [])]
        for found in labelled + named:
            raw = self.engine.inspect_container(found)
            if raw is not None:
                return drift.observe(raw)
        return None

    def is_ours(self, seen: Optional[Observed]) -> bool:
        return seen is not None and seen.project == self.project.name

    def changes_of(self, service: Service, seen: Observed) -> List[Change]:
        brought = self.image(seen.image_id) or Image(seen.image_id)
        secrets = self.project.secret_environment(service)
        return drift.diff_service(service, secrets, seen, brought, self.image(service.image))

    def neighbours_of(self, services: Sequence[Service]) -> List[Neighbour]:
        """Every container that is none of these services' own."""
        names = {service.name for service in services}
        leaving = {str(entry["Id"]) for entry in self.superseded(services)}
        found = []
        for entry in self.listed:
            labels = entry["Labels"] or {}
            if entry["Id"] in leaving:
                continue
            if labels.get(COMPOSE_PROJECT) == self.project.name and labels.get(COMPOSE_SERVICE) in names:
                continue
            ports = {
                (str(port.get("IP") or "0.0.0.0"), int(port["PublicPort"]))
                for port in entry.get("Ports") or []
                if port.get("PublicPort")
            }
            found.append(
                Neighbour(
                    name=(entry["Names"] or ["/" + entry["Id"][:12]])[0].lstrip("/"),
                    project=str(labels.get(COMPOSE_PROJECT, "")),
                    state=str(entry["State"]),
                    ports=tuple(sorted(ports)),
                )
            )
        return found

    def orphans(self) -> List[str]:
        """Containers of our project that are no service of it any more."""
        return sorted(
            entry["Names"][0].lstrip("/")
            for entry in self.listed
            if entry["Labels"].get(COMPOSE_PROJECT) == self.project.name
            and entry["Labels"].get(COMPOSE_SERVICE) not in self.project.services
            and entry["Labels"].get("com.docker.compose.oneoff") != "True"
        )

    def superseded(self, services: Sequence[Service]) -> List[Dict[str, Any]]:
        """Containers of our own project that are no service of it any more and hold a port that one of these publishes:
        the router of one container, where the edge is to stand. Nobody else could ever free that port."""
        wanted = {port for service in services for _bind, port, _target in service.ports}
        return [
            entry
            for entry in self.listed
            if (entry["Labels"] or {}).get(COMPOSE_PROJECT) == self.project.name
            and entry["Labels"].get(COMPOSE_SERVICE) not in self.project.services
            and any(port.get("PublicPort") in wanted for port in entry.get("Ports") or [])
        ]


def _busy_ports(services: Sequence[Service], reader: Reader) -> Dict[Tuple[str, int], str]:
    """Ports of these services that some process outside Docker holds on this host right now."""
    held = {int(port["PublicPort"]) for entry in reader.listed for port in entry.get("Ports") or [] if port.get("PublicPort")}
    busy = {}
    for service in services:
        for bind, port, _target in service.ports:
            if port in held or port == 0:
                continue
            family = socket.AF_INET6 if ":" in bind else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((bind, port))
                except OSError as exc:
                    busy[(bind, port)] = "a process outside Docker ({0})".format(exc.strerror)
    return busy


# -------------------------------------------------------------------------------------------------------------- acting


def _files_of(project: Project) -> Dict[str, Tuple[str, int]]:
    """The files of a project on its host: path -> (content, mode). Secrets are single-quoted, so nothing expands."""
    wanted = {os.path.join(project.directory, "compose.yaml"): (project.compose, 0o644)}
    for path, text in project.files.items():
        wanted[os.path.join(project.directory, path)] = (text, 0o644)
    for service in project.services.values():
        values = project.secret_environment(service)
        if values:
            text = "".join("{0}='{1}'\n".format(name, values[name]) for name in sorted(values))
            wanted[os.path.join(project.directory, service.env_files[0])] = (text, 0o600)
    return wanted


def _leftover_files(project: Project) -> List[str]:
    """Env files of services that have no secrets any more: a secret must not outlive its use."""
    wanted = _files_of(project)
    folder = os.path.join(project.directory, "env")
    return [path for path in files.list_files(folder) if path not in wanted]


def _check_subnet(network: str, found: Mapping[str, Any], subnet: str) -> None:
    """A network cannot change its subnet, so another one there is for the operator to mend."""
    there = [str(pool.get("Subnet")) for pool in (found.get("IPAM") or {}).get("Config") or []]
    if subnet and subnet not in there:
        raise fail(
            "the network has another subnet than the inventory says",
            where="network " + network,
            why="it has {0}, and {1} is wanted".format(", ".join(there) or "none", subnet),
            hint="take its containers down and remove it (docker network rm {0}), or set anvil_router.edge.subnet".format(
                network
            ),
        )


def _ensure_networks_and_volumes(engine: Engine, services: Sequence[Service], check: bool) -> List[str]:
    """Create what the compose file calls external and the host lacks; returns what was (or would be) created."""
    made = []
    subnets = {name: str(subnet) for service in services for name, subnet in (service.anvil.get("subnets") or {}).items()}
    for network in sorted({network for service in services for network in service.networks}):
        found = engine.inspect_network(network)
        if found is not None:
            _check_subnet(network, found, subnets.get(network, ""))
            continue
        made.append("network " + network)
        if not check:
            engine.create_network(network, {LABEL_PREFIX + "managed": "true"}, subnets.get(network, ""))
    volumes = {mount.source for service in services for mount in service.mounts if mount.kind == "volume"}
    for volume in sorted(volumes):
        if engine.inspect_volume(volume) is None:
            made.append("volume " + volume)
            if not check:
                engine.create_volume(volume, {LABEL_PREFIX + "managed": "true"})
    return made


def _inspect(engine: Engine, container: str) -> Optional[Observed]:
    raw = engine.inspect_container(container)
    return None if raw is None else drift.observe(raw)


def _bring_up(engine: Engine, compose: Compose, services: Sequence[Service], recreate: bool) -> Dict[str, Problem]:
    """``compose up`` for several services; where that fails, one by one, so that one bad serve stops no other."""
    if not services:
        return {}
    ran = compose.up([service.name for service in services], recreate)
    if ran.code == 0:
        return {}
    if len(services) > 1:
        problems: Dict[str, Problem] = {}
        for service in services:
            problems.update(_bring_up(engine, compose, [service], recreate))
        return problems
    service = services[0]
    seen = _inspect(engine, service.container)
    if engine.inspect_image(service.image) is None:
        return {
            service.name: Problem(
                what="image {0} is not on this host and cannot be pulled".format(service.image),
                where="serve " + service.name,
                why=ran.text,
                hint="is the name right, and can the host reach its registry? without one: docker load the image there",
            )
        }
    return {
        service.name: Problem(
            what="docker compose could not start it",
            where="serve " + service.name,
            why=(seen.error if seen is not None and seen.error else "") or ran.text,
            hint="the message above is the engine's; nothing else was touched",
            log=() if seen is None else tuple(engine.read_log(seen.id, LOG_LINES)),
        )
    }


def _subject(project: Project, service: Service) -> Optional[readiness.Subject]:
    ready = service.anvil.get("ready")
    if not ready or not service.ports:
        return None
    bind, port, _target = service.ports[0]
    return readiness.Subject(
        name=service.name,
        container=service.container,
        kind=str(ready["kind"]),
        address=published_address(bind, port),
        served_name=str(service.anvil.get("served_name", "")),
        timeout=float(ready["timeout"]),
        key=str(project.secrets.get(str(ready.get("key") or ""), "")),
        tls=bool(ready.get("tls", False)),
    )


def _await_ready(engine: Engine, project: Project, services: Sequence[Service], outcomes: Dict[str, Outcome]) -> None:
    subjects = [subject for subject in (_subject(project, service) for service in services) if subject is not None]
    results = readiness.wait_ready(subjects, lambda container: _inspect(engine, container), time.monotonic, time.sleep)
    for subject in subjects:
        verdict, seconds = results[subject.name]
        outcome = outcomes[subject.name]
        outcome.ready, outcome.state, outcome.seconds = verdict.outcome == readiness.READY, verdict.state, seconds
        if not outcome.ready:
            outcome.problems.append(
                Problem(
                    what="it is not ready: " + verdict.state,
                    where="serve " + subject.name,
                    why=verdict.why,
                    hint="see the log below; the other serves were left as they are",
                    log=tuple(engine.read_log(subject.container, LOG_LINES)),
                )
            )


# --------------------------------------------------------------------------------------------------------------- verbs


def _decide(reader: Reader, services: Sequence[Service]) -> Dict[str, Outcome]:
    outcomes = {}
    for service in services:
        seen = reader.container_of(service)
        if seen is not None and not reader.is_ours(seen):
            # Somebody else's container holds our name: ours is missing, and admission says who sits there.
            outcomes[service.name] = Outcome(Decision(drift.CREATE, ("missing",)))
            continue
        changes = None if seen is None else reader.changes_of(service, seen)
        outcomes[service.name] = Outcome(drift.decide_up(changes, seen, reader.project.name), seen)
    return outcomes


def _admit(reader: Reader, services: Sequence[Service], outcomes: Dict[str, Outcome]) -> None:
    starting = [service for service in services if outcomes[service.name].decision.action != drift.NONE]
    if not starting:
        return
    cards = read_cards() if any(service.gpu_uuids for service in starting) else None
    refused = admit(starting, reader.neighbours_of(services), cards, _busy_ports(starting, reader))
    for name, problems in refused.items():
        outcomes[name].problems.extend(problems)


def _result(
    outcomes: Mapping[str, Outcome], project: Project, changed: bool, diff: Dict[str, Any], extra: Mapping[str, Any]
) -> Dict[str, Any]:
    serves = {}
    for name, outcome in outcomes.items():
        service, seen = project.services[name], outcome.seen
        subject = _subject(project, service)
        serves[name] = {
            "action": outcome.decision.action,
            "reasons": list(outcome.decision.reasons),
            "changes": {change.reason: {"before": change.before, "after": change.after} for change in outcome.decision.changes},
            "state": outcome.state or ("absent" if seen is None else seen.state),
            "health": "" if seen is None else seen.health,
            "ready": outcome.ready,
            "container": service.container,
            "container_id": "" if seen is None else seen.id,
            "image_id": "" if seen is None else seen.image_id,
            "gpu_uuids": list(service.gpu_uuids),
            "endpoint": "" if subject is None else subject.url + "/v1",
            "seconds": round(outcome.seconds, 3),
        }
    problems = [problem for outcome in outcomes.values() for problem in outcome.problems]
    return {"changed": changed, "serves": serves, "diff": diff, "problems": problems, **extra}


def _diff(project: Project, outcomes: Mapping[str, Outcome]) -> Dict[str, Any]:
    """Compose text, and each serve's fields, before and after; environment by name only."""
    path = os.path.join(project.directory, "compose.yaml")
    before, after = [files.read_file(path) or ""], [project.compose]
    for name, outcome in outcomes.items():
        for change in outcome.decision.changes:
            before.append("# serve {0}: {1}: {2}\n".format(name, change.reason, change.before))
            after.append("# serve {0}: {1}: {2}\n".format(name, change.reason, change.after))
    return {"before_header": path, "after_header": path, "before": "".join(before), "after": "".join(after)}


def bring_up(engine: Engine, project: Project, check: bool) -> Dict[str, Any]:
    """Converge the chosen serves of a project: only what differs is touched, and every serve is ready at the end."""
    if check:
        return _converge(engine, project, check=True)
    with files.hold_lock(project.directory, LOCK_SECONDS):
        return _converge(engine, project, check=False)


def _converge(engine: Engine, project: Project, check: bool) -> Dict[str, Any]:
    reader, services = Reader(engine, project), project.chosen()
    outcomes = _decide(reader, services)
    _admit(reader, services, outcomes)
    stale = {path: want for path, want in _files_of(project).items() if files.differs(path, *want)}
    leaving = [entry["Names"][0].lstrip("/") for entry in reader.superseded(services)]
    warnings = [
        "container {0} of project {1} is no serve of the inventory any more{2}".format(
            name, project.name, ", and makes room for one that publishes its port" if name in leaving else ""
        )
        for name in reader.orphans()
    ]
    leftovers = _leftover_files(project)
    extra: Dict[str, Any] = {"created": [], "files": [], "commands": [], "warnings": warnings}
    if any(outcome.problems for outcome in outcomes.values()):
        return _result(outcomes, project, False, {}, extra)
    diff = _diff(project, outcomes)
    acting = [service for service in services if outcomes[service.name].decision.action != drift.NONE]
    extra["files"] = sorted([*stale, *leftovers])
    extra["created"] = _ensure_networks_and_volumes(engine, acting, check)
    changed = bool(acting or extra["files"] or extra["created"])
    if check:
        return _result(outcomes, project, changed, diff, extra)
    for path, (content, mode) in stale.items():
        files.write_file(path, content, mode)
    for path in leftovers:
        files.remove_file(path)
    for entry in reader.superseded(acting):
        engine.stop_container(entry["Id"])
        engine.remove_container(entry["Id"])
    compose = Compose(project.name, project.directory, engine.docker_host)
    failed = _act(engine, compose, acting, outcomes)
    for name, problem in failed.items():
        outcomes[name].problems.append(problem)
    waiting = [service for service in services if service.name not in failed]
    _await_ready(engine, project, waiting, outcomes)
    for service in acting:
        outcomes[service.name].seen = _inspect(engine, service.container)
    extra["commands"] = [list(argv) for argv in compose.commands]
    return _result(outcomes, project, changed, diff, extra)


def _act(engine: Engine, compose: Compose, acting: Sequence[Service], outcomes: Mapping[str, Outcome]) -> Dict[str, Problem]:
    """Carry out the decisions, one compose command for each kind of action."""

    def having(*actions: str) -> List[Service]:
        return [service for service in acting if outcomes[service.name].decision.action in actions]

    failed = _bring_up(engine, compose, having(drift.CREATE, drift.RECREATE), recreate=True)
    failed.update(_bring_up(engine, compose, having(drift.START), recreate=False))
    paused = having(drift.UNPAUSE)
    if paused:
        ran = compose.unpause([service.name for service in paused])
        if ran.code != 0:
            for service in paused:
                failed[service.name] = Problem("it cannot be unpaused", "serve " + service.name, ran.text)
    return failed


def take_down(engine: Engine, project: Project, keep_container: bool, check: bool) -> Dict[str, Any]:
    """Take the chosen serves down: containers of our project only; files, network and volumes stay."""
    reader = Reader(engine, project)
    outcomes: Dict[str, Outcome] = {}
    for service in project.chosen():
        seen = reader.container_of(service)
        ours = seen if reader.is_ours(seen) else None
        outcomes[service.name] = Outcome(drift.decide_down(ours, keep_container), ours)
    acting = [name for name, outcome in outcomes.items() if outcome.decision.action != drift.NONE]
    if not check:
        for name in acting:
            outcome = outcomes[name]
            assert outcome.seen is not None
            engine.stop_container(outcome.seen.id)
            if not keep_container:
                engine.remove_container(outcome.seen.id)
            outcome.seen = _inspect(engine, outcome.seen.id)
            outcome.state = "absent" if outcome.seen is None else outcome.seen.state
            if outcome.state not in ("absent", "exited", "created"):
                outcome.problems.append(
                    Problem(
                        what="it came back after it was stopped: " + outcome.state,
                        where="serve " + name,
                        hint="somebody or something starts it again: another compose project, a supervisor, an operator",
                    )
                )
    return _result(outcomes, project, bool(acting), {}, {"created": [], "files": [], "commands": [], "warnings": []})


def describe(engine: Engine, project: Project) -> Dict[str, Any]:
    """What runs, what differs, what sits on our names and ports; nothing is changed."""
    reader, services = Reader(engine, project), project.chosen()
    outcomes = _decide(reader, services)
    squatters = admit(services, reader.neighbours_of(services), None, {})
    for service in services:
        outcome, subject = outcomes[service.name], _subject(project, service)
        if outcome.seen is not None and subject is not None:
            verdict = readiness.look(subject, outcome.seen)
            outcome.ready, outcome.state = verdict.outcome == readiness.READY, verdict.state
    result = _result(outcomes, project, False, {}, {"orphans": reader.orphans()})
    result.pop("diff")
    result["squatters"] = {
        name: [problem.why for problem in problems if "taken" in problem.what] for name, problems in squatters.items()
    }
    return result
