# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Render the plan of a host into files: compose files, and the router's config and profile. Pure: same plan, same bytes.

Templates lay out what the plan decided. A project is rendered twice, so that each service carries its own hash as a label.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ansible.module_utils.common.yaml import yaml_load
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import ENGINES
from ansible_collections.anvil.serving.plugins.module_utils.core.addresses import format_url
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_file import parse_compose
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
    EXPERIMENT_PROJECT,
    LABEL_EXPERIMENT,
    LABEL_PREFIX,
    LABEL_RESIDENCY,
    LABEL_SERVE,
    LABEL_SPEC,
    LABEL_TTL,
    LABEL_VRAM,
    Mount,
    Service,
    service_as_dict,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.edge_plan import MONITORING, BackendPlan, EdgePlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import (
    ExternalPlan,
    HostPlan,
    RouterPlan,
    ServePlan,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_clients import ALL, ROUTER_FRONT
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_edge import METRICS_PORT
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_networks import list_peers
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_layout import (
    CONFIG_FOLDER,
    CONFIG_PATH,
    WATCH_FOLDER,
    WATCH_MOUNT,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.vram_ledger import format_claims
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render_edge import describe_edge
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.templating import MODELS_FILE, render_template

ROUTER_MOUNT = "/etc/anvil"
# The certificates that a router trusts besides those of its image.
ROUTER_CA = "/etc/anvil-ca/ca.pem"
ROUTER_TOKEN_ENV = "ANVIL_ROUTER_TOKEN"
SERVES_PROJECT = "anvil-serves"
ROUTER_PROJECT = "anvil-router"
# Seconds in which an external server must answer after its start script began.
EXTERNAL_TIMEOUT = 600
PROFILE_SCHEMA = "anvil-serving.router.profile_bootstrap/v2"


@dataclass(frozen=True)
class Project:
    """A compose project for ``anvil_serve``: the folder and text of its compose file, and its services as data.

    files: path below the directory -> text, of files that services mount.
    """

    name: str
    directory: str
    compose: str
    services: dict[str, Service]
    files: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The argument of a task. The services are one text, because Ansible would search every single value for a template."""
        services = json.dumps({name: service_as_dict(service) for name, service in self.services.items()})
        plain = {"name": self.name, "directory": self.directory, "compose": self.compose, "services": services}
        return {**plain, "files": self.files} if self.files else plain


def _volumes(mounts: list[Mount]) -> list[str]:
    return sorted({mount.source for mount in mounts if mount.kind == "volume"})


def _render_project(
    template: str, name: str, plan: HostPlan, labels: dict[str, dict[str, str]], values: dict[str, Any]
) -> Project:
    """Render twice: the hash of a service is known only after the template was rendered once."""

    def lay_out() -> str:
        return render_template(template, plan=plan, project=name, labels=labels, **values)

    for service in parse_compose(yaml_load(lay_out())).values():
        labels[service.name][LABEL_SPEC] = service.spec_hash()
    text = lay_out()
    return Project(name, f"{plan.root}/{name}", text, parse_compose(yaml_load(text)))


def render_serves(plan: HostPlan) -> Project:
    """The compose project of a host's serves: one service per serve."""
    return _render_serves(plan, SERVES_PROJECT, {})


def _render_serves(plan: HostPlan, project: str, extra_labels: dict[str, str]) -> Project:
    labels = {
        serve.name: {
            LABEL_SERVE: serve.name,
            LABEL_PREFIX + "engine": serve.engine,
            LABEL_PREFIX + "served_name": serve.served_name,
            LABEL_VRAM: format_claims(serve.vram_mib, serve.vram_by_card),
            LABEL_RESIDENCY: serve.residency,
            **extra_labels,
        }
        for serve in plan.serves
    }
    texts = {f"models/{serve.name}.ini": render_models(serve) for serve in plan.serves if serve.models}
    plan = replace(plan, serves=tuple(_mount_models(serve, f"{plan.root}/{project}") for serve in plan.serves))
    mounts = [mount for serve in plan.serves for mount in serve.mounts]
    networks = sorted({serve.network or plan.network for serve in plan.serves if not serve.host_network})
    peers = {serve.name: dict(list_peers(plan, serve)) for serve in plan.serves}
    values = {
        "volumes": _volumes(mounts),
        "networks": networks,
        "peers": peers,
        "tags": {serve.name: _tags(plan, serve) for serve in plan.serves},
    }
    made = _render_project("serves.compose.yaml.j2", project, plan, labels, values)
    return replace(made, files=texts) if texts else made


def render_models(serve: ServePlan) -> str:
    """The preset file of a llama.cpp server with several models: one section for each, with flags without their dashes."""
    lines = ["version = 1"]
    for name, options in serve.models.items():
        lines += ["", f"[{name}]", *(f"{key} = {value}" for key, value in options.items())]
    return "\n".join(lines) + "\n"


def _mount_models(serve: ServePlan, directory: str) -> ServePlan:
    if not serve.models:
        return serve
    mount = Mount("bind", f"{directory}/models/{serve.name}.ini", MODELS_FILE, read_only=True)
    return replace(serve, mounts=(*serve.mounts, mount))


def _tags(plan: HostPlan, serve: ServePlan) -> list[str]:
    """The words that select a serve, besides its name: its tags and its tiers."""
    router = plan.router
    here = BackendPlan(plan.host, serve.name).name
    every = (*router.tiers, *router.purposes, *router.audio) if router else ()
    tiers = [one.id for one in every if one.serve == serve.name or here in {backend.name for backend in one.backends}]
    names = {other.name for other in plan.serves}
    return sorted({*serve.tags, *tiers} - names)


def _list_closed(plan: HostPlan, networks: Iterable[str]) -> list[str]:
    """Those of the networks from which no other machine is reached."""
    return sorted({serve.network for serve in plan.serves if serve.closed}.intersection(networks))


def list_selectors(plan: HostPlan) -> list[str]:
    """The words that select serves of a host: their names and tags, among them the tiers."""
    return sorted({word for serve in plan.serves for word in (serve.name, *_tags(plan, serve))})


def _router_values(router: RouterPlan) -> dict[str, Any]:
    secrets = {tier.key_env: tier.key_secret for tier in (*router.tiers, *router.purposes, *router.audio) if tier.key_secret}
    if router.token:
        secrets[ROUTER_TOKEN_ENV] = router.token
    values = {key: value for key, value in asdict(router).items() if key not in ("tiers", "profile")}
    values.update(
        tiers=router.tiers,
        profile=router.profile,
        secrets=secrets,
        command=["router", "run", "--host", "0.0.0.0", "--port", "8000", "--config", f"{ROUTER_MOUNT}/config.toml"],
        # Each tier gets a preset of its own name, because the router classifies a bare tier id and may choose another tier.
        presets={tier.id: (tier.id,) for tier in router.tiers} | router.presets,
        mounts=[
            Mount("volume", router.volume, ROUTER_MOUNT, read_only=True),
            *([Mount("bind", router.ca, ROUTER_CA, read_only=True)] if router.ca else []),
        ],
        environment={"SSL_CERT_FILE": ROUTER_CA} if router.ca else {},
        # A gateway router finishes its requests on SIGTERM. A profile router stops at once, and without an error only on SIGINT.
        stop_signal="SIGTERM" if router.generation == "gateway" else "SIGINT",
    )
    return values


def render_behind_edge(plan: HostPlan, edge: EdgePlan) -> Project:
    """The compose project of the edge, and of the router or its replicas behind it."""
    names = [*(replica.service for replica in edge.replicas), "edge"]
    labels = {name: {LABEL_SERVE: name, LABEL_PREFIX + "engine": "edge" if name == "edge" else "router"} for name in names}
    start = ["router", "run", "--host", "0.0.0.0", "--port", "8000", "--config"]
    folders = {one.service: live_folder(one.container) if edge.shares_volume else ROUTER_MOUNT for one in edge.replicas}
    router = plan.router if edge.replicas else None
    ports = [(front.bind, front.port, front.inner_port) for front in edge.fronts]
    edge_networks = sorted({serve.network or plan.network for serve in plan.serves if serve.container in edge.fronted})
    networks = [plan.network, *(router.serve_networks if router else ())]
    values = {
        "router": _router_values(router) if router else None,
        "edge": edge,
        "router_front": edge.find_front(ROUTER_FRONT),
        "ports": [*ports, *([(*edge.metrics, METRICS_PORT)] if edge.metrics else [])],
        "edge_networks": edge_networks,
        "edge_mounts": [Mount("volume", edge.volume, CONFIG_FOLDER, read_only=True)],
        "watch_folder": f"{plan.root}/{WATCH_FOLDER}" if edge.find_front(MONITORING) else "",
        "watch_mount": WATCH_MOUNT,
        "edge_command": ["-W", "-db", "-f", CONFIG_PATH],
        "commands": {service: [*start, f"{folder}/config.toml"] for service, folder in folders.items()},
        "folders": folders,
        "volumes": [*([router.volume] if router else []), edge.volume],
        "closed": _list_closed(plan, [*(router.serve_networks if router else ()), *edge_networks]),
        "networks": sorted({edge.network, *(networks if router else ()), *edge_networks}),
    }
    return _render_project("router_edge.compose.yaml.j2", ROUTER_PROJECT, plan, labels, values)


def live_folder(replica: str) -> str:
    """The folder that a replica reads its files from: its own symlink, which only a promotion of this replica switches."""
    return f"{ROUTER_MOUNT}/.anvil/live/{replica}"


def render_router(plan: HostPlan, router: RouterPlan) -> Project:
    """The compose project of a host's router."""
    if plan.edge:
        return render_behind_edge(plan, plan.edge)
    labels = {"router": {LABEL_SERVE: "router", LABEL_PREFIX + "engine": "router"}}
    values = {"router": _router_values(router), "volumes": [router.volume], "closed": _list_closed(plan, router.serve_networks)}
    return _render_project("router.compose.yaml.j2", ROUTER_PROJECT, plan, labels, values)


def render_router_config(plan: HostPlan, router: RouterPlan) -> str:
    """config.toml, for the generation of the router."""
    values = {
        "plan": plan,
        "router": _router_values(router),
        "mapping_version": "anvil.serving/1",
        # All replicas share one config. A relative path is resolved in the working folder of a replica, which is its own symlink.
        "profile_path": "profile.json" if plan.edge and plan.edge.shares_volume else f"{ROUTER_MOUNT}/profile.json",
    }
    return render_template(f"router/{router.generation}.toml.j2", **values)


def render_router_profile(router: RouterPlan) -> str:
    """profile.json, without entries where nothing was measured; empty for a gateway router, which reads none."""
    if router.generation == "gateway":
        return ""
    document = {"schema": PROFILE_SCHEMA, "mode": "live", "entries": [asdict(row) for row in router.profile]}
    return json.dumps(document, indent=2) + "\n"


def name_containers(plan: HostPlan, router: RouterPlan) -> dict[str, Any]:
    """The names of the router's containers: ``containers`` run the router, ``edge`` is in front of them (empty: none), ``front``
    is the one that clients reach.

    ``replicas`` is empty if there is one container. ``asked``: where the tiers are asked for an answer, and the secret that is
    presented there: the edge, as a client that may use every tier; without such a client, the router itself.
    """
    edge = plan.edge
    replicas = [one.container for one in edge.replicas] if edge and edge.shares_volume else []
    able = [one.keys[0] for one in edge.clients if one.keys and one.access.get(ROUTER_FRONT) == ALL] if edge else []
    named = [one for one in edge.clients if set(one.access) != {MONITORING}] if edge else []
    at_edge = bool(edge) and (bool(able) or not named)
    return {
        "containers": replicas or [router.container],
        "replicas": replicas,
        "edge": edge.container if edge else "",
        "front": edge.container if edge else router.container,
        "asked": {"edge": edge.container if edge and at_edge else "", "secret": able[0] if able else router.token},
    }


def render_host(plan: HostPlan) -> dict[str, Any]:
    """Everything that the plan of a host renders to, as plain data.

    ``serves`` and ``router``: projects for ``anvil_serve`` (``None`` if the host has none). ``router_files``: the text of
    ``config`` and ``profile`` for ``anvil_router_promote``. ``edge``: the parameters of ``anvil_router_edge``.
    ``edge_alone``: the project of an edge without a router. ``backend_hosts``: the hosts that its tiers have backends on.
    """
    router, edge = plan.router, plan.edge
    return {
        "serves": render_serves(plan).as_dict() if plan.serves else None,
        "router": render_router(plan, router).as_dict() if router else None,
        "router_names": name_containers(plan, router) if router else None,
        "router_files": {
            "config": render_router_config(plan, router) if router else "",
            "profile": render_router_profile(router) if router else "",
        },
        "edge": describe_edge(plan, edge) if edge else None,
        "edge_alone": render_behind_edge(plan, edge).as_dict() if edge and not router else None,
        "backend_hosts": sorted({backend.host for tier in edge.tiers for backend in tier.backends}) if edge else [],
        "external_files": {one.name: render_external(plan, one) for one in plan.externals if one.start},
    }


def render_external(plan: HostPlan, external: ExternalPlan) -> str:
    """The script that starts, stops and checks an external server on its machine. The server answers there where it listens."""
    words = list(external.start)
    listen = words[words.index("--host") + 1] if "--host" in words[:-1] else "127.0.0.1"
    return render_template(
        "external.sh.j2",
        host=plan.host,
        server=external.name,
        url=format_url("http", listen, external.port) + "/v1/models",
        command=shlex.join(words),
        program=shlex.quote(words[0]),
        missing=shlex.quote(f"the program {words[0]} is not on PATH; install it, or set its path in anvil_external"),
        key=external.api_key,
        key_env=ENGINES[external.engine].key_env if external.api_key and external.engine else "",
        timeout=EXTERNAL_TIMEOUT,
    )


def list_rendered_files(rendered: dict[str, Any]) -> dict[str, str]:
    """The files of one host: path -> text. rendered: the result of ``render_host``."""
    serves, files, edge = rendered["serves"] or {}, rendered["router_files"], rendered["edge"] or {}
    router = rendered["router"] or rendered["edge_alone"] or {}
    texts = {
        "serves/compose.yaml": serves.get("compose", ""),
        "router/compose.yaml": router.get("compose", ""),
        "router/config.toml": files["config"],
        "router/profile.json": files["profile"],
        "router/edge/haproxy.cfg": edge.get("config", ""),
        **{f"router/edge/{name}": text for name, text in edge.get("maps", {}).items()},
        **{f"external/{name}.sh": text for name, text in rendered["external_files"].items()},
        **{f"serves/{name}": text for name, text in serves.get("files", {}).items()},
    }
    return {path: text for path, text in texts.items() if text}


def experiment_labels(name: str, ttl: int) -> dict[str, str]:
    """The labels that mark a container as part of an experiment. ttl: seconds it may live; 0 is no limit."""
    return {LABEL_EXPERIMENT: name} | ({LABEL_TTL: str(ttl)} if ttl else {})


def render_experiment(plan: HostPlan, name: str, ttl: int) -> Project:
    """The compose project of an experiment: the serves of the plan, in a project of its own."""
    return _render_serves(plan, EXPERIMENT_PROJECT + name, experiment_labels(name, ttl))
