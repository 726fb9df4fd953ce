# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""``anvil_models_allowed``: which models the host may fetch and serve."""

from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.engines import read_flag
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import COMMIT, REPO, SHA256, Origin, judge_origin
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import ServePlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import Check

EXAMPLE = "anvil_models_allowed: [{repo: openai/gpt-oss-120b, revision: b5c939de8f754692c1647ca79fbf85e8c1e70f8a}]"
COMMIT_RULE = "the 40 hexadecimal digits of a commit: a branch moves"


def read_models_allowed(check: Check, value: Any) -> Optional[Tuple[Origin, ...]]:
    """The policy, or None where there is none. A mistake in it allows nothing more than was meant: it ends the plan."""
    listed = check.items(("anvil_models_allowed",), value, EXAMPLE)
    if listed is None:
        return None
    found: List[Origin] = []
    for path, item in listed:
        node = check.mapping(path, {} if item is None else item, EXAMPLE)
        if node is None:
            continue
        node.known(("repo", "revision", "sha256"))
        repo = node.text("repo", "a repository of the hub, such as openai/gpt-oss-120b", REPO)
        revision = node.text("revision", COMMIT_RULE, COMMIT)
        sha256 = node.text("sha256", "64 hexadecimal digits in lower case", SHA256)
        if node.has("repo") == node.has("sha256"):
            check.wrong(path, "an entry names either a repo or a sha256", EXAMPLE)
        elif node.has("repo") and not node.has("revision"):
            check.wrong(node.at("revision"), "the entry allows no exact revision", COMMIT_RULE)
        elif node.has("revision") and not node.has("repo"):
            check.wrong(node.at("revision"), "a revision is that of a repo", EXAMPLE)
        found.append(Origin(repo or "", revision or "", sha256 or ""))
    return tuple(found)


def check_models_allowed(check: Check, serves: Sequence[ServePlan], allowed: Optional[Sequence[Origin]]) -> None:
    """Refuse serves of repositories that the policy does not have. What lies at a path only the host knows: the gate asks."""
    for serve in serves:
        if serve.model.startswith("/"):
            continue
        origin = Origin(serve.model, read_flag(serve.args, "--revision") or "")
        problem = judge_origin("", origin, allowed)
        if problem is not None:
            check.wrong(("anvil_serves", serve.name, "model"), problem.what, problem.hint, problem.why)
