# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What flows between the rooms: the plan of a host, and a compose service in canonical form.

Two families of frozen dataclasses:

* the *plan* (``HostPlan`` and its parts): what the inventory says of one host, checked and with every default decided;
* the *service* (``Service``): one service of a compose file, in a form that can be compared field by field with a
  container that the engine describes, and hashed.

Nothing here reads or writes anything.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.policy import Origin

LABEL_PREFIX = "anvil.serving."
LABEL_SERVE = LABEL_PREFIX + "serve"
LABEL_SPEC = LABEL_PREFIX + "spec"
LABEL_VRAM = LABEL_PREFIX + "vram_mib"
LABEL_RESIDENCY = LABEL_PREFIX + "residency"
# Of an image that we built; its containers inherit them.
LABEL_CONTENT = LABEL_PREFIX + "content"
LABEL_BASE = LABEL_PREFIX + "base"

# How spec_hash is taken. Hashes of different formats are not compared: a new release of the collection restarts nothing.
SPEC_FORMAT = "2"

RESIDENT, EVICTABLE, ON_DEMAND = "resident", "evictable", "on_demand"
# Not in the profile or the deploy mode of the host: it is described, and does not run.
OFF = "off"
# How a container finds its own host (Docker's name for it, by extra_hosts).
HOST_GATEWAY = "host.docker.internal"
# Of an experiment: its name, and how many seconds after its creation it may be retired.
LABEL_EXPERIMENT = LABEL_PREFIX + "experiment"
LABEL_TTL = LABEL_PREFIX + "ttl"
EXPERIMENT_PROJECT = "anvil-experiment-"
EXPERIMENT_NETWORK = "anvil-experiments"

COMPOSE_PROJECT = "com.docker.compose.project"
COMPOSE_SERVICE = "com.docker.compose.service"

DEFAULT_SHM_BYTES = 64 * 1024 * 1024


# ---------------------------------------------------------------------------------------------------------------- plan


@dataclass(frozen=True)
class Gpu:
    """A card of the inventory. ``vram_mib`` is its total memory, ``reserve_mib`` what no serve may claim (both MiB).

    compute_capability: such as ``12.0``; empty: the inventory does not say.
    """

    alias: str
    uuid: str
    vram_mib: int
    reserve_mib: int = 0
    index: Optional[int] = None
    compute_capability: str = ""

    @property
    def budget_mib(self) -> int:
        return self.vram_mib - self.reserve_mib


@dataclass(frozen=True)
class Mount:
    """A volume or folder in a container. ``kind`` is ``volume`` (source is its name) or ``bind`` (source is a path)."""

    kind: str
    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class ServePlan:
    """One serve, all defaults decided.

    gpu_uuids: the cards it is pinned to, in the order given. cuda_visible: what ``CUDA_VISIBLE_DEVICES`` says
    (UUIDs, indexes, or empty: the variable is not set). vram_mib: MiB claimed on *each* of its cards.
    secrets: environment variable -> name in ``anvil_secrets``; never a value. ready_timeout: seconds.
    residency: ``resident``, ``evictable``, ``on_demand`` or ``off``. tags: words that select it, besides its name.
    part: ``chat``, ``tool`` or empty, for the deploy mode. models: of a server of several, name -> its options.
    interval: the longest pause between two looks whether it is ready (seconds). warmup: it is ready once it has answered.
    """

    name: str
    container: str
    engine: str
    image: str
    model: str
    served_name: str
    port: int
    bind: str = "127.0.0.1"
    gpus: Tuple[str, ...] = ()
    gpu_uuids: Tuple[str, ...] = ()
    cuda_visible: Tuple[str, ...] = ()
    args: Tuple[str, ...] = ()
    environment: Dict[str, str] = field(default_factory=dict)
    secrets: Dict[str, str] = field(default_factory=dict)
    mounts: Tuple[Mount, ...] = ()
    entrypoint: Tuple[str, ...] = ()
    vram_mib: int = 0
    ipc: str = ""
    shm_size: str = ""
    restart: str = "unless-stopped"
    api_key: str = ""
    read_only: bool = False
    cap_drop: Tuple[str, ...] = ()
    ready_timeout: int = 600
    residency: str = RESIDENT
    tags: Tuple[str, ...] = ()
    part: str = ""
    models: Dict[str, Dict[str, str]] = field(default_factory=dict)
    interval: int = 5
    warmup: bool = False


