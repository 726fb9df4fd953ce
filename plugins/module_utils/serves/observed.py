# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs: a container and an image as the Docker Engine describes them, in the fields of a ``Service``. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker import documents
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
    CDI_DRIVER,
    CDI_PREFIX,
    COMPOSE_PROJECT,
    NVIDIA_DRIVER,
    Mount,
)

# In these states a container holds its GPUs and ports: a paused one keeps its memory, a restarting one takes it again.
HOLDING = ("running", "paused", "restarting")

# The drivers of device requests that give GPUs of NVIDIA; no driver: the Docker Engine chooses one. It joins ids with commas.
GPU_DRIVERS = ("", NVIDIA_DRIVER, CDI_DRIVER, "nvidia.cdi", "nvidia.runtime-hook")
# Everything that `docker update` can change besides the restart policy, by the name that an operator knows.
LIMITS = {
    "Memory": "memory",
    "MemorySwap": "memory_swap",
    "MemoryReservation": "memory_reservation",
    "KernelMemory": "kernel_memory",
    "KernelMemoryTCP": "kernel_memory_tcp",
    "NanoCpus": "nano_cpus",
    "CpuShares": "cpu_shares",
    "CpuQuota": "cpu_quota",
    "CpuPeriod": "cpu_period",
    "CpuRealtimePeriod": "cpu_realtime_period",
    "CpuRealtimeRuntime": "cpu_realtime_runtime",
    "CpusetCpus": "cpuset",
    "CpusetMems": "cpuset_mems",
    "BlkioWeight": "blkio_weight",
    "PidsLimit": "pids",
}


@dataclass(frozen=True)
class ObservedContainer:
    """A container, in the fields of a ``Service`` where it has them.

    state: as the Docker Engine reports it (created, running, paused, restarting, removing, exited, dead). health: empty where
    the container has no health check. endpoints: network -> what was set for this container there, besides a fixed IPv4 address.
    limits: those that are set, by the names of ``LIMITS``.
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
    gpu_driver: str
    gpu_count: int
    ports: Tuple[Tuple[str, int, str], ...]
    mounts: Tuple[Mount, ...]
    networks: Tuple[str, ...]
    addresses: Mapping[str, str]
    endpoints: Mapping[str, Mapping[str, Any]]
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
    dns: Tuple[str, ...]
    limits: Mapping[str, Any]
    log_driver: str
    log_options: Mapping[str, str]
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
    system: str = ""
    processor: str = ""


def read_environment(lines: Sequence[str]) -> Dict[str, str]:
    return dict(line.split("=", 1) for line in lines if "=" in line)


def list_bindings(raw: Mapping[str, Any], chosen_too: bool = True) -> Tuple[Tuple[str, int, str], ...]:
    """The published ports of a container that was read. Where a range of ports was requested, the port that the Docker Engine
    chose out of it. chosen_too: also the one that it chose where no port was named."""
    found = []
    for target, hosts in raw["HostConfig"]["PortBindings"].items():
        chosen = raw["NetworkSettings"]["Ports"].get(target, [])
        left_open = any("-" in host["HostPort"] or (chosen_too and host["HostPort"] in ("", "0")) for host in hosts)
        for host in chosen if left_open and chosen else hosts:
            found.append((host["HostIp"] or "0.0.0.0", documents.read_number(host["HostPort"]), target))
    return tuple(sorted(found))


def _mounts(raw: Mapping[str, Any]) -> Tuple[Mount, ...]:
    """Folders of the host as they were requested: Docker Desktop shows them under a path of its own virtual machine."""
    host, found = raw["HostConfig"], []
    asked = {mount["Target"]: mount["Source"] for mount in host["Mounts"] if mount["Type"] == "bind"}
    asked.update((bind.split(":")[1], bind.split(":")[0]) for bind in host["Binds"] if bind.startswith("/") and ":" in bind)
    for mount in raw["Mounts"]:
        if mount["Type"] == "tmpfs":
            continue
        source = mount["Name"] if mount["Type"] == "volume" else asked.get(mount["Destination"]) or mount["Source"]
        found.append(Mount(mount["Type"], source, mount["Destination"], not mount["RW"]))
    return tuple(sorted(found, key=lambda mount: mount.target))


def _endpoint(own: Sequence[str], end: Mapping[str, Any], chosen_mac: str) -> Dict[str, Any]:
    """What ``docker network connect`` and ``--mac-address`` can set for a container.

    own: the names that the engine itself adds as aliases. chosen_mac: the MAC address that was asked for; every other one is the
    choice of the engine (of the IP address before Docker Engine 28, at random since), and a new one with each start.
    """
    fixed = end["IPAMConfig"]
    here = {
        "aliases": sorted(set(end["Aliases"]).difference(own)),
        "links": sorted(end["Links"]),
        "ipv6": fixed["IPv6Address"],
        "link_local": sorted(fixed["LinkLocalIPs"]),
        "driver_opts": end["DriverOpts"],
        "gw_priority": end["GwPriority"],
        "mac_address": chosen_mac if end["MacAddress"] in ("", chosen_mac) else "",
    }
    return {key: value for key, value in here.items() if value}


def observe_image(document: Mapping[str, Any]) -> ObservedImage:
    """Read the Docker Engine's description of an image."""
    raw = documents.read_image(document)
    config = raw["Config"]
    return ObservedImage(
        id=raw["Id"],
        command=tuple(config["Cmd"]),
        entrypoint=tuple(config["Entrypoint"]),
        environment=tuple(config["Env"]),
        user=config["User"],
        healthcheck=tuple(config["Healthcheck"]["Test"]),
        volumes=tuple(config["Volumes"]),
        stop_signal=config["StopSignal"],
        working_dir=config["WorkingDir"],
        labels=tuple(config["Labels"].items()),
        system=raw["Os"],
        processor=raw["Architecture"],
    )


