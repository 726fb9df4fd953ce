# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Turn the plan of a host into files: compose files, and the router's config and profile. Pure: same plan, same bytes.

Templates lay out what the plan decided; here is only what YAML and TOML ask for (quoting), and the two passes that put
each service's own hash among its labels.
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import jinja2
from ansible.module_utils.common.yaml import yaml_load
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_file import parse_compose
from ansible_collections.anvil.serving.plugins.module_utils.docker.service import (
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
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import EdgePlan, HostPlan, RouterPlan, ServePlan
from ansible_collections.anvil.serving.plugins.module_utils.router.edge import CONFIG as EDGE_CONFIG
from ansible_collections.anvil.serving.plugins.module_utils.router.edge import SOCKET as EDGE_SOCKET
from ansible_collections.anvil.serving.plugins.module_utils.router.edge import TLS_FOLDER

TEMPLATES = Path(__file__).resolve().parents[3] / "templates"
ROUTER_MOUNT = "/etc/anvil"
ROUTER_TOKEN_ENV = "ANVIL_ROUTER_TOKEN"
SERVES_PROJECT = "anvil-serves"
ROUTER_PROJECT = "anvil-router"
# Where a server of several models finds what each of them is.
MODELS_FILE = "/etc/anvil-serve/models.ini"
EDGE_FOLDER = EDGE_CONFIG.rpartition("/")[0]
# A stream may last as long as a tier may take for one answer; a replica and the edge wait for it (seconds more).
EDGE_MARGIN = 30
PROFILE_SCHEMA = "anvil-serving.router.profile_bootstrap/v2"


@dataclass(frozen=True)
class Project:
    """A compose project, ready for ``anvil_serve``: where its file goes, its text, and its services as data.

    files: path below the directory -> text, for what services mount from there.
    """

    name: str
    directory: str
    compose: str
    services: dict[str, Service]
    files: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As an argument of a task. The services are one text: Ansible looks into every single value for a template."""
        services = json.dumps({name: service_as_dict(service) for name, service in self.services.items()})
        plain = {"name": self.name, "directory": self.directory, "compose": self.compose, "services": services}
        return {**plain, "files": self.files} if self.files else plain


def quote(value: Any) -> str:
    """A YAML double-quoted string; a dollar is doubled, because compose would interpolate it."""
    return json.dumps(str(value), ensure_ascii=False).replace("$", "$$")


def toml(value: Any) -> str:
    """A TOML value: JSON's strings, numbers, booleans and lists are TOML's too."""
    return json.dumps(value, ensure_ascii=False)


def block(text: str) -> str:
    """The text of a macro without its last newline: the line that calls the macro brings one."""
    return text.removesuffix("\n")


def env_file(service: str) -> str:
    """Where a service's secrets lie, relative to the compose file."""
    return f"env/{service}.env"


@functools.cache
def _environment() -> jinja2.Environment:
    if not TEMPLATES.is_dir():
        raise fail("the collection's templates are missing", where=str(TEMPLATES), hint="install the collection again")
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (YAML and TOML, not HTML; every value goes through quote or toml)
    )
    made.filters.update(block=block, quote=quote, toml=toml)
    made.globals.update(env_file=env_file, models_file=MODELS_FILE)
    return made


def render_template(name: str, **values: Any) -> str:
    """One template, laid out with these values."""
    return _environment().get_template(name).render(values)


def _volumes(mounts: list[Mount]) -> list[str]:
    return sorted({mount.source for mount in mounts if mount.kind == "volume"})


def _render_project(
    template: str, name: str, plan: HostPlan, labels: dict[str, dict[str, str]], values: dict[str, Any]
) -> Project:
    """Render twice: the hash of a service can only be taken once the template has laid it out."""
    environment = _environment()

    def lay_out() -> str:
        return environment.get_template(template).render(plan=plan, project=name, labels=labels, **values)

    for service in parse_compose(yaml_load(lay_out())).values():
        labels[service.name][LABEL_SPEC] = service.spec_hash()
    text = lay_out()
    return Project(name, f"{plan.root}/{name}", text, parse_compose(yaml_load(text)))