@dataclass(frozen=True)
class ExternalPlan:
    """A server that is not ours: on the host itself, where containers reach it as ``host.docker.internal``. It is asked, never
    managed. container: the name that the router's container finds it by.
    """

    name: str
    container: str
    port: int
    served_name: str
    api_key: str = ""
    engine: str = ""
    args: Tuple[str, ...] = ()


@dataclass(frozen=True)
class TierPlan:
    """A serve as the router sees it. ``key_env`` names the router's variable that holds the serve's API key."""

    id: str
    serve: str
    base_url: str
    model: str
    context_limit: int
    tool_support: bool
    key_env: str
    key_secret: str = ""


@dataclass(frozen=True)
class ProfileEntry:
    """One row of the router's measured quality table."""

    tier_id: str
    work_class: str
    decision: str
    quality_score: float
    sample_n: int
    last_measured: Optional[str] = None
    fingerprint: Optional[str] = None


@dataclass(frozen=True)
class ReplicaPlan:
    """One router container of several, at a fixed address of the edge's network: HAProxy holds a stale one otherwise."""

    service: str
    container: str
    address: str


@dataclass(frozen=True)
class EdgePlan:
    """What stands before the replicas of a router.

    volume: its own configuration. network, subnet: the network of the edge and the replicas alone. certificates: a folder of
    PEM files on the host, or empty: plain HTTP. check_tiers: the health check asks the tiers (gateway router), not only the
    process.
    """

    image: str
    container: str
    volume: str
    network: str
    subnet: str
    address: str
    certificates: str
    check_tiers: bool
    replicas: Tuple[ReplicaPlan, ...]


@dataclass(frozen=True)
class RouterPlan:
    """The router of a host. ``token`` names the entry of ``anvil_secrets`` that clients must present.

    ready_timeout, request_timeout: seconds; the latter is how long a tier may take for one answer. edge: where there is
    more than one replica; the router then has no container of the name ``container``, but those of ``edge.replicas``.
    extra_hosts: ``NAME:ADDRESS`` for the router's /etc/hosts.
    generation: ``profile`` (anvil-serving 0.12 to 0.13.2) has presets and a profile; ``gateway`` (0.35.1 to 2.0.2) has
    routes: the name that a client asks for -> the one tier that answers.
    """

    image: str
    container: str
    volume: str
    bind: str
    port: int
    token: str
    tiers: Tuple[TierPlan, ...]
    presets: Dict[str, Tuple[str, ...]]
    profile: Tuple[ProfileEntry, ...] = ()
    ready_timeout: int = 60
    request_timeout: int = 300
    edge: Optional[EdgePlan] = None
    extra_hosts: Tuple[str, ...] = ()
    generation: str = "profile"
    routes: Dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class HostPlan:
    """All that the inventory says of one host, checked.

    notes: what is not wrong but good to know. models_allowed: None allows every model.
    """

    host: str
    root: str
    platform: str
    network: str
    gpus: Dict[str, Gpu]
    serves: Tuple[ServePlan, ...]
    router: Optional[RouterPlan] = None
    secret_names: Tuple[str, ...] = ()
    notes: Tuple[str, ...] = ()
    models_allowed: Optional[Tuple[Origin, ...]] = None
    externals: Tuple[ExternalPlan, ...] = ()
    compatibility: str = "enforce"

    def as_dict(self) -> Dict[str, Any]:
        """The plan as plain JSON types (tuples become lists)."""
        plain: Dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


# ------------------------------------------------------------------------------------------------------------- service


