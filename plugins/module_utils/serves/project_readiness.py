# SPDX-License-Identifier: GPL-3.0-or-later
"""Wait until the serves of a project are ready, and report each one that is not, with the end of its log."""

from __future__ import annotations

import time
from typing import Dict, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves import decisions, readiness
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import ObservedContainer
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import LOG_LINES, Outcome, Project, build_probe
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import read_container


def await_ready(docker: DockerEngine, project: Project, services: Sequence[Service], outcomes: Dict[str, Outcome]) -> None:
    """Wait for each serve that has a readiness probe; a serve that is not ready in time gets a problem in its outcome."""
    found = [build_probe(project, service) for service in services]
    probes = [probe for probe in found if probe is not None]
    # A container that was read a moment ago and not touched since needs no second read: one request less for each serve.
    untouched = {
        service.container: outcomes[service.name].seen
        for service in services
        if outcomes[service.name].decision.action == decisions.NONE
    }

    def read(container: str) -> Optional[ObservedContainer]:
        return untouched.pop(container, None) or read_container(docker, container)

    results = readiness.wait_ready(probes, read, time.monotonic, time.sleep)
    for probe in probes:
        verdict, seconds = results[probe.name]
        outcome = outcomes[probe.name]
        outcome.ready, outcome.state, outcome.seconds = verdict.outcome == readiness.READY, verdict.state, seconds
        if not outcome.ready:
            outcome.problems.append(_describe_not_ready(docker, probe.name, probe.container, verdict))


def _describe_not_ready(docker: DockerEngine, name: str, container: str, verdict: readiness.Verdict) -> Problem:
    return Problem(
        what="not ready: " + verdict.state,
        where="serve " + name,
        why=verdict.why,
        hint=_HINTS.get(verdict.state, "read the end of its log below; the other serves keep running"),
        log=tuple(docker.read_log(container, LOG_LINES)),
    )


_HINTS = {
    "oom_killed": "give the host more memory, or let the serve use less of it (the host's memory, not the GPU's)",
    "wrong_model": "set served_name to the name that the server lists; or, if another server uses this port (ss -ltnp), stop it",
    "loading": "if the log below shows progress, raise ready_timeout of the serve",
    "missing": "type docker events --since 1h on the host to see what removed the container",
    "no_completion": "if its model is not for chat, set kind of the serve (embeddings, rerank, …); otherwise correct its args",
    "refused": "set api_key to the secret that the server was started with",
}
