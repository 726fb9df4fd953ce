# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Files inside a Docker volume: immutable revisions, the symlinks that make one of them live, and the journal.

Reading goes through any container that mounts the volume (4 ms, nothing is run). Writing goes through one root side
container that is the lock at the same time: the engine grants its name to one operator only, every write is done by the
holder itself, and it ends when the operator's connection does, so nobody can write with a lock that he has lost and
no lock outlives its owner.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import os
import re
import socket
import tarfile
import time
from dataclasses import dataclass, replace
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine, SideProcess, confine

HOME = ".anvil"
REVISIONS = HOME + "/revisions"
LIVE = HOME + "/live"
JOURNAL = HOME + "/journal"
SCRATCH = HOME + "/tmp"
META = "meta.json"

# Where a router mounts its config volume.
MOUNT = "/etc/anvil"

LABEL_LOCK = "anvil.serving.lock"
LABEL_OWNER = "anvil.serving.owner"

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,200}")
# A colon would add options to a mount.
FOLDER = re.compile(r"(/[a-zA-Z0-9_.-]+)+")
HASH = re.compile(r"[0-9a-f]{64}")

# What a lock that was created but never started is given before it counts as its owner's remains (seconds).
UNSTARTED_GRACE = 10.0
# How long the holder of the lock waits for its operator's next word before it gives the lock up (seconds).
IDLE_LIMIT = 600.0

# The one program that writes. It takes requests as "<length>\n<json>" and answers one line of JSON each; a request that
# is cut short does nothing. Paths are relative to the volume and never leave it; nothing is handed to a shell.
PROGRAM = r"""
import base64, hashlib, json, os, select, shutil, stat, sys, time

root, idle, scratch = sys.argv[1], float(sys.argv[2]), sys.argv[3]
os.chdir(root)
os.umask(0o022)


def receive(size):
    data = b""
    while len(data) < size:
        if not select.select([0], [], [], idle)[0]:
            sys.exit(3)
        piece = os.read(0, min(size - len(data), 65536))
        if not piece:
            sys.exit(0)
        data += piece
    return data


def inside(path):
    parts = path.split("/")
    if not path or "\0" in path or path[0] == "/" or any(part in ("", ".", "..") for part in parts):
        raise ValueError("not a path inside the volume: %r" % path)
    return path


def parent(path):
    return os.path.dirname(path) or "."


def sync(folder):
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path):
    if path != "." and not os.path.isdir(path):
        make_folder(parent(path))
        os.mkdir(path, 0o755)
        sync(parent(path))


def forget(path):
    if os.path.islink(path) or os.path.isfile(path):
        os.unlink(path)
    elif os.path.isdir(path):
        shutil.rmtree(path)


def fresh(path):
    make_folder(scratch)
    made = scratch + "/" + path.replace("/", "+")
    forget(made)
    return made


def decode(name, item):
    content = base64.b64decode(item["content"], validate=True)
    if len(content) != item["length"] or hashlib.sha256(content).hexdigest() != item["sha256"]:
        raise ValueError("%s arrived altered: %d bytes, %d were announced" % (name, len(content), item["length"]))
    return content


def write(path, content):
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(handle, rest):]
        os.fsync(handle)
    finally:
        os.close(handle)
    with open(path, "rb") as stream:
        if stream.read() != content:
            raise OSError("%s reads back differently from what was written" % path)


def same(path, files):
    try:
        found = set()
        for folder, _folders, names in os.walk(path):
            found.update(os.path.relpath(os.path.join(folder, name), path) for name in names)
        if found != set(files):
            return False
        for name, content in files.items():
            with open(path + "/" + name, "rb") as stream:
                if stream.read() != content:
                    return False
    except OSError:
        return False
    return True


def put_file(path, item):
    content = decode(path, item)
    made = fresh(path)
    make_folder(parent(path))
    write(made, content)
    os.rename(made, path)
    sync(parent(path))


def put_folder(path, files):
    contents = {inside(name): decode(name, item) for name, item in files.items()}
    if same(path, contents):
        return
    made = fresh(path)
    make_folder(parent(path))
    os.mkdir(made, 0o755)
    for name, content in contents.items():
        make_folder(parent(made + "/" + name))
        write(made + "/" + name, content)
    for folder, _folders, _names in os.walk(made):
        sync(folder)
    if os.path.lexists(path):
        aside = fresh(path + ".aside")
        os.rename(path, aside)
        os.rename(made, path)
        forget(aside)
    else:
        os.rename(made, path)
    sync(parent(path))


def put_link(path, target):
    made = fresh(path)
    make_folder(parent(path))
    os.symlink(target, made)
    os.rename(made, path)
    sync(parent(path))


def remove(path):
    if scratch.startswith(path + "/"):
        forget(path)
        sync(parent(path))
    elif os.path.lexists(path):
        aside = fresh(path)
        os.rename(path, aside)
        sync(parent(path))
        forget(aside)


def answer(request):
    act = request["act"]
    if act == "put_file":
        put_file(inside(request["path"]), request["file"])
    elif act == "put_folder":
        put_folder(inside(request["path"]), request["files"])
    elif act == "put_link":
        put_link(inside(request["path"]), request["target"])
    elif act == "remove":
        remove(inside(request["path"]))
    elif act == "sweep":
        forget(scratch)
    elif act != "hello":
        raise ValueError("unknown act %r" % act)
    return {"now": time.time()}


while True:
    head = b""
    while not head.endswith(b"\n"):
        head += receive(1)
    body = receive(int(head))
    try:
        said = answer(json.loads(body.decode("utf-8")))
    except (OSError, ValueError, KeyError, TypeError) as exc:
        said = {"error": "%s: %s" % (type(exc).__name__, exc)}
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()
"""


