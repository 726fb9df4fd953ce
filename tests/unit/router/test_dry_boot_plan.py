# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The throwaway container of a dry boot."""

from __future__ import annotations

from typing import Any

from ansible_collections.anvil.serving.plugins.module_utils.router.dry_boot_plan import plan_throwaway

IMAGE = {
    "Id": "sha256:a",
    "Config": {"Env": ["PATH=/bin"], "Entrypoint": ["anvil"], "Cmd": ["run"], "ExposedPorts": {"8000/tcp": {}}},
}
FOUND: dict[str, Any] = {
    "Image": "sha256:a",
    "Config": {**IMAGE["Config"], "Env": ["PATH=/bin", "TOKEN=live"], "User": "10001:10001"},  # type: ignore[dict-item]
    "HostConfig": {"ReadonlyRootfs": True, "NetworkMode": "anvil", "Privileged": True, "Tmpfs": {"/tmp": ""}},
    "NetworkSettings": {"Networks": {"anvil": {}, "edge": {}}},
    "Mounts": [
        {"Type": "volume", "Name": "cfg", "Destination": "/etc/anvil", "RW": False},
        {"Type": "volume", "Name": "state", "Destination": "/var/lib/anvil", "RW": True},
        {"Type": "bind", "Source": "/srv/ca", "Destination": "/etc/ca", "RW": False},
    ],
}


def test_a_throwaway_has_the_routers_environment_without_writable_host_mounts_or_privileges() -> None:
    plan = plan_throwaway(IMAGE, FOUND, "/etc/anvil", {}, ("TOKEN", "made-up"))
    assert plan.token == "live" and plan.user == "10001:10001" and plan.networks == ("anvil", "edge")
    assert plan.argv == ("anvil", "run") and plan.port == 8000
    seen, *own = plan.host_config["mounts"]
    assert seen == {"Type": "bind", "Source": "/srv/ca", "Target": "/etc/ca", "ReadOnly": True}
    assert [mount["Target"] for mount in own] == ["/etc/anvil", "/var/lib/anvil"]
    assert all("Source" not in mount for mount in own)
    assert plan.host_config["cap_drop"] == ["ALL"] and not {"privileged", "devices", "port_bindings"} & set(plan.host_config)


def test_a_throwaway_of_a_new_router_gets_a_made_up_token() -> None:
    plan = plan_throwaway(IMAGE, None, "/etc/anvil", {"OTHER": "x"}, ("TOKEN", "made-up"))
    assert plan.token == "made-up" and "OTHER=x" in plan.environment and plan.host_config["network_mode"] == "none"
    assert "made-up" not in repr(plan)
