# SPDX-License-Identifier: GPL-3.0-or-later
"""Check ``anvil_edge``, and decide the edge of a host: whether it has one, its front ends, and where each of them listens."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import replace
from typing import Any, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import CUSTOM
from ansible_collections.anvil.serving.plugins.module_utils.catalog.public_routes import list_router_routes, list_serve_routes
from ansible_collections.anvil.serving.plugins.module_utils.plan.edge_plan import (
    SMALL_PIDS,
    CertificatePlan,
    EdgeLimits,
    EdgePlan,
    FrontPlan,
    LocalServe,
    ReplicaPlan,
    ServeTarget,
    TierFront,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import RouterPlan, ServePlan, TierPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_clients import (
    ROUTER_FRONT,
    add_holders,
    has_clients,
    name_front,
    read_clients,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_engines import read_memory, read_pids
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_monitoring import list_readers, read_monitoring
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_publish import split_address
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_secrets import InventorySecrets
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    ABSOLUTE,
    CONTAINER,
    CONTAINER_RULE,
    NO_SPACE,
    InventoryCheck,
    Path,
    Section,
    is_loopback,
    read_image,
    shorten,
)

EDGE_HEALTH = ("process", "tiers")
DEFAULT_SUBNET = "10.87.213.0/28"
DEFAULT_EDGE_IMAGE = "anvil.local/edge:1"
# Writes the volume of an edge without a router: the edge's own image has no python3.
DEFAULT_WRITER_IMAGE = "anvil.local/router:2.0.2"
EDGE_KEYS = (
    "image",
    "writer_image",
    "container",
    "subnet",
    "health",
    "tls",
    "body_limit_mib",
    "connections",
    "connections_per_address",
    "failed_keys_per_minute",
    "cors",
    "metrics",
    "mem_limit",
    "pids_limit",
    "ca",
    "address",
    "server_name",
    "monitoring",
)
TLS_KEYS = ("certificate", "key")
ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?")
PEM_PATH = "an absolute path on the host, such as /etc/anvil-tls/host.pem"
# In the edge's container: the router's front end, the same in plain HTTP for containers of the host, and those of serves.
ROUTER_PORT, PLAIN_PORT, METRICS_PORT, FIRST_SERVE_PORT = 8000, 8001, 8404, 18001
# For the routers of a gateway: its tiers over hosts. On loopback of the container: its own serves as backends of these tiers.
FIRST_TIER_PORT, FIRST_LOCAL_PORT = 19001, 20001
ADDRESS_RULE = "a host name or an address, by which gateways reach this edge"
NO_TLS = (
    "set anvil_edge: {tls: {certificate: /etc/anvil-tls/host.pem, key: /etc/anvil-tls/host.key}}, "
    "or insecure: true beside publish for plain HTTP"
)


def read_edge(
    check: InventoryCheck,
    variables: Mapping[str, Any],
    router: Optional[RouterPlan],
    serves: Sequence[ServePlan],
    secrets: InventorySecrets,
) -> Optional[EdgePlan]:
    """The edge of the host; None if nothing needs one: a single router on loopback, without clients or published serves."""
    given = check.read_mapping(("anvil_edge",), variables.get("anvil_edge"), "anvil_edge: {tls: {certificate: …, key: …}}")
    section = given or Section(check, ("anvil_edge",), {})
    section.check_keys(EDGE_KEYS)
    published = [serve for serve in serves if serve.published]
    clients = read_clients(check, variables.get("anvil_clients"), secrets, router, published)
    # A router beside an edge is behind it: both are one compose project.
    is_needed = router and (
        bool(published)
        or router.replicas > 1
        or not is_loopback(router.bind)
        or given is not None
        or has_clients(variables.get("anvil_clients"))
        or bool(router.spread_tiers)
    )
    certificates = _read_certificates(section)
    name = section.read_text("container", CONTAINER_RULE, CONTAINER)
    image = read_image(section) if section.has("image") else DEFAULT_EDGE_IMAGE
    subnet = _read_subnet(section, router.replicas if router else 1)
    writer = Section(check, section.path, {"image": section.raw.get("writer_image")})
    plan = EdgePlan(
        image=image or "",
        writer_image=(read_image(writer) if writer.has("image") else router.image if router else DEFAULT_WRITER_IMAGE) or "",
        container=name or (router.container + "-edge" if router else "anvil-edge"),
        volume=(name or (router.container + "-edge" if router else "anvil-edge")) + "-cfg",
        network=(router.container if router else "anvil") + "-edge",
        subnet=str(subnet),
        address=str(subnet.network_address + 2),
        # A gateway router answers 503 until its tiers were checked once; this health check triggers that.
        check_tiers=(section.read_choice("health", EDGE_HEALTH) or _default_health(router)) == "tiers",
        replicas=_name_replicas(router, subnet),
        certificates=certificates,
        limits=_read_limits(section),
        origins=_read_origins(section),
        metrics=_read_metrics(section),
        mem_limit=read_memory(section) or "",
        pids_limit=read_pids(section) or SMALL_PIDS,
        clients=(*add_holders(clients, router, published), *list_readers(section, secrets, clients)),
        ca=section.read_text("ca", PEM_PATH.replace("host.pem", "ca.pem"), ABSOLUTE) or "",
        reached_at=section.read_text("address", ADDRESS_RULE, CONTAINER) or "",
        server_name=section.read_text("server_name", "a name that the certificate of the edge is for", CONTAINER) or "",
    )
    monitoring = read_monitoring(section)
    if not is_needed and not published and not monitoring:
        for variable in ("anvil_edge", "anvil_clients"):
            if variables.get(variable):
                check.add_note((variable,), "it has no effect: the host has no router, and no serve is published beyond loopback")
        return None
    if monitoring:
        tls = bool(certificates)
        _check_tls(check, ("anvil_edge", "monitoring", "publish"), "the front end of the metrics", monitoring.bind, tls, False)
        plan = replace(plan, fronts=(replace(monitoring, tls=tls),))
    fronted = _add_fronts(check, plan, router if is_needed else None, published, bool(clients))
    return _add_tiers(check, fronted, router, serves) if router else fronted


def _default_health(router: Optional[RouterPlan]) -> str:
    return "tiers" if router and router.generation == "gateway" else "process"


def _add_fronts(
    check: InventoryCheck, edge: EdgePlan, router: Optional[RouterPlan], serves: Sequence[ServePlan], named: bool
) -> EdgePlan:
    """named: whether ``anvil_clients`` names any client."""
    tls = bool(edge.certificates)
    fronts: List[FrontPlan] = []
    if router:
        _check_tls(check, ("anvil_router", "publish"), "the router", router.bind, tls, router.insecure)
        fronts.append(
            FrontPlan(
                name=ROUTER_FRONT,
                backend="routers",
                bind=router.bind,
                port=router.port,
                inner_port=ROUTER_PORT,
                tls=tls and not router.insecure,
                needs_key=bool(router.token) or named,
                routes=tuple(dict.fromkeys((*list_router_routes(router.generation), *router.paths))),
                key=router.token,
                reads_model=any(client.access.get(ROUTER_FRONT) == "some" for client in edge.clients),
            )
        )
    for number, serve in enumerate(sorted(serves, key=lambda each: each.name)):
        where = serve.published
        if where is None:
            continue
        _check_tls(check, ("anvil_serves", serve.name, "publish"), "the serve", where.bind, tls, where.insecure)
        known = [(method, serve.api_prefix + path) for method, path in list_serve_routes(serve.engine or CUSTOM, serve.kind)]
        fronts.append(
            FrontPlan(
                name=name_front(serve.name),
                backend=name_front(serve.name),
                bind=where.bind,
                port=where.port,
                inner_port=FIRST_SERVE_PORT + number,
                tls=tls and not where.insecure,
                needs_key=True,
                routes=tuple(dict.fromkeys((*known, *where.paths))),
                key=serve.api_key,
                serve=_describe_target(serve),
            )
        )
    return replace(edge, fronts=(*fronts, *edge.fronts), replicas=edge.replicas if router else ())


def _add_tiers(check: InventoryCheck, edge: EdgePlan, router: RouterPlan, serves: Sequence[ServePlan]) -> EdgePlan:
    """The tiers over hosts, each with a front end for the routers, and the serves of this host that are backends of them."""
    tiers = tuple(
        TierFront(tier.id, FIRST_TIER_PORT + number, tier.backends, tier.backend_key, tier.queue, tier.slow_start)
        for number, tier in enumerate(sorted(router.spread_tiers, key=lambda each: each.id))
    )
    backends = [backend for tier in tiers for backend in tier.backends]
    if not edge.ca and any(backend.server_name for backend in backends):
        check.add_problem(
            ("anvil_edge", "ca"),
            "no file of certificates is named that the edges of other hosts must be signed by",
            "set anvil_edge.ca to a PEM file on this host, such as /etc/anvil-tls/ca.pem; for certificates of a public "
            "authority /etc/ssl/certs/ca-certificates.crt",
        )
    here = {backend.serve for backend in backends if not backend.address}
    names = sorted(serve.name for serve in serves if serve.name in here)
    by_name = {serve.name: serve for serve in serves}
    local = tuple(
        LocalServe(name_front(name), FIRST_LOCAL_PORT + number, by_name[name].api_key, _describe_target(by_name[name]))
        for number, name in enumerate(names)
    )
    return replace(edge, tiers=tiers, locals=local)


def place_tiers(router: Optional[RouterPlan], edge: Optional[EdgePlan]) -> Optional[RouterPlan]:
    """The router with the addresses of its tiers over hosts: those of the edge."""
    if router is None or edge is None or not edge.tiers:
        return router
    ports = {front.tier: front.inner_port for front in edge.tiers}

    def place(tiers: Tuple[TierPlan, ...]) -> Tuple[TierPlan, ...]:
        return tuple(
            replace(tier, base_url="http://{0}:{1}{2}".format(edge.address, ports[tier.id], tier.base_url))
            if tier.backends
            else tier
            for tier in tiers
        )

    return replace(router, tiers=place(router.tiers), purposes=place(router.purposes), audio=place(router.audio))


def _describe_target(serve: ServePlan) -> ServeTarget:
    return ServeTarget(serve.container, serve.inner_port, serve.tls, _check_path(serve))


def _check_path(serve: ServePlan) -> str:
    if serve.engine == CUSTOM:
        return serve.ready_path or serve.api_prefix + "/v1/models"
    return serve.api_prefix + "/health" if serve.engine == "llama_cpp" else "/health"


def _check_tls(check: InventoryCheck, path: Path, who: str, bind: str, tls: bool, insecure: bool) -> None:
    if is_loopback(bind):
        return
    if insecure:
        check.add_note(path, "{0} is published on {1} over plain HTTP: keys and prompts can be read on the way".format(who, bind))
    elif not tls:
        what = "{0} is published on {1}, beyond loopback, without TLS".format(who, bind)
        check.add_problem(path, what, NO_TLS, "keys and prompts could be read on the network")


def _name_replicas(router: Optional[RouterPlan], subnet: ipaddress.IPv4Network) -> Tuple[ReplicaPlan, ...]:
    if router is None:
        return ()
    if router.replicas == 1:
        # Not an address of a replica: after a change of their number the replicas leave when this router is up.
        return (ReplicaPlan("router", router.container, str(subnet.broadcast_address - 1)),)
    return tuple(
        ReplicaPlan(
            service="router-{0}".format(number),
            container="{0}-{1}".format(router.container, number),
            address=str(subnet.network_address + 2 + number),
        )
        for number in range(1, router.replicas + 1)
    )


def _read_certificates(section: Section) -> Tuple[CertificatePlan, ...]:
    """``tls``: one certificate, or a list of them, the first for clients that name no host or an unknown one."""
    value = section.raw.get("tls")
    example = "tls: {certificate: /etc/anvil-tls/host.pem, key: /etc/anvil-tls/host.key}"
    path = section.path_of("tls")
    entries = [(path, value)]
    if isinstance(value, (list, tuple)):
        entries = section.check.read_list(path, value, example) or []
    found = []
    for where, raw in entries:
        inner = section.check.read_mapping(where, raw, example)
        if inner is None:
            continue
        inner.check_keys(TLS_KEYS)
        certificate = inner.read_text("certificate", PEM_PATH, ABSOLUTE)
        if not inner.has("certificate"):
            inner.add_problem("certificate", "the certificate is missing", "set it to " + PEM_PATH)
        key = inner.read_text("key", PEM_PATH, ABSOLUTE)
        found.append(CertificatePlan(certificate or "", key or ""))
    return tuple(found)


def _read_limits(section: Section) -> EdgeLimits:
    default = EdgeLimits()
    body = section.read_integer("body_limit_mib", 1, 2047, "MiB")
    return EdgeLimits(
        body=body * 1024 * 1024 if body else default.body,
        connections=section.read_integer("connections", 10, 100000) or default.connections,
        connections_per_address=section.read_integer("connections_per_address", 1, 100000) or default.connections_per_address,
        failed_keys=section.read_integer("failed_keys_per_minute", 1, 100000) or default.failed_keys,
    )


def _read_origins(section: Section) -> Tuple[str, ...]:
    listed = section.check.read_list(section.path_of("cors"), section.raw.get("cors"), "cors: [https://app.example.org]")
    rule = "an origin, such as https://app.example.org: scheme, host and port, without a path"
    found = [section.check.match_text(path, value, ORIGIN, rule) for path, value in listed or ()]
    return tuple(dict.fromkeys(origin for origin in found if origin))


def _read_metrics(section: Section) -> Optional[Tuple[str, int]]:
    rule = "an address of loopback and a port, such as 127.0.0.1:8404"
    text = section.read_text("metrics", rule, NO_SPACE)
    if not text:
        return None
    found = split_address(Section(section.check, section.path, {}), text, None, "use " + rule, "metrics")
    if found and not is_loopback(found[0]):
        section.add_problem("metrics", "{0} is beyond loopback, and metrics need no key".format(found[0]), "use " + rule)
    return found


def _read_subnet(section: Section, replicas: int) -> ipaddress.IPv4Network:
    """The network of the edge and the replicas. The bridge has the first address; the last one is broadcast."""
    text = (
        section.read_text("subnet", "an IPv4 network of private addresses, such as " + DEFAULT_SUBNET, NO_SPACE) or DEFAULT_SUBNET
    )
    path, rule = section.path_of("subnet"), "use a private network that nothing else on the host uses, such as " + DEFAULT_SUBNET
    try:
        subnet = ipaddress.IPv4Network(text)
    except ValueError as exc:
        section.check.add_problem(path, "{0!r} is not an IPv4 network".format(shorten(text)), rule, str(exc))
        return ipaddress.IPv4Network(DEFAULT_SUBNET)
    if not subnet.is_private:
        section.check.add_problem(path, "{0} is not a network of private addresses".format(subnet), rule)
    elif subnet.num_addresses < replicas + 4:
        section.check.add_problem(path, "{0} has too few addresses for {1} replicas".format(subnet, replicas), rule)
    else:
        return subnet
    return ipaddress.IPv4Network(DEFAULT_SUBNET)