# ------------------------------------------------------------------------------------------------------------ pure data


@dataclass(frozen=True)
class Place:
    """Where the files of one replica live: the volume, where its readers mount it, and the stock file names in it."""

    volume: str
    mount: str
    replica: str
    names: Tuple[str, ...]

    def __post_init__(self) -> None:
        for what, value in (("volume", self.volume), ("replica", self.replica)):
            if not NAME.fullmatch(value):
                raise fail(
                    "not a usable {0} name".format(what),
                    where=what,
                    why=repr(value),
                    hint="letters, digits, dot, dash and underscore, beginning with a letter or digit",
                )
        for name in self.names:
            parts = name.split("/")
            if not all(NAME.fullmatch(part) for part in parts) or name == META or len(name) > 200:
                raise fail(
                    "not a usable destination",
                    where="files",
                    why=repr(name[:300]),
                    hint="a path below the mount, such as haproxy.cfg or maps/hosts.map; no part may begin with a dot",
                )
        if not FOLDER.fullmatch(self.mount) or os.path.normpath(self.mount) != self.mount:
            raise fail(
                "not a usable mount point",
                where="mount",
                why=repr(self.mount),
                hint="an absolute path such as /etc/anvil",
            )

    @property
    def live_link(self) -> str:
        return LIVE + "/" + self.replica

    def link_of(self, replica: str) -> str:
        return LIVE + "/" + replica

    def of(self, replica: str) -> Place:
        """The same place as another replica sees it."""
        return replace(self, replica=replica)

    def stock_target(self, name: str) -> str:
        """Where the symlink at a stock path leads."""
        return "../" * name.count("/") + self.live_link + "/" + name


def hash_revision(files: Mapping[str, bytes]) -> str:
    """The name of a revision: sha256 over names, lengths and bytes, so that no two sets of files are framed alike."""
    digest = hashlib.sha256(b"anvil.serving revision 1\n")
    for name in sorted(files):
        digest.update("{0}\n{1}\n".format(name, len(files[name])).encode("utf-8"))
        digest.update(files[name])
    return digest.hexdigest()


@dataclass(frozen=True)
class Entry:
    """One thing in the volume. kind: file, link, folder, or other. mtime: seconds since the epoch."""

    kind: str
    content: bytes = b""
    target: str = ""
    mtime: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """What the volume held when it was read.

    stock: stock file name -> what is at its path (absent ones are missing).
    inner: path relative to the volume -> what is there, for all of ``.anvil``.
    foreign: contents behind stock paths that are symlinks of someone else.
    """

    place: Place
    stock: Mapping[str, Entry]
    inner: Mapping[str, Entry]
    foreign: Mapping[str, bytes]

    @property
    def live(self) -> Optional[str]:
        """The revision that the replica's pointer names, whether or not its files are still what they were."""
        return self.live_of(self.place.replica)

    def live_of(self, replica: str) -> Optional[str]:
        """As ``live``, for any replica."""
        link = self.inner.get(self.place.link_of(replica))
        if link is None or link.kind != "link":
            return None
        name = link.target.rpartition("/")[2]
        return name if HASH.fullmatch(name) and link.target == "../revisions/" + name else None

    @property
    def revisions(self) -> List[str]:
        found = []
        for path, entry in self.inner.items():
            folder, _slash, name = path.rpartition("/")
            if folder == REVISIONS and entry.kind == "folder" and HASH.fullmatch(name):
                found.append(name)
        return sorted(found)

    def files_of(self, revision: str) -> Dict[str, bytes]:
        """The files of a revision, without its meta.json."""
        start = REVISIONS + "/" + revision + "/"
        return {
            path[len(start) :]: entry.content
            for path, entry in self.inner.items()
            if path.startswith(start) and entry.kind == "file" and path != start + META
        }

    def meta_of(self, revision: str) -> Dict[str, Any]:
        entry = self.inner.get("{0}/{1}/{2}".format(REVISIONS, revision, META))
        try:
            read = json.loads(entry.content.decode("utf-8")) if entry else {}
        except ValueError:
            read = {}
        return read if isinstance(read, dict) else {}

    @property
    def journal(self) -> Optional[bytes]:
        entry = self.inner.get(JOURNAL)
        return entry.content if entry is not None and entry.kind == "file" else None

    def is_linked(self, name: str) -> bool:
        """Whether the stock path is a symlink through the replica's pointer."""
        entry = self.stock.get(name)
        return entry is not None and entry.kind == "link" and entry.target == self.place.stock_target(name)

    def observed(self) -> Dict[str, bytes]:
        """What a stock router reads at the stock paths right now, whoever put it there."""
        found: Dict[str, bytes] = {}
        live = self.files_of(self.live) if self.live else {}
        for name, entry in self.stock.items():
            if self.is_linked(name):
                if name in live:
                    found[name] = live[name]
            elif entry.kind == "file":
                found[name] = entry.content
            elif name in self.foreign:
                found[name] = self.foreign[name]
        return found

    @property
    def is_ours(self) -> bool:
        """Whether every stock path leads through the pointer, and the pointer's revision is what its name says."""
        if not all(self.is_linked(name) for name in self.place.names):
            return False
        return self.live is None or hash_revision(self.files_of(self.live)) == self.live

    def newest_change(self) -> float:
        """When the pointer or a stock path last changed by its own age (whole seconds, so the end of that second)."""
        link = self.inner.get(self.place.live_link)
        return max(self.newest_plain(), link.mtime if link else 0.0) + 1.0

    def newest_plain(self) -> float:
        """When the youngest plain file at a stock path was written (seconds since the epoch), 0 if there is none."""
        return max([entry.mtime for name, entry in self.stock.items() if not self.is_linked(name)] or [0.0])


def _unpack(archive: bytes) -> Dict[str, Entry]:
    found: Dict[str, Entry] = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r") as tar:
        for member in tar:
            path = member.name.rstrip("/")
            if member.isfile():
                stream = tar.extractfile(member)
                found[path] = Entry("file", content=stream.read() if stream else b"", mtime=float(member.mtime))
            elif member.issym():
                found[path] = Entry("link", target=member.linkname, mtime=float(member.mtime))
            else:
                found[path] = Entry("folder" if member.isdir() else "other", mtime=float(member.mtime))
    return found


# -------------------------------------------------------------------------------------------------------------- reading


