# SPDX-License-Identifier: GPL-3.0-or-later
"""An operator rolls serves back to a revision that was ready. It stays until the inventory changes, as a promoted file does.

The pin is written before a container changes. If the revision does not get ready, the pin that was there before is put back, and
what ran before is started again.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import replace
from typing import Any, Callable, Dict, List, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves.failed_changes import CarryOut, choose_image
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Project, ServeOptions
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import ProjectState
from ansible_collections.anvil.serving.plugins.module_utils.serves.revision_pins import (
    find_live,
    fingerprint_wanted,
    follow_pins,
    identify_service,
    pin_revision,
    read_image_id,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.serve_revision_files import read_revision, replace_history
from ansible_collections.anvil.serving.plugins.module_utils.serves.serve_revisions import Pin, ReadyEntry, ServeHistory

LIST = "ansible-playbook playbooks/serve_history.yml lists the revisions"


def roll_back(docker: DockerEngine, project: Project, options: ServeOptions, carry_out: CarryOut, check: bool) -> Dict[str, Any]:
    """Make the revision that the options name live, for the one serve that is chosen; returns what anvil_serve returns."""
    service = _find_serve(project, options)
    before, notes = follow_pins(docker, project, again=False)
    histories = before.history or {}
    history, state = histories.get(service.name, ServeHistory()), ProjectState(docker, project)
    current = find_live(before, histories, state).get(service.name, "")
    entry = history.choose(options.revision, current)
    if entry is None:
        raise _not_found(service, history, options.revision)
    after, pin = _choose_project(docker, project, service, entry, options)
    kept = replace(history if entry.revision == current else history.without_preference(current).with_ready(entry), pin=pin)
    if entry.revision == current:
        kept, after, pin = history, before, history.pin
    result = carry_out(after, _ignore) if check else _apply(project, before, after, service, history, kept, carry_out)
    result["warnings"] = [*notes, *result["warnings"]] if entry.revision == current else result["warnings"]
    changed = result["changed"] or (kept != history and not result["problems"])
    return {**result, "changed": changed, "revision": entry.revision}


def _ignore(_names: Sequence[str]) -> None:
    """Check mode writes no pin."""


def _find_serve(project: Project, options: ServeOptions) -> Service:
    chosen = project.chosen()
    if not project.only or len(chosen) != 1:
        raise fail(
            "a roll back is for one serve, and {0} are chosen".format(len(chosen)),
            where="serves",
            hint="ansible-playbook playbooks/serve_rollback.yml -e serve=NAME -e revision={0}".format(options.revision),
        )
    return chosen[0]


def _not_found(service: Service, history: ServeHistory, asked: str) -> AnvilError:
    held = ", ".join(one.revision[:12] for one in history.ready) or "none"
    what = (
        "there is no previous revision"
        if asked == "previous"
        else "no revision, or more than one, begins with {0!r}".format(asked)
    )
    return fail(what, where="serve " + service.name, why="revisions that were ready, the last one first: " + held, hint=LIST)


def _choose_project(docker: DockerEngine, project: Project, service: Service, entry: ReadyEntry, options: ServeOptions) -> Any:
    """The project with this revision, and its pin; without one where the inventory has the same definition."""
    state = ProjectState(docker, project)
    image_id = read_image_id(state, service)
    if (entry.identity, entry.image_id) == (identify_service(project, service), image_id):
        return project, None
    where = "serve " + service.name
    revision, why = read_revision(project.directory, entry.revision)
    if revision is None:
        raise fail("revision {0} cannot be used".format(entry.revision[:12]), where=where, why=why, hint=LIST)
    lacking = sorted(set((revision.service.anvil.get("secrets") or {}).values()).difference(project.secrets))
    if lacking:
        what = "revision {0} needs secrets that anvil_secrets does not have".format(entry.revision[:12])
        raise fail(what, where=where, why=", ".join(lacking), hint="set them in anvil_secrets, or choose another revision")
    salt = secrets.token_hex(16)
    image = choose_image(docker, entry, where)
    rejected = fingerprint_wanted(project, service, salt)
    pin = Pin(entry.revision, rejected, image_id, salt, int(time.time()), image, by=options.by or "an operator")
    return pin_revision(project, service, revision, pin), pin


def _apply(
    project: Project,
    before: Project,
    after: Project,
    service: Service,
    history: ServeHistory,
    kept: ServeHistory,
    carry_out: CarryOut,
) -> Dict[str, Any]:
    def writes(pins: ServeHistory) -> Callable[[Sequence[str]], None]:
        return lambda _names: replace_history(project.directory, service.name, pins)

    problems: List[Problem] = []
    result: Dict[str, Any] = {}
    begun: List[str] = []

    def begin(names: Sequence[str]) -> None:
        begun.extend(names)
        writes(kept)(names)

    try:
        result = carry_out(after, begin)
        problems = list(result["problems"])
    except AnvilError as exc:
        if not begun:
            raise
        problems = list(exc.problems)
    if not problems or not begun or kept == history:
        return result
    back = carry_out(before, writes(history))
    problems.append(
        Problem(
            "the roll back failed; what ran before {0}".format("did not get ready either" if back["problems"] else "runs again"),
            "serve " + service.name,
            hint="choose another revision: " + LIST,
        )
    )
    return {**back, "changed": True, "problems": [*problems, *back["problems"]]}
