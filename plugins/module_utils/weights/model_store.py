# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Weights on this host: present and verified, described, or removed.

A model is a folder with a manifest in it. It is made in a staging folder on the same file system, checked, fsynced, and
then put in place by one exchange, so that an engine never sees half a model. What a run fetched stays in the staging
folder until the model is whole: the next run goes on from there. An unchanged model costs one stat per file.
"""

from __future__ import annotations

import contextlib
import ctypes
import fnmatch
import hashlib
import json
import os
import posixpath
import re
import shutil
import stat
import sys
import tarfile
import time
import zipfile
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.model_policy import (
    COMMIT,
    REPO,
    SHA256,
    Origin,
    judge_origin,
    read_allowed,
)
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail, problems_as_dicts
from ansible_collections.anvil.serving.plugins.module_utils.core.files import hold_lock, read_file, write_file
from ansible_collections.anvil.serving.plugins.module_utils.core.live_output import LiveOutput
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.weights.hub import ask_hub, hub_error
from ansible_collections.anvil.serving.plugins.module_utils.weights.locations import (
    MANIFEST,
    origin_of,
    read_manifest,
    resolve_place,
)
from ansible_collections.anvil.serving.plugins.module_utils.weights.memory_estimate import estimate_vram
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_facts import ModelFacts, discover_models, read_model
from ansible_collections.anvil.serving.plugins.module_utils.weights.uploads import (
    Announced,
    Piece,
    arrived,
    collect,
    read_announced,
    take_piece,
)

STAGING = ".anvil-staging"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,3}")
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")
PIECE = 4 * 1024 * 1024
TELL_SECONDS = 5.0
HUB_OPTIONS: Dict[str, Any] = {
    "endpoint": {"type": "str"},
    "token": {"type": "str", "no_log": True},
    "token_file": {"type": "path", "no_log": False},
    "client": {"type": "path"},
}


# ---------------------------------------------------------------------------------------------------------------- data


@dataclass(frozen=True)
class Load:
    """What a VRAM estimate is for."""

    context: Optional[int]
    concurrency: int
    kv_dtype: str
    cards: int


@dataclass(frozen=True)
class Source:
    """Where weights come from. kind: hub (repo, revision, allow, ignore), url (url, sha256), copy (path, sha256), or
    upload (sha256): from the controller, whose paths mean nothing here.
    """

    kind: str
    repo: str = ""
    revision: str = ""
    allow: Tuple[str, ...] = ()
    ignore: Tuple[str, ...] = ()
    url: str = ""
    path: str = ""
    sha256: str = ""

    def as_dict(self) -> Dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items() if value}


@dataclass(frozen=True)
class Fetching:
    """How to fetch. endpoint: of the hub, empty for the library's own. reserve_mib: room to leave on the disk.

    allowed: the policy; None allows every model.
    announced: what the controller has (upload). live_output: hears now and then how far it is.
    """

    endpoint: str = ""
    token: str = ""
    client: str = ""
    workers: int = 4
    timeout: float = 21600.0
    reserve_mib: int = 1024
    refresh: bool = False
    full: bool = False
    allowed: Optional[Tuple[Origin, ...]] = None
    announced: Optional[Announced] = None
    live_output: LiveOutput = field(default_factory=lambda: LiveOutput(None))


@dataclass(frozen=True)
class Wanted:
    """A file of a model as its source announces it; None where the source does not say."""

    size: Optional[int]
    sha256: Optional[str] = None
    blob: Optional[str] = None


@dataclass(frozen=True)
class Look:
    """What became of the files of a manifest: by path, why it is not what it was; and files that it does not name."""

    wrong: Mapping[str, str] = field(default_factory=dict)
    touched: Tuple[str, ...] = ()
    unknown: Tuple[str, ...] = ()


def human(count: int) -> str:
    """Bytes for people, to a tenth of a unit."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            break
        size /= 1024
    return "{0:.0f} {1}".format(size, unit) if unit == "B" else "{0:.1f} {1}".format(size, unit)


def describe_pace(done: int, need: int, seconds: float) -> str:
    """How far a transfer is, for people: ``1.2 GiB of 60.3 GiB, 412 MiB/s, 2 min left``."""
    told = "{0} of {1}".format(human(min(done, need)), human(need)) if need else human(done)
    if done <= 0 or seconds <= 0:
        return told
    left = max(0, need - done) * seconds / done
    rest = ", {0:.0f} min left".format(left / 60) if left > 90 else ", {0:.0f} s left".format(left)
    return told + ", {0}/s".format(human(int(done / seconds))) + (rest if need else "")


class Pace:
    """Tells a transfer's pace now and then."""

    def __init__(self, live_output: LiveOutput, name: str, need: int) -> None:
        self.live_output, self.name, self.need, self.last = live_output, name, need, 0.0

    def tell(self, done: int, seconds: float) -> None:
        if done and (seconds - self.last >= TELL_SECONDS or not self.last):
            self.last = seconds
            self.live_output.write_line("{0}: {1}".format(self.name, describe_pace(done, self.need, seconds)))


