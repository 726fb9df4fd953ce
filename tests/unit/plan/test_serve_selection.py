# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which serves run: profiles, the deploy mode, discovered serves, external servers."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan
from ansible_collections.anvil.serving.plugins.plugin_utils.plan.render import render_host
from planning import HEAVY, deploy_mode, plan, problems

FOUND = {
    "engine": "llama_cpp",
    "image": "anvil.local/llama-server:1",
    "model": "/models/small.gguf",
    "volumes": ["models:/models:ro"],
    "port": 8080,
    "tags": ["discovered", "quick"],
}


def residencies(made: HostPlan) -> dict[str, str]:
    return {serve.name: serve.residency for serve in made.serves}


def wheres(found: Any) -> list[str]:
    return [problem.where for problem in found]


def test_what_a_scan_found_is_served_and_what_is_written_lies_on_top() -> None:
    made = plan(("anvil_discovered", {"small": FOUND, "fast": {"port": 8081, "tags": ["discovered"]}}))
    serves = {serve.name: serve for serve in made.serves}
    assert serves["small"].port == 8080 and serves["small"].tags == ("discovered", "quick")
    assert serves["fast"].port == 30003 and serves["fast"].tags == ("discovered",)
    assert made.router and [tier.id for tier in made.router.tiers] == ["small", "fast", "heavy"]


def test_a_mistake_in_what_a_scan_found_is_a_mistake() -> None:
    assert wheres(problems(("anvil_discovered", {"small": {**FOUND, "port": 30002}}))) == ["anvil_serves.heavy.port"]
    assert wheres(problems(("anvil_discovered", ["small"]))) == ["anvil_discovered"]


def test_a_profile_names_which_serves_run() -> None:
    profiles = ("anvil_profiles", {"fast-only": ["quick", "fast"], "production": ["heavy", "fast"]})
    given = [("anvil_discovered", {"small": FOUND}), profiles]
    assert residencies(plan(*given)) == {"small": "resident", "heavy": "resident", "fast": "resident"}
    made = plan(*given, ("anvil_profile", "fast-only"))
    assert residencies(made) == {"small": "resident", "heavy": "off", "fast": "resident"}
    assert made.router is not None
    assert [tier.id for tier in made.router.tiers] == ["small", "fast"] and made.router.presets["chat"] == ("small", "fast")
    assert any("heavy: this serve does not run: profile fast-only" in note for note in made.notes)


def test_what_does_not_run_claims_no_memory() -> None:
    greedy = [("anvil_serves.night", {**FOUND, "port": 8090, "gpus": ["big"], "vram_mib": 90000})]
    assert "over its budget" in problems(*greedy)[0].what
    plan(*greedy, ("anvil_profiles", {"day": ["heavy", "fast"]}), ("anvil_profile", "day"))


def test_presets_and_profile_rows_of_tiers_that_do_not_run_are_left_out() -> None:
    made = plan(
        ("anvil_profiles", {"day": ["fast"]}),
        ("anvil_profile", "day"),
        ("anvil_router.presets", {"planning": ["heavy"], "chat": ["heavy", "fast"]}),
        ("anvil_router.profile", [{"tier": "heavy", "work_class": "chat", "decision": "allow", "quality_score": 1}]),
    )
    assert made.router and made.router.presets["planning"] == ("fast",) and made.router.presets["chat"] == ("fast",)
    assert made.router.profile == ()


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ([("anvil_profile", "nope")], "anvil_profile"),
        ([("anvil_profiles", {"a": ["heavi"]})], "anvil_profiles.a[0]"),
        ([("anvil_profiles", {"a": "heavy"})], "anvil_profiles.a"),
        ([("anvil_profiles", {"a": []}), ("anvil_profile", "a")], "anvil_router.tiers"),
    ],
)
def test_mistakes_in_profiles(changes: list[tuple[str, Any]], where: str) -> None:
    assert wheres(problems(*changes)) == [where]


@pytest.mark.parametrize(
    ("mode", "heavy", "fast"), [("chat", "resident", "off"), ("tool", "off", "resident"), ("both", "resident", "resident")]
)
def test_the_deploy_mode_says_which_parts_exist(mode: str, heavy: str, fast: str) -> None:
    changes, facts = deploy_mode(mode)
    made = plan(*changes, facts=facts)
    assert residencies(made) == {"heavy": heavy, "fast": fast}
    assert {serve.name: serve.api_key for serve in made.serves} == {"heavy": "text_api_key", "fast": "text_api_key"}
    assert made.serves[0].secrets["VLLM_API_KEY"] == "text_api_key"


def test_an_unknown_mode_is_an_error_and_so_is_one_without_its_model() -> None:
    changes, facts = deploy_mode("chatty")
    (problem,) = problems(*changes, facts=facts)
    assert problem.where == "anvil_deploy_mode" and "chat" in problem.hint
    (problem,) = problems(("anvil_deploy_mode", "tool"))
    assert "no tool model" in problem.what


def test_every_text_endpoint_needs_its_key() -> None:
    changes, facts = deploy_mode("both", key=False)
    found = problems(*changes, facts=facts)
    assert wheres(found) == ["anvil_serves.heavy.api_key", "anvil_serves.fast.api_key"]
    assert "TEXT_API_KEY" in found[0].hint


def test_without_a_mode_a_part_changes_nothing() -> None:
    made = plan((HEAVY + "part", "chat"))
    assert made.serves[0].api_key == "" and made.serves[0].residency == "resident"


def test_a_server_on_the_host_is_a_tier_and_told_as_not_managed() -> None:
    made = plan(("anvil_external", {"mac": {"port": 8081, "served_name": "qwen"}}))
    assert made.router is not None
    (tier,) = [tier for tier in made.router.tiers if tier.id == "mac"]
    assert (tier.base_url, tier.model) == ("http://host.docker.internal:8081/v1", "qwen")
    assert any("anvil_external.mac: this server is not managed" in note for note in made.notes)
    rendered = render_host(made)
    compose = yaml.safe_load(rendered["router"]["compose"])
    assert compose["services"]["router"]["extra_hosts"] == ["host.docker.internal:host-gateway"]
    assert "mac" not in yaml.safe_load(rendered["serves"]["compose"])["services"]
    assert "extra_hosts" not in render_host(plan())["router"]["compose"]


def test_a_server_elsewhere_needs_no_way_to_the_host() -> None:
    made = plan(("anvil_external", {"mac": {"port": 8081, "host": "10.0.0.7"}}))
    assert made.router and made.router.extra_hosts == () and made.router.tiers[-1].base_url == "http://10.0.0.7:8081/v1"


def test_mistakes_in_external_servers() -> None:
    assert wheres(problems(("anvil_external", {"mac": {}}))) == ["anvil_external.mac.port"]
    assert wheres(problems(("anvil_external", {"heavy": {"port": 1}}))) == ["anvil_external.heavy"]