@dataclass(frozen=True)
class Service:
    """One service of a compose file in canonical form; ``None`` means: the file does not say, the image decides.

    ports: ``(host address, host port, container port/protocol)``. gpu_uuids: the device ids of its ``nvidia``
    reservation. secret_env: variables whose values come from the env file; the values are not part of the service. addresses:
    network -> its fixed IPv4 address there. stop_grace: seconds between the stop signal and the kill.
    """

    name: str
    container: str
    image: str
    command: Optional[Tuple[str, ...]] = None
    entrypoint: Optional[Tuple[str, ...]] = None
    environment: Dict[str, str] = field(default_factory=dict)
    env_files: Tuple[str, ...] = ()
    gpu_uuids: Tuple[str, ...] = ()
    ports: Tuple[Tuple[str, int, str], ...] = ()
    mounts: Tuple[Mount, ...] = ()
    networks: Tuple[str, ...] = ()
    addresses: Dict[str, str] = field(default_factory=dict)
    ipc: str = ""
    shm_bytes: int = DEFAULT_SHM_BYTES
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
    security_opt: Tuple[str, ...] = ()
    extra_hosts: Tuple[str, ...] = ()
    memory_bytes: int = 0
    labels: Dict[str, str] = field(default_factory=dict)
    anvil: Dict[str, Any] = field(default_factory=dict)

    def spec_hash(self) -> str:
        """``FORMAT:sha256`` of everything a container is made of.

        Not of the labels, nor of ``x-anvil``, which are only ours, nor of where the env file lies. A field that says
        nothing does not count, so that a field added by a later release changes the hash of no service that leaves it out.
        """
        silent = asdict(Service(name="", container="", image=""))
        content = {
            key: value
            for key, value in asdict(self).items()
            if key not in ("labels", "anvil", "env_files") and value != silent[key]
        }
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return "{0}:{1}".format(SPEC_FORMAT, hashlib.sha256(text.encode()).hexdigest())


