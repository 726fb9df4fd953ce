# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Plan an experiment, from parameters or from a compose file, and refuse one that conflicts with the inventory.

With parameters it is one more serve for ``build_plan``, so it gets the engine defaults and the checks of the inventory.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.core.addresses import (
    addresses_overlap,
    list_ports,
    name_port,
    ports_overlap,
    split_protocol,
)
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
    EXPERIMENT_NETWORK,
    EXPERIMENT_PROJECT,
    Service,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_layers import drop_layers
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.compose_interpretation import RunOnHost, interpret_file
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.experiment_compose import (
    check_secret_names,
    read_compose_document,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.experiment_options import (
    ExperimentOptions,
    add_cards,
    choose_gpus,
    list_unknown_uuids,
)
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.from_variables import plan_host
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.host_variables import list_secret_names
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import Project, render_experiment

# Option of the experiment, by the key of a serve that it sets under another name.
OPTION_OF_KEY = {"gpus": "gpu", "args": "extra_args"}


def experiment_variables(options: ExperimentOptions, base: HostPlan) -> dict[str, Any]:
    """The inventory variables with which ``build_plan`` plans only this experiment. base: the plan of the host."""
    serve: dict[str, Any] = {
        "engine": options.engine,
        "container": EXPERIMENT_PROJECT + options.name,
        "restart": "no",
        "model": options.model,
        "image": options.image,
        "served_name": options.served_name,
        "port": options.port,
        "gpus": choose_gpus(options.gpu, base),
        "args": list(options.extra_args),
        "environment": dict(options.environment),
        "volumes": list(options.volumes),
        "vram_mib": options.vram_mib,
        "ready_timeout": options.ready_timeout,
        "mem_limit": options.mem_limit,
        "pids_limit": options.pids_limit,
    }
    given = {key: value for key, value in serve.items() if value not in ("", [], {})}
    # On the network of the inventory, an experiment with the name of a serve would get the router's requests.
    return {"anvil_serves": {options.name: given}, "anvil_router": None, "anvil_network": EXPERIMENT_NETWORK}


def rename_to_options(problems: Iterable[Problem], name: str) -> list[Problem]:
    """Problems of the planned serve under the names of the options: ``port``, not ``anvil_serves.x.port``."""
    head = f"anvil_serves.{name}"
    renamed = []
    for problem in problems:
        where = problem.where
        if where == head:
            where = f"experiment {name}"
        elif where.startswith(head + "."):
            key, dot, rest = where.removeprefix(head + ".").partition(".")
            plain, bracket, index = key.partition("[")
            where = OPTION_OF_KEY.get(plain, plain) + bracket + index + dot + rest
        renamed.append(replace(problem, where=where))
    return renamed


def _list_claims(base: HostPlan) -> list[tuple[str, str, str, int]]:
    """(owner, container, address, port) of every serve, of the router with its replicas, and of the edge in the inventory."""
    found = [(f"serve {serve.name}", serve.container, serve.bind, serve.port) for serve in base.serves]
    if base.router is not None:
        found.append(("the router", base.router.container, base.router.bind, base.router.port))
    if base.edge is not None:
        found += [("the router", one.container, "", 0) for one in base.edge.replicas]
        ports = [(front.bind, front.port) for front in base.edge.fronts if front.name != "router"]
        ports += [base.edge.metrics] if base.edge.metrics else []
        found += [("the edge", base.edge.container, bind, port) for bind, port in [*ports, ("", 0)]]
    return found


def find_conflicts(services: Iterable[Service], base: HostPlan) -> list[Problem]:
    """Container names and ports of an experiment that belong to the inventory, even to a serve that does not run now, or to two
    services of the experiment."""
    found, services = [], list(services)
    claims = _list_claims(base)
    names = {container: owner for owner, container, _bind, _port in claims}
    for service in services:
        if service.container in names:
            what = f"the inventory uses container name {service.container} for {names[service.container]}"
            found.append(Problem(what, "name", hint="choose another name"))
        for bind, port, target in service.ports:
            for owner, _container, taken, number in claims:
                if port == number and split_protocol(target)[1] == "tcp" and addresses_overlap(bind, taken):
                    what = f"the inventory uses port {port} for {owner}"
                    found.append(Problem(what, "port", hint="choose a free port: an experiment never takes the port of a serve"))
    return [*found, *_find_twins(services)]


def _find_twins(services: Sequence[Service]) -> Iterator[Problem]:
    """Ports and container names that two services of one file want."""
    for number, service in enumerate(services):
        for other in services[:number]:
            where = f"compose: services.{service.name}"
            if service.container == other.container:
                yield Problem(f"{other.name} has the container name {service.container} too", where, hint="choose another name")
            for port in list_ports(service.ports):
                if any(ports_overlap(port, taken) for taken in list_ports(other.ports)):
                    yield Problem(
                        f"{other.name} publishes port {name_port(port)} too", f"{where}.ports", hint="choose another port"
                    )


def plan_experiment(
    templar: Any,
    host: str,
    variables: Mapping[str, Any],
    options: ExperimentOptions,
    compose: Path | None,
    run_on_host: RunOnHost,
    read_cards: Callable[[], Sequence[Mapping[str, Any]]],
) -> tuple[HostPlan, Project, list[str]]:
    """The plan of the host, the project of the experiment, and notes. compose: its compose file, if it comes from one.
    run_on_host: used where the controller has no Docker Compose. read_cards: the cards of the host, used for a GPU that the
    inventory does not have.

    Raises AnvilError with every mistake.
    """
    read_cards = functools.cache(read_cards)
    base = plan_host(templar, host, dict(variables), False, read_cards)
    unknown = list_unknown_uuids(options.gpu, base)
    if unknown:
        variables = {**drop_layers(variables, ["anvil_gpus"]), "anvil_gpus": add_cards(unknown, read_cards(), base)}
        base = plan_host(templar, host, dict(variables), False, read_cards)
    if compose:
        project, notes = read_compose_document(interpret_file(compose, run_on_host), options, base)
    else:
        project, notes = _plan_from_options(templar, host, variables, options, base, read_cards)
    problems = find_conflicts(project.services.values(), base)
    problems += check_secret_names(project.services.values(), list_secret_names(variables))
    if problems:
        raise AnvilError(*problems)
    return base, project, notes


def _plan_from_options(
    templar: Any,
    host: str,
    variables: Mapping[str, Any],
    options: ExperimentOptions,
    base: HostPlan,
    read_cards: Callable[[], Sequence[Mapping[str, Any]]],
) -> tuple[Project, list[str]]:
    try:
        alone = experiment_variables(options, base)
        plan = plan_host(templar, host, {**drop_layers(variables, alone), **alone}, True, read_cards)
    except AnvilError as error:
        raise AnvilError(*rename_to_options(error.problems, options.name)) from error
    head = f"anvil_serves.{options.name}"
    notes = [note.replace(head, options.name) for note in plan.notes if note.startswith(head)]
    return render_experiment(plan, options.name, options.ttl), notes
