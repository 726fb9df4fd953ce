# SPDX-License-Identifier: GPL-3.0-or-later
"""Complete a repository in a hub cache, verify it, or remove it: an engine finds the weights there as if it had fetched them.

Files are fetched into a staging folder beside the cache, checked, and moved into the cache one by one, as the client library
does it. A run killed at any line leaves whole files only; the next run fetches the rest.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from dataclasses import dataclass
from typing import Any, Dict, Iterator, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import COMMIT
from ansible_collections.anvil.serving.plugins.module_utils.core.disk_space import count_free_bytes
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.files import hold_lock, remove_file
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_folder import ForeignError, ForeignFolder
from ansible_collections.anvil.serving.plugins.module_utils.weights.checksums import hash_git_blob, hash_stream
from ansible_collections.anvil.serving.plugins.module_utils.weights.fetch_errors import build_fetch_error
from ansible_collections.anvil.serving.plugins.module_utils.weights.fetch_progress import ProgressLines
from ansible_collections.anvil.serving.plugins.module_utils.weights.free_space import judge_free_space, refuse_full_disk
from ansible_collections.anvil.serving.plugins.module_utils.weights.hub import fetch_from_hub, list_repository
from ansible_collections.anvil.serving.plugins.module_utils.weights.hub_cache import name_folder
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import ModelLocation, locate, open_model, open_root
from ansible_collections.anvil.serving.plugins.module_utils.weights.manifest import (
    MANIFEST,
    RECORD,
    begin_records,
    build_result,
    format_manifest,
    read_older_manifest,
    read_record,
    write_record,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.manifest_verification import (
    find_differences,
    find_trusted_manifest,
    report_differences,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.source import (
    FetchOptions,
    Source,
    SourceFile,
    check_allowed,
    check_file_name,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.staging import (
    clear_staging,
    count_bytes_below,
    prepare_staging,
)

BLOBS, SNAPSHOTS = "blobs", "snapshots"


@dataclass(frozen=True)
class CachedRepository:
    """A repository in the cache at ``root``."""

    root: str
    repo: str

    @property
    def staging(self) -> ModelLocation:
        return locate(self.root, name_folder(self.repo))

    @property
    def home(self) -> str:
        return os.path.join(self.root, name_folder(self.repo))

    def snapshot(self, commit: str) -> str:
        return os.path.join(self.home, SNAPSHOTS, commit)

    def result(self, manifest: Optional[Mapping[str, Any]], **more: Any) -> Dict[str, Any]:
        """What anvil_model returns. The target is the snapshot, which a container finds through the cache."""
        result = build_result(self.staging, manifest, **more)
        return {**result, "name": self.repo, "target": self.snapshot(str(result["commit"])) if result["commit"] else self.home}


@contextlib.contextmanager
def _open(cached: CachedRepository) -> Iterator[Optional[ForeignFolder]]:
    """The folder of the repository, for the time of the block; None where there is none."""
    folder = open_model(cached.staging)
    if folder is None:
        yield None
        return
    with folder:
        yield folder


def ensure_cached(cached: CachedRepository, source: Source, options: FetchOptions, check: bool) -> Dict[str, Any]:
    """state present: fetch what the snapshot lacks. check: only predict that."""
    location = cached.staging
    with _open(cached) as home:
        manifest = find_trusted_manifest(location, home, SNAPSHOTS)
        reason = _find_reason(home, source, options, manifest)
        if manifest is not None and not reason:
            check_allowed(cached.repo, source, str(manifest["commit"]), options.allowed)
            if "older" not in manifest:
                return cached.result(manifest)
            if not check:
                begin_records(location.root)
                write_record(location, {key: value for key, value in manifest.items() if key != "older"})
            return cached.result(manifest, changed=True, reasons=["unrecorded"])
        check_allowed(cached.repo, source, "", options.allowed)
        if check:
            commit, wanted = list_repository(location, source, options)
            check_allowed(cached.repo, source, commit, options.allowed)
            rest, _linked = _find_missing(home, commit, wanted, options.full)
            error = _judge_space(cached, rest, options)
            fetch = {"files": sorted(rest), "bytes": sum(file.size or 0 for file in rest.values())}
            found = cached.result(manifest, changed=True, reasons=[reason], commit=commit, fetch=fetch)
            return {**found, "problems": error.problems} if error is not None else found
    prepare_staging(location)
    with hold_lock(location.record, options.timeout):
        with _open(cached) as home:
            now = find_trusted_manifest(location, home, SNAPSHOTS)
            if now is not None and now != manifest and not _find_reason(home, source, options, now):
                return cached.result(now)  # another run fetched it meanwhile
        with open_root(cached.root, create=True) as root, root.folder(name_folder(cached.repo), create=True) as home:
            try:
                return _fetch(cached, home, source, options, reason)
            except OSError as exc:
                if exc.errno == errno.ENOSPC:
                    raise build_fetch_error("disk", cached.home, str(exc)) from exc
                raise fail(
                    "the files could not be put into the hub cache",
                    where=cached.home,
                    why=str(exc),
                    hint="look at it with ls -la: what stands in the place of a file must be removed by hand; then run again",
                ) from exc


def _find_reason(
    home: Optional[ForeignFolder], source: Source, options: FetchOptions, manifest: Optional[Mapping[str, Any]]
) -> str:
    """Why the repository is not as it should be; empty where it is. Nothing is contacted."""
    if manifest is None:
        return "incomplete" if home is not None else "missing"
    recorded, asked = dict(manifest["source"]), source.as_dict()
    pinned = COMMIT.fullmatch(source.revision) is not None
    if pinned and manifest.get("commit") == source.revision:
        recorded["revision"] = source.revision
    if recorded != asked or (options.refresh and not pinned):
        return "source"
    return "damaged" if _find_differences(home, manifest, options.full) else ""


def _find_differences(home: Optional[ForeignFolder], manifest: Mapping[str, Any], full: bool) -> Dict[str, str]:
    return find_differences(home, manifest, full, os.path.join(SNAPSHOTS, str(manifest["commit"])), links=True)


def _etag(file: SourceFile) -> str:
    """The name of a file's content in the cache, as the client library chooses it."""
    return file.sha256 or file.blob or ""


