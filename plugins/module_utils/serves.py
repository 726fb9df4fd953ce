# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verbs of a serve, over a whole project at once: read the engine once, decide, admit, act, wait until ready."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, field
from typing import Any, Collection, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils import drift, files, readiness
from ansible_collections.anvil.serving.plugins.module_utils.admission import Neighbour
from ansible_collections.anvil.serving.plugins.module_utils.compose import Compose
from ansible_collections.anvil.serving.plugins.module_utils.drift import Change, Decision, Image, Observed
from ansible_collections.anvil.serving.plugins.module_utils.engine import Engine, published_address
from ansible_collections.anvil.serving.plugins.module_utils.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.spec import (
    COMPOSE_PROJECT,
    COMPOSE_SERVICE,
    LABEL_PREFIX,
    ON_DEMAND,
    RESIDENT,
    Service,
    service_from_dict,
)

LOG_LINES = 20
LOCK_SECONDS = 600.0
GRACE_SECONDS = 30

REQUESTED, RESTS_ON_DEMAND, RESTS_EVICTED = "requested", "on_demand", "evicted"


@dataclass(frozen=True)
class Order:
    """What an operator asks of a project's serves.

    gpus: the cards of the inventory, as plain mappings (alias, uuid, vram_mib, reserve_mib). settle: seconds that a
    restarted or replaced serve is watched for, and that one taken down must stay down. containers: names, for absent
    and adopted. confirm: containers that are not ours may be removed.
    """

    state: str = "up"
    keep_container: bool = False
    containers: Tuple[str, ...] = ()
    confirm: bool = False
    gpus: Tuple[Mapping[str, Any], ...] = ()
    settle: float = 2.0


@dataclass(frozen=True)
class Project:
    """A compose project as the controller rendered it, with the values of its secrets.

    secrets: name in ``anvil_secrets`` -> value. only: the services to act on, by name or tag; empty means all. files: path
    below the project's folder -> text, for what services mount from there.
    """

    name: str
    directory: str
    compose: str
    services: Mapping[str, Service]
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    only: Tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)

    def chosen(self) -> List[Service]:
        return [service for service in self.services.values() if not self.only or set(words_of(service)) & set(self.only)]

    def residency(self, service: Service) -> str:
        return str(service.anvil.get("residency") or RESIDENT)

    def secret_environment(self, service: Service) -> Dict[str, str]:
        """The variables of a service's env file, with values."""
        return {env: self.secrets[name] for env, name in (service.anvil.get("secrets") or {}).items()}


def words_of(service: Service) -> List[str]:
    """The words that select a service: its name, and its tags (the tiers it serves are among them)."""
    return [service.name, *(service.anvil.get("tags") or [])]


@dataclass
class Outcome:
    """What became of one serve. ``replaces``: somebody else's container that is adopted."""

    decision: Decision
    seen: Optional[Observed] = None
    state: str = ""
    ready: Optional[bool] = None
    seconds: float = 0.0
    replaces: Optional[Observed] = None
    problems: List[Problem] = field(default_factory=list)


