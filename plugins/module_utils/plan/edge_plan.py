# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a host's edge as data: its front ends, the servers behind them, its clients and limits. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.public_routes import Route

# Processes and threads of a router, an edge or a container of a workflow, where nothing else is set.
SMALL_PIDS = 4096
# What the names of tiers over hosts begin with in HAProxy.
TIER_PREFIX = "tier-"
# The front end for a Prometheus of another host.
MONITORING = "monitoring"


@dataclass(frozen=True)
class Published:
    """Where clients outside of the host reach a serve: an address and port of the edge.

    insecure: plain HTTP, although the address is beyond loopback. paths: requests that pass besides those of its kind.
    """

    bind: str
    port: int
    insecure: bool = False
    paths: Tuple[Route, ...] = ()


@dataclass(frozen=True)
class ReplicaPlan:
    """One router container behind the edge. Its address is fixed, because HAProxy keeps the first one it resolves."""

    service: str
    container: str
    address: str


@dataclass(frozen=True)
class CertificatePlan:
    """A certificate with its chain, and its key, as PEM files on the host. key: empty if the certificate's file holds it too."""

    certificate: str
    key: str = ""


@dataclass(frozen=True)
class ServeTarget:
    """A published serve as the edge reaches it. tls: it speaks TLS itself. check_path: it answers 200 there without a key."""

    container: str
    port: int
    tls: bool
    check_path: str


@dataclass(frozen=True)
class FrontPlan:
    """One address and port where clients connect, and the server behind it.

    name: ``router``, or ``serve-NAME``. backend: HAProxy's name of the servers. inner_port: in the edge's container.
    key: the secret that the edge presents to the server. needs_key: a client must present a key of its own.
    reads_model: the model in the body decides whether a client with ``tiers`` may send the request. serve: None for the router.
    """

    name: str
    backend: str
    bind: str
    port: int
    inner_port: int
    tls: bool
    needs_key: bool
    routes: Tuple[Route, ...]
    key: str = ""
    reads_model: bool = False
    serve: Optional[ServeTarget] = None


@dataclass(frozen=True)
class BackendPlan:
    """A serve as the edge of a gateway reaches it: through the edge of its host, or on the gateway itself.

    address: empty for a serve of the gateway itself. server_name: the name that the certificate there must be for; empty: plain
    HTTP. max_requests: at a time, from this gateway.
    """

    host: str
    serve: str
    address: str = ""
    port: int = 0
    server_name: str = ""
    max_requests: int = 256

    @property
    def name(self) -> str:
        """HAProxy's name of the server."""
        return "{0}:{1}".format(self.host, self.serve)


@dataclass(frozen=True)
class TierFront:
    """A tier over hosts: one address at the edge for the routers of a gateway, and the backends behind it.

    key: the secret that the edge presents to the edges of other hosts. queue: requests that may wait for a backend. slow_start:
    seconds in which a backend that comes up gets more and more requests.
    """

    tier: str
    inner_port: int
    backends: Tuple[BackendPlan, ...]
    key: str = ""
    queue: int = 256
    slow_start: int = 10

    @property
    def name(self) -> str:
        """HAProxy's name of the front end and of its backend."""
        return TIER_PREFIX + self.tier


@dataclass(frozen=True)
class LocalServe:
    """A serve of the gateway as a backend of its own tiers. inner_port: on loopback of the edge's container."""

    backend: str
    inner_port: int
    key: str
    serve: ServeTarget


@dataclass(frozen=True)
class ClientPlan:
    """A client of the edge. keys: names of secrets; each of them opens. 0: no limit.

    access: front end -> ``all``, or ``some``: requests for ``models`` only.
    """

    name: str
    keys: Tuple[str, ...]
    requests_per_minute: int = 0
    concurrent_requests: int = 0
    access: Dict[str, str] = field(default_factory=dict)
    models: Tuple[str, ...] = ()


@dataclass(frozen=True)
class EdgeLimits:
    """body: bytes of a request. connections: at a time, in all and per address. failed_keys: per minute and address."""

    body: int = 32 * 1024 * 1024
    connections: int = 1000
    connections_per_address: int = 500
    failed_keys: int = 20


@dataclass(frozen=True)
class EdgePlan:
    """The HAProxy at the boundary of a host: in front of its router, and of every serve that is published beyond loopback.

    volume: its configuration. network, subnet: a network for the edge and the routers behind it. check_tiers: the health check of
    a router covers its tiers (gateway router), not only its process. origins: of pages whose scripts may send requests.
    metrics: (address, port) on loopback of its metrics; None: no metrics. writer_image: has python3, to write the volume.
    tiers: those over several hosts. ca: a file of the host with the certificates that those of their hosts must be signed by.
    reached_at, server_name: the address of this edge for gateways, and a name in its certificate; empty: not written.
    """

    image: str
    container: str
    volume: str
    network: str
    subnet: str
    address: str
    check_tiers: bool
    writer_image: str
    replicas: Tuple[ReplicaPlan, ...] = ()
    fronts: Tuple[FrontPlan, ...] = ()
    certificates: Tuple[CertificatePlan, ...] = ()
    clients: Tuple[ClientPlan, ...] = ()
    limits: EdgeLimits = EdgeLimits()
    origins: Tuple[str, ...] = ()
    metrics: Optional[Tuple[str, int]] = None
    mem_limit: str = ""
    pids_limit: int = SMALL_PIDS
    tiers: Tuple[TierFront, ...] = ()
    locals: Tuple[LocalServe, ...] = ()
    ca: str = ""
    reached_at: str = ""
    server_name: str = ""

    @property
    def shares_volume(self) -> bool:
        """Whether several routers read one config volume, each through a pointer of its own."""
        return len(self.replicas) > 1

    @property
    def fronted(self) -> Tuple[str, ...]:
        """The containers of serves that the edge reaches."""
        fronts = [front.serve.container for front in self.fronts if front.serve]
        return tuple(dict.fromkeys([*fronts, *(one.serve.container for one in self.locals)]))

    def find_front(self, name: str) -> Optional[FrontPlan]:
        return next((front for front in self.fronts if front.name == name), None)
