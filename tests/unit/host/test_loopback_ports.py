"""Which Docker Engines let neighbours reach ports on 127.0.0.1, and which rules of a host prevent it."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.host.loopback_ports import has_guard, judge_loopback_ports

FIREWALLD = {"FirewallBackend": {"Driver": "iptables+firewalld"}}


@pytest.mark.parametrize(
    ("version", "info", "guarded", "words"),
    [
        ("26.1.5+dfsg1", {}, False, "Docker Engine 26.1.5+dfsg1 answers packets"),
        ("27.5.1", {}, None, "docker_host_guard_loopback: true"),
        ("24.0.9", {}, False, "upgrade to Docker Engine 28"),
        ("27.5.1", {}, True, ""),
        ("28.0.0", {}, False, ""),
        ("28.0.0-rc.2", {}, False, ""),
        ("29.1.0", FIREWALLD, False, ""),
        ("28.2.2", FIREWALLD, False, "CVE-2025-54388"),
        ("28.2.2", FIREWALLD, True, ""),
        ("28.3.3", FIREWALLD, False, ""),
        ("28.2.2", {"FirewallBackend": {"Driver": "iptables"}}, False, ""),
        ("28.2.2", {"FirewallBackend": None}, False, ""),
        ("27.5.1", {"OperatingSystem": "Docker Desktop"}, False, ""),
        ("27.5.1", {"SecurityOptions": ["name=rootless"]}, False, ""),
        ("", {}, False, ""),
        ("dev", {}, False, ""),
    ],
)
def test_who_reaches_ports_on_loopback(version: str, info: dict[str, Any], guarded: bool | None, words: str) -> None:
    said = "".join(problem.as_text() for problem in judge_loopback_ports(version, info, guarded))
    assert words in said and bool(said) is bool(words)


@pytest.mark.parametrize(
    ("rules", "guards"),
    [
        ("-P PREROUTING ACCEPT\n-A PREROUTING -d 127.0.0.0/8 ! -i lo -j DROP\n", True),
        ("-A PREROUTING -d 127.0.0.0/8 ! -i lo -m comment --comment ours -j DROP", True),
        ("-P PREROUTING ACCEPT\n", False),
        ("-A PREROUTING -d 127.0.0.1/32 ! -i lo -p tcp -m tcp --dport 8000 -j DROP\n", False),  # one port only
        ("-A PREROUTING -d 127.0.0.0/8 -i eth0 -j DROP\n", False),
        ("-A PREROUTING -d 127.0.0.0/8 ! -i lo -j ACCEPT\n", False),
        ("-A OUTPUT -d 127.0.0.0/8 ! -i lo -j DROP\n", False),
        ("", False),
    ],
)
def test_the_rule_that_drops_them(rules: str, guards: bool) -> None:
    assert has_guard(rules) is guards
