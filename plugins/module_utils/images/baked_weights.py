# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether ``anvil_models_allowed`` allows the weights that are copied into an image.

The origin of weights is what the manifest beside them says, or the repository and commit in the paths of a hub cache. A file
that neither covers, or whose size is not that of the manifest, has no known origin.
"""

from __future__ import annotations

import os
import re
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin, judge_origin
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.weights.manifest import MANIFEST, origin_of, read_manifest_of
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_record import OLD_STAGING

SNAPSHOT = re.compile(r"(?:.*/)?models--(?P<repo>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})/.+")
# The other files of a hub cache: content that snapshots point to, and small notes.
CACHE_FILES = re.compile(r"(?:.*/)?(models--[^/]+/(blobs|refs|\.no_exist)/.*|\.locks/.*|version\.txt|CACHEDIR\.TAG)")
SHOWN = 8


def check_baked_weights(folder: str, allowed: Optional[Sequence[Origin]]) -> None:
    """Raise AnvilError for weights that the policy does not allow, all at once. allowed: None allows every model."""
    if allowed is None:
        return
    unknown, origins = _find_origins(folder)
    problems = [judge_origin(path, origin, allowed) for origin, path in origins.items()]
    if unknown:
        more = ", and {0} more".format(len(unknown) - SHOWN) if len(unknown) > SHOWN else ""
        hint = "fetch the weights with anvil_model (playbooks/models.yml), which writes a manifest; keep other files out"
        what = "files have no known origin, so anvil_models_allowed does not allow them in an image"
        problems.append(Problem(what, folder, "no manifest lists " + ", ".join(unknown[:SHOWN]) + more, hint))
    refused = [problem for problem in problems if problem is not None]
    if refused:
        raise AnvilError(*refused)


def _find_origins(folder: str) -> Tuple[List[str], Dict[Origin, str]]:
    """The files without a known origin, relative to the folder; and each origin with its first file."""
    unknown: List[str] = []
    origins: Dict[Origin, str] = {}
    models: Dict[str, Tuple[str, Mapping[str, Any]]] = {}  # folder -> the folder of its model, and the manifest there
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != OLD_STAGING)
        manifest = read_manifest_of(here)
        model = (here, manifest) if manifest else models.get(os.path.dirname(here))
        if model:
            models[here] = model
        for name in sorted(names):
            path = os.path.join(here, name)
            if name == MANIFEST or CACHE_FILES.fullmatch(path):
                continue
            origin = _find_origin(path, model)
            if origin is None:
                unknown.append(os.path.relpath(path, folder))
            else:
                origins.setdefault(origin, path)
    return unknown, origins


def _find_origin(path: str, model: Optional[Tuple[str, Mapping[str, Any]]]) -> Optional[Origin]:
    found = SNAPSHOT.fullmatch(path)
    if found:
        return Origin(found["repo"].replace("--", "/"), found["commit"])
    if model is None:
        return None
    listed = model[1]["files"].get(os.path.relpath(path, model[0]))
    same = isinstance(listed, Mapping) and os.path.isfile(path) and listed.get("size") == os.path.getsize(path)
    return origin_of(model[1]) if same else None
