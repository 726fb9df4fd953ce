# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of one host as data: its GPUs, serves, tiers, router and edge, with every default decided. No I/O."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Optional, Tuple, Union

from ansible_collections.anvil.serving.plugins.module_utils.catalog.container_policy import AllowedMount
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin
from ansible_collections.anvil.serving.plugins.module_utils.catalog.public_routes import Route
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import RESIDENT, Mount
from ansible_collections.anvil.serving.plugins.module_utils.plan.edge_plan import SMALL_PIDS, BackendPlan, EdgePlan, Published


@dataclass(frozen=True)
class Gpu:
    """A card of the inventory. vram_mib: its total memory; reserve_mib: the part that no serve may claim (both MiB).

    compute_capability: such as ``12.0``; name: as the driver prints it. Empty: neither written nor read from the driver.
    """

    alias: str
    uuid: str
    vram_mib: int
    reserve_mib: int = 0
    index: Optional[int] = None
    compute_capability: str = ""
    name: str = ""

    @property
    def budget_mib(self) -> int:
        return self.vram_mib - self.reserve_mib


# Far above what a server on many cores starts (threads count), far below what takes the host down.
SERVE_PIDS = 32768


@dataclass(frozen=True)
class Limits:
    """What each container may use up on disk. log_driver: ``local``, or empty for the log driver of the engine."""

    log_driver: str = "local"
    log_max_size: str = "20m"
    log_max_files: int = 5


