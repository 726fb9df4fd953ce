# SPDX-License-Identifier: GPL-3.0-or-later
"""One service of a compose file in canonical form, to be compared field by field and hashed; labels of containers. Pure."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Mapping, Optional, Tuple

LABEL_PREFIX = "anvil.serving."
LABEL_SERVE = LABEL_PREFIX + "serve"
LABEL_SPEC = LABEL_PREFIX + "spec"
LABEL_VRAM = LABEL_PREFIX + "vram_mib"
LABEL_RESIDENCY = LABEL_PREFIX + "residency"
# Labels of an image that this collection built; its containers inherit them.
LABEL_CONTENT = LABEL_PREFIX + "content"
LABEL_BASE = LABEL_PREFIX + "base"

# The version of the hash. Hashes of different versions are not compared, so a new release of the collection recreates nothing.
SPEC_FORMAT = "2"

RESIDENT, EVICTABLE, ON_DEMAND = "resident", "evictable", "on_demand"
# A serve that is not in the profile or the deploy mode of the host: it is described and does not run.
OFF = "off"
# The name under which a container reaches its own host (through extra_hosts).
HOST_GATEWAY = "host.docker.internal"
# The network of the host itself, in the place of a network of containers.
HOST_NETWORK = "host"
# Labels of an experiment: its name, and the seconds after its creation when it may be retired.
LABEL_EXPERIMENT = LABEL_PREFIX + "experiment"
LABEL_TTL = LABEL_PREFIX + "ttl"
EXPERIMENT_PROJECT = "anvil-experiment-"
EXPERIMENT_NETWORK = "anvil-experiments"

COMPOSE_PROJECT = "com.docker.compose.project"
COMPOSE_SERVICE = "com.docker.compose.service"

# How a device of a GPU is named for CDI: this and its UUID.
CDI_PREFIX = "nvidia.com/gpu="
NVIDIA_DRIVER, CDI_DRIVER = "nvidia", "cdi"

# The health check of a service that switches off the one of its image.
NO_HEALTHCHECK = ("NONE",)


@dataclass(frozen=True)
class Mount:
    """A volume or folder in a container. ``kind`` is ``volume`` (source is its name) or ``bind`` (source is a path)."""

    kind: str
    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class Service:
    """One service of a compose file in canonical form; ``None`` means that the file leaves the value to the image or the engine.

    ports: ``(host address, host port, container port/protocol)``. gpu_uuids: the GPUs of its reservation. gpu_driver: its
    driver, ``nvidia`` or ``cdi`` (the ids in the file are then ``nvidia.com/gpu=UUID``). secret_env: variables whose values
    come from the env file; the values are not part of the service. addresses: network -> its fixed IPv4 address there.
    stop_grace: seconds between the stop signal and the kill. restart: as ``on-failure:3``. memory_bytes, pids_limit: 0 is no
    limit. log_driver: empty for the one of the engine. devices: paths on the host. memlock: it may lock any amount of memory.
    anvil: the ``x-anvil`` of the service.
    """

    name: str
    container: str
    image: str
    command: Optional[Tuple[str, ...]] = None
    entrypoint: Optional[Tuple[str, ...]] = None
    environment: Dict[str, str] = field(default_factory=dict)
    env_files: Tuple[str, ...] = ()
    gpu_uuids: Tuple[str, ...] = ()
    gpu_driver: str = NVIDIA_DRIVER
    ports: Tuple[Tuple[str, int, str], ...] = ()
    mounts: Tuple[Mount, ...] = ()
    networks: Tuple[str, ...] = ()
    addresses: Dict[str, str] = field(default_factory=dict)
    ipc: str = ""
    shm_bytes: Optional[int] = None
    restart: str = "no"
    user: Optional[str] = None
    read_only: bool = False
    tmpfs: Tuple[str, ...] = ()
    init: bool = False
    stop_signal: Optional[str] = None
    stop_grace: Optional[int] = None
    working_dir: Optional[str] = None
    healthcheck: Optional[Tuple[str, ...]] = None
    cap_drop: Tuple[str, ...] = ()
    cap_add: Tuple[str, ...] = ()
    security_opt: Tuple[str, ...] = ()
    dns: Tuple[str, ...] = ()
    extra_hosts: Tuple[str, ...] = ()
    memory_bytes: int = 0
    pids_limit: int = 0
    log_driver: str = ""
    log_options: Dict[str, str] = field(default_factory=dict)
    devices: Tuple[str, ...] = ()
    memlock: bool = False
    labels: Dict[str, str] = field(default_factory=dict)
    anvil: Dict[str, Any] = field(default_factory=dict)

    def set_fields(self) -> Dict[str, Any]:
        """The fields that differ from their defaults, as plain types."""
        defaults = asdict(Service(name="", container="", image=""))
        return {key: value for key, value in asdict(self).items() if value != defaults[key]}

    def spec_hash(self) -> str:
        """``FORMAT:sha256`` of everything that makes up the container.

        Labels, ``x-anvil`` and the path of the env file do not count. A field with its default value does not count either, so
        a field added by a later release changes no hash of a service that does not use it.
        """
        content = {key: value for key, value in self.set_fields().items() if key not in ("labels", "anvil", "env_files")}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return "{0}:{1}".format(SPEC_FORMAT, hashlib.sha256(text.encode()).hexdigest())


def service_as_dict(service: Service) -> Dict[str, Any]:
    """As JSON types, without the fields that have their default values."""
    named = {"name": service.name, "container": service.container, "image": service.image}
    plain: Dict[str, Any] = json.loads(json.dumps({**named, **service.set_fields()}))
    return plain


def service_from_dict(raw: Mapping[str, Any]) -> Service:
    """The inverse of ``service_as_dict``: lists become tuples again."""

    def as_tuple(key: str) -> Optional[Tuple[str, ...]]:
        value = raw.get(key)
        return None if value is None else tuple(value)

    plain: Dict[str, Any] = dict(raw)
    for key in ("command", "entrypoint", "healthcheck"):
        plain[key] = as_tuple(key)
    for key in (
        "env_files",
        "gpu_uuids",
        "networks",
        "tmpfs",
        "cap_drop",
        "cap_add",
        "security_opt",
        "dns",
        "extra_hosts",
        "devices",
    ):
        plain[key] = tuple(raw.get(key) or ())
    plain["ports"] = tuple((str(port[0]), int(port[1]), str(port[2])) for port in raw.get("ports") or [])
    plain["mounts"] = tuple(Mount(**mount) for mount in raw.get("mounts") or [])
    return Service(**plain)
