# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Read a compose file as an experiment. Pure.

Its services get the same canonical form as serves. A key that cannot be compared with a running container is refused by name,
never dropped.
"""

from __future__ import annotations

import copy
import itertools
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_file import parse_compose
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
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
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.experiment_options import ExperimentOptions
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import Project, experiment_labels

SERVICE_KEYS = {
    "container_name", "image", "command", "entrypoint", "environment", "ports", "volumes", "ipc", "shm_size", "restart", "user",
    "read_only", "tmpfs", "init", "stop_signal", "healthcheck", "cap_drop", "security_opt", "extra_hosts", "mem_limit", "labels",
    "deploy", "x-anvil",
}  # fmt: skip
REFUSED_HINTS = {
    "build": "build the image first and name it with image",
    "env_file": "compose would read it on the host: use environment, or x-anvil: {secrets: {VARIABLE: <name in anvil_secrets>}}",
    "depends_on": "an experiment is one model server: start each other container as an experiment of its own",
    "networks": "all experiments are on one network, " + EXPERIMENT_NETWORK,
    "network_mode": "publish a port on 127.0.0.1",
    "privileged": "a model server needs no privileges: reserve a GPU with deploy.resources.reservations.devices",
    "cap_add": "a model server needs no capabilities",
    "runtime": "use deploy.resources.reservations.devices with device_ids",
    "gpus": "use deploy.resources.reservations.devices with device_ids",
}
TOP_KEYS = {"name", "version", "services", "volumes"}
NAME_FLAGS = ("--served-model-name", "--alias", "-a")


def _split_command(value: Any) -> Any:
    """A command as a list: compose splits a text as a shell would."""
    return shlex.split(value) if isinstance(value, str) else value


def _as_mapping(value: Any) -> Any:
    if isinstance(value, list):
        return dict(str(item).split("=", 1) if "=" in str(item) else (str(item), None) for item in value)
    return value


def _list_texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _list_texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _list_texts(item)
    elif isinstance(value, str):
        yield value


def _find_refused(name: str, raw: Mapping[str, Any]) -> Iterator[Problem]:
    """Keys of one service that cannot be compared with a container, or that an experiment may not have."""
    where = f"compose: services.{name}"
    for key in raw:
        if key not in SERVICE_KEYS and not str(key).startswith("x-"):
            hint = REFUSED_HINTS.get(str(key), "remove it; supported: " + ", ".join(sorted(SERVICE_KEYS)))
            yield Problem(f"{key} cannot be compared with a running container", where, hint=hint)
    if str(raw.get("restart", "no")) not in ("no", "False"):
        yield Problem("an experiment never restarts by itself", f"{where}.restart", hint='remove restart, or set restart: "no"')
    if not raw.get("image"):
        yield Problem("the service has no image", where, hint="set image: repository/name:tag")
    for text in _list_texts({key: value for key, value in raw.items() if key != "x-anvil"}):
        if re.search(r"(?<!\$)(\$\$)*\$(\{|[A-Za-z_])", text):
            hint = "write the value itself ($$ is a literal dollar), or pass model, port, gpu… without a compose file"
            yield Problem(f"{text!r} refers to a variable", where, hint=hint)
    for key, value in (_as_mapping(raw.get("environment")) or {}).items():
        if value is None:
            yield Problem(
                f"{key} has no value",
                f"{where}.environment",
                hint="write NAME=value: compose would take the value from its own environment",
            )
    resources = (raw.get("deploy") or {}).get("resources") or {}
    other = sorted(set(raw.get("deploy") or {}) - {"resources"}) + sorted(set(resources) - {"reservations"})
    other += sorted(set(resources.get("reservations") or {}) - {"devices"})
    if other:
        yield Problem(
            ", ".join(other) + " cannot be compared with a running container",
            f"{where}.deploy",
            hint="keep only resources.reservations.devices",
        )
    for device in (resources.get("reservations") or {}).get("devices") or []:
        ids = device.get("device_ids") or []
        if device.get("driver") != "nvidia" or not ids or not all(UUID.fullmatch(str(one)) for one in ids):
            hint = "use driver: nvidia, device_ids: [GPU-…], capabilities: [gpu]"
            yield Problem("a GPU must be pinned by its UUID", f"{where}.deploy", hint=hint)
    unlike = set(raw.get("healthcheck") or {}) - {"test"}
    if unlike or not isinstance((raw.get("healthcheck") or {}).get("test", []), list):
        yield Problem(
            "only a test as a list can be compared with a running container",
            f"{where}.healthcheck",
            hint='keep only test: ["CMD", …]',
        )


def _check_ports_and_mounts(name: str, service: Service, relative: Iterable[str]) -> Iterator[Problem]:
    where = f"compose: services.{name}"
    for bind, port, _target in service.ports:
        if bind not in ("127.0.0.1", "::1") and not bind.startswith("127."):
            hint = f"use 127.0.0.1:{port}:…, because an experiment has no API key"
            yield Problem(f"port {port} would be published on {bind}", f"{where}.ports", hint=hint)
        if not port:
            yield Problem("a port has no number on the host", f"{where}.ports", hint="use 127.0.0.1:PORT:PORT")
    for source in relative:
        yield Problem(f"the path {source} is relative", f"{where}.volumes", hint="use an absolute path on the host, or a volume")


def _find_served_name(raw: Mapping[str, Any], options: ExperimentOptions) -> str:
    if options.served_name:
        return options.served_name
    own = (raw.get("x-anvil") or {}).get("served_name")
    words = [*(raw.get("entrypoint") or []), *(raw.get("command") or [])]
    for flag, value in itertools.pairwise(words):
        if flag in NAME_FLAGS:
            return str(own or value)
    return str(own or "")


def _decide_vram_claim(service: Service, options: ExperimentOptions, base: HostPlan) -> int:
    """The claim on each card in MiB: the option, else the whole budget of the smallest known card."""
    if options.vram_mib:
        return int(options.vram_mib)
    budgets = [gpu.budget_mib for gpu in base.gpus.values() if gpu.uuid in service.gpu_uuids]
    return min(budgets) if budgets else 0


def read_compose_file(text: str, options: ExperimentOptions, base: HostPlan) -> tuple[Project, list[str]]:
    """The project of an experiment from the text of a compose file, and notes on what could not be found out.

    Raises AnvilError with everything that an experiment cannot have.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise fail("the compose file is not valid YAML", where="compose", why=str(error)) from error
    if not isinstance(document, Mapping) or not isinstance(document.get("services"), Mapping) or not document["services"]:
        raise fail("the compose file has no services", where="compose", hint="for example: services: {name: {image: …}}")
    problems = [
        Problem(f"an experiment cannot have {key}", "compose", hint=REFUSED_HINTS.get(str(key), "remove it"))
        for key in document
        if key not in TOP_KEYS and not str(key).startswith("x-")
    ]
    document = copy.deepcopy(dict(document))
    project = EXPERIMENT_PROJECT + options.name
    volumes = {
        str(key): str((value or {}).get("name") or (key if (value or {}).get("external") else f"{project}_{key}"))
        for key, value in (document.get("volumes") or {}).items()
    }
    notes, laid_out = [], {}
    for name, raw in document["services"].items():
        if not isinstance(raw, Mapping) or not NAME.fullmatch(str(name)):
            problems.append(
                Problem(
                    "this is not a service", f"compose: services.{name}", hint="write a mapping, and as its name use " + NAME_RULE
                )
            )
            continue
        problems.extend(_find_refused(name, raw))
        laid_out[str(name)] = {
            **raw,
            "container_name": raw.get("container_name") or (project if len(document["services"]) == 1 else f"{project}-{name}"),
            "restart": "no",
            "networks": [EXPERIMENT_NETWORK],
        }
        for key, bring in (
            ("command", _split_command),
            ("entrypoint", _split_command),
            ("environment", _as_mapping),
            ("labels", _as_mapping),
        ):
            if key in raw:
                laid_out[str(name)][key] = bring(raw[key])
    if problems:
        raise AnvilError(*problems)
    outer: dict[str, Any] = {"volumes": {key: {"name": value, "external": True} for key, value in volumes.items()}}
    outer["networks"] = {EXPERIMENT_NETWORK: {"name": EXPERIMENT_NETWORK, "external": True}}
    try:
        services = parse_compose({"services": laid_out, **outer})
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise fail("the compose file cannot be read", where="compose", why=f"{type(error).__name__}: {error}") from error
    for name, service in services.items():
        raw = laid_out[name]
        relative = [mount.source for mount in service.mounts if mount.kind == "bind" and not mount.source.startswith("/")]
        problems.extend(_check_ports_and_mounts(name, service, relative))
        unknown = [m.source for m in service.mounts if m.kind == "volume" and m.source not in volumes.values()]
        outer["volumes"].update({one: {"name": one, "external": True} for one in unknown})
        served = _find_served_name(raw, options)
        vram = _decide_vram_claim(service, options, base)
        anvil = {"engine": "compose", "served_name": served, "vram_mib": vram}
        anvil["secrets"] = (raw.get("x-anvil") or {}).get("secrets") or {}
        if served and service.ports:
            anvil["ready"] = {"kind": "models", "timeout": int(options.ready_timeout or 600), "key": ""}
        else:
            notes.append(
                f"{name}: the served name is not known, so the run does not wait until it is ready: pass -e served_name=…"
            )
        raw["x-anvil"] = anvil
        if anvil["secrets"]:
            raw["env_file"] = [f"env/{name}.env"]
        raw["labels"] = {
            **{key: str(value) for key, value in (raw.get("labels") or {}).items() if not str(key).startswith(LABEL_PREFIX)},
            LABEL_SERVE: name,
            LABEL_PREFIX + "served_name": served,
            LABEL_VRAM: str(vram),
            **experiment_labels(options.name, options.ttl),
        }
    if problems:
        raise AnvilError(*problems)
    for name, service in parse_compose({"services": laid_out, **outer}).items():
        laid_out[name]["labels"][LABEL_SPEC] = service.spec_hash()
    whole = {"name": project, "services": laid_out, **{key: value for key, value in outer.items() if value}}
    head = "# Rendered by anvil.serving from a compose file that was given as an experiment; changes made here are overwritten.\n"
    written = head + yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)
    return Project(project, f"{base.root}/{project}", written, parse_compose({"services": laid_out, **outer})), notes


def check_secret_names(services: Iterable[Service], known: Iterable[str]) -> list[Problem]:
    """Secrets that a service refers to and the inventory does not have. known: the names in ``anvil_secrets``."""
    names = set(known)
    return [
        Problem(
            f"{name} is not the name of a secret in anvil_secrets",
            f"compose: services.{service.name}.x-anvil.secrets.{key}",
            hint="add it to anvil_secrets, or use the name of an entry there",
        )
        for service in services
        for key, name in service.anvil.get("secrets", {}).items()
        if name not in names
    ]
