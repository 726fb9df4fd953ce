# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What an operator sees of a host at a glance: serves in numbers, cards and who holds them, experiments, servers of others.

``describe`` of the room ``serves`` tells what differs; here is what only people look at, so a converge never pays for it.
"""

from __future__ import annotations

import re
import struct
import time
from dataclasses import asdict
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.connection import is_local
from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import parse_timestamp, published_address
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.service import (
    COMPOSE_PROJECT,
    HOST_GATEWAY,
    LABEL_EXPERIMENT,
    LABEL_SERVE,
    LABEL_VRAM,
)
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card, read_cards
from ansible_collections.anvil.serving.plugins.module_utils.serves import drift, readiness
from ansible_collections.anvil.serving.plugins.module_utils.serves.experiments import find_experiments, group_experiments

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
RUNS = ("running", "paused", "restarting")


def devices_of(raw: Mapping[str, Any], cards: Sequence[Card]) -> List[str]:
    """UUIDs of the cards a container holds, whatever way it asked: reservation, count, or the runtime's variable."""
    found: List[str] = []
    every = [card.uuid for card in cards]
    by_index = {str(card.index): card.uuid for card in cards if card.index is not None}
    for request in (raw.get("HostConfig") or {}).get("DeviceRequests") or []:
        ids = [str(word) for word in request.get("DeviceIDs") or []]
        count = int(request.get("Count") or 0)
        found.extend(by_index.get(word, word) for word in ids)
        if not ids and count:
            found.extend(every if count < 0 else every[:count])
    if (raw.get("HostConfig") or {}).get("Runtime") == "nvidia" and not found:
        for line in (raw.get("Config") or {}).get("Env") or []:
            name, _equals, value = line.partition("=")
            if name == "NVIDIA_VISIBLE_DEVICES":
                words = [word.strip() for word in value.split(",")]
                found.extend(
                    every if "all" in words else [by_index.get(word, word) for word in words if word not in ("", "none", "void")]
                )
    return list(dict.fromkeys(found))


def holder_of(raw: Mapping[str, Any], project: str) -> Dict[str, Any]:
    """Who a container is to us: a serve of the inventory, an experiment, or a stranger."""
    labels = (raw.get("Config") or {}).get("Labels") or {}
    name = str(raw.get("Name", "")).lstrip("/")
    experiment = str(labels.get(LABEL_EXPERIMENT, ""))
    claim = str(labels.get(LABEL_VRAM, ""))
    ours = labels.get(COMPOSE_PROJECT) == project and LABEL_SERVE in labels
    return {
        "container": name,
        "name": experiment or (str(labels.get(LABEL_SERVE)) if ours else name),
        "kind": "experiment" if experiment else "serve" if ours else "squatter",
        "project": str(labels.get(COMPOSE_PROJECT, "")),
        "state": str((raw.get("State") or {}).get("Status", "")),
        "vram_mib": int(claim) if claim.isdigit() else None,
    }


def _rank(holder: Mapping[str, Any]) -> Tuple[int, str]:
    return ("serve", "experiment", "squatter").index(holder["kind"]), holder["name"]


def _cards_with_holders(cards: Sequence[Card], held: Sequence[Tuple[Dict[str, Any], List[str]]]) -> List[Dict[str, Any]]:
    return [
        {
            **asdict(card),
            "vram_free_mib": card.vram_free_mib,
            "holders": sorted((holder for holder, uuids in held if card.uuid in uuids), key=_rank),
        }
        for card in cards
    ]


