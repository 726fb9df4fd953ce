# SPDX-License-Identifier: GPL-3.0-or-later
"""The stacks of images that a host uses: of its selected serves' engines, and ``tool`` in deploy mode tool or both. Pure."""

from __future__ import annotations

from typing import Iterable, Mapping, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import OFF
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import ServePlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.serve_selection import DEPLOY_MODES

# The engine of a serve -> the stack of the images that it runs in.
ENGINE_STACKS: Mapping[str, str] = {"vllm": "vllm", "sglang": "sglang", "trtllm": "trt", "llama_cpp": "llama_cpp"}
TOOL = "tool"


def list_stacks(serves: Iterable[ServePlan], mode: str) -> Tuple[str, ...]:
    """The stacks, sorted. mode: the deploy mode; empty: none. An engine without a stack of its own may use any of them."""
    engines = {serve.engine for serve in serves if serve.residency != OFF}
    stacks = {ENGINE_STACKS[engine] for engine in engines if engine in ENGINE_STACKS}
    if not engines <= set(ENGINE_STACKS):
        stacks |= {*ENGINE_STACKS.values(), TOOL}
    if TOOL in DEPLOY_MODES.get(mode, ()):
        stacks.add(TOOL)
    return tuple(sorted(stacks))
