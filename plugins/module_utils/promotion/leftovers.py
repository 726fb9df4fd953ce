# SPDX-License-Identifier: GPL-3.0-or-later
"""What killed runs leave on the Docker Engine: side containers that do not run, and their anonymous volumes."""

from __future__ import annotations

from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.side_containers import LABEL_OWNER, is_owner_gone
from ansible_collections.anvil.serving.plugins.module_utils.promotion.volume_lock import LABEL_LOCK


def sweep_leftovers(docker: DockerEngine) -> None:
    """Remove the side containers and volumes of runs of this machine whose process has ended.

    A lock is left to ``volume_lock``, which takes it over with a warning.
    """
    for row in docker.list_containers([LABEL_OWNER]):
        labels = row["Labels"]
        ended = row["State"] in ("created", "exited", "dead")
        if ended and LABEL_LOCK not in labels and is_owner_gone(str(labels.get(LABEL_OWNER))):
            docker.remove_container(row["Id"])
    for name, labels in docker.list_unused_volumes(LABEL_OWNER).items():
        if is_owner_gone(str(labels.get(LABEL_OWNER))):
            docker.remove_volume(name)