def choose_files(files: Mapping[str, Any], allow: Sequence[str], ignore: Sequence[str]) -> List[str]:
    """The names that match a pattern of ``allow`` (none: all do) and none of ``ignore``; ``dir/`` means all below it."""

    def matches(name: str, patterns: Sequence[str]) -> bool:
        return any(fnmatch.fnmatchcase(name, word + "*" if word.endswith("/") else word) for word in patterns)

    return sorted(name for name in files if (not allow or matches(name, allow)) and not matches(name, ignore))


def check_name(name: str) -> None:
    """File names of a source may not leave the model's folder, nor pose as our own files."""
    parts = name.split("/")
    if (
        not name
        or "\0" in name
        or "\\" in name
        or any(part in ("", ".", "..") for part in parts)
        or parts[0] in (MANIFEST, STAGING)
    ):
        raise fail(
            "a source names a file that cannot be allowed",
            where=repr(name),
            hint="do not use this source: it tries to write elsewhere",
        )


def judge_disk(place: str, need: int, have: int, free: int, reserve: int) -> Optional[AnvilError]:
    """Whether ``need`` bytes, of which ``have`` are there already, fit and leave ``reserve``; all in bytes."""
    missing = need - have + reserve - free
    if missing <= 0:
        return None
    arithmetic = "{0} to fetch - {1} already here + {2} to keep free = {3}; {4} are free: {5} short".format(
        human(need), human(have), human(reserve), human(need - have + reserve), human(free), human(missing)
    )
    return fail(
        "there is not enough room for the weights",
        where=place,
        why=arithmetic,
        hint="free some room, choose another folder or volume, or lower reserve_mib; nothing was fetched",
    )


# --------------------------------------------------------------------------------------------------------------- policy


def _refuse_unless_allowed(place: Place, source: Source, commit: str, how: Fetching) -> None:
    """Raise for a source that the policy does not have. commit: of a repository; empty where it is not known yet."""
    if how.allowed is None:
        return
    pinned = commit or (source.revision if COMMIT.fullmatch(source.revision) else "")
    if source.kind == "hub" and not pinned and any(entry.repo == source.repo for entry in how.allowed):
        return  # the commit decides, once the hub has told it
    origin = Origin(source.repo, pinned or source.revision) if source.kind == "hub" else Origin(sha256=source.sha256)
    problem = judge_origin(place.name, origin, how.allowed)
    if problem is not None:
        raise AnvilError(problem)


# -------------------------------------------------------------------------------------------------------------- looking


def describe_model(facts: ModelFacts, load: Load) -> Dict[str, Any]:
    """Facts of a model with the estimate of what it needs."""
    estimate = estimate_vram(facts, load.context, load.concurrency, load.kv_dtype, load.cards)
    return {**facts.as_dict(), "vram": estimate.as_dict()}


def describe_models(path: str, load: Load, discover: bool) -> Dict[str, Any]:
    """The facts of one model, or of all below a folder, each with its estimate."""
    found, broken = discover_models(path) if discover else ([read_model(path)], [])
    return {
        "changed": False,
        "models": [describe_model(facts, load) for facts in found],
        "unreadable": [problem for error in broken for problem in problems_as_dicts(error.problems)],
    }


def _walk(folder: str) -> Iterator[str]:
    """The files below a folder, relative to it, without ours."""
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != STAGING]
        for name in names:
            found = os.path.relpath(os.path.join(here, name), folder)
            if found != MANIFEST:
                yield found


def hash_file(path: str, blob: bool = False) -> str:
    """The sha256 of a file, or the hash that git (and so the hub, for small files) knows it by."""
    digest = hashlib.sha256()
    if blob:
        digest = hashlib.sha1("blob {0}\0".format(os.path.getsize(path)).encode())  # noqa: S324  git's choice, not ours
    with open(path, "rb") as stream:
        while True:
            piece = stream.read(PIECE)
            if not piece:
                return digest.hexdigest()
            digest.update(piece)


def look_at(target: str, manifest: Mapping[str, Any], full: bool) -> Look:
    """Compare a model with its manifest: sizes and times; the content of a file only if asked to, or if its time changed."""
    wrong: Dict[str, str] = {}
    touched = []
    for name, entry in manifest["files"].items():
        path = os.path.join(target, name)
        try:
            seen = os.stat(path)
        except OSError:
            wrong[name] = "missing"
            continue
        if not stat.S_ISREG(seen.st_mode) or seen.st_size != entry["size"]:
            wrong[name] = "size is {0}, was {1}".format(seen.st_size, entry["size"])
        elif full or seen.st_mtime_ns != entry["mtime_ns"]:
            if hash_file(path) != entry["sha256"]:
                wrong[name] = "its content was altered"
            elif seen.st_mtime_ns != entry["mtime_ns"]:
                touched.append(name)
    unknown = [name for name in _walk(target) if name not in manifest["files"]] if wrong else []
    return Look(wrong, tuple(touched), tuple(unknown))


