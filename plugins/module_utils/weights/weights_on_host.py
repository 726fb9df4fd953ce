# SPDX-License-Identifier: GPL-3.0-or-later
"""Which weights a serve loads from this host, and what they hold: found through its mounts, Hugging Face caches included."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from typing import Any, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.command_line import Settings
from ansible_collections.anvil.serving.plugins.module_utils.catalog.engine_options import (
    CACHE,
    CACHE_HOME,
    CONFIG,
    MODELSCOPE,
    OFFLINE,
    REVISION,
)
from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import Origin
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem
from ansible_collections.anvil.serving.plugins.module_utils.core.findings import DOUBTFUL, UNKNOWN, Finding, doubtful, unknown
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_files import NotReadError, read_bytes
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.weights.hub_cache import CACHES, find_snapshot
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import resolve_path
from ansible_collections.anvil.serving.plugins.module_utils.weights.manifest import find_manifest, origin_of
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import ModelFacts
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_folder import NoModelError, read_model


@dataclass(frozen=True)
class ServeWeights:
    """What is known of a serve's weights. problems: why they cannot be used. findings: what is doubtful or unknown of them.

    fetch_bytes: what is still to be downloaded.
    """

    facts: Optional[ModelFacts] = None
    origin: Optional[Origin] = None
    problems: Tuple[Problem, ...] = ()
    findings: Tuple[Finding, ...] = ()
    notes: Tuple[str, ...] = ()
    fetch_bytes: int = 0


def path_below_mount(mount: Mapping[str, Any], path: str) -> Optional[str]:
    """The path below a mount's source that a container sees as ``path``; None where the mount does not hold it."""
    target = os.path.normpath(str(mount["target"]))
    if path != target and not path.startswith(target.rstrip("/") + "/"):
        return None
    return os.path.relpath(path, target)


def _list_caches(settings: Optional[Settings], mount: Mapping[str, Any]) -> List[str]:
    """Where a hub cache may lie below a mount: where the arguments or the environment say, else in its usual places."""
    told = settings.text(CACHE) if settings else None
    if settings and not told and settings.text(CACHE_HOME):
        told = os.path.join(settings.text(CACHE_HOME) or "", "hub")
    below = path_below_mount(mount, os.path.normpath(told)) if told else None
    return [*([below] if below else []), *CACHES]


def find_weights(
    docker: DockerEngine, serve: Mapping[str, Any], revision: str = "", settings: Optional[Settings] = None
) -> Optional[Tuple[str, str]]:
    """Where the weights of a serve of the plan lie on this host, and the source of the mount that holds them; ``None`` if they
    are not here. revision: of a repository. settings: of the serve, which may say where its hub cache lies.
    """
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
                return os.path.normpath(found), root
        else:
            for cache in _list_caches(settings, mount):
                found = find_snapshot(os.path.join(root, cache), model, revision)
                if found is not None:
                    return os.path.normpath(found), root
    return None


CONFIG_BYTES = 65536


def read_config_file(docker: DockerEngine, serve: Mapping[str, Any], settings: Settings) -> Optional[Mapping[str, Any]]:
    """The content of the configuration file that the arguments of a serve name; None where it is not on this host, is not plain
    YAML, or this host's Python has no YAML."""
    path = settings.text(CONFIG) or ""
    for mount in serve.get("mounts") or []:
        below = path_below_mount(mount, os.path.normpath(path)) if path.startswith("/") else None
        if below is None:
            continue
        volume = mount["source"] if mount["kind"] == "volume" else None
        try:
            import yaml

            root = resolve_path(docker, volume, "." if volume else str(mount["source"]), create=False)
            text = read_bytes(os.path.normpath(os.path.join(root, below)), CONFIG_BYTES, root)
            # Aliases can make a small file huge.
            read = None if b"&" in text else yaml.safe_load(text)
        except Exception:
            return None
        return read if isinstance(read, dict) else None
    return None


