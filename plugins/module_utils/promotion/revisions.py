# SPDX-License-Identifier: GPL-3.0-or-later
"""Immutable revisions of files in a Docker volume, as data: their paths, their names, and which one is live. Pure.

Layout of a volume (paths relative to its root):

    config.toml -> .anvil/live/REPLICA/config.toml       a stock path: what the router's program opens
    .anvil/live/REPLICA -> ../revisions/SHA256           one pointer per replica; one rename switches all files of it
    .anvil/revisions/SHA256/...                          the files of a revision, and meta.json
    .anvil/journal                                       what a promotion is about to do
    .anvil/reserve                                       room for the way back from a switch, if the volume is full then
    .anvil/tmp/                                          half-written files
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, replace
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail

HOME = ".anvil"
REVISIONS = HOME + "/revisions"
LIVE = HOME + "/live"
JOURNAL = HOME + "/journal"
SCRATCH = HOME + "/tmp"
RESERVE = HOME + "/reserve"
META = "meta.json"

# Where a router mounts its config volume.
MOUNT = "/etc/anvil"

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,200}")
# A colon would add options to a mount.
FOLDER = re.compile(r"(/[a-zA-Z0-9_.-]+)+")
HASH = re.compile(r"[0-9a-f]{64}")

# Files of this folder of a revision hold secrets: only the user of our images can read them, and no diff shows them.
PRIVATE = "private/"
PRIVATE_OWNER = 10001


@dataclass(frozen=True)
class Place:
    """Where the files of one replica are: the volume, its mount point in containers, and the stock file names in it.

    A stock path is the path at which the unchanged program of the image opens its file. Raises AnvilError for unusable names.
    """

    volume: str
    mount: str
    replica: str
    names: Tuple[str, ...]

    def __post_init__(self) -> None:
        for kind, value in (("volume", self.volume), ("replica", self.replica)):
            if not NAME.fullmatch(value):
                raise fail(
                    "not a usable {0} name".format(kind),
                    where=kind,
                    why=repr(value),
                    hint="use letters, digits, dot, dash and underscore; begin with a letter or digit",
                )
        for name in self.names:
            parts = name.split("/")
            if not all(NAME.fullmatch(part) for part in parts) or name == META or len(name) > 200:
                raise fail(
                    "not a usable destination",
                    where="files",
                    why=repr(name[:300]),
                    hint="use a path below the mount, such as haproxy.cfg or maps/hosts.map; no part may begin with a dot",
                )
        if not FOLDER.fullmatch(self.mount) or os.path.normpath(self.mount) != self.mount:
            raise fail(
                "not a usable mount point",
                where="mount",
                why=repr(self.mount),
                hint="use an absolute path such as /etc/anvil",
            )

    @property
    def live_link(self) -> str:
        return LIVE + "/" + self.replica

    def link_of(self, replica: str) -> str:
        return LIVE + "/" + replica

    def of(self, replica: str) -> Place:
        """The place of another replica in the same volume."""
        return replace(self, replica=replica)

    def stock_target(self, name: str) -> str:
        """The target of the symlink at a stock path."""
        return "../" * name.count("/") + self.live_link + "/" + name


def hash_revision(files: Mapping[str, bytes]) -> str:
    """The name of a revision: sha256 over names, lengths and bytes, so that different sets of files never get the same name."""
    digest = hashlib.sha256(b"anvil.serving revision 1\n")
    for name in sorted(files):
        digest.update("{0}\n{1}\n".format(name, len(files[name])).encode("utf-8"))
        digest.update(files[name])
    return digest.hexdigest()


@dataclass(frozen=True)
class Entry:
    """One path in the volume. kind: file, link, folder or other. mtime: seconds since the epoch."""

    kind: str
    content: bytes = b""
    target: str = ""
    mtime: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """The content of a volume at the time it was read.

    stock: stock file name -> the entry at its path; absent files are missing.
    inner: path relative to the volume -> the entry there, for everything below ``.anvil``.
    foreign: stock file name -> the content behind a symlink that this collection did not make.
    """

    place: Place
    stock: Mapping[str, Entry]
    inner: Mapping[str, Entry]
    foreign: Mapping[str, bytes]

    @property
    def live(self) -> Optional[str]:
        """The revision that the replica's pointer names; its files may have been altered since."""
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
        """The files that a router reads at the stock paths now, regardless of how they got there."""
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
        """Whether every stock path leads through the pointer, and the files of the live revision still have its hash.

        A path of no live file may be absent.
        """
        live = self.files_of(self.live) if self.live else {}
        if not all(self.is_linked(name) or (name not in self.stock and name not in live) for name in self.place.names):
            return False
        return self.live is None or hash_revision(live) == self.live

    def newest_change(self) -> float:
        """When the pointer or a plain file at a stock path last changed: the end of that second (a tar holds whole seconds)."""
        link = self.inner.get(self.place.live_link)
        return max(self.newest_plain(), link.mtime if link else 0.0) + 1.0

    def newest_plain(self) -> float:
        """When the newest plain file at a stock path was written (seconds since the epoch); 0 if there is none."""
        return max([entry.mtime for name, entry in self.stock.items() if not self.is_linked(name)] or [0.0])


def find_place(found: Mapping[str, Any]) -> Optional[Place]:
    """The volume from which an inspected router container reads its files; ``None`` if there is none."""
    working_dir = str((found.get("Config") or {}).get("WorkingDir") or "/")
    for mount in found.get("Mounts") or ():
        target = str(mount.get("Destination"))
        if mount.get("Type") == "volume" and (target == MOUNT or working_dir.startswith(target + "/")):
            return Place(str(mount["Name"]), target, str(found["Name"]).lstrip("/"), ())
    return None