def render_serves(plan: HostPlan) -> Project:
    """The compose project of a host's serves: one service per serve."""
    return _render_serves(plan, SERVES_PROJECT, {})


def _render_serves(plan: HostPlan, project: str, marks: dict[str, str]) -> Project:
    labels = {
        serve.name: {
            LABEL_SERVE: serve.name,
            LABEL_PREFIX + "engine": serve.engine,
            LABEL_PREFIX + "served_name": serve.served_name,
            LABEL_VRAM: str(serve.vram_mib),
            LABEL_RESIDENCY: serve.residency,
            **marks,
        }
        for serve in plan.serves
    }
    texts = {f"models/{serve.name}.ini": render_models(serve) for serve in plan.serves if serve.models}
    plan = replace(plan, serves=tuple(_mount_models(serve, f"{plan.root}/{project}") for serve in plan.serves))
    mounts = [mount for serve in plan.serves for mount in serve.mounts]
    values = {"volumes": _volumes(mounts), "tags": {serve.name: _tags(plan, serve) for serve in plan.serves}}
    made = _render_project("serves.compose.yaml.j2", project, plan, labels, values)
    return replace(made, files=texts) if texts else made


def render_models(serve: ServePlan) -> str:
    """The preset file of a llama.cpp server of several models: one section each, flags without their dashes."""
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
    """The words that select a serve besides its name: its tags, and the tiers it serves."""
    tiers = [tier.id for tier in plan.router.tiers if tier.serve == serve.name] if plan.router else []
    names = {other.name for other in plan.serves}
    return sorted({*serve.tags, *tiers} - names)


def _router_values(router: RouterPlan) -> dict[str, Any]:
    secrets = {tier.key_env: tier.key_secret for tier in router.tiers if tier.key_secret}
    if router.token:
        secrets[ROUTER_TOKEN_ENV] = router.token
    values = {key: value for key, value in asdict(router).items() if key not in ("tiers", "profile", "edge")}
    values.update(
        tiers=router.tiers,
        profile=router.profile,
        secrets=secrets,
        command=["router", "run", "--host", "0.0.0.0", "--port", "8000", "--config", f"{ROUTER_MOUNT}/config.toml"],
        # A preset of the tier's own name: a bare tier id would be classified, and may silently go elsewhere.
        presets={tier.id: (tier.id,) for tier in router.tiers} | router.presets,
        mounts=[Mount("volume", router.volume, ROUTER_MOUNT, read_only=True)],
        # A gateway router ends its requests on SIGTERM; the other generation ends at once, on SIGINT without a complaint.
        stop_signal="SIGTERM" if router.generation == "gateway" else "SIGINT",
    )
    return values


def render_edge_config(plan: HostPlan, router: RouterPlan, edge: EdgePlan) -> str:
    """haproxy.cfg: the edge before the replicas."""
    values = {
        "socket": EDGE_SOCKET,
        "longest": router.request_timeout + EDGE_MARGIN,
        "certificates": edge.certificates,
        "tls_folder": TLS_FOLDER,
        "check_path": "/v1/health/tiers" if edge.check_tiers else "/healthz",
        "check_token": edge.check_tiers and bool(router.token),
        "replicas": edge.replicas,
    }

    def lay_out(revision: str) -> str:
        return render_template("edge/haproxy.cfg.j2", plan=plan, edge={**values, "revision": revision})

    # The running process tells this hash (show info), so whether it has read this file can be asked.
    return lay_out(hashlib.sha256(lay_out("").encode()).hexdigest())


def render_replicas(plan: HostPlan, router: RouterPlan, edge: EdgePlan) -> Project:
    """The compose project of a router of several replicas, with the edge before them."""
    names = [*(replica.service for replica in edge.replicas), "edge"]
    labels = {name: {LABEL_SERVE: name, LABEL_PREFIX + "engine": "edge" if name == "edge" else "router"} for name in names}
    start = ["router", "run", "--host", "0.0.0.0", "--port", "8000", "--config"]
    mounts = [Mount("volume", edge.volume, EDGE_FOLDER, read_only=True)]
    if edge.certificates:
        mounts.append(Mount("bind", edge.certificates, TLS_FOLDER, read_only=True))
    values = {
        "router": _router_values(router),
        "edge": edge,
        "edge_mounts": mounts,
        "edge_command": ["-W", "-db", "-f", EDGE_CONFIG],
        "edge_secrets": {ROUTER_TOKEN_ENV: router.token} if edge.check_tiers and router.token else {},
        "commands": {one.service: [*start, f"{live_folder(one.container)}/config.toml"] for one in edge.replicas},
        "folders": {one.service: live_folder(one.container) for one in edge.replicas},
        "volumes": [router.volume, edge.volume],
    }
    return _render_project("router_replicas.compose.yaml.j2", ROUTER_PROJECT, plan, labels, values)