def name_other_source(model: str, settings: Settings) -> str:
    """Where a model comes from that is neither a path nor a whole repository of the Hugging Face hub; else empty."""
    if not model or model.startswith("/"):  # a server with several models has none of its own
        return ""
    scheme = re.match(r"([a-z][a-z0-9+.-]*)://", model, re.IGNORECASE)
    if scheme:
        return scheme.group(1).lower() + " storage"
    if settings.is_on(MODELSCOPE):
        return "ModelScope"
    return "one file of a repository" if ":" in model else ""


def origin_of_repository(model: str, settings: Settings) -> Optional[Origin]:
    """The origin of a model that the engine gets as a repository of the Hugging Face hub, at the revision of its flag; None for
    a path and for another source."""
    if model.startswith("/") or name_other_source(model, settings):
        return None
    return Origin(model, settings.text(REVISION) or "")


def describe_elsewhere(model: str, settings: Settings) -> ServeWeights:
    """What is known of weights that are not on this host, without asking a hub."""
    source = name_other_source(model, settings)
    notes = ("{0}: weights from {1} were not judged".format(model, source),) if source else ()
    findings = () if source else judge_absence(model, settings)
    return ServeWeights(origin=origin_of_repository(model, settings), findings=findings, notes=notes)


def place_findings(weights: ServeWeights, where: str) -> List[Finding]:
    """What is wrong with the weights of a serve, as findings about this serve. Weights that cannot be used are doubtful: the
    engine may read what this host cannot."""
    found = [*(Finding(DOUBTFUL, problem) for problem in weights.problems), *weights.findings]
    return [replace(one, problem=replace(one.problem, where="{0}: {1}".format(where, one.problem.where))) for one in found]


def read_weights(
    docker: DockerEngine, serve: Mapping[str, Any], settings: Settings, path: Optional[str] = None
) -> Optional[ServeWeights]:
    """What the weights of a serve of the plan hold; None where they are not on this host. path: where they lie, if known."""
    origin = origin_of_repository(str(serve["model"]), settings)
    found = (path, None) if path else find_weights(docker, serve, origin.revision if origin else "", settings)
    if found is None:
        return None
    path, mounted = found
    repository = origin is not None
    if origin is None:
        manifest = find_manifest(path)
        origin = origin_of(manifest) if manifest else None
    try:
        facts = read_model(path, mounted)
    except NotReadError as exc:
        return ServeWeights(None, origin, findings=tuple(Finding(UNKNOWN, problem) for problem in exc.problems))
    except NoModelError as exc:
        if repository:
            return _describe_incomplete(str(serve["model"]), origin, path, "the weights", settings)
        return ServeWeights(None, origin, exc.problems)
    except AnvilError as exc:
        return ServeWeights(None, origin, exc.problems)
    if repository and facts.missing:
        return _describe_incomplete(str(serve["model"]), origin, path, ", ".join(facts.missing[:8]), settings)
    return ServeWeights(facts, origin)


def _describe_incomplete(model: str, origin: Optional[Origin], path: str, missing: str, settings: Settings) -> ServeWeights:
    """A repository of which the cache has a part: an engine fetches the rest when it starts, unless it is offline."""
    what = "the hub cache has only a part of {0}".format(model)
    if settings.is_on(OFFLINE):
        hint = "fetch the rest with anvil_model, layout: hub_cache; or take HF_HUB_OFFLINE out of the environment"
        finding = doubtful(what, path, "missing: {0}. The serve is offline, so the engine cannot fetch it".format(missing), hint)
    else:
        finding = unknown(what, path, "missing: {0}. The engine fetches it when it starts; memory was not judged".format(missing))
    return ServeWeights(None, origin, findings=(finding,))


def judge_absence(model: str, settings: Settings) -> Tuple[Finding, ...]:
    """What the absence of a repository from every mounted cache means: an offline engine can load it only from its image."""
    if model.startswith("/") or not settings.is_on(OFFLINE):
        return ()
    return (
        doubtful(
            "no mounted hub cache has {0}, and the serve is offline".format(model),
            "model",
            "the engine can load it only if the image contains it",
            "fetch it into the cache with anvil_model, layout: hub_cache; or take HF_HUB_OFFLINE out of the environment",
        ),
    )
