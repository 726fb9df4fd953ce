# SPDX-License-Identifier: GPL-3.0-or-later
"""Admission of serves on this host: names, ports, GPUs, memory and models are checked before a container is touched.

The facts are read here; ``admission``, ``vram_ledger`` and ``service_compatibility`` judge them. A run with nothing to do never
comes here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Dict, List, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.addresses import Port, list_ports, ports_overlap
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.core.findings import select_refused, tell_others
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import OFF, ON_DEMAND, Service
from ansible_collections.anvil.serving.plugins.module_utils.docker.connection import is_local
from ansible_collections.anvil.serving.plugins.module_utils.host.listening_ports import (
    find_barred_ports,
    find_busy_ports,
    find_missing_addresses,
    find_missing_interfaces,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves import decisions
from ansible_collections.anvil.serving.plugins.module_utils.serves.admission import admit
from ansible_collections.anvil.serving.plugins.module_utils.serves.decisions import RESTS_EVICTED, Decision
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import HOLDING
from ansible_collections.anvil.serving.plugins.module_utils.serves.project import Outcome, ServeOptions
from ansible_collections.anvil.serving.plugins.module_utils.serves.project_state import ProjectState

if TYPE_CHECKING:
    from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card

# After one of these a serve claims its memory anew; a serve that is unpaused or restarted has it already.
CHARGED = (decisions.CREATE, decisions.RECREATE, decisions.START, decisions.ADOPT)


def admit_serves(
    state: ProjectState, services: Sequence[Service], outcomes: Dict[str, Outcome], options: ServeOptions
) -> Tuple[List[Dict[str, object]], List[str]]:
    """Put every reason why a serve may not start into its outcome; returns the evictions that are needed, and notes.

    A serve that is evicted gets an outcome of its own. An evictable serve that the operator did not name rests while a serve
    on demand has its GPU.
    """
    starting = [service for service in services if outcomes[service.name].decision.action != decisions.NONE]
    replaced = [outcome.replaces.id for outcome in outcomes.values() if outcome.replaces is not None]
    charged = [service for service in starting if outcomes[service.name].decision.action in CHARGED]
    cards: Optional[Sequence[Card]] = None
    evicted: List[Service] = []
    memory_problems: Dict[str, List[Problem]] = {}
    notes: List[str] = []
    if any(service.gpu_uuids for service in starting):
        from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import read_cards
        from ansible_collections.anvil.serving.plugins.module_utils.serves.vram_ledger_on_host import HostLedger

        cards = read_cards()
        ledger = HostLedger(state, charged, outcomes, cards or (), options)
        verdict, resting = ledger.weigh_resting(services)
        for name in resting:
            outcomes[name].decision = Decision(decisions.NONE, (RESTS_EVICTED,))
        starting = [service for service in starting if service.name not in resting]
        evicted = ledger.choose_evictions(verdict, [service.name for service in services])
        memory_problems, notes = {} if evicted else verdict.problems, list(verdict.notes)
        pinned = {uuid for service in starting for uuid in service.gpu_uuids}
        notes += ["GPU {0}: {1}".format(card.uuid, card.trouble) for card in cards or () if card.trouble and card.uuid in pinned]
        if cards and options.compatibility != "off":
            notes += _judge_health(starting, outcomes, options.compatibility)
    busy, missing = _read_ports(state, starting, outcomes)
    barred = find_barred_ports(starting, state.docker.info) if is_local(state.docker.docker_host) else {}
    refused = admit(starting, state.list_other_containers(services, replaced), cards, busy, missing, barred)
    for problems in (refused, memory_problems, _judge_mounts(state, starting, outcomes)):
        for name, found in problems.items():
            outcomes[name].problems.extend(found)
    if options.compatibility != "off" and starting:
        notes += _check_models(state, starting, cards or (), options, outcomes)
    for service in evicted:
        outcomes[service.name] = Outcome(Decision(decisions.EVICT, (RESTS_EVICTED,)), state.find_container(service))
    demanding = ", ".join(service.name for service in charged if state.project.residency(service) == ON_DEMAND)
    evictions: List[Dict[str, object]] = [
        {"serve": service.name, "container": service.container, "for": demanding, "gpu_uuids": list(service.gpu_uuids)}
        for service in evicted
    ]
    return evictions, notes


def _judge_health(starting: Sequence[Service], outcomes: Dict[str, Outcome], mode: str) -> List[str]:
    """Refuse serves that would start on a card that is certainly sick; returns notes. A serve that is unpaused goes on."""
    judged = [one for one in starting if one.gpu_uuids and outcomes[one.name].decision.action != decisions.UNPAUSE]
    if not judged:
        return []
    from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_health import judge_devices
    from ansible_collections.anvil.serving.plugins.module_utils.host.gpu_health_on_host import read_health

    health, notes = read_health(), []
    for service in judged if health is not None else ():
        found = judge_devices(service.gpu_uuids, health.cards if health else (), "serve " + service.name)
        outcomes[service.name].problems.extend(select_refused(found, mode))
        notes += tell_others(found, mode)
    return notes


def _judge_mounts(state: ProjectState, starting: Sequence[Service], outcomes: Dict[str, Outcome]) -> Dict[str, List[Problem]]:
    """Why serves that get a new container may not have their mounts."""
    made = [service for service in starting if outcomes[service.name].decision.action in CHARGED and service.mounts]
    if not made:
        return {}
    from ansible_collections.anvil.serving.plugins.module_utils.serves.mount_admission import judge_mounts

    return judge_mounts(state.docker, made, state.project.directory)


def _check_models(
    state: ProjectState, starting: Sequence[Service], cards: Sequence[Card], options: ServeOptions, outcomes: Dict[str, Outcome]
) -> List[str]:
    """Check whether the models fit their engines and GPUs; returns notes. What is refused goes to the first serve that starts."""
    # The rooms that read headers of weights are many: a run that starts nothing does not need them.
    from ansible_collections.anvil.serving.plugins.module_utils.weights.service_compatibility import judge_services

    names = [service.name for service in starting if outcomes[service.name].decision.action in CHARGED]
    if not names:
        return []
    described = [service for service in state.project.services.values() if state.project.residency(service) != OFF]
    found = judge_services(state.docker, described, names, cards, options.allowed)
    outcomes[names[0]].problems.extend(select_refused(found, options.compatibility))
    return tell_others(found, options.compatibility)


def _read_ports(
    state: ProjectState, starting: Sequence[Service], outcomes: Dict[str, Outcome]
) -> Tuple[Dict[Port, str], Dict[str, str]]:
    """The ports that a process holds; the addresses and network interfaces that the host lacks. Without those that may be wrong.

    The containers that are about to be replaced or removed give their ports back. A container in a restart loop has its port at
    one moment and not at the next: the list of containers may lack it.
    """
    if not is_local(state.docker.docker_host):
        return {}, {}  # the ports of another machine
    going = [seen for outcome in outcomes.values() for seen in (outcome.seen, outcome.replaces) if seen is not None]
    own = [port for seen in going if seen.state in HOLDING for port in list_ports(seen.ports)]
    found = find_busy_ports(starting, state.listed, [seen.id for seen in going])
    busy = {port: holder for port, holder in found.items() if not any(ports_overlap(port, held) for held in own)}
    missing = {**find_missing_addresses(starting), **find_missing_interfaces(starting)}
    if missing and state.docker.info().get("OperatingSystem") == "Docker Desktop":
        missing = {}  # its ports are published on the machine outside the one that it runs on
    return busy, missing
