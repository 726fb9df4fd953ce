# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An experiment from a few parameters, or from somebody's compose file. Pure.

With parameters it is one more serve for ``build_plan``, so it gets the host's engine defaults and the inventory's checks.
A compose file is read into the same canonical services and written out anew: what cannot be compared with a running
container is refused by name, never dropped.
"""

from __future__ import annotations

import copy
import itertools
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import yaml
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_file import parse_compose
from ansible_collections.anvil.serving.plugins.module_utils.docker.service import (
    EXPERIMENT_NETWORK,
    EXPERIMENT_PROJECT,
    LABEL_PREFIX,
    LABEL_SERVE,
    LABEL_SPEC,
    LABEL_VRAM,
    Service,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import NAME, NAME_RULE, UUID
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import Project, experiment_labels

# Of their own: on the inventory's network a service that is called like a tier would answer the router's requests.
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
WORD_OF_KEY = {"gpus": "gpu", "args": "extra_args"}


@dataclass(frozen=True)
class Wish:
    """What the operator typed. ttl: seconds, 0 is without end. Empty: not said, the inventory's defaults decide."""

    name: str
    model: str = ""
    engine: str = "vllm"
    image: str = ""
    served_name: str = ""
    port: str = ""
    gpu: str = ""
    extra_args: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    volumes: tuple[str, ...] = ()
    vram_mib: str = ""
    ready_timeout: str = ""
    ttl: int = 0


def parse_ttl(text: str) -> int:
    """``90``, ``90s``, ``30m``, ``2h``, ``1d`` in seconds; nothing or ``never`` is 0. Raises AnvilError on all else."""
    word = text.strip().lower()
    if word in ("", "never", "none"):
        return 0
    match = re.fullmatch(r"([0-9]{1,9})([smhd]?)", word)
    if not match or not int(match[1]):
        raise fail(f"{text!r} is no time to live", where="ttl", hint="a number with s, m, h or d: 30m, 2h, 1d; or never")
    return int(match[1]) * UNITS[match[2] or "s"]


def split_words(text: str) -> tuple[str, ...]:
    """``extra_args`` as a shell would split it, without running one."""
    try:
        return tuple(shlex.split(text))
    except ValueError as error:
        raise fail("it cannot be split into words", where="extra_args", why=str(error), hint="close the quotes") from error


def derive_name(text: str) -> str:
    """A name for an experiment nobody named: ``openai/gpt-oss-20b`` becomes ``gpt-oss-20b``."""
    last = text.rstrip("/").rsplit("/", 1)[-1].lower()
    return re.sub(r"[^a-z0-9_-]+", "-", re.sub(r"\.(gguf|ya?ml)$", "", last)).strip("-_")[:40]


def check_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise fail(f"{name!r} is no name for an experiment", where="name", hint=NAME_RULE)
    return name


def choose_cards(words: str, base: HostPlan) -> list[str]:
    """Aliases for ``gpu=…``: an alias, a UUID, or the name of a serve, whose cards it means; several with commas."""
    by_uuid = {gpu.uuid.lower(): alias for alias, gpu in base.gpus.items()}
    by_serve = {serve.name: list(serve.gpus) for serve in base.serves}
    chosen: list[str] = []
    for word in (part.strip() for part in words.split(",")):
        if not word:
            continue
        if word in base.gpus:
            chosen.append(word)
        elif word.lower() in by_uuid:
            chosen.append(by_uuid[word.lower()])
        elif by_serve.get(word):
            chosen.extend(by_serve[word])
        else:
            known = ", ".join([*base.gpus, *(name for name, cards in by_serve.items() if cards)]) or "none"
            raise fail(
                f"{word!r} is no GPU of this host",
                where="gpu",
                hint=f"an alias or UUID of anvil_gpus, or a serve whose card it should use; known: {known}",
            )
    return list(dict.fromkeys(chosen))


