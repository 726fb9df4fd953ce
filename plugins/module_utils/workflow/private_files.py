# SPDX-License-Identifier: GPL-3.0-or-later
"""The private files of a workflow on its host: API keys and passwords, one file each, mode 0600, owned by the server's uid."""

from __future__ import annotations

import os
import secrets
from typing import Dict, List, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Project
from ansible_collections.anvil.serving.plugins.module_utils.workflow.deployment import Deployment

FOLDER = "private"
# Servers, database and MLflow run under this uid. No other user of the host can read these files.
UID = 10001
# File -> suffix of the volume whose data was created with that password: the file is kept as long as the volume exists.
PASSWORD_OF = {
    "jobs_client_password": "-jobs",
    "jobs_password": "-jobs",
    "mlflow_client_password": "-mlflow",
    "mlflow_password": "-mlflow",
}


def private_path(project: Project, name: str) -> str:
    return os.path.join(project.directory, FOLDER, name)


def list_stale(deployment: Deployment) -> Dict[str, str]:
    """Path -> content of the private files that have to be written. A generated value that exists is kept."""
    wanted = {private_path(deployment.project, name): value for name, value in deployment.private.items()}
    for name in deployment.generated:
        path = private_path(deployment.project, name)
        wanted[path] = files.read_file(path) or secrets.token_urlsafe(24)
    return {path: value for path, value in wanted.items() if files.differs(path, value, 0o600, UID)}


def list_leftover(deployment: Deployment) -> List[str]:
    """Private files that the deployment does not use. Passwords of volumes are never among them."""
    project = deployment.project
    used = {private_path(project, name) for name in (*deployment.private, *deployment.generated, *PASSWORD_OF)}
    return [path for path in files.list_files(os.path.join(project.directory, FOLDER)) if path not in used]


def list_mounting_services(project: Project, paths: Sequence[str]) -> List[str]:
    """The services that mount any of these files."""
    return [name for name, service in project.services.items() if any(mount.source in paths for mount in service.mounts)]


def update_private_files(deployment: Deployment) -> None:
    """Write what is stale, remove what is left over."""
    for path, value in list_stale(deployment).items():
        files.write_file(path, value, 0o600, UID)
    for path in list_leftover(deployment):
        files.remove_file(path)
