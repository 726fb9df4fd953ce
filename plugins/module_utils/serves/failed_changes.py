# SPDX-License-Identifier: GPL-3.0-or-later
"""After the serves were started: record the definitions that are ready, and take failed changes back to the last revision.

    pin            the last ready revision, and the definition that failed, are written to the index of revisions
    old container  Docker Compose creates it from the compose file of the revision; it is waited for and verified
    report         the run fails with the reason of the change, and says what runs now

The pin is written under the host's lock, after admission accepted the way back and before a container is touched. A run that is
killed before it finds the failed serve again and decides anew; one that is killed after it is finished by the next run.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, List, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import mask_problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Outcome, Project, ServeOptions, build_probe
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import ProjectState, read_container
from ansible_collections.anvil.serving.plugins.module_utils.serves.revision_pins import (
    fingerprint_wanted,
    has_way_back,
    identify_service,
    pin_revision,
    read_image_id,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.serve_revision_files import (
    read_index,
    read_revision,
    replace_history,
    write_index,
    write_revision,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.serve_revisions import (
    ROLL_BACK,
    Pin,
    ReadyEntry,
    Revision,
    ServeHistory,
    cut_service,
    decide_on_failure,
    select_files,
)

REASON_LENGTH = 500
# Converges a project; calls the function with the names of its serves before it changes anything. Returns what anvil_serve does.
CarryOut = Callable[[Project, Callable[[Sequence[str]], None]], Dict[str, Any]]


def record_ready(state: ProjectState, unproven: Sequence[Service], outcomes: Dict[str, Outcome]) -> List[str]:
    """Record each of these serves that is ready as the last revision that was; returns warnings."""
    project = state.project
    index = dict(project.history or {})
    try:
        for service in unproven:
            if not _is_up(project, service, outcomes[service.name]):
                continue
            history, pinned = index.get(service.name, ServeHistory()), project.pinned.get(service.name)
            if pinned is not None:
                kept = [one for one in history.ready if one.revision == pinned.pin.revision]
                index[service.name] = history.with_ready(kept[0]) if kept else history
                continue
            files = select_files(service, project.directory, project.files)
            revision = Revision(service, read_image_id(state, service), cut_service(project.compose, service.name), files)
            write_revision(project.directory, revision)
            identity = identify_service(project, service)
            entry = ReadyEntry(revision.name, identity, service.image, revision.image_id, int(time.time()))
            index[service.name] = replace(history.with_ready(entry), pin=None)
        if index != project.history:
            write_index(project.directory, index)
    except AnvilError as exc:
        return ["the revisions of serves could not be recorded: " + exc.problems[0].as_text()]
    return []


def _is_up(project: Project, service: Service, outcome: Outcome) -> bool:
    if outcome.problems or outcome.seen is None:
        return False
    return outcome.ready is True or (build_probe(project, service) is None and outcome.seen.state == "running")


@dataclass(frozen=True)
class WayBack:
    """What a failed serve goes back to."""

    wanted: Service
    revision: Revision
    pin: Pin


def take_back(
    state: ProjectState,
    unproven: Sequence[Service],
    outcomes: Dict[str, Outcome],
    options: ServeOptions,
    carry_out: CarryOut,
) -> List[str]:
    """Bring the last ready revision of each failed serve back. Their outcomes say how that ended; returns warnings."""
    project, ways = state.project, {}
    for service in unproven:
        outcome = outcomes[service.name]
        if outcome.ready is not False or not has_way_back(project, service, outcome) or options.state == "adopted":
            continue
        if decide_on_failure(options.on_failure, service) != ROLL_BACK:
            outcome.notes.append("serve {0}: on_failure is keep, so it was not rolled back".format(service.name))
            continue
        try:
            ways[service.name] = _plan_way_back(state, service, outcome)
        except AnvilError as exc:
            outcome.problems.extend(exc.problems)
    if not ways:
        return []
    # All at once first: two serves that exchanged their GPUs can only go back together.
    groups = [list(ways)]
    notes: List[str] = []
    while groups:
        names = groups.pop(0)
        result, begun = _carry_back(project, {name: ways[name] for name in names}, carry_out)
        if not begun and len(names) > 1:
            groups.extend([name] for name in names)
            continue
        notes.extend(result.get("warnings") or ())
        for name in names:
            _tell(state.docker, ways[name], result, name in begun, outcomes[name])
    return notes


def _plan_way_back(state: ProjectState, service: Service, outcome: Outcome) -> WayBack:
    project = state.project
    entry = (project.history or {})[service.name].ready[0]
    where = "serve " + service.name
    revision, why = read_revision(project.directory, entry.revision)
    hint = "correct the serve in the inventory, then run again; what failed was left as it is"
    if revision is None:
        raise AnvilError(Problem("the last ready revision cannot be brought back", where, why, hint))
    names = sorted(set((revision.service.anvil.get("secrets") or {}).values()).difference(project.secrets))
    if names:
        why = "it needs secrets that anvil_secrets does not have any more: " + ", ".join(names)
        raise AnvilError(Problem("the last ready revision cannot be brought back", where, why, hint))
    reason = mask_problem(outcome.problems[0], project.secrets.values()) if outcome.problems else Problem("not ready")
    salt = secrets.token_hex(16)
    pin = Pin(
        revision=entry.revision,
        rejected=fingerprint_wanted(project, service, salt),
        rejected_image=read_image_id(state, service),
        salt=salt,
        at=int(time.time()),
        image=choose_image(state.docker, entry, where),
        reason=": ".join(word for word in (reason.what, reason.why) if word)[:REASON_LENGTH],
    )
    return WayBack(service, revision, pin)


def choose_image(docker: DockerEngine, entry: ReadyEntry, where: str) -> str:
    """How the image of a revision is named: by its reference (empty), or by its id where the reference names another one now.

    Raises AnvilError where the image is gone and its reference names another one.
    """
    named = docker.inspect_image(entry.image)
    if named is not None and str(named["Id"]) == entry.image_id:
        return ""
    if docker.inspect_image(entry.image_id) is not None:
        return entry.image_id
    if named is None:
        return ""  # it is pulled again
    raise AnvilError(
        Problem(
            "the image of revision {0} is not on this host any more".format(entry.revision[:12]),
            where,
            "{0} names another image now, and {1} was removed".format(entry.image, entry.image_id),
            "set image of the serve to one that works, with its digest",
        )
    )


def _carry_back(project: Project, ways: Dict[str, WayBack], carry_out: CarryOut) -> Tuple[Dict[str, Any], List[str]]:
    """Converge these serves to their revisions; returns the result, and the serves whose way back was begun."""
    back, begun = replace(project, only=tuple(ways), history=None), []
    for way in ways.values():
        back = pin_revision(back, way.wanted, way.revision, way.pin)

    def write_pins(names: Sequence[str]) -> None:
        index, _trouble = read_index(project.directory)
        for name in names:
            replace_history(project.directory, name, replace(index[name], pin=ways[name].pin))
            begun.append(name)

    try:
        return carry_out(back, write_pins), begun
    except AnvilError as exc:
        return {"serves": {}, "problems": list(exc.problems), "warnings": []}, begun


def _tell(docker: DockerEngine, way: WayBack, result: Dict[str, Any], begun: bool, outcome: Outcome) -> None:
    """Put into the outcome how the way back ended."""
    name, where = way.wanted.name, "serve " + way.wanted.name
    described = "revision {0} (image {1})".format(way.pin.revision[:12], way.revision.service.image)
    end = (result.get("serves") or {}).get(name) or {}
    fields = ", ".join(change.reason for change in outcome.decision.changes)
    outcome.seen = read_container(docker, way.revision.service.container) or outcome.seen
    if begun and end.get("ready") is not False and not _problems_of(result, where):
        outcome.ready, outcome.state = end.get("ready"), str(end.get("state") or "")
        outcome.problems.append(
            Problem(
                "the change failed and was rolled back; {0} runs again".format(described),
                where,
                "changed fields: " + fields if fields else "",
                "correct the serve in the inventory, then run again; until then this revision stays. "
                "To try the same definition again: -e again=true",
            )
        )
        return
    if begun:
        outcome.state = str(end.get("state") or outcome.state)
    left = "its container has that definition now, and is not ready" if begun else "the container of the failed change was left"
    outcome.problems.append(
        Problem(
            "the change failed, and {0} could not be brought back either".format(described),
            where,
            left + "; the reasons follow",
            "remove the cause, then run again: "
            + ("the same revision is tried" if begun else "the way back is tried again")
            + "; or correct the serve in the inventory",
        )
    )
    outcome.problems.extend(_problems_of(result, where))


def _problems_of(result: Dict[str, Any], where: str) -> List[Problem]:
    """The problems of one serve, and those that name no serve."""
    return [one for one in result.get("problems") or () if one.where == where or not one.where.startswith("serve ")]
