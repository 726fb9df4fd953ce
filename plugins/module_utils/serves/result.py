# SPDX-License-Identifier: GPL-3.0-or-later
"""What anvil_serve returns: action, reasons and state of each serve, and the diff that --diff shows."""

from __future__ import annotations

import os
from typing import Any, Dict, List, Mapping, Optional

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import NO_HEALTHCHECK
from ansible_collections.anvil.serving.plugins.module_utils.serves import decisions
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import ObservedContainer
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Outcome, Project, build_probe

# The return keys of a run that changed nothing besides the serves themselves.
EMPTY_REPORT: Mapping[str, Any] = {"created": [], "files": [], "commands": [], "evictions": [], "pulled": []}


def build_result(
    outcomes: Mapping[str, Outcome], project: Project, changed: bool, diff: Any, report: Mapping[str, Any]
) -> Dict[str, Any]:
    """report: the other return keys (files, created, commands, evictions, pulled, warnings)."""
    serves = {}
    for name, outcome in outcomes.items():
        service, seen = project.services[name], outcome.seen
        probe = build_probe(project, service)
        serves[name] = {
            "action": outcome.decision.action,
            "reasons": list(outcome.decision.reasons),
            "changes": {change.reason: {"before": change.before, "after": change.after} for change in outcome.decision.changes},
            "state": outcome.state or ("absent" if seen is None else seen.state),
            "health": _describe_health(seen),
            "ready": outcome.ready,
            "container": service.container,
            "container_id": "" if seen is None else seen.id,
            "image_id": "" if seen is None else seen.image_id,
            "gpu_uuids": list(service.gpu_uuids),
            "endpoint": "" if probe is None else probe.url + "/v1",
            "seconds": round(outcome.seconds, 3),
        }
    problems = [problem for outcome in outcomes.values() for problem in outcome.problems]
    return {"changed": changed, "serves": serves, "diff": diff, "problems": problems, **report}


def _describe_health(seen: Optional[ObservedContainer]) -> str:
    if seen is None:
        return ""
    return "disabled" if seen.healthcheck == NO_HEALTHCHECK else seen.health


def build_diff(project: Project, outcomes: Mapping[str, Outcome]) -> List[Dict[str, str]]:
    """The compose file where it changes, then the fields of each serve, before and after; environment by name only."""
    path = os.path.join(project.directory, "compose.yaml")
    text = files.read_file(path) or ""
    diff = []
    if text != project.compose:
        diff.append({"before_header": path, "after_header": path, "before": text, "after": project.compose})
    for name, outcome in outcomes.items():
        if outcome.decision.action == decisions.NONE:
            continue
        header = "serve {0} ({1}: {2})".format(name, outcome.decision.action, ", ".join(outcome.decision.reasons))
        before: List[str] = []
        after: List[str] = []
        for change in outcome.decision.changes:
            before.extend("{0}: {1}\n".format(change.reason, line) for line in _split_value(change.before))
            after.extend("{0}: {1}\n".format(change.reason, line) for line in _split_value(change.after))
        diff.append({"before_header": header, "after_header": header, "before": "".join(before), "after": "".join(after)})
    return diff


def _split_value(value: Any) -> List[str]:
    """One line for each part of a value, so that the diff shows only the part that changed."""
    if isinstance(value, Mapping):
        return ["{0}: {1}".format(key, value[key]) for key in sorted(value)]
    if isinstance(value, list):
        return [str(part) for part in value]
    return [str(value)]
