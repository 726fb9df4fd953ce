# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether serves may start on this host: free names and ports, existing GPUs. Every reason against it is reported. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.addresses import Port, list_ports, name_port, ports_overlap
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service
from ansible_collections.anvil.serving.plugins.module_utils.host.rootless_engine import PORT_HINT

if TYPE_CHECKING:
    from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card


@dataclass(frozen=True)
class OtherContainer:
    """A container that does not belong to the services being converged. ports: those that it holds on the host now."""

    name: str
    project: str
    state: str
    ports: Tuple[Port, ...] = ()

    def describe(self) -> str:
        owner = "project " + self.project if self.project else "no compose project"
        return "container {0} ({1}, {2})".format(self.name, owner, self.state)


def _name_problems(service: Service, others: Sequence[OtherContainer]) -> List[Problem]:
    return [
        Problem(
            what="the container name {0} is taken".format(service.container),
            where="serve " + service.name,
            why="by " + other.describe(),
            hint="retire it: ansible-playbook playbooks/retire.yml -e containers={0} -e confirm=true\n"
            "or adopt it: ansible-playbook playbooks/adopt.yml -e serves={1}\n"
            "or give the serve another container name".format(service.container, service.name),
        )
        for other in others
        if other.name == service.container
    ]


def _port_problems(
    service: Service,
    others: Sequence[OtherContainer],
    busy: Mapping[Port, str],
    missing: Mapping[str, str],
    barred: Mapping[Port, str],
) -> List[Problem]:
    found = []
    for port in list_ports(service.ports):
        holders = [other.describe() for other in others if any(ports_overlap(held, port) for held in other.ports)]
        if not holders and port in busy:
            holders = [busy[port]]
        if port[0] in missing:
            found.append(
                Problem(
                    what="the host does not have the address {0}".format(port[0]),
                    where="serve " + service.name,
                    why="port {0} cannot be published: {1}".format(name_port(port), missing[port[0]]),
                    hint="write the address that this host has in fabric (ip -brief address)"
                    if service.anvil.get("hosts")
                    else "publish the serve on an address that the host has (ip -brief address), or on 127.0.0.1",
                )
            )
        elif port in barred:
            found.append(
                Problem(
                    what="port {0} cannot be published on this host".format(name_port(port)),
                    where="serve " + service.name,
                    why=barred[port],
                    hint="choose a port from 1024 on\nor " + PORT_HINT.format(port[1]),
                )
            )
        elif holders:
            found.append(
                Problem(
                    what="port {0} is taken".format(name_port(port)),
                    where="serve " + service.name,
                    why="by " + ", ".join(holders),
                    hint="stop the container or process that holds the port, or give the serve another port\n"
                    "a container that is to become this serve: ansible-playbook playbooks/adopt.yml -e serves={0}".format(
                        service.name
                    ),
                )
            )
    return found


def _fabric_problems(service: Service, missing: Mapping[str, str]) -> List[Problem]:
    """What a service with the network of its host needs there. missing: address or interface -> why, or what is there."""
    fabric = service.anvil.get("fabric") or {}
    address, interface = str(fabric.get("address") or "").strip("[]"), str(fabric.get("interface") or "")
    where, found = "serve " + service.name, []
    if address in missing:
        hint = "write the address that this host has in fabric (ip -brief address)"
        found.append(Problem("the host does not have the address {0}".format(address), where, missing[address], hint))
    if interface in missing:
        what = "the host has no network interface {0}".format(interface)
        found.append(Problem(what, where, "it has " + missing[interface], "correct interface in fabric"))
    return found


def _gpu_problems(service: Service, cards: Optional[Sequence[Card]]) -> List[Problem]:
    if not service.gpu_uuids:
        return []
    if cards is None:
        return [
            Problem(
                what="the serve is pinned to a GPU, but the host has no NVIDIA driver",
                where="serve " + service.name,
                why="nvidia-smi is not on PATH",
                hint="install the driver and the container toolkit, or remove gpus from the serve",
            )
        ]
    here = {card.uuid for card in cards if card.uuid} | {device.uuid for card in cards for device in card.mig_devices}
    present = ", ".join("{0} ({1})".format(card.uuid, card.name) for card in cards if card.uuid) or "none"
    present += "".join("; " + str(card.trouble) for card in cards if card.trouble)
    return [
        Problem(
            what="the serve is pinned to the whole GPU {0}, which is in MIG mode".format(card.uuid),
            where="serve " + service.name,
            why="its MIG devices: " + (", ".join(device.uuid for device in card.mig_devices) or "none has been created"),
            hint="pin the serve to one of them (uuid in anvil_gpus), or turn MIG off (nvidia-smi -i {0} -mig 0)".format(
                card.index
            ),
        )
        for card in cards
        if card.mig and card.uuid in service.gpu_uuids
    ] + [
        Problem(
            what="GPU {0} is not on this host".format(uuid),
            where="serve " + service.name,
            why="the driver lists: " + present,
            hint="correct the uuid in anvil_gpus, or find out why the driver lost the GPU (nvidia-smi -L; dmesg | grep -i xid)",
        )
        for uuid in service.gpu_uuids
        if uuid not in here
    ]


def admit(
    services: Sequence[Service],
    others: Sequence[OtherContainer],
    cards: Optional[Sequence[Card]],
    busy: Mapping[Port, str],
    missing: Optional[Mapping[str, str]] = None,
    barred: Optional[Mapping[Port, str]] = None,
) -> Dict[str, List[Problem]]:
    """Every reason why a service may not start, by its name; empty: all are admitted.

    services: those that are about to be created, replaced or started. others: every other container of the host.
    busy: ports that a process holds, with a description of the process. missing: addresses and network interfaces that the host
    does not have, and why.
    barred: ports that the Docker Engine may not publish, and why.
    """
    verdicts = {}
    for service in services:
        problems = _name_problems(service, others) + _port_problems(service, others, busy, missing or {}, barred or {})
        problems += _fabric_problems(service, missing or {})
        problems += _gpu_problems(service, cards)
        if problems:
            verdicts[service.name] = problems
    return verdicts
