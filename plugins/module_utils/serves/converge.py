# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Act on what was decided: admit it, hand it to docker compose, verify what came of it.

Not part of a run that finds nothing to do: ``serves`` calls up to here only where a serve differs.
"""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Dict, List, Optional, Sequence, Set, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_cli import Compose
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.service import (
    OFF,
    ON_DEMAND,
    Service,
)
from ansible_collections.anvil.serving.plugins.module_utils.host.listening_ports import busy_ports
from ansible_collections.anvil.serving.plugins.module_utils.serves import drift, effective_settings, readiness
from ansible_collections.anvil.serving.plugins.module_utils.serves.admission import addresses_overlap, admit
from ansible_collections.anvil.serving.plugins.module_utils.serves.drift import Decision, Observed
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import (
    GRACE_SECONDS,
    LOG_LINES,
    RESTS_EVICTED,
    Order,
    Outcome,
    Project,
    subject_of,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import Reader, inspect

if TYPE_CHECKING:
    from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card

# After one of these a serve asks for its memory anew; a paused or restarted one had it all along.
CHARGED = (drift.CREATE, drift.RECREATE, drift.START, drift.ADOPT)

# What an engine says, now and then, of a container that it was starting when it was killed. Another container comes up.
HALF_STARTED = re.compile(r"failed to create task for container: task \w+: already exists")


# ------------------------------------------------------------------------------------------------------------ admission


def admit_serves(
    reader: Reader, services: Sequence[Service], outcomes: Dict[str, Outcome], order: Order
) -> Tuple[List[Dict[str, object]], List[str]]:
    """Put every reason why a serve may not start into its outcome; returns what has to be evicted, and notes.

    Serves that have to go get an outcome of their own. An evictable serve that nobody named rests while a serve on demand
    has its card.
    """
    starting = [service for service in services if outcomes[service.name].decision.action != drift.NONE]
    replaced = [outcome.replaces.id for outcome in outcomes.values() if outcome.replaces is not None]
    charged = [service for service in starting if outcomes[service.name].decision.action in CHARGED]
    cards: Optional[Sequence[Card]] = None
    evictions: List[Service] = []
    lacking: Dict[str, List[Problem]] = {}
    told_notes: List[str] = []
    if any(service.gpu_uuids for service in starting):
        from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import read_cards
        from ansible_collections.anvil.serving.plugins.module_utils.serves.host_ledger import Books

        cards = read_cards()
        books = Books(reader, charged, outcomes, cards or (), order)
        verdict, resting = books.weigh_resting(services)
        for name in resting:
            outcomes[name].decision = Decision(drift.NONE, (RESTS_EVICTED,))
        starting = [service for service in starting if service.name not in resting]
        evictions = books.evictions(verdict, [service.name for service in services])
        lacking, told_notes = {} if evictions else verdict.problems, list(verdict.notes)
    busy = {address: who for address, who in busy_ports(starting, reader.listed).items() if address not in _own_ports(outcomes)}
    refused = admit(starting, reader.neighbours_of(services, replaced), cards, busy)
    for problems in (refused, lacking):
        for name, found in problems.items():
            outcomes[name].problems.extend(found)
    if order.compatibility != "off" and starting:
        told_notes += _judge_models(reader, starting, cards or (), order, outcomes)
    for gone in evictions:
        outcomes[gone.name] = Outcome(Decision(drift.EVICT, (RESTS_EVICTED,)), reader.container_of(gone))
    demanding = ", ".join(service.name for service in charged if reader.project.residency(service) == ON_DEMAND)
    told: List[Dict[str, object]] = [
        {"serve": gone.name, "container": gone.container, "for": demanding, "gpu_uuids": list(gone.gpu_uuids)}
        for gone in evictions
    ]
    return told, told_notes


def _judge_models(
    reader: Reader, starting: Sequence[Service], cards: Sequence[Card], order: Order, outcomes: Dict[str, Outcome]
) -> List[str]:
    """Do the models fit their engines and cards? Findings go to the first serve that is about to start; notes come back."""
    # Reading headers of weights pulls in much that a run without anything to start does not need.
    from ansible_collections.anvil.serving.plugins.module_utils.weights.service_compatibility import judge_services

    names = [service.name for service in starting if outcomes[service.name].decision.action in CHARGED]
    if not names:
        return []
    described = [service for service in reader.project.services.values() if reader.project.residency(service) != OFF]
    problems, notes = judge_services(reader.engine, described, names, cards, order.allowed)
    if order.compatibility == "enforce" and problems:
        outcomes[names[0]].problems.extend(problems)
        return notes
    return [*notes, *(problem.as_text() for problem in problems)]


def _own_ports(outcomes: Dict[str, Outcome]) -> Set[Tuple[str, int]]:
    """Ports that the containers which are to go hold themselves.

    In a restart loop such a container has its port at one moment and not at the next: the list may have missed it.
    """
    going = [seen for outcome in outcomes.values() for seen in (outcome.seen, outcome.replaces) if seen is not None]
    return {(bind, port) for seen in going if seen.state in drift.HOLDING for bind, port, _target in seen.ports}


# --------------------------------------------------------------------------------------------------------------- acting


def pull_images(engine: DockerEngine, services: Sequence[Service], outcomes: Dict[str, Outcome]) -> Dict[str, Outcome]:
    """Pull the images of these serves; returns the outcomes of those whose image cannot be had, each with the reason."""
    from ansible_collections.anvil.serving.plugins.module_utils.serves.start_failures import explain

    lost = {}
    said = {image: _pull(engine, image) for image in dict.fromkeys(service.image for service in services)}
    for service in services:
        if said[service.image]:
            lost[service.name] = outcomes[service.name]
            _fail(lost[service.name], "", explain(service, said[service.image], image_here=False))
    return lost


def _pull(engine: DockerEngine, image: str) -> str:
    """What the registry or the engine said where it cannot be pulled; empty where it can."""
    try:
        engine.pull_image(image)
    except AnvilError as exc:
        return exc.problems[0].why
    return ""


def act(reader: Reader, compose: Compose, starting: Sequence[Service], outcomes: Dict[str, Outcome], order: Order) -> List[str]:
    """Carry the decisions out, one compose command for each kind of action; returns what an operator should know.

    A serve that did not start is not ready, and its outcome tells why.
    """
    engine = reader.engine
    notes = _evict(reader, outcomes, order)

    def having(*actions: str) -> List[Service]:
        return [service for service in starting if outcomes[service.name].decision.action in actions]

    for service in having(drift.ADOPT):
        from ansible_collections.anvil.serving.plugins.module_utils.serves import replacement

        old = outcomes[service.name].replaces
        if old is not None:
            replacement.set_aside(engine, service, old)
    failed = _bring_up(engine, compose, having(drift.CREATE, drift.RECREATE, drift.ADOPT), recreate=True)
    failed.update(_bring_up(engine, compose, having(drift.START), recreate=False))
    paused = having(drift.UNPAUSE)
    if paused:
        ran = compose.unpause([service.name for service in paused])
        if ran.code != 0:
            for service in paused:
                failed[service.name] = Problem("it cannot be unpaused", "serve " + service.name, ran.text)
    for service in having(drift.RESTART):
        try:
            engine.restart_container(service.container, GRACE_SECONDS)
        except AnvilError as exc:
            failed[service.name] = replace(exc.problems[0], where="serve " + service.name)
    for name, problem in failed.items():
        _fail(outcomes[name], "", problem)
    return notes


def _evict(reader: Reader, outcomes: Dict[str, Outcome], order: Order) -> List[str]:
    """Take down what makes room, each after its clients have their answers; returns where that could not be seen."""
    engine, services = reader.engine, reader.project.services
    going = {name: outcome.seen for name, outcome in outcomes.items() if outcome.decision.action == drift.EVICT}
    if not going:
        return []
    from ansible_collections.anvil.serving.plugins.module_utils.serves import draining

    asked = {name: draining.question_for(services[name], subject_of(reader.project, services[name])) for name in going}
    drained = draining.wait_idle(asked, time.monotonic, time.sleep, order.drain_timeout)
    for name, seen in going.items():
        if seen is not None:
            # A request may have come since the last look: a server that is told to stop has the grace to end it.
            engine.stop_container(seen.id, GRACE_SECONDS)
            engine.remove_container(seen.id)
        outcomes[name].state, outcomes[name].seen = "absent", None
    return draining.tell(drained, order.drain_timeout)


def _bring_up(engine: DockerEngine, compose: Compose, services: Sequence[Service], recreate: bool) -> Dict[str, Problem]:
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
    from ansible_collections.anvil.serving.plugins.module_utils.serves.start_failures import explain

    service = services[0]
    seen = inspect(engine, service.container)
    image_here = engine.inspect_image(service.image) is not None
    said = seen.error if image_here and seen is not None and seen.error else ran.text
    if not recreate and HALF_STARTED.search(said):
        return _bring_up(engine, compose, services, recreate=True)
    problem = explain(service, said, image_here)
    if "is taken" in problem.what:
        problem = replace(problem, why=_holders(Reader(engine, _nobody()), service) or problem.why)
    log = () if seen is None or not image_here else tuple(engine.read_log(seen.id, LOG_LINES))
    return {service.name: replace(problem, log=log)}


def _nobody() -> Project:
    return Project("", "", "", {})


def _holders(now: Reader, service: Service) -> str:
    """Who holds the name or a port of a service at this moment."""
    found = [
        neighbour.describe()
        for neighbour in now.neighbours_of([])
        if (neighbour.name == service.container and neighbour.state != "created")
        or any(
            port == held and addresses_overlap(bind, held_bind)
            for bind, port, _target in service.ports
            for held_bind, held in neighbour.ports
        )
    ]
    return "by " + ", ".join(found) if found else ""


# -------------------------------------------------------------------------------------------------------------- verified


def verify(reader: Reader, acted: Sequence[Service], outcomes: Dict[str, Outcome], order: Order) -> None:
    """After the wait: settings as asked, the same process over the settle time, and adopted containers out of the way.

    acted: the serves that were started, or were to be.
    """
    engine, project = reader.engine, reader.project
    for service in acted:
        outcome = outcomes[service.name]
        outcome.seen = inspect(engine, service.container)
        problem = _ignored_settings(project, service) if outcome.ready else None
        if problem is not None:
            _fail(outcome, "setting_ignored", problem)
    if order.state != "up":
        _watch_settled(engine, acted, outcomes, order.settle)
    for service in acted:
        outcome = outcomes[service.name]
        if outcome.replaces is None:
            continue
        from ansible_collections.anvil.serving.plugins.module_utils.serves import replacement

        if outcome.ready is False:
            outcome.problems.append(replacement.put_back(engine, service, outcome.replaces))
            outcome.seen = inspect(engine, service.container)
        else:
            replacement.drop_kept(engine, outcome.replaces)
    _record_mounted(reader)


def _fail(outcome: Outcome, state: str, problem: Problem) -> None:
    outcome.ready, outcome.state = False, state
    outcome.problems.append(problem)


def _ignored_settings(project: Project, service: Service) -> Optional[Problem]:
    """A flag that the server took and did not follow."""
    subject = subject_of(project, service)
    engine, command = service.anvil.get("engine"), service.command or ()
    found: List[effective_settings.Difference] = []
    if subject is not None and engine == "vllm":
        found = effective_settings.compare_vllm(command, subject.served_name, readiness.ask(subject).text)
    if subject is not None and engine == "llama_cpp":
        found = effective_settings.compare_llama(command, readiness.fetch(subject, "/props").text)
    if not found:
        return None
    return Problem(
        what="it is up, and does not run with what was asked for",
        where="serve " + service.name,
        why="; ".join(difference.as_text() for difference in found),
        hint="ask for what the model and the card allow, or see the log for why the flag was ignored",
    )


def _watch_settled(engine: DockerEngine, acted: Sequence[Service], outcomes: Dict[str, Outcome], settle: float) -> None:
    watched: Dict[str, Observed] = {}
    for service in acted:
        outcome = outcomes[service.name]
        if outcome.ready is not False and outcome.seen is not None:
            watched[service.name] = outcome.seen
    if not watched or settle <= 0:
        return
    lost = readiness.watch_settled(watched, lambda name: inspect(engine, name), time.monotonic, time.sleep, settle)
    for name, verdict in lost.items():
        problem = Problem(
            what="it was ready and did not stay up for {0:g} s: {1}".format(settle, verdict.state),
            where="serve " + name,
            why=verdict.why,
            hint="see the log below",
            log=tuple(engine.read_log(watched[name].id, LOG_LINES)),
        )
        _fail(outcomes[name], verdict.state, problem)


def _record_mounted(reader: Reader) -> None:
    """Write down what single mounted files the containers of the project were created with."""
    from ansible_collections.anvil.serving.plugins.module_utils.docker.mounted_files import list_mounted_files, record_files

    services = reader.project.services
    if not any(list_mounted_files(service.mounts) for service in services.values()):
        return
    fresh = Reader(reader.engine, reader.project)
    seen = {name: fresh.container_of(service) for name, service in services.items()}
    ours = {found.id: services[name].mounts for name, found in seen.items() if found is not None and fresh.is_ours(found)}
    record_files(reader.project.directory, ours)
