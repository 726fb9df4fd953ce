# SPDX-License-Identifier: GPL-3.0-or-later
"""A compose project of serves, the options of a run, and the outcome of the run for each serve."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import RESIDENT, Service, service_from_dict
from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import published_address
from ansible_collections.anvil.serving.plugins.module_utils.serves import readiness
from ansible_collections.anvil.serving.plugins.module_utils.serves.decisions import Decision
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import ObservedContainer
from ansible_collections.anvil.serving.plugins.module_utils.serves.serve_revisions import Pin, ServeHistory

LOG_LINES = 20
LOCK_SECONDS = 600.0
GRACE_SECONDS = 30
DRAIN_SECONDS = 60.0
# With one of these states, ``hold`` has an effect.
HOLDING_STATES = ("up", "restarted", "recreated")


@dataclass(frozen=True)
class ServeOptions:
    """The request of the operator: the options of anvil_serve.

    gpus: the GPUs of the inventory, as plain mappings (alias, uuid, vram_mib, reserve_mib). settle: seconds that a
    restarted or replaced serve is watched, and that a serve taken down must stay down. containers: names, for absent
    and adopted. confirm: containers that are not ours may be removed, and adopted without a way back. drain_timeout: seconds
    that an evicted serve has to end its requests. allowed: the models that may run (None: all). compatibility: ``enforce``,
    ``strict``, ``warn`` or ``off``: which findings about a model and its GPUs stop the run. engine_check: whether the
    engine of the image judges a new command line: ``auto`` (not in check mode), ``always`` or ``off``. keep_revisions: the
    definitions of serves are kept on the host. on_failure: what a failed change of any serve does, ``roll_back`` or ``keep``;
    empty: what the serve itself says. again: a definition that failed before is tried again. revision, by: for rolled_back, the
    revision asked for, and who asks. hold: if a serve would change, only check whether it may.
    """

    state: str = "up"
    keep_container: bool = False
    containers: Tuple[str, ...] = ()
    confirm: bool = False
    gpus: Tuple[Mapping[str, Any], ...] = ()
    settle: float = 2.0
    drain_timeout: float = DRAIN_SECONDS
    allowed: Optional[Tuple[Origin, ...]] = None
    compatibility: str = "enforce"
    engine_check: str = "auto"
    keep_revisions: bool = False
    on_failure: str = ""
    again: bool = False
    revision: str = ""
    by: str = ""
    hold: bool = False


@dataclass(frozen=True)
class Pinned:
    """A serve that runs a revision instead of its definition in the inventory (``wanted``). compose: the file of the revision."""

    pin: Pin
    wanted: Service
    compose: str


@dataclass(frozen=True)
class Project:
    """A compose project as the controller rendered it, with the values of its secrets.

    secrets: name in ``anvil_secrets`` -> value. only: the services to act on, by name or tag; empty means all. files: path
    below the project's folder -> text, for files that services mount. history: the revisions of each serve; None: none are
    kept. pinned: the services that are not those of the inventory.
    """

    name: str
    directory: str
    compose: str
    services: Mapping[str, Service]
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    only: Tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    history: Optional[Mapping[str, ServeHistory]] = None
    pinned: Mapping[str, Pinned] = field(default_factory=dict)

    def chosen(self) -> List[Service]:
        return [service for service in self.services.values() if not self.only or set(list_selectors(service)) & set(self.only)]

    def residency(self, service: Service) -> str:
        return str(service.anvil.get("residency") or RESIDENT)

    def secret_environment(self, service: Service) -> Dict[str, str]:
        """The variables of a service's env file, with values."""
        return {env: self.secrets[name] for env, name in (service.anvil.get("secrets") or {}).items()}


def list_selectors(service: Service) -> List[str]:
    """The words that select a service: its name and its tags, among them the tiers it serves."""
    return [service.name, *(service.anvil.get("tags") or [])]


@dataclass
class Outcome:
    """The outcome of a run for one serve. seen: its container as last read. replaces: the container that is adopted.

    resumes: a run that was killed has created the successor of that container, and it is right. notes: for the operator.
    """

    decision: Decision
    seen: Optional[ObservedContainer] = None
    state: str = ""
    ready: Optional[bool] = None
    seconds: float = 0.0
    replaces: Optional[ObservedContainer] = None
    resumes: bool = False
    problems: List[Problem] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)

    def fail(self, state: str, problem: Problem) -> None:
        """Mark the serve as not ready."""
        self.ready, self.state = False, state
        self.problems.append(problem)


def read_project(raw: Mapping[str, Any], secrets: Mapping[str, str], only: Sequence[str]) -> Project:
    """Check the project that the controller rendered. Raises AnvilError for unknown names and secrets that cannot be written."""
    services = {name: service_from_dict(service) for name, service in (raw.get("services") or {}).items()}
    words = sorted({word for service in services.values() for word in list_selectors(service)})
    problems = [
        Problem(
            what="no serve and no tag of project {1} is named {0}".format(name, raw["name"]),
            where="serves",
            hint="use one of: " + (", ".join(words) or "none"),
        )
        for name in only
        if name not in words
    ]
    for service in services.values():
        for env, name in (service.anvil.get("secrets") or {}).items():
            where = "serve {0}, variable {1}".format(service.name, env)
            if not secrets.get(name):
                problems.append(Problem(what="secret {0} has no value".format(name), where=where, hint="set it in anvil_secrets"))
            elif any(sign in secrets[name] for sign in "\n\r'\0"):
                problems.append(
                    Problem(
                        what="secret {0} cannot be written to an env file".format(name),
                        where=where,
                        why="the value contains a line break or a single quote",
                        hint="choose a value without them",
                    )
                )
    if problems:
        raise AnvilError(*problems)
    name, directory, compose = str(raw["name"]), str(raw["directory"]), str(raw["compose"])
    return Project(name, directory, compose, services, secrets, tuple(only), dict(raw.get("files") or {}))


def build_probe(project: Project, service: Service) -> Optional[readiness.ReadinessProbe]:
    """How to find out whether a serve is ready; None where it declares no readiness or publishes no port.

    A serve with the network of its host publishes none: its readiness says the address and the port.
    """
    ready = service.anvil.get("ready")
    if not ready or not (service.ports or ready.get("address")):
        return None
    if ready.get("address"):
        bind, port = str(ready["address"]), int(ready["port"])
    else:
        asked = "{0}/tcp".format(ready.get("port") or "")
        bind, port, _target = next((each for each in service.ports if each[2] == asked), service.ports[0])
    return readiness.ReadinessProbe(
        name=service.name,
        container=service.container,
        kind=str(ready["kind"]),
        address=published_address(bind, port),
        served_name=str(service.anvil.get("served_name", "")),
        timeout=float(ready["timeout"]),
        key=str(project.secrets.get(str(ready.get("key") or ""), "")),
        tls=bool(ready.get("tls", False)),
        health_path=str(ready.get("path") or "/healthz"),
        interval=float(ready.get("interval", 1.0)),
        warmup=bool(ready.get("warmup", False)),
        serves=str(ready.get("serves") or "chat"),
        has_health=service.anvil.get("engine") == "llama_cpp",
        prefix=str(ready.get("prefix") or ""),
    )
