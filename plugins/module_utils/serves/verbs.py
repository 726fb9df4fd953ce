# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The verbs of a serve, over a whole project at once: read the engine once, decide, admit, act, wait until ready."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.service import LABEL_PREFIX, OFF, ON_DEMAND, Service
from ansible_collections.anvil.serving.plugins.module_utils.serves import drift, readiness
from ansible_collections.anvil.serving.plugins.module_utils.serves.drift import Decision, Observed
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import (
    LOCK_SECONDS,
    LOG_LINES,
    NOTHING_ELSE,
    RESTS_EVICTED,
    RESTS_OFF,
    RESTS_ON_DEMAND,
    Order,
    Outcome,
    Project,
    lay_out_result,
    subject_of,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import Reader, inspect

# Rooms that only a run with something to do needs are imported where it does: a module's code is compiled anew in every run
# (bench/serve_noop).

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


def _ensure_networks_and_volumes(engine: DockerEngine, services: Sequence[Service], check: bool) -> List[str]:
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


def _await_ready(engine: DockerEngine, project: Project, services: Sequence[Service], outcomes: Dict[str, Outcome]) -> None:
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


def _not_ready(engine: DockerEngine, name: str, container: str, verdict: readiness.Verdict) -> Problem:
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
        seen = reader.outlast(seen)
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


def _described_to_run(project: Project) -> List[Service]:
    return [service for service in project.chosen() if project.residency(service) != OFF]


def _left_out(project: Project) -> List[Service]:
    return [service for service in project.chosen() if project.residency(service) == OFF]


def _decide_off(reader: Reader, services: Sequence[Service]) -> Dict[str, Outcome]:
    """Serves that the profile or the deploy mode leaves out: what runs of them is taken down."""
    outcomes = {}
    for service in services:
        seen = reader.container_of(service)
        ours = seen if reader.is_ours(seen) else None
        outcomes[service.name] = Outcome(Decision(drift.EVICT if ours else drift.NONE, (RESTS_OFF,)), ours)
        if service.name in reader.project.only:
            outcomes[service.name].problems.append(
                Problem(
                    what="it does not run here",
                    where="serve " + service.name,
                    why="the profile or the deploy mode of this host leaves it out",
                    hint="choose another anvil_profile or anvil_deploy_mode, or name the serve in the profile",
                )
            )
    return outcomes


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


def carry_out(engine: DockerEngine, project: Project, order: Order, check: bool) -> Dict[str, Any]:
    """Do what was ordered with the chosen serves of a project; the shape returned is that of anvil_serve."""
    if check:
        return carry_out_held(engine, project, order, None)
    with files.hold_lock(project.directory, LOCK_SECONDS) as lock:
        return carry_out_held(engine, project, order, lock)


def carry_out_held(engine: DockerEngine, project: Project, order: Order, lock: Optional[int]) -> Dict[str, Any]:
    """As ``carry_out``, for a caller that holds the project's lock over several steps; lock: the descriptor that holds
    the project, None in check mode."""
    if order.state in ("down", "absent"):
        from ansible_collections.anvil.serving.plugins.module_utils.serves import retirement

        verb = retirement.take_down if order.state == "down" else retirement.retire
        return verb(engine, project, order, lock is None)
    return _converge(engine, project, order, lock)


@dataclass
class _Run:
    """One reading of the engine, what follows from it, and what is told besides."""

    reader: Reader
    order: Order
    services: List[Service]
    outcomes: Dict[str, Outcome]
    extra: Dict[str, Any]

    def acts(self) -> bool:
        return any(outcome.decision.action != drift.NONE for outcome in self.outcomes.values())

    def starting(self) -> List[Service]:
        resting = (drift.NONE, drift.EVICT)
        return [service for service in self.services if self.outcomes[service.name].decision.action not in resting]

    def without_image(self) -> List[Service]:
        """Those that docker compose is to create or start, and whose image is not on this host."""
        return [
            service
            for service in self.starting()
            if self.outcomes[service.name].decision.action not in (drift.UNPAUSE, drift.RESTART)
            and self.reader.image(service.image) is None
        ]

    def admit(self) -> bool:
        """Weigh what is about to start. False: something was refused, and its outcome says why."""
        if self.acts():
            from ansible_collections.anvil.serving.plugins.module_utils.serves import converge

            self.extra["evictions"], notes = converge.admit_serves(self.reader, self.services, self.outcomes, self.order)
            self.extra["warnings"] = self.extra["warnings"] + notes
            self.extra["evictions"] = self.extra["evictions"] + self._left_out()
        return not any(outcome.problems for outcome in self.outcomes.values())

    def _left_out(self) -> List[Dict[str, Any]]:
        """What is taken down because the profile or the deploy mode leaves it out, as evictions are told."""
        services = self.reader.project.services
        return [
            {"serve": name, "container": services[name].container, "for": "", "gpu_uuids": list(services[name].gpu_uuids)}
            for name, outcome in self.outcomes.items()
            if outcome.decision == Decision(drift.EVICT, (RESTS_OFF,))
        ]

    def result(self, changed: bool = False, diff: Optional[List[Dict[str, str]]] = None) -> Dict[str, Any]:
        return lay_out_result(self.outcomes, self.reader.project, changed, diff or [], self.extra)


def _read_and_decide(engine: DockerEngine, project: Project, order: Order, services: List[Service]) -> _Run:
    reader = Reader(engine, project)
    outcomes = _decide(reader, services)
    _rest_on_demand(project, services, outcomes)
    if order.state != "up":
        from ansible_collections.anvil.serving.plugins.module_utils.serves import replacement

        replacement.decide_anew(reader, services, outcomes, order)
    outcomes.update(_decide_off(reader, _left_out(project)))
    leaving = [entry["Names"][0].lstrip("/") for entry in reader.superseded(services)]
    warnings = [
        "container {0} of project {1} is no serve of the inventory any more{2}".format(
            name, project.name, ", and makes room for one that publishes its port" if name in leaving else ""
        )
        for name in reader.orphans()
    ]
    return _Run(reader, order, services, outcomes, {**NOTHING_ELSE, "warnings": warnings})


def _converge(engine: DockerEngine, project: Project, order: Order, lock: Optional[int]) -> Dict[str, Any]:
    """Only what differs is touched (or what was ordered anew), and every serve is ready at the end.

    From admission to start the engine is held, so that no other project takes the card, the port or the name in between.
    To pull an image or to wait until a model is loaded holds nobody else up.
    """
    run = _read_and_decide(engine, project, order, _described_to_run(project))
    lacking = run.without_image()
    pulled = sorted({service.image for service in lacking})
    if lock is None or not run.acts():
        if not run.admit():
            return run.result()
        run.extra["pulled"] = pulled
        touched = _touch(run, None if lock is None else (lock,))
        return run.result(*touched) if lock is None else _finish(run, *touched)
    lost: Dict[str, Outcome] = {}
    if lacking:
        from ansible_collections.anvil.serving.plugins.module_utils.serves import converge

        if not run.admit():
            return run.result()
        lost = converge.pull_images(engine, lacking, run.outcomes)
    with engine.lock_host() as held:
        run = _read_and_decide(engine, project, order, [service for service in run.services if service.name not in lost])
        run.extra["pulled"] = [image for image in pulled if run.reader.image(image) is not None]
        admitted = run.admit()
        touched = _touch(run, (lock, held)) if admitted else (bool(run.extra["pulled"]), [])
    run.outcomes.update(lost)
    return _finish(run, *touched) if admitted else run.result(*touched)


def _touch(run: _Run, locks: Optional[Tuple[int, ...]]) -> Tuple[bool, List[Dict[str, str]]]:
    """Write the files and start what is to be started; tells whether anything changed, and the diff.

    locks: descriptors that docker compose inherits. None: check mode, nothing is touched.
    """
    project, engine, starting = run.reader.project, run.reader.engine, run.starting()
    stale = {path: want for path, want in _files_of(project).items() if files.differs(path, *want)}
    leftovers = _leftover_files(project)
    diff = _diff(project, run.outcomes)
    run.extra["files"] = sorted([*stale, *leftovers])
    run.extra["created"] = _ensure_networks_and_volumes(engine, starting, locks is None)
    changed = bool(starting or any(run.extra[key] for key in ("evictions", "files", "created", "pulled")))
    if locks is None:
        return changed, diff
    for path, (content, mode) in stale.items():
        files.write_file(path, content, mode)
    for path in leftovers:
        files.remove_file(path)
    for entry in run.reader.superseded(starting):
        engine.stop_container(entry["Id"])
        engine.remove_container(entry["Id"])
    if starting or run.extra["evictions"]:
        from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_cli import Compose
        from ansible_collections.anvil.serving.plugins.module_utils.serves import converge

        compose = Compose(project.name, project.directory, engine.docker_host, locks=locks)
        run.extra["warnings"] = run.extra["warnings"] + converge.act(run.reader, compose, starting, run.outcomes, run.order)
        run.extra["commands"] = [list(argv) for argv in compose.commands]
    return changed, diff


def _finish(run: _Run, changed: bool, diff: List[Dict[str, str]]) -> Dict[str, Any]:
    """Wait until every serve that is to be up is ready, and verify what was started."""
    started, project = run.starting(), run.reader.project
    waiting = [service for service in run.services if not _rests(run.outcomes[service.name])]
    _await_ready(run.reader.engine, project, waiting, run.outcomes)
    if started:
        from ansible_collections.anvil.serving.plugins.module_utils.serves import converge

        converge.verify(run.reader, started, run.outcomes, run.order)
    return run.result(changed, diff)


def _rests(outcome: Outcome) -> bool:
    """Nothing is to be waited for: it is not to run now, or it could not be started."""
    return outcome.ready is False or outcome.decision.reasons in ((RESTS_ON_DEMAND,), (RESTS_EVICTED,))


def describe(engine: DockerEngine, project: Project) -> Dict[str, Any]:
    """What runs, what differs, what sits on our names and ports; nothing is changed."""
    from ansible_collections.anvil.serving.plugins.module_utils.serves.admission import admit

    reader, services = Reader(engine, project), _described_to_run(project)
    outcomes = _decide(reader, services)
    outcomes.update(_decide_off(reader, _left_out(project)))
    squatters = admit(services, reader.neighbours_of(services), None, {})
    for service in services:
        outcome, subject = outcomes[service.name], subject_of(project, service)
        if outcome.seen is not None and subject is not None:
            verdict = readiness.look(subject, outcome.seen)
            outcome.ready, outcome.state = verdict.outcome == readiness.READY, verdict.state
    result = lay_out_result(outcomes, project, False, {}, {"orphans": reader.orphans()})
    result.pop("diff")
    result["squatters"] = {
        name: [problem.why for problem in problems if "taken" in problem.what] for name, problems in squatters.items()
    }
    return result
