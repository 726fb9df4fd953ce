# SPDX-License-Identifier: GPL-3.0-or-later
"""Writes the files of a Docker volume, through the side container that holds the lock on it."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
from typing import Any, Dict, Iterator, Mapping, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.side_containers import SideProcess
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import (
    PRIVATE,
    PRIVATE_OWNER,
    Place,
    Snapshot,
    find_place,
)
from ansible_collections.anvil.serving.plugins.module_utils.promotion.volume_lock import acquire_lock
from ansible_collections.anvil.serving.plugins.module_utils.promotion.volume_reader import read_snapshot


class Writer:
    """Holds the lock on a volume and writes into it; a context manager that gives up the lock at its end."""

    def __init__(self, docker: DockerEngine, process: SideProcess, place: Place, notes: Sequence[str] = ()) -> None:
        self.docker = docker
        self.place = place
        self.notes = tuple(notes)
        self._process = process

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_failure: object) -> None:
        self._process.close()

    def read(self) -> Snapshot:
        return read_snapshot(self.docker, self._process.container_id, self.place)

    def now(self) -> float:
        """The clock of the Docker Engine's machine (seconds since the epoch), which container start times use too."""
        return self._request({"action": "read_clock"})

    def sweep(self) -> None:
        """Remove the unfinished files of an interrupted write."""
        self._request({"action": "sweep"})

    def put_file(self, path: str, content: bytes) -> float:
        return self._request({"action": "put_file", "path": path, "file": _describe_content(content)})

    def put_folder(self, path: str, files: Mapping[str, bytes]) -> float:
        return self._request(
            {
                "action": "put_folder",
                "path": path,
                "files": {name: _describe_content(files[name]) for name in files},
                "private": [name for name in files if name.startswith(PRIVATE)],
                "owner": PRIVATE_OWNER,
            }
        )

    def put_link(self, path: str, target: str) -> float:
        return self._request({"action": "put_link", "path": path, "target": target})

    def reserve(self, path: str, size: int, links: Mapping[str, str]) -> float:
        """Reserve room for the requests that follow: a file that makes room on a full volume, and links (path -> target)."""
        return self._request({"action": "reserve", "path": path, "size": size, "links": dict(links)})

    def remove(self, path: str) -> float:
        return self._request({"action": "remove", "path": path})

    def _request(self, request: Mapping[str, Any]) -> float:
        body = json.dumps(request).encode("utf-8")
        where = "volume {0}".format(self.place.volume)
        action = "{0} {1}".format(request["action"], request.get("path", "")).strip()
        try:
            self._process.send("{0}\n".format(len(body)).encode("ascii") + body)
            answer = json.loads(self._process.read_line(60).decode("utf-8"))
        except AnvilError as exc:
            raise fail(
                "the lock on the volume was lost during " + action,
                where=where,
                why=exc.problems[0].why,
                log=exc.problems[0].log,
            ) from exc
        if "error" in answer:
            raise fail(action + " failed", where=where, why=str(answer["error"]))
        return float(answer["now"])


def _describe_content(content: bytes) -> Dict[str, Any]:
    return {
        "content": base64.b64encode(content).decode("ascii"),
        "length": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def open_writer(docker: DockerEngine, image: str, place: Place, wait: float) -> Writer:
    """Take the lock on a volume, which is created if it is absent, and return its writer.

    image: an image id whose python3 runs the program; nothing is pulled. wait: seconds for another run that holds the lock.
    """
    if docker.inspect_volume(place.volume) is None:
        docker.create_volume(place.volume, {"anvil.serving.volume": "router-config"})
    process, notes = acquire_lock(docker, image, place, wait)
    writer = Writer(docker, process, place, notes)
    try:
        writer.now()
    except AnvilError:
        process.close()
        raise
    return writer


@contextlib.contextmanager
def block_promotions(docker: DockerEngine, containers: Sequence[str], wait: float) -> Iterator[None]:
    """Hold the lock on the volume that these containers read, so that no run promotes its files meanwhile.

    wait: seconds for a promotion under way. Containers that read no volume need no lock.
    """
    for container in containers:
        found = docker.inspect_container(container)
        place = find_place(found) if found is not None else None
        if found is not None and place is not None:
            with open_writer(docker, str(found["Image"]), place, wait):
                yield
            return
    yield


def forget_replicas(docker: DockerEngine, volume: str, staying: Sequence[str], gone: Sequence[str], wait: float) -> None:
    """Remove the pointers of replicas whose containers are gone, so that one of that name does not start on old files later.

    staying: containers of which one mounts the volume and runs the writer's image. wait: seconds for another run's lock.
    """
    for container in staying:
        found = docker.inspect_container(container)
        place = find_place(found) if found is not None else None
        if found is None or place is None or place.volume != volume:
            continue
        links = [place.link_of(name) for name in gone]
        snapshot = read_snapshot(docker, container, place)
        if any(link in snapshot.inner for link in links):
            with open_writer(docker, str(found["Image"]), place, wait) as writer:
                for link in links:
                    writer.remove(link)
        return