@dataclass(frozen=True)
class ServePlan:
    """One serve, all defaults decided.

    gpu_uuids: the cards it is pinned to, in the order of the inventory. cuda_visible: the items of ``CUDA_VISIBLE_DEVICES``
    (UUIDs or indexes; empty: the variable is not set). vram_mib: MiB claimed on *each* of its cards; where the claims differ, the
    largest, and vram_by_card has that of each card (UUID -> MiB).
    bind, port: on the host, on loopback. published: where clients outside of the host reach it, at the edge.
    container_port: the one that the engine listens on (0: the same).
    secrets: environment variable -> name in ``anvil_secrets``; never a value. ready_timeout: seconds.
    residency: ``resident``, ``evictable``, ``on_demand`` or ``off``. idle: after so many
    seconds without a request watch stops it; 0: never. tags: words that select it, besides its name.
    part: ``chat``, ``tool`` or empty, for the deploy mode. models: for a server with several models, name -> its options.
    interval: the longest pause between two readiness checks (seconds). warmup: it is ready after its first real answer.
    kind: what it answers, one of ``catalog.served_kinds.KINDS``.
    tmpfs: folders in memory. user: empty for the one of the image.
    network: of this serve and the routers that reach it; empty: that of the host. closed: nothing in it reaches other machines.
    dns: servers for names outside of the host; empty: those of the host.
    mem_limit: memory of the host, as ``48g``; empty: no limit. pids_limit: processes and threads.
    tls: the engine itself speaks TLS. api_prefix: the path before ``/v1``, such as ``/qwen``. more_names: further names of the
    model. ready_path: it is ready when this path answers 200; empty: when ``/v1/models`` lists the model.
    on_failure: what a change of it does that does not get ready, ``roll_back`` or ``keep``; empty: it is rolled back.
    hosts: of a serve over several hosts, the head first; empty: it runs on this host alone. rank: of this host among them; only
    the head (0) answers clients. common: what all of them must have alike, name -> JSON. address: where the server answers;
    empty: at its container. host_network: it has the network of the host. interface: the one that it uses there. devices: paths
    of devices that it gets. memlock: it may lock any amount of memory. held_ports: (address, port) that it listens on besides.
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
    tmpfs: Tuple[str, ...] = ()
    user: str = ""
    cap_drop: Tuple[str, ...] = ()
    cap_add: Tuple[str, ...] = ()
    security_opt: Tuple[str, ...] = ()
    network: str = ""
    closed: bool = False
    dns: Tuple[str, ...] = ()
    ready_timeout: int = 600
    residency: str = RESIDENT
    idle: int = 0
    tags: Tuple[str, ...] = ()
    part: str = ""
    models: Dict[str, Dict[str, str]] = field(default_factory=dict)
    interval: int = 5
    warmup: bool = False
    kind: str = "chat"
    mem_limit: str = ""
    pids_limit: int = SERVE_PIDS
    tls: bool = False
    api_prefix: str = ""
    more_names: Tuple[str, ...] = ()
    vram_by_card: Dict[str, int] = field(default_factory=dict)
    container_port: int = 0
    ready_path: str = ""
    published: Optional[Published] = None
    on_failure: str = ""
    hosts: Tuple[str, ...] = ()
    rank: int = 0
    common: Dict[str, str] = field(default_factory=dict)
    address: str = ""
    host_network: bool = False
    interface: str = ""
    devices: Tuple[str, ...] = ()
    memlock: bool = False
    held_ports: Tuple[Tuple[str, int], ...] = ()

    @property
    def is_member(self) -> bool:
        """Whether it is a part of a serve whose head, on another host, answers clients."""
        return self.rank > 0

    @property
    def inner_port(self) -> int:
        return self.container_port or self.port


@dataclass(frozen=True)
class ExternalPlan:
    """A server that is not managed by this collection. It gets requests, and is never started or stopped.

    container: the host name or address that the router reaches it by; ``host.docker.internal`` is the host itself.
    start: the command line that starts it on its machine; empty: not known, so no script is rendered. tls: it speaks HTTPS. ca: a
    file on the router's host with the certificates that its own must be signed by; empty: those that the router's image trusts.
    """

    name: str
    container: str
    port: int
    served_name: str
    api_key: str = ""
    engine: str = ""
    args: Tuple[str, ...] = ()
    kind: str = "chat"
    start: Tuple[str, ...] = ()
    tls: bool = False
    ca: str = ""


@dataclass(frozen=True)
class TierPlan:
    """A serve as the router sees it. key_env: the environment variable of the router that holds the API key of the serve.

    kind: as in ``ServePlan``; only a tier of kind ``chat`` takes part in presets and routes.
    health_path: the path by which the router sees whether the serve answers; empty: it does not check. model_identity: it
    also checks that the serve lists the model, without which it never readmits the tier.
    max_concurrency: requests at a time, or ``auto``: what the engine reports; None: no limit of its own.
    sample_rate: Hz of the raw audio that a serve of kind ``speech`` sends. default: of several tiers for one kind of audio, the
    one that answers where the client names none.
    backends: of a tier over hosts, which has no serve; backend_key: the secret that their edges expect. queue, slow_start:
    as in ``edge_plan.TierFront``.
    """

    id: str
    serve: str
    base_url: str
    model: str
    context_limit: int
    tool_support: bool
    key_env: str
    key_secret: str = ""
    kind: str = "chat"
    health_path: str = ""
    model_identity: bool = False
    max_concurrency: Optional[Union[int, str]] = None
    sample_rate: int = 0
    default: bool = False
    backends: Tuple[BackendPlan, ...] = ()
    backend_key: str = ""
    queue: int = 256
    slow_start: int = 10

    @property
    def answered_by(self) -> str:
        """The serve, or the first of its backends, for messages."""
        return self.serve or ", ".join(backend.name for backend in self.backends[:1])


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
class RouterPlan:
    """The router of a host. ``token`` names the entry of ``anvil_secrets`` that clients must present.

    ready_timeout, request_timeout: seconds; the latter is how long a tier may take for one answer. bind, port: where clients
    reach it, at its own container or at the edge. replicas: more than one run behind the edge of the host. insecure, paths: as in
    ``edge_plan.Published``. ca: as in ``ExternalPlan``. extra_hosts: ``NAME:ADDRESS`` for the router's /etc/hosts.
    generation: ``profile`` (anvil-serving 0.12 to 0.13.2) has presets and a profile; ``gateway`` (0.35.1 to 2.0.2) has
    routes: the model name that a client sends -> the one tier that answers. purposes: its tiers for embeddings and reranking,
    which clients request at ``/v1/embeddings`` and ``/v1/rerank`` by the name of the model. audio: its tiers for
    ``/v1/audio/transcriptions`` and ``/v1/audio/speech``.
    serve_networks: of the serves that its tiers name.
    profile_from, config_from: ``promoted``: a file that an operator promoted stays; ``inventory``: the rendered one replaces it.
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
    ca: str = ""
    replicas: int = 1
    insecure: bool = False
    paths: Tuple[Route, ...] = ()
    extra_hosts: Tuple[str, ...] = ()
    generation: str = "profile"
    mem_limit: str = ""
    pids_limit: int = SMALL_PIDS
    routes: Dict[str, str] = field(default_factory=dict)
    serve_networks: Tuple[str, ...] = ()
    purposes: Tuple[TierPlan, ...] = ()
    audio: Tuple[TierPlan, ...] = ()
    profile_from: str = "promoted"
    config_from: str = "promoted"

    @property
    def spread_tiers(self) -> Tuple[TierPlan, ...]:
        """The tiers over hosts, of every kind."""
        return tuple(tier for tier in (*self.tiers, *self.purposes, *self.audio) if tier.backends)


@dataclass(frozen=True)
class HostPlan:
    """Everything that the inventory says about one host, checked.

    notes: facts that are not mistakes but good to know. models_allowed: None allows every model. stacks: of the images that it
    uses, for ``images_select: used``. gpu_driver: what serves ask the Docker Engine for their GPUs, ``nvidia`` or ``cdi``.
    """

    host: str
    root: str
    platform: str
    network: str
    gpus: Dict[str, Gpu]
    serves: Tuple[ServePlan, ...]
    router: Optional[RouterPlan] = None
    edge: Optional[EdgePlan] = None
    secret_names: Tuple[str, ...] = ()
    notes: Tuple[str, ...] = ()
    models_allowed: Optional[Tuple[Origin, ...]] = None
    externals: Tuple[ExternalPlan, ...] = ()
    compatibility: str = "enforce"
    limits: Limits = Limits()
    gpu_driver: str = "nvidia"
    stacks: Tuple[str, ...] = ()
    allow_mounts: Tuple[AllowedMount, ...] = ()

    def as_dict(self) -> Dict[str, Any]:
        """The plan as plain JSON types (tuples become lists)."""
        plain: Dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain
