# SPDX-License-Identifier: GPL-3.0-or-later
"""The lock on a Docker volume: a side container whose name only one run can have, and which ends with that run.

The same container runs the program that writes (``programs/write_volume.py``). So a run that has lost the lock cannot write,
and no lock outlives its run.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import List, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.program_source import read_source
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.side_containers import (
    LABEL_OWNER,
    SideProcess,
    confine,
    describe_owner,
)
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import SCRATCH, Place

LABEL_LOCK = "anvil.serving.lock"

# A lock container that was created but not started for so long is the remains of a dead run (seconds).
UNSTARTED_GRACE = 10.0
# After so long without a request the program ends and gives up the lock (seconds).
IDLE_LIMIT = 600.0


def lock_name(volume: str) -> str:
    return "anvil-promote-" + volume


def remove_hint(container: str) -> str:
    return "ansible-playbook playbooks/retire.yml -e confirm=true -e containers=" + container


@dataclass(frozen=True)
class Holder:
    """The container that holds the lock."""

    container_id: str
    status: str
    owner: str


def _find_holder(docker: DockerEngine, place: Place) -> Optional[Holder]:
    """The holder of the lock; a container with its name that is not a lock is an ``AnvilError``."""
    name = lock_name(place.volume)
    found = docker.inspect_container(name)
    if found is None:
        return None
    labels = found["Config"].get("Labels") or {}
    if labels.get(LABEL_LOCK) != place.volume:
        raise fail(
            "another container already uses the name of the lock",
            where=name,
            why="its image is {0} and it has no label {1}".format(found["Config"].get("Image"), LABEL_LOCK),
            hint="rename it, or remove it: " + remove_hint(name),
        )
    return Holder(str(found["Id"]), str(found["State"]["Status"]), str(labels.get(LABEL_OWNER, "unknown")))


def _start_lock(docker: DockerEngine, image: str, place: Place) -> Optional[SideProcess]:
    """Start the container that is the lock; ``None`` if its name is taken."""
    from ansible_collections.anvil.serving.plugins.module_utils.promotion.programs import write_volume

    try:
        return docker.open_process(
            image,
            ["-I", "-S", "-c", read_source(write_volume), place.mount, str(IDLE_LIMIT), SCRATCH],
            name=lock_name(place.volume),
            entrypoint=["python3"],
            user="0:0",
            working_dir="/",
            environment={},
            labels={LABEL_LOCK: place.volume, LABEL_OWNER: describe_owner()},
            healthcheck={"test": ["NONE"]},
            host_config=confine(
                binds=["{0}:{1}:rw".format(place.volume, place.mount)],
                # The root folder of the volume may belong to the router's user, and a private file must.
                cap_add=["DAC_OVERRIDE", "CHOWN"],
            ),
        )
    except AnvilError as exc:
        if "conflict" not in exc.as_text().lower():
            raise
        return None


def acquire_lock(docker: DockerEngine, image: str, place: Place, wait: float) -> Tuple[SideProcess, List[str]]:
    """Take the lock on an existing volume; returns its process and notes for the operator.

    image: an image id whose python3 runs the program; nothing is pulled. wait: seconds for another holder. A lock that was
    created but never started belongs to a dead run: it is taken over, and a note says so.
    """
    deadline = time.monotonic() + wait
    notes: List[str] = []
    last: Optional[Holder] = None
    unchanged_since = 0.0
    while True:
        process = _start_lock(docker, image, place)
        if process is not None:
            return process, notes
        holder = _find_holder(docker, place)
        if holder is None:
            continue
        if holder != last:
            last, unchanged_since = holder, time.monotonic()
        never_started = holder.status == "created" and time.monotonic() - unchanged_since > UNSTARTED_GRACE
        if never_started or holder.status in ("exited", "dead"):
            notes.append("took over the lock that {0} left behind ({1})".format(holder.owner, holder.status))
            docker.remove_container(holder.container_id)
        elif time.monotonic() > deadline:
            raise fail(
                "another promotion is under way",
                where="volume " + place.volume,
                why="{0} holds the lock (container {1}, {2})".format(holder.owner, lock_name(place.volume), holder.status),
                hint="wait for it, or end it with: " + remove_hint(lock_name(place.volume)),
            )
        else:
            time.sleep(0.1)