def _is_right(home: Optional[ForeignFolder], path: str, file: SourceFile, full: bool) -> bool:
    """Whether a file of the cache has the announced content. The library gives a blob its name when it is complete, so the name
    vouches for it, unless ``full``.
    """
    if home is None:
        return False
    with contextlib.suppress(OSError, ForeignError), home.open(path, links=True) as stream:
        seen, blob = os.fstat(stream.fileno()), home.look(os.path.join(BLOBS, _etag(file)))
        if file.size is None or seen.st_size != file.size:
            return False
        if blob is not None and (blob.st_dev, blob.st_ino) == (seen.st_dev, seen.st_ino) and not full:
            return True
        if file.sha256:
            return hash_stream(stream, file.size) == file.sha256
        return hash_git_blob(stream, file.size) == file.blob
    return False


def _find_missing(
    home: Optional[ForeignFolder], commit: str, wanted: Mapping[str, SourceFile], full: bool
) -> Tuple[Dict[str, SourceFile], Dict[str, SourceFile]]:
    """The files to fetch, and those that only lack a link, since another snapshot has the same content."""
    fetch: Dict[str, SourceFile] = {}
    link: Dict[str, SourceFile] = {}
    for name, file in wanted.items():
        if not _is_right(home, os.path.join(SNAPSHOTS, commit, name), file, full):
            here = _is_right(home, os.path.join(BLOBS, _etag(file)), file, full)
            (link if here else fetch)[name] = file
    return fetch, link


def _judge_space(cached: CachedRepository, rest: Mapping[str, SourceFile], options: FetchOptions) -> Any:
    need = sum(file.size or 0 for file in rest.values())
    have = min(need, count_bytes_below(cached.staging.staging))
    return judge_free_space(cached.root, need, have, count_free_bytes(cached.root), options.reserve_mib << 20)