def _limits(host: Mapping[str, Any]) -> Dict[str, Any]:
    """The limits that are set. pids -1: unlimited on request."""
    found: Dict[str, Any] = {}
    for key, word in LIMITS.items():
        value = host.get(key)
        if isinstance(value, str) and not key.startswith("Cpuset"):
            value = documents.read_number(value)
        if isinstance(value, (int, str)) and value not in (0, "", -1, True):
            found[word] = value
    # The Docker Engine sets it to twice the memory, or to -1 where the kernel does not count swap; without a memory limit to 0.
    if host.get("MemorySwap") == -1 and not host["Memory"]:
        found["memory_swap"] = -1
    if found.get("memory_swap") == 2 * int(host["Memory"]):
        del found["memory_swap"]
    if host.get("PidsLimit") in (0, -1):
        found["pids"] = -1
    return found


def observe_container(document: Mapping[str, Any]) -> ObservedContainer:
    """Read the Docker Engine's description of a container."""
    raw = documents.read_container(document)
    state, config, host = raw["State"], raw["Config"], raw["HostConfig"]
    requests = [request for request in host["DeviceRequests"] if request["Driver"] in GPU_DRIVERS]
    names = [name.strip() for request in requests for ids in request["DeviceIDs"] for name in ids.split(",")]
    networks = raw["NetworkSettings"]["Networks"]
    policy, grace = host["RestartPolicy"], config.get("StopTimeout")
    return ObservedContainer(
        id=raw["Id"],
        name=raw["Name"].lstrip("/"),
        state=state["Status"],
        health=state["Health"]["Status"],
        exit_code=state["ExitCode"],
        oom_killed=state["OOMKilled"],
        error=state["Error"],
        created=raw["Created"],
        started_at=state["StartedAt"],
        pid=state["Pid"],
        restarts=raw["RestartCount"],
        project=config["Labels"].get(COMPOSE_PROJECT, ""),
        image=config["Image"],
        image_id=raw["Image"],
        command=tuple(config["Cmd"]),
        entrypoint=tuple(config["Entrypoint"]),
        environment=read_environment(config["Env"]),
        gpu_uuids=tuple(name.removeprefix(CDI_PREFIX) for name in names),
        gpu_driver=CDI_DRIVER if any(request["Driver"] == CDI_DRIVER for request in requests) else NVIDIA_DRIVER,
        gpu_count=sum(request["Count"] for request in requests),
        ports=list_bindings(raw, chosen_too=False),
        mounts=_mounts(raw),
        networks=tuple(sorted(networks)),
        # An address that the Docker Engine chose is not among them.
        addresses={name: end["IPAMConfig"]["IPv4Address"] for name, end in networks.items() if end["IPAMConfig"]["IPv4Address"]},
        endpoints={
            name: _endpoint((raw["Id"][:12], config["Hostname"]), end, config["MacAddress"]) for name, end in networks.items()
        },
        ipc=host["IpcMode"],
        shm_bytes=host["ShmSize"],
        restart=name_restart_policy(policy["Name"], policy["MaximumRetryCount"]),
        user=config["User"],
        read_only=host["ReadonlyRootfs"],
        tmpfs=tuple(sorted(host["Tmpfs"])),
        init=host["Init"],
        stop_signal=config["StopSignal"],
        stop_grace=None if grace is None else documents.read_number(grace),
        working_dir=config["WorkingDir"],
        healthcheck=tuple(config["Healthcheck"]["Test"]),
        cap_drop=tuple(sorted(host["CapDrop"])),
        cap_add=tuple(sorted([*host["CapAdd"], *["privileged"] * host["Privileged"]])),
        security_opt=tuple(sorted(host["SecurityOpt"])),
        extra_hosts=tuple(sorted(entry.replace("=", ":", 1) for entry in host["ExtraHosts"])),
        dns=tuple(host["Dns"]),
        limits=_limits(host),
        log_driver=host["LogConfig"]["Type"],
        log_options=host["LogConfig"]["Config"],
        labels=config["Labels"],
    )


def name_restart_policy(name: str, retries: int) -> str:
    """As a compose file writes it: ``no``, ``always``, ``unless-stopped``, ``on-failure`` or ``on-failure:3``."""
    return "on-failure:{0}".format(retries) if name == "on-failure" and retries else name or "no"
