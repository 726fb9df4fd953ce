# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Check the options of a workflow as they were typed: ports, addresses, replicas, limits. Pure."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.plan.edge_plan import SMALL_PIDS
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_engines import read_memory, read_pids
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import InventoryCheck, Section

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
HOST = re.compile(r"\*|(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})")
NAME_RULE = "1 to 40 of a-z, 0-9 and -, as in a host name"
# Not 8000, which is the port of the router on the host.
DEFAULT_PORT = 8100
DEFAULT_MLFLOW_PORT = 5000
MAX_REPLICAS = 16
PRICE_KEYS = ("prompt", "completion", "cached_prompt")


@dataclass(frozen=True)
class WorkflowOptions:
    """The options of a workflow. An empty text is not given. timeout, job_ttl: seconds; size_limit: units of 10**6 bytes.

    hosts: names under which clients call it. prices: model -> price. tls: there is a certificate. insecure: an address beyond
    loopback may go without.
    standalone: the files run without Ansible.
    """

    workflow: str
    name: str = ""
    port: int = DEFAULT_PORT
    bind: str = "127.0.0.1"
    mlflow_port: int = DEFAULT_MLFLOW_PORT
    mlflow_bind: str = "127.0.0.1"
    no_mlflow: bool = False
    timeout: int = 30
    concurrency: int = 0
    job_ttl: int = 86400
    ready_timeout: int = 120
    mem_limit: str = ""
    pids_limit: int = SMALL_PIDS
    replicas: int = 1
    subnet: str = ""
    base: str = ""
    edge_image: str = ""
    postgres_image: str = ""
    size_limit: int = 200
    env_file: str = ""
    no_env_file: bool = False
    model_url: str = ""
    networks: tuple[str, ...] = ()
    has_api_key: bool = False
    hosts: tuple[str, ...] = ()
    log_prompts: bool = True
    prices: Mapping[str, Any] = field(default_factory=dict)
    tls: bool = False
    insecure: bool = False
    standalone: bool = False


def is_loopback(bind: str) -> bool:
    return bind == "localhost" or ipaddress.ip_address(bind.strip("[]")).is_loopback


def _check_port(word: str, port: int, lowest: int) -> Iterator[Problem]:
    if not lowest <= port <= 65535:
        yield Problem(
            f"{port} is not a port", word, hint="use 1 to 65535" + (", or 0 to run without MLflow" if lowest == 0 else "")
        )


def _check_bind(word: str, bind: str) -> Iterator[Problem]:
    try:
        ipaddress.ip_address(bind.strip("[]"))
    except ValueError:
        yield Problem(
            f"{bind} is not an IP address",
            word,
            hint="use 127.0.0.1 (this host only), 0.0.0.0 (every network), or an address of the host",
        )


def check_options(options: WorkflowOptions) -> Iterator[Problem]:
    """Every mistake in the options, except in ``subnet``."""
    if options.name and not NAME.fullmatch(options.name):
        yield Problem(f"{options.name!r} is not a valid name for a workflow", "name", hint="use " + NAME_RULE)
    yield from _check_port("port", options.port, 1)
    yield from _check_port("mlflow_port", options.mlflow_port, 0)
    wrong_binds = [*_check_bind("bind", options.bind), *_check_bind("mlflow_bind", options.mlflow_bind)]
    yield from wrong_binds
    if not options.no_mlflow and options.port == options.mlflow_port:
        yield Problem(
            f"port and mlflow_port are both {options.port}", "mlflow_port", hint="choose another port, or 0 to run without MLflow"
        )
    for word, value, least in (
        ("timeout", options.timeout, 1),
        ("job_ttl", options.job_ttl, 60),
        ("concurrency", options.concurrency, 0),
        ("ready_timeout", options.ready_timeout, 1),
    ):
        if value < least:
            yield Problem(f"{value} is too small", word, hint=f"use {least} or more")
    if not 1 <= options.replicas <= MAX_REPLICAS:
        yield Problem(f"{options.replicas} replicas are not possible", "replicas", hint=f"use 1 to {MAX_REPLICAS}")
    if options.size_limit < 1:
        yield Problem(
            f"{options.size_limit} MB is not a size limit for an image",
            "size_limit",
            hint="use 1 or more; 200 is enough for most workflows",
        )
    if not wrong_binds and not is_loopback(options.bind) and not options.has_api_key:
        hint = "set workflow_api_key, from a file or a vault, or use bind=127.0.0.1"
        yield Problem(f"the workflow would be published on {options.bind} without an API key", "bind", hint=hint)
    if not wrong_binds:
        yield from _check_tls(options)
    yield from check_limits(options.mem_limit, options.pids_limit)
    yield from _check_prices(options.prices)
    for name in options.hosts:
        if not HOST.fullmatch(name):
            yield Problem(
                f"{name!r} is not a host name", "hosts", hint="write a name without scheme and port, such as flow.example.org"
            )
    if options.model_url and urlsplit(options.model_url).scheme not in ("http", "https"):
        yield Problem(f"{options.model_url} is not a URL", "model_url", hint="use http://HOST:PORT/v1")


