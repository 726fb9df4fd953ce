# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of the serves of a project, their drift, squatters and revisions, as anvil_serve_info returns them."""

from __future__ import annotations

from typing import Any, Dict

from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves import readiness, revision_pins
from ansible_collections.anvil.serving.plugins.module_utils.serves.admission import admit
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Project, build_probe
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_decisions import (
    decide_left_out,
    decide_services,
    list_described,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_files import list_adoption_notes
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import ProjectState
from ansible_collections.anvil.serving.plugins.module_utils.serves.result import build_result
from ansible_collections.anvil.serving.plugins.module_utils.serves.serve_revision_files import list_rows


def describe_serves(docker: DockerEngine, project: Project) -> Dict[str, Any]:
    """What runs, what differs, and which other containers use the names and ports of the serves; nothing is changed."""
    project, lost = revision_pins.follow_pins(docker, project, again=False)
    state, services = ProjectState(docker, project), list_described(project)
    outcomes = decide_services(state, services, ask_all=True)
    outcomes.update(decide_left_out(state))
    squatters = admit(services, state.list_other_containers(services), None, {})
    for service in services:
        outcome, probe = outcomes[service.name], build_probe(project, service)
        if outcome.seen is not None and probe is not None:
            verdict = readiness.check_readiness(probe, outcome.seen)
            outcome.ready, outcome.state = verdict.outcome == readiness.READY, verdict.state
    result = build_result(outcomes, project, False, {}, {"orphans": state.list_orphans()})
    result.pop("diff")
    result["rolled_back"] = revision_pins.describe_pins(project) + [line for line in lost if "is lost" in line]
    histories = project.history or {}
    live = revision_pins.find_live(project, histories, state)
    chosen = [service.name for service in project.chosen() if service.name in histories]
    result["revisions"] = {name: list_rows(histories[name], live.get(name, "")) for name in chosen}
    result["adoptions"] = []
    if list_adoption_notes(project):
        from ansible_collections.anvil.serving.plugins.module_utils.serves.adoption import describe_interrupted

        result["adoptions"] = describe_interrupted(docker, project)
    result["squatters"] = {
        name: [problem.why for problem in problems if "taken" in problem.what] for name, problems in squatters.items()
    }
    return result
