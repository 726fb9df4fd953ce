# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A workflow and the wishes of its operator, checked on the controller: every mistake at once, nothing contacted.

The file itself is judged by the very program that the image will run, so the two cannot disagree.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import ipaddress
import json
import re
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan

RUNTIME = Path(__file__).resolve().parents[3] / "roles" / "workflow" / "files"
PACKAGE = "anvil_workflow"
PROJECT = "anvil-workflow-"
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
NAME_RULE = "1 to 40 of a-z, 0-9 and -, as in a host name"
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

# The router of this collection, where the inventory says nothing of one.
ROUTER_URL, ROUTER_NETWORK = "http://anvil-router:8000/v1", "anvil"
# 8000 is the router's port on the host.
DEFAULT_PORT, DEFAULT_MLFLOW_PORT = 8100, 5000
MODEL_URL, MODEL_KEY = "OPENAI_BASE_URL", "OPENAI_API_KEY"
LOCAL_BASE, PUBLIC_BASE = "anvil.local/base:1", "python:3.13-slim"
LOCAL_EDGE, PUBLIC_EDGE = "anvil.local/edge:1", "haproxy:3.0-bookworm"
LOCAL_POSTGRES, PUBLIC_POSTGRES = "anvil.local/postgres:1", "postgres:17-bookworm"
MAX_REPLICAS = 16
# Networks of our own for edge, replicas, PostgreSQL and MLflow: 2048 of 32 addresses, chosen by the workflow's name.
SUBNETS = ipaddress.IPv4Network("10.88.0.0/16")


@dataclass(frozen=True)
class Wish:
    """What was typed. Empty text is not given. timeout, job_ttl: seconds; size_limit: units of 10**6 bytes."""

    workflow: str
    name: str = ""
    port: int = DEFAULT_PORT
    bind: str = "127.0.0.1"
    mlflow_port: int = DEFAULT_MLFLOW_PORT
    mlflow_bind: str = "127.0.0.1"
    no_mlflow: bool = False
    timeout: int = 30
    concurrency: int = 0
    job_ttl: int = 86400
    ready_timeout: int = 120
    replicas: int = 1
    subnet: str = ""
    base: str = ""
    edge_image: str = ""
    postgres_image: str = ""
    size_limit: int = 200
    env_file: str = ""
    no_env_file: bool = False
    model_url: str = ""
    networks: tuple[str, ...] = ()
    has_api_key: bool = False
    standalone: bool = False


@dataclass(frozen=True)
class ReplicaAt:
    """One server container."""

    service: str
    container: str


@dataclass(frozen=True)
class WorkflowPlan:
    """A workflow, all decided.

    variables: what the workflow's environment must hold, name -> default (None: there is none). given: those of them
    that the env file has. addresses: service -> its fixed IPv4 address in the project's network, where there is an edge:
    HAProxy holds on to an address, and a container that chose its own might take that of another one.
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
    replicas: tuple[ReplicaAt, ...]
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
    has_model_key: bool
    inputs: dict[str, Any]
    outputs: tuple[str, ...]
    standalone: bool = False
    notes: tuple[str, ...] = ()

    @property
    def edge(self) -> bool:
        return len(self.replicas) > 1

    @property
    def mlflow(self) -> bool:
        return self.mlflow_port > 0

    @property
    def mlflow_auth(self) -> bool:
        return self.mlflow and not is_loopback(self.mlflow_bind)


def is_loopback(bind: str) -> bool:
    return bind == "localhost" or ipaddress.ip_address(bind).is_loopback


# --------------------------------------------------------------------------------------------------- the workflow file


def check_workflow(path: str) -> dict[str, Any]:
    """What the runtime says of a workflow file. Raises AnvilError with every mistake and its line."""
    if not path:
        raise fail("no workflow is named", where="workflow", hint="-e workflow=path/to/workflow.yaml")
    if not Path(path).is_file():
        hint = "the path is read on this machine, from the folder that ansible-playbook was started in"
        raise fail("there is no such file", where=path, hint=hint)
    told = _run_runtime("check", path, "--format", "json")
    if not told["ok"]:
        raise AnvilError(*(_as_problem(path, problem) for problem in told["problems"]))
    described: dict[str, Any] = told["workflow"]
    return described


def read_inputs(path: str) -> dict[str, Any]:
    """The JSON Schema of what a caller gives."""
    schema: dict[str, Any] = _run_runtime("openapi", path)["components"]["schemas"]["Inputs"]
    return schema


def _run_runtime(*words: str) -> dict[str, Any]:
    """The runtime's own command line, in this process: a second interpreter would cost a second."""
    if str(RUNTIME) not in sys.path:
        sys.path.append(str(RUNTIME))
    printed = io.StringIO()
    try:
        program = importlib.import_module(f"{PACKAGE}.__main__")
        with contextlib.redirect_stdout(printed):
            program.main(list(words))
    except ImportError as error:
        raise _broken_controller(str(error.name or error)) from error
    told: dict[str, Any] = json.loads(printed.getvalue())
    return told