def read_project(raw: Mapping[str, Any], secrets: Mapping[str, str], only: Sequence[str]) -> Project:
    """Check what the controller handed over. Raises AnvilError for unknown names and secrets that cannot be written."""
    services = {name: service_from_dict(service) for name, service in (raw.get("services") or {}).items()}
    words = sorted({word for service in services.values() for word in words_of(service)})
    problems = [
        Problem(
            what="no serve and no tag {0} in project {1}".format(name, raw["name"]),
            where="serves",
            hint="the project has: " + (", ".join(words) or "none"),
        )
        for name in only
        if name not in words
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

    def named(self, name: str) -> Optional[Observed]:
        """The container of exactly that name."""
        for entry in self.listed:
            if "/" + name in (entry["Names"] or []):
                return inspect(self.engine, str(entry["Id"]))
        return None

    def is_ours(self, seen: Optional[Observed]) -> bool:
        return seen is not None and seen.project == self.project.name

    def changes_of(self, service: Service, seen: Observed) -> List[Change]:
        brought = self.image(seen.image_id) or Image(seen.image_id)
        secrets = self.project.secret_environment(service)
        changes = drift.diff_service(service, secrets, seen, brought, self.image(service.image))
        if any(mount.kind == "bind" and os.path.isfile(mount.source) for mount in service.mounts):
            changes.extend(self._mounted_changes(service, seen))
        return changes

    def _mounted_changes(self, service: Service, seen: Observed) -> List[Change]:
        # Imported where it is needed: a run that finds nothing to do pays for every import (bench/serve_noop).
        from ansible_collections.anvil.serving.plugins.module_utils.mounted import changed_files

        found = changed_files(self.project.directory, seen.id, seen.created, service.mounts)
        if not found:
            return []
        before, after = ({path: pair[side] for path, pair in found.items()} for side in (0, 1))
        return [Change("mounted_file", before, after)]

    def neighbours_of(self, services: Sequence[Service], but: Collection[str] = ()) -> List[Neighbour]:
        """Every container that is none of these services' own. but: ids of others that do not count."""
        names = {service.name for service in services}
        leaving = {str(entry["Id"]) for entry in self.superseded(services)}
        found = []
        for entry in self.listed:
            labels = entry["Labels"] or {}
            if entry["Id"] in but or entry["Id"] in leaving:
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


def busy_ports(services: Sequence[Service], reader: Reader) -> Dict[Tuple[str, int], str]:
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


def inspect(engine: Engine, container: str) -> Optional[Observed]:
    raw = engine.inspect_container(container)
    return None if raw is None else drift.observe(raw)


def subject_of(project: Project, service: Service) -> Optional[readiness.Subject]:
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
    subjects = {service.name: subject_of(project, service) for service in services}
    waited = [subject for subject in subjects.values() if subject is not None]
    # What was read a moment ago and not touched since is good for the first look: one request less for each serve.
    untouched = {
        service.container: outcomes[service.name].seen
        for service in services
        if outcomes[service.name].decision.action == drift.NONE
    }

    def look_at(container: str) -> Optional[Observed]:
        return untouched.pop(container, None) or inspect(engine, container)

    results = readiness.wait_ready(waited, look_at, time.monotonic, time.sleep)
    for subject in waited:
        verdict, seconds = results[subject.name]
        outcome = outcomes[subject.name]
        outcome.ready, outcome.state, outcome.seconds = verdict.outcome == readiness.READY, verdict.state, seconds
        if not outcome.ready:
            outcome.problems.append(_not_ready(engine, subject.name, subject.container, verdict))


def _not_ready(engine: Engine, name: str, container: str, verdict: readiness.Verdict) -> Problem:
    return Problem(
        what="it is not ready: " + verdict.state,
        where="serve " + name,
        why=verdict.why,
        hint=_HINTS.get(verdict.state, "see the log below; the other serves were left as they are"),
        log=tuple(engine.read_log(container, LOG_LINES)),
    )


_HINTS = {
    "oom_killed": "give the host more memory or the serve less to hold in it; the card's own memory is another matter",
    "wrong_model": "another server answers there, or served_name and the engine's arguments disagree",
    "loading": "raise ready_timeout if the log below shows that it goes on",
    "missing": "who removes it? docker events on the host tells",
    "refused": "the secret that api_key names and the one the server was started with must be the same",
}


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


def _rest_on_demand(project: Project, services: Sequence[Service], outcomes: Mapping[str, Outcome]) -> None:
    """A serve on demand is started by name only; one that runs is kept as the inventory has it."""
    for service in services:
        outcome = outcomes[service.name]
        starts = outcome.decision.action in (drift.CREATE, drift.START)
        if not project.only and starts and project.residency(service) == ON_DEMAND:
            outcome.decision = Decision(drift.NONE, (RESTS_ON_DEMAND,))


def _result(
    outcomes: Mapping[str, Outcome], project: Project, changed: bool, diff: Any, extra: Mapping[str, Any]
) -> Dict[str, Any]:
    serves = {}
    for name, outcome in outcomes.items():
        service, seen = project.services[name], outcome.seen
        subject = subject_of(project, service)
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


def _lines(value: Any) -> List[str]:
    """A field's value, one line for each of its parts, so that a diff shows the part that changed."""
    if isinstance(value, Mapping):
        return ["{0}: {1}".format(key, value[key]) for key in sorted(value)]
    if isinstance(value, list):
        return [str(part) for part in value]
    return [str(value)]


def _diff(project: Project, outcomes: Mapping[str, Outcome]) -> List[Dict[str, str]]:
    """The compose file where it changes, then each serve's fields, before and after; environment by name only."""
    path = os.path.join(project.directory, "compose.yaml")
    text = files.read_file(path) or ""
    told = []
    if text != project.compose:
        told.append({"before_header": path, "after_header": path, "before": text, "after": project.compose})
    for name, outcome in outcomes.items():
        if outcome.decision.action == drift.NONE:
            continue
        header = "serve {0} ({1}: {2})".format(name, outcome.decision.action, ", ".join(outcome.decision.reasons))
        before: List[str] = []
        after: List[str] = []
        for change in outcome.decision.changes:
            before.extend("{0}: {1}\n".format(change.reason, line) for line in _lines(change.before))
            after.extend("{0}: {1}\n".format(change.reason, line) for line in _lines(change.after))
        told.append({"before_header": header, "after_header": header, "before": "".join(before), "after": "".join(after)})
    return told


def carry_out(engine: Engine, project: Project, order: Order, check: bool) -> Dict[str, Any]:
    """Do what was ordered with the chosen serves of a project; the shape returned is that of anvil_serve."""
    if check:
        return _carry_out(engine, project, order, True, None)
    with files.hold_lock(project.directory, LOCK_SECONDS) as lock:
        return _carry_out(engine, project, order, False, lock)


def _carry_out(engine: Engine, project: Project, order: Order, check: bool, lock: Optional[int]) -> Dict[str, Any]:
    if order.state in ("down", "absent"):
        from ansible_collections.anvil.serving.plugins.module_utils import retiring

        verb = retiring.take_down if order.state == "down" else retiring.retire
        return verb(engine, project, order, check)
    return _converge(engine, project, order, check, lock)


def _converge(engine: Engine, project: Project, order: Order, check: bool, lock: Optional[int]) -> Dict[str, Any]:
    """Only what differs is touched (or what was ordered anew), and every serve is ready at the end."""
    reader, services = Reader(engine, project), project.chosen()
    outcomes = _decide(reader, services)
    _rest_on_demand(project, services, outcomes)
    if order.state != "up":
        from ansible_collections.anvil.serving.plugins.module_utils import replacing

        replacing.decide_anew(reader, services, outcomes, order)
    extra: Dict[str, Any] = {"created": [], "files": [], "commands": [], "evictions": []}
    leaving = [entry["Names"][0].lstrip("/") for entry in reader.superseded(services)]
    extra["warnings"] = [
        "container {0} of project {1} is no serve of the inventory any more{2}".format(
            name, project.name, ", and makes room for one that publishes its port" if name in leaving else ""
        )
        for name in reader.orphans()
    ]
    if any(outcome.decision.action != drift.NONE for outcome in outcomes.values()):
        from ansible_collections.anvil.serving.plugins.module_utils import acting

        extra["evictions"], notes = acting.admit_serves(reader, services, outcomes, order)
        extra["warnings"] += notes
    stale = {path: want for path, want in _files_of(project).items() if files.differs(path, *want)}
    leftovers = _leftover_files(project)
    if any(outcome.problems for outcome in outcomes.values()):
        return _result(outcomes, project, False, {}, extra)
    diff = _diff(project, outcomes)
    starting = [service for service in services if outcomes[service.name].decision.action not in (drift.NONE, drift.EVICT)]
    extra["files"] = sorted([*stale, *leftovers])
    extra["created"] = _ensure_networks_and_volumes(engine, starting, check)
    changed = bool(starting or extra["evictions"] or extra["files"] or extra["created"])
    if check:
        return _result(outcomes, project, changed, diff, extra)
    for path, (content, mode) in stale.items():
        files.write_file(path, content, mode)
    for path in leftovers:
        files.remove_file(path)
    for entry in reader.superseded(starting):
        engine.stop_container(entry["Id"])
        engine.remove_container(entry["Id"])
    failed: Collection[str] = ()
    if starting:
        compose = Compose(project.name, project.directory, engine.docker_host, lock=lock)
        failed = acting.act(reader, compose, starting, outcomes)
        extra["commands"] = [list(argv) for argv in compose.commands]
    resting = {name for name, outcome in outcomes.items() if outcome.decision.reasons in ((RESTS_ON_DEMAND,), (RESTS_EVICTED,))}
    waiting = [service for service in services if service.name not in failed and service.name not in resting]
    _await_ready(engine, project, waiting, outcomes)
    if starting:
        acting.verify(reader, services, outcomes, order)
    return _result(outcomes, project, changed, diff, extra)


def describe(engine: Engine, project: Project) -> Dict[str, Any]:
    """What runs, what differs, what sits on our names and ports; nothing is changed."""
    from ansible_collections.anvil.serving.plugins.module_utils.admission import admit

    reader, services = Reader(engine, project), project.chosen()
    outcomes = _decide(reader, services)
    squatters = admit(services, reader.neighbours_of(services), None, {})
    for service in services:
        outcome, subject = outcomes[service.name], subject_of(project, service)
        if outcome.seen is not None and subject is not None:
            verdict = readiness.look(subject, outcome.seen)
            outcome.ready, outcome.state = verdict.outcome == readiness.READY, verdict.state
    result = _result(outcomes, project, False, {}, {"orphans": reader.orphans()})
    result.pop("diff")
    result["squatters"] = {
        name: [problem.why for problem in problems if "taken" in problem.what] for name, problems in squatters.items()
    }
    return result
