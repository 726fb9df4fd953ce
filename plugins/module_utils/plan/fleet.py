# SPDX-License-Identifier: GPL-3.0-or-later
"""The other hosts of an inventory, as the plan of a gateway asks for them: their names, groups, addresses and plans. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable, Mapping, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan


@dataclass(frozen=True)
class FarHost:
    """Another host: its plan without its router, and the address that Ansible reaches it by."""

    plan: HostPlan
    address: str


@dataclass(frozen=True)
class Fleet:
    """The inventory around a host. groups: group -> its hosts. read_host: raises AnvilError with the mistakes of that host."""

    host: str
    hosts: Sequence[str]
    groups: Mapping[str, Sequence[str]]
    read_host: Callable[[str], FarHost]
