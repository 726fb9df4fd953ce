# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a project on its host: compose file, mounted files, and env files with secrets."""

from __future__ import annotations

import os
from typing import Dict, List, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Project
from ansible_collections.anvil.serving.plugins.module_utils.serves.serve_revision_files import compose_path

# What engines accepted as command lines, and what they reported of themselves: beside the compose file of a project.
MEMORY_FILE, REPORTS_FILE = "accepted-command-lines.json", "engine-reports.json"


def list_project_files(project: Project) -> Dict[str, Tuple[str, int]]:
    """Path -> (content, mode). Secrets are single-quoted, so that Compose expands nothing in them."""
    wanted = {os.path.join(project.directory, "compose.yaml"): (project.compose, 0o644)}
    for path, text in project.files.items():
        wanted[os.path.join(project.directory, path)] = (text, 0o644)
    for name, pinned in project.pinned.items():
        wanted[compose_path(project.directory, name)] = (pinned.compose, 0o600)
    for service in project.services.values():
        values = project.secret_environment(service)
        if values:
            text = "".join("{0}='{1}'\n".format(name, values[name]) for name in sorted(values))
            wanted[os.path.join(project.directory, service.env_files[0])] = (text, 0o600)
    return wanted


# The files in which a run that adopts a container notes what that container was (``adoption_note``).
NOTE_PREFIX = ".adoption-"


def list_adoption_notes(project: Project) -> List[str]:
    """The notes of adoptions that have not ended."""
    return [path for path in files.list_files(project.directory) if os.path.basename(path).startswith(NOTE_PREFIX)]


def list_leftover_files(project: Project) -> List[str]:
    """Env files of services that have no secrets any more: a secret must not outlive its use."""
    wanted = list_project_files(project)
    folder = os.path.join(project.directory, "env")
    return [path for path in files.list_files(folder) if path not in wanted]
