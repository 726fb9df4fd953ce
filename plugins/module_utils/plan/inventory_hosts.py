# SPDX-License-Identifier: GPL-3.0-or-later
"""Check ``hosts`` and ``fabric`` of a serve over several hosts, and decide the ranks and sizes of its head and members.

vLLM runs its own multi-node mode (``vllm/engine/arg_utils.py``, ``vllm/config/parallel.py``): every host runs the same command
line with its rank, members without an API. llama.cpp runs ``ggml-rpc-server`` on the members (``tools/rpc/README.md``), and the
head uses their memory and cards. Both talk without any protection, so they listen on the fabric only.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog import engine_options as options
from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import Settings, flag_of
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import (
    NO_SPACE,
    UNREAD,
    Section,
    is_loopback,
    read_address,
    shorten,
    suggest_name,
)

ENGINES_OVER_HOSTS = ("vllm", "llama_cpp")
HOST_KEYS = ("hosts", "fabric", "master_port", "rpc_port", "rpc_command")
FABRIC_KEYS = ("address", "interface", "rdma")
EXAMPLE = "fabric: {gpu1: {address: 10.0.0.1, interface: ens1f0}, gpu2: {address: 10.0.0.2, interface: ens1f0}}"
MASTER_PORT, RPC_PORT = 29501, 50052
RPC_COMMAND = ("ggml-rpc-server",)
INTERFACE = re.compile(r"[^\s/:\0]{1,15}")
DEVICE = re.compile(r"[A-Za-z0-9_.-]{1,64}(:[0-9]{1,3})?")
# Flags that the plan decides for a serve over several hosts -> what to write instead.
DECIDED = {
    "vllm": {
        "--nnodes": "hosts",
        "-n": "hosts",
        "--node-rank": "hosts",
        "-r": "hosts",
        "--master-addr": "fabric",
        "--master-port": "master_port",
    },
    "llama_cpp": {"--rpc": "hosts"},
}


# Flags of vLLM with a value, for processes of the API, which members do not have.
HEAD_ONLY = ("--api-server-count", "-asc")


@dataclass(frozen=True)
class FabricEnd:
    """One host on the network between the hosts of a serve. interface: empty: not written. rdma: its RDMA devices, for NCCL."""

    address: str
    interface: str = ""
    rdma: Tuple[str, ...] = ()


@dataclass(frozen=True)
class HostsOfServe:
    """A serve over several hosts, as one of them sees it. hosts: the head first. rank: of this host; the head has 0."""

    hosts: Tuple[str, ...]
    rank: int
    ends: Mapping[str, FabricEnd]
    master_port: int = MASTER_PORT
    rpc_port: int = RPC_PORT
    rpc_command: Tuple[str, ...] = RPC_COMMAND

    @property
    def own(self) -> FabricEnd:
        return self.ends[self.hosts[self.rank]]

    @property
    def head(self) -> FabricEnd:
        return self.ends[self.hosts[0]]

    def members(self) -> List[FabricEnd]:
        return [self.ends[name] for name in self.hosts[1:]]


@dataclass(frozen=True)
class HostPart:
    """What a host adds to its part of the serve. environment: the inventory's own values take precedence. common: what every host
    must have alike, name -> JSON."""

    args: Tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    common: Mapping[str, str] = field(default_factory=dict)


def is_elsewhere(section: Section, host: str) -> bool:
    """Whether the serve has hosts, and this one is none of them. A list with a mistake is reported by ``read_hosts``."""
    value = section.raw.get("hosts")
    return isinstance(value, (list, tuple)) and bool(value) and all(isinstance(one, str) for one in value) and host not in value


def read_hosts(section: Section, host: str, engine: str) -> Optional[HostsOfServe]:
    """None: the serve runs on one host, or the keys have mistakes."""
    if section.raw.get("hosts") is UNREAD:
        return None
    if not section.has("hosts"):
        for key in HOST_KEYS[1:]:
            if section.has(key):
                section.add_problem(key, "it is for a serve over several hosts", "set hosts: [HEAD, MEMBER], or remove it")
        return None
    listed = section.check.read_list(section.path_of("hosts"), section.raw.get("hosts"), "hosts: [gpu1, gpu2], the head first")
    names: List[str] = []
    for path, value in listed or ():
        text = section.check.match_text(path, value, NO_SPACE, "the name of a host of the inventory")
        if text and text in names:
            section.check.add_problem(path, "host {0} is listed twice".format(shorten(text)), "list each host once")
        elif text:
            names.append(text)
    if listed is None or len(names) < len(listed):
        return None
    if len(names) < 2:
        section.add_problem("hosts", "a serve over several hosts needs at least two", "add a host, or remove hosts and fabric")
        return None
    if engine and engine not in ENGINES_OVER_HOSTS:
        hint = "use engine {0}, or a serve of its own on each host".format(" or ".join(ENGINES_OVER_HOSTS))
        section.add_problem("hosts", "engine {0} cannot run over several hosts here".format(engine), hint)
        return None
    ends = _read_fabric(section, names)
    master = section.read_integer("master_port", 1, 65535)
    rpc = section.read_integer("rpc_port", 1, 65535)
    for key, owner in (("master_port", "vllm"), ("rpc_port", "llama_cpp"), ("rpc_command", "llama_cpp")):
        if section.has(key) and engine and engine != owner:
            section.add_problem(key, "it is for engine {0}".format(owner), "remove it")
    command = _read_command(section)
    if ends is None or host not in names:
        return None
    return HostsOfServe(tuple(names), names.index(host), ends, master or MASTER_PORT, rpc or RPC_PORT, command)


def _read_command(section: Section) -> Tuple[str, ...]:
    example = "rpc_command: [/app/rpc-server]"
    listed = section.check.read_list(section.path_of("rpc_command"), section.raw.get("rpc_command"), example)
    words = [
        section.check.match_text(path, value, re.compile(r"[^\0]+"), "a word of a command line") for path, value in listed or ()
    ]
    return tuple(word for word in words if word) or RPC_COMMAND


def _read_fabric(section: Section, names: Sequence[str]) -> Optional[Dict[str, FabricEnd]]:
    why = "the engine of one host must reach the others, on a private network: it has no protection of its own"
    if not section.has("fabric"):
        if section.raw.get("fabric") is not UNREAD:
            section.add_problem("fabric", "it is not said by which address the hosts reach each other", EXAMPLE, why)
        return None
    inner = section.check.read_mapping(section.path_of("fabric"), section.raw.get("fabric"), EXAMPLE)
    if inner is None:
        return None
    for name in inner.raw:
        if name not in names:
            inner.add_problem(str(name), "it is no host of this serve", suggest_name(str(name), names))
    found: Dict[str, FabricEnd] = {}
    for name in names:
        if not inner.has(name):
            inner.add_problem(name, "host {0} has no address".format(name), "for example: {0}: 10.0.0.1".format(name))
            continue
        value = inner.raw[name]
        end = _read_end(Section(section.check, inner.path_of(name), {"address": value} if isinstance(value, str) else value))
        if end is not None:
            found[name] = end
    addresses = [end.address for end in found.values()]
    for name, end in found.items():
        if addresses.count(end.address) > 1:
            inner.add_problem(name, "two hosts have the address {0}".format(end.address), "write the address of each host")
            return None
    return found if len(found) == len(names) else None


def _read_end(section: Section) -> Optional[FabricEnd]:
    raw: Any = section.raw
    if raw is UNREAD or section.check.read_mapping(section.path, raw, "{address: 10.0.0.1, interface: ens1f0}") is None:
        return None
    section.check_keys(FABRIC_KEYS)
    text = section.read_text("address", "the IP address of the host on the fabric, such as 10.0.0.1")
    if not section.has("address") and section.raw.get("address") is not UNREAD:
        section.add_problem("address", "the host has no address on the fabric", "for example: address: 10.0.0.1")
    address = read_address(section.check, section.path_of("address"), text) if text else None
    interface = section.read_text("interface", "the name of a network interface, such as ens1f0", INTERFACE) or ""
    listed = section.check.read_list(section.path_of("rdma"), section.raw.get("rdma"), "rdma: [mlx5_0]")
    rule = "the name of an RDMA device, as ibdev2netdev prints it, such as mlx5_0"
    rdma = [section.check.match_text(path, value, DEVICE, rule) for path, value in listed or ()]
    if not address:
        return None
    if ipaddress.ip_address(address.strip("[]")).is_unspecified or is_loopback(address):
        why = "no other host reaches it" if is_loopback(address) else "it means every network of the host"
        section.add_problem(
            "address", "{0} is no address of the fabric".format(address), "write the host's own address there", why
        )
        return None
    return FabricEnd(address, interface, tuple(one for one in rdma if one))


def check_decided_flags(section: Section, engine: str, args: Sequence[str]) -> None:
    """Report flags that the plan sets itself. They may come from ``anvil_engines``, so the key is named, not the item."""
    for flag in dict.fromkeys(flag_of(word).replace("_", "-") for word in args):
        key = DECIDED.get(engine, {}).get(flag)
        if key:
            section.add_problem("args", "the plan sets {0} itself".format(flag), "remove it: the key {0} decides it".format(key))


def check_backends(section: Section, settings: Settings) -> None:
    """vLLM ends with an error if one of these meets several nodes (``vllm/config/parallel.py``, ``vllm/engine/arg_utils.py``)."""
    for name in (options.EXECUTOR, options.DATA_BACKEND):
        if (settings.text(name) or "").lower() == "ray":
            flag = settings.spelling(name)
            why = "vLLM refuses --nnodes with it; its processes start without Ray here"
            section.add_problem("args", "{0} ray does not work over several hosts".format(flag), "remove {0}".format(flag), why)


def drop_head_only(args: Sequence[str]) -> Tuple[str, ...]:
    """The arguments without those that vLLM refuses beside ``--headless``."""
    kept: List[str] = []
    skip = False
    for word in args:
        flag = flag_of(word).replace("_", "-")
        if skip or flag in HEAD_ONLY:
            skip = not skip and flag in HEAD_ONLY and "=" not in word
            continue
        kept.append(word)
    return tuple(kept)


def decide_part(section: Section, engine: str, hosts: HostsOfServe, settings: Settings, cards: int) -> HostPart:
    """What the head or a member gets besides what the serve says. cards: of this host; 0: the engine computes on the CPU."""
    if engine == "llama_cpp":
        targets = ",".join("{0}:{1}".format(end.address, hosts.rpc_port) for end in hosts.members())
        return HostPart(("--rpc", targets)) if hosts.rank == 0 else HostPart()
    args = ["--nnodes", str(len(hosts.hosts)), "--node-rank", str(hosts.rank)]
    args += ["--master-addr", hosts.head.address.strip("[]"), "--master-port", str(hosts.master_port)]
    args += _decide_layout(section, settings, cards or 1, len(hosts.hosts))
    if hosts.rank:
        args.append("--headless")
    own = hosts.own
    environment = {"VLLM_HOST_IP": own.address.strip("[]")}
    if own.interface:
        environment.update(GLOO_SOCKET_IFNAME=own.interface)
        environment.update({"NCCL_SOCKET_IFNAME": own.interface} if cards else {})
    else:
        what = "no interface is written for {0}, so Gloo and NCCL choose one by themselves".format(hosts.hosts[hosts.rank])
        section.add_note("fabric", what + "; with several networks it may be the wrong one")
    if own.rdma:
        environment["NCCL_IB_HCA"] = ",".join(own.rdma)
    return HostPart(tuple(args), environment)


def _decide_layout(section: Section, settings: Settings, cards: int, hosts: int) -> List[str]:
    """The parallel sizes that the arguments leave open. All sizes must multiply to the cards of all hosts.

    Default, as vLLM's documentation advises: tensor parallel inside a host, pipeline parallel between hosts.
    """
    total = cards * hosts
    for name in (options.TENSOR, options.PIPELINE, options.DATA, options.PREFILL_RANKS):
        if settings.has(name) and not settings.count(name):
            section.add_note("args", "{0} is no number, so the sizes are left to the engine".format(settings.spelling(name)))
            return []
    if settings.has_unread_file:
        section.add_note(
            "args", "a configuration file may say how the serve uses its {0} cards, so no size was added".format(total)
        )
        return []
    tensor, pipeline = settings.count(options.TENSOR), settings.count(options.PIPELINE)
    data, prefill = settings.count(options.DATA) or 1, settings.count(options.PREFILL_RANKS) or 1
    if data > 1:
        what = "data parallel over hosts: measured, one request in three hung after a member had died"
        section.add_note("args", what + "; a serve of its own on each host, as replicas of a tier, has no such fault")
    rest = data * prefill
    if tensor is None and pipeline is None and total % rest == 0:
        tensor, pipeline = (cards, hosts) if rest == 1 else (total // rest, 1)
        said: List[str] = [options.TENSOR, options.PIPELINE]
    elif tensor is None and pipeline and total % (pipeline * rest) == 0:
        tensor, said = total // (pipeline * rest), [options.TENSOR]
    elif pipeline is None and tensor and total % (tensor * rest) == 0:
        pipeline, said = total // (tensor * rest), [options.PIPELINE]
    else:
        said = []
    tensor, pipeline = tensor or 1, pipeline or 1
    product = tensor * pipeline * rest
    terms = [("tensor", tensor), ("pipeline", pipeline), ("data", data), ("prefill context", prefill)]
    sizes = " x ".join("{0} {1}".format(*term) for term in terms if term[1] > 1) or "tensor 1"
    if product != total:
        section.add_problem(
            "args",
            "the parallel sizes need {0} cards, and the serve has {1}".format(product, total),
            "change {0} and {1} so that all sizes multiply to {2}, or remove them".format(
                settings.spelling(options.TENSOR), settings.spelling(options.PIPELINE), total
            ),
            "{0} = {1}; {2} hosts x {3} cards = {4}".format(sizes, product, hosts, cards, total),
        )
        return []
    if tensor > cards and not settings.has(options.TENSOR):
        section.add_note(
            "args", "tensor parallel {0} spans hosts with {1} cards each: every layer waits for the fabric".format(tensor, cards)
        )
    chosen = {options.TENSOR: tensor, options.PIPELINE: pipeline}
    found: List[str] = []
    for name in said:
        found += [settings.spelling(name), str(chosen[name])]
    if found:
        section.add_note("hosts", "{0} hosts x {1} cards: the serve gets {2}".format(hosts, cards, " ".join(found)))
    return found
