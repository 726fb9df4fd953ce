# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is wanted beside what runs: which container differs, in which fields, and what is to be done. Pure.

``observe`` brings the engine's description of a container into the fields of a ``Service``; ``diff_service`` compares
the two; ``decide`` turns the differences and the container's state into one action with its reasons.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker.service import (
    COMPOSE_PROJECT,
    LABEL_BASE,
    LABEL_CONTENT,
    LABEL_PREFIX,
    LABEL_RESIDENCY,
    LABEL_SPEC,
    LABEL_VRAM,
    Mount,
    Service,
)

# What converge may do with a serve.
NONE, CREATE, RECREATE, START, UNPAUSE, STOP, REMOVE, RESTART, ADOPT, EVICT = (
    "none",
    "create",
    "recreate",
    "start",
    "unpause",
    "stop",
    "remove",
    "restart",
    "adopt",
    "evict",
)


SIGTERM = "SIGTERM"  # what a container gets that names no stop signal


@dataclass(frozen=True)
class Change:
    """One field that differs. ``reason`` is a word of the vocabulary in the documentation of anvil_serve."""

    reason: str
    before: Any
    after: Any


# The states in which a container holds its card and its ports: one that is paused keeps its memory, and one that restarts
# will want it again in a moment.
HOLDING = ("running", "paused", "restarting")

# The exit code of a process that SIGKILL ended. A container that is restarted with it again and again, and not for want of
# memory, is most likely at odds with its engine: one that died between a start and its note of it kills every later one.
KILLED = 137


@dataclass(frozen=True)
class Observed:
    """A container, in the fields of a ``Service`` where it has them.

    state: the engine's word (created, running, paused, restarting, removing, exited, dead). health: empty where the
    container has no health check. image_environment is what the image brings: a variable of it is no drift.
    """

    id: str
    name: str
    state: str
    health: str
    exit_code: int
    oom_killed: bool
    error: str
    created: str
    started_at: str
    pid: int
    restarts: int
    project: str
    image: str
    image_id: str
    command: Tuple[str, ...]
    entrypoint: Tuple[str, ...]
    environment: Mapping[str, str]
    gpu_uuids: Tuple[str, ...]
    gpu_count: int
    ports: Tuple[Tuple[str, int, str], ...]
    mounts: Tuple[Mount, ...]
    networks: Tuple[str, ...]
    addresses: Mapping[str, str]
    ipc: str
    shm_bytes: int
    restart: str
    user: str
    read_only: bool
    tmpfs: Tuple[str, ...]
    init: bool
    stop_signal: str
    stop_grace: Optional[int]
    working_dir: str
    healthcheck: Tuple[str, ...]
    cap_drop: Tuple[str, ...]
    cap_add: Tuple[str, ...]
    security_opt: Tuple[str, ...]
    extra_hosts: Tuple[str, ...]
    memory_bytes: int
    other_limits: Mapping[str, Any]
    labels: Mapping[str, str]


