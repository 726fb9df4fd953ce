# SPDX-License-Identifier: GPL-3.0-or-later
"""Weights on this host: present, verified, or absent.

A model is a folder whose manifest is recorded where no container can write. It is made in a staging folder on the same file
system, checked, fsynced, and then put in place in one step, so that an engine never sees half a model. What a run fetched stays
in the staging folder until the model is whole: the next run resumes there. An unchanged model costs one stat per file.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any, Dict, Iterator, List, Mapping, Optional

from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import COMMIT, judge_origin
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.files import hold_lock, remove_file
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_folder import ForeignError, ForeignFolder
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import (
    ModelLocation,
    make_location,
    open_model,
    open_root,
    resolve_path,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.manifest import (
    RECORD,
    begin_records,
    build_result,
    origin_of,
    read_older_manifest,
    read_record,
    write_record,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.manifest_verification import (
    find_differences,
    find_trusted_manifest,
    report_differences,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_request import ModelRequest
from ansible_collections.anvil.serving.plugins.module_utils.weights.source import (
    FetchOptions,
    Source,
    check_allowed,
    clean_record,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.staging import clear_staging, prepare_staging
from ansible_collections.anvil.serving.plugins.module_utils.weights.uploads import append_piece


def _has_same_source(manifest: Mapping[str, Any], source: Source, options: FetchOptions) -> bool:
    """Whether the manifest is of this source. Nothing is contacted.

    A branch was resolved when it was fetched and stays at that commit until ``refresh``. A folder or archive that was removed
    since does not count as a change.
    """
    recorded, asked = clean_record(manifest["source"]), source.as_dict()
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

        with contextlib.suppress(ForeignError):  # a source that is not copied is no other source
            return recorded == asked and manifest.get("commit") == compute_signature(source.path)
    return recorded == asked


@contextlib.contextmanager
def _open(location: ModelLocation) -> Iterator[Optional[ForeignFolder]]:
    """The folder of a model, for the time of the block; None where there is none."""
    folder = open_model(location)
    if folder is None:
        yield None
        return
    with folder:
        yield folder


def _record(location: ModelLocation, manifest: Dict[str, Any]) -> Dict[str, Any]:
    """Record a manifest from before this host kept records; its files have been hashed."""
    recorded = {key: value for key, value in manifest.items() if key != "older"}
    begin_records(location.root)
    write_record(location, recorded)
    return recorded


def ensure_model(location: ModelLocation, source: Source, options: FetchOptions, check: bool) -> Dict[str, Any]:
    """state present: fetch the files that are missing or differ, and put the model in place. check: only predict that."""
    reasons: List[str] = []
    with _open(location) as folder:
        manifest = find_trusted_manifest(location, folder)
        if manifest is None:
            reasons.append("missing" if folder is None else "foreign")
        else:
            if find_differences(folder, manifest, options.full):
                reasons.append("damaged")
            if not _has_same_source(manifest, source, options):
                reasons.append("source")
            if not reasons:
                check_allowed(location.name, source, str(manifest.get("commit", "")), options.allowed)
                if "older" not in manifest:
                    return build_result(location, manifest)
                if not check:
                    manifest = _record(location, manifest)
                return build_result(location, manifest, changed=True, reasons=["unrecorded"])
        check_allowed(location.name, source, "", options.allowed)
        if check and options.controller_files is not None and not options.controller_files.sums:
            return build_result(location, manifest, changed=True, reasons=reasons)  # the controller has not read its files yet
        if check:
            from ansible_collections.anvil.serving.plugins.module_utils.weights.model_fetch import predict_fetch

            return predict_fetch(location, folder, source, options, manifest, reasons)

    from ansible_collections.anvil.serving.plugins.module_utils.weights.model_fetch import fetch_model

    prepare_staging(location)
    with hold_lock(location.record, options.timeout), _open(location) as folder:
        # Another run may have fetched it while this run waited for the lock.
        now = find_trusted_manifest(location, folder)
        if (
            now is not None
            and now != manifest
            and _has_same_source(now, source, options)
            and not find_differences(folder, now, options.full)
        ):
            check_allowed(location.name, source, str(now.get("commit", "")), options.allowed)
            return build_result(location, now)
        return fetch_model(location, folder, source, options, now, reasons)


def verify_model(location: ModelLocation, options: FetchOptions) -> Dict[str, Any]:
    """state verified: the model is there and as its manifest says, or an AnvilError."""
    with _open(location) as folder:
        manifest = find_trusted_manifest(location, folder)
        if manifest is None:
            raise fail(
                "the model is not there" if folder is None else "the folder was not made by anvil_model",
                where=location.target,
                why="there is no such folder" if folder is None else "no manifest of it is recorded in " + location.record,
                hint="fetch it with state: present; files that are right are kept",
            )
        wrong = find_differences(folder, manifest, options.full)
    refused = judge_origin(location.name, origin_of(manifest), options.allowed)
    if refused is not None:
        raise AnvilError(refused)
    if wrong:
        raise report_differences(location, wrong)
    return build_result(location, manifest)


def remove_model(location: ModelLocation, check: bool) -> Dict[str, Any]:
    """state absent: remove the model and its staging files. A folder without our manifest is never removed."""
    with _open(location) as folder:
        here = folder is not None
        manifest = read_record(location.root, location.name) if here else None
        if folder is not None and manifest is None:
            manifest = read_older_manifest(folder, location.root, location.name)
    if here and manifest is None:
        raise fail(
            "the folder was not made by anvil_model",
            where=location.target,
            why="no manifest of it is recorded in " + location.record,
            hint="list its files (ls -la); if you do not need them, remove the folder by hand",
        )
    result = build_result(location, manifest, changed=here or os.path.isdir(location.files))
    if check or not (here or os.path.isdir(location.staging)):
        return result
    prepare_staging(location)
    with hold_lock(location.record, 60):
        if here:
            clear_staging(location, ("old",))
            with open_root(location.root) as root:
                root.give_up(location.name, os.path.join(location.staging, "old"))
        clear_staging(location)
        remove_file(os.path.join(location.record, RECORD))
    return result


def carry_out(docker: DockerEngine, request: ModelRequest, check: bool) -> Dict[str, Any]:
    """Bring the model to the requested state, and return the result of anvil_model."""
    try:
        return _carry_out(docker, request, check)
    except OSError as exc:
        raise fail(
            "the folder of the model cannot be read or changed",
            where=exc.filename or request.name,
            why=exc.strerror or str(exc),
            hint="check owner and permissions of the folder, and whether something else writes there; then run again",
        ) from exc


def _carry_out(docker: DockerEngine, request: ModelRequest, check: bool) -> Dict[str, Any]:
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
        prepare_staging(location)
        append_piece(location.record, location.staging, request.piece, request.options.reserve_mib << 20)
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
