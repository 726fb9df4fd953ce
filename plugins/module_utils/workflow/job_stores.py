# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The jobs of a workflow that is given replicas or loses them: they move from its file to its database, or back.

One server keeps its jobs in a file on the volume PROJECT-data, several keep them in the database on PROJECT-jobs. Where the
volume of the other kind is there, its jobs are moved by the runtime's own ``move``, while no server runs; then the volume goes.
A run that is broken off begins again where it was: the volume is there as long as a job may be in it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Dict, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine, confine
from ansible_collections.anvil.serving.plugins.module_utils.docker.service import COMPOSE_PROJECT, COMPOSE_SERVICE, LABEL_PREFIX
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Project

DATABASE = "jobs"
FILE = "sqlite:////data/jobs.sqlite"
# The word by which the runtime's ``move`` names the store that its environment describes.
DESCRIBED = "jobs"
PREFIX = "WORKFLOW_"
# The servers hand over their runs within ten seconds.
GRACE = 30
# A page of 200 jobs takes tens of milliseconds; the database may have to start first.
MOVE_SECONDS = 600


@dataclass(frozen=True)
class Move:
    """A move that is due. volume: where the jobs are. spread: from the file to the database, else back.

    image, environment, binds: of a server that knows the database.
    """

    volume: str
    spread: bool
    image: str
    environment: Mapping[str, str]
    binds: Tuple[str, ...]


def find_move(engine: DockerEngine, project: Project, servers: Tuple[str, ...]) -> Optional[Move]:
    """The move that the wanted project needs; None where its jobs are where they belong. servers: those behind an edge.

    Raises AnvilError where jobs would be left behind.
    """
    if servers:
        volume = project.name + "-data"
        if engine.inspect_volume(volume) is None:
            return None
        service = project.services[servers[0]]
        binds = ["{0}:{1}:ro".format(mount.source, mount.target) for mount in service.mounts if mount.kind == "bind"]
        return Move(volume, True, service.image, _ours(service.environment), tuple(binds))
    volume = project.name + "-jobs"
    if engine.inspect_volume(volume) is None:
        return None
    found = _containers(engine, project)
    replicas = [raw for service, raw in found.items() if service.startswith("server-")]
    if not replicas or not found.get(DATABASE, {}).get("State", {}).get("Running"):
        raise fail(
            "this workflow has jobs in a database that does not run",
            where="volume " + volume,
            why="with one replica its jobs are kept in a file, and those would be left behind",
            hint="deploy it with the replicas it had, then with one; or give the jobs up: state=absent purge=true",
        )
    config = replicas[0]["Config"]
    environment = dict(line.split("=", 1) for line in config["Env"] if "=" in line)
    binds = [
        "{0}:{1}:ro".format(mount["Source"], mount["Destination"]) for mount in replicas[0]["Mounts"] if mount["Type"] == "bind"
    ]
    return Move(volume, False, str(config["Image"]), _ours(environment), tuple(binds))


def _ours(environment: Mapping[str, str]) -> Dict[str, str]:
    """What describes the store, and no secret."""
    return {name: value for name, value in environment.items() if name.startswith(PREFIX)}


def _containers(engine: DockerEngine, project: Project) -> Dict[str, Dict[str, Any]]:
    """Service -> its container, of everything in the project."""
    found = {}
    for entry in engine.list_containers([COMPOSE_PROJECT + "=" + project.name]):
        raw = engine.inspect_container(str(entry["Id"]))
        if raw is not None:
            found[str(entry["Labels"].get(COMPOSE_SERVICE))] = raw
    return found


def without_subnets(project: Project) -> Project:
    """The project as it can be compared before its network is made anew."""
    services = {
        name: replace(service, anvil={key: value for key, value in service.anvil.items() if key != "subnets"})
        for name, service in project.services.items()
    }
    return replace(project, services=services)


def make_room(engine: DockerEngine, project: Project, move: Move) -> None:
    """No server runs from here on. Towards the database all that is there goes: the network gets another subnet."""
    for service, raw in _containers(engine, project).items():
        if move.spread:
            engine.stop_container(str(raw["Id"]), GRACE)
            engine.remove_container(str(raw["Id"]))
        elif service == "edge" or service.startswith("server-"):
            # Its container stays until its jobs are moved: a run that is broken off here needs its image.
            engine.stop_container(str(raw["Id"]), GRACE)
    if move.spread:
        engine.remove_network(project.name)


def carry_over(engine: DockerEngine, project: Project, move: Move) -> int:
    """Move the jobs, whose database runs; returns how many. Raises AnvilError, and then both stores are as good as before."""
    data = project.name + "-data"
    if engine.inspect_volume(data) is None:
        engine.create_volume(data, {LABEL_PREFIX + "managed": "true"})
    ways = [FILE, DESCRIBED] if move.spread else [DESCRIBED, FILE]
    host = confine(network_mode=project.name, binds=[*move.binds, data + ":/data"], tmpfs={"/tmp": ""})
    done = engine.run_side_container(
        move.image, ["move", *ways], MOVE_SECONDS, environment=dict(move.environment), host_config=host
    )
    told = [line for line in done.output.splitlines() if line.startswith('{"moved"')]
    moved = int(json.loads(told[-1])["moved"]) if done.exit_code == 0 and told else -1
    if moved < 0:
        raise fail(
            "the jobs could not be moved",
            where="volume " + move.volume,
            why=done.output[-1000:],
            hint="nothing was lost; mend what it says and run this again",
        )
    return moved


def finish_move(engine: DockerEngine, project: Project, move: Move) -> None:
    """Nothing is in the old store any more, so it goes; with the database go its servers."""
    if not move.spread:
        for service, raw in _containers(engine, project).items():
            if service in ("edge", DATABASE) or service.startswith("server-"):
                engine.remove_container(str(raw["Id"]))
    engine.remove_volume(move.volume)