def _as_problem(path: str, told: Mapping[str, Any]) -> Problem:
    place = f"{path}:{told['line']}:{told['column']}" if told.get("line") else path
    key = f" {told['path']}" if told.get("path") else ""
    value = told.get("value")
    why = "" if value in (None, "") else f"it says {value}"
    return Problem(str(told["what"]), place + key, why, str(told.get("do") or ""))


def _broken_controller(module: str) -> AnvilError:
    """A package that the runtime imports is not there; its pin is in the runtime's own requirements."""
    pins = (RUNTIME / "requirements.txt").read_text(encoding="utf-8").splitlines()
    package = {"yaml": "PyYAML"}.get(module, module.partition(".")[0])
    pin = next((line for line in pins if line.lower().startswith(package.lower() + "==")), package)
    return fail(
        f"the Python package {package} is missing on the controller",
        where=sys.executable,
        why="workflow files are checked here by the program that will run them",
        hint=f"{sys.executable} -m pip install {pin}",
    )


def list_variables(described: Mapping[str, Any]) -> dict[str, str | None]:
    """The variables that the operator gives -> default; None where one must be given.

    Where the models are is decided here, and their key is a private file, so these two are none of them.
    """
    found = {str(one["name"]): None if one["required"] else str(one["default"] or "") for one in described.get("variables") or []}
    return {name: default for name, default in found.items() if name not in (MODEL_URL, MODEL_KEY)}


def asks_endpoint(described: Mapping[str, Any]) -> bool:
    """Whether a node's model is asked at the OpenAI-compatible endpoint, and not only at addresses of its own."""
    return any(one["name"] == MODEL_URL for one in described.get("variables") or [])


# -------------------------------------------------------------------------------------------------------- the env file


def parse_env(text: str, path: str) -> dict[str, str]:
    """``NAME=value`` lines, with comments, ``export`` and quotes. Raises AnvilError; no value is ever in a message."""
    values: dict[str, str] = {}
    problems = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip().removeprefix("export ").strip()
        if not line or line.startswith("#"):
            continue
        name, sign, value = line.partition("=")
        name, value = name.strip(), value.strip()
        quote = value[:1] if value[:1] in ("'", '"') else ""
        if not sign or not VARIABLE.fullmatch(name):
            problems.append(Problem("a line is no NAME=value", f"{path}:{number}", hint="quote a value that has line breaks"))
        elif quote and (len(value) < 2 or not value.endswith(quote)):
            problems.append(Problem(f"the quotes of {name} are not closed", f"{path}:{number}"))
        else:
            values[name] = value[1:-1] if quote else value.split(" #", 1)[0].rstrip()
    if problems:
        raise AnvilError(*problems)
    return values


def find_env_file(wish: Wish) -> str:
    """The env file that was named, or ``.env`` beside the workflow or in the current folder; empty where there is none."""
    if wish.no_env_file or wish.standalone:
        return ""
    if wish.env_file:
        if not Path(wish.env_file).is_file():
            hint = "name a file that exists, or say no_env_file=true and give the variables later"
            raise fail("there is no such env file", where=f"env_file {wish.env_file}", hint=hint)
        return str(Path(wish.env_file).resolve())
    places = [Path(wish.workflow).resolve().parent / ".env", Path.cwd() / ".env"]
    return next((str(place) for place in places if place.is_file()), "")