def live_folder(replica: str) -> str:
    """Where a replica reads its files: through its own pointer, so that only a promotion of it switches them."""
    return f"{ROUTER_MOUNT}/.anvil/live/{replica}"


def render_router(plan: HostPlan, router: RouterPlan) -> Project:
    """The compose project of a host's router."""
    if router.edge:
        return render_replicas(plan, router, router.edge)
    labels = {"router": {LABEL_SERVE: "router", LABEL_PREFIX + "engine": "router"}}
    values = {"router": _router_values(router), "volumes": [router.volume]}
    return _render_project("router.compose.yaml.j2", ROUTER_PROJECT, plan, labels, values)


def render_router_config(plan: HostPlan, router: RouterPlan) -> str:
    """config.toml, for the generation of the router."""
    values = {
        "plan": plan,
        "router": _router_values(router),
        "mapping_version": "anvil.serving/1",
        # Replicas share the config and not the pointer: a relative path is read from the folder a replica runs in, its own.
        "profile_path": "profile.json" if router.edge else f"{ROUTER_MOUNT}/profile.json",
    }
    return _environment().get_template(f"router/{router.generation}.toml.j2").render(values)


def render_router_profile(router: RouterPlan) -> str:
    """profile.json, or an empty string where the inventory holds no measured rows."""
    if not router.profile:
        return ""
    document = {"schema": PROFILE_SCHEMA, "mode": "live", "entries": [asdict(row) for row in router.profile]}
    return json.dumps(document, indent=2) + "\n"


def name_containers(router: RouterPlan) -> dict[str, Any]:
    """Who is who: ``containers`` run the router, ``edge`` stands before them (empty: nothing), ``front`` is what clients reach.

    ``replicas`` is empty where there is one container and no edge. ``edge_folders``: what the edge mounts of the host, path
    inside -> folder.
    """
    replicas = [one.container for one in router.edge.replicas] if router.edge else []
    edge = router.edge.container if router.edge else ""
    containers = replicas or [router.container]
    return {
        "containers": containers,
        "replicas": replicas,
        "edge": edge,
        "front": edge or router.container,
        "edge_folders": {TLS_FOLDER: router.edge.certificates} if router.edge and router.edge.certificates else {},
    }


def render_host(plan: HostPlan) -> dict[str, Any]:
    """Everything that the plan of a host renders to, as plain data.

    ``serves`` and ``router`` are projects for ``anvil_serve`` (``None`` where the host has none); ``router_files``
    holds the text of ``config`` and ``profile`` for ``anvil_router_promote``, and of ``edge`` for ``anvil_router_edge``.
    """
    router = plan.router
    return {
        "serves": render_serves(plan).as_dict() if plan.serves else None,
        "router": render_router(plan, router).as_dict() if router else None,
        "router_names": name_containers(router) if router else None,
        "router_files": {
            "config": render_router_config(plan, router) if router else "",
            "profile": render_router_profile(router) if router else "",
            "edge": render_edge_config(plan, router, router.edge) if router and router.edge else "",
        },
    }


def experiment_labels(name: str, ttl: int) -> dict[str, str]:
    """What marks a container as part of an experiment. ttl: seconds it may live; 0 is until it is told to go."""
    return {LABEL_EXPERIMENT: name} | ({LABEL_TTL: str(ttl)} if ttl else {})


def render_experiment(plan: HostPlan, name: str, ttl: int) -> Project:
    """The compose project of an experiment: the plan's serves, in a project of their own."""
    return _render_serves(plan, EXPERIMENT_PROJECT + name, experiment_labels(name, ttl))
