# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The network of each serve, whether it may reach other machines, and the token of the hub."""

from __future__ import annotations

import pytest
from planning import DROP, HEAVY, plan

MOUNTED = ((HEAVY + "model", "/models/heavy"), (HEAVY + "volumes", ["models:/models:ro"]))
A = "a" * 40


def heavy(*edits):
    return plan(*edits).serves[0]


@pytest.mark.parametrize(
    ("edits", "closed"),
    [
        (MOUNTED, True),
        ((), False),  # a repository: the engine downloads it
        ((*MOUNTED, (HEAVY + "egress", True)), False),
        (((HEAVY + "egress", False),), True),
        ((("anvil_engines", {"vllm": {"image": "x:1", "egress": True}}), *MOUNTED), False),
        ((*MOUNTED, (HEAVY + "model", "/other/heavy")), False),  # in no volume
        ((*MOUNTED, (HEAVY + "args", ["--tokenizer", "org/repo"])), False),
        ((*MOUNTED, (HEAVY + "args", ["--tokenizer", "/models/heavy"])), True),
        ((*MOUNTED, (HEAVY + "args", ["--lora-modules", "sql=org/lora"])), False),
        ((*MOUNTED, (HEAVY + "args", ["-sc", '{"model": "org/draft"}'])), False),
        ((*MOUNTED, (HEAVY + "args", ["--config", "/models/x.yaml"])), False),  # not read before the host is contacted
        ((*MOUNTED, (HEAVY + "args", ["--otlp-traces-endpoint", "grpc://collector:4317"])), False),
        ((*MOUNTED, (HEAVY + "args", ["--nnodes=2"])), False),
        ((*MOUNTED, (HEAVY + "args", ["--trust-remote-code"])), False),
        ((*MOUNTED, (HEAVY + "environment", {"HTTPS_PROXY": "proxy:3128"})), False),
        ((*MOUNTED, (HEAVY + "environment", {"LMCACHE_REMOTE_URL": "redis://cache:6379"})), False),
        ((*MOUNTED, (HEAVY + "entrypoint", ["/start.sh"])), False),
        ((*MOUNTED, (HEAVY + "entrypoint", ["vllm"])), True),
        ((*MOUNTED, (HEAVY + "model", "/models/gpt-oss-20b")), False),
        (
            (
                *MOUNTED,
                (HEAVY + "model", "/models/gpt-oss-20b"),
                (HEAVY + "environment", {"TIKTOKEN_ENCODINGS_BASE": "/models/tiktoken"}),
            ),
            True,
        ),
        ((*MOUNTED, (HEAVY + "engine", "custom"), (HEAVY + "kind", "chat")), False),
    ],
)
def test_a_serve_reaches_other_machines_only_where_it_may_need_them(edits, closed):
    serve = heavy((HEAVY + "served_name", "heavy"), *edits)
    assert serve.closed == closed
    assert serve.network == ("anvil-serve-heavy" if closed else "anvil-open-heavy")
    assert serve.dns == (("127.0.0.1",) if closed else ())


def test_the_router_is_in_the_networks_of_the_serves_that_its_tiers_name():
    made = plan()
    assert made.router.serve_networks == tuple(sorted(serve.network for serve in made.serves))
    assert plan(("anvil_router", DROP)).router is None


def test_a_policy_fixes_code_so_that_a_serve_with_code_of_its_own_is_closed():
    policy = ("anvil_models_allowed", [{"repo": "org/coded", "revision": A, "code": True}])
    serve = heavy(policy, *MOUNTED, (HEAVY + "served_name", "heavy"), (HEAVY + "args", ["--trust-remote-code"]))
    assert serve.closed and serve.environment["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("edits", "token", "offline"),
    [
        ((), True, None),
        (MOUNTED, False, "1"),
        ((*MOUNTED, (HEAVY + "environment", {"HF_HUB_OFFLINE": "0"})), False, "0"),
        ((*MOUNTED, (HEAVY + "environment", {"TRANSFORMERS_OFFLINE": "1"})), False, None),
        ((*MOUNTED, (HEAVY + "args", ["--tokenizer", "org/repo"])), True, None),
        ((*MOUNTED, (HEAVY + "args", ["--trust-remote-code"])), True, None),
    ],
)
def test_only_a_serve_that_downloads_gets_the_token_of_the_hub(edits, token, offline):
    made = plan((HEAVY + "secrets", {"HF_TOKEN": "hf_token"}), (HEAVY + "served_name", "heavy"), *edits)
    serve = made.serves[0]
    assert ("HF_TOKEN" in serve.secrets, serve.environment.get("HF_HUB_OFFLINE")) == (token, offline)
    (note,) = [one for one in made.notes if "HF_TOKEN" in one]
    assert ("downloads weights by itself" if token else "is not given to the serve") in note
