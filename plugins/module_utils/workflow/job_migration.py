# SPDX-License-Identifier: GPL-3.0-or-later
"""The jobs of a workflow whose number of replicas changes between one and several move from its file to its database, or back.

One server keeps its jobs in a file on the volume PROJECT-data, several keep them in the database on PROJECT-jobs. Where the
volume of the other kind exists, the runtime's own command ``move`` moves its jobs while no server runs; then the volume is
removed. A run that was interrupted continues where it stopped: the volume exists as long as a job may be in it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Dict, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
    COMPOSE_PROJECT,
    COMPOSE_SERVICE,
    LABEL_PREFIX,
)
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.side_containers import confine
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Project

DATABASE = "jobs"
FILE = "sqlite:////data/jobs.sqlite"
# The name of the store that the environment of the container describes, in the runtime's command ``move``.
DESCRIBED = "jobs"
PREFIX = "WORKFLOW_"
# The servers release their runs within ten seconds.
GRACE = 30
# A page of 200 jobs takes tens of milliseconds; the database may have to start first.
MOVE_SECONDS = 600


@dataclass(frozen=True)
class Migration:
    """A move of jobs that is due. volume: where the jobs are. to_database: from the file to the database, else back.

    image, environment, binds, network: of a server that can reach the database.
    """

    volume: str
    to_database: bool
    image: str
    environment: Mapping[str, str]
    binds: Tuple[str, ...]
    network: str


def find_migration(docker: DockerEngine, project: Project, servers: Tuple[str, ...]) -> Optional[Migration]:
    """The migration that the project needs; None where its jobs are in the right store. servers: those behind an edge.

    Raises AnvilError where jobs would be left behind.
    """
    if servers:
        volume = project.name + "-data"
        if docker.inspect_volume(volume) is None:
            return None
        service = project.services[servers[0]]
        binds = ["{0}:{1}:ro".format(mount.source, mount.target) for mount in service.mounts if mount.kind == "bind"]
        network = project.services[DATABASE].networks[0]
        return Migration(volume, True, service.image, _pick_store_settings(service.environment), tuple(binds), network)
    volume = project.name + "-jobs"
    if docker.inspect_volume(volume) is None:
        return None
    found = _inspect_containers(docker, project)
    replicas = [raw for service, raw in found.items() if service.startswith("server-")]
    if not replicas or not found.get(DATABASE, {}).get("State", {}).get("Running"):
        raise fail(
            "this workflow has jobs in a database that does not run",
            where="volume " + volume,
            why="one replica keeps its jobs in a file; the jobs in the database would be left behind",
            hint="deploy it with the replicas that it had, then with one; or delete the jobs: state=absent purge=true",
        )
    config = replicas[0]["Config"]
    environment = dict(line.split("=", 1) for line in config["Env"] if "=" in line)
    binds = [
        "{0}:{1}:ro".format(mount["Source"], mount["Destination"]) for mount in replicas[0]["Mounts"] if mount["Type"] == "bind"
    ]
    network = next(iter(found[DATABASE]["NetworkSettings"]["Networks"]))
    return Migration(volume, False, str(config["Image"]), _pick_store_settings(environment), tuple(binds), str(network))


def _pick_store_settings(environment: Mapping[str, str]) -> Dict[str, str]:
    """The variables that describe the store; none of them is a secret."""
    return {name: value for name, value in environment.items() if name.startswith(PREFIX)}


def _inspect_containers(docker: DockerEngine, project: Project) -> Dict[str, Dict[str, Any]]:
    """Service -> its container, of everything in the project."""
    found = {}
    for entry in docker.list_containers([COMPOSE_PROJECT + "=" + project.name]):
        raw = docker.inspect_container(str(entry["Id"]))
        if raw is not None:
            found[str(entry["Labels"].get(COMPOSE_SERVICE))] = raw
    return found


def drop_subnets(project: Project) -> Project:
    """The project without its subnets, so that it can be compared before its network is created again."""
    services = {
        name: replace(service, anvil={key: value for key, value in service.anvil.items() if key != "subnets"})
        for name, service in project.services.items()
    }
    return replace(project, services=services)


def stop_servers(docker: DockerEngine, project: Project, migration: Migration) -> None:
    """Stop every server. On the way to the database all containers and the network are removed: it gets another subnet."""
    for service, raw in _inspect_containers(docker, project).items():
        if migration.to_database:
            docker.stop_container(str(raw["Id"]), GRACE)
            docker.remove_container(str(raw["Id"]))
        elif service == "edge" or service.startswith("server-"):
            # The container stays until its jobs are moved: a run that is interrupted here needs its image.
            docker.stop_container(str(raw["Id"]), GRACE)
    if migration.to_database:
        docker.remove_network(project.name)


def move_jobs(docker: DockerEngine, project: Project, migration: Migration) -> int:
    """Move the jobs while the database runs; returns how many. Raises AnvilError, and then no job is lost."""
    data = project.name + "-data"
    if docker.inspect_volume(data) is None:
        docker.create_volume(data, {LABEL_PREFIX + "managed": "true"})
    stores = [FILE, DESCRIBED] if migration.to_database else [DESCRIBED, FILE]
    host = confine(network_mode=migration.network, binds=[*migration.binds, data + ":/data"], tmpfs={"/tmp": ""})
    done = docker.run_side_container(
        migration.image, ["move", *stores], MOVE_SECONDS, environment=dict(migration.environment), host_config=host
    )
    printed = [line for line in done.output.splitlines() if line.startswith('{"moved"')]
    moved = int(json.loads(printed[-1])["moved"]) if done.exit_code == 0 and printed else -1
    if moved < 0:
        raise fail(
            "the jobs could not be moved",
            where="volume " + migration.volume,
            why=done.output[-1000:],
            hint="correct what the output above shows, then run again; no job is lost",
        )
    return moved


def remove_old_store(docker: DockerEngine, project: Project, migration: Migration) -> None:
    """Remove the old store, which is empty now; the database's servers are removed with it."""
    if not migration.to_database:
        for service, raw in _inspect_containers(docker, project).items():
            if service in ("edge", DATABASE) or service.startswith("server-"):
                docker.remove_container(str(raw["Id"]))
        docker.remove_network(project.name + "-jobs")
    docker.remove_volume(migration.volume)
