# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whatever an inventory holds, there is a plan or one AnvilError, and never anything else."""

from __future__ import annotations

import pytest
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.plan.build_plan import VARIABLES, build_plan
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import HostPlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_gpus import GPU_KEYS
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_router import ROUTER_KEYS
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_routing import PROFILE_KEYS
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_serves import SERVE_KEYS
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_tiers import TIER_KEYS
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import UNREAD
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.slow

PLAUSIBLE = st.sampled_from(
    [
        "heavy", "fast", "vllm", "sglang", "llama_cpp", "big", "GPU-d0f446cf-1771-414c-e116-a39138798a8c", "a/b:1",
        "/m/x.gguf", "v1:/m:ro", "127.0.0.1", "0.0.0.0", "127.0.0.1:8000", "[::1]:8000", "index", "tok", "--port",
        "--max-model-len", "-c", "chat", "wsl2", "no", "16g", "planning", "allow",
    ]
)  # fmt: skip
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    PLAUSIBLE,
    st.integers(0, 70000),
    st.just(UNREAD),
)
KEYS = st.one_of(
    st.sampled_from(sorted({*SERVE_KEYS, *GPU_KEYS, *ROUTER_KEYS, *TIER_KEYS, *PROFILE_KEYS})),
    PLAUSIBLE,
    st.text(max_size=5),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(KEYS, inner, max_size=5),
        st.dictionaries(st.integers(), inner, max_size=2),
    ),
    max_leaves=15,
)


def shaped(keys):
    return st.fixed_dictionaries({}, optional=dict.fromkeys(keys, TREES))


NAMES = st.sampled_from(["heavy", "fast", "big"])
VARIABLES = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(VARIABLES, TREES),
        "anvil_gpus": st.one_of(TREES, st.dictionaries(NAMES, shaped(GPU_KEYS), max_size=2)),
        "anvil_serves": st.one_of(TREES, st.dictionaries(NAMES, shaped(SERVE_KEYS), max_size=2)),
        "anvil_router": st.one_of(TREES, shaped(ROUTER_KEYS)),
        "anvil_secrets": st.one_of(TREES, st.just({"tok": None})),
        "anvil_x": TREES,
    },
)


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
@given(VARIABLES, st.dictionaries(st.sampled_from(["tok"]), st.sampled_from(["vault", "clear", "gone"])), st.booleans())
def test_any_tree_gives_a_plan_or_an_anvil_error(variables, facts, required):
    try:
        made = build_plan("h", variables, facts, required)
    except AnvilError as error:
        assert all(problem.what and problem.where for problem in error.problems)
    else:
        assert isinstance(made, HostPlan)
        assert made.as_dict()["host"] == "h"
