"""What killed runs leave on the Docker Engine, and which of it a later run removes."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.side_containers import (
    LABEL_OWNER,
    describe_owner,
    is_owner_gone,
)
from ansible_collections.anvil.serving.plugins.module_utils.promotion.leftovers import sweep_leftovers
from ansible_collections.anvil.serving.plugins.module_utils.promotion.volume_lock import LABEL_LOCK


def owner_that_ended() -> str:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return describe_owner().replace(f"pid {os.getpid()}", f"pid {process.pid}")


def test_an_owner_that_lives_or_is_not_known_is_not_gone() -> None:
    here = describe_owner().rpartition(" pid ")[0]
    for owner in (describe_owner(), "another-host pid 1", "nonsense", "", f"{here} pid {10**30}", f"{here} pid -1"):
        assert not is_owner_gone(owner)


class Recorded(DockerEngine):
    """Lists these containers, and notes which are removed."""

    def __init__(self, *rows: dict[str, Any]) -> None:
        self.rows, self.removed, self.volumes = list(rows), [], {}

    def list_containers(self, labels: Any = ()) -> list[dict[str, Any]]:
        assert list(labels) == [LABEL_OWNER]
        return self.rows

    def list_unused_volumes(self, label: str) -> dict[str, dict[str, str]]:
        assert label == LABEL_OWNER
        return self.volumes

    def remove_volume(self, name: str) -> None:
        self.removed.append(name)

    def remove_container(self, name_or_id: str, volumes: bool = True) -> None:
        self.removed.append(name_or_id)


def test_only_leftovers_of_ended_processes_are_removed_and_no_lock() -> None:
    gone = owner_that_ended()
    rows = [
        {"Id": f"{state}-{name}", "State": state, "Labels": {LABEL_OWNER: owner}}
        for state in ("created", "running", "exited")
        for name, owner in (("gone", gone), ("alive", describe_owner()), ("elsewhere", "another-host pid 1"))
    ]
    lock = {"Id": "lock", "State": "exited", "Labels": {LABEL_OWNER: gone, LABEL_LOCK: "volume"}}
    docker = Recorded(*rows, lock)
    docker.volumes = {"volume-gone": {LABEL_OWNER: gone}, "volume-alive": {LABEL_OWNER: describe_owner()}}
    sweep_leftovers(docker)
    assert docker.removed == ["created-gone", "exited-gone", "volume-gone"]
