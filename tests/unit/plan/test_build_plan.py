# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The plan of a host as a whole: all mistakes at once, secrets, values that could not be read."""

from __future__ import annotations

import json

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import is_secret_name
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import build_plan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import UNREAD
from planning import BASE, BIG, DROP, FAST, HEAVY, plan, problems


def test_all_mistakes_come_at_once():
    found = problems((HEAVY + "gpus", ["bigg"]), (FAST + "model", DROP), ("anvil_gpus.small.uuid", "x"), ("anvil_foo", 1))
    assert {problem.where for problem in found} == {
        "anvil_serves.heavy.gpus[0]",
        "anvil_serves.fast.model",
        "anvil_gpus.small.uuid",
        "anvil_foo",
    }


def test_a_secret_in_clear_is_a_mistake_even_if_nobody_uses_it_and_even_if_secrets_are_optional():
    found = problems(facts={"router_token": "file", "hf_token": "clear"}, secrets_required=False)
    assert [(problem.where, problem.what) for problem in found] == [
        ("anvil_secrets.hf_token", "the secret is written in clear text")
    ]


def test_a_missing_secret_is_a_mistake_only_where_its_value_is_needed():
    facts = {"router_token": "File not found.", "hf_token": "File not found."}
    assert [problem.where for problem in problems(facts=facts)] == ["anvil_secrets.router_token"]
    notes = plan(facts=facts, secrets_required=False).notes
    assert any("router_token: the secret has no value yet" in note for note in notes)
    assert any("hf_token: no key uses this secret" in note for note in notes)


def test_values_of_secrets_are_cut_out_of_every_message():
    found = problems(("anvil_secrets", {"router_token": "hunter2hunter2"}), (HEAVY + "model", "a hunter2hunter2"))
    assert all("hunter2" not in problem.as_text() for problem in found)


def test_what_could_not_be_read_brings_no_further_problems():
    assert plan((HEAVY + "model", UNREAD), (HEAVY + "gpus", UNREAD), (HEAVY + "image", UNREAD), (HEAVY + "engine", UNREAD))
    for name in BASE:
        assert plan((name, UNREAD)).host == "h"


def test_two_addresses_may_share_a_port_but_not_with_every_address():
    assert plan((FAST + "port", 30002), (FAST + "publish", "127.0.0.2"))
    at = ("anvil_router.insecure", True), ("anvil_router.publish", "10.0.0.5:30102")
    wide = (FAST + "publish", "0.0.0.0:30102"), (FAST + "api_key", "hf_token"), (FAST + "insecure", True)
    assert [problem.where for problem in problems(*at, *wide)] == ["anvil_router.publish"]


def test_the_policy_is_part_of_the_plan_and_judges_repositories_at_once():
    commit = "b" * 40
    policy = [{"repo": "openai/gpt-oss-120b", "revision": commit}, {"sha256": "c" * 64}]
    made = plan(("anvil_models_allowed", policy), (HEAVY + "args", ["--revision", commit]))
    assert [entry.as_dict() for entry in made.models_allowed] == policy
    assert plan().models_allowed is None


def test_the_policy_judges_all_that_a_serve_names_before_a_host_is_contacted():
    policy = ("anvil_models_allowed", [{"repo": "openai/gpt-oss-120b", "revision": "b" * 40, "code": False}])
    args = ["--revision", "b" * 40, "--tokenizer", "other/repo", "--trust-remote-code"]
    found = problems(policy, (HEAVY + "args", args), (HEAVY + "environment", {"HF_ENDPOINT": "https://mirror.example.org"}))
    mine = [(problem.where, problem.what) for problem in found if problem.where.startswith(HEAVY)]
    assert mine == [
        ("anvil_serves.heavy.args", "--tokenizer names a model that is not allowed"),
        ("anvil_serves.heavy.environment.HF_ENDPOINT", "HF_ENDPOINT replaces the Hugging Face hub"),
        ("anvil_serves.heavy.args", "--trust-remote-code runs code that comes with a model"),
    ]


def test_a_host_without_anything_has_an_empty_plan():
    made = build_plan("h", {"ansible_host": "x"}, {})
    assert (made.serves, made.router) == ((), None)
    assert len(made.notes) == 1


def test_the_plan_is_plain_data():
    assert json.loads(json.dumps(plan().as_dict()))["serves"][0]["gpu_uuids"] == [BIG]


def test_an_ordinary_token_and_a_placeholder_are_no_secrets():
    made = plan((FAST + "args", ["--eos-token", "2"]), (FAST + "environment", {"OPENAI_API_KEY": "EMPTY"}))
    (fast,) = [serve for serve in made.serves if serve.name == "fast"]
    assert "--eos-token" in fast.args and fast.environment["OPENAI_API_KEY"] == "EMPTY"


@pytest.mark.parametrize(
    ("name", "secret"),
    [
        ("EOS_TOKEN", False),
        ("API_KEYS", True),
        ("HF_TOKEN", True),
        ("OPENAI_API_KEY", True),
        ("db_password", True),
        ("TOKENIZERS_PARALLELISM", False),
        ("VLLM_API_KEY_FILE", False),
        ("MAX_TOKENS", False),
        ("KEYBOARD", False),
    ],
)
def test_which_names_hold_secrets(name, secret):
    assert is_secret_name(name) is secret
