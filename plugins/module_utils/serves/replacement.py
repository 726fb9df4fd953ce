# SPDX-License-Identifier: GPL-3.0-or-later
"""The states restarted, recreated and adopted: how they change the decisions of ``up``. ``adoption`` has the steps of one."""

from __future__ import annotations

from typing import Dict, List, Mapping, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service
from ansible_collections.anvil.serving.plugins.module_utils.serves import decisions
from ansible_collections.anvil.serving.plugins.module_utils.serves.adoption_note import KEPT_SUFFIX, AdoptionNote
from ansible_collections.anvil.serving.plugins.module_utils.serves.adoption_obstacles import find_obstacles
from ansible_collections.anvil.serving.plugins.module_utils.serves.decisions import REQUESTED, Decision
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import ObservedContainer
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Outcome, ServeOptions
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import ProjectState, read_container


def decide_replacement(
    state: ProjectState, services: Sequence[Service], outcomes: Dict[str, Outcome], options: ServeOptions
) -> None:
    """Change the decisions of ``up`` into those of the state that the operator requested.

    A serve that differs is recreated where a restart was requested: a restart would run its old configuration again.
    """
    for service in services:
        outcome = outcomes[service.name]
        decision = outcome.decision
        if options.state == "restarted" and decision.action == decisions.NONE and outcome.seen is not None:
            outcome.decision = Decision(decisions.RESTART, (REQUESTED,))
        elif options.state == "recreated" and outcome.seen is not None:
            reasons = tuple(sorted({REQUESTED, *decision.reasons}))
            outcome.decision = Decision(decisions.RECREATE, reasons, decision.changes)


def decide_adoptions(
    state: ProjectState,
    services: Sequence[Service],
    outcomes: Dict[str, Outcome],
    options: ServeOptions,
    notes: Mapping[str, AdoptionNote],
) -> None:
    """Decide the adoptions that the operator requests, and those that an earlier run began and did not end (``notes``)."""
    sources = _read_sources(services, options) if options.state == "adopted" else {}
    problems: List[Problem] = []
    for service in services:
        try:
            old = _find_old(state, service, sources, options.state == "adopted", notes.get(service.name))
        except AnvilError as exc:
            problems.extend(exc.problems)
            continue
        if old is None:
            continue
        outcome = outcomes[service.name]
        # The successor that an earlier run created is kept if it is right: its model may be half loaded.
        outcome.resumes = outcome.seen is not None and outcome.decision.action in (decisions.NONE, decisions.START)
        outcome.decision, outcome.replaces = _decide_adoption(state, service, old), old
        outcome.seen = outcome.seen or old
        if service.name not in notes:
            outcome.notes.extend(_check_obstacles(state, service, old, options, outcome))
    if problems:
        raise AnvilError(*problems)


def _read_sources(services: Sequence[Service], options: ServeOptions) -> Dict[str, str]:
    """Serve -> the container it adopts, where the names differ: from ``SERVE=CONTAINER``, or from one name for one serve."""
    names = {service.name for service in services}
    pairs = [word.partition("=") for word in options.containers]
    found = {serve: container for serve, given, container in pairs if given and serve in names and container}
    if len(found) == len(pairs):
        return found
    if len(services) == len(pairs) == 1 and not pairs[0][1]:
        return {services[0].name: options.containers[0]}
    raise fail(
        "it is not clear which container becomes which serve",
        where="containers",
        why="containers: {0}; serves: {1}".format(", ".join(options.containers), ", ".join(sorted(names)) or "none"),
        hint="for one serve: ansible-playbook playbooks/adopt.yml -e serves=SERVE -e container=NAME\n"
        "for several: -e serves=SERVE,OTHER -e container=SERVE=NAME,OTHER=NAME\n"
        "without container, each serve adopts the container that has the serve's own container name",
    )


def _find_old(
    state: ProjectState, service: Service, sources: Mapping[str, str], requested: bool, note: Optional[AdoptionNote]
) -> Optional[ObservedContainer]:
    """The container to adopt: the one that an earlier run set aside, else by its name."""
    asked = sources.get(service.name)
    if note is not None:
        old = read_container(state.docker, note.id)
        if old is None or not (requested or old.name == note.kept):
            return None
        other = state.find_by_name(asked or service.container)
        if other is not None and other.id != old.id and not state.is_ours(other):
            raise fail(
                "two containers claim to be replaced by this serve",
                where="serve " + service.name,
                why="{0} is stopped and kept as {1}, from an adoption that was interrupted; {2} was started since".format(
                    note.name, old.name, other.name
                ),
                hint="remove the one that is not needed: "
                "ansible-playbook playbooks/retire.yml -e containers={0} -e confirm=true".format(old.name),
            )
        return old
    if not requested:
        return None
    name = asked or service.container
    named = state.find_by_name(name)
    if named is not None and not state.is_ours(named):
        return named
    kept = None if asked and named else state.find_by_name(service.container + KEPT_SUFFIX)
    if kept is not None and not state.is_ours(kept):
        return kept
    own = state.find_container(service)
    if named is not None and (own is None or own.id != named.id):
        raise fail(
            "container {0} is a serve of this inventory already".format(name),
            where="serve " + service.name,
            hint="name a container that is not in the inventory; ansible-playbook playbooks/status.yml lists them as squatters",
        )
    if named is None and asked and own is None:
        raise fail(
            "there is no container {0} to adopt".format(name),
            where="serve " + service.name,
            hint="containers on this host: " + (", ".join(_list_names(state)) or "none"),
        )
    return None


def _list_names(state: ProjectState) -> Sequence[str]:
    return sorted(str(name).lstrip("/") for entry in state.listed for name in entry["Names"] or ())


def _decide_adoption(state: ProjectState, service: Service, old: ObservedContainer) -> Decision:
    changes = state.diff_container(service, old)
    reasons = {change.reason for change in changes} | {"foreign_project" if old.project else "by_hand"}
    return Decision(decisions.ADOPT, tuple(sorted(reasons)), tuple(changes))


def _check_obstacles(
    state: ProjectState, service: Service, old: ObservedContainer, options: ServeOptions, outcome: Outcome
) -> Sequence[str]:
    """Put into the outcome what speaks against the adoption; returns notes."""
    raw = state.docker.inspect_container(old.id)
    if raw is None:
        return ()
    named = "" if old.name == service.container else " -e container=" + old.name
    playbook = "ansible-playbook playbooks/adopt.yml -e serves={0}{1}".format(service.name, named)
    kept = service.container + KEPT_SUFFIX
    obstacles = find_obstacles(service.name, kept, raw, state.listed, playbook)
    outcome.problems.extend(obstacles.refusals)
    if not options.confirm:
        outcome.problems.extend(obstacles.doubts)
        return obstacles.notes
    return [*obstacles.notes, *(_as_note(problem) for problem in obstacles.doubts)]


def _as_note(problem: Problem) -> str:
    return "{0}: {1}: {2}".format(problem.where, problem.what, problem.why)
