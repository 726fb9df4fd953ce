# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of a serve over several hosts that one host runs: its container, its network, and what all parts must have alike."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any, Mapping

from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import Settings
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import CUSTOM
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import HOST_NETWORK, RESIDENT
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import ServePlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_engines import SharedSettings
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_hosts import (
    HostPart,
    HostsOfServe,
    check_backends,
    check_decided_flags,
    decide_part,
    drop_head_only,
)
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_networks import NetworkSettings, close_serve
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import Section, describe_value

# A part with this variable of another value belongs to another definition of the serve: a change of one part replaces all.
DEFINITION = "ANVIL_HOSTS_DEFINITION"
RDMA_DEVICES = ("/dev/infiniband",)
# Keys that hosts may have differently. Their change replaces every part too: a new head alone would wait for its members.
ALSO_REPLACING = ("rpc_command", "gpu_memory_utilization", "api_key", "secrets", "security", "ipc", "shm_size")
INSECURE = (
    "llama.cpp's RPC server has no authentication and no encryption, and its authors call it insecure: whoever reaches port {0}"
    " can take over the member; it is published on the fabric only, and the fabric must be a private network"
)


def choose_own_gpus(section: Section, host: str) -> Section:
    """``gpus`` of a serve over several hosts may be a mapping: host -> aliases. Returns the section as this host sees it."""
    value, hosts = section.raw.get("gpus"), section.raw.get("hosts")
    if not isinstance(value, Mapping) or not isinstance(hosts, (list, tuple)):
        return section
    # A name that is no text is told where the hosts are read.
    hosts = [str(name) for name in hosts if isinstance(name, str)]
    inner = Section(section.check, section.path_of("gpus"), value)
    inner.check_keys(hosts)
    for name in hosts:
        if not inner.has(name):
            inner.add_problem(name, "it is not said which GPUs of {0} the serve gets".format(name), "{0}: [alias]".format(name))
    counts = {name: len(value[name]) for name in hosts if isinstance(value.get(name), (list, tuple))}
    # vLLM starts the same number of ranks on every host (vllm/v1/executor/multiproc_executor.py).
    if section.raw.get("engine") == "vllm" and len(set(counts.values())) > 1:
        numbers = ", ".join("{0} {1}".format(*pair) for pair in counts.items())
        what = "the hosts give the serve different numbers of GPUs: " + numbers
        section.add_problem("gpus", what, "give the same number on each host")
    return Section(section.check, section.path, {**section.raw, "gpus": value.get(host)})


def decide_host(
    section: Section, hosts: HostsOfServe, settings: Settings, shared: SharedSettings, given: Mapping[str, Any]
) -> HostPart:
    """What this host adds. section: as ``choose_own_gpus`` returns it. given: keys of the serve that every host must have alike,
    besides those in ``shared``."""
    engine, listed = settings.engine, section.raw.get("gpus")
    check_decided_flags(section, engine, shared.args)
    check_backends(section, settings)
    part = decide_part(section, engine, hosts, settings, len(listed) if isinstance(listed, (list, tuple)) else 0)
    named = {**given, "engine": engine, "hosts": hosts.hosts, "master_port": hosts.master_port, "rpc_port": hosts.rpc_port}
    named.update({key: getattr(shared, key) for key in ("image", "args", "launch", "environment", "entrypoint")})
    named["fabric"] = {name: [end.address, end.interface, end.rdma] for name, end in hosts.ends.items()}
    common = {name: json.dumps(value, sort_keys=True) for name, value in sorted(named.items())}
    own = {key: section.raw.get(key) for key in ALSO_REPLACING}
    digest = hashlib.sha256(json.dumps([common, own], sort_keys=True, default=str).encode()).hexdigest()[:16]
    return HostPart(part.args, {**part.environment, DEFINITION: digest}, common)


