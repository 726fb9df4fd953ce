# SPDX-License-Identifier: GPL-3.0-or-later
"""The status of a host for people: GPUs and their holders, details of each serve, experiments, and external servers.

A converge needs none of it; what differs is found by ``serves_report``.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any, Dict, List, Mapping, Optional, Sequence, Set, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.addresses import format_url
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
    COMPOSE_PROJECT,
    HOST_GATEWAY,
    LABEL_EXPERIMENT,
    LABEL_SERVE,
    LABEL_VRAM,
)
from ansible_collections.anvil.serving.plugins.module_utils.docker.connection import is_local
from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import parse_timestamp, published_address
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.host.disk_places import (
    DATA,
    DOCKER,
    WEIGHTS,
    describe_low,
    read_disks,
)
from ansible_collections.anvil.serving.plugins.module_utils.host.driver_errors import explain_driver
from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_health import describe_sick
from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_health_on_host import read_health
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card, read_cards
from ansible_collections.anvil.serving.plugins.module_utils.serves import readiness
from ansible_collections.anvil.serving.plugins.module_utils.serves.engine_report import describe_tokens, read_reports
from ansible_collections.anvil.serving.plugins.module_utils.serves.experiments import group_experiments
from ansible_collections.anvil.serving.plugins.module_utils.serves.gpu_claims import cards_of, read_host_names
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import HOLDING, observe_container
from ansible_collections.anvil.serving.plugins.module_utils.serves.vram_ledger import parse_claims


def describe_holder(raw: Mapping[str, Any], project: str) -> Dict[str, Any]:
    """What a container is: a serve of the inventory, an experiment, or a squatter."""
    labels = (raw.get("Config") or {}).get("Labels") or {}
    name = str(raw.get("Name", "")).lstrip("/")
    experiment = str(labels.get(LABEL_EXPERIMENT, ""))
    mib, by_card = parse_claims(str(labels.get(LABEL_VRAM, "")))
    ours = labels.get(COMPOSE_PROJECT) == project and LABEL_SERVE in labels
    return {
        "container": name,
        "name": experiment or (str(labels.get(LABEL_SERVE)) if ours else name),
        "kind": "experiment" if experiment else "serve" if ours else "squatter",
        "project": str(labels.get(COMPOSE_PROJECT, "")),
        "state": str((raw.get("State") or {}).get("Status", "")),
        "vram_mib": mib,
        "vram_by_card": by_card,
    }


def _rank(holder: Mapping[str, Any]) -> Tuple[int, str]:
    return ("serve", "experiment", "squatter").index(holder["kind"]), holder["name"]


def _on_card(holder: Mapping[str, Any], devices: Set[str]) -> Dict[str, Any]:
    """A holder with its claim on one card (and the MIG devices of it)."""
    claims = [mib for uuid, mib in holder["vram_by_card"].items() if uuid in devices]
    shown = {key: value for key, value in holder.items() if key != "vram_by_card"}
    return {**shown, "vram_mib": sum(claims)} if claims else shown


def _cards_with_holders(cards: Sequence[Card], held: Sequence[Tuple[Dict[str, Any], Tuple[str, ...]]]) -> List[Dict[str, Any]]:
    """The cards, each with the containers that hold it or one of its MIG devices."""

    def holders_of(devices: Set[str]) -> List[Dict[str, Any]]:
        return sorted((_on_card(holder, devices) for holder, uuids in held if not devices.isdisjoint(uuids)), key=_rank)

    return [
        {
            **asdict(card),
            "vram_free_mib": card.vram_free_mib,
            "holders": holders_of({card.uuid, *(device.uuid for device in card.mig_devices)} - {""}),
        }
        for card in cards
    ]


def _read_cards() -> Tuple[Optional[List[Card]], List[str]]:
    """The cards, and what is wrong with them: a driver that fails hides no serve."""
    try:
        cards = read_cards()
    except AnvilError as exc:
        return [], [exc.as_text()]
    if not cards:
        return cards, []
    troubles = [(card, *explain_driver(str(card.trouble), "it does not work")) for card in cards or () if card.trouble]
    lines = [
        "GPU {0}: {1} ({2}); {3}".format(card.uuid or card.pci_bus_id or card.index, what, card.trouble, hint)
        for card, what, hint in troubles
    ]
    health = read_health()
    return cards, lines + describe_sick(health.cards if health else ())


def _list_low_disks(docker: DockerEngine, directory: str, services: Mapping[str, Any]) -> List[str]:
    """A line for each disk that is nearly full: images and volumes, weights, our own files."""
    mounts = [mount for service in services.values() for mount in service.mounts]
    places = [(WEIGHTS, mount.source) for mount in mounts if mount.kind == "bind"]
    if not is_local(docker.docker_host):
        return []
    root = str(docker.info().get("DockerRootDir") or "")
    return describe_low(read_disks([*([(DOCKER, root)] if root else []), *places, (DATA, directory)]))


def read_overview(
    docker: DockerEngine, project: str, directory: str, serves: Mapping[str, Mapping[str, Any]], services: Mapping[str, Any]
) -> Dict[str, Any]:
    """What ``anvil_serve_info`` returns besides with ``overview``. directory: of the project.

    serves, services: what ``describe_serves`` returned, and the rendered services. Cards are None where the host has no
    NVIDIA driver; ``gpu_trouble`` is what is wrong with the driver or a card, ``disk_trouble`` which disks are nearly full.
    Times are seconds since 1970, by the host's clock.
    """
    cards, trouble = _read_cards()
    names = read_host_names(docker, cards or [])
    listed = docker.list_containers()
    held = []
    experiments = {
        one.name: {**one.as_dict(), "ports": [], "gpu_uuids": [], "served_name": "", "health": ""}
        for one in group_experiments(listed)
    }
    for entry in listed:
        labels = entry.get("Labels") or {}
        raw = docker.inspect_container(entry["Id"])
        if raw is None:
            continue
        uuids = cards_of(raw, cards or [], names)
        if uuids and entry["State"] in HOLDING:
            held.append((describe_holder(raw, project), uuids))
        one = experiments.get(str(labels.get(LABEL_EXPERIMENT, "")))
        if one is not None:
            one["gpu_uuids"] = sorted({*one["gpu_uuids"], *uuids})
            one["ports"] = sorted({*one["ports"], *_published(raw)})
            one["served_name"] = one["served_name"] or str(labels.get("anvil.serving.served_name", ""))
            one["state"], one["ready"] = _check_experiment(labels, raw, str(one["state"]))
            one["since"] = parse_timestamp(str((raw.get("State") or {}).get("StartedAt", "")))
            one["restarts"] = int(raw.get("RestartCount") or 0)
    reports = read_reports(directory)
    details = {name: _detail(docker, serve, services[name], reports.get(name, {})) for name, serve in serves.items()}
    return {
        "now": int(time.time()),
        "gpus": None if cards is None else _cards_with_holders(cards, held),
        "gpu_trouble": trouble,
        "disk_trouble": _list_low_disks(docker, directory, services),
        "experiments": [experiments[name] for name in sorted(experiments)],
        "details": details,
    }


def _check_experiment(labels: Mapping[str, str], raw: Mapping[str, Any], state: str) -> Tuple[str, Optional[bool]]:
    """The state of an experiment and whether it is ready; None: unknown, because it names no model or publishes no port."""
    served, seen = str(labels.get("anvil.serving.served_name", "")), observe_container(raw)
    if not served or not seen.ports:
        return state, None
    bind, port, _target = seen.ports[0]
    probe = readiness.ReadinessProbe(seen.name, seen.name, "models", published_address(bind, port), served, 0)
    verdict = readiness.check_readiness(probe, seen)
    return verdict.state, verdict.outcome == readiness.READY


def _gateway(docker: DockerEngine) -> str:
    """The address that ``host-gateway`` means in a container: that of the default bridge on this host."""
    bridge = docker.inspect_network("bridge") or {}
    configs = (bridge.get("IPAM") or {}).get("Config") or []
    return next((str(config["Gateway"]) for config in configs if config.get("Gateway")), "127.0.0.1")


def check_externals(
    docker: DockerEngine, externals: Sequence[Mapping[str, Any]], secrets: Mapping[str, str]
) -> Dict[str, Dict[str, Any]]:
    """Check the external servers (not managed by us): one request to each, at the address that the router's container uses.

    externals: as the plan has them. state: ``answers``, ``silent``, ``loading``, ``refused``, ``wrong_model``, or ``unknown``
    for a server on a host whose Docker Engine is remote.
    """
    found: Dict[str, Dict[str, Any]] = {}
    for one in externals:
        name, host, port, served = str(one["name"]), str(one["container"]), int(one["port"]), str(one["served_name"])
        tls = bool(one.get("tls"))
        url = format_url("https" if tls else "http", host, port)
        fixed = {"endpoint": url, "served_name": served, "port": port, "managed": False}
        if host == HOST_GATEWAY and not is_local(docker.docker_host):
            found[name] = {**fixed, "state": "unknown", "ready": None, "why": "the server can be reached only from its own host"}
            continue
        address = (_gateway(docker) if host == HOST_GATEWAY else host, port)
        key = str(secrets.get(str(one.get("api_key") or "")) or "")
        ca = str(one.get("ca") or "")
        probe = readiness.ReadinessProbe(name, "", "models", address, served, 0, key, tls, ca=ca if tls else None)
        try:
            answer = readiness.request_state(probe)
        except OSError as exc:
            why = "{0} cannot be read: {1}".format(ca, exc.strerror or exc)
            found[name] = {**fixed, "state": "unknown", "ready": None, "why": why}
            continue
        verdict = readiness.judge_answer(probe, answer, "")
        ready = verdict.outcome == readiness.READY
        state = "answers" if ready else "silent" if not answer.status else verdict.state
        found[name] = {**fixed, "state": state, "ready": ready, "why": verdict.why}
    return found


def _published(raw: Mapping[str, Any]) -> List[int]:
    bindings = (raw.get("HostConfig") or {}).get("PortBindings") or {}
    return [
        int(host["HostPort"]) for hosts in bindings.values() for host in hosts or [] if str(host.get("HostPort", "")).isdigit()
    ]


def _detail(docker: DockerEngine, serve: Mapping[str, Any], service: Any, report: Mapping[str, Any]) -> Dict[str, Any]:
    raw = docker.inspect_container(serve["container_id"]) if serve["container_id"] else None
    state = (raw or {}).get("State") or {}
    moment = state.get("StartedAt") if state.get("Status") in HOLDING else state.get("FinishedAt")
    return {
        "since": parse_timestamp(str(moment or "")),
        "restarts": int((raw or {}).get("RestartCount") or 0),
        "ports": [port for _bind, port, _target in service.ports],
        "model": str(service.anvil.get("model", "")),
        "served_name": str(service.anvil.get("served_name", "")),
        "vram_mib": int(service.anvil.get("vram_mib") or 0),
        # What an earlier container reported says nothing about this one.
        "kv_cache": describe_tokens(report) if report.get("container_id") == serve["container_id"] else "",
    }