def experiment_inventory(wish: Wish, base: HostPlan) -> dict[str, Any]:
    """The inventory variables that make ``build_plan`` plan just this experiment."""
    serve: dict[str, Any] = {
        "engine": wish.engine,
        "container": EXPERIMENT_PROJECT + wish.name,
        "restart": "no",
        "model": wish.model,
        "image": wish.image,
        "served_name": wish.served_name,
        "port": wish.port,
        "gpus": choose_cards(wish.gpu, base),
        "args": list(wish.extra_args),
        "environment": dict(wish.environment),
        "volumes": list(wish.volumes),
        "vram_mib": wish.vram_mib,
        "ready_timeout": wish.ready_timeout,
    }
    said = {key: value for key, value in serve.items() if value not in ("", [], {})}
    return {"anvil_serves": {wish.name: said}, "anvil_router": None, "anvil_network": EXPERIMENT_NETWORK}


def as_typed(problems: Iterable[Problem], name: str) -> list[Problem]:
    """Problems of the planned serve under the names the operator typed: ``port``, not ``anvil_serves.x.port``."""
    head = f"anvil_serves.{name}"
    renamed = []
    for problem in problems:
        where = problem.where
        if where == head:
            where = f"experiment {name}"
        elif where.startswith(head + "."):
            key, dot, rest = where.removeprefix(head + ".").partition(".")
            plain, bracket, index = key.partition("[")
            where = WORD_OF_KEY.get(plain, plain) + bracket + index + dot + rest
        renamed.append(replace(problem, where=where))
    return renamed


def claims_of(base: HostPlan) -> list[tuple[str, str, str, int]]:
    """(owner, container, address, port) of all that the inventory says of this host."""
    found = [(f"serve {serve.name}", serve.container, serve.bind, serve.port) for serve in base.serves]
    return found + ([("the router", base.router.container, base.router.bind, base.router.port)] if base.router else [])


def clashes(services: Iterable[Service], base: HostPlan) -> list[Problem]:
    """Where an experiment would sit on what the inventory claims, whether that runs now or not."""
    found = []
    claims = claims_of(base)
    names = {container: owner for owner, container, _bind, _port in claims}
    for service in services:
        if service.container in names:
            owner = names[service.container]
            found.append(Problem(f"container name {service.container} is {owner}'s", "name", hint="choose another name"))
        for bind, port, _target in service.ports:
            for owner, _container, taken, number in claims:
                if port == number and (bind == taken or "0.0.0.0" in (bind, taken) or "::" in (bind, taken)):
                    text = f"port {port} is {owner}'s in the inventory"
                    found.append(Problem(text, "port", hint="an experiment never takes a serve's port: choose a free one"))
    return found


# ------------------------------------------------------------------------------------------------- from a compose file

SERVICE_KEYS = {
    "container_name", "image", "command", "entrypoint", "environment", "ports", "volumes", "ipc", "shm_size", "restart", "user",
    "read_only", "tmpfs", "init", "stop_signal", "healthcheck", "cap_drop", "security_opt", "extra_hosts", "mem_limit", "labels",
    "deploy", "x-anvil",
}  # fmt: skip
REFUSED_HINTS = {
    "build": "build the image first and name it with image",
    "env_file": "it would be wanted on the host: use environment, or x-anvil: {secrets: {VARIABLE: <name in anvil_secrets>}}",
    "depends_on": "an experiment is one model server; start what it needs as an experiment of its own",
    "networks": "experiments share a network of their own, " + EXPERIMENT_NETWORK,
    "network_mode": "publish a port on 127.0.0.1",
    "privileged": "a model server needs no privileges; a GPU comes with deploy.resources.reservations.devices",
    "cap_add": "a model server needs no capabilities",
    "runtime": "use deploy.resources.reservations.devices with device_ids",
    "gpus": "use deploy.resources.reservations.devices with device_ids",
}
TOP_KEYS = {"name", "version", "services", "volumes"}
NAME_FLAGS = ("--served-model-name", "--alias", "-a")


def _listed(value: Any) -> Any:
    """Compose takes a string for a command and splits it as a shell would."""
    return shlex.split(value) if isinstance(value, str) else value


def _mapped(value: Any) -> Any:
    if isinstance(value, list):
        return dict(str(item).split("=", 1) if "=" in str(item) else (str(item), None) for item in value)
    return value


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
    elif isinstance(value, str):
        yield value


