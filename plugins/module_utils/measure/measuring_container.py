# SPDX-License-Identifier: GPL-3.0-or-later
"""The side container of a measurement: it runs commands one after the other, and tells how each of them ended.

It is unprivileged and read-only, and attached only to the given networks. It gets its order, with any token in it, through its
standard input. If the run that started it is killed, that input closes, the program ends, and the Docker Engine removes it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.program_source import read_source
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.side_containers import LABEL_OWNER, confine, describe_owner

LABEL_MEASUREMENT = "anvil.serving.measurement"
USER = "10001:10001"
# Between two reports of the program (seconds): it reports every 2 s while a command runs.
SILENCE = 60.0


@dataclass(frozen=True)
class Command:
    """outputs: path to read afterwards -> at most so many characters. timeout: seconds. environment: may hold secrets."""

    name: str
    argv: Tuple[str, ...]
    timeout: int
    outputs: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    files: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CommandEnd:
    """code: None after the timeout. outputs: path -> text, of those that the command wrote. log: its last lines."""

    name: str
    code: Optional[int]
    seconds: float
    outputs: Mapping[str, str]
    log: Tuple[str, ...]


@dataclass(frozen=True)
class Surroundings:
    """image: a reference that the Docker Engine has. memory: of the container, in MiB. extra_hosts: ``NAME:ADDRESS``."""

    image: str
    networks: Tuple[str, ...]
    memory: int = 4096
    extra_hosts: Tuple[str, ...] = ()


def run_measurement(
    docker: DockerEngine,
    surroundings: Surroundings,
    commands: Sequence[Command],
    secrets: Sequence[str],
    tell: Callable[[str], None],
) -> List[CommandEnd]:
    """Run the commands in one side container. secrets: texts that must not be in any output. tell: takes progress lines."""
    from ansible_collections.anvil.serving.plugins.module_utils.measure.programs import run_commands

    missing = [name for name in surroundings.networks if docker.inspect_network(name) is None]
    if docker.inspect_image(surroundings.image) is None:
        hint = "ansible-playbook playbooks/measure.yml builds it, if load_image is not given"
        raise fail("the image is not on this host", where=surroundings.image, hint=hint)
    if missing:
        raise fail("the network does not exist", where=", ".join(missing), hint="ansible-playbook site.yml creates it")
    process = docker.open_process(
        surroundings.image,
        ["-I", "-c", read_source(run_commands)],
        name="anvil-measure-{0}".format(os.getpid()),
        entrypoint=["python3"],
        user=USER,
        working_dir="/tmp",
        environment={"HOME": "/tmp"},
        labels={LABEL_MEASUREMENT: "1", LABEL_OWNER: describe_owner()},
        healthcheck={"test": ["NONE"]},
        networks=surroundings.networks[1:],
        host_config=confine(
            network_mode=surroundings.networks[0],
            init=True,
            pids_limit=1024,
            mem_limit="{0}m".format(surroundings.memory),
            tmpfs={"/tmp": "size=1g,mode=1777"},
            extra_hosts=dict(each.partition(":")[::2] for each in surroundings.extra_hosts),
        ),
    )
    ends: List[CommandEnd] = []
    try:
        order = {"commands": [_describe(command) for command in commands], "secrets": [each for each in secrets if each]}
        process.send(json.dumps(order).encode("ascii") + b"\n")
        while True:
            said = _read_report(process.read_line(SILENCE))
            if "running" in said:
                tell("{0}: running for {1} s ({2} of {3})".format(said["running"], said["seconds"], len(ends) + 1, len(commands)))
            elif "ended" in said:
                ends.append(CommandEnd(said["ended"], said["code"], said["seconds"], said["outputs"], tuple(said["log"])))
                tell("{0}: ended after {1} s ({2} of {3})".format(said["ended"], said["seconds"], len(ends), len(commands)))
            elif "done" in said:
                return ends
    finally:
        process.close()


def _describe(command: Command) -> Dict[str, Any]:
    return {
        "name": command.name,
        "argv": list(command.argv),
        "timeout": command.timeout,
        "outputs": dict(command.outputs),
        "environment": dict(command.environment),
        "files": dict(command.files),
    }


def _read_report(line: bytes) -> Dict[str, Any]:
    try:
        said = json.loads(line.decode("utf-8"))
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise fail("the measuring container sent no report", where="side container", why=repr(line[:200]))
    return said
