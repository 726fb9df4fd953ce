# SPDX-License-Identifier: GPL-3.0-or-later
"""An image of one content: built only if there is none, tagged by the hash of the content, pushed only if that is requested."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin
from ansible_collections.anvil.serving.plugins.module_utils.core.live_output import LiveOutput
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import LABEL_BASE, LABEL_CONTENT
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.images.platform import judge_platform
from ansible_collections.anvil.serving.plugins.module_utils.images.recipe import Recipe, check_recipe, hash_content, name_image
from ansible_collections.anvil.serving.plugins.module_utils.images.registry import (
    Login,
    find_pushed_digest,
    is_pushed,
)


@dataclass(frozen=True)
class Decision:
    """What to do. action: ``none``, ``tag`` or ``build``. reasons: ``missing``, ``content``, ``base``, ``tag``."""

    action: str
    reasons: Tuple[str, ...]
    image: Optional[Mapping[str, Any]]


def decide_action(
    content: str, image: Optional[Mapping[str, Any]], readable: Optional[Mapping[str, Any]], tag: bool, base_id: str
) -> Decision:
    """What to do, given the image of that content, the one with the readable tag, and the id of the base as it is now.

    An empty ``base_id`` is a base image that is not on this host: it cannot have changed here.
    """
    if image is None:
        return Decision("build", ("missing",), None)
    labels = (image.get("Config") or {}).get("Labels") or {}
    if labels.get(LABEL_CONTENT) != content:
        return Decision("build", ("content",), image)
    if base_id and labels.get(LABEL_BASE) not in ("", None, base_id):
        return Decision("build", ("base",), image)
    if tag and (readable is None or readable["Id"] != image["Id"]):
        return Decision("tag", ("tag",), image)
    return Decision("none", (), image)


def _predict_build() -> Dict[str, Any]:
    result: Dict[str, Any] = {"changed": True, "action": "build", "reasons": ["missing"], "reference": "", "tags": []}
    return {**result, "image_id": None, "digest": None, "pushed": False, "commands": [], "seconds": 0.0, "sbom": ""}


def converge_image(
    docker: DockerEngine,
    recipe: Recipe,
    secrets: Mapping[str, str],
    push: Optional[Login],
    timeout: int,
    live_output: LiveOutput,
    check: bool,
    allowed: Optional[Sequence[Origin]] = None,
    sbom_folder: str = "/opt/anvil/images",
) -> Dict[str, Any]:
    """Make sure that an image of this content exists under both its names, and in the registry if that is requested.

    push: the login to push with; None: do not push. check: only predict. allowed: the models whose weights may be in the
    context ``weights``; None allows every model. sbom_folder: for the bill of materials of an image that is built.
    Returns what anvil_image returns.
    """
    check_recipe(recipe)
    if "weights" in recipe.folders and allowed is not None:
        from ansible_collections.anvil.serving.plugins.module_utils.images.baked_weights import check_baked_weights

        check_baked_weights(recipe.folders["weights"], allowed)
    if check and not all(os.path.isdir(folder) for folder in recipe.folders.values()):
        # In a real run an earlier task brings the folder. Without its content, the image has no name yet.
        return _predict_build()
    content = hash_content(recipe)
    reference, readable = name_image(recipe, content)
    image = docker.inspect_image(reference)
    base = docker.inspect_image(recipe.base) if recipe.base else None
    base_id = str(base["Id"]) if base else ""
    named = docker.inspect_image(readable) if readable else None
    decision = decide_action(content, image, named, readable is not None, base_id)
    names = [name for name in (reference, readable) if name]
    result: Dict[str, Any] = {
        "changed": decision.action != "none",
        "action": decision.action,
        "reasons": list(decision.reasons),
        "reference": reference,
        "tags": names,
        "image_id": image["Id"] if image else None,
        "digest": find_pushed_digest(image or {}, recipe.name) or None,
        "pushed": False,
        "commands": [],
        "seconds": 0.0,
        "sbom": "",
    }
    must_push = push is not None and (
        decision.action != "none" or not all(is_pushed(docker, name, result["digest"] or "", push) for name in names)
    )
    result["changed"] = result["changed"] or must_push
    if decision.action == "build":
        found = judge_platform(recipe.platform, docker.info(), base, recipe.base, reference)
        result["warnings"] = [one.as_text() for one in found]
    if check or not result["changed"]:
        return result
    began = time.monotonic()
    if decision.action == "build":
        from ansible_collections.anvil.serving.plugins.module_utils.images.bill_of_materials import write_bill
        from ansible_collections.anvil.serving.plugins.module_utils.images.build import build_image

        result["commands"].append(build_image(docker, recipe, content, base_id, secrets, timeout, live_output))
        result["sbom"], notes = write_bill(docker, sbom_folder, reference, base or {}, recipe, content)
        result["warnings"] += notes
    if readable:
        docker.tag_image(reference, readable)
    made = docker.inspect_image(reference)
    result["image_id"] = made["Id"] if made else None
    if push is not None and must_push:
        from ansible_collections.anvil.serving.plugins.module_utils.images.push import push_image

        live_output.write_line("{0} is pushed".format(reference))
        result["digest"] = push_image(docker, recipe.name, names, push, timeout)
        result["pushed"] = True
    result["seconds"] = round(time.monotonic() - began, 3)
    return result
