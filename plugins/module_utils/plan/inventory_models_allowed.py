# SPDX-License-Identifier: GPL-3.0-or-later
"""Check ``anvil_models_allowed``, the list of models that a host may download and serve, and each serve against it."""

from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import read_settings
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engine_options import REVISION
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import COMMIT, REPO, SHA256, Origin, judge_origin
from ansible_collections.anvil.serving.plugins.module_utils.catalog.source_policy import Judged, judge_sources
from ansible_collections.anvil.serving.plugins.module_utils.plan.host_plan import ServePlan
from ansible_collections.anvil.serving.plugins.module_utils.plan.inventory_values import InventoryCheck

EXAMPLE = "anvil_models_allowed: [{repo: openai/gpt-oss-120b, revision: b5c939de8f754692c1647ca79fbf85e8c1e70f8a}]"
COMMIT_RULE = "the 40 hexadecimal digits of a commit, because a branch can change"


def read_allowed_models(check: InventoryCheck, value: Any) -> Optional[Tuple[Origin, ...]]:
    """The allowed models; None if the inventory has no list, which allows every model."""
    listed = check.read_list(("anvil_models_allowed",), value, EXAMPLE)
    if listed is None:
        return None
    found: List[Origin] = []
    for path, item in listed:
        section = check.read_mapping(path, {} if item is None else item, EXAMPLE)
        if section is None:
            continue
        section.check_keys(("repo", "revision", "sha256", "code"))
        repo = section.read_text("repo", "a repository of the Hugging Face hub, such as openai/gpt-oss-120b", REPO)
        revision = section.read_text("revision", COMMIT_RULE, COMMIT)
        sha256 = section.read_text("sha256", "64 lower-case hexadecimal digits", SHA256)
        if section.has("repo") == section.has("sha256"):
            check.add_problem(path, "an entry must have either repo or sha256", "for example: " + EXAMPLE)
        elif section.has("repo") and not section.has("revision"):
            check.add_problem(section.path_of("revision"), "the entry has no exact revision", "set it to " + COMMIT_RULE)
        elif section.has("revision") and not section.has("repo"):
            check.add_problem(section.path_of("revision"), "the entry has a revision but no repo", "for example: " + EXAMPLE)
        found.append(Origin(repo or "", revision or "", sha256 or "", bool(section.read_boolean("code"))))
    return tuple(found)


def check_allowed_models(check: InventoryCheck, serves: Sequence[ServePlan], allowed: Optional[Sequence[Origin]]) -> None:
    """Refuse serves that name anything the list does not allow. A model given by path, and files, are judged on the host."""
    for serve in serves if allowed is not None else ():
        _check_sources(check, serve, allowed)
        if serve.model.startswith("/"):
            continue
        if not serve.model and not serve.models:
            check.add_problem(
                ("anvil_serves", serve.name, "model"),
                "anvil_models_allowed is set, and the serve names no model",
                "set model to the repository or the path of what the server loads",
            )
            continue
        origin = Origin(serve.model, read_settings(serve.engine, serve.args).text(REVISION) or "")
        problem = judge_origin("", origin, allowed)
        if problem is not None:
            check.add_problem(("anvil_serves", serve.name, "model"), problem.what, problem.hint, problem.why)


def _check_sources(check: InventoryCheck, serve: ServePlan, allowed: Optional[Sequence[Origin]]) -> None:
    """What the arguments and variables of a serve name besides its model."""
    judged = Judged(
        serve.engine,
        serve.model,
        serve.args,
        serve.environment,
        serve.entrypoint,
        tuple(mount.target for mount in serve.mounts),
        tuple(serve.secrets),
    )
    for refused in judge_sources(judged, allowed):
        inner = (refused.spelling,) if refused.place in ("environment", "secrets") else ()
        path = ("anvil_serves", serve.name, refused.place, *inner)
        check.add_problem(path, refused.what, refused.hint, refused.why)