def overview(
    engine: DockerEngine, project: str, serves: Mapping[str, Mapping[str, Any]], services: Mapping[str, Any]
) -> Dict[str, Any]:
    """What ``anvil_serve_info`` adds with ``overview``.

    serves, services: what ``serves.describe`` returned, and the rendered services. Cards are None where the host has no
    NVIDIA driver. Times are seconds since 1970, by the host's clock.
    """
    cards = read_cards()
    listed = engine.list_containers()
    held = []
    experiments = {
        one.name: {**one.as_dict(), "ports": [], "gpu_uuids": [], "served_name": "", "health": ""}
        for one in group_experiments(listed)
    }
    for entry in listed:
        labels = entry.get("Labels") or {}
        raw = engine.inspect_container(entry["Id"])
        if raw is None:
            continue
        uuids = devices_of(raw, cards or [])
        if uuids and entry["State"] in RUNS:
            held.append((holder_of(raw, project), uuids))
        one = experiments.get(str(labels.get(LABEL_EXPERIMENT, "")))
        if one is not None:
            one["gpu_uuids"] = sorted({*one["gpu_uuids"], *uuids})
            one["ports"] = sorted({*one["ports"], *_published(raw)})
            one["served_name"] = one["served_name"] or str(labels.get("anvil.serving.served_name", ""))
            one["state"], one["ready"] = _probe(labels, raw, str(one["state"]))
            one["since"] = parse_timestamp(str((raw.get("State") or {}).get("StartedAt", "")))
            one["restarts"] = int(raw.get("RestartCount") or 0)
    details = {name: _detail(engine, serve, services[name]) for name, serve in serves.items()}
    return {
        "now": int(time.time()),
        "gpus": None if cards is None else _cards_with_holders(cards, held),
        "experiments": [experiments[name] for name in sorted(experiments)],
        "details": details,
    }


def _probe(labels: Mapping[str, str], raw: Mapping[str, Any], state: str) -> Tuple[str, Optional[bool]]:
    """An experiment's state as a serve's: does it answer with its model's name? Unknown (None) where we cannot ask."""
    served, seen = str(labels.get("anvil.serving.served_name", "")), drift.observe(raw)
    if not served or not seen.ports:
        return state, None
    bind, port, _target = seen.ports[0]
    subject = readiness.Subject(seen.name, seen.name, "models", published_address(bind, port), served, 0)
    verdict = readiness.look(subject, seen)
    return verdict.state, verdict.outcome == readiness.READY


def _gateway(engine: DockerEngine) -> str:
    """What ``host-gateway`` is in a container: the default bridge's address on this host."""
    bridge = engine.inspect_network("bridge") or {}
    configs = (bridge.get("IPAM") or {}).get("Config") or []
    return next((str(config["Gateway"]) for config in configs if config.get("Gateway")), "127.0.0.1")


def look_at_externals(
    engine: DockerEngine, externals: Sequence[Mapping[str, Any]], secrets: Mapping[str, str]
) -> Dict[str, Dict[str, Any]]:
    """Do the servers answer that somebody else runs? One request to each, where the router's container would ask it.

    externals: as the plan has them. state: ``answers``, ``silent``, ``loading``, ``refused``, ``wrong_model``, or ``unknown``
    for one on a host whose engine is reached from afar.
    """
    found: Dict[str, Dict[str, Any]] = {}
    for one in externals:
        name, host, port, served = str(one["name"]), str(one["container"]), int(one["port"]), str(one["served_name"])
        told = {"endpoint": "http://{0}:{1}".format(host, port), "served_name": served, "port": port, "managed": False}
        if host == HOST_GATEWAY and not is_local(engine.docker_host):
            found[name] = {**told, "state": "unknown", "ready": None, "why": "only its own host can ask it"}
            continue
        address = (_gateway(engine) if host == HOST_GATEWAY else host, port)
        key = str(secrets.get(str(one.get("api_key") or "")) or "")
        subject = readiness.Subject(name, "", "models", address, served, 0, key)
        answer = readiness.ask(subject)
        verdict = readiness.judge_answer(subject, answer, "")
        ready = verdict.outcome == readiness.READY
        state = "answers" if ready else "silent" if not answer.status else verdict.state
        found[name] = {**told, "state": state, "ready": ready, "why": verdict.why}
    return found