# ------------------------------------------------------------------------------------------------------------- staging


@dataclass(frozen=True)
class Place:
    """Where one model lives and is made."""

    root: str
    name: str

    @property
    def target(self) -> str:
        return os.path.join(self.root, self.name)

    @property
    def staging(self) -> str:
        return os.path.join(self.root, STAGING, self.name.replace("/", "--"))

    @property
    def files(self) -> str:
        return os.path.join(self.staging, "files")

    @property
    def home(self) -> str:
        return os.path.join(self.staging, "home")


def make_place(root: str, name: str) -> Place:
    if not NAME.fullmatch(name):
        raise fail("not a usable name for a model", where="name", why=repr(name), hint="such as openai/gpt-oss-120b")
    return Place(root, name)


def _bytes_below(folder: str) -> int:
    """What the files below a folder occupy; a file that vanishes meanwhile counts nothing."""
    total = 0
    for here, _folders, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(here, name)).st_size
    return total


def _room(place: Place) -> int:
    """Free bytes where the model will be, for this user."""
    folder = place.root
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    seen = os.statvfs(folder)
    return seen.f_bavail * seen.f_frsize


def _sync_folder(folder: str) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


_AT_FDCWD, _RENAME_EXCHANGE = -100, 2


def _exchange(one: str, other: str) -> bool:
    """Exchange two folders in one step (Linux 3.15, glibc 2.28); False where the system cannot."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0)


def _put_in_place(place: Place) -> None:
    """Make the staged files the model. A run killed at any line leaves the old model, the new one, or the staged one."""
    os.makedirs(os.path.dirname(place.target), exist_ok=True)
    if not os.path.lexists(place.target):
        os.rename(place.files, place.target)
    elif not _exchange(place.files, place.target):
        aside = os.path.join(place.staging, "old")
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(place.target, aside)
        os.rename(place.files, place.target)
    _sync_folder(os.path.dirname(place.target))
    for rest in ("files", "home", "parts", "old", "progress.json"):
        path = os.path.join(place.staging, rest)
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def _seal(place: Place, source: Source, commit: str, fetched: Mapping[str, Mapping[str, Any]], seconds: float) -> Dict[str, Any]:
    """Write the manifest beside the staged files, which are all there and checked."""
    shutil.rmtree(os.path.join(place.files, ".cache", "huggingface"), ignore_errors=True)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.join(place.files, ".cache"))
    listed = {}
    for name in sorted(fetched):
        path = os.path.join(place.files, name)
        os.chmod(path, 0o644)
        seen = os.stat(path)
        listed[name] = {"size": seen.st_size, "mtime_ns": seen.st_mtime_ns, "sha256": fetched[name]["sha256"]}
    for stray in list(_walk(place.files)):
        if stray not in listed:
            os.unlink(os.path.join(place.files, stray))
    for here, folders, _names in os.walk(place.files):
        os.chmod(here, 0o755)  # noqa: S103  engines read it under another uid
        for name in folders:
            _sync_folder(os.path.join(here, name))
    manifest = {
        "version": 1,
        "source": source.as_dict(),
        "commit": commit,
        "files": listed,
        "fetched_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(seconds, 1),
    }
    write_file(os.path.join(place.files, MANIFEST), json.dumps(manifest, indent=1, sort_keys=True) + "\n", 0o644)
    return manifest


def _trusted(place: Place, manifest: Optional[Mapping[str, Any]], how: Fetching) -> Dict[str, Any]:
    """The files that are what the manifest says, so that their recorded hash may stand for their content."""
    if manifest is None:
        return {}
    wrong = look_at(place.target, manifest, how.full).wrong
    return {name: entry for name, entry in manifest["files"].items() if name not in wrong}


def _is_right(place: Place, name: str, want: Wanted, known: Mapping[str, Any]) -> bool:
    """Whether a file of the present folder already is what is wanted."""
    path = os.path.join(place.target, name)
    if not os.path.isfile(path) or os.path.islink(path) or os.path.getsize(path) != want.size:
        return False
    if want.sha256 is not None:
        return want.sha256 == (_recorded(path, known.get(name)) or hash_file(path))
    return want.blob is not None and want.blob == hash_file(path, blob=True)


def _recorded(path: str, entry: Optional[Mapping[str, Any]]) -> Optional[str]:
    """The sha256 that the manifest has for a file that was not touched since."""
    return str(entry["sha256"]) if entry is not None and entry["mtime_ns"] == os.stat(path).st_mtime_ns else None


def _keep_what_is_right(place: Place, wanted: Mapping[str, Wanted], known: Mapping[str, Any]) -> Dict[str, Dict[str, Any]]:
    """Link files of the present folder that already are what is wanted into the staging folder; returns them."""
    kept: Dict[str, Dict[str, Any]] = {}
    for name, want in wanted.items():
        path, staged = os.path.join(place.target, name), os.path.join(place.files, name)
        if _is_right(place, name, want, known):
            os.makedirs(os.path.dirname(staged), exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(staged)
            os.link(path, staged)
            sha256 = want.sha256 or _recorded(path, known.get(name)) or hash_file(path)
            kept[name] = {"size": want.size, "sha256": sha256}
    return kept


# -------------------------------------------------------------------------------------------------------------- sources


def list_hub(place: Place, source: Source, how: Fetching) -> Tuple[str, Dict[str, Wanted]]:
    """The commit that a revision is now, and the chosen files of it."""
    request = hub_request("list", place, source, how)
    said = ask_hub(how.client or sys.executable, request, 120)
    names = choose_files(said["files"], source.allow, source.ignore)
    for name in names:
        check_name(name)
    if not names:
        listed = ", ".join(sorted(said["files"])[:8]) or "nothing"
        raise fail(
            "no file of the repository matches", where=source.repo, why="it holds " + listed, hint="check allow and ignore"
        )
    return str(said["commit"]), {name: Wanted(**said["files"][name]) for name in names}


def hub_request(act: str, place: Place, source: Source, how: Fetching) -> Dict[str, Any]:
    return {
        "act": act,
        "repo": source.repo,
        "revision": source.revision,
        "endpoint": how.endpoint,
        "token": how.token,
        "home": place.home,
        "folder": place.files,
        "parts": os.path.join(place.staging, "parts"),
        "workers": how.workers,
    }


def _fetch_hub(
    place: Place, source: Source, commit: str, wanted: Mapping[str, Wanted], how: Fetching, tick: Callable[[], None]
) -> Dict[str, Dict[str, Any]]:
    request = hub_request("fetch", place, source, how)
    request.update(revision=commit, files={name: asdict(want) for name, want in wanted.items()})
    said = ask_hub(how.client or sys.executable, request, how.timeout, tick)
    troubles = [
        hub_error(one["kind"], "{0}: {1}".format(source.repo, one["file"]), one["why"]).problems[0] for one in said["troubles"]
    ]
    if troubles:
        raise AnvilError(*troubles)
    return dict(said["files"])


def _retry_after(headers: Any, attempt: int) -> float:
    word = str((headers or {}).get("Retry-After", ""))
    return min(120.0, float(word)) if word.isdigit() else min(30.0, 2.0**attempt)


def _open_url(url: str, start: int, timeout: float, method: str = "GET") -> Any:
    """Open a URL from a byte on; who cannot be reached or refuses for good is an AnvilError, other trouble an OSError."""
    from urllib.error import HTTPError

    from ansible.module_utils.urls import open_url

    headers = {"Range": "bytes={0}-".format(start)} if start else {}
    for attempt in range(6):
        try:
            return open_url(
                url,
                method=method,
                headers=headers,
                timeout=timeout,
                http_agent="anvil.serving",
                decompress=False,
                follow_redirects="safe",
            )
        except HTTPError as exc:
            if exc.code in (408, 429, 500, 502, 503, 504) and attempt < 5:
                time.sleep(_retry_after(exc.headers, attempt))
                continue
            if method == "HEAD" and exc.code in (405, 501):
                return exc  # an answer, without a length
            if exc.code == 416:
                raise OSError("the file is shorter than what is already here") from exc
            kind = {401: "token", 403: "gated", 404: "missing", 410: "missing"}.get(exc.code, "hub")
            what = {
                "token": "the server wants a login",
                "gated": "the server refuses the file",
                "missing": "there is no such file",
            }
            raise fail(
                what.get(kind, "the server does not answer as it should"), where=url, why="HTTP {0}".format(exc.code)
            ) from exc
    raise AssertionError("not reached")


def _fetch_url(place: Place, source: Source, name: str, how: Fetching, tick: Callable[[], None]) -> Dict[str, Dict[str, Any]]:
    """Fetch one file, going on where an earlier run, or a cut connection, has stopped."""
    part, staged = os.path.join(place.staging, "part"), os.path.join(place.files, name)
    deadline, fruitless = time.monotonic() + how.timeout, 0
    while True:
        start = os.path.getsize(part) if os.path.exists(part) else 0
        done = start
        try:
            with _open_url(source.url, start, 30) as answer:
                if start and answer.status != 206:
                    start = done = 0
                length = answer.headers.get("Content-Length")
                end = start + int(length) if length and length.isdigit() else None
                with open(part, "r+b" if start else "wb") as stream:
                    stream.seek(start)
                    ticked = time.monotonic()
                    while True:
                        piece = answer.read1(1024 * 1024)  # what has come before a cut is kept
                        if not piece:
                            break
                        stream.write(piece)
                        done += len(piece)
                        if time.monotonic() - ticked > 1:
                            ticked = time.monotonic()
                            tick()
                            if ticked > deadline:
                                raise hub_error("cut", source.url, "not done within {0:g} s".format(how.timeout))
                    stream.flush()
                    os.fsync(stream.fileno())
            if end is None or done >= end:
                break
            why = "{0} of {1} bytes came".format(done, end)
        except AnvilError:
            raise
        except Exception as exc:
            if getattr(exc, "errno", None) == 28:
                raise hub_error("disk", source.url, str(exc)) from exc
            why = "{0}: {1}".format(type(exc).__name__, exc)
            if "shorter than what is already here" in why:
                os.unlink(part)
        fruitless = fruitless + 1 if done <= start else 0
        if fruitless >= 3 or time.monotonic() > deadline:
            raise hub_error("offline" if done == 0 else "cut", source.url, why)
        time.sleep(0.5)
    found = hash_file(part)
    if found != source.sha256:
        os.unlink(part)
        raise hub_error("checksum", source.url, "sha256 is {0}, {1} was asked for".format(found, source.sha256))
    os.makedirs(place.files, exist_ok=True)
    os.rename(part, staged)
    return {name: {"size": os.path.getsize(staged), "sha256": found}}


def _probe_url(source: Source) -> int:
    """The size that the server announces, or 0 where it does not tell without sending the file."""
    try:
        with _open_url(source.url, 0, 30, "HEAD") as answer:
            length = answer.headers.get("Content-Length")
    except OSError as exc:
        raise hub_error("offline", source.url, str(exc)) from exc
    return int(length) if length and length.isdigit() else 0


def sign_copy(path: str) -> str:
    """A word that changes when the folder or archive at ``path`` does: names, sizes and times."""
    digest = hashlib.sha256()
    names = sorted(_walk(path)) if os.path.isdir(path) else [""]
    for name in names:
        seen = os.stat(os.path.join(path, name) if name else path)
        digest.update("{0}\0{1}\0{2}\n".format(name, seen.st_size, seen.st_mtime_ns).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


@contextlib.contextmanager
def open_members(path: str) -> Iterator[Iterator[Tuple[str, int, Callable[[], Any]]]]:
    """The regular files of a folder or archive: name, size, and how to open it. Links and devices are refused."""

    def of_folder() -> Iterator[Tuple[str, int, Callable[[], Any]]]:
        for name in sorted(_walk(path)):
            full = os.path.join(path, name)
            yield name, os.path.getsize(full), lambda full=full: open(full, "rb")  # type: ignore[misc]  # noqa: SIM115

    def of_tar(tar: tarfile.TarFile) -> Iterator[Tuple[str, int, Callable[[], Any]]]:
        for member in tar:
            if member.isfile():
                yield posixpath.normpath(member.name), member.size, lambda member=member: tar.extractfile(member)  # type: ignore[misc]
            elif not member.isdir():
                raise fail(
                    "an archive holds what is no file",
                    where=path,
                    why=member.name,
                    hint="pack it anew without links: tar --dereference",
                )

    def of_zip(box: zipfile.ZipFile) -> Iterator[Tuple[str, int, Callable[[], Any]]]:
        for info in box.infolist():
            if not info.is_dir():
                yield posixpath.normpath(info.filename), info.file_size, lambda info=info: box.open(info)  # type: ignore[misc]

    if os.path.isdir(path):
        yield of_folder()
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as box:
            yield of_zip(box)
    elif path.endswith(ARCHIVES):
        with tarfile.open(path) as tar:
            yield of_tar(tar)
    else:
        yield iter([(os.path.basename(path), os.path.getsize(path), lambda: open(path, "rb"))])  # noqa: SIM115


def _copy_files(place: Place, source: Source, tick: Callable[[], None]) -> Dict[str, Dict[str, Any]]:
    """Copy from a folder, archive or file of this host; an archive's own sha256 is checked first, if given."""
    if source.sha256:
        found = hash_file(source.path)
        if found != source.sha256:
            raise hub_error("checksum", source.path, "sha256 is {0}, {1} was asked for".format(found, source.sha256))
    copied: Dict[str, Dict[str, Any]] = {}
    with open_members(source.path) as members:
        for name, _size, reopen in members:
            check_name(name)
            staged = os.path.join(place.files, name)
            os.makedirs(os.path.dirname(staged), exist_ok=True)
            digest, size = hashlib.sha256(), 0
            with reopen() as incoming, open(staged, "wb") as outgoing:
                while True:
                    piece = incoming.read(PIECE)
                    if not piece:
                        break
                    digest.update(piece)
                    outgoing.write(piece)
                    size += len(piece)
                outgoing.flush()
                os.fsync(outgoing.fileno())
            copied[name] = {"size": size, "sha256": digest.hexdigest()}
            tick()
    if not copied:
        raise fail("there is nothing to copy", where=source.path)
    return copied


