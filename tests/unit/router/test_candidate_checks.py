# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Checks of a candidate, and the probes that show that a router runs on it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.promotion.file_sources import RENDERED, Choice, FileSource, KeptFile
from ansible_collections.anvil.serving.plugins.module_utils.router.candidate_checks import (
    CandidateFacts,
    CandidateTier,
    check_candidate,
    check_profile,
    check_profile_path,
    check_routes,
    choose_probes,
)
from ansible_collections.anvil.serving.plugins.module_utils.router.probes import probe_from_meta
from hypothesis import given
from hypothesis import strategies as st

FACTS = CandidateFacts(
    generation="profile",
    tier_ids=("heavy-local", "fast-local"),
    work_classes=("chat", "planning"),
    decisions=("allow", "deny"),
    profile_path="/etc/anvil/profile.json",
)


def entry(**changes: Any) -> dict[str, Any]:
    good = {
        "tier_id": "heavy-local",
        "work_class": "planning",
        "decision": "allow",
        "quality_score": 0.9,
        "sample_n": 4,
    }
    return {**good, **changes}


@pytest.mark.parametrize(
    ("entries", "where"),
    [
        ([], "entries"),
        ({}, "entries"),
        ([{}], "entries[0]"),
        ([entry(tier_id="heavy")], "entries[0].tier_id"),
        ([entry(work_class="planing")], "entries[0].work_class"),
        ([entry(decision="Allow")], "entries[0].decision"),
        ([entry(quality_score=1.01)], "entries[0].quality_score"),
        ([entry(quality_score=-0.1)], "entries[0].quality_score"),
        ([entry(quality_score=float("nan"))], "entries[0].quality_score"),
        ([entry(quality_score=True)], "entries[0].quality_score"),
        ([entry(quality_score="0.9")], "entries[0].quality_score"),
        ([entry(sample_n=-1)], "entries[0].sample_n"),
        ([entry(), entry(decision="deny")], "entries[1]"),
    ],
)
def test_a_defect_that_the_loader_accepts_is_reported(entries: Any, where: str) -> None:
    found = check_profile({"entries": entries}, FACTS)
    assert [problem.where for problem in found] == ["profile.json: " + where]


def test_a_good_profile_has_no_findings() -> None:
    assert check_profile({"entries": [entry(), entry(work_class="chat"), entry(tier_id="fast-local")]}, FACTS) == []


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
VALUES = SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(max_size=5), SCALARS, max_size=2)
ENTRIES = st.lists(VALUES | st.fixed_dictionaries({}, optional=dict.fromkeys(entry(), VALUES)), max_size=3)


@given(VALUES | st.fixed_dictionaries({"entries": VALUES | ENTRIES}))
def test_the_checks_never_raise_on_any_profile(profile: Any) -> None:
    for problem in check_profile(profile, FACTS):
        assert problem.what and problem.where


@pytest.mark.parametrize(
    ("said", "has_profile", "problems", "warnings"),
    [
        ("/etc/anvil/profile.json", True, 0, 0),
        (None, False, 0, 0),
        (None, True, 1, 0),
        ("/etc/anvil/other.json", True, 1, 0),
        ("/etc/anvil/profile.json", False, 1, 0),
        ("/var/lib/profile.json", False, 0, 1),
    ],
)
def test_the_router_must_read_the_profile_from_the_path_it_is_written_to(
    said: str | None, has_profile: bool, problems: int, warnings: int
) -> None:
    found, warned = check_profile_path(CandidateFacts("profile", profile_path=said), has_profile, "/etc/anvil/profile.json")
    assert (len(found), len(warned)) == (problems, warnings)


def test_all_findings_are_reported_at_once() -> None:
    facts = CandidateFacts("profile", errors=(("config.toml", "ConfigError: no"), ("profile.json", "ValueError: no")))
    with pytest.raises(AnvilError) as failure:
        files = {"config.toml": b"", "profile.json": b'{"entries": []}'}
        check_candidate(facts, Choice(files, ("config.toml", "profile.json")), "/etc/anvil", "sha256:1")
    assert len(failure.value.problems) == 3


