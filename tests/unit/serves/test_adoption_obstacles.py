"""Obstacles to the adoption of a container, for each tool that would start it again."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.serves.adoption_obstacles import find_obstacles

COMMAND = "ansible-playbook playbooks/adopt.yml -e serves=heavy"


def container(labels: dict[str, str] | None = None, **more: Any) -> dict[str, Any]:
    return {"Id": "a" * 64, "Name": "/old", "Config": {"Labels": labels}, "State": {"Status": "running"}, **more}


@pytest.mark.parametrize(
    ("label", "value", "tool", "stop"),
    [
        ("com.docker.swarm.service.name", "llm", "Docker Swarm (service llm)", "docker service scale llm=0"),
        ("io.kubernetes.pod.name", "llm-0", "Kubernetes (pod llm-0)", "kubectl"),
        ("com.hashicorp.nomad.alloc_id", "8a2f", "Nomad (allocation 8a2f)", "nomad job stop"),
        ("com.amazonaws.ecs.task-arn", "arn:aws:ecs:x", "Amazon ECS (task arn:aws:ecs:x)", "desired count"),
        ("io.balena.service-name", "llm", "balena (service llm)", "stop the service"),
        ("PODMAN_SYSTEMD_UNIT", "llm.service", "systemd (unit llm.service)", "systemctl disable --now llm.service"),
    ],
)
def test_adoption_of_a_container_that_another_tool_restarts_needs_confirmation(
    label: str, value: str, tool: str, stop: str
) -> None:
    found = find_obstacles("heavy", "heavy-kept", container({label: value}), [], COMMAND)
    (doubt,) = found.doubts
    assert doubt.what == f"the container old belongs to {tool}" and doubt.where == "serve heavy"
    assert stop in doubt.hint and f"{COMMAND} -e confirm=true" in doubt.hint and found.refusals == []


@pytest.mark.parametrize(
    "raw", [container(), container({"com.docker.compose.project": "web"}), container({"": ""}, HostConfig=None)]
)
def test_a_container_started_by_hand_or_by_another_project_has_no_obstacles(raw: dict[str, Any]) -> None:
    found = find_obstacles("heavy", "heavy-kept", raw, [], COMMAND)
    assert (found.refusals, found.doubts, found.notes) == ([], [], [])


def test_volumes_lost_with_an_auto_remove_container_are_named() -> None:
    volume = {"Type": "volume", "Name": "b" * 64, "Destination": "/data"}
    found = find_obstacles("heavy", "heavy-kept", container(HostConfig={"AutoRemove": True}, Mounts=[volume]), [], COMMAND)
    assert "its anonymous volumes are lost with it: bbbbbbbbbbbb (/data)" in found.doubts[0].why
    kept = find_obstacles("heavy", "heavy-kept", container(Mounts=[volume]), [], COMMAND)
    assert kept.doubts == [] and "stay on the host: bbbbbbbbbbbb (/data)" in kept.notes[0]


def test_containers_that_use_its_network_are_named() -> None:
    rows = [{"Id": "c" * 64, "Names": ["/side"], "HostConfig": {"NetworkMode": "container:" + "a" * 64}}, {"Id": "d"}]
    (note,) = find_obstacles("heavy", "heavy-kept", container(), rows, COMMAND).notes
    assert "side uses the network of container old" in note
