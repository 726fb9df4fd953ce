# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A compose file that Docker Compose has interpreted, as an experiment. Pure.

Its services get the same canonical form as serves. What an experiment cannot have is refused by name (``experiment_findings``);
what has no meaning for it is left out, with a note.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_file import parse_compose
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
    CDI_DRIVER,
    CDI_PREFIX,
    EXPERIMENT_NETWORK,
    EXPERIMENT_PROJECT,
    LABEL_PREFIX,
    LABEL_SERVE,
    LABEL_SPEC,
    LABEL_VRAM,
    NO_HEALTHCHECK,
    Service,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import SERVE_PIDS, HostPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import NAME, NAME_RULE
from ansible_collections.anvil.serving.plugins.module_utils.serves.container_as_serve import find_command, unwrap_shell
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.compose_interpretation import InterpretedFile
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.experiment_findings import (
    COMPARED,
    PASSED,
    check_host_path,
    check_volume,
    find_refused,
    find_secrets,
    list_left_out,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.experiment_gpus import VISIBLE, choose_cards, read_gpu_request
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.experiment_options import ExperimentOptions, choose_uuids
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import Project, experiment_labels

NAME_FLAGS = ("--served-model-name", "--served_model_name", "--alias", "-a")
MODEL_FLAGS = ("--model", "--model-path", "--model-id")
KEY_VARIABLES = ("VLLM_API_KEY", "LLAMA_API_KEY")
# The hash of the keys that are written as they are.
LABEL_PASSED = LABEL_PREFIX + "passed"
HEAD = "# Rendered by anvil.serving from a compose file that was given as an experiment; changes made here are overwritten.\n"


def _plain(value: Any) -> Any:
    """Without the doubled dollars of Compose."""
    if isinstance(value, str):
        return value.replace("$$", "$")
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def read_compose_document(found: InterpretedFile, options: ExperimentOptions, base: HostPlan) -> tuple[Project, list[str]]:
    """The project of an experiment, and notes for the operator.

    Raises AnvilError with the problems of the file and everything that an experiment cannot have.
    """
    document, extensions = found.document, found.extensions
    services = {str(name): raw for name, raw in (document.get("services") or {}).items()}
    active = {name: raw for name, raw in services.items() if _is_active(raw, options.profiles or found.profiles)}
    problems = list(found.problems)
    if not active:
        profiles = sorted({str(one) for raw in services.values() for one in raw.get("profiles") or ()})
        hint = f"choose with -e profiles=…: {', '.join(profiles)}" if profiles else "for example: services: {name: {image: …}}"
        what = "the compose file has no service" + (" without a profile" if profiles else "")
        problems.append(Problem(what, "compose", hint=hint))
        active = services
    project = EXPERIMENT_PROJECT + options.name
    notes = list(found.notes)
    volumes = _name_volumes(document, active, project, base, problems)
    laid_out: dict[str, Any] = {}
    for name, raw in active.items():
        anvil = extensions.get(name) or {}
        refused, told = _check_service(name, _plain(raw), anvil, base)
        problems += refused
        problems += [
            Problem(f"depends_on names {other}, and the file has no such service", f"compose: services.{name}", hint="remove it")
            for other in raw.get("depends_on") or {}
            if other not in services
        ]
        notes += told
        uuids: list[str] = []
        for answer in choose_cards(name, read_gpu_request(_plain(raw)), choose_uuids(options.gpu, base), list(base.gpus)):
            if isinstance(answer, Problem):
                problems.append(answer)
            else:
                uuids.append(answer)
        container = str(raw.get("container_name") or (project if len(active) == 1 else f"{project}-{name}"))
        laid_out[name] = {
            "container_name": container,
            **_default_limits(base, options),
            **_lay_out(name, raw, uuids, base.gpu_driver, anvil, notes),
        }
    if problems:
        raise AnvilError(*dict.fromkeys(problems))
    outer: dict[str, Any] = {"volumes": {key: {"name": value, "external": True} for key, value in volumes.items()}}
    outer["networks"] = {EXPERIMENT_NETWORK: {"name": EXPERIMENT_NETWORK, "external": True}}
    for name, service in _parse(laid_out, outer).items():
        _describe(name, service, laid_out[name], extensions.get(name) or {}, options, base, notes)
    for name, service in _parse(laid_out, outer).items():
        laid_out[name]["labels"][LABEL_SPEC] = service.spec_hash()
    whole = {"name": project, "services": laid_out, **{key: value for key, value in outer.items() if value}}
    written = HEAD + yaml.safe_dump(whole, sort_keys=False, allow_unicode=True)
    return Project(project, f"{base.root}/{project}", written, _parse(laid_out, outer)), notes


def _parse(laid_out: Mapping[str, Any], outer: Mapping[str, Any]) -> dict[str, Service]:
    try:
        return parse_compose({"services": laid_out, **outer})
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise fail("the compose file cannot be read", where="compose", why=f"{type(error).__name__}: {error}") from error


def _is_active(raw: Mapping[str, Any], profiles: Iterable[str]) -> bool:
    own = {str(one) for one in raw.get("profiles") or ()}
    return not own or bool(own.intersection(profiles)) or "*" in profiles


def _check_service(name: str, raw: Mapping[str, Any], anvil: Any, base: HostPlan) -> tuple[list[Problem], list[str]]:
    where = f"compose: services.{name}"
    if not NAME.fullmatch(name):
        return [Problem("this is not a name of a service", where, hint="use " + NAME_RULE)], []
    if not isinstance(anvil, Mapping) or not isinstance(anvil.get("secrets") or {}, Mapping):
        hint = "write x-anvil: {secrets: {HF_TOKEN: <name in anvil_secrets>}}"
        return [Problem("x-anvil cannot be read", f"{where}.x-anvil", hint=hint)], []
    problems = [*find_refused(name, raw, base), *find_secrets(name, raw, anvil.get("secrets") or {})]
    return problems, list_left_out(name, raw)


def _name_volumes(
    document: Mapping[str, Any], active: Mapping[str, Any], project: str, base: HostPlan, problems: list[Problem]
) -> dict[str, str]:
    """Key of a volume that an active service mounts -> its name on the host."""
    used = {str(mount.get("source")) for raw in active.values() for mount in raw.get("volumes") or () if mount.get("source")}
    given, found = str(document.get("name") or ""), {}
    for key, entry in (document.get("volumes") or {}).items():
        settings = entry or {}
        if key not in used:
            continue
        where, device = f"compose: volumes.{key}", str((settings.get("driver_opts") or {}).get("device") or "")
        if device.startswith("/"):
            problems.extend(check_host_path(where, device, False, base))
        if settings.get("driver_opts") or settings.get("driver") not in (None, "", "local"):
            folder = device if device.startswith("/") else "/folder"
            hint = f"create the volume on the host, and write external: true; or mount the folder itself: {folder}:/…"
            problems.append(Problem("an experiment cannot have a volume with a driver or driver_opts", where, hint=hint))
        name = str(settings.get("name") or key)
        # Compose names a volume after its own project where the file does not name it.
        problems.extend(check_volume(where, name))
        found[str(key)] = name if settings.get("external") or name != f"{given}_{key}" else f"{project}_{key}"
    return found


def _lay_out(name: str, raw: Mapping[str, Any], uuids: list[str], driver: str, anvil: Any, notes: list[str]) -> dict[str, Any]:
    """The keys of a service as they are written into the compose file of the experiment."""
    kept = {key: value for key, value in raw.items() if key in COMPARED | PASSED and value not in (None, [], {}, "")}
    passed = {key: kept[key] for key in sorted(PASSED & set(kept))}
    health = kept.get("healthcheck") or {}
    passed.update({f"healthcheck.{key}": health[key] for key in sorted(set(health) - {"test", "disable"})})
    named = (anvil.get("secrets") if isinstance(anvil, Mapping) else None) or {}
    environment = {key: value for key, value in (raw.get("environment") or {}).items() if key not in named and key != VISIBLE}
    kept.pop("environment", None)
    limits = ((raw.get("deploy") or {}).get("resources") or {}).get("limits") or {}
    for key, limit in (("mem_limit", "memory"), ("pids_limit", "pids")):
        if limits.get(limit) and key not in kept:
            kept[key] = limits[limit]
    if kept.get("stop_grace_period"):
        kept["stop_grace_period"] = f"{parse_duration(str(kept['stop_grace_period']))}s"
    mounts = raw.get("volumes") or ()
    memory = [str(mount["target"]) for mount in mounts if mount.get("type") == "tmpfs"]
    tmpfs = [raw["tmpfs"]] if isinstance(raw.get("tmpfs"), str) else list(raw.get("tmpfs") or ())
    kept["volumes"] = [_plain_mount(mount) for mount in mounts if mount.get("type") != "tmpfs"]
    kept["tmpfs"] = [*tmpfs, *memory]
    kept["ports"] = [_loopback(port, name, notes) for port in raw.get("ports") or ()]
    hosts = raw.get("extra_hosts")
    if isinstance(hosts, Mapping):
        kept["extra_hosts"] = [f"{key}:{one}" for key, value in hosts.items() for one in _listed(value)]
    kept.pop("container_name", None)
    laid_out = {key: value for key, value in kept.items() if value not in (None, [], {})}
    laid_out.update({"restart": "no", "networks": [EXPERIMENT_NETWORK]})
    laid_out.update({"environment": environment} if environment else {})
    labels = {key: str(value) for key, value in (raw.get("labels") or {}).items() if not str(key).startswith(LABEL_PREFIX)}
    if passed:
        text = json.dumps(passed, sort_keys=True)
        labels[LABEL_PASSED] = hashlib.sha256(text.encode()).hexdigest()[:16]
    laid_out["labels"] = labels
    if uuids:
        names = [CDI_PREFIX + uuid for uuid in uuids] if driver == CDI_DRIVER else uuids
        device = {"driver": driver, "device_ids": names, "capabilities": ["gpu"]}
        laid_out["deploy"] = {"resources": {"reservations": {"devices": [device]}}}
    return laid_out


def _default_limits(base: HostPlan, options: ExperimentOptions) -> dict[str, Any]:
    """What every container of this collection has, where the file does not say otherwise."""
    limits = base.limits
    rotation = {"max-size": limits.log_max_size, "max-file": str(limits.log_max_files)}
    logging = {"logging": {"driver": limits.log_driver, "options": rotation}} if limits.log_driver else {}
    memory = {"mem_limit": options.mem_limit} if options.mem_limit else {}
    pids = int(options.pids_limit or SERVE_PIDS)
    return {**logging, "pids_limit": pids, **memory, "healthcheck": {"test": list(NO_HEALTHCHECK)}}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _plain_mount(mount: Mapping[str, Any]) -> dict[str, Any]:
    kept = {key: mount[key] for key in ("type", "source", "target") if mount.get(key)}
    return {**kept, "read_only": True} if mount.get("read_only") else kept


def _loopback(port: Mapping[str, Any], name: str, notes: list[str]) -> dict[str, Any]:
    """A port that names no address is published on loopback only: an experiment has no API key."""
    kept = {key: port[key] for key in ("target", "published", "protocol", "host_ip") if port.get(key)}
    if not port.get("host_ip"):
        notes.append(f"{name}: port {port.get('published')} is published on 127.0.0.1 only, because an experiment has no API key")
    return {"host_ip": "127.0.0.1", **kept}


def parse_duration(text: str) -> int:
    """``1m30s`` in whole seconds. Raises AnvilError for anything else."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "ns": 1e-9}
    if not re.fullmatch(r"([0-9.]+(h|ms|us|ns|m|s))+", text):
        raise fail(f"{text!r} is not a duration", where="compose: stop_grace_period", hint="use for example 30s")
    return round(sum(float(number) * units[unit] for number, unit in re.findall(r"([0-9.]+)(h|ms|us|ns|m|s)", text)))


def _describe(
    name: str,
    service: Service,
    raw: dict[str, Any],
    anvil: Mapping[str, Any],
    options: ExperimentOptions,
    base: HostPlan,
    notes: list[str],
) -> None:
    """Add what marks the service as a part of the experiment: ``x-anvil``, env file, labels."""
    secrets = {str(key): str(value) for key, value in (anvil.get("secrets") or {}).items()}
    served = options.served_name or str(anvil.get("served_name") or "") or find_served_name(service)
    vram = _decide_vram_claim(service, options, base)
    described: dict[str, Any] = {"engine": "compose", "served_name": served, "vram_mib": vram, "secrets": secrets}
    if served and service.ports:
        key = next((secrets[variable] for variable in KEY_VARIABLES if variable in secrets), "")
        described["ready"] = {"kind": "models", "timeout": int(options.ready_timeout or 600), "key": key}
    else:
        notes.append(f"{name}: the served name is not known, so the run does not wait until it is ready: pass -e served_name=…")
    if base.allow_mounts and service.mounts:
        described["allow_mounts"] = [one.source + (":ro" if one.read_only else "") for one in base.allow_mounts]
    raw["x-anvil"] = described
    if secrets:
        raw["env_file"] = [f"env/{name}.env"]
    raw["labels"].update(
        {
            LABEL_SERVE: name,
            LABEL_PREFIX + "served_name": served,
            LABEL_VRAM: str(vram),
            **experiment_labels(options.name, options.ttl),
        }
    )


def find_served_name(service: Service) -> str:
    """The name under which a server lists its model: as its command line says, else the model itself; empty if unknown."""
    words = unwrap_shell([*(service.entrypoint or ()), *(service.command or ())], service.environment)
    pairs = [(one.partition("=")[0], one.partition("=")[2] or other) for one, other in itertools.pairwise([*words, ""])]
    for flags in (NAME_FLAGS, MODEL_FLAGS):
        for flag, value in pairs:
            if (
                flag in flags
                and value
                and (flags is NAME_FLAGS or flag != "--model" or "vllm" in " ".join([*words, service.image]))
            ):
                return value
    engine, rest = find_command(words, service.image)
    return rest[0] if engine == "vllm" and rest and not rest[0].startswith("-") else ""


def _decide_vram_claim(service: Service, options: ExperimentOptions, base: HostPlan) -> int:
    """The claim on each card in MiB: the option, else the whole budget of the smallest known card."""
    if options.vram_mib:
        return int(options.vram_mib)
    budgets = [gpu.budget_mib for gpu in base.gpus.values() if gpu.uuid in service.gpu_uuids]
    return min(budgets) if budgets else 0


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
