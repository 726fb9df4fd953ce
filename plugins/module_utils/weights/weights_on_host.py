# SPDX-License-Identifier: GPL-3.0-or-later
"""Which weights a serve loads from this host, and what they hold: found through its mounts, Hugging Face caches included."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import Settings
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engine_options import REVISION
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import resolve_path
from ansible_collections.anvil.serving.plugins.module_utils.weights.manifest import find_manifest, origin_of
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import ModelFacts
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_folder import read_model


@dataclass(frozen=True)
class ServeWeights:
    """What is known of a serve's weights. problems: why they cannot be used. fetch_bytes: what is still to be downloaded."""

    facts: Optional[ModelFacts] = None
    origin: Optional[Origin] = None
    problems: Tuple[Problem, ...] = ()
    notes: Tuple[str, ...] = ()
    fetch_bytes: int = 0


def path_below_mount(mount: Mapping[str, Any], path: str) -> Optional[str]:
    """The path below a mount's source that a container sees as ``path``; None where the mount does not hold it."""
    target = os.path.normpath(str(mount["target"]))
    if path != target and not path.startswith(target.rstrip("/") + "/"):
        return None
    return os.path.relpath(path, target)


def _find_cached_snapshot(folder: str, model: str) -> Optional[str]:
    """The snapshot of a repository in a Hugging Face cache: the one that refs/main names, or the only one."""
    home = os.path.join(folder, "models--" + model.replace("/", "--"))
    try:
        snapshots = sorted(os.listdir(os.path.join(home, "snapshots")))
    except OSError:
        return None
    try:
        with open(os.path.join(home, "refs", "main"), encoding="ascii") as stream:
            named = stream.read().strip()
    except (OSError, ValueError):
        named = ""
    chosen = named if named in snapshots else snapshots[0] if len(snapshots) == 1 else None
    return os.path.join(home, "snapshots", chosen) if chosen else None


def find_weights(docker: DockerEngine, serve: Mapping[str, Any]) -> Optional[str]:
    """Where the weights of a serve of the plan lie on this host; ``None`` if they are not here."""
    model = str(serve["model"])
    for mount in serve.get("mounts") or []:
        volume = mount["source"] if mount["kind"] == "volume" else None
        try:
            root = resolve_path(docker, volume, "." if volume else str(mount["source"]), create=False)
        except AnvilError:
            continue  # a volume that does not exist holds no weights
        if model.startswith("/"):
            below = path_below_mount(mount, os.path.normpath(model))
            found = os.path.join(root, below) if below is not None else None
            if found is not None and os.path.exists(found):
                return os.path.normpath(found)
        else:
            for cache in (os.path.join(root, "hub"), root):
                found = _find_cached_snapshot(cache, model)
                if found is not None:
                    return found
    return None


def origin_of_repository(model: str, settings: Settings) -> Optional[Origin]:
    """The origin of a model that the engine gets as a repository, at the revision of its flag; None for a path."""
    return None if model.startswith("/") else Origin(model, settings.text(REVISION) or "")


def read_weights(
    docker: DockerEngine, serve: Mapping[str, Any], settings: Settings, path: Optional[str] = None
) -> Optional[ServeWeights]:
    """What the weights of a serve of the plan hold; None where they are not on this host. path: where they lie, if known."""
    path = path or find_weights(docker, serve)
    if path is None:
        return None
    origin = origin_of_repository(str(serve["model"]), settings)
    if origin is None:
        manifest = find_manifest(path)
        origin = origin_of(manifest) if manifest else None
    try:
        return ServeWeights(read_model(path), origin)
    except AnvilError as exc:
        return ServeWeights(None, origin, exc.problems)
