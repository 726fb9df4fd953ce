# SPDX-License-Identifier: GPL-3.0-or-later
"""The note of an adoption: what the old container was before the first step, kept as a file beside the project until the end.

Labels of a container cannot be changed, and its state and name change during an adoption. So both are written down first, and a
run that is killed at any step leaves enough for the next run to finish the adoption or to put the old container back.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import Any, Dict, Mapping, Optional

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Project
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_files import NOTE_PREFIX, list_adoption_notes

KEPT_SUFFIX = "-before-adoption"


@dataclass(frozen=True)
class AdoptionNote:
    """The old container of a serve as it was. kept: its name meanwhile. restart, retries: its restart policy."""

    serve: str
    id: str
    name: str
    kept: str
    state: str
    restart: str
    retries: int = 0


def describe_original(serve: str, container: str, raw: Mapping[str, Any]) -> AdoptionNote:
    """The note of a container from the Docker Engine's description of it. container: the container name of the serve."""
    policy = (raw.get("HostConfig") or {}).get("RestartPolicy") or {}
    name, kept = str(raw.get("Name") or "").lstrip("/"), container + KEPT_SUFFIX
    # A container that already has the kept name was set aside by a run whose note is lost. It ran before, most likely.
    lost = name == kept
    return AdoptionNote(
        serve=serve,
        id=str(raw["Id"]),
        name=container if lost else name,
        kept=kept,
        state="running" if lost else str((raw.get("State") or {}).get("Status") or ""),
        restart=str(policy.get("Name") or "no"),
        retries=int(policy.get("MaximumRetryCount") or 0),
    )


def _path(project: Project, serve: str) -> str:
    return os.path.join(project.directory, "{0}{1}.json".format(NOTE_PREFIX, serve))


def read_notes(project: Project) -> Dict[str, AdoptionNote]:
    """Serve -> the note of its adoption, for every adoption of the project that has not ended."""
    found = {}
    for path in list_adoption_notes(project):
        try:
            note = AdoptionNote(**json.loads(files.read_file(path) or ""))
        except (ValueError, TypeError) as exc:
            hint = "remove that file; a container named …{0} has to get its old name back by hand".format(KEPT_SUFFIX)
            raise fail("the note of an adoption cannot be read", where=path, why=str(exc), hint=hint) from exc
        found[note.serve] = note
    return found


def read_note(project: Project, serve: str) -> Optional[AdoptionNote]:
    return read_notes(project).get(serve)


def write_note(project: Project, note: AdoptionNote) -> None:
    files.write_file(_path(project, note.serve), json.dumps(asdict(note), sort_keys=True, indent=1) + "\n", 0o600)


def remove_note(project: Project, serve: str) -> None:
    files.remove_file(_path(project, serve))
