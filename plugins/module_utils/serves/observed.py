# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs: a container and an image as the Docker Engine describes them, in the fields of a ``Service``. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import COMPOSE_PROJECT, Mount

# In these states a container holds its GPUs and ports: a paused one keeps its memory, a restarting one takes it again.
HOLDING = ("running", "paused", "restarting")


@dataclass(frozen=True)
class ObservedContainer:
    """A container, in the fields of a ``Service`` where it has them.

    state: as the Docker Engine reports it (created, running, paused, restarting, removing, exited, dead). health: empty where
    the container has no health check.
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
class ObservedImage:
    """An image: its values apply where the service does not set a field."""

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


def read_environment(lines: Optional[List[str]]) -> Dict[str, str]:
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
    """The fixed addresses; an address that the Docker Engine chose is not among them."""
    attached = (raw.get("NetworkSettings") or {}).get("Networks") or {}
    fixed = {name: ((end or {}).get("IPAMConfig") or {}).get("IPv4Address") for name, end in attached.items()}
    return {name: str(address) for name, address in fixed.items() if address}


def observe_image(raw: Mapping[str, Any]) -> ObservedImage:
    """Read the Docker Engine's description of an image."""
    config = raw.get("Config") or {}
    return ObservedImage(
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


# Limits that `docker update` can set and our compose files never set.
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
    """The limits that are set, by the name an operator knows."""
    return {word: host[key] for key, word in _LIMITS.items() if host.get(key) not in (None, 0, "", -1)}


def observe_container(raw: Mapping[str, Any]) -> ObservedContainer:
    """Read the Docker Engine's description of a container."""
    state, config, host = raw["State"], raw["Config"], raw["HostConfig"]
    requests = [
        request for request in host.get("DeviceRequests") or [] if (request.get("Driver") or "nvidia") in ("nvidia", "cdi")
    ]
    labels = config.get("Labels") or {}
    return ObservedContainer(
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
        environment=read_environment(config.get("Env")),
        gpu_uuids=tuple(uuid for request in requests for uuid in request.get("DeviceIDs") or []),
        gpu_count=sum(int(request.get("Count") or 0) for request in requests),
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
