# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""down and absent: containers go, and stay away."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.service import COMPOSE_PROJECT, COMPOSE_SERVICE, Service
from ansible_collections.anvil.serving.plugins.module_utils.serves import drift
from ansible_collections.anvil.serving.plugins.module_utils.serves.drift import Decision, Observed
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import (
    GRACE_SECONDS,
    NOTHING_ELSE,
    Order,
    Outcome,
    Project,
    lay_out_result,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import Reader, inspect


def take_down(engine: DockerEngine, project: Project, order: Order, check: bool) -> Dict[str, Any]:
    """Take the chosen serves down: containers of our project only; files, network and volumes stay."""
    reader = Reader(engine, project)
    outcomes: Dict[str, Outcome] = {}
    for service in project.chosen():
        seen = reader.container_of(service)
        ours = seen if reader.is_ours(seen) else None
        outcomes[service.name] = Outcome(drift.decide_down(ours, order.keep_container), ours)
    acting = {name: outcome for name, outcome in outcomes.items() if outcome.decision.action != drift.NONE}
    warnings = [_policy_warning(name, outcome.seen) for name, outcome in acting.items() if order.keep_container and outcome.seen]
    extra = {**NOTHING_ELSE, "warnings": [warning for warning in warnings if warning]}
    if check or not acting:
        return lay_out_result(outcomes, project, bool(acting), {}, extra)
    for name, outcome in acting.items():
        container = project.services[name].container if outcome.seen is None else outcome.seen.id
        engine.stop_container(container, GRACE_SECONDS)
        if not order.keep_container:
            engine.remove_container(container)
        outcome.state = "exited" if order.keep_container else "absent"
    taken = {name: outcome.seen.id for name, outcome in acting.items() if outcome.seen is not None}
    for name, back in _watch_down(engine, project, taken, order.settle).items():
        acting[name].state = back
        acting[name].problems.append(_revived("serve " + name, back))
    for name, outcome in acting.items():
        outcome.seen = inspect(engine, project.services[name].container)
    return lay_out_result(outcomes, project, True, {}, extra)


def _policy_warning(name: str, seen: Observed) -> str:
    """The engine starts a stopped container of policy ``always`` again when it starts itself."""
    if seen.restart != "always":
        return ""
    return "serve {0} is stopped, and its restart policy is always: it comes back when the engine restarts".format(name)


def _revived(where: str, state: str) -> Problem:
    return Problem(
        what="it came back after it was taken down: " + state,
        where=where,
        why="somebody or something starts it again: a supervisor, another operator, a compose project of the same names",
        hint="docker events on the host tells who; end that first, then take it down again",
    )


def _watch_down(engine: DockerEngine, project: Project, taken: Mapping[str, str], settle: float) -> Dict[str, str]:
    """The serves (name -> id of the container that was taken down) that are back within the settle time, with its state."""
    deadline = time.monotonic() + settle
    while True:
        back = {}
        listed = engine.list_containers()
        for name, old in taken.items():
            for entry in listed:
                # The list lags a moment behind a stop; what is said of one container does not.
                seen = _is_of(entry, project, project.services[name]) and inspect(engine, str(entry["Id"]))
                if seen and (seen.id != old or seen.state in drift.HOLDING):
                    back[name] = seen.state
        if back or time.monotonic() >= deadline:
            return back
        time.sleep(0.25)


def _is_of(entry: Mapping[str, Any], project: Project, service: Service) -> bool:
    labels = entry["Labels"] or {}
    ours = labels.get(COMPOSE_PROJECT) == project.name and labels.get(COMPOSE_SERVICE) == service.name
    return ours or "/" + service.container in (entry["Names"] or [])


# -------------------------------------------------------------------------------------------------------------- absent


@dataclass(frozen=True)
class Target:
    """A name that is to be gone, and the container it stands for (None: there is none)."""

    name: str
    seen: Optional[Observed]
    ours: bool = False


def retire(engine: DockerEngine, project: Project, order: Order, check: bool) -> Dict[str, Any]:
    """Remove containers by name, in the inventory or not; one that is not there already is success."""
    reader = Reader(engine, project)
    if not order.containers:
        raise fail("nothing is named that is to be absent", where="containers", hint="containers: [name of a container or serve]")
    problems: List[Problem] = []
    targets: List[Target] = []
    for name in dict.fromkeys(order.containers):
        try:
            targets.append(_resolve(reader, project, name, order.confirm))
        except AnvilError as exc:
            problems.extend(exc.problems)
    if problems:
        raise AnvilError(*problems)
    here = [target for target in targets if target.seen is not None]
    gone: Dict[str, str] = {}
    if not check:
        for target in here:
            gone[target.name], problem = _remove(engine, target, order.settle)
            if problem is not None:
                problems.append(problem)
    told = {target.name: _tell(target, gone.get(target.name, "")) for target in targets}
    inventory = {service.container for service in project.services.values()}
    warnings = [
        "container {0} is a serve of the inventory: the next up brings it back".format(target.seen.name)
        for target in here
        if target.seen is not None and target.seen.name in inventory
    ]
    extra = {**NOTHING_ELSE, "containers": told, "problems": problems, "warnings": warnings}
    return {"changed": bool(here), "serves": {}, "diff": _diff(targets), **extra}


def _resolve(reader: Reader, project: Project, name: str, confirm: bool) -> Target:
    service = project.services.get(name)
    named = reader.named(name)
    own = reader.container_of(service) if service is not None else None
    if named is not None and own is not None and named.id != own.id:
        raise fail(
            "{0} is a serve and also another container".format(name),
            where="containers",
            why="the serve's container is {0} ({1}), and container {2} is another one ({3})".format(
                own.name, own.image, named.name, named.image
            ),
            hint="take the serve down with state: down, or rename the other container and retire it by its new name",
        )
    if named is not None and service is not None and service.container != name:
        raise fail(
            "{0} is a serve and also another container".format(name),
            where="containers",
            why="the serve's container would be {0}, and container {1} is of image {2}".format(
                service.container, named.name, named.image
            ),
            hint="rename that container and retire it by its new name",
        )
    seen = named or own
    ours = reader.is_ours(seen)
    if seen is not None and not ours and not confirm:
        raise fail(
            "container {0} is not ours".format(seen.name),
            where="containers",
            why="it is of image {0}, {1}, {2}".format(
                seen.image, "project " + seen.project if seen.project else "no compose project", seen.state
            ),
            hint="say confirm: true to remove it all the same",
        )
    return Target(name, seen, ours)


def _remove(engine: DockerEngine, target: Target, settle: float) -> Tuple[str, Optional[Problem]]:
    container = target.name if target.seen is None else target.seen.id
    engine.stop_container(container, GRACE_SECONDS)
    # What is not ours may keep data in an anonymous volume.
    engine.remove_container(container, volumes=target.ours)
    deadline = time.monotonic() + settle
    while True:
        back = inspect(engine, target.name)
        if back is not None:
            return back.state, _revived("container " + target.name, back.state)
        if time.monotonic() >= deadline:
            return "absent", None
        time.sleep(0.25)


def _tell(target: Target, state: str) -> Dict[str, Any]:
    seen = target.seen
    decision = Decision(drift.NONE, ()) if seen is None else Decision(drift.REMOVE, ("present",))
    return {
        "action": decision.action,
        "reasons": list(decision.reasons),
        "state": state or ("absent" if seen is None else seen.state),
        "container": target.name if seen is None else seen.name,
        "container_id": "" if seen is None else seen.id,
        "image": "" if seen is None else seen.image,
        "project": "" if seen is None else seen.project,
    }


def _diff(targets: Sequence[Target]) -> List[Dict[str, str]]:
    told = []
    for target in targets:
        if target.seen is not None:
            header = "container " + target.seen.name
            before = "image: {0}\nproject: {1}\nstate: {2}\n".format(target.seen.image, target.seen.project, target.seen.state)
            told.append({"before_header": header, "after_header": header, "before": before, "after": ""})
    return told