def _fetch(cached: CachedRepository, home: ForeignFolder, source: Source, options: FetchOptions, reason: str) -> Dict[str, Any]:
    started = time.monotonic()
    location = cached.staging
    commit, wanted = list_repository(location, source, options)
    check_allowed(cached.repo, source, commit, options.allowed)
    for name in (commit, *(_etag(file) for file in wanted.values())):
        check_file_name(name)  # they become names in the cache
    rest, linked = _find_missing(home, commit, wanted, options.full)
    error = _judge_space(cached, rest, options)
    if error is not None:
        raise error
    snapshot = os.path.join(SNAPSHOTS, commit)
    for folder in (BLOBS, snapshot):
        home.folder(folder, create=True).close()
    need, listed = sum(file.size or 0 for file in rest.values()), time.monotonic()
    progress = ProgressLines(options.live_output.write_line, cached.repo, need)

    def tick() -> None:
        here = count_bytes_below(location.staging)
        progress.report(here, time.monotonic() - listed)
        refuse_full_disk(cached.root, need, here, options.reserve_mib << 20)

    os.makedirs(location.files, exist_ok=True)
    fetched = fetch_from_hub(location, source, commit, rest, options, tick) if rest else {}
    done = time.monotonic()
    for name, file in rest.items():
        staged = os.path.join(location.files, name)
        os.chmod(staged, 0o644)
        home.take_in(staged, os.path.join(BLOBS, _etag(file)))
    for name, file in {**rest, **linked}.items():
        path = os.path.join(snapshot, name)
        home.link(path, os.path.relpath(os.path.join(BLOBS, _etag(file)), os.path.dirname(path)))
    if not COMMIT.fullmatch(source.revision):
        home.write(os.path.join("refs", source.revision), commit.encode("ascii"), 0o644)
    written = _write_manifest(cached, home, source, commit, wanted, fetched)
    clear_staging(location)
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


def _write_manifest(
    cached: CachedRepository,
    home: ForeignFolder,
    source: Source,
    commit: str,
    wanted: Mapping[str, SourceFile],
    fetched: Mapping[str, Mapping[str, Any]],
) -> Dict[str, Any]:
    listed = {}
    for name, file in sorted(wanted.items()):
        with home.open(os.path.join(SNAPSHOTS, commit, name), links=True) as stream:
            seen = os.fstat(stream.fileno())
            sha256 = file.sha256 or fetched.get(name, {}).get("sha256") or hash_stream(stream, seen.st_size)
        listed[name] = {"size": seen.st_size, "mtime_ns": seen.st_mtime_ns, "sha256": sha256}
    manifest = {"version": 1, "source": source.as_dict(), "commit": commit, "files": listed}
    home.write(MANIFEST, format_manifest(manifest).encode("utf-8"), 0o644)
    write_record(cached.staging, manifest)
    return manifest


def verify_cached(cached: CachedRepository, options: FetchOptions) -> Dict[str, Any]:
    """state verified: the repository is in the cache as it was fetched, or an AnvilError."""
    with _open(cached) as home:
        manifest = find_trusted_manifest(cached.staging, home, SNAPSHOTS)
        if manifest is None:
            raise fail(
                "the repository is not complete in the cache",
                where=cached.home,
                why="no manifest of it is recorded in " + cached.staging.record,
                hint="complete it with state: present",
            )
        check_allowed(cached.repo, Source("hub", repo=cached.repo), str(manifest["commit"]), options.allowed)
        wrong = _find_differences(home, manifest, options.full)
    if wrong:
        raise report_differences(cached.staging, wrong)
    return cached.result(manifest)


def remove_cached(cached: CachedRepository, check: bool) -> Dict[str, Any]:
    """state absent: remove the repository from the cache. One that anvil_model did not complete stays."""
    location = cached.staging
    with _open(cached) as home:
        here = home is not None
        manifest = read_record(cached.root, location.name) if here else None
        if home is not None and manifest is None:
            manifest = read_older_manifest(home, cached.root, location.name)
    if here and manifest is None:
        raise fail(
            "the repository in the cache was not completed by anvil_model",
            where=cached.home,
            why="no manifest of it is recorded in " + location.record,
            hint="if you do not need it, remove the folder by hand",
        )
    result = cached.result(manifest, changed=here)
    if here and not check:
        prepare_staging(location)
        with hold_lock(location.record, 60):
            clear_staging(location, ("old",))
            with open_root(cached.root) as root:
                root.give_up(location.name, os.path.join(location.staging, "old"))
            clear_staging(location)
            remove_file(os.path.join(location.record, RECORD))
    return result
