# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Render the plan of a host into files: compose files, and the router's config and profile. Pure: same plan, same bytes.

Templates lay out what the plan decided. This room adds the quoting that YAML and TOML need, and renders twice, so that each
service carries its own hash as a label.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shlex
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import jinja2
from ansible import constants
from ansible.module_utils.common.yaml import yaml_load
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import ENGINES
from ansible_collections.anvil.serving.plugins.module_utils.core.addresses import format_url
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_file import parse_compose
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
    CDI_PREFIX,
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
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import (
    EdgePlan,
    ExternalPlan,
    HostPlan,
    RouterPlan,
    ServePlan,
)
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_layout import CONFIG_PATH, SOCKET_PATH, TLS_FOLDER
from ansible_collections.anvil.serving.plugins.module_utils.serves.vram_ledger import format_claims

TEMPLATES = Path(__file__).resolve().parents[3] / "templates"
ROUTER_MOUNT = "/etc/anvil"
ROUTER_TOKEN_ENV = "ANVIL_ROUTER_TOKEN"
SERVES_PROJECT = "anvil-serves"
ROUTER_PROJECT = "anvil-router"
# The preset file of a llama.cpp server with several models, in its container.
MODELS_FILE = "/etc/anvil-serve/models.ini"
EDGE_FOLDER = CONFIG_PATH.rpartition("/")[0]
# Seconds that the edge waits beyond the time that a tier may take for one answer.
EDGE_MARGIN = 30
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


def quote(value: Any) -> str:
    """A double-quoted YAML string. A dollar is doubled, because compose would interpolate it."""
    return json.dumps(str(value), ensure_ascii=False).replace("$", "$$")


def toml(value: Any) -> str:
    """A TOML value. Strings, numbers, booleans and lists are the same in JSON and TOML."""
    return json.dumps(value, ensure_ascii=False)


def block(text: str) -> str:
    """The text of a macro without its last newline, because the line that calls the macro ends with one."""
    return text.removesuffix("\n")


def env_file(service: str) -> str:
    """The env file with the secrets of a service, relative to the compose file."""
    return f"env/{service}.env"


@functools.cache
def _environment() -> jinja2.Environment:
    if not TEMPLATES.is_dir():
        raise fail(
            "the templates of the collection are missing",
            where=str(TEMPLATES),
            hint="install it again: ansible-galaxy collection install --force anvil.serving",
        )
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        # Ansible plans each host in a new process: the first one compiles the templates for all hosts of the run.
        bytecode_cache=jinja2.FileSystemBytecodeCache(constants.DEFAULT_LOCAL_TMP),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 (YAML and TOML, not HTML; every value goes through quote or toml)
    )
    made.filters.update(block=block, quote=quote, toml=toml)
    made.globals.update(env_file=env_file, models_file=MODELS_FILE, cdi_prefix=CDI_PREFIX)
    return made


def render_template(name: str, **values: Any) -> str:
    """The text of one template with these values."""
    return _environment().get_template(name).render(values)


def _volumes(mounts: list[Mount]) -> list[str]:
    return sorted({mount.source for mount in mounts if mount.kind == "volume"})


def _render_project(
    template: str, name: str, plan: HostPlan, labels: dict[str, dict[str, str]], values: dict[str, Any]
) -> Project:
    """Render twice: the hash of a service is known only after the template was rendered once."""
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
    values = {"volumes": _volumes(mounts), "tags": {serve.name: _tags(plan, serve) for serve in plan.serves}}
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
    tiers = [tier.id for tier in (*router.tiers, *router.purposes, *router.audio) if tier.serve == serve.name] if router else []
    names = {other.name for other in plan.serves}
    return sorted({*serve.tags, *tiers} - names)