def _refusals(name: str, raw: Mapping[str, Any]) -> Iterator[Problem]:
    """What in one service cannot be compared with a container, or would reach further than an experiment may."""
    where = f"compose: services.{name}"
    for key in raw:
        if key not in SERVICE_KEYS and not str(key).startswith("x-"):
            hint = REFUSED_HINTS.get(str(key), "leave it out; known: " + ", ".join(sorted(SERVICE_KEYS)))
            yield Problem(f"{key} cannot be compared with what runs", where, hint=hint)
    if str(raw.get("restart", "no")) not in ("no", "False"):
        yield Problem(
            "an experiment never restarts by itself", f"{where}.restart", hint='leave restart out, or say restart: "no"'
        )
    if not raw.get("image"):
        yield Problem("it has no image", where, hint="image: repository/name:tag")
    for text in _texts({key: value for key, value in raw.items() if key != "x-anvil"}):
        if re.search(r"(?<!\$)(\$\$)*\$(\{|[A-Za-z_])", text):
            hint = "write the value itself ($$ is a literal dollar), or give model, port, gpu… without a compose file"
            yield Problem(f"{text!r} asks for a variable", where, hint=hint)
    for key, value in (_mapped(raw.get("environment")) or {}).items():
        if value is None:
            yield Problem(f"{key} has no value", f"{where}.environment", hint="compose would take it from its own environment")
    resources = (raw.get("deploy") or {}).get("resources") or {}
    other = sorted(set(raw.get("deploy") or {}) - {"resources"}) + sorted(set(resources) - {"reservations"})
    other += sorted(set(resources.get("reservations") or {}) - {"devices"})
    if other:
        yield Problem(", ".join(other) + " cannot be compared with what runs", f"{where}.deploy", hint="keep the devices only")
    for device in (resources.get("reservations") or {}).get("devices") or []:
        ids = device.get("device_ids") or []
        if device.get("driver") != "nvidia" or not ids or not all(UUID.fullmatch(str(one)) for one in ids):
            hint = "driver: nvidia, device_ids: [GPU-…], capabilities: [gpu]"
            yield Problem("a GPU is pinned by its UUID", f"{where}.deploy", hint=hint)
    unlike = set(raw.get("healthcheck") or {}) - {"test"}
    if unlike or not isinstance((raw.get("healthcheck") or {}).get("test", []), list):
        yield Problem("only a test as a list can be compared", f"{where}.healthcheck", hint='test: ["CMD", …] and nothing else')


def _bind_problems(name: str, service: Service, relative: Iterable[str]) -> Iterator[Problem]:
    where = f"compose: services.{name}"
    for bind, port, _target in service.ports:
        if bind not in ("127.0.0.1", "::1") and not bind.startswith("127."):
            hint = f"127.0.0.1:{port}:…; what is published wider needs a key, and goes through the router"
            yield Problem(f"port {port} would be published on {bind}", f"{where}.ports", hint=hint)
        if not port:
            yield Problem("a port without a number on the host", f"{where}.ports", hint="127.0.0.1:PORT:PORT")
    for source in relative:
        yield Problem(f"{source} is relative", f"{where}.volumes", hint="an absolute path on the host, or a volume")


def _served_name(raw: Mapping[str, Any], wish: Wish) -> str:
    if wish.served_name:
        return wish.served_name
    own = (raw.get("x-anvil") or {}).get("served_name")
    words = [*(raw.get("entrypoint") or []), *(raw.get("command") or [])]
    for flag, value in itertools.pairwise(words):
        if flag in NAME_FLAGS:
            return str(own or value)
    return str(own or "")


def _claim(service: Service, wish: Wish, base: HostPlan) -> int:
    """MiB on each card: what was said, else the whole budget of the smallest known card."""
    if wish.vram_mib:
        return int(wish.vram_mib)
    budgets = [gpu.budget_mib for gpu in base.gpus.values() if gpu.uuid in service.gpu_uuids]
    return min(budgets) if budgets else 0


