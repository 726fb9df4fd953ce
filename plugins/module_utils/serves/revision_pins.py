# SPDX-License-Identifier: GPL-3.0-or-later
"""Which definition of each serve a run converges to: the one of the inventory, or the revision that a pin keeps live."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import OFF, ON_DEMAND, Service
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Outcome, Pinned, Project
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import ProjectState
from ansible_collections.anvil.serving.plugins.module_utils.serves.serve_revision_files import read_index, read_revision
from ansible_collections.anvil.serving.plugins.module_utils.serves.serve_revisions import (
    Pin,
    Revision,
    ServeHistory,
    fingerprint,
    identify,
    is_rejected,
    select_files,
    take_over,
    use_image,
)


def follow_pins(docker: DockerEngine, project: Project, again: bool) -> Tuple[Project, List[str]]:
    """The project with its histories, and with the revisions that are pinned instead of the definitions of the inventory.

    A pin holds as long as the inventory has the definition that it replaces. again: the operator tries that one again. Returns
    warnings too.
    """
    index, trouble = read_index(project.directory)
    notes = [trouble] if trouble else []
    project = replace(project, history={name: one for name, one in index.items() if name in project.services})
    for service in project.chosen():
        pin = index.get(service.name, ServeHistory()).pin
        if pin is None or again or project.residency(service) == OFF or not _holds(docker, project, service, pin):
            continue
        revision, why = read_revision(project.directory, pin.revision)
        if revision is None:
            notes.append("serve {0}: the revision that it was rolled back to is lost: {1}".format(service.name, why))
            continue
        project = pin_revision(project, service, revision, pin)
        if pin.by:
            notes.append(_describe_pin(project, service))
    return project, notes


def _holds(docker: DockerEngine, project: Project, service: Service, pin: Pin) -> bool:
    if fingerprint_wanted(project, service, pin.salt) != pin.rejected:
        return False
    image = docker.inspect_image(service.image)
    return is_rejected(pin, pin.rejected, "" if image is None else str(image["Id"]))


def fingerprint_wanted(project: Project, service: Service, salt: str) -> str:
    """As ``fingerprint``, of a service as the inventory has it."""
    texts = select_files(service, project.directory, project.files)
    return fingerprint(service, texts, project.secret_environment(service), salt)


def pin_revision(project: Project, wanted: Service, revision: Revision, pin: Pin) -> Project:
    """The project in which one serve runs a revision."""
    used = use_image(revision, pin.image)
    service = take_over(used, wanted)
    return replace(
        project,
        services={**project.services, wanted.name: service},
        files={**project.files, **revision.files},
        pinned={**project.pinned, wanted.name: Pinned(pin, wanted, used.compose)},
    )


def _describe_pin(project: Project, wanted: Service) -> str:
    pin = project.pinned[wanted.name].pin
    text = "serve {0}: revision {1} is live since {2}: {3} rolled back to it. The inventory counts again when it changes".format(
        wanted.name, pin.revision[:12], format_time(pin.at), pin.by
    )
    if project.services[wanted.name].ports != wanted.ports:
        text += "; that revision has another port than the inventory, so the router does not reach it"
    return text


def format_time(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def report_rejected(project: Project) -> List[Problem]:
    """A problem for each chosen serve whose definition in the inventory failed before, so that a pinned revision runs."""
    found = []
    for service in project.chosen():
        pinned = project.pinned.get(service.name)
        if pinned is None or pinned.pin.by or (project.residency(service) == ON_DEMAND and not project.only):
            continue
        found.append(
            Problem(
                what="the definition in the inventory failed on {0} and is not tried again; revision {1} is kept instead".format(
                    format_time(pinned.pin.at), pinned.pin.revision[:12]
                ),
                where="serve " + service.name,
                why=pinned.pin.reason,
                hint="correct the serve in the inventory, then run again; to try the same definition again: -e again=true",
            )
        )
    return found


def describe_pins(project: Project) -> List[str]:
    """A line for each serve that does not run the definition of the inventory, for the status of a host."""
    lines = []
    for service in project.chosen():
        pinned = project.pinned.get(service.name)
        if pinned is None:
            continue
        if pinned.pin.by:
            lines.append(_describe_pin(project, pinned.wanted))
            continue
        lines.append(
            "serve {0}: revision {1} is live since {2}; the definition in the inventory failed: {3}".format(
                service.name, pinned.pin.revision[:12], format_time(pinned.pin.at), pinned.pin.reason
            )
        )
    return lines


def read_image_id(state: ProjectState, service: Service) -> str:
    image = state.read_image(service.image)
    return "" if image is None else image.id


def list_unproven(state: ProjectState, services: Sequence[Service]) -> List[Service]:
    """The serves whose definition is not the last one that was ready."""
    project, found = state.project, []
    for service in services:
        history = (project.history or {}).get(service.name, ServeHistory())
        pinned = project.pinned.get(service.name)
        if pinned is not None:
            if not history.ready or history.ready[0].revision != pinned.pin.revision:
                found.append(service)
        elif not history.is_last(identify_service(project, service), read_image_id(state, service)) or history.pin is not None:
            found.append(service)
    return found


def identify_service(project: Project, service: Service) -> str:
    return identify(service, select_files(service, project.directory, project.files))


def has_way_back(project: Project, service: Service, outcome: Outcome) -> bool:
    """Whether an earlier revision was ready that this unproven definition replaces."""
    history: Optional[ServeHistory] = (project.history or {}).get(service.name)
    return bool(history and history.ready) and service.name not in project.pinned and outcome.replaces is None


def find_live(project: Project, histories: Mapping[str, ServeHistory], state: ProjectState) -> Dict[str, str]:
    """Serve -> the revision that the host converges to, where one is recorded."""
    found = {}
    for name, history in histories.items():
        service, pinned = project.services[name], project.pinned.get(name)
        if pinned is not None:
            found[name] = pinned.pin.revision
        elif history.is_last(identify_service(project, service), read_image_id(state, service)):
            found[name] = history.ready[0].revision
    return found