# ---------------------------------------------------------------------------------------------------------------- verbs


def _same_source(manifest: Mapping[str, Any], source: Source, how: Fetching) -> bool:
    """Whether the manifest is of this very source, without asking anybody.

    A branch was resolved when it was fetched and stays at that commit until ``refresh``. A folder or archive that is
    gone meanwhile is no reason to do anything.
    """
    recorded, asked = dict(manifest["source"]), source.as_dict()
    if source.kind == "hub":
        pinned = COMMIT.fullmatch(source.revision) is not None
        if how.refresh and not pinned:
            return False
        if pinned and manifest.get("commit") == source.revision:
            recorded["revision"] = source.revision
    if source.kind == "upload" and how.announced is not None:
        same = {name: entry["sha256"] for name, entry in manifest["files"].items()} == dict(how.announced.sums)
        return recorded == asked and (same or manifest.get("commit") == how.announced.signature)
    if source.kind == "copy" and os.path.exists(source.path):
        return recorded == asked and manifest.get("commit") == sign_copy(source.path)
    return recorded == asked


def _result(place: Place, manifest: Optional[Mapping[str, Any]], **more: Any) -> Dict[str, Any]:
    files = (manifest or {}).get("files", {})
    return {
        "changed": False,
        "target": place.target,
        "name": place.name,
        "commit": (manifest or {}).get("commit", ""),
        "files": {name: {"size": entry["size"], "sha256": entry["sha256"]} for name, entry in files.items()},
        "bytes": sum(entry["size"] for entry in files.values()),
        "fetch": {"files": [], "bytes": 0},
        "reasons": [],
        "seconds": {},
        **more,
    }