def read_snapshot(engine: DockerEngine, container: str, place: Place) -> Snapshot:
    """Read the volume through a container that mounts it at ``place.mount``; the container need not run."""
    home = engine.read_archive(container, place.mount + "/" + HOME)
    inner = {} if home is None else _unpack(home[1])
    stock: Dict[str, Entry] = {}
    foreign: Dict[str, bytes] = {}
    for name in place.names:
        found = engine.read_archive(container, place.mount + "/" + name)
        if found is None:
            continue
        stat, archive = found
        entry = _unpack(archive).get(name.rpartition("/")[2], Entry("other"))
        if entry.kind not in ("file", "link"):
            raise fail("a {0} is where a file belongs".format(entry.kind), where="{0}:{1}".format(place.volume, name))
        stock[name] = entry
        if entry.kind == "link" and entry.target != place.stock_target(name):
            behind = engine.read_archive(container, str(stat.get("linkTarget") or place.mount + "/" + entry.target))
            for item in _unpack(behind[1]).values() if behind is not None else ():
                if item.kind == "file":
                    foreign[name] = item.content
    return Snapshot(place=place, stock=stock, inner=inner, foreign=foreign)


def read_snapshot_aside(engine: DockerEngine, image: str, place: Place) -> Snapshot:
    """Read the volume where no container mounts it: through one that is created, never started, and removed (17 ms)."""
    if engine.inspect_volume(place.volume) is None:
        return Snapshot(place=place, stock={}, inner={}, foreign={})
    made = engine.create_container(
        image,
        [],
        entrypoint=["/nothing-is-run"],
        labels={LABEL_OWNER: describe_owner()},
        host_config={"binds": ["{0}:{1}:ro".format(place.volume, place.mount)], "network_mode": "none"},
    )
    try:
        return read_snapshot(engine, made, place)
    finally:
        engine.remove_container(made)


# -------------------------------------------------------------------------------------------------------------- writing


def describe_owner() -> str:
    return "{0} pid {1}".format(socket.gethostname(), os.getpid())


def lock_name(volume: str) -> str:
    return "anvil-promote-" + volume


class Writer:
    """The lock on a volume, held, and the hand that writes in it. Use as a context manager."""

    def __init__(self, engine: DockerEngine, process: SideProcess, place: Place, notes: Sequence[str] = ()) -> None:
        self.engine = engine
        self.place = place
        self.notes = tuple(notes)
        self._process = process

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_failure: object) -> None:
        self._process.close()

    def read(self) -> Snapshot:
        return read_snapshot(self.engine, self._process.container_id, self.place)

    def now(self) -> float:
        """The engine's clock (seconds since the epoch): the one that container start times are told by."""
        return self._ask({"act": "hello"})

    def sweep(self) -> None:
        """Remove what an interrupted write has left half done."""
        self._ask({"act": "sweep"})

    def put_file(self, path: str, content: bytes) -> float:
        return self._ask({"act": "put_file", "path": path, "file": _announce(content)})

    def put_folder(self, path: str, files: Mapping[str, bytes]) -> float:
        return self._ask({"act": "put_folder", "path": path, "files": {name: _announce(files[name]) for name in files}})

    def put_link(self, path: str, target: str) -> float:
        return self._ask({"act": "put_link", "path": path, "target": target})

    def remove(self, path: str) -> float:
        return self._ask({"act": "remove", "path": path})

    def _ask(self, request: Mapping[str, Any]) -> float:
        body = json.dumps(request).encode("utf-8")
        where = "volume {0}".format(self.place.volume)
        act = "{0} {1}".format(request["act"], request.get("path", "")).strip()
        try:
            self._process.send("{0}\n".format(len(body)).encode("ascii") + body)
            said = json.loads(self._process.read_line(60).decode("utf-8"))
        except AnvilError as exc:
            raise fail(
                "the lock on the volume was lost during " + act,
                where=where,
                why=exc.problems[0].why,
                log=exc.problems[0].log,
            ) from exc
        if "error" in said:
            raise fail(act + " failed", where=where, why=str(said["error"]))
        return float(said["now"])


