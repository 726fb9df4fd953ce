# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One validator process gives a verdict on thousands of generated profiles and configs, with the image's real loader."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.core.program_source import read_source
from ansible_collections.anvil.serving.plugins.module_utils.docker.side_containers import SideProcess
from ansible_collections.anvil.serving.plugins.module_utils.promotion.file_sources import Choice
from ansible_collections.anvil.serving.plugins.module_utils.router.candidate_checks import check_candidate, parse_facts
from ansible_collections.anvil.serving.plugins.module_utils.router.programs import read_candidate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from routersite import OLD_IMAGE, new_site, profile_config

MOUNT = "/etc/anvil"
SEEN = {"cases": 0, "accepted": 0}
SCALARS = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=12)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)
ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "tier_id": st.sampled_from(["heavy-local", "heavy-lokal", "", "a\nb"]) | SCALARS,
        "work_class": st.sampled_from(["planning", "chat", "planing"]) | SCALARS,
        "decision": st.sampled_from(["allow", "allow-with-verify", "deny", "ALLOW"]) | SCALARS,
        "quality_score": st.floats(0, 1) | SCALARS,
        "sample_n": st.integers(0, 9) | SCALARS,
        "last_measured": st.sampled_from(["2026-07-04T00:00:00Z", "yesterday"]) | SCALARS,
        "fingerprint": st.none() | SCALARS,
        "unknown": VALUES,
    },
)
GOOD = st.fixed_dictionaries(
    {
        "tier_id": st.just("heavy-local"),
        "work_class": st.sampled_from(["planning", "chat", "review"]),
        "decision": st.sampled_from(["allow", "allow-with-verify", "deny"]),
        "quality_score": st.floats(0, 1),
        "sample_n": st.integers(0, 99),
        "last_measured": st.just("2026-07-04T00:00:00Z"),
        "fingerprint": st.none(),
    }
)
PROFILE = st.fixed_dictionaries(
    {
        "schema": st.just("anvil-serving.router.profile_bootstrap/v2") | VALUES,
        "mode": st.just("live") | VALUES,
        "entries": st.lists(GOOD, max_size=3) | st.lists(ENTRY | GOOD, max_size=4) | VALUES,
    }
)
CONTENT = st.one_of(PROFILE.map(json.dumps), VALUES.map(json.dumps), st.text(max_size=60))


@pytest.fixture(scope="module")
def validator() -> Iterator[SideProcess]:
    engine = new_site().engine
    process = engine.open_process(
        OLD_IMAGE,
        ["-c", read_source(read_candidate)],
        entrypoint=["python3"],
        user="65534:65534",
        host_config={"network_mode": "none", "tmpfs": {MOUNT: "size=8m,mode=0700,uid=65534,gid=65534"}},
    )
    yield process
    process.close()


def examine(process: SideProcess, config: str, profile: str) -> None:
    """Have the validator check one candidate. It must return a verdict, with or without problems."""
    try:
        files = {"config.toml": config.encode(), "profile.json": profile.encode()}
    except UnicodeEncodeError:
        return  # reported when the text is read, before validation
    request: dict[str, Any] = {"config": config, "profile": profile}
    request |= {"config_path": MOUNT + "/config.toml", "profile_path": MOUNT + "/profile.json"}
    process.send(json.dumps(request).encode() + b"\n")
    facts = parse_facts(json.loads(process.read_line(10)))
    SEEN["cases"] += 1
    try:
        verdict = check_candidate(facts, Choice(files, given=tuple(files)), MOUNT + "/profile.json", OLD_IMAGE)
    except AnvilError as exc:
        assert all(problem.what and problem.where for problem in exc.problems)
    else:
        SEEN["accepted"] += 1
        json.dumps(verdict.meta)


CHECKS = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@settings(max_examples=1700, deadline=None, suppress_health_check=CHECKS)
@given(profile=CONTENT)
def test_validation_gives_a_verdict_on_any_profile(validator: SideProcess, profile: str) -> None:
    examine(validator, profile_config(), profile)


@settings(max_examples=500, deadline=None, suppress_health_check=CHECKS)
@given(at=st.integers(0, 400), cut=st.integers(0, 40), put=st.text(max_size=10))
def test_validation_gives_a_verdict_on_any_config(validator: SideProcess, at: int, cut: int, put: str) -> None:
    config = profile_config()
    entry = {"tier_id": "heavy-local", "work_class": "chat", "decision": "allow", "quality_score": 0.5, "sample_n": 1,
             "last_measured": "2026-07-04T00:00:00Z", "fingerprint": None}  # fmt: skip
    profile = {"schema": "anvil-serving.router.profile_bootstrap/v2", "mode": "live", "entries": [entry]}
    examine(validator, config[:at] + put + config[at + cut :], json.dumps(profile))


def test_enough_cases_were_tried() -> None:
    assert SEEN["cases"] >= 2000 and SEEN["accepted"] > 20, SEEN
