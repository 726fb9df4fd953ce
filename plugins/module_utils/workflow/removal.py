# SPDX-License-Identifier: GPL-3.0-or-later
"""Remove a workflow from its host: containers, network, files, and on request its volumes. Nothing of others is removed."""

from __future__ import annotations

import os
from typing import Any, Dict, List

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import COMPOSE_PROJECT
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import GRACE_SECONDS, LOCK_SECONDS, Project
from ansible_collections.anvil.serving.plugins.module_utils.workflow.deployed_workflows import (
    LABEL_WORKFLOW,
    VOLUMES,
    list_workflows,
)
from ansible_collections.anvil.serving.plugins.module_utils.workflow.private_files import FOLDER, PASSWORD_OF, private_path

OUR_FILES = ("compose.yaml", ".lock", ".mounted.json", "edge/haproxy.cfg", "jobs/start.sh")
OUR_FOLDERS = ("env", FOLDER, "edge", "jobs", "wheels")
# All that a deployment may have, as VOLUMES: the parameters of the removal may differ from those of the deployment.
NETWORKS = ("", "-jobs", "-mlflow")


def remove_workflow(docker: DockerEngine, project: Project, purge: bool, check: bool) -> Dict[str, Any]:
    """Remove containers, network and files; volumes only with ``purge``. Returns what anvil_workflow returns."""
    ours = docker.list_containers([COMPOSE_PROJECT + "=" + project.name, LABEL_WORKFLOW])
    containers = sorted(entry["Names"][0].lstrip("/") for entry in ours)
    volumes = [project.name + suffix for suffix in VOLUMES]
    there = [name for name in volumes if docker.inspect_volume(name) is not None]
    purged = there if purge else []
    networks = [project.name + suffix for suffix in NETWORKS if docker.inspect_network(project.name + suffix) is not None]
    passwords = [
        private_path(project, name)
        for name, suffix in PASSWORD_OF.items()
        if not purge and docker.inspect_volume(project.name + suffix) is not None
    ]
    leftovers = [path for path in _list_our_files(project.directory) if path not in passwords]
    found = bool(containers or networks or leftovers or there)
    result: Dict[str, Any] = {
        "changed": bool(containers or purged or networks or leftovers),
        "removed": containers + ["network " + name for name in networks] + ["volume " + name for name in purged],
        "files": leftovers,
        "kept": [] if purge else there,
        "found": found,
        "known": [] if found else [one.name for one in list_workflows(docker)],
        "serves": {},
    }
    if check or not result["changed"]:
        return result
    with files.hold_lock(project.directory, LOCK_SECONDS):
        for entry in ours:
            docker.stop_container(str(entry["Id"]), GRACE_SECONDS)
            docker.remove_container(str(entry["Id"]))
        for name in networks:
            docker.remove_network(name)
        for name in purged:
            docker.remove_volume(name)
        for path in leftovers:
            files.remove_file(path)
    files.remove_file(os.path.join(project.directory, ".lock"))
    for folder in (*(os.path.join(project.directory, one) for one in OUR_FOLDERS), project.directory):
        try:
            os.rmdir(folder)
        except OSError:  # it does not exist, or it holds files that are not ours
            continue
    return result


def _list_our_files(directory: str) -> List[str]:
    own = [path for path in (os.path.join(directory, name) for name in OUR_FILES) if os.path.lexists(path)]
    return sorted({*own, *(path for folder in OUR_FOLDERS for path in files.list_files(os.path.join(directory, folder)))})