def _wrong_problem(place: Place, look: Look) -> AnvilError:
    return fail(
        "the weights are not what they were when they were fetched",
        where=place.target,
        why="; ".join("{0}: {1}".format(name, why) for name, why in sorted(look.wrong.items())[:20]),
        hint="run again with state: present, which fetches what is wrong and nothing else",
    )


def verify_model(place: Place, how: Fetching) -> Dict[str, Any]:
    """state verified: the model is there and is what its manifest says, or an AnvilError."""
    manifest = read_manifest(place.target)
    if manifest is None:
        raise fail("the model is not there", where=place.target, why="it has no " + MANIFEST, hint="fetch it with state: present")
    look = look_at(place.target, manifest, how.full)
    refused = judge_origin(place.name, origin_of(manifest), how.allowed)
    if refused is not None:
        raise AnvilError(refused)
    if look.wrong:
        raise _wrong_problem(place, look)
    return _result(place, manifest)


def remove_model(place: Place, check: bool) -> Dict[str, Any]:
    """state absent: only a folder with our manifest is removed, and what was half fetched."""
    manifest = read_manifest(place.target)
    here, staged = os.path.lexists(place.target), os.path.isdir(place.staging)
    if here and manifest is None:
        raise fail("not a model of ours", where=place.target, why="it has no " + MANIFEST, hint="remove it by hand if it may go")
    result = _result(place, manifest, changed=here or os.path.isdir(place.files))
    if check or not (here or staged):
        return result
    with hold_lock(place.staging, 60):
        if here:
            aside = os.path.join(place.staging, "old")
            shutil.rmtree(aside, ignore_errors=True)
            os.rename(place.target, aside)
        for rest in ("files", "home", "parts", "old"):
            shutil.rmtree(os.path.join(place.staging, rest), ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(place.staging, "part"))
    return result


