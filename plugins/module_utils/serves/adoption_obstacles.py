# SPDX-License-Identifier: GPL-3.0-or-later
"""What speaks against the adoption of a container, known before the first step: above all whether it could be put back. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, List, Mapping, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
    COMPOSE_PROJECT,
    EXPERIMENT_PROJECT,
    LABEL_SERVE,
)

# Label -> the tool that starts a stopped container again, and how to make it stop doing so.
MANAGERS: Sequence[Tuple[str, str, str]] = (
    ("com.docker.swarm.service.name", "Docker Swarm (service {0})", "docker service scale {0}=0"),
    ("io.kubernetes.pod.name", "Kubernetes (pod {0})", "scale its deployment to 0 with kubectl"),
    ("com.hashicorp.nomad.alloc_id", "Nomad (allocation {0})", "stop its job with nomad job stop"),
    ("com.amazonaws.ecs.task-arn", "Amazon ECS (task {0})", "set the desired count of its service to 0"),
    ("io.balena.service-name", "balena (service {0})", "stop the service in balena"),
    ("PODMAN_SYSTEMD_UNIT", "systemd (unit {0})", "systemctl disable --now {0}"),
)


@dataclass
class Obstacles:
    """refusals: no adoption. doubts: none without ``confirm``. notes: for the operator, in any case."""

    refusals: List[Problem] = field(default_factory=list)
    doubts: List[Problem] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)


def find_obstacles(
    serve: str, kept: str, raw: Mapping[str, Any], listed: Sequence[Mapping[str, Any]], playbook: str
) -> Obstacles:
    """raw: the Docker Engine's description of the old container. listed: all containers. kept: its name during the adoption.

    playbook: the command that adopts it, for hints.
    """
    found = Obstacles()
    host, config = raw.get("HostConfig") or {}, raw.get("Config") or {}
    labels = config.get("Labels") or {}
    identifier, name, where = str(raw["Id"]), str(raw.get("Name") or "").lstrip("/"), "serve " + serve
    agreed = "to adopt it anyway: {0} -e confirm=true".format(playbook)
    if any(entry["Id"] != identifier and "/" + kept in (entry.get("Names") or ()) for entry in listed):
        found.refusals.append(
            Problem(
                "the container cannot be kept under the name {0}: another container has it".format(kept),
                where,
                "it is left over from an earlier adoption, and {0} was started since".format(name),
                "remove the one that is not needed:\n"
                "ansible-playbook playbooks/retire.yml -e containers={0} -e confirm=true".format(kept),
            )
        )
    if str((raw.get("State") or {}).get("Status")) == "removing":
        found.refusals.append(Problem("the container {0} is just being removed".format(name), where, hint="run again"))
    project = str(labels.get(COMPOSE_PROJECT) or "")
    if labels.get(LABEL_SERVE) and project and not project.startswith(EXPERIMENT_PROJECT):
        found.doubts.append(
            Problem(
                "the container {0} is managed by this collection already".format(name),
                where,
                "it is {0} of project {1}".format(labels[LABEL_SERVE], project),
                "name another container; " + agreed,
            )
        )
    volumes = [mount for mount in raw.get("Mounts") or () if _is_anonymous(mount)]
    named = ", ".join("{0} ({1})".format(str(mount["Name"])[:12], mount.get("Destination")) for mount in volumes)
    if host.get("AutoRemove"):
        lost = "; its anonymous volumes are lost with it: " + named if named else ""
        found.doubts.append(
            Problem(
                "the container {0} cannot be put back if the serve does not get ready".format(name),
                where,
                "it was started with --rm: stopping it removes it" + lost,
                "start it again without --rm, then adopt; " + agreed,
            )
        )
    elif volumes:
        found.notes.append("{0}: the anonymous volumes of container {1} stay on the host: {2}".format(where, name, named))
    for label, tool, stop in MANAGERS:
        value = str(labels.get(label) or "")
        if value:
            found.doubts.append(
                Problem(
                    "the container {0} belongs to {1}".format(name, tool.format(value)),
                    where,
                    "a container that is stopped is started again there, beside the serve",
                    "first stop it there ({0}); {1}".format(stop.format(value), agreed),
                )
            )
    found.notes.extend(_describe_dependents(where, identifier, name, listed))
    return found


def _is_anonymous(mount: Mapping[str, Any]) -> bool:
    name = str(mount.get("Name") or "")
    return mount.get("Type") == "volume" and len(name) == 64 and all(sign in "0123456789abcdef" for sign in name)


def _describe_dependents(where: str, identifier: str, name: str, listed: Sequence[Mapping[str, Any]]) -> List[str]:
    """Containers that use the network of the old one lose it."""
    modes = ("container:" + identifier, "container:" + name)
    found = [
        str((entry.get("Names") or [entry["Id"]])[0]).lstrip("/")
        for entry in listed
        if str((entry.get("HostConfig") or {}).get("NetworkMode")) in modes
    ]
    if not found:
        return []
    text = "{0}: {1} uses the network of container {2}, and loses it with the adoption"
    return [text.format(where, ", ".join(found), name)]
