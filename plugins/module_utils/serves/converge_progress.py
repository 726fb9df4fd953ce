# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Progress of a long converge, as a small file that the controller reads while the module still runs.

A thread looks from outside, with an engine connection of its own, at what the converge is doing; nothing in the converge
knows of it, and one that ends sooner than ``QUIET_SECONDS`` never sees it look. A line holds a serve's name, a word for its
state and the name of its image: nothing of an environment, a command or a log can come into it.
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
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.images import Pull
from ansible_collections.anvil.serving.plugins.module_utils.docker.service import RESIDENT, Service
from ansible_collections.anvil.serving.plugins.module_utils.serves import drift, readiness
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Project, subject_of

QUIET_SECONDS = 1.5
LOOK_SECONDS = 1.0
# How far a pull is changes with every look; a new line of it comes this seldom.
DETAIL_SECONDS = 5.0


@dataclass
class Story:
    """What was said of each serve so far; a line is written when a serve's word changes, or what is behind it has for long."""

    said: Dict[str, Tuple[str, str]] = field(default_factory=dict)
    last: Dict[str, float] = field(default_factory=dict)
    lines: List[str] = field(default_factory=list)

    def tell(self, name: str, word: str, seconds: float, detail: str = "") -> bool:
        """seconds: since the run began. Returns whether there is a new line."""
        before, behind = self.said.get(name, ("", ""))
        if before == word and (behind == detail or seconds - self.last[name] < DETAIL_SECONDS):
            return False
        silent = name not in self.said and word == "ready"  # it was ready all along: nothing to wait for
        self.said[name], self.last[name] = (word, detail), seconds
        if silent:
            return False
        self.lines.append("{0}: {1}{2} ({3:.0f} s)".format(name, word, ", " + detail if detail else "", seconds))
        return True


def describe_bytes(count: int) -> str:
    """Bytes for people, in decimal units as docker shows them: ``812 kB``, ``4.1 MB``, ``9.8 GB``."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return "{0:.1f} {1}".format(count / size, unit)
    return "{0:.0f} kB".format(count / 1000)


def describe_pull(pull: Optional[Pull]) -> str:
    """How far a pull is; empty while the engine has told nothing of it."""
    if pull is None or not pull.layers:
        return ""
    arrived = sum(pull.arrived.copy().values())
    return "{0} of {1} layers, {2}".format(len(pull.complete), len(pull.layers), describe_bytes(arrived))


def word_for(engine: DockerEngine, project: Project, service: Service, pulls: Mapping[str, Pull]) -> Tuple[str, str]:
    """What one serve is doing right now, in an operator's words, and what more is to be said; no word: it may be at rest."""
    if service.image in pulls and engine.inspect_image(service.image) is None:
        return "pulling " + service.image, describe_pull(pulls[service.image])
    raw = engine.inspect_container(service.container)
    seen = None if raw is None else drift.observe(raw)
    if seen is None or seen.project != project.name:
        if not project.only and project.residency(service) != RESIDENT:
            return "", ""
        # Nothing is created before every image is there.
        pulling = any(engine.inspect_image(image) is None for image in list(pulls))
        return "waiting for images" if pulling else "creating", ""
    subject = subject_of(project, service)
    if subject is None:
        return seen.state, ""
    return readiness.look(subject, seen).state.replace("_", " "), ""


def _watch(converging: DockerEngine, project: Project, path: str, over: threading.Event) -> None:
    began = time.monotonic()
    story = Story()
    if over.wait(QUIET_SECONDS):
        return
    with contextlib.suppress(AnvilError, OSError):  # who only watches never fails the task: the converge itself reports
        engine = DockerEngine(converging.docker_host)
        with create_output_file(path) as handle:
            while not over.is_set():
                for service in project.chosen():
                    word, detail = word_for(engine, project, service, converging.pulls)
                    if word and story.tell(service.name, word, time.monotonic() - began, detail):
                        handle.write(story.lines[-1] + "\n")
                        handle.flush()
                over.wait(LOOK_SECONDS)


@contextlib.contextmanager
def told(engine: DockerEngine, project: Project, token: Optional[str]) -> Iterator[None]:
    """Write the progress of what happens inside to ``.progress-TOKEN`` in the project's folder; no token: do nothing.

    engine: what the converge uses. Only how far its pulls are is read from it, for nobody else could tell that.
    """
    if not token or not TOKEN.fullmatch(token):
        yield
        return
    path = os.path.join(project.directory, ".progress-" + token)
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(engine, project, path, over), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join(0.2)
        with contextlib.suppress(OSError):
            os.unlink(path)