def test_a_gateway_router_drops_a_kept_profile_and_refuses_a_given_one() -> None:
    files = {"config.toml": b"c", "profile.json": b"{}"}
    done = check_candidate(CandidateFacts("gateway"), Choice(files, ("config.toml",)), "/etc/anvil", "sha256:1")
    assert set(done.files) == {"config.toml"}
    with pytest.raises(AnvilError, match="reads no profile"):
        check_candidate(CandidateFacts("gateway"), Choice(files, ("profile.json",)), "/etc/anvil", "sha256:1")


MEASURED = json.dumps({"entries": [entry(), entry(tier_id="gone")]}).encode()
MIXED = {"config.toml": b"c", "profile.json": MEASURED}
NO_ROWS = {"config.toml": b"c", "profile.json": b'{"entries": []}'}
RENDERED_PROFILE = {"profile.json": FileSource(RENDERED)}


def check(files: dict[str, bytes], given: tuple[str, ...], **more: Any) -> tuple[str, ...]:
    return check_candidate(FACTS, Choice(files, given, **more), "/etc/anvil/profile.json", "sha256:1").warnings


def test_a_kept_measured_profile_may_rate_tiers_that_the_config_lacks() -> None:
    said = check(MIXED, ("config.toml",))
    assert "rates tier gone, which the config does not have" in said[0] and "no entry for tier fast-local" in said[1]
    config_stays = (KeptFile("config.toml", "promoted", b"c", b"d"),)
    assert check(MIXED, ("profile.json",), kept=config_stays, sources=RENDERED_PROFILE) == said
    with pytest.raises(AnvilError, match="unknown tier 'gone'"):
        check(MIXED, ("profile.json",))


def test_only_a_profile_from_the_inventory_may_have_no_entries() -> None:
    assert check(NO_ROWS, ("profile.json",), sources=RENDERED_PROFILE) == check(NO_ROWS, ()) == ()
    with pytest.raises(AnvilError, match="at least one entry"):
        check(NO_ROWS, ("profile.json",))


def test_a_kept_profile_that_a_new_image_cannot_read_is_refused_with_a_remedy() -> None:
    facts = dataclasses.replace(FACTS, errors=(("profile.json", "ValueError: schema"),))
    with pytest.raises(AnvilError, match="-e profile_from=inventory"):
        check_candidate(facts, Choice(MIXED, ("config.toml",)), "/etc/anvil/profile.json", "sha256:1")


def test_an_image_without_a_router_is_refused() -> None:
    with pytest.raises(AnvilError, match="not an anvil-serving router"):
        check_candidate(
            CandidateFacts(None, errors=(("image", "ImportError: x"),)), Choice({"config.toml": b""}), "/etc/anvil", "sha256:1"
        )


ROUTED = CandidateFacts(
    generation="profile",
    tier_ids=("heavy", "cloud"),
    tiers=(CandidateTier("heavy", "http://h:1/v1", True), CandidateTier("cloud", "https://c/v1", False)),
    routes=(("chat", ("heavy", "cloud")), ("planning", ()), ("heavy", ("heavy",)), ("cloud", ("cloud",))),
)


def test_each_tier_and_preset_gets_a_route_probe() -> None:
    probes = {probe.name: probe for probe in choose_probes(ROUTED)}
    assert probes["route chat"].one_of == {"provider": ["heavy", "cloud"]} and probes["route chat"].doubtful == ()
    assert probes["route planning"].status == (503,)
    assert probes["route cloud"].doubtful == (503,), "it may be away without the candidate being bad"
    for probe in probes.values():
        assert probe_from_meta(probe.as_meta()) == probe


def test_a_gateway_router_is_probed_for_the_hash_of_its_config() -> None:
    probes = choose_probes(CandidateFacts(generation="gateway", config_sha256="abc", tiers=ROUTED.tiers))
    assert [(probe.path, dict(probe.json)) for probe in probes] == [
        ("/v1/router/status", {"config_sha256": "abc"}),
        ("/v1/health/tiers", {}),
    ]


def test_a_profile_that_denies_every_request_is_refused_and_a_denied_preset_is_a_warning() -> None:
    assert check_routes(ROUTED) == ([], ['profile.json: preset "planning" is denied on every tier; such requests get 503'])
    nothing = CandidateFacts(generation="profile", tier_ids=("heavy",), routes=(("chat", ()), ("heavy", ())))
    assert "no request would be answered" in check_routes(nothing)[0][0].what