def ensure_model(place: Place, source: Source, how: Fetching, check: bool) -> Dict[str, Any]:
    """state present: fetch what is not there or not right, and put it in place. In check mode, say what would be."""
    manifest = read_manifest(place.target)
    reasons: List[str] = []
    if manifest is None:
        reasons.append("foreign" if os.path.lexists(place.target) else "missing")
    else:
        look = look_at(place.target, manifest, how.full)
        if look.wrong:
            reasons.append("damaged")
        if not _same_source(manifest, source, how):
            reasons.append("source")
        if not reasons:
            _refuse_unless_allowed(place, source, str(manifest.get("commit", "")), how)
            return _result(place, manifest)
    _refuse_unless_allowed(place, source, "", how)
    if check and how.announced is not None and not how.announced.sums:
        return _result(place, manifest, changed=True, reasons=reasons)  # the controller still has to read its files
    if check:
        return _plan(place, source, how, manifest, reasons)
    with hold_lock(place.staging, how.timeout):
        # Somebody else may have fetched it while this run waited for the lock.
        now = read_manifest(place.target)
        if (
            now is not None
            and now != manifest
            and _same_source(now, source, how)
            and not look_at(place.target, now, how.full).wrong
        ):
            _refuse_unless_allowed(place, source, str(now.get("commit", "")), how)
            return _result(place, now)
        return _fetch(place, source, how, now, reasons)


