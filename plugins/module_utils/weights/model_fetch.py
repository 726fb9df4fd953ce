# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetch what a model lacks from its source, check it and put it in place; or predict what that would fetch."""

from __future__ import annotations

import errno
import json
import os
import posixpath
import time
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.disk_space import count_free_bytes
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_folder import ForeignFolder
from ansible_collections.anvil.serving.plugins.module_utils.weights.fetch_errors import build_fetch_error
from ansible_collections.anvil.serving.plugins.module_utils.weights.fetch_progress import ProgressLines
from ansible_collections.anvil.serving.plugins.module_utils.weights.free_space import judge_free_space, refuse_full_disk
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import ModelLocation
from ansible_collections.anvil.serving.plugins.module_utils.weights.manifest import build_result, list_model_files
from ansible_collections.anvil.serving.plugins.module_utils.weights.source import (
    FetchOptions,
    Source,
    SourceFile,
    check_allowed,
    check_file_name,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.staging import (
    count_bytes_below,
    find_trusted_files,
    is_right,
    link_right_files,
    put_in_place,
    write_manifest,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.uploads import collect_files, count_arrived


def list_source(location: ModelLocation, source: Source, options: FetchOptions) -> Tuple[str, Dict[str, SourceFile]]:
    """The commit or signature of a source, and its files. Only what this kind of source needs is loaded."""
    if source.kind == "hub":
        from ansible_collections.anvil.serving.plugins.module_utils.weights.hub import list_repository

        return list_repository(location, source, options)
    if source.kind == "upload" and options.controller_files is not None:
        announced = options.controller_files
        for name in announced.sizes:
            check_file_name(name)
        return announced.signature, {name: SourceFile(size, announced.sums.get(name)) for name, size in announced.sizes.items()}
    if source.kind == "url":
        from ansible_collections.anvil.serving.plugins.module_utils.weights.url_download import read_url_size

        name = posixpath.basename(source.url.split("?")[0].split("#")[0])
        check_file_name(name)
        return source.sha256, {name: SourceFile(read_url_size(source.url) or None, source.sha256)}
    from ansible_collections.anvil.serving.plugins.module_utils.weights.local_files import compute_signature, list_sizes

    sizes = list_sizes(source.path)
    for name in sizes:
        check_file_name(name)
    return compute_signature(source.path), {name: SourceFile(size) for name, size in sizes.items()}


def _refuse_foreign_files(
    location: ModelLocation,
    folder: Optional[ForeignFolder],
    wanted: Mapping[str, SourceFile],
    manifest: Optional[Mapping[str, Any]],
) -> None:
    """Raise AnvilError where the model's folder holds files that neither the source nor the manifest has."""
    recorded = (manifest or {}).get("files", {})
    here = set(list_model_files(folder)) if folder is not None else set()
    foreign = sorted(here - set(wanted) - set(recorded))
    if foreign:
        raise fail(
            "the model's folder holds files that do not belong to the model",
            where=location.target,
            why=", ".join(foreign[:10]),
            hint="move these files away, or give the model another name: the whole folder is replaced by the new one",
        )


def predict_fetch(
    location: ModelLocation,
    folder: Optional[ForeignFolder],
    source: Source,
    options: FetchOptions,
    manifest: Optional[Mapping[str, Any]],
    reasons: List[str],
) -> Dict[str, Any]:
    """The result that a run would have. It contacts the source, and writes nothing that stays."""
    commit, wanted = list_source(location, source, options)
    check_allowed(location.name, source, commit, options.allowed)
    _refuse_foreign_files(location, folder, wanted, manifest)
    trusted = find_trusted_files(folder, manifest, options.full)
    missing = sorted(name for name, file in wanted.items() if not is_right(folder, name, file, trusted))
    size = sum(wanted[name].size or 0 for name in missing)
    staged = location.parts if source.kind == "upload" else location.files
    have, free = min(size, count_bytes_below(staged)), count_free_bytes(location.root)
    error = judge_free_space(location.root, size, have, free, options.reserve_mib << 20)
    result = build_result(
        location, manifest, changed=True, reasons=reasons, commit=commit, fetch={"files": missing, "bytes": size}
    )
    if source.kind == "upload":
        result["arrived"] = {name: count_arrived(location.staging, name, wanted[name].sha256 or "") for name in missing}
    if error is not None:
        result["problems"] = error.problems
    return result


def fetch_model(
    location: ModelLocation,
    folder: Optional[ForeignFolder],
    source: Source,
    options: FetchOptions,
    manifest: Optional[Mapping[str, Any]],
    reasons: List[str],
) -> Dict[str, Any]:
    """Fetch the files that are not right, put the model in place and return the result. The caller holds the lock.

    folder: the present model.
    """
    started = time.monotonic()
    commit, wanted = list_source(location, source, options)
    check_allowed(location.name, source, commit, options.allowed)
    _refuse_foreign_files(location, folder, wanted, manifest)
    trusted = find_trusted_files(folder, manifest, options.full)
    os.makedirs(location.files, exist_ok=True)
    listed = time.monotonic()
    kept = link_right_files(folder, location, wanted, trusted)
    rest = {name: file for name, file in wanted.items() if name not in kept}
    need = sum(file.size or 0 for file in rest.values())
    kept_bytes = sum(entry["size"] for entry in kept.values())
    have = min(need, count_bytes_below(location.staging) - kept_bytes) if source.kind != "copy" else 0
    free = count_free_bytes(location.root)
    error = judge_free_space(location.root, need, max(0, have), free, options.reserve_mib << 20)
    if error is not None:
        raise error

    progress = ProgressLines(options.live_output.write_line, location.name, need)

    def tick() -> None:
        here = count_bytes_below(location.staging) - kept_bytes
        passed = time.monotonic() - listed
        state = {"name": location.name, "bytes": here, "of": need, "seconds": round(passed, 1)}
        path = os.path.join(location.staging, "progress.json")
        with open(path, "w", encoding="utf-8") as handle:  # an fsync would slow the transfer down
            handle.write(json.dumps(state) + "\n")
        progress.report(here, passed)
        refuse_full_disk(location.root, need, max(0, here), options.reserve_mib << 20)

    try:
        fetched: Dict[str, Dict[str, Any]] = {}
        if not rest:
            pass
        elif source.kind == "hub":
            from ansible_collections.anvil.serving.plugins.module_utils.weights.hub import fetch_from_hub

            fetched = fetch_from_hub(location, source, commit, rest, options, tick)
        elif source.kind == "url":
            from ansible_collections.anvil.serving.plugins.module_utils.weights.url_download import download_file

            fetched = download_file(location, source, next(iter(rest)), options, tick)
        elif source.kind == "upload":
            fetched = collect_files(location.staging, location.files, {name: file.sha256 for name, file in rest.items()})
        else:
            from ansible_collections.anvil.serving.plugins.module_utils.weights.local_files import copy_files

            fetched = copy_files(location, source, tick)
        done = time.monotonic()
        written = write_manifest(location, source, commit, {**kept, **fetched}, done - started)
        put_in_place(location, written)
    except OSError as exc:
        if exc.errno == errno.ENOSPC:
            raise build_fetch_error("disk", location.target, str(exc)) from exc
        raise fail(
            "the weights could not be put in place",
            where=location.target,
            why=str(exc),
            hint="check owner and permissions of the folder, then run again: what was fetched is kept",
        ) from exc
    size = sum(entry["size"] for entry in fetched.values())
    return build_result(
        location,
        written,
        changed=True,
        reasons=reasons,
        fetch={"files": sorted(fetched), "bytes": size},
        seconds={
            "list": round(listed - started, 2),
            "fetch": round(done - listed, 2),
            "place": round(time.monotonic() - done, 2),
            "mib_per_second": round(size / max(done - listed, 0.001) / 1048576, 1),
        },
    )
