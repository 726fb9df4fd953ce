# SPDX-License-Identifier: GPL-3.0-or-later
"""Complete a repository in a hub cache, verify it, or remove it: an engine finds the weights there as if it had fetched them.

Files are fetched into a staging folder beside the cache, checked, and moved into the cache one by one, as the client library
does it. A run killed at any line leaves whole files only; the next run fetches the rest.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import stat
import time
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import COMMIT
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.files import hold_lock, write_file
from ansible_collections.anvil.serving.plugins.module_utils.weights.checksums import hash_file, hash_git_blob
from ansible_collections.anvil.serving.plugins.module_utils.weights.fetch_progress import ProgressLines
from ansible_collections.anvil.serving.plugins.module_utils.weights.hub import fetch_from_hub, list_repository
from ansible_collections.anvil.serving.plugins.module_utils.weights.hub_cache import name_folder
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import ModelLocation
from ansible_collections.anvil.serving.plugins.module_utils.weights.manifest import MANIFEST, build_result, read_manifest
from ansible_collections.anvil.serving.plugins.module_utils.weights.manifest_verification import (
    find_differences,
    report_differences,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.source import FetchOptions, Source, SourceFile, check_allowed
from ansible_collections.anvil.serving.plugins.module_utils.weights.staging import (
    count_bytes_below,
    count_free_bytes,
    judge_free_space,
)


@dataclass(frozen=True)
class CachedRepository:
    """A repository in the cache at ``root``."""

    root: str
    repo: str

    @property
    def staging(self) -> ModelLocation:
        return ModelLocation(self.root, name_folder(self.repo))

    @property
    def home(self) -> str:
        return self.staging.target

    @property
    def blobs(self) -> str:
        return os.path.join(self.home, "blobs")

    def snapshot(self, commit: str) -> str:
        return os.path.join(self.home, "snapshots", commit)

    def result(self, manifest: Optional[Mapping[str, Any]], **more: Any) -> Dict[str, Any]:
        """What anvil_model returns. The target is the snapshot, which a container finds through the cache."""
        result = build_result(self.staging, manifest, **more)
        return {**result, "name": self.repo, "target": self.snapshot(str(result["commit"])) if result["commit"] else self.home}


def ensure_cached(cached: CachedRepository, source: Source, options: FetchOptions, check: bool) -> Dict[str, Any]:
    """state present: fetch what the snapshot lacks. check: only predict that."""
    manifest = read_manifest(cached.home)
    reason = _find_reason(cached, source, options, manifest)
    if manifest is not None and not reason:
        check_allowed(cached.repo, source, str(manifest["commit"]), options.allowed)
        return cached.result(manifest)
    check_allowed(cached.repo, source, "", options.allowed)
    if check:
        commit, wanted = list_repository(cached.staging, source, options)
        check_allowed(cached.repo, source, commit, options.allowed)
        rest, _linked = _find_missing(cached, commit, wanted, options.full)
        error = _judge_space(cached, rest, options)
        fetch = {"files": sorted(rest), "bytes": sum(file.size or 0 for file in rest.values())}
        found = cached.result(manifest, changed=True, reasons=[reason], commit=commit, fetch=fetch)
        return {**found, "problems": error.problems} if error is not None else found
    with hold_lock(cached.staging.staging, options.timeout):
        now = read_manifest(cached.home)
        if now is not None and now != manifest and not _find_reason(cached, source, options, now):
            return cached.result(now)  # another run fetched it meanwhile
        return _fetch(cached, source, options, reason)


def _find_reason(cached: CachedRepository, source: Source, options: FetchOptions, manifest: Optional[Mapping[str, Any]]) -> str:
    """Why the repository is not as it should be; empty where it is. Nothing is contacted."""
    if manifest is None:
        return "incomplete" if os.path.lexists(cached.home) else "missing"
    recorded, asked = dict(manifest["source"]), source.as_dict()
    pinned = COMMIT.fullmatch(source.revision) is not None
    if pinned and manifest.get("commit") == source.revision:
        recorded["revision"] = source.revision
    if recorded != asked or (options.refresh and not pinned):
        return "source"
    return "damaged" if find_differences(cached.snapshot(str(manifest["commit"])), manifest, options.full) else ""


def _etag(file: SourceFile) -> str:
    """The name of a file's content in the cache, as the client library chooses it."""
    return file.sha256 or file.blob or ""


def _is_right(path: str, file: SourceFile, full: bool) -> bool:
    """Whether a file of the cache has the announced content. The library gives a blob its name when it is complete, so the name
    vouches for it, unless ``full``.
    """
    try:
        seen, location = os.stat(path), os.path.realpath(path)
    except OSError:
        return False
    if not stat.S_ISREG(seen.st_mode) or seen.st_size != file.size:
        return False
    if os.path.basename(location) == _etag(file) and not full:
        return True
    return (hash_file(path) == file.sha256) if file.sha256 else (hash_git_blob(path) == file.blob)


def _find_missing(
    cached: CachedRepository, commit: str, wanted: Mapping[str, SourceFile], full: bool
) -> Tuple[Dict[str, SourceFile], Dict[str, SourceFile]]:
    """The files to fetch, and those that only lack a link, since another snapshot has the same content."""
    fetch: Dict[str, SourceFile] = {}
    link: Dict[str, SourceFile] = {}
    for name, file in wanted.items():
        if not _is_right(os.path.join(cached.snapshot(commit), name), file, full):
            here = _is_right(os.path.join(cached.blobs, _etag(file)), file, full)
            (link if here else fetch)[name] = file
    return fetch, link