_BYTES = {"b": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def parse_bytes(text: Any) -> int:
    """Turn compose's ``16g``, ``512mb``, ``1024`` into bytes. Raises ValueError on anything else."""
    word = str(text).strip().lower()
    if word.endswith("b") and len(word) > 1 and word[-2] in "kmg":
        word = word[:-1]
    if word and word[-1] in _BYTES:
        return int(float(word[:-1]) * _BYTES[word[-1]])
    return int(word)


def parse_seconds(text: Any) -> int:
    """Turn compose's ``30s`` into seconds. Raises ValueError on what we never write (``1m30s``)."""
    return int(str(text).strip().removesuffix("s"))


def _networks(raw: Any, networks: Mapping[str, Any]) -> Tuple[Tuple[str, ...], Dict[str, str]]:
    """The names of a service's networks, and its fixed addresses in them. Compose takes a list or a mapping."""
    wanted = dict.fromkeys(raw) if isinstance(raw, list) else dict(raw or {})
    names = {net: str((networks.get(net) or {}).get("name", net)) for net in wanted}
    fixed = {names[net]: str(item["ipv4_address"]) for net, item in wanted.items() if item and item.get("ipv4_address")}
    return tuple(sorted(names.values())), fixed


def _words(value: Any) -> Optional[Tuple[str, ...]]:
    if value is None:
        return None
    if isinstance(value, str):
        raise ValueError("a list of words is wanted, got the string {0!r}".format(value))
    return tuple(str(word) for word in value)


def _port(value: Any) -> Tuple[str, int, str]:
    if isinstance(value, Mapping):
        return (
            str(value.get("host_ip", "0.0.0.0")),
            int(value.get("published", 0)),
            "{0}/{1}".format(value["target"], value.get("protocol", "tcp")),
        )
    head, _colon, target = str(value).rpartition(":")
    bind, _colon, published = head.rpartition(":")
    return (bind.strip("[]") or "0.0.0.0", int(published or 0), target if "/" in target else target + "/tcp")


def _mount(value: Any, volumes: Mapping[str, Any]) -> Mount:
    if isinstance(value, Mapping):
        kind, source = str(value.get("type", "volume")), str(value.get("source", ""))
        target, read_only = str(value["target"]), bool(value.get("read_only", False))
    else:
        parts = str(value).split(":")
        source, target = parts[0], parts[1]
        read_only = "ro" in (parts[2].split(",") if len(parts) > 2 else [])
        kind = "bind" if source.startswith(("/", ".", "~")) else "volume"
    if kind == "volume":
        source = str((volumes.get(source) or {}).get("name", source))
    return Mount(kind, source, target, read_only)


def _device_ids(raw: Mapping[str, Any]) -> Tuple[str, ...]:
    devices = raw.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", []) or []
    return tuple(str(uuid) for device in devices for uuid in device.get("device_ids", []) or [])


def _undollar(value: Any) -> Any:
    """Compose writes a literal dollar as ``$$``."""
    if isinstance(value, str):
        return value.replace("$$", "$")
    if isinstance(value, list):
        return [_undollar(item) for item in value]
    if isinstance(value, dict):
        return {key: _undollar(item) for key, item in value.items()}
    return value


def parse_compose(document: Mapping[str, Any]) -> Dict[str, Service]:
    """Read the services of a parsed compose file (of ours: list commands, list or long ports, mapped environment)."""
    volumes = document.get("volumes") or {}
    networks = document.get("networks") or {}
    services = {}
    for name, raw_dollars in (document.get("services") or {}).items():
        raw = _undollar(raw_dollars)
        env_files = raw.get("env_file") or []
        health = raw.get("healthcheck") or {}
        names, addresses = _networks(raw.get("networks"), networks)
        services[name] = Service(
            name=name,
            container=str(raw.get("container_name", "")),
            image=str(raw.get("image", "")),
            command=_words(raw.get("command")),
            entrypoint=_words(raw.get("entrypoint")),
            environment={key: str(value) for key, value in (raw.get("environment") or {}).items()},
            env_files=tuple([env_files] if isinstance(env_files, str) else env_files),
            gpu_uuids=_device_ids(raw),
            ports=tuple(sorted(_port(port) for port in raw.get("ports") or [])),
            mounts=tuple(sorted((_mount(item, volumes) for item in raw.get("volumes") or []), key=lambda mount: mount.target)),
            networks=names,
            addresses=addresses,
            ipc=str(raw.get("ipc", "")),
            shm_bytes=parse_bytes(raw.get("shm_size", DEFAULT_SHM_BYTES)),
            restart=str(raw.get("restart", "no")),
            user=None if raw.get("user") is None else str(raw["user"]),
            read_only=bool(raw.get("read_only", False)),
            tmpfs=tuple(sorted(raw.get("tmpfs") or [])),
            init=bool(raw.get("init", False)),
            stop_signal=raw.get("stop_signal"),
            stop_grace=None if raw.get("stop_grace_period") is None else parse_seconds(raw["stop_grace_period"]),
            working_dir=raw.get("working_dir"),
            healthcheck=_words(health.get("test")),
            cap_drop=tuple(sorted(raw.get("cap_drop") or [])),
            security_opt=tuple(sorted(raw.get("security_opt") or [])),
            extra_hosts=tuple(sorted(raw.get("extra_hosts") or [])),
            memory_bytes=parse_bytes(raw.get("mem_limit", 0)),
            labels={key: str(value) for key, value in (raw.get("labels") or {}).items()},
            anvil=dict(raw.get("x-anvil") or {}),
        )
    return services


def service_as_dict(service: Service) -> Dict[str, Any]:
    plain: Dict[str, Any] = json.loads(json.dumps(asdict(service)))
    return plain


def service_from_dict(raw: Mapping[str, Any]) -> Service:
    """The inverse of ``service_as_dict``: lists become tuples again."""

    def words(key: str) -> Optional[Tuple[str, ...]]:
        value = raw.get(key)
        return None if value is None else tuple(value)

    plain: Dict[str, Any] = dict(raw)
    for key in ("command", "entrypoint", "healthcheck"):
        plain[key] = words(key)
    for key in ("env_files", "gpu_uuids", "networks", "tmpfs", "cap_drop", "security_opt", "extra_hosts"):
        plain[key] = tuple(raw.get(key) or ())
    plain["ports"] = tuple((str(port[0]), int(port[1]), str(port[2])) for port in raw.get("ports") or [])
    plain["mounts"] = tuple(Mount(**mount) for mount in raw.get("mounts") or [])
    return Service(**plain)