def read_env(path: str) -> dict[str, str]:
    if not path:
        return {}
    try:
        return parse_env(Path(path).read_text(encoding="utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        raise fail("the env file cannot be read", where=path, why=str(getattr(error, "strerror", None) or error)) from error


# ------------------------------------------------------------------------------------------------------------ the plan


def derive_name(title: str) -> str:
    """A name for project, containers and image: ``Article Writer!`` becomes ``article-writer``."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40].strip("-") or "workflow"


def choose_subnet(name: str) -> str:
    """32 addresses for a workflow's own network: another name gives other ones, mostly."""
    pools = 2 ** (27 - SUBNETS.prefixlen)
    start = int(SUBNETS.network_address) + 32 * (zlib.crc32(name.encode()) % pools)
    return f"{ipaddress.IPv4Address(start)}/27"


def _check_port(word: str, port: int, lowest: int) -> Iterator[Problem]:
    if not lowest <= port <= 65535:
        yield Problem(f"{port} is no port", word, hint="1 to 65535" + (", or 0: without it" if lowest == 0 else ""))


def _check_bind(word: str, bind: str) -> Iterator[Problem]:
    try:
        ipaddress.ip_address(bind)
    except ValueError:
        yield Problem(f"{bind} is no address", word, hint="127.0.0.1 (only this host), 0.0.0.0 (everybody), or one of the host's")


def _check_wish(wish: Wish) -> Iterator[Problem]:
    if wish.name and not NAME.fullmatch(wish.name):
        yield Problem(f"{wish.name!r} is no name for a workflow", "name", hint=NAME_RULE)
    yield from _check_port("port", wish.port, 1)
    yield from _check_port("mlflow_port", wish.mlflow_port, 0)
    wrong_binds = [*_check_bind("bind", wish.bind), *_check_bind("mlflow_bind", wish.mlflow_bind)]
    yield from wrong_binds
    if not wish.no_mlflow and wish.port == wish.mlflow_port:
        yield Problem(f"port and mlflow_port are both {wish.port}", "mlflow_port", hint="another port, or 0: without MLflow")
    for word, value, least in (
        ("timeout", wish.timeout, 1),
        ("job_ttl", wish.job_ttl, 60),
        ("concurrency", wish.concurrency, 0),
        ("ready_timeout", wish.ready_timeout, 1),
    ):
        if value < least:
            yield Problem(f"{value} is too little", word, hint=f"{least} or more")
    if not 1 <= wish.replicas <= MAX_REPLICAS:
        yield Problem(f"{wish.replicas} replicas", "replicas", hint=f"1 to {MAX_REPLICAS}")
    if wish.size_limit < 1:
        yield Problem(f"{wish.size_limit} MB is no limit for an image", "size_limit", hint="200 holds any workflow of today")
    if not wrong_binds and not is_loopback(wish.bind) and not wish.has_api_key:
        hint = "give one with workflow_api_key, from a file or a vault, or publish it on 127.0.0.1"
        yield Problem(f"it would be published on {wish.bind} without an API key", "bind", hint=hint)
    if wish.model_url and urlsplit(wish.model_url).scheme not in ("http", "https"):
        yield Problem(f"{wish.model_url} is no URL", "model_url", hint="http://HOST:PORT/v1")


def _check_subnet(wish: Wish) -> Iterator[Problem]:
    rule = "a private IPv4 network with 6 addresses more than replicas, that nothing else on the host uses: 10.88.1.0/27"
    try:
        subnet = ipaddress.IPv4Network(wish.subnet)
    except ValueError as error:
        yield Problem(f"{wish.subnet} is no IPv4 network", "subnet", str(error), rule)
        return
    if not subnet.is_private or subnet.num_addresses < wish.replicas + 6:
        yield Problem(f"{wish.subnet} will not do", "subnet", hint=rule)


def _list_missing(variables: Mapping[str, str | None], values: Mapping[str, str], wish: Wish, env_file: str) -> Iterator[Problem]:
    if wish.no_env_file or wish.standalone:
        return  # whoever runs the artifacts writes his own
    for name, default in variables.items():
        if default is None and not values.get(name):
            hint = f"write {name}=… into {env_file}" if env_file else f"write {name}=… into a file .env beside the workflow"
            yield Problem(f"the workflow needs the variable {name}", env_file or "env file", "it is not set there", hint)


@dataclass
class _Models:
    """Where the workflow's model calls go."""

    url: str
    networks: tuple[str, ...]
    secret: str = ""


def _choose_models(wish: Wish, host: HostPlan | None, given: str) -> _Models:
    """The endpoint that was named; else the router of this host's inventory; else the router by its usual name."""
    router = host.router if host else None
    if wish.model_url or given:
        return _Models(wish.model_url or given, wish.networks)
    if host is None or router is None:
        return _Models(ROUTER_URL, wish.networks or (ROUTER_NETWORK,))
    front = router.edge.container if router.edge else router.container
    network = router.edge.network if router.edge else host.network
    scheme = "https" if router.edge and router.edge.certificates else "http"
    return _Models(f"{scheme}://{front}:8000/v1", wish.networks or (network,), router.token)


def plan_workflow(wish: Wish, root: str, host: HostPlan | None) -> WorkflowPlan:
    """Decide everything. ``host``: the plan of the host's inventory, if it has one. Raises AnvilError with every mistake."""
    problems = list(_check_wish(wish))
    if wish.subnet:
        problems.extend(_check_subnet(wish))
    described: dict[str, Any] = {}
    values: dict[str, str] = {}
    env_file = ""
    try:
        described = check_workflow(wish.workflow)
    except AnvilError as error:
        problems.extend(error.problems)
    try:
        env_file = find_env_file(wish)
        values = read_env(env_file)
    except AnvilError as error:
        problems.extend(error.problems)
    else:
        problems.extend(_list_missing(list_variables(described), values, wish, env_file))
    if problems:
        raise AnvilError(*problems)
    return _decide(wish, root, host, described, env_file, values)


def _decide(
    wish: Wish, root: str, host: HostPlan | None, described: Mapping[str, Any], env_file: str, values: Mapping[str, str]
) -> WorkflowPlan:
    name = wish.name or derive_name(str(described["name"]))
    variables = list_variables(described)
    models = _choose_models(wish, host, values.get(MODEL_URL, "")) if asks_endpoint(described) else _Models("", wish.networks)
    subnet = ipaddress.IPv4Network(wish.subnet or choose_subnet(name))
    mlflow_port = 0 if wish.no_mlflow else wish.mlflow_port
    project = PROJECT + name
    count = wish.replicas
    replicas = tuple(ReplicaAt(f"server-{number}", f"{project}-{number}") for number in range(1, count + 1))
    plan = WorkflowPlan(
        name=name,
        title=str(described["name"]),
        version=str(described.get("version") or ""),
        source=str(Path(wish.workflow).resolve()),
        text=Path(wish.workflow).read_text(encoding="utf-8"),
        project=project,
        directory=f"{root}/{project}",
        bind=wish.bind,
        port=wish.port,
        mlflow_bind=wish.mlflow_bind,
        mlflow_port=mlflow_port,
        timeout=wish.timeout,
        concurrency=wish.concurrency,
        job_ttl=wish.job_ttl,
        ready_timeout=wish.ready_timeout,
        replicas=replicas if count > 1 else (ReplicaAt("server", project),),
        network=project,
        subnet=str(subnet) if count > 1 else "",
        addresses=_give_addresses(subnet, [one.service for one in replicas]) if count > 1 else {},
        networks=models.networks,
        base=wish.base or (PUBLIC_BASE if wish.standalone else LOCAL_BASE),
        edge_image=wish.edge_image or (PUBLIC_EDGE if wish.standalone else LOCAL_EDGE),
        postgres_image=wish.postgres_image or (PUBLIC_POSTGRES if wish.standalone else LOCAL_POSTGRES),
        size_limit=wish.size_limit,
        model_url=models.url,
        model_secret=models.secret,
        env_file=env_file,
        variables=variables,
        given=tuple(name for name in variables if values.get(name)),
        has_api_key=wish.has_api_key,
        # Whoever runs the artifacts writes the key into .env.
        has_model_key=bool(models.url and not wish.standalone and (values.get(MODEL_KEY) or models.secret)),
        inputs=read_inputs(wish.workflow),
        outputs=tuple(described["outputs"]),
        standalone=wish.standalone,
    )
    return replace(plan, notes=tuple(_notes(plan, wish, values)))


def _give_addresses(subnet: ipaddress.IPv4Network, replicas: list[str]) -> dict[str, str]:
    """The gateway has the first address."""
    return {name: str(subnet.network_address + 2 + number) for number, name in enumerate(["edge", "jobs", "mlflow", *replicas])}


def _notes(plan: WorkflowPlan, wish: Wish, values: Mapping[str, str]) -> Iterator[str]:
    missing = [name for name, default in plan.variables.items() if default is None and name not in plan.given]
    if wish.no_env_file and missing:
        yield f"no env file was read: the workflow runs without {', '.join(missing)} until you deploy it with one"
    elif not plan.env_file and not wish.no_env_file and not wish.standalone:
        yield "there is no file .env beside the workflow or in this folder; the workflow runs without one"
    unused = sorted(set(values) - set(plan.variables) - {MODEL_URL, MODEL_KEY})
    if unused:
        yield f"the workflow does not use these variables of {plan.env_file}, so it does not get them: {', '.join(unused)}"
