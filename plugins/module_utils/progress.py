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
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Dict, Iterator, List, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils import drift, readiness
from ansible_collections.anvil.serving.plugins.module_utils.engine import Engine
from ansible_collections.anvil.serving.plugins.module_utils.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.serves import Project, subject_of
from ansible_collections.anvil.serving.plugins.module_utils.spec import Service

QUIET_SECONDS = 1.5
LOOK_SECONDS = 1.0
# It becomes part of a file's name.
TOKEN = re.compile(r"[0-9a-f]{32}")


@dataclass
class Story:
    """What was said of each serve so far; a line is written when a serve's word changes."""

    said: Dict[str, str] = field(default_factory=dict)
    lines: List[str] = field(default_factory=list)

    def tell(self, name: str, words: str, seconds: float) -> bool:
        if self.said.get(name) == words:
            return False
        silent = name not in self.said and words == "ready"  # it was ready all along: nothing to wait for
        self.said[name] = words
        if silent:
            return False
        self.lines.append("{0}: {1} ({2:.0f} s)".format(name, words, seconds))
        return True


def word_for(engine: Engine, project: Project, service: Service) -> str:
    """What one serve is doing right now, in an operator's words."""
    raw = engine.inspect_container(service.container)
    if raw is None or drift.observe(raw).project != project.name:
        return "creating" if engine.inspect_image(service.image) is not None else "pulling " + service.image
    seen = drift.observe(raw)
    subject = subject_of(project, service)
    if subject is None:
        return seen.state
    return readiness.look(subject, seen).state.replace("_", " ")


def _watch(docker_host: str, project: Project, services: Sequence[Service], path: str, over: threading.Event) -> None:
    began = time.monotonic()
    story = Story()
    if over.wait(QUIET_SECONDS):
        return
    with contextlib.suppress(AnvilError, OSError):  # who only watches never fails the task: the converge itself reports
        engine = Engine(docker_host)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        with os.fdopen(descriptor, "w", encoding="utf-8") as handle:
            while not over.is_set():
                for service in services:
                    if story.tell(service.name, word_for(engine, project, service), time.monotonic() - began):
                        handle.write(story.lines[-1] + "\n")
                        handle.flush()
                over.wait(LOOK_SECONDS)


@contextlib.contextmanager
def told(docker_host: str, project: Project, token: Optional[str]) -> Iterator[None]:
    """Write the progress of what happens inside to ``.progress-TOKEN`` in the project's folder; no token: do nothing."""
    if not token or not TOKEN.fullmatch(token):
        yield
        return
    path = os.path.join(project.directory, ".progress-" + token)
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(docker_host, project, project.chosen(), path, over), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join(0.2)
        with contextlib.suppress(OSError):
            os.unlink(path)
