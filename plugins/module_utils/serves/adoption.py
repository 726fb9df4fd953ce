# SPDX-License-Identifier: GPL-3.0-or-later
"""An adoption, step by step, and the way back. Each step may be the last before a kill: the note says how to go on.

    note             the name, state and restart policy of the old container are written to a file beside the project
    old container    is renamed to NAME-before-adoption, loses its restart policy and is stopped: name, ports and GPUs are free
    new container    is created by Docker Compose, waited for and watched
    if it is ready   the old container is removed (its anonymous volumes stay), then the note
    if it is not     the new container is removed; the old one gets its name, restart policy and state back, then the note goes

The next run finds the note. It finishes the adoption if the old container is still set aside, or else the way back.
"""

from __future__ import annotations

from typing import Any, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import collect_values, hide_secrets
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import OFF, Service
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves.adoption_note import (
    AdoptionNote,
    describe_original,
    read_note,
    read_notes,
    remove_note,
    write_note,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import HOLDING, ObservedContainer
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import GRACE_SECONDS, Project
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import read_container


def set_aside(docker: DockerEngine, project: Project, service: Service, old: ObservedContainer) -> None:
    """Free the name, ports and GPUs of the old container, and keep the container."""
    raw = docker.inspect_container(old.id) or {"Id": old.id, "Name": old.name, "State": {"Status": old.state}}
    note = read_note(project, service.name)
    if note is None or note.id != old.id:
        note = describe_original(service.name, service.container, raw)
        write_note(project, note)
    if str(raw["Name"]).lstrip("/") != note.kept:
        docker.rename_container(old.id, note.kept)
    if note.restart != "no":
        # With "always" the Docker Engine would start it beside the new one when it is started itself.
        docker.set_restart_policy(old.id, "no")
    if raw["State"]["Status"] in HOLDING:
        docker.stop_container(old.id, GRACE_SECONDS)


def put_back(docker: DockerEngine, project: Project, service: Service) -> Problem:
    """Remove the new container and give the old one its name, restart policy and state back; returns the problem to report."""
    where, note = "serve " + service.name, read_notes(project)[service.name]
    described, command = "container " + note.name, ""
    try:
        old = read_container(docker, note.id)
        if old is not None:
            owner = "project " + old.project if old.project else "no compose project"
            described = "container {0} of image {1} ({2})".format(note.name, old.image, owner)
            words = hide_secrets([*old.entrypoint, *old.command], collect_values(old.environment))
            command = ", command: " + (" ".join(words) or "-")
        new = read_container(docker, service.container)
        if new is not None and new.id != note.id and new.project == project.name:
            docker.remove_container(new.id)
        state = restore(docker, note)
    except AnvilError as exc:
        return Problem(
            "the adoption failed, and the old container could not be put back",
            where,
            "{0}: {1}".format(described, exc.as_text()),
            "remove the cause, then run: ansible-playbook playbooks/adopt.yml -e serves={0}: it goes on from here".format(
                service.name
            ),
        )
    remove_note(project, service.name)
    ends = {"": "is gone: stopping it removed it (--rm)", "running": "runs again"}
    return Problem(
        "the adoption failed; the old container {0}".format(ends.get(state, "is back ({0})".format(state))),
        where,
        described + command,
        "correct the serve in the inventory, then "
        + ("adopt again; the old container is unchanged" if state else "run playbooks/up.yml"),
    )


def restore(docker: DockerEngine, note: AdoptionNote) -> str:
    """Give the container of a note its name, restart policy and state back; returns its state, empty if it does not exist."""
    raw = docker.inspect_container(note.id)
    if raw is None:
        return ""
    if str(raw.get("Name") or "").lstrip("/") != note.name:
        docker.rename_container(note.id, note.name)
    if note.restart != "no":
        docker.set_restart_policy(note.id, note.restart, note.retries)
    if note.state in HOLDING and str(raw["State"]["Status"]) not in HOLDING:
        docker.start_container(note.id)
        if note.state == "paused":
            docker.pause_container(note.id)
    seen = read_container(docker, note.id)
    return "" if seen is None else seen.state


def finish(docker: DockerEngine, project: Project, service: Service, old: ObservedContainer) -> None:
    """Remove the old container after the new one is ready. Its anonymous volumes stay: they may hold data."""
    docker.remove_container(old.id, volumes=False)
    remove_note(project, service.name)


def put_back_all(docker: DockerEngine, project: Project) -> List[Problem]:
    """Put back every old container of the chosen serves whose adoption has not ended; one that is gone needs only no note."""
    notes = read_notes(project)
    problems = []
    for service in _list_chosen(project):
        note = notes.get(service.name)
        if note is not None and docker.inspect_container(note.id) is None:
            remove_note(project, service.name)
        elif note is not None:
            problems.append(put_back(docker, project, service))
    return problems


def _list_chosen(project: Project) -> List[Service]:
    """The chosen serves that run on this host: the profile and the deploy mode may leave others out."""
    return [service for service in project.chosen() if project.residency(service) != OFF]


def recover(docker: DockerEngine, project: Project, adopting: bool, check: bool) -> Tuple[List[str], bool]:
    """Clean up after runs that were killed. adopting: the operator adopts now, so the chosen serves are left to that.

    An old container that is still set aside is left too, if its serve is one of the chosen: the run finishes its adoption. One
    whose serve is not in the inventory any more is put back. Returns warnings, and whether anything is changed.
    """
    warnings: List[str] = []
    changed = False
    chosen = {service.name for service in _list_chosen(project)}
    for name, note in read_notes(project).items():
        raw = docker.inspect_container(note.id)
        aside = raw is not None and str(raw.get("Name") or "").lstrip("/") == note.kept
        if name in chosen and (adopting or aside):
            continue
        if aside and name in project.services:
            warnings.append(_describe_aside(note))
            continue
        if raw is not None and (aside or _differs(raw, note)):
            try:
                if not check:
                    restore(docker, note)
            except AnvilError as exc:
                # The other serves have nothing to do with it; the note stays, and the next run tries again.
                warnings.append(_describe_aside(note) + "; it could not be put back: " + exc.problems[0].why)
                continue
            changed = True
            warnings.append("container {0} is put back: its adoption as serve {1} was interrupted".format(note.name, name))
        if not check:
            remove_note(project, name)
    return warnings, changed


def list_set_aside(docker: DockerEngine, project: Project) -> List[str]:
    """A line for each chosen serve whose adoption was interrupted and whose old container is stopped."""
    notes = read_notes(project)
    found = [notes[service.name] for service in project.chosen() if service.name in notes]
    return [_describe_aside(note) for note in found if docker.inspect_container(note.id) is not None]


def describe_interrupted(docker: DockerEngine, project: Project) -> List[str]:
    """A line for each adoption of the project that has not ended, with the command that ends it."""
    try:
        notes = read_notes(project)
    except AnvilError as exc:
        return [exc.as_text()]
    here = {service.name for service in project.services.values() if project.residency(service) != OFF}
    return [_describe_note(note, docker.inspect_container(note.id), note.serve in here) for note in notes.values()]


def _describe_note(note: AdoptionNote, raw: Optional[Mapping[str, Any]], runs_here: bool) -> str:
    site = "ansible-playbook playbooks/site.yml"
    if raw is None:
        text = "serve {0}: its adoption was interrupted; the old container {1} is gone. To start the serve: {2}"
        return text.format(note.serve, note.name, site)
    if str(raw.get("Name") or "").lstrip("/") != note.kept:
        state = "is as it was" if not _differs(raw, note) else "is not yet in its old state ({0})".format(note.state)
        text = "serve {0}: its adoption was interrupted; the old container {1} {2}. To forget the adoption: {3}"
        again = "; to adopt again: ansible-playbook playbooks/adopt.yml -e serves={0}".format(note.serve) if runs_here else ""
        return text.format(note.serve, note.name, state, site) + again
    if runs_here:
        return _describe_aside(note)
    text = "serve {0} is not a serve of this host any more, and its adoption was interrupted; {1} is stopped and kept as {2}. "
    return (text + "To put it back: {3}").format(note.serve, note.name, note.kept, site)


def _describe_aside(note: AdoptionNote) -> str:
    return (
        "serve {0}: its adoption was interrupted; {1} is stopped and kept as {2}. To finish or undo the adoption: "
        "ansible-playbook playbooks/adopt.yml -e serves={0}".format(note.serve, note.name, note.kept)
    )


def _differs(raw: Mapping[str, Any], note: AdoptionNote) -> bool:
    policy = ((raw.get("HostConfig") or {}).get("RestartPolicy") or {}).get("Name") or "no"
    stopped = note.state in HOLDING and str((raw.get("State") or {}).get("Status")) not in HOLDING
    return bool(stopped or policy != note.restart)