def check_limits(memory: str, pids: int) -> Iterator[Problem]:
    """Every mistake in ``mem_limit`` and ``pids_limit``, with the rules of the inventory."""
    check = InventoryCheck()
    section = Section(check, (), {"pids_limit": pids, **({"mem_limit": memory} if memory else {})})
    read_memory(section)
    read_pids(section)
    yield from check.problems


def _check_prices(prices: Mapping[str, Any]) -> Iterator[Problem]:
    """Every mistake in ``prices``: model -> prompt, completion and cached_prompt, for 1,000,000 tokens each."""
    hint = "write {heavy: {prompt: 0.5, completion: 1.5}}, for 1,000,000 tokens; cached_prompt may follow"
    for model, price in prices.items():
        if not isinstance(price, Mapping) or not {"prompt", "completion"} <= set(price) <= set(PRICE_KEYS):
            yield Problem("the price has other keys than prompt, completion and cached_prompt", f"prices.{model}", hint=hint)
            continue
        for key, value in price.items():
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
                yield Problem(f"{value!r} is not a price", f"prices.{model}.{key}", hint=hint)


def _check_tls(options: WorkflowOptions) -> Iterator[Problem]:
    """An address beyond loopback needs TLS, or the word insecure."""
    if options.insecure:
        return
    if not is_loopback(options.bind) and (not options.tls or options.standalone):
        files = "{certificate: /etc/anvil-tls/host.pem, key: /etc/anvil-tls/host.key}"
        hint = f"set workflow_tls: {files}, or insecure=true for plain HTTP"
        if options.standalone:
            hint = "use bind=127.0.0.1 and a proxy with TLS in front of it, or insecure=true for plain HTTP"
        yield Problem(f"the workflow would be published on {options.bind} without TLS", "bind", hint=hint)
    if not options.no_mlflow and options.mlflow_port and not is_loopback(options.mlflow_bind):
        hint = "use mlflow_bind=127.0.0.1 and a tunnel (ssh -L), or insecure=true for plain HTTP"
        yield Problem(f"MLflow would be published on {options.mlflow_bind} without TLS", "mlflow_bind", hint=hint)


def check_subnet(options: WorkflowOptions) -> Iterator[Problem]:
    """Every mistake in ``subnet``."""
    hint = (
        "use a private IPv4 network that nothing else on the host uses, with 6 addresses more than replicas, such as 10.88.1.0/27"
    )
    try:
        subnet = ipaddress.IPv4Network(options.subnet)
    except ValueError as error:
        yield Problem(f"{options.subnet} is not an IPv4 network", "subnet", str(error), hint)
        return
    if not subnet.is_private or subnet.num_addresses < options.replicas + 6:
        yield Problem(f"{options.subnet} is not private, or too small", "subnet", hint=hint)