def _published(raw: Mapping[str, Any]) -> List[int]:
    bindings = (raw.get("HostConfig") or {}).get("PortBindings") or {}
    return [
        int(host["HostPort"]) for hosts in bindings.values() for host in hosts or [] if str(host.get("HostPort", "")).isdigit()
    ]


def _detail(engine: DockerEngine, serve: Mapping[str, Any], service: Any) -> Dict[str, Any]:
    raw = engine.inspect_container(serve["container_id"]) if serve["container_id"] else None
    state = (raw or {}).get("State") or {}
    moment = state.get("StartedAt") if state.get("Status") in RUNS else state.get("FinishedAt")
    return {
        "since": parse_timestamp(str(moment or "")),
        "restarts": int((raw or {}).get("RestartCount") or 0),
        "ports": [port for _bind, port, _target in service.ports],
        "model": str(service.anvil.get("model", "")),
        "served_name": str(service.anvil.get("served_name", "")),
        "vram_mib": int(service.anvil.get("vram_mib") or 0),
    }


# ---------------------------------------------------------------------------------------------------------------- logs


def parse_since(text: str, now: float) -> int:
    """``10m``, ``2h``, ``90`` (seconds ago) as seconds since 1970; empty is 0, the beginning. Raises AnvilError."""
    word = text.strip()
    if not word:
        return 0
    match = re.match(r"^([0-9]{1,9})([smhd]?)$", word)
    if match is None:
        raise fail("{0!r} is no time span".format(text), where="logs.since", hint="a number with s, m, h or d: 10m, 2h, 1d")
    return int(now - int(match.group(1)) * SECONDS[match.group(2) or "s"])


def split_frames(raw: bytes) -> List[Tuple[str, str]]:
    """The engine's framed log: (``stdout`` or ``stderr``, line), in the order of the engine."""
    found: List[Tuple[str, str]] = []
    rest = {1: b"", 2: b""}
    position = 0
    while position + 8 <= len(raw):
        stream, size = struct.unpack(">BxxxL", raw[position : position + 8])
        if stream not in rest:
            break
        rest[stream] += raw[position + 8 : position + 8 + size]
        position += 8 + size
        *whole, rest[stream] = rest[stream].split(b"\n")
        found.extend((_stream(stream), line.decode("utf-8", "replace").rstrip("\r")) for line in whole)
    found.extend((_stream(key), left.decode("utf-8", "replace")) for key, left in rest.items() if left)
    return found


def _stream(number: int) -> str:
    return "stderr" if number == 2 else "stdout"


def read_logs(
    engine: DockerEngine, serves: Mapping[str, Mapping[str, Any]], tail: int, since: str, secrets: Mapping[str, str]
) -> Dict[str, List[Dict[str, str]]]:
    """The last lines of each serve, both streams, oldest first; values of known secrets are blotted out."""
    start = parse_since(since, time.time())
    hidden = sorted((value for value in secrets.values() if len(value) >= 4), key=len, reverse=True)
    logs = {}
    for name, serve in serves.items():
        raw = engine.read_log_frames(serve["container_id"], tail, start) if serve["container_id"] else b""
        logs[name] = [{"stream": stream, "line": _blot_out(text, hidden)} for stream, text in split_frames(raw)]
    return logs


def read_experiment_logs(
    engine: DockerEngine, names: Sequence[str], tail: int, since: str, secrets: Mapping[str, str]
) -> Dict[str, Any]:
    """As ``read_logs``, for the containers of experiments; raises AnvilError for a name that is none."""
    there = {one.name: one for one in find_experiments(engine)}
    missing = [name for name in names if name not in there]
    if missing:
        hint = "there are: " + (", ".join(there) or "none")
        raise fail("no experiment {0} on this host".format(", ".join(missing)), where="logs.experiments", hint=hint)
    containers = {container: {"container_id": container} for name in names for container in there[name].containers}
    return dict(read_logs(engine, containers, tail, since, secrets))


def _blot_out(text: str, hidden: Sequence[str]) -> str:
    for value in hidden:
        text = text.replace(value, "***")
    return text