def _router_values(router: RouterPlan) -> dict[str, Any]:
    secrets = {tier.key_env: tier.key_secret for tier in (*router.tiers, *router.purposes, *router.audio) if tier.key_secret}
    if router.token:
        secrets[ROUTER_TOKEN_ENV] = router.token
    values = {key: value for key, value in asdict(router).items() if key not in ("tiers", "profile", "edge")}
    values.update(
        tiers=router.tiers,
        profile=router.profile,
        secrets=secrets,
        command=["router", "run", "--host", "0.0.0.0", "--port", "8000", "--config", f"{ROUTER_MOUNT}/config.toml"],
        # Each tier gets a preset of its own name, because the router classifies a bare tier id and may choose another tier.
        presets={tier.id: (tier.id,) for tier in router.tiers} | router.presets,
        mounts=[Mount("volume", router.volume, ROUTER_MOUNT, read_only=True)],
        # A gateway router finishes its requests on SIGTERM. A profile router stops at once, and without an error only on SIGINT.
        stop_signal="SIGTERM" if router.generation == "gateway" else "SIGINT",
    )
    return values


def render_edge_config(plan: HostPlan, router: RouterPlan, edge: EdgePlan) -> str:
    """haproxy.cfg of the edge in front of the replicas."""
    values = {
        "socket": SOCKET_PATH,
        "longest": router.request_timeout + EDGE_MARGIN,
        "certificates": edge.certificates,
        "tls_folder": TLS_FOLDER,
        "check_path": "/v1/health/tiers" if edge.check_tiers else "/healthz",
        "check_token": edge.check_tiers and bool(router.token),
        "replicas": edge.replicas,
    }

    def lay_out(revision: str) -> str:
        return render_template("edge/haproxy.cfg.j2", plan=plan, edge={**values, "revision": revision})

    # The running process reports this hash (show info), which proves that it has read this file.
    return lay_out(hashlib.sha256(lay_out("").encode()).hexdigest())


def render_replicas(plan: HostPlan, router: RouterPlan, edge: EdgePlan) -> Project:
    """The compose project of a router with several replicas, and of the edge in front of them."""
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
        "edge_command": ["-W", "-db", "-f", CONFIG_PATH],
        "edge_secrets": {ROUTER_TOKEN_ENV: router.token} if edge.check_tiers and router.token else {},
        "commands": {one.service: [*start, f"{live_folder(one.container)}/config.toml"] for one in edge.replicas},
        "folders": {one.service: live_folder(one.container) for one in edge.replicas},
        "volumes": [router.volume, edge.volume],
    }
    return _render_project("router_replicas.compose.yaml.j2", ROUTER_PROJECT, plan, labels, values)


def live_folder(replica: str) -> str:
    """The folder that a replica reads its files from: its own symlink, which only a promotion of this replica switches."""
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
        # All replicas share one config. A relative path is resolved in the working folder of a replica, which is its own symlink.
        "profile_path": "profile.json" if router.edge else f"{ROUTER_MOUNT}/profile.json",
    }
    return _environment().get_template(f"router/{router.generation}.toml.j2").render(values)


def render_router_profile(router: RouterPlan) -> str:
    """profile.json, without entries where nothing was measured; empty for a gateway router, which reads none."""
    if router.generation == "gateway":
        return ""
    document = {"schema": PROFILE_SCHEMA, "mode": "live", "entries": [asdict(row) for row in router.profile]}
    return json.dumps(document, indent=2) + "\n"


def name_containers(router: RouterPlan) -> dict[str, Any]:
    """The names of the router's containers: ``containers`` run the router, ``edge`` is in front of them (empty: none), ``front``
    is the one that clients reach.

    ``replicas`` is empty if there is one container and no edge. ``edge_folders``: path in the edge's container -> folder of the
    host that is mounted there.
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

    ``serves`` and ``router``: projects for ``anvil_serve`` (``None`` if the host has none). ``router_files``: the text of
    ``config`` and ``profile`` for ``anvil_router_promote``, and of ``edge`` for ``anvil_router_edge``.
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
    serves, router, files = rendered["serves"] or {}, rendered["router"] or {}, rendered["router_files"]
    texts = {
        "serves/compose.yaml": serves.get("compose", ""),
        "router/compose.yaml": router.get("compose", ""),
        "router/config.toml": files["config"],
        "router/profile.json": files["profile"],
        "router/edge/haproxy.cfg": files["edge"],
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