def _judge_space(cached: CachedRepository, rest: Mapping[str, SourceFile], options: FetchOptions) -> Any:
    need = sum(file.size or 0 for file in rest.values())
    have = min(need, count_bytes_below(cached.staging.staging))
    return judge_free_space(cached.root, need, have, count_free_bytes(cached.root), options.reserve_mib << 20)


def _make_folder(path: str) -> None:
    """Make a folder of the cache. Raises AnvilError where a link or file stands in its place: it may lead anywhere."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o755)
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise fail(
            "the hub cache is not as the client library lays it out",
            where=path,
            why="it is a link or a file, and must be a folder",
            hint="look at it with ls -l, and remove it",
        )


def _fetch(cached: CachedRepository, source: Source, options: FetchOptions, reason: str) -> Dict[str, Any]:
    started = time.monotonic()
    location = cached.staging
    commit, wanted = list_repository(location, source, options)
    check_allowed(cached.repo, source, commit, options.allowed)
    rest, linked = _find_missing(cached, commit, wanted, options.full)
    error = _judge_space(cached, rest, options)
    if error is not None:
        raise error
    snapshot = cached.snapshot(commit)
    for folder in (cached.home, cached.blobs, os.path.dirname(snapshot), snapshot):
        _make_folder(folder)
    need, listed = sum(file.size or 0 for file in rest.values()), time.monotonic()
    progress = ProgressLines(options.live_output.write_line, cached.repo, need)

    def tick() -> None:
        progress.report(count_bytes_below(location.staging), time.monotonic() - listed)

    os.makedirs(location.files, exist_ok=True)
    fetched = fetch_from_hub(location, source, commit, rest, options, tick) if rest else {}
    done = time.monotonic()
    for name, file in rest.items():
        staged = os.path.join(location.files, name)
        os.chmod(staged, 0o644)
        os.rename(staged, os.path.join(cached.blobs, _etag(file)))
    for name, file in {**rest, **linked}.items():
        _link(os.path.join(cached.blobs, _etag(file)), snapshot, name)
    if not COMMIT.fullmatch(source.revision):
        _make_folder(os.path.join(cached.home, "refs"))
        write_file(os.path.join(cached.home, "refs", source.revision), commit, 0o644)
    written = _write_manifest(cached, source, commit, wanted, fetched)
    for left in ("files", "parts", "home"):
        shutil.rmtree(os.path.join(location.staging, left), ignore_errors=True)
    return cached.result(
        written,
        changed=True,
        reasons=[reason],
        fetch={"files": sorted(fetched), "bytes": sum(entry["size"] for entry in fetched.values())},
        seconds={
            "list": round(listed - started, 2),
            "fetch": round(done - listed, 2),
            "place": round(time.monotonic() - done, 2),
        },
    )


def _link(blob: str, snapshot: str, name: str) -> None:
    """Put a link to a blob into a snapshot."""
    link, folder = os.path.join(snapshot, name), snapshot
    for part in name.split("/")[:-1]:
        folder = os.path.join(folder, part)
        _make_folder(folder)
    fresh = link + ".anvil"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh)
    os.symlink(os.path.relpath(blob, folder), fresh)
    os.rename(fresh, link)


def _write_manifest(
    cached: CachedRepository,
    source: Source,
    commit: str,
    wanted: Mapping[str, SourceFile],
    fetched: Mapping[str, Mapping[str, Any]],
) -> Dict[str, Any]:
    listed = {}
    for name, file in sorted(wanted.items()):
        path = os.path.join(cached.snapshot(commit), name)
        seen = os.stat(path)
        sha256 = file.sha256 or fetched.get(name, {}).get("sha256") or hash_file(path)
        listed[name] = {"size": seen.st_size, "mtime_ns": seen.st_mtime_ns, "sha256": sha256}
    manifest = {"version": 1, "source": source.as_dict(), "commit": commit, "files": listed}
    write_file(os.path.join(cached.home, MANIFEST), json.dumps(manifest, indent=1, sort_keys=True) + "\n", 0o644)
    return manifest


def verify_cached(cached: CachedRepository, options: FetchOptions) -> Dict[str, Any]:
    """state verified: the repository is in the cache as it was fetched, or an AnvilError."""
    manifest = read_manifest(cached.home)
    if manifest is None:
        raise fail(
            "the repository is not complete in the cache",
            where=cached.home,
            why="the folder has no " + MANIFEST,
            hint="complete it with state: present",
        )
    check_allowed(cached.repo, Source("hub", repo=cached.repo), str(manifest["commit"]), options.allowed)
    wrong = find_differences(cached.snapshot(str(manifest["commit"])), manifest, options.full)
    if wrong:
        raise report_differences(cached.staging, wrong)
    return cached.result(manifest)


def remove_cached(cached: CachedRepository, check: bool) -> Dict[str, Any]:
    """state absent: remove the repository from the cache. One that anvil_model did not complete stays."""
    manifest, here = read_manifest(cached.home), os.path.lexists(cached.home)
    if here and manifest is None:
        raise fail(
            "the repository in the cache was not completed by anvil_model",
            where=cached.home,
            why="it has no " + MANIFEST,
            hint="if you do not need it, remove the folder by hand",
        )
    result = cached.result(manifest, changed=here)
    if here and not check:
        with hold_lock(cached.staging.staging, 60):
            aside = os.path.join(cached.staging.staging, "old")
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(cached.home, aside)
            shutil.rmtree(aside, ignore_errors=True)
    return result
