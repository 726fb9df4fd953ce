# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Build the plan of a workflow: every mistake is reported at once, every default decided. No host is contacted."""

from __future__ import annotations

import ipaddress
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.core.addresses import bracket
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.printable import hide_credentials
from ansible_collections.anvil.serving.plugins.module_utils.plan.edge_plan import EdgePlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan, Limits
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_clients import HOLDER, ROUTER_FRONT
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_edge import PLAIN_PORT
from ansible_collections.anvil.serving.plugins.plugin_utils.workflow.env_file import (
    find_env_file,
    find_missing_variables,
    read_env_file,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.workflow.file_check import (
    MODEL_KEY,
    MODEL_URL,
    check_workflow_file,
    list_variables,
    read_input_schema,
    uses_model_endpoint,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.workflow.options import (
    WorkflowOptions,
    check_options,
    check_subnet,
    is_loopback,
)

PROJECT = "anvil-workflow-"
# The default names of the router of this collection, for an inventory without a router.
ROUTER_URL = "http://anvil-router:8000/v1"
ROUTER_NETWORK = "anvil"
# Images: local ones on a host of this collection, public ones for files that run without Ansible.
LOCAL_BASE = "anvil.local/base:1"
LOCAL_EDGE = "anvil.local/edge:1"
LOCAL_POSTGRES = "anvil.local/postgres:1"
PUBLIC_BASE = "python:3.13-slim"
PUBLIC_EDGE = "haproxy:3.0-bookworm"
PUBLIC_POSTGRES = "postgres:17-bookworm"
# Networks for edge, replicas, PostgreSQL and MLflow of a workflow: 2048 of 32 addresses each, chosen by its name.
SUBNETS = ipaddress.IPv4Network("10.88.0.0/16")


@dataclass(frozen=True)
class Replica:
    """One server container of a workflow."""

    service: str
    container: str


@dataclass(frozen=True)
class WorkflowPlan:
    """A workflow, with every default decided.

    variables: the environment variables of the workflow, name -> default (None: no default). given: those that the env file
    sets. env_key: whether a model key in the env file is for model_url. addresses: service -> its fixed IPv4 address in the
    network of the project, if there is an edge: HAProxy keeps the address that it resolved first, and a container with a dynamic
    address could take the address of another one.
    """

    name: str
    title: str
    version: str
    source: str
    text: str
    project: str
    directory: str
    bind: str
    port: int
    mlflow_bind: str
    mlflow_port: int
    timeout: int
    concurrency: int
    job_ttl: int
    ready_timeout: int
    mem_limit: str
    pids_limit: int
    replicas: tuple[Replica, ...]
    network: str
    subnet: str
    addresses: dict[str, str]
    networks: tuple[str, ...]
    base: str
    edge_image: str
    postgres_image: str
    size_limit: int
    model_url: str
    model_secret: str
    env_file: str
    variables: dict[str, str | None]
    given: tuple[str, ...]
    has_api_key: bool
    hosts: tuple[str, ...]
    log_prompts: bool
    prices: Mapping[str, Any]
    tls: bool
    has_model_key: bool
    env_key: bool
    inputs: dict[str, Any]
    outputs: tuple[str, ...]
    standalone: bool = False
    notes: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON types, without the text of the workflow file."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        plain.pop("text")
        plain["model_url"] = hide_credentials(self.model_url)
        properties: dict[str, Any] = {
            "edge": self.edge,
            "mlflow": self.mlflow,
            "mlflow_auth": self.mlflow_auth,
            "inner_port": self.inner_port,
            "has_secret_url": self.has_secret_url,
        }
        return {**plain, **properties}

    @property
    def edge(self) -> bool:
        return len(self.replicas) > 1

    @property
    def mlflow(self) -> bool:
        return self.mlflow_port > 0

    @property
    def has_secret_url(self) -> bool:
        """Whether the URL of the models has credentials: then it is a secret, and in no compose file."""
        return hide_credentials(self.model_url) != self.model_url

    @property
    def inner_port(self) -> int:
        """The port of the container that is published: 8443 has TLS, 8000 is for the host's own checks and the edge."""
        return 8443 if self.tls else 8000

    @property
    def jobs_network(self) -> str:
        """The network of servers and database, without a way out."""
        return self.project + "-jobs"

    @property
    def mlflow_network(self) -> str:
        """The network of servers and MLflow, whose port is published; without a way out."""
        return self.project + "-mlflow"

    @property
    def mlflow_auth(self) -> bool:
        return self.mlflow and not is_loopback(self.mlflow_bind)


def derive_name(title: str) -> str:
    """The default name of project, containers and image: ``Article Writer!`` becomes ``article-writer``."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-") or "workflow"


def choose_subnet(name: str) -> str:
    """A network of 32 addresses, chosen by the hash of the name. Two names can get the same one; ``subnet`` overrides it."""
    pools = 2 ** (27 - SUBNETS.prefixlen)
    start = int(SUBNETS.network_address) + 32 * (zlib.crc32(name.encode()) % pools)
    return f"{ipaddress.IPv4Address(start)}/27"


@dataclass
class _ModelEndpoint:
    """The endpoint for the model calls of a workflow. secret: the name of the secret with its key."""

    url: str
    networks: tuple[str, ...]
    secret: str = ""


def _choose_model_endpoint(options: WorkflowOptions, name: str, host: HostPlan | None, given: str) -> _ModelEndpoint:
    """The endpoint from the options or the env file, else the router of the inventory, else the router by its default name."""
    router = host.router if host else None
    if options.model_url or given:
        return _ModelEndpoint(options.model_url or given, options.networks)
    if host is None or router is None:
        return _ModelEndpoint(ROUTER_URL, options.networks or (ROUTER_NETWORK,))
    front = host.edge.find_front(ROUTER_FRONT) if host.edge else None
    if host.edge is None or front is None:
        return _ModelEndpoint(f"http://{router.container}:8000/v1", options.networks or (host.network,), router.token)
    # No certificate names the edge's container, so it takes requests of containers of this host without TLS.
    url = f"http://{host.edge.container}:{PLAIN_PORT if front.tls else front.inner_port}/v1"
    return _ModelEndpoint(url, options.networks or (host.edge.network,), _find_key(name, host.edge, router.token))


def _find_key(name: str, edge: EdgePlan, token: str) -> str:
    """The secret that a workflow presents to the edge: that of the client ``workflow-NAME``, else of the client ``workflows``."""
    named = {client.name: client for client in edge.clients if not client.name.startswith(HOLDER)}
    if not named:
        return token
    client = named.get(f"workflow-{name}") or named.get("workflows")
    if client is None:
        raise fail(
            "the router has no client for this workflow",
            where="anvil_clients",
            why="a workflow requests models through the edge, with a key of its own",
            hint="add a client: anvil_clients: {workflows: {keys: [<name in anvil_secrets>]}}",
        )
    return client.keys[0]


def plan_workflow(options: WorkflowOptions, root: str, host: HostPlan | None) -> WorkflowPlan:
    """The plan of a workflow. host: the plan of the host, if its inventory has a router. Raises AnvilError with every mistake."""
    problems = list(check_options(options))
    if options.subnet:
        problems.extend(check_subnet(options))
    described: dict[str, Any] = {}
    values: dict[str, str] = {}
    env_file = ""
    try:
        described = check_workflow_file(options.workflow)
    except AnvilError as error:
        problems.extend(error.problems)
    try:
        env_file = find_env_file(options)
        values = read_env_file(env_file)
    except AnvilError as error:
        problems.extend(error.problems)
    else:
        problems.extend(find_missing_variables(list_variables(described), values, options, env_file))
    if problems:
        raise AnvilError(*problems)
    return _decide(options, root, host, described, env_file, values)


def _decide(
    options: WorkflowOptions,
    root: str,
    host: HostPlan | None,
    described: Mapping[str, Any],
    env_file: str,
    values: Mapping[str, str],
) -> WorkflowPlan:
    name = options.name or derive_name(str(described["name"]))
    variables = list_variables(described)
    models = (
        _choose_model_endpoint(options, name, host, values.get(MODEL_URL, ""))
        if uses_model_endpoint(described)
        else _ModelEndpoint("", options.networks)
    )
    # A key in the env file was written for the URL beside it.
    env_key = values.get(MODEL_URL, "") in ("", models.url)
    subnet = ipaddress.IPv4Network(options.subnet or choose_subnet(name))
    mlflow_port = 0 if options.no_mlflow else options.mlflow_port
    project = PROJECT + name
    count = options.replicas
    replicas = tuple(Replica(f"server-{number}", f"{project}-{number}") for number in range(1, count + 1))
    plan = WorkflowPlan(
        name=name,
        title=str(described["name"]),
        version=str(described.get("version") or ""),
        source=str(Path(options.workflow).resolve()),
        text=Path(options.workflow).read_text(encoding="utf-8"),
        project=project,
        directory=f"{root}/{project}",
        bind=bracket(options.bind),
        port=options.port,
        mlflow_bind=bracket(options.mlflow_bind),
        mlflow_port=mlflow_port,
        timeout=options.timeout,
        concurrency=options.concurrency,
        job_ttl=options.job_ttl,
        ready_timeout=options.ready_timeout,
        mem_limit=options.mem_limit,
        pids_limit=options.pids_limit,
        replicas=replicas if count > 1 else (Replica("server", project),),
        network=project,
        subnet=str(subnet) if count > 1 else "",
        addresses=_assign_addresses(subnet, [one.service for one in replicas]) if count > 1 else {},
        networks=models.networks,
        base=options.base or (PUBLIC_BASE if options.standalone else LOCAL_BASE),
        edge_image=options.edge_image or (PUBLIC_EDGE if options.standalone else LOCAL_EDGE),
        postgres_image=options.postgres_image or (PUBLIC_POSTGRES if options.standalone else LOCAL_POSTGRES),
        size_limit=options.size_limit,
        model_url=models.url,
        model_secret=models.secret,
        env_file=env_file,
        variables=variables,
        given=tuple(name for name in variables if values.get(name)),
        has_api_key=options.has_api_key,
        hosts=options.hosts,
        log_prompts=options.log_prompts,
        prices=options.prices,
        tls=options.tls and not options.standalone,
        # Without Ansible, the key is in .env.
        has_model_key=bool(models.url and not options.standalone and ((env_key and values.get(MODEL_KEY)) or models.secret)),
        env_key=env_key,
        inputs=read_input_schema(options.workflow),
        outputs=tuple(described["outputs"]),
        standalone=options.standalone,
        limits=host.limits if host else Limits(),
    )
    unpriced = [model for model in described.get("unpriced") or () if model not in options.prices]
    limit = f"config.execution.max_cost does not count the calls of {', '.join(unpriced)}: no price is set (workflow_prices)"
    return replace(plan, notes=(*_list_notes(plan, options, values), *([limit] if unpriced else [])))


def _assign_addresses(subnet: ipaddress.IPv4Network, replicas: list[str]) -> dict[str, str]:
    """Fixed addresses of edge and replicas. The gateway of the network has the first address; two are free."""
    found = {name: str(subnet.network_address + 5 + number) for number, name in enumerate(replicas)}
    return {"edge": str(subnet.network_address + 2), **found}


def _list_notes(plan: WorkflowPlan, options: WorkflowOptions, values: Mapping[str, str]) -> Iterator[str]:
    missing = [name for name, default in plan.variables.items() if default is None and name not in plan.given]
    if options.no_env_file and missing:
        yield f"no env file was read: the workflow runs without {', '.join(missing)} until it is deployed with an env file"
    elif not plan.env_file and not options.no_env_file and not options.standalone:
        yield "no env file .env was found beside the workflow or in the current folder; the workflow runs without one"
    if not plan.env_key and values.get(MODEL_KEY):
        why = f"it is for the {MODEL_URL} beside it; set workflow_model_key"
        yield f"{plan.env_file}: {MODEL_KEY} is not sent to model_url: {why}"
    unused = sorted(set(values) - set(plan.variables) - {MODEL_URL, MODEL_KEY})
    if unused:
        yield f"{plan.env_file}: the workflow does not use these variables and does not get them: {', '.join(unused)}"
