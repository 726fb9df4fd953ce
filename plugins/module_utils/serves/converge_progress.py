# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress of a long converge: a small file that the controller reads while the module still runs.

A thread with a connection of its own to the Docker Engine reads what the converge is doing; the converge does not depend on it,
and in the first ``QUIET_SECONDS`` it reads nothing. A line holds the name of a serve, its state and the name of its image, and
never anything of an environment, a command or a log.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass, field
from typing import Dict, Iterator, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.core.live_output import TOKEN, create_output_file
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import RESIDENT, Service
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.images import Pull
from ansible_collections.anvil.serving.plugins.module_utils.serves import readiness
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import observe_container
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Project, build_probe

QUIET_SECONDS = 1.5
READ_SECONDS = 1.0
# A pull advances all the time: this is the shortest time between two lines about it.
DETAIL_SECONDS = 5.0


@dataclass
class ProgressLog:
    """The lines so far. A serve gets a new line when its state changes, or its detail after ``DETAIL_SECONDS``."""

    latest: Dict[str, Tuple[str, str]] = field(default_factory=dict)
    written: Dict[str, float] = field(default_factory=dict)
    lines: List[str] = field(default_factory=list)

    def add(self, name: str, state: str, seconds: float, detail: str = "") -> bool:
        """Add a line if there is news. seconds: since the run began. Returns whether there is a new line."""
        previous, previous_detail = self.latest.get(name, ("", ""))
        if previous == state and (previous_detail == detail or seconds - self.written[name] < DETAIL_SECONDS):
            return False
        silent = name not in self.latest and state == "ready"  # it was ready from the start
        self.latest[name], self.written[name] = (state, detail), seconds
        if silent:
            return False
        self.lines.append("{0}: {1}{2} ({3:.0f} s)".format(name, state, ", " + detail if detail else "", seconds))
        return True


def describe_bytes(count: int) -> str:
    """Bytes for people, in decimal units as docker shows them: ``812 kB``, ``4.1 MB``, ``9.8 GB``."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return "{0:.1f} {1}".format(count / size, unit)
    return "{0:.0f} kB".format(count / 1000)


def describe_pull(pull: Optional[Pull]) -> str:
    """How far a pull is; empty while the Docker Engine has reported nothing."""
    if pull is None or not pull.layers:
        return ""
    arrived = sum(pull.arrived.copy().values())
    return "{0} of {1} layers, {2}".format(len(pull.complete), len(pull.layers), describe_bytes(arrived))


def describe_serve(docker: DockerEngine, project: Project, service: Service, pulls: Mapping[str, Pull]) -> Tuple[str, str]:
    """The state of one serve now, for the operator, and a detail; an empty state: the serve may rest."""
    if service.image in pulls and docker.inspect_image(service.image) is None:
        return "pulling " + service.image, describe_pull(pulls[service.image])
    raw = docker.inspect_container(service.container)
    seen = None if raw is None else observe_container(raw)
    if seen is None or seen.project != project.name:
        if not project.only and project.residency(service) != RESIDENT:
            return "", ""
        # Nothing is created before every image is there.
        pulling = any(docker.inspect_image(image) is None for image in list(pulls))
        return "waiting for images" if pulling else "creating", ""
    probe = build_probe(project, service)
    if probe is None:
        return seen.state, ""
    return readiness.check_readiness(probe, seen).state.replace("_", " "), ""


def _watch(docker: DockerEngine, project: Project, path: str, over: threading.Event) -> None:
    began = time.monotonic()
    log = ProgressLog()
    if over.wait(QUIET_SECONDS):
        return
    with contextlib.suppress(AnvilError, OSError):  # progress must not fail the task: the converge reports errors itself
        own = DockerEngine(docker.docker_host)
        with create_output_file(path) as handle:
            while not over.is_set():
                for service in project.chosen():
                    state, detail = describe_serve(own, project, service, docker.pulls)
                    if state and log.add(service.name, state, time.monotonic() - began, detail):
                        handle.write(log.lines[-1] + "\n")
                        handle.flush()
                over.wait(READ_SECONDS)


@contextlib.contextmanager
def report_progress(docker: DockerEngine, project: Project, token: Optional[str]) -> Iterator[None]:
    """Write the progress of the block to ``.progress-TOKEN`` in the project's folder; without a token, do nothing.

    docker: the connection of the converge; it holds the progress of its pulls.
    """
    if not token or not TOKEN.fullmatch(token):
        yield
        return
    path = os.path.join(project.directory, ".progress-" + token)
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(docker, project, path, over), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join(0.2)
        with contextlib.suppress(OSError):
            os.unlink(path)
