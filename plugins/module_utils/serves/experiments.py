# SPDX-License-Identifier: GPL-3.0-or-later
"""Experiments on a host: find them, with the time each expires, and retire them with their files and network.

An experiment is a compose project of its own whose containers have its name and its time to live as labels. The time to live
counts from the creation of the container, so that the same command run twice changes nothing.
"""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
    COMPOSE_PROJECT,
    EXPERIMENT_NETWORK,
    EXPERIMENT_PROJECT,
    LABEL_EXPERIMENT,
    LABEL_PREFIX,
    LABEL_TTL,
)
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine

# A name becomes part of a path on the host.
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


@dataclass(frozen=True)
class Experiment:
    """An experiment. created, expires: seconds since 1970; expires None: it stays until it is retired by name."""

    name: str
    containers: Tuple[str, ...]
    state: str
    created: int
    expires: Optional[int]
    ids: Tuple[str, ...] = ()

    def is_expired(self, now: float) -> bool:
        return self.expires is not None and now >= self.expires

    def as_dict(self) -> Dict[str, Any]:
        plain = asdict(self)
        plain.pop("ids")
        return {**plain, "containers": list(self.containers)}


def group_experiments(listed: Sequence[Mapping[str, Any]]) -> List[Experiment]:
    """The experiments among the listed containers, by name. Pure.

    A container counts only if it has our label *and* its project has our name: one that copied the label (``docker commit``,
    a pasted compose file) is not ours to remove.
    """
    members: Dict[str, List[Mapping[str, Any]]] = {}
    for entry in listed:
        labels = entry.get("Labels") or {}
        name = str(labels.get(LABEL_EXPERIMENT, ""))
        if name and labels.get(COMPOSE_PROJECT) == EXPERIMENT_PROJECT + name:
            members.setdefault(name, []).append(entry)
    found = []
    for name, entries in sorted(members.items()):
        created = max(int(entry["Created"]) for entry in entries)
        lives = {str((entry.get("Labels") or {}).get(LABEL_TTL, "")) for entry in entries}
        seconds = [int(life) for life in lives if life.isdigit() and int(life)]
        found.append(
            Experiment(
                name=name,
                containers=tuple(sorted(entry["Names"][0].lstrip("/") for entry in entries)),
                state=",".join(sorted({str(entry["State"]) for entry in entries})),
                created=created,
                expires=created + max(seconds) if seconds else None,
                ids=tuple(str(entry["Id"]) for entry in entries),
            )
        )
    return found


def find_experiments(docker: DockerEngine) -> List[Experiment]:
    return group_experiments(docker.list_containers([LABEL_EXPERIMENT]))


def _leftovers(directory: str) -> List[str]:
    """The files of an experiment on its host. Env files hold secrets and must not outlive it."""
    # Imported here: anvil_serve looks for experiments in every run.
    from ansible_collections.anvil.serving.plugins.module_utils.docker.mounted_files import RECORD
    from ansible_collections.anvil.serving.plugins.module_utils.serves.project_files import MEMORY_FILE, REPORTS_FILE

    own = [os.path.join(directory, name) for name in ("compose.yaml", RECORD, MEMORY_FILE, REPORTS_FILE, ".lock")]
    progress = [path for path in files.list_files(directory) if os.path.basename(path).startswith(".progress-")]
    return [path for path in own if os.path.lexists(path)] + progress + files.list_files(os.path.join(directory, "env"))


def _remove_files(directory: str) -> None:
    for path in _leftovers(directory):
        files.remove_file(path)
    for folder in (os.path.join(directory, "env"), directory):
        try:
            os.rmdir(folder)
        except OSError:  # it does not exist, or it contains files that are not ours
            continue


def _is_unused_network(docker: DockerEngine, leaving: Sequence[Experiment]) -> bool:
    """Whether the network of the experiments exists, is ours, and has no containers but those of the leaving experiments."""
    found = docker.inspect_network(EXPERIMENT_NETWORK)
    if found is None or LABEL_PREFIX + "managed" not in (found.get("Labels") or {}):
        return False
    ids = {container for one in leaving for container in one.ids}
    attached = [entry for entry in docker.list_containers() if EXPERIMENT_NETWORK in entry["NetworkSettings"]["Networks"]]
    return all(entry["Id"] in ids for entry in attached)


def retire_experiments(docker: DockerEngine, root: str, name: str, now: float, check: bool) -> Dict[str, Any]:
    """Remove one experiment by name, or, with an empty name, every expired one. Volumes stay.

    Returns what ``anvil_experiment`` returns. Raises AnvilError where the Docker Engine refuses.
    """
    if name and not NAME.fullmatch(name):
        raise fail("{0!r} is not a name of an experiment".format(name), hint="use 1 to 63 of a-z, 0-9, _ and -")
    there = find_experiments(docker)
    gone = [one for one in there if (one.name == name if name else one.is_expired(now))]
    names = [one.name for one in gone] or ([name] if name else [])
    folders = {one: os.path.join(root, EXPERIMENT_PROJECT + one) for one in names}
    changed = bool(gone) or any(_leftovers(folder) for folder in folders.values())
    unused = len(gone) == len(there) and _is_unused_network(docker, gone)
    if not check and (changed or unused):
        # The lock is that of a converge: an experiment that is about to start needs the network that is removed here.
        with docker.lock_host():
            for one in gone:
                for container in one.ids:
                    docker.stop_container(container)
                    docker.remove_container(container)
            for folder in folders.values():
                _remove_files(folder)
            if unused and _is_unused_network(docker, ()):
                docker.remove_network(EXPERIMENT_NETWORK)
    return {
        "changed": changed or unused,
        "retired": [one.as_dict() for one in gone],
        "experiments": [one.as_dict() for one in there if one not in gone],
    }