def _announce(content: bytes) -> Dict[str, Any]:
    return {
        "content": base64.b64encode(content).decode("ascii"),
        "length": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


@dataclass(frozen=True)
class Holder:
    """The container that has the lock's name."""

    container_id: str
    status: str
    owner: str


def _find_holder(engine: DockerEngine, place: Place) -> Optional[Holder]:
    """Who holds the lock; a container of that name that is no lock of ours is an ``AnvilError``."""
    name = lock_name(place.volume)
    found = engine.inspect_container(name)
    if found is None:
        return None
    labels = found["Config"].get("Labels") or {}
    if labels.get(LABEL_LOCK) != place.volume:
        raise fail(
            "the lock's name is taken by a container that is not ours",
            where=name,
            why="it is of image {0} and has no label {1}".format(found["Config"].get("Image"), LABEL_LOCK),
            hint="rename it or remove it: docker rm -f " + name,
        )
    return Holder(str(found["Id"]), str(found["State"]["Status"]), str(labels.get(LABEL_OWNER, "unknown")))


def _take_lock(engine: DockerEngine, image: str, place: Place) -> Optional[SideProcess]:
    """Start the container that is the lock; ``None`` if its name is taken."""
    try:
        return engine.open_process(
            image,
            ["-I", "-S", "-c", PROGRAM, place.mount, str(IDLE_LIMIT), SCRATCH],
            name=lock_name(place.volume),
            entrypoint=["python3"],
            user="0:0",
            working_dir="/",
            environment={},
            labels={LABEL_LOCK: place.volume, LABEL_OWNER: describe_owner()},
            healthcheck={"test": ["NONE"]},
            host_config=confine(
                binds=["{0}:{1}:rw".format(place.volume, place.mount)],
                cap_add=["DAC_OVERRIDE"],  # the folder may belong to the router's user
            ),
        )
    except AnvilError as exc:
        if "conflict" not in exc.as_text().lower():
            raise
        return None


def open_writer(engine: DockerEngine, image: str, place: Place, wait: float) -> Writer:
    """Take the lock on the volume, waiting at most ``wait`` seconds for whoever holds it, and create an absent volume.

    image: an image id whose python3 runs ``PROGRAM``; nothing is pulled.
    A lock that was created but never started is its dead owner's: it is taken over, and ``notes`` says so.
    """
    if engine.inspect_volume(place.volume) is None:
        engine.create_volume(place.volume, {"anvil.serving.volume": "router-config"})
    deadline = time.monotonic() + wait
    notes: List[str] = []
    last: Optional[Holder] = None
    unchanged_since = 0.0
    while True:
        process = _take_lock(engine, image, place)
        if process is not None:
            writer = Writer(engine, process, place, notes)
            try:
                writer.now()
            except AnvilError:
                process.close()
                raise
            return writer
        holder = _find_holder(engine, place)
        if holder is None:
            continue
        if holder != last:
            last, unchanged_since = holder, time.monotonic()
        never_started = holder.status == "created" and time.monotonic() - unchanged_since > UNSTARTED_GRACE
        if never_started or holder.status in ("exited", "dead"):
            notes.append("took over the lock that {0} left behind ({1})".format(holder.owner, holder.status))
            engine.remove_container(holder.container_id)
        elif time.monotonic() > deadline:
            raise fail(
                "another promotion is under way",
                where="volume " + place.volume,
                why="{0} holds the lock (container {1}, {2})".format(holder.owner, lock_name(place.volume), holder.status),
                hint="wait for it, or end it with: docker rm -f " + lock_name(place.volume),
            )
        else:
            time.sleep(0.1)


def find_place(found: Mapping[str, Any]) -> Optional[Place]:
    """The volume that a router's container reads its files from, by its inspect; ``None`` if from none."""
    runs_in = str((found.get("Config") or {}).get("WorkingDir") or "/")
    for each in found.get("Mounts") or ():
        where = str(each.get("Destination"))
        if each.get("Type") == "volume" and (where == MOUNT or runs_in.startswith(where + "/")):
            return Place(str(each["Name"]), where, str(found["Name"]).lstrip("/"), ())
    return None


@contextlib.contextmanager
def hold_lock(engine: DockerEngine, containers: Sequence[str], wait: float) -> Iterator[None]:
    """While this is held, nobody promotes what these containers read. wait: seconds for a promotion under way."""
    for container in containers:
        found = engine.inspect_container(container)
        place = find_place(found) if found is not None else None
        if found is not None and place is not None:
            with open_writer(engine, str(found["Image"]), place, wait):
                yield
            return
    yield