def place_part(
    section: Section, serve: ServePlan, hosts: HostsOfServe, shared: SharedSettings, networks: NetworkSettings
) -> ServePlan:
    """The serve with what its part on this host has, on its network."""
    _check_limits(section, serve, shared)
    ready = replace(serve, hosts=hosts.hosts, rank=hosts.rank, warmup=True, on_failure="keep")
    if serve.engine == "llama_cpp":
        return _place_llama(section, ready, hosts, networks)
    return _place_vllm(section, ready, hosts, shared, networks)


def _check_limits(section: Section, serve: ServePlan, shared: SharedSettings) -> None:
    """Refuse what is not built for several hosts."""
    if serve.residency != RESIDENT:
        section.add_problem(
            "residency", "a serve over several hosts is resident", "remove it: no host makes room for another one"
        )
    if serve.published is not None and serve.engine == "vllm":
        why = "its head listens on the fabric, which the edge does not forward to"
        section.add_problem(
            "publish", "vLLM over several hosts cannot be published at the edge", "reach it through the router", why
        )
    if shared.egress is False:
        section.add_problem("egress", "egress: false would cut the hosts of the serve from each other", "remove it")
    if shared.restart in ("no", "on-failure"):
        what = "a head whose member died ends with exit code 0, so restart: {0} leaves it down".format(shared.restart)
        section.add_note("restart", what)
    if shared.on_failure == "roll_back":
        what = "a failed change of a serve over several hosts is kept, because the other hosts would not go back with it"
        section.add_note("on_failure", what)


def _place_llama(section: Section, serve: ServePlan, hosts: HostsOfServe, networks: NetworkSettings) -> ServePlan:
    if not hosts.rank:
        section.add_note("hosts", INSECURE.format(hosts.rpc_port))
        return close_serve(section, serve, replace(networks, egress=True), False)
    member = replace(
        serve,
        engine=CUSTOM,
        model="",
        served_name=serve.name,
        more_names=(),
        entrypoint=hosts.rpc_command,
        args=("--host", "0.0.0.0", "--port", str(hosts.rpc_port)),
        port=hosts.rpc_port,
        container_port=0,
        bind=hosts.own.address,
        published=None,
        mounts=(),
        models={},
        secrets={},
        api_key="",
        part="",
    )
    return close_serve(section, member, replace(networks, egress=False), False)


def _place_vllm(
    section: Section, serve: ServePlan, hosts: HostsOfServe, shared: SharedSettings, networks: NetworkSettings
) -> ServePlan:
    if not hosts.rank and not serve.api_key:
        what = "the API of the head listens on {0}:{1}, and every machine of the fabric may use it".format(
            hosts.own.address, serve.port
        )
        section.add_note("api_key", what + "; set api_key: <name in anvil_secrets>")
    if serve.gpus and shared.ipc is None and not shared.shm_size:
        serve = replace(serve, ipc="host", shm_size="")
    if hosts.own.rdma:
        added = serve.cap_add if "ALL" in serve.cap_add else tuple(sorted({*serve.cap_add, "IPC_LOCK"}))
        serve = replace(serve, devices=RDMA_DEVICES, memlock=True, cap_add=added)
    if hosts.rank:
        secrets = {name: value for name, value in serve.secrets.items() if value != serve.api_key}
        serve = replace(serve, args=drop_head_only(serve.args), secrets=secrets, api_key="")
    placed = close_serve(section, serve, replace(networks, egress=True), False)
    return replace(
        placed,
        network=HOST_NETWORK,
        closed=False,
        dns=(),
        host_network=True,
        address=hosts.own.address,
        interface=hosts.own.interface,
        bind=hosts.own.address,
        held_ports=() if hosts.rank else ((hosts.own.address, hosts.master_port),),
    )


def describe_difference(name: str, mine: str, theirs: str) -> str:
    """One setting that two hosts have differently; environment without its values."""
    if name == "environment":
        one, other = json.loads(mine), json.loads(theirs)
        changed = sorted(key for key in {*one, *other} if one.get(key) != other.get(key))
        return "environment ({0})".format(", ".join(changed))
    return "{0} ({1} and {2})".format(name, _show(mine), _show(theirs))


def _show(text: str) -> str:
    value = json.loads(text)
    return " ".join(str(word) for word in value) if isinstance(value, list) else describe_value(value)