def _demand(place: Place, source: Source, how: Fetching) -> Tuple[str, Dict[str, Wanted]]:
    """What the source has: its commit (or signature) and files."""
    if source.kind == "hub":
        return list_hub(place, source, how)
    if source.kind == "upload" and how.announced is not None:
        for name in how.announced.sizes:
            check_name(name)
        sizes, sums = how.announced.sizes, how.announced.sums
        return how.announced.signature, {name: Wanted(size, sums.get(name)) for name, size in sizes.items()}
    if source.kind == "url":
        name = posixpath.basename(source.url.split("?")[0].split("#")[0])
        check_name(name)
        return source.sha256, {name: Wanted(_probe_url(source) or None, source.sha256)}
    if not os.path.exists(source.path):
        raise fail("there is nothing to copy from", where=source.path, hint="bring the folder or archive to this host first")
    try:
        with open_members(source.path) as members:
            wanted = {name: Wanted(size) for name, size, _open in members}
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as exc:
        raise fail(
            "the archive cannot be read", where=source.path, why=str(exc), hint="bring it again: it is cut short, or no archive"
        ) from exc
    for name in wanted:
        check_name(name)
    return sign_copy(source.path), wanted


def _refuse_foreign(place: Place, wanted: Mapping[str, Wanted], manifest: Optional[Mapping[str, Any]]) -> None:
    """Raise where the model's folder holds what neither the source nor the manifest names."""
    listed_before = (manifest or {}).get("files", {})
    foreign = sorted(set(_walk(place.target)) - set(wanted) - set(listed_before)) if os.path.isdir(place.target) else []
    if foreign:
        raise fail(
            "the model's folder holds files that are not of this model",
            where=place.target,
            why=", ".join(foreign[:10]),
            hint="move them away, or give the model another name: the whole folder is exchanged for the new one",
        )


def _plan(
    place: Place, source: Source, how: Fetching, manifest: Optional[Mapping[str, Any]], reasons: List[str]
) -> Dict[str, Any]:
    """What a run would fetch. Asks the source, writes nothing that stays."""
    commit, wanted = _demand(place, source, how)
    _refuse_unless_allowed(place, source, commit, how)
    _refuse_foreign(place, wanted, manifest)
    known = _trusted(place, manifest, how)
    missing = sorted(name for name, want in wanted.items() if not _is_right(place, name, want, known))
    size = sum(wanted[name].size or 0 for name in missing)
    staged = os.path.join(place.staging, "parts") if source.kind == "upload" else place.files
    error = judge_disk(place.root, size, min(size, _bytes_below(staged)), _room(place), how.reserve_mib << 20)
    result = _result(place, manifest, changed=True, reasons=reasons, commit=commit, fetch={"files": missing, "bytes": size})
    if source.kind == "upload":
        result["arrived"] = {name: arrived(place.staging, name, wanted[name].sha256 or "") for name in missing}
    if error is not None:
        result["problems"] = error.problems
    return result


def _fetch(
    place: Place, source: Source, how: Fetching, manifest: Optional[Mapping[str, Any]], reasons: List[str]
) -> Dict[str, Any]:
    started = time.monotonic()
    commit, wanted = _demand(place, source, how)
    _refuse_unless_allowed(place, source, commit, how)
    _refuse_foreign(place, wanted, manifest)
    known = _trusted(place, manifest, how)
    os.makedirs(place.files, exist_ok=True)
    listed = time.monotonic()
    kept = _keep_what_is_right(place, wanted, known)
    rest = {name: want for name, want in wanted.items() if name not in kept}
    need = sum(want.size or 0 for want in rest.values())
    kept_bytes = sum(entry["size"] for entry in kept.values())
    have = min(need, _bytes_below(place.staging) - kept_bytes) if source.kind != "copy" else 0
    error = judge_disk(place.root, need, max(0, have), _room(place), how.reserve_mib << 20)
    if error is not None:
        raise error

    pace = Pace(how.live_output, place.name, need)

    def tick() -> None:
        here = _bytes_below(place.staging) - kept_bytes
        passed = time.monotonic() - listed
        told = {"name": place.name, "bytes": here, "of": need, "seconds": round(passed, 1)}
        with open(os.path.join(place.staging, "progress.json"), "w", encoding="utf-8") as handle:  # no fsync while data comes
            handle.write(json.dumps(told) + "\n")
        pace.tell(here, passed)

    try:
        if not rest:
            fetched: Dict[str, Dict[str, Any]] = {}
        elif source.kind == "hub":
            fetched = _fetch_hub(place, source, commit, rest, how, tick)
        elif source.kind == "url":
            fetched = _fetch_url(place, source, next(iter(rest)), how, tick)
        elif source.kind == "upload":
            fetched = collect(place.staging, place.files, {name: want.sha256 for name, want in rest.items()})
        else:
            fetched = _copy_files(place, source, tick)
        done = time.monotonic()
        sealed = _seal(place, source, commit, {**kept, **fetched}, done - started)
        _put_in_place(place)
    except OSError as exc:
        kind = "disk" if exc.errno == 28 else "hub"
        raise (
            hub_error(kind, place.target, str(exc))
            if kind == "disk"
            else fail("the weights could not be put in place", where=place.target, why=str(exc))
        ) from exc
    passed = max(done - listed, 0.001)
    size = sum(entry["size"] for entry in fetched.values())
    return _result(
        place,
        sealed,
        changed=True,
        reasons=reasons,
        fetch={"files": sorted(fetched), "bytes": size},
        seconds={
            "list": round(listed - started, 2),
            "fetch": round(done - listed, 2),
            "place": round(time.monotonic() - done, 2),
            "mib_per_second": round(size / passed / 1048576, 1),
        },
    )


