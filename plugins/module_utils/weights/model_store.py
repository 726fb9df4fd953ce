# SPDX-License-Identifier: GPL-3.0-or-later
"""Weights on this host: present, verified, or absent.

A model is a folder with a manifest in it. It is made in a staging folder on the same file system, checked, fsynced, and
then put in place in one step, so that an engine never sees half a model. What a run fetched stays in the staging folder until
the model is whole: the next run resumes there. An unchanged model costs one stat per file.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import Any, Dict, List, Mapping

from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import COMMIT, judge_origin
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.files import hold_lock
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import ModelLocation, make_location, resolve_path
from ansible_collections.anvil.serving.plugins.module_utils.weights.manifest import (
    MANIFEST,
    build_result,
    origin_of,
    read_manifest,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.manifest_verification import (
    find_differences,
    report_differences,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_request import ModelRequest
from ansible_collections.anvil.serving.plugins.module_utils.weights.source import FetchOptions, Source, check_allowed
from ansible_collections.anvil.serving.plugins.module_utils.weights.uploads import append_piece


def _has_same_source(manifest: Mapping[str, Any], source: Source, options: FetchOptions) -> bool:
    """Whether the manifest is of this source. Nothing is contacted.

    A branch was resolved when it was fetched and stays at that commit until ``refresh``. A folder or archive that was removed
    since does not count as a change.
    """
    recorded, asked = dict(manifest["source"]), source.as_dict()
    if source.kind == "hub":
        pinned = COMMIT.fullmatch(source.revision) is not None
        if options.refresh and not pinned:
            return False
        if pinned and manifest.get("commit") == source.revision:
            recorded["revision"] = source.revision
    if source.kind == "upload" and options.controller_files is not None:
        announced = options.controller_files
        same = {name: entry["sha256"] for name, entry in manifest["files"].items()} == dict(announced.sums)
        return recorded == asked and (same or manifest.get("commit") == announced.signature)
    if source.kind == "copy" and os.path.exists(source.path):
        from ansible_collections.anvil.serving.plugins.module_utils.weights.local_files import compute_signature

        return recorded == asked and manifest.get("commit") == compute_signature(source.path)
    return recorded == asked


def ensure_model(location: ModelLocation, source: Source, options: FetchOptions, check: bool) -> Dict[str, Any]:
    """state present: fetch the files that are missing or differ, and put the model in place. check: only predict that."""
    manifest = read_manifest(location.target)
    reasons: List[str] = []
    if manifest is None:
        reasons.append("foreign" if os.path.lexists(location.target) else "missing")
    else:
        if find_differences(location.target, manifest, options.full):
            reasons.append("damaged")
        if not _has_same_source(manifest, source, options):
            reasons.append("source")
        if not reasons:
            check_allowed(location.name, source, str(manifest.get("commit", "")), options.allowed)
            return build_result(location, manifest)
    check_allowed(location.name, source, "", options.allowed)
    if check and options.controller_files is not None and not options.controller_files.sums:
        return build_result(location, manifest, changed=True, reasons=reasons)  # the controller has not read its files yet

    from ansible_collections.anvil.serving.plugins.module_utils.weights.model_fetch import fetch_model, predict_fetch

    if check:
        return predict_fetch(location, source, options, manifest, reasons)
    with hold_lock(location.staging, options.timeout):
        # Another run may have fetched it while this run waited for the lock.
        now = read_manifest(location.target)
        if (
            now is not None
            and now != manifest
            and _has_same_source(now, source, options)
            and not find_differences(location.target, now, options.full)
        ):
            check_allowed(location.name, source, str(now.get("commit", "")), options.allowed)
            return build_result(location, now)
        return fetch_model(location, source, options, now, reasons)


def verify_model(location: ModelLocation, options: FetchOptions) -> Dict[str, Any]:
    """state verified: the model is there and as its manifest says, or an AnvilError."""
    manifest = read_manifest(location.target)
    if manifest is None:
        raise fail(
            "the model is not there",
            where=location.target,
            why="the folder has no " + MANIFEST,
            hint="fetch it with state: present",
        )
    wrong = find_differences(location.target, manifest, options.full)
    refused = judge_origin(location.name, origin_of(manifest), options.allowed)
    if refused is not None:
        raise AnvilError(refused)
    if wrong:
        raise report_differences(location, wrong)
    return build_result(location, manifest)


def remove_model(location: ModelLocation, check: bool) -> Dict[str, Any]:
    """state absent: remove the model and its staging files. A folder without our manifest is never removed."""
    manifest = read_manifest(location.target)
    here, staged = os.path.lexists(location.target), os.path.isdir(location.staging)
    if here and manifest is None:
        raise fail(
            "the folder was not made by anvil_model",
            where=location.target,
            why="it has no " + MANIFEST,
            hint="list its files (ls -la); if you do not need them, remove the folder by hand",
        )
    result = build_result(location, manifest, changed=here or os.path.isdir(location.files))
    if check or not (here or staged):
        return result
    with hold_lock(location.staging, 60):
        if here:
            aside = os.path.join(location.staging, "old")
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(location.target, aside)
        for rest in ("files", "home", "parts", "old"):
            shutil.rmtree(os.path.join(location.staging, rest), ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(location.staging, "part"))
    return result


def carry_out(docker: DockerEngine, request: ModelRequest, check: bool) -> Dict[str, Any]:
    """Bring the model to the requested state, and return the result of anvil_model."""
    check = check or request.predict_only
    create = request.state == "present" and not check
    if request.state == "absent" and request.volume and docker.inspect_volume(request.volume) is None:
        return {"changed": False, "target": "", "name": request.name}
    root = resolve_path(docker, request.volume, request.folder or ".", create, predict=check)
    if request.layout == "hub_cache":
        return _carry_out_in_cache(root, request, check)
    location = make_location(root, request.name)
    if request.state == "absent":
        return remove_model(location, check)
    if request.state == "verified" or request.source is None:
        return verify_model(location, request.options)
    if request.piece is not None:
        append_piece(location.staging, request.piece)
        return {"changed": True}
    return ensure_model(location, request.source, request.options, check)


def _carry_out_in_cache(root: str, request: ModelRequest, check: bool) -> Dict[str, Any]:
    from ansible_collections.anvil.serving.plugins.module_utils.weights import hub_cache_fetch

    cached = hub_cache_fetch.CachedRepository(root, request.name)
    if request.state == "absent":
        return hub_cache_fetch.remove_cached(cached, check)
    if request.state == "verified" or request.source is None:
        return hub_cache_fetch.verify_cached(cached, request.options)
    return hub_cache_fetch.ensure_cached(cached, request.source, request.options, check)