def read_compose_file(text: str, wish: Wish, base: HostPlan) -> tuple[Project, list[str]]:
    """A project like those we render, out of somebody's compose file; and notes on what could not be known.

    Raises AnvilError with everything in it that an experiment cannot have.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise fail("it is no YAML", where="compose", why=str(error)) from error
    if not isinstance(document, Mapping) or not isinstance(document.get("services"), Mapping) or not document["services"]:
        raise fail("it has no services", where="compose", hint="a compose file: services: {name: {image: …}}")
    problems = [
        Problem(f"{key} is not for an experiment", "compose", hint=REFUSED_HINTS.get(str(key), "leave it out"))
        for key in document
        if key not in TOP_KEYS and not str(key).startswith("x-")
    ]
    document = copy.deepcopy(dict(document))
    project = EXPERIMENT_PROJECT + wish.name
    volumes = {
        str(key): str((value or {}).get("name") or (key if (value or {}).get("external") else f"{project}_{key}"))
        for key, value in (document.get("volumes") or {}).items()
    }
    notes, laid_out = [], {}
    for name, raw in document["services"].items():
        if not isinstance(raw, Mapping) or not NAME.fullmatch(str(name)):
            problems.append(Problem("it is no service", f"compose: services.{name}", hint=NAME_RULE))
            continue
        problems.extend(_refusals(name, raw))
        laid_out[str(name)] = {
            **raw,
            "container_name": raw.get("container_name") or (project if len(document["services"]) == 1 else f"{project}-{name}"),
            "restart": "no",
            "networks": [EXPERIMENT_NETWORK],
        }
        for key, bring in (("command", _listed), ("entrypoint", _listed), ("environment", _mapped), ("labels", _mapped)):
            if key in raw:
                laid_out[str(name)][key] = bring(raw[key])
    if problems:
        raise AnvilError(*problems)
    outer: dict[str, Any] = {"volumes": {key: {"name": value, "external": True} for key, value in volumes.items()}}
    outer["networks"] = {EXPERIMENT_NETWORK: {"name": EXPERIMENT_NETWORK, "external": True}}
    try:
        services = parse_compose({"services": laid_out, **outer})
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise fail("it cannot be read", where="compose", why=f"{type(error).__name__}: {error}") from error
    for name, service in services.items():
        raw = laid_out[name]
        relative = [mount.source for mount in service.mounts if mount.kind == "bind" and not mount.source.startswith("/")]
        problems.extend(_bind_problems(name, service, relative))
        unknown = [m.source for m in service.mounts if m.kind == "volume" and m.source not in volumes.values()]
        outer["volumes"].update({one: {"name": one, "external": True} for one in unknown})
        served = _served_name(raw, wish)
        vram = _claim(service, wish, base)
        anvil = {"engine": "compose", "served_name": served, "vram_mib": vram}
        anvil["secrets"] = (raw.get("x-anvil") or {}).get("secrets") or {}
        if served and service.ports:
            anvil["ready"] = {"kind": "models", "timeout": int(wish.ready_timeout or 600), "key": ""}
        else:
            notes.append(f"{name}: nothing tells which model it serves (served_name=…), so its readiness is not waited for")
        raw["x-anvil"] = anvil
        if anvil["secrets"]:
            raw["env_file"] = [f"env/{name}.env"]
        raw["labels"] = {
            **{key: str(value) for key, value in (raw.get("labels") or {}).items() if not str(key).startswith(LABEL_PREFIX)},
            LABEL_SERVE: name,
            LABEL_PREFIX + "served_name": served,
            LABEL_VRAM: str(vram),
            **experiment_labels(wish.name, wish.ttl),
        }
    if problems:
        raise AnvilError(*problems)
    for name, service in parse_compose({"services": laid_out, **outer}).items():
        laid_out[name]["labels"][LABEL_SPEC] = service.spec_hash()
    whole = {"name": project, "services": laid_out, **{key: value for key, value in outer.items() if value}}
    head = "# Rendered by anvil.serving from a compose file that was given as an experiment; changes made here are overwritten.\n"
    written = head + yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)
    return Project(project, f"{base.root}/{project}", written, parse_compose({"services": laid_out, **outer})), notes
