# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What counts as the expected answer, which requests prove a candidate, and what a throwaway router is made of."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.catalog.probes import (
    Probe,
    judge_reply,
    parse_probes,
    probe_from_meta,
)
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.core.http_request import Reply
from ansible_collections.anvil.serving.plugins.module_utils.router.candidate import Facts, Tier, check_routes, choose_probes
from ansible_collections.anvil.serving.plugins.module_utils.router.dry_boot import plan_stage
from ansible_collections.anvil.serving.plugins.module_utils.router.verbs import show_file


@pytest.mark.parametrize(
    ("probe", "reply", "wrong"),
    [
        (Probe("p", "/"), Reply(200, ""), ""),
        (Probe("p", "/"), Reply(0, "refused"), "no answer: refused"),
        (Probe("p", "/"), Reply(503, "busy"), "status 503, not 200: busy"),
        (Probe("p", "/", status=(200, 401)), Reply(401, ""), ""),
        (Probe("p", "/", json={"a.b": 1}), Reply(200, '{"a": {"b": 1}}'), ""),
        (Probe("p", "/", json={"a.0.b": None}), Reply(200, '{"a": [{"b": null}]}'), ""),
        (Probe("p", "/", json={"a.b": 1}), Reply(200, '{"a": {"b": 2}}'), "a.b is 2, not 1"),
        (Probe("p", "/", json={"a.b": 1}), Reply(200, '{"a": []}'), "has no a.b"),
        (Probe("p", "/", json={"a": 1}), Reply(200, "<html>"), "not JSON"),
        (Probe("p", "/", one_of={"a": ["x", "y"]}), Reply(200, '{"a": "y"}'), ""),
        (Probe("p", "/", one_of={"a": ["x", "y"]}), Reply(200, '{"a": "z"}'), "a is 'z', not 'x' or 'y'"),
    ],
)
def test_a_reply_is_judged(probe: Probe, reply: Reply, wrong: str) -> None:
    found = judge_reply(probe, reply)
    assert (wrong in found) if wrong else found == ""


def test_every_bad_probe_is_reported_and_a_secret_is_not() -> None:
    given: list[dict[str, Any]] = [{"path": "x"}, {"path": "/", "method": "STEAL"}, {"path": "/", "headers": {"a": "b\nc"}}]
    with pytest.raises(AnvilError) as caught:
        parse_probes(given, lambda path: path)
    assert len(caught.value.problems) == 3
    (probe,) = parse_probes([{"path": "/", "header_files": {"X-Key": "/run/key"}}], lambda _path: "s3cret\n")
    assert probe.request_headers("")["X-Key"] == "s3cret"
    assert "s3cret" not in repr(probe) and "s3cret" not in str(probe.as_meta())


FACTS = Facts(
    generation="profile",
    tier_ids=("heavy", "cloud"),
    tiers=(Tier("heavy", "http://h:1/v1", True), Tier("cloud", "https://c/v1", False)),
    routes=(("chat", ("heavy", "cloud")), ("planning", ()), ("heavy", ("heavy",)), ("cloud", ("cloud",))),
)


def test_each_tier_and_preset_is_asked_for_its_route() -> None:
    probes = {probe.name: probe for probe in choose_probes(FACTS)}
    assert probes["route chat"].one_of == {"provider": ["heavy", "cloud"]} and probes["route chat"].doubtful == ()
    assert probes["route planning"].status == (503,)
    assert probes["route cloud"].doubtful == (503,), "it may be away without the candidate being bad"
    for probe in probes.values():
        assert probe_from_meta(probe.as_meta()) == probe


def test_a_gateway_router_tells_the_hash_of_its_config() -> None:
    probes = choose_probes(Facts(generation="gateway", config_sha256="abc", tiers=FACTS.tiers))
    assert [(probe.path, dict(probe.json)) for probe in probes] == [
        ("/v1/router/status", {"config_sha256": "abc"}),
        ("/v1/health/tiers", {}),
    ]


def test_a_profile_that_denies_everything_is_refused_and_a_preset_without_a_tier_warned_of() -> None:
    assert check_routes(FACTS) == ([], ["requests for planning are refused: the profile denies every tier"])
    nothing = Facts(generation="profile", tier_ids=("heavy",), routes=(("chat", ()), ("heavy", ())))
    assert "no request would be answered" in check_routes(nothing)[0][0].what


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


def test_a_throwaway_has_the_routers_environment_and_nothing_that_it_could_harm() -> None:
    stage = plan_stage(IMAGE, FOUND, "/etc/anvil", {}, ("TOKEN", "made-up"))
    assert stage.token == "live" and stage.user == "10001:10001" and stage.networks == ("anvil", "edge")
    assert stage.argv == ("anvil", "run") and stage.port == 8000
    seen, *own = stage.host_config["mounts"]
    assert seen == {"Type": "bind", "Source": "/srv/ca", "Target": "/etc/ca", "ReadOnly": True}
    assert [mount["Target"] for mount in own] == ["/etc/anvil", "/var/lib/anvil"]
    assert all("Source" not in mount for mount in own)
    assert stage.host_config["cap_drop"] == ["ALL"] and not {"privileged", "devices", "port_bindings"} & set(stage.host_config)


def test_a_throwaway_of_a_router_that_is_not_there_yet_gets_a_token_that_is_made_up() -> None:
    stage = plan_stage(IMAGE, None, "/etc/anvil", {"OTHER": "x"}, ("TOKEN", "made-up"))
    assert stage.token == "made-up" and "OTHER=x" in stage.environment and stage.host_config["network_mode"] == "none"
    assert "made-up" not in repr(stage)


def test_a_profile_is_shown_by_tier_and_work_class() -> None:
    text = b'{"mode": "live", "entries": [{"tier_id": "b", "work_class": "chat", "decision": "deny", "sample_n": 1},'
    text += b'{"tier_id": "a", "work_class": "chat", "decision": "allow", "sample_n": 2}]}'
    assert show_file("profile.json", text) == 'mode: "live"\na / chat: allow (sample_n=2)\nb / chat: deny (sample_n=1)\n'
    assert show_file("profile.json", b"{") == "{"
