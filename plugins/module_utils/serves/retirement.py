# SPDX-License-Identifier: GPL-3.0-or-later
"""The states down and absent: stop or remove containers, and check that they do not come back."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
    COMPOSE_PROJECT,
    COMPOSE_SERVICE,
    Service,
)
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves import decisions
from ansible_collections.anvil.serving.plugins.module_utils.serves.decisions import Decision
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import HOLDING, ObservedContainer
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import (
    GRACE_SECONDS,
    Outcome,
    Project,
    ServeOptions,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_files import list_adoption_notes
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import ProjectState, read_container
from ansible_collections.anvil.serving.plugins.module_utils.serves.result import EMPTY_REPORT, build_result


def take_down(docker: DockerEngine, project: Project, options: ServeOptions, check: bool) -> Dict[str, Any]:
    """Take the chosen serves down. Only containers of our project are removed; files, networks and volumes stay."""
    state = ProjectState(docker, project)
    outcomes: Dict[str, Outcome] = {}
    for service in project.chosen():
        seen = state.find_container(service)
        ours = seen if state.is_ours(seen) else None
        outcomes[service.name] = Outcome(decisions.decide_down(ours, options.keep_container), ours)
    acting = {name: outcome for name, outcome in outcomes.items() if outcome.decision.action != decisions.NONE}
    warnings = [
        _warn_of_policy(name, outcome.seen) for name, outcome in acting.items() if options.keep_container and outcome.seen
    ]
    if list_adoption_notes(project):
        from ansible_collections.anvil.serving.plugins.module_utils.serves import adoption

        warnings += adoption.list_set_aside(docker, project)
    extra = {**EMPTY_REPORT, "warnings": [warning for warning in warnings if warning]}
    if check or not acting:
        return build_result(outcomes, project, bool(acting), {}, extra)
    for name, outcome in acting.items():
        container = project.services[name].container if outcome.seen is None else outcome.seen.id
        docker.stop_container(container, GRACE_SECONDS)
        if not options.keep_container:
            docker.remove_container(container)
        outcome.state = "exited" if options.keep_container else "absent"
    taken = {name: outcome.seen.id for name, outcome in acting.items() if outcome.seen is not None}
    for name, back in _watch_down(docker, project, taken, options.settle).items():
        acting[name].state = back
        acting[name].problems.append(_describe_return("serve " + name, back))
    for name, outcome in acting.items():
        outcome.seen = read_container(docker, project.services[name].container)
    return build_result(outcomes, project, True, {}, extra)


def _warn_of_policy(name: str, seen: ObservedContainer) -> str:
    """The Docker Engine starts stopped containers of policy ``always`` when it starts itself."""
    if seen.restart != "always":
        return ""
    return "serve {0} is stopped, but its restart policy is always: it starts again when the Docker Engine restarts".format(name)


def _describe_return(where: str, state: str) -> Problem:
    return Problem(
        what="the container came back after it was taken down: " + state,
        where=where,
        why="another program or user starts it: a supervisor, another operator, or a compose project with the same names",
        hint="run docker events on the host to find out what starts it; stop that, then take the container down again",
    )


def _watch_down(docker: DockerEngine, project: Project, taken: Mapping[str, str], settle: float) -> Dict[str, str]:
    """Watch serves (name -> id of the removed container) for the settle time; returns those that are back, with their state."""
    deadline = time.monotonic() + settle
    while True:
        back = {}
        listed = docker.list_containers()
        for name, old in taken.items():
            for entry in listed:
                # The list of containers lags a moment behind a stop; the description of one container does not.
                seen = _belongs_to(entry, project, project.services[name]) and read_container(docker, str(entry["Id"]))
                if seen and (seen.id != old or seen.state in HOLDING):
                    back[name] = seen.state
        if back or time.monotonic() >= deadline:
            return back
        time.sleep(0.25)


def _belongs_to(entry: Mapping[str, Any], project: Project, service: Service) -> bool:
    labels = entry["Labels"] or {}
    ours = labels.get(COMPOSE_PROJECT) == project.name and labels.get(COMPOSE_SERVICE) == service.name
    return ours or "/" + service.container in (entry["Names"] or [])


# -------------------------------------------------------------------------------------------------------------- absent


@dataclass(frozen=True)
class Target:
    """A name that must not exist, and the container it stands for (None: there is none)."""

    name: str
    seen: Optional[ObservedContainer]
    ours: bool = False


def remove_containers(docker: DockerEngine, project: Project, options: ServeOptions, check: bool) -> Dict[str, Any]:
    """Remove containers by name, in the inventory or not. A container that does not exist is a success."""
    state = ProjectState(docker, project)
    if not options.containers:
        raise fail("state absent needs names", where="containers", hint="containers: [name of a container or serve]")
    problems: List[Problem] = []
    targets: List[Target] = []
    for name in dict.fromkeys(options.containers):
        try:
            targets.append(_resolve(state, project, name, options.confirm))
        except AnvilError as exc:
            problems.extend(exc.problems)
    if problems:
        raise AnvilError(*problems)
    here = [target for target in targets if target.seen is not None]
    gone: Dict[str, str] = {}
    if not check:
        for target in here:
            gone[target.name], problem = _remove(docker, target, options.settle)
            if problem is not None:
                problems.append(problem)
    containers = {target.name: _describe_target(target, gone.get(target.name, "")) for target in targets}
    inventory = {service.container for service in project.services.values()}
    warnings = [
        "container {0} is a serve of the inventory: the next playbooks/up.yml creates it again".format(target.seen.name)
        for target in here
        if target.seen is not None and target.seen.name in inventory
    ]
    extra = {**EMPTY_REPORT, "containers": containers, "problems": problems, "warnings": warnings}
    return {"changed": bool(here), "serves": {}, "diff": _build_diff(targets), **extra}


def _resolve(state: ProjectState, project: Project, name: str, confirm: bool) -> Target:
    service = project.services.get(name)
    named = state.find_by_name(name) or state.find_by_id(name)
    own = state.find_container(service) if service is not None else None
    if named is not None and own is not None and named.id != own.id:
        raise fail(
            "{0} is the name of a serve and of another container".format(name),
            where="containers",
            why="the serve's container is {0} (image {1}); container {2} is a different one (image {3})".format(
                own.name, own.image, named.name, named.image
            ),
            hint="take the serve down: ansible-playbook playbooks/down.yml -e serves={0}\n"
            "or retire the other container by its id: ansible-playbook playbooks/retire.yml -e confirm=true -e containers={1}"
            "".format(name, named.id[:12]),
        )
    if named is not None and service is not None and service.container != name:
        raise fail(
            "{0} is the name of a serve and of another container".format(name),
            where="containers",
            why="the serve's container name is {0}; container {1} is a different one (image {2})".format(
                service.container, named.name, named.image
            ),
            hint="retire it by its id: ansible-playbook playbooks/retire.yml -e containers={0} -e confirm=true".format(
                named.id[:12]
            ),
        )
    seen = named or own
    ours = state.is_ours(seen)
    if seen is not None and not ours and not confirm:
        raise fail(
            "container {0} does not belong to this project".format(seen.name),
            where="containers",
            why="image {0}, {1}, {2}".format(
                seen.image, "project " + seen.project if seen.project else "no compose project", seen.state
            ),
            hint="to remove it anyway (confirm: true): "
            "ansible-playbook playbooks/retire.yml -e containers={0} -e confirm=true".format(seen.name),
        )
    return Target(name, seen, ours)


def _remove(docker: DockerEngine, target: Target, settle: float) -> Tuple[str, Optional[Problem]]:
    container = target.name if target.seen is None else target.seen.id
    docker.stop_container(container, GRACE_SECONDS)
    # A container of another project may keep data in an anonymous volume.
    docker.remove_container(container, volumes=target.ours)
    deadline = time.monotonic() + settle
    while True:
        back = read_container(docker, target.name)
        if back is not None:
            return back.state, _describe_return("container " + target.name, back.state)
        if time.monotonic() >= deadline:
            return "absent", None
        time.sleep(0.25)


def _describe_target(target: Target, state: str) -> Dict[str, Any]:
    seen = target.seen
    decision = Decision(decisions.NONE, ()) if seen is None else Decision(decisions.REMOVE, ("present",))
    return {
        "action": decision.action,
        "reasons": list(decision.reasons),
        "state": state or ("absent" if seen is None else seen.state),
        "container": target.name if seen is None else seen.name,
        "container_id": "" if seen is None else seen.id,
        "image": "" if seen is None else seen.image,
        "project": "" if seen is None else seen.project,
    }


def _build_diff(targets: Sequence[Target]) -> List[Dict[str, str]]:
    diff = []
    for target in targets:
        if target.seen is not None:
            header = "container " + target.seen.name
            before = "image: {0}\nproject: {1}\nstate: {2}\n".format(target.seen.image, target.seen.project, target.seen.state)
            diff.append({"before_header": header, "after_header": header, "before": before, "after": ""})
    return diff
