# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One reading of the engine for a project: which container is whose, and in which fields it differs."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Collection, Dict, List, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import parse_timestamp
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.service import COMPOSE_PROJECT, COMPOSE_SERVICE, Service
from ansible_collections.anvil.serving.plugins.module_utils.serves import drift
from ansible_collections.anvil.serving.plugins.module_utils.serves.drift import Change, Image, Observed
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Project

if TYPE_CHECKING:
    from ansible_collections.anvil.serving.plugins.module_utils.serves.admission import Neighbour


# A container that its engine restarts and kills, again and again, runs for two seconds of each round (measured, Docker 26.1).
LOOP_SECONDS = 4.0


class Reader:
    """One reading of the engine: the list of containers once, and the rest only as far as it is asked for."""

    def __init__(self, engine: DockerEngine, project: Project) -> None:
        self.engine = engine
        self.project = project
        self.listed = engine.list_containers()
        self._images: Dict[str, Optional[Image]] = {}

    def image(self, reference: str) -> Optional[Image]:
        if reference not in self._images:
            raw = self.engine.inspect_image(reference)
            self._images[reference] = None if raw is None else drift.observe_image(raw)
        return self._images[reference]

    def container_of(self, service: Service) -> Optional[Observed]:
        """The service's container: by our project's labels, else by its name."""
        labelled = [
            entry["Id"]
            for entry in self.listed
            if entry["Labels"].get(COMPOSE_PROJECT) == self.project.name and entry["Labels"].get(COMPOSE_SERVICE) == service.name
        ]
        named = [entry["Id"] for entry in self.listed if "/" + service.container in (entry["Names"] or [])]
        for found in labelled + named:
            seen = inspect(self.engine, found)
            if seen is not None:
                return seen
        return None

    def outlast(self, seen: Optional[Observed]) -> Optional[Observed]:
        """What becomes of a container that its engine has started again just now: in a loop it looks like one that runs."""
        deadline = time.monotonic() + LOOP_SECONDS
        while seen is not None and _was_started_again(seen) and time.monotonic() < deadline:
            time.sleep(0.1)
            seen = inspect(self.engine, seen.id)
        return seen

    def named(self, name: str) -> Optional[Observed]:
        """The container of exactly that name."""
        for entry in self.listed:
            if "/" + name in (entry["Names"] or []):
                return inspect(self.engine, str(entry["Id"]))
        return None

    def is_ours(self, seen: Optional[Observed]) -> bool:
        return seen is not None and seen.project == self.project.name

    def changes_of(self, service: Service, seen: Observed) -> List[Change]:
        brought = self.image(seen.image_id) or Image(seen.image_id)
        secrets = self.project.secret_environment(service)
        changes = drift.diff_service(service, secrets, seen, brought, self.image(service.image))
        if any(mount.kind == "bind" and os.path.isfile(mount.source) for mount in service.mounts):
            changes.extend(self._mounted_changes(service, seen))
        return changes

    def _mounted_changes(self, service: Service, seen: Observed) -> List[Change]:
        from ansible_collections.anvil.serving.plugins.module_utils.docker.mounted_files import find_changed_files

        texts = {os.path.join(self.project.directory, path): text for path, text in self.project.files.items()}
        found = find_changed_files(self.project.directory, seen.id, seen.created, service.mounts, texts)
        if not found:
            return []
        before, after = ({path: pair[side] for path, pair in found.items()} for side in (0, 1))
        return [Change("mounted_file", before, after)]

    def neighbours_of(self, services: Sequence[Service], but: Collection[str] = ()) -> List[Neighbour]:
        """Every container that is none of these services' own. but: ids of others that do not count."""
        from ansible_collections.anvil.serving.plugins.module_utils.serves.admission import Neighbour

        names = {service.name for service in services}
        leaving = {str(entry["Id"]) for entry in self.superseded(services)}
        found = []
        for entry in self.listed:
            labels = entry["Labels"] or {}
            if entry["Id"] in but or entry["Id"] in leaving:
                continue
            if labels.get(COMPOSE_PROJECT) == self.project.name and labels.get(COMPOSE_SERVICE) in names:
                continue
            ports = {
                (str(port.get("IP") or "0.0.0.0"), int(port["PublicPort"]))
                for port in entry.get("Ports") or []
                if port.get("PublicPort")
            }
            found.append(
                Neighbour(
                    name=(entry["Names"] or ["/" + entry["Id"][:12]])[0].lstrip("/"),
                    project=str(labels.get(COMPOSE_PROJECT, "")),
                    state=str(entry["State"]),
                    ports=tuple(sorted(ports)),
                )
            )
        return found

    def orphans(self) -> List[str]:
        """Containers of our project that are no service of it any more."""
        return sorted(
            entry["Names"][0].lstrip("/")
            for entry in self.listed
            if entry["Labels"].get(COMPOSE_PROJECT) == self.project.name
            and entry["Labels"].get(COMPOSE_SERVICE) not in self.project.services
            and entry["Labels"].get("com.docker.compose.oneoff") != "True"
        )

    def superseded(self, services: Sequence[Service]) -> List[Dict[str, Any]]:
        """Containers of our own project that are no service of it any more and hold a port that one of these publishes:
        the router of one container, where the edge is to stand. Nobody else could ever free that port."""
        wanted = {port for service in services for _bind, port, _target in service.ports}
        return [
            entry
            for entry in self.listed
            if (entry["Labels"] or {}).get(COMPOSE_PROJECT) == self.project.name
            and entry["Labels"].get(COMPOSE_SERVICE) not in self.project.services
            and any(port.get("PublicPort") in wanted for port in entry.get("Ports") or [])
        ]


def inspect(engine: DockerEngine, container: str) -> Optional[Observed]:
    raw = engine.inspect_container(container)
    return None if raw is None else drift.observe(raw)


def _was_started_again(seen: Observed) -> bool:
    return seen.state == "running" and seen.restarts > 0 and time.time() - (parse_timestamp(seen.started_at) or 0) < LOOP_SECONDS
