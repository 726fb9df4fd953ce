# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a project, read once from the Docker Engine: its containers, their drift, and the other containers of the host."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING, Any, Collection, Dict, List, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.addresses import list_ports, ports_overlap
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
    COMPOSE_PROJECT,
    COMPOSE_SERVICE,
    Service,
)
from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import parse_timestamp
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.serves import drift
from ansible_collections.anvil.serving.plugins.module_utils.serves.drift import Change
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import (
    ObservedContainer,
    ObservedImage,
    observe_container,
    observe_image,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Project
from ansible_collections.anvil.serving.plugins.module_utils.serves.served_weights import Record, find_exchanged, read_record

if TYPE_CHECKING:
    from ansible_collections.anvil.serving.plugins.module_utils.serves.admission import OtherContainer


# A container id, or the beginning of one.
CONTAINER_ID = re.compile(r"[0-9a-f]{12,64}")
IMAGE_ID = re.compile(r"[a-z0-9]+(:[0-9a-zA-Z]+)?")
# A container that the Docker Engine restarts and kills again and again runs for two seconds each time (measured, Docker 26.1).
LOOP_SECONDS = 4.0


class ProjectState:
    """The list of containers is read once; containers and images are inspected only when needed."""

    def __init__(self, docker: DockerEngine, project: Project) -> None:
        self.docker = docker
        self.project = project
        self.listed = docker.list_containers()
        self._images: Dict[str, Optional[ObservedImage]] = {}
        self._weights: Optional[Record] = None

    def read_image(self, reference: str) -> Optional[ObservedImage]:
        if reference not in self._images:
            raw = self.docker.inspect_image(reference)
            self._images[reference] = None if raw is None else observe_image(raw)
        return self._images[reference]

    def announce_container(self, service: Service) -> None:
        """Let the Docker Engine prepare what ``find_container`` of this service asks next."""
        for found in self._list_ids(service)[:1]:
            self.docker.announce_inspect(found)

    def _list_ids(self, service: Service) -> List[str]:
        """The ids of containers that may be the service's: by the labels of our project, then by its name."""
        labelled = [
            entry["Id"]
            for entry in self.listed
            if entry["Labels"].get(COMPOSE_SERVICE) == service.name and entry["Labels"].get(COMPOSE_PROJECT) == self.project.name
        ]
        named = "/" + service.container
        return labelled + [entry["Id"] for entry in self.listed if named in entry["Names"]]

    def find_container(self, service: Service) -> Optional[ObservedContainer]:
        """The service's container: by the labels of our project, else by its name."""
        for found in self._list_ids(service):
            seen = read_container(self.docker, found)
            if seen is not None:
                return seen
        return None

    def wait_out_restart(self, seen: Optional[ObservedContainer]) -> Optional[ObservedContainer]:
        """Wait while a container has just been restarted: in a restart loop it only seems to run. Returns it as it is then."""
        deadline = time.monotonic() + LOOP_SECONDS
        while seen is not None and _was_just_restarted(seen) and time.monotonic() < deadline:
            time.sleep(0.1)
            seen = read_container(self.docker, seen.id)
        return seen

    def find_by_name(self, name: str) -> Optional[ObservedContainer]:
        """The container with exactly this name."""
        for entry in self.listed:
            if "/" + name in entry["Names"]:
                return read_container(self.docker, str(entry["Id"]))
        return None

    def find_by_id(self, beginning: str) -> Optional[ObservedContainer]:
        """The only container whose id begins so; at least 12 digits of it, as lists of containers show them."""
        found = [
            str(entry["Id"]) for entry in self.listed if CONTAINER_ID.fullmatch(beginning) and entry["Id"].startswith(beginning)
        ]
        return read_container(self.docker, found[0]) if len(found) == 1 else None

    def is_ours(self, seen: Optional[ObservedContainer]) -> bool:
        return seen is not None and seen.project == self.project.name

    def diff_container(self, service: Service, seen: ObservedContainer) -> List[Change]:
        origin_image = self.read_image(seen.image_id) if IMAGE_ID.fullmatch(seen.image_id) else None
        secrets = self.project.secret_environment(service)
        changes = drift.diff_service(service, secrets, seen, origin_image, self.read_image(service.image))
        if any(mount.kind == "bind" and os.path.isfile(mount.source) for mount in service.mounts):
            changes.extend(self._diff_mounted_files(service, seen))
        exchanged = find_exchanged(self._read_weights(), seen)
        if exchanged:
            before, after = ({path: pair[side] for path, pair in exchanged.items()} for side in (0, 1))
            changes.append(Change("stale_weights", before, after))
        return changes

    def _read_weights(self) -> Record:
        if self._weights is None:
            self._weights = read_record(self.project.directory)
        return self._weights

    def _diff_mounted_files(self, service: Service, seen: ObservedContainer) -> List[Change]:
        from ansible_collections.anvil.serving.plugins.module_utils.docker.mounted_files import find_changed_files

        texts = {os.path.join(self.project.directory, path): text for path, text in self.project.files.items()}
        found = find_changed_files(self.project.directory, seen.id, seen.created, service.mounts, texts)
        if not found:
            return []
        before, after = ({path: pair[side] for path, pair in found.items()} for side in (0, 1))
        return [Change("mounted_file", before, after)]

    def list_other_containers(self, services: Sequence[Service], excluded: Collection[str] = ()) -> List[OtherContainer]:
        """Every container that does not belong to these services. excluded: ids of containers to leave out."""
        from ansible_collections.anvil.serving.plugins.module_utils.host.listening_ports import list_published
        from ansible_collections.anvil.serving.plugins.module_utils.serves.admission import OtherContainer

        names = {service.name for service in services}
        leaving = {str(entry["Id"]) for entry in self.list_superseded(services)}
        found = []
        for entry in self.listed:
            labels = entry["Labels"]
            if entry["Id"] in excluded or entry["Id"] in leaving:
                continue
            if labels.get(COMPOSE_PROJECT) == self.project.name and labels.get(COMPOSE_SERVICE) in names:
                continue
            found.append(
                OtherContainer(
                    name=entry["Names"][0].lstrip("/"),
                    project=labels.get(COMPOSE_PROJECT, ""),
                    state=entry["State"],
                    ports=tuple(sorted(list_published(entry))),
                )
            )
        return found

    def list_orphans(self) -> List[str]:
        """Containers of our project whose service is not in it any more."""
        return sorted(
            entry["Names"][0].lstrip("/")
            for entry in self.listed
            if entry["Labels"].get(COMPOSE_PROJECT) == self.project.name
            and entry["Labels"].get(COMPOSE_SERVICE) not in self.project.services
            and entry["Labels"].get("com.docker.compose.oneoff") != "True"
        )

    def list_superseded(self, services: Sequence[Service]) -> List[Dict[str, Any]]:
        """Orphans of our project that hold a port which one of these services publishes. They have to be removed first.

        An example is a router of one container that is replaced by replicas behind an edge.
        """
        from ansible_collections.anvil.serving.plugins.module_utils.host.listening_ports import list_published

        wanted = [port for service in services for port in list_ports(service.ports)]
        return [
            entry
            for entry in self.listed
            if entry["Labels"].get(COMPOSE_PROJECT) == self.project.name
            and entry["Labels"].get(COMPOSE_SERVICE) not in self.project.services
            and any(ports_overlap(held, port) for held in list_published(entry) for port in wanted)
        ]


def read_container(docker: DockerEngine, container: str) -> Optional[ObservedContainer]:
    """A container by id or name; None where there is none."""
    raw = docker.inspect_container(container)
    return None if raw is None else observe_container(raw)


def _was_just_restarted(seen: ObservedContainer) -> bool:
    return seen.state == "running" and seen.restarts > 0 and time.time() - (parse_timestamp(seen.started_at) or 0) < LOOP_SECONDS