@dataclass(frozen=True)
class Image:
    """What an image decides where the service is silent."""

    id: str
    command: Tuple[str, ...] = ()
    entrypoint: Tuple[str, ...] = ()
    environment: Tuple[str, ...] = ()
    user: str = ""
    healthcheck: Tuple[str, ...] = ()
    volumes: Tuple[str, ...] = ()
    stop_signal: str = ""
    working_dir: str = ""
    labels: Tuple[Tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Decision:
    """What to do with one serve. ``action`` is one of the words above, ``changes`` tells why."""

    action: str
    reasons: Tuple[str, ...]
    changes: Tuple[Change, ...] = ()


def _environment(lines: Optional[List[str]]) -> Dict[str, str]:
    return dict(line.split("=", 1) for line in lines or [] if "=" in line)


def _ports(bindings: Optional[Mapping[str, Any]]) -> Tuple[Tuple[str, int, str], ...]:
    found = []
    for target, hosts in (bindings or {}).items():
        for host in hosts or []:
            found.append((host.get("HostIp") or "0.0.0.0", int(host.get("HostPort") or 0), target))
    return tuple(sorted(found))


def _mounts(raw: Optional[List[Mapping[str, Any]]]) -> Tuple[Mount, ...]:
    found = []
    for mount in raw or []:
        if mount.get("Type") == "tmpfs":
            continue
        kind = str(mount.get("Type"))
        source = str(mount.get("Name") if kind == "volume" else mount.get("Source"))
        found.append(Mount(kind, source, str(mount.get("Destination")), not mount.get("RW", True)))
    return tuple(sorted(found, key=lambda mount: mount.target))


def _addresses(raw: Mapping[str, Any]) -> Dict[str, str]:
    """The addresses that were asked for; one that the engine chose is none of them."""
    attached = (raw.get("NetworkSettings") or {}).get("Networks") or {}
    asked = {name: ((end or {}).get("IPAMConfig") or {}).get("IPv4Address") for name, end in attached.items()}
    return {name: str(address) for name, address in asked.items() if address}


def observe_image(raw: Mapping[str, Any]) -> Image:
    """Read the engine's description of an image."""
    config = raw.get("Config") or {}
    return Image(
        id=str(raw["Id"]),
        command=tuple(config.get("Cmd") or ()),
        entrypoint=tuple(config.get("Entrypoint") or ()),
        environment=tuple(config.get("Env") or ()),
        user=str(config.get("User") or ""),
        healthcheck=tuple((config.get("Healthcheck") or {}).get("Test") or ()),
        volumes=tuple(config.get("Volumes") or ()),
        stop_signal=str(config.get("StopSignal") or ""),
        working_dir=str(config.get("WorkingDir") or ""),
        labels=tuple((config.get("Labels") or {}).items()),
    )


# What `docker update` can set and our compose files never say.
_LIMITS = {
    "NanoCpus": "nano_cpus",
    "CpuShares": "cpu_shares",
    "CpuQuota": "cpu_quota",
    "CpuPeriod": "cpu_period",
    "CpusetCpus": "cpuset",
    "CpusetMems": "cpuset_mems",
    "BlkioWeight": "blkio_weight",
    "MemoryReservation": "memory_reservation",
    "PidsLimit": "pids",
}


def _limits(host: Mapping[str, Any]) -> Dict[str, Any]:
    """Limits that somebody set, by the name an operator knows."""
    return {word: host[key] for key, word in _LIMITS.items() if host.get(key) not in (None, 0, "", -1)}


def observe(raw: Mapping[str, Any]) -> Observed:
    """Read the engine's description of a container."""
    state, config, host = raw["State"], raw["Config"], raw["HostConfig"]
    requests = [ask for ask in host.get("DeviceRequests") or [] if (ask.get("Driver") or "nvidia") in ("nvidia", "cdi")]
    labels = config.get("Labels") or {}
    return Observed(
        id=str(raw["Id"]),
        name=str(raw["Name"]).lstrip("/"),
        state=str(state.get("Status")),
        health=str((state.get("Health") or {}).get("Status", "")),
        exit_code=int(state.get("ExitCode") or 0),
        oom_killed=bool(state.get("OOMKilled")),
        error=str(state.get("Error") or ""),
        created=str(raw.get("Created") or ""),
        started_at=str(state.get("StartedAt") or ""),
        pid=int(state.get("Pid") or 0),
        restarts=int(raw.get("RestartCount") or 0),
        project=str(labels.get(COMPOSE_PROJECT, "")),
        image=str(config.get("Image")),
        image_id=str(raw.get("Image")),
        command=tuple(config.get("Cmd") or ()),
        entrypoint=tuple(config.get("Entrypoint") or ()),
        environment=_environment(config.get("Env")),
        gpu_uuids=tuple(uuid for ask in requests for uuid in ask.get("DeviceIDs") or []),
        gpu_count=sum(int(ask.get("Count") or 0) for ask in requests),
        ports=_ports(host.get("PortBindings")),
        mounts=_mounts(raw.get("Mounts")),
        networks=tuple(sorted((raw.get("NetworkSettings") or {}).get("Networks") or {})),
        addresses=_addresses(raw),
        ipc=str(host.get("IpcMode") or ""),
        shm_bytes=int(host.get("ShmSize") or 0),
        restart=str((host.get("RestartPolicy") or {}).get("Name") or "no"),
        user=str(config.get("User") or ""),
        read_only=bool(host.get("ReadonlyRootfs")),
        tmpfs=tuple(sorted(host.get("Tmpfs") or {})),
        init=bool(host.get("Init")),
        stop_signal=str(config.get("StopSignal") or ""),
        stop_grace=config.get("StopTimeout"),
        working_dir=str(config.get("WorkingDir") or ""),
        healthcheck=tuple((config.get("Healthcheck") or {}).get("Test") or ()),
        cap_drop=tuple(sorted(host.get("CapDrop") or ())),
        cap_add=tuple(sorted([*(host.get("CapAdd") or ()), *["privileged"] * bool(host.get("Privileged"))])),
        security_opt=tuple(sorted(host.get("SecurityOpt") or ())),
        extra_hosts=tuple(sorted(entry.replace("=", ":", 1) for entry in host.get("ExtraHosts") or ())),
        memory_bytes=int(host.get("Memory") or 0),
        other_limits=_limits(host),
        labels=labels,
    )


def _environment_change(wanted: Mapping[str, str], seen: Mapping[str, str], image: Image) -> Optional[Change]:
    """Compare by value, tell by name: values may be secrets."""
    brought = _environment(list(image.environment))
    here = {name for name, value in seen.items() if name in wanted or brought.get(name) != value}
    marks = []
    for name in sorted(here | set(wanted)):
        if name not in seen:
            marks.append((name, "absent", "set"))
        elif name not in wanted:
            marks.append((name, "set", "absent"))
        elif seen[name] != wanted[name]:
            marks.append((name, "set", "changed"))
    if not marks:
        return None
    return Change(
        "environment",
        {name: before for name, before, _after in marks},
        {name: after for name, _before, after in marks},
    )


def _mount_rows(mounts: Tuple[Mount, ...], image: Image) -> List[str]:
    return [
        "{0}:{1}:{2}".format(mount.source, mount.target, "ro" if mount.read_only else "rw")
        for mount in mounts
        if not (mount.kind == "volume" and mount.target in image.volumes and len(mount.source) == 64)
    ]


def _security(options: Tuple[str, ...]) -> List[str]:
    """Without ``label=disable``: the engine adds it by itself to every container with ``ipc: host``."""
    return [option for option in options if option != "label=disable"]


def _labels(labels: Mapping[str, str]) -> Dict[str, str]:
    """Our labels that say what the container is; VRAM need and residency are bookkeeping: their change restarts nothing.

    Those of an image that we built come with it, and the image is compared by its id.
    """
    kept = (LABEL_SPEC, LABEL_VRAM, LABEL_RESIDENCY, LABEL_CONTENT, LABEL_BASE)
    return {name: value for name, value in labels.items() if name.startswith(LABEL_PREFIX) and name not in kept}


def _own_labels(labels: Mapping[str, str], wanted: Mapping[str, str], brought: Image) -> Dict[str, str]:
    """Without what a container has from its image: those that ``anvil_image`` builds are labelled too."""
    inherited = dict(brought.labels)
    return {name: value for name, value in labels.items() if name in wanted or inherited.get(name) != value}


SECRET_FLAG = re.compile(r"--?[\w-]*(key|token|secret|password)", re.IGNORECASE)


def hide_secrets(words: List[str]) -> List[str]:
    """A command line to show: one that somebody typed by hand may hold a key. What follows a flag for one is hidden."""
    shown: List[str] = []
    for number, word in enumerate(words):
        flag, given, _value = word.partition("=")
        if given and SECRET_FLAG.fullmatch(flag):
            shown.append(flag + "=<hidden>")
        elif number and SECRET_FLAG.fullmatch(words[number - 1]) and not word.startswith("-"):
            shown.append("<hidden>")
        else:
            shown.append(word)
    return shown


def _capabilities(dropped: Tuple[str, ...], added: Tuple[str, ...]) -> List[str]:
    """Newer versions of Compose write CAP_NET_RAW where older ones leave it at NET_RAW, as the inventory does."""
    return ["-" + word.removeprefix("CAP_") for word in dropped] + ["+" + word.removeprefix("CAP_") for word in added]


def _shown(reason: str, before: Any, after: Any) -> Change:
    if reason in ("command", "entrypoint"):
        return Change(reason, hide_secrets(before), hide_secrets(after))
    return Change(reason, before, after)


def diff_service(
    service: Service, secrets: Mapping[str, str], seen: Observed, brought: Image, wanted_image: Optional[Image]
) -> List[Change]:
    """Every field in which the container differs from the service.

    secrets: the variables of its env file, with values. brought: the image the container was made of. wanted_image: the
    image that the service's reference names on this host now; None where the host does not have it yet.
    """
    silent = wanted_image or brought
    entrypoint = silent.entrypoint if service.entrypoint is None else service.entrypoint
    default_command = silent.command if service.entrypoint is None else ()
    command = default_command if service.command is None else service.command
    pairs: List[Tuple[str, Any, Any]] = [
        ("image", seen.image, service.image),
        ("command", list(seen.command), list(command)),
        ("entrypoint", list(seen.entrypoint), list(entrypoint)),
        ("gpu", sorted(seen.gpu_uuids) or ["all"] * bool(seen.gpu_count), sorted(service.gpu_uuids)),
        ("ports", [list(port) for port in seen.ports], [list(port) for port in service.ports]),
        ("mounts", _mount_rows(seen.mounts, brought), _mount_rows(service.mounts, silent)),
        ("networks", list(seen.networks), list(service.networks)),
        ("addresses", dict(seen.addresses), dict(service.addresses)),
        ("stop_signal", seen.stop_signal or SIGTERM, service.stop_signal or silent.stop_signal or SIGTERM),
        ("stop_grace", seen.stop_grace, service.stop_grace),
        ("working_dir", seen.working_dir, silent.working_dir if service.working_dir is None else service.working_dir),
        ("ipc", seen.ipc.replace("shareable", "private"), service.ipc.replace("shareable", "private") or "private"),
        ("shm", seen.shm_bytes, service.shm_bytes),
        ("restart_policy", seen.restart, service.restart.split(":")[0]),
        ("user", seen.user, silent.user if service.user is None else service.user),
        ("read_only", seen.read_only, service.read_only),
        ("tmpfs", list(seen.tmpfs), [entry.split(":")[0] for entry in service.tmpfs]),
        ("init", seen.init, service.init),
        ("healthcheck", list(seen.healthcheck), list(service.healthcheck or silent.healthcheck)),
        ("capabilities", _capabilities(seen.cap_drop, seen.cap_add), _capabilities(service.cap_drop, ())),
        ("security_opt", _security(seen.security_opt), _security(service.security_opt)),
        ("extra_hosts", list(seen.extra_hosts), [entry.replace("=", ":", 1) for entry in service.extra_hosts]),
        ("limits", {"memory": seen.memory_bytes, **seen.other_limits}, {"memory": service.memory_bytes}),
        ("labels", _labels(_own_labels(seen.labels, service.labels, brought)), _labels(service.labels)),
        ("name", seen.name, service.container),
    ]
    changes = [_shown(reason, before, after) for reason, before, after in pairs if before != after]
    if wanted_image is not None and wanted_image.id != seen.image_id and seen.image == service.image:
        changes.append(Change("image", seen.image_id, wanted_image.id))
    wanted_plain = {name: value for name, value in service.environment.items() if name not in secrets}
    seen_plain = {name: value for name, value in seen.environment.items() if name not in secrets}
    plain = _environment_change(wanted_plain, seen_plain, brought)
    if plain is not None:
        changes.append(plain)
    secret = _environment_change(secrets, {name: value for name, value in seen.environment.items() if name in secrets}, brought)
    if secret is not None:
        changes.append(Change("env_file", secret.before, secret.after))
    wanted_spec, seen_spec = service.labels.get(LABEL_SPEC, ""), seen.labels.get(LABEL_SPEC, "")
    same_format = wanted_spec.partition(":")[0] == seen_spec.partition(":")[0]
    if not changes and same_format and wanted_spec != seen_spec:
        changes.append(Change("stale_container", seen_spec, wanted_spec))
    return sorted(changes, key=lambda change: change.reason)


def decide_up(changes: Optional[List[Change]], seen: Optional[Observed], project: str) -> Decision:
    """What brings a serve up. ``changes`` is None where there is no container."""
    if seen is None or changes is None:
        return Decision(CREATE, ("missing",))
    reasons = [change.reason for change in changes]
    if seen.project != project:
        reasons.append("foreign_project")
    if seen.state in ("dead", "removing"):
        reasons.append(seen.state)
    if seen.health == "unhealthy" and seen.state == "running":
        reasons.append("unhealthy")
    if seen.state == "restarting" and seen.exit_code == KILLED and not seen.oom_killed:
        reasons.append("killed")
    if reasons:
        return Decision(RECREATE, tuple(sorted(set(reasons))), tuple(changes))
    if seen.state == "paused":
        return Decision(UNPAUSE, ("paused",))
    if seen.state in ("exited", "created"):
        return Decision(START, ("stopped",))
    return Decision(NONE, ())


def decide_down(seen: Optional[Observed], keep_container: bool) -> Decision:
    """What takes a serve down: its container is removed, or only stopped."""
    if seen is None:
        return Decision(NONE, ())
    if not keep_container:
        return Decision(REMOVE, ("present",))
    if seen.state in ("exited", "created", "dead"):
        return Decision(NONE, ())
    return Decision(STOP, (seen.state,))