@dataclass(frozen=True)
class Order:
    """What a task asks for: the options of anvil_model. piece: one that came from the controller. ask_only: which would be
    needed, whatever the mode.
    """

    state: str
    name: str
    folder: Optional[str]
    volume: Optional[str]
    source: Optional[Source]
    how: Fetching
    piece: Optional[Piece] = None
    ask_only: bool = False


def read_hub(params: Mapping[str, Any]) -> Fetching:
    """How to reach the hub, out of ``HUB_OPTIONS``."""
    token = params["token"] or ""
    if params["token_file"]:
        token = (read_file(params["token_file"]) or "").strip()
        if not token:
            raise fail("there is no token in the file", where="token_file", why=params["token_file"])
    return Fetching(endpoint=params["endpoint"] or "", token=token, client=params["client"] or "")


def read_order(params: Mapping[str, Any], live_output: LiveOutput) -> Order:
    """The options of a task, cross-checked; every mistake at once."""
    problems: List[Problem] = []
    handover = params["handover"] or {}

    def wrong(where: str, what: str, why: str = "", hint: str = "") -> None:
        problems.append(Problem(what=what, where=where, why=why, hint=hint))

    source: Optional[Source] = None
    if params["repo"]:
        allow, ignore = tuple(params["allow"]), tuple(params["ignore"])
        source = Source("hub", repo=params["repo"], revision=params["revision"], allow=allow, ignore=ignore)
        if not REPO.fullmatch(params["repo"]):
            wrong("repo", "not a repository of the hub", repr(params["repo"]), "such as openai/gpt-oss-120b")
    elif params["url"]:
        source = Source("url", url=params["url"], sha256=params["sha256"].lower())
        if not SHA256.fullmatch(source.sha256):
            wrong("sha256", "a URL needs the sha256 of its file", repr(params["sha256"]), "64 hexadecimal digits")
        if not params["url"].startswith(("https://", "http://")):
            wrong("url", "not a URL that can be fetched", params["url"].split(":")[0], "https://...")
    elif params["upload_from"]:
        source = Source("upload", sha256=params["sha256"].lower())
        if not params["handover"]:
            wrong("upload_from", "only a task can send weights from the controller", hint="call anvil_model as an action")
    elif params["copy_from"]:
        source = Source("copy", path=params["copy_from"], sha256=params["sha256"].lower())
        if source.sha256 and (not SHA256.fullmatch(source.sha256) or os.path.isdir(source.path)):
            wrong("sha256", "not a checksum of an archive or file", repr(params["sha256"]))
    elif params["state"] == "present":
        wrong("anvil_model", "no source is given", hint="one of repo, url, copy_from, upload_from")
    name = params["name"] or params["repo"]
    if not name:
        wrong("name", "the model has no name", hint="give name; only with repo it may be left out")
    try:
        hub = read_hub(params)
    except AnvilError as exc:
        problems.extend(exc.problems)
    if problems:
        raise AnvilError(*problems)
    how = replace(
        hub,
        workers=max(1, params["workers"]),
        timeout=params["timeout"],
        reserve_mib=params["reserve_mib"],
        refresh=params["refresh"],
        full=params["verify"] == "full",
        allowed=read_allowed(params["allowed"]),
        announced=read_announced(handover["announced"]) if handover.get("announced") else None,
        live_output=live_output,
    )
    piece = Piece(**handover["piece"]) if handover.get("piece") else None
    ask_only = handover.get("step") == "ask"
    return Order(params["state"], name, params["folder"], params["volume"], source, how, piece, ask_only)


def carry_out(engine: DockerEngine, order: Order, check: bool) -> Dict[str, Any]:
    """Do what a task asks for."""
    check = check or order.ask_only
    create = order.state == "present" and not check
    if order.state == "absent" and order.volume and engine.inspect_volume(order.volume) is None:
        return {"changed": False, "target": "", "name": order.name}
    root = resolve_place(engine, order.volume, order.folder or ".", create, predict=check)
    place = make_place(root, order.name)
    if order.state == "absent":
        return remove_model(place, check)
    if order.state == "verified" or order.source is None:
        return verify_model(place, order.how)
    if order.piece is not None:
        take_piece(place.staging, order.piece)
        return {"changed": True}
    return ensure_model(place, order.source, order.how, check)
