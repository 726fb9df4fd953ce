# SPDX-License-Identifier: GPL-3.0-or-later
"""Where what is recorded of a model lies, out of the reach of containers: its manifest, its lock, and its staging folder.

Of a Docker volume they lie beside the folder that containers mount, below the volume's own folder, so they vanish with the
volume. Of a folder they lie beside it, in ``.anvil-serving``. Where nothing beside the folder is on its file system, or others
can write there, the staging folder lies in it, and manifest and lock in a folder of this user.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import stat
from dataclasses import dataclass
from typing import List, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail

RECORDS = "anvil-serving"
OLD_STAGING = ".anvil-staging"
MOUNTS = "/proc/self/mountinfo"
SYSTEM_STATE = "/var/lib/" + RECORDS
# The folder of a volume of the local driver, as the Docker Engine reports it, and the path in the volume.
VOLUME = re.compile(r"(?P<volume>.*/volumes/[^/]+)/_data(?:/(?P<inside>.*))?")


@dataclass(frozen=True)
class Shelf:
    """Where the records of the models below one folder lie. staging: where their staging folders lie, on its file system."""

    records: str
    staging: str

    @property
    def beside(self) -> bool:
        """Whether the staging folders lie outside of the folder that containers mount."""
        return self.staging == self.records


def find_anchor(root: str) -> Tuple[str, str]:
    """The folder that the operator or the Docker Engine gave, and the way from there to ``root`` that a container can change."""
    found = VOLUME.fullmatch(root)
    return (found["volume"] + "/_data", found["inside"] or "") if found else (root, "")


def find_shelf(root: str) -> Shelf:
    """Where the records of the models below ``root`` lie. Nothing is written."""
    found = VOLUME.fullmatch(root)
    if found and not is_mount(found["volume"] + "/_data"):
        place = os.path.join(found["volume"], RECORDS, "+".join(("data", *(found["inside"] or "").split("/"))).rstrip("+"))
        return Shelf(place, place)
    real = os.path.realpath(root)
    parent, name = os.path.split(real)
    if name and parent != "/" and not is_mount(real) and _is_ours(parent):
        place = os.path.join(parent, "." + RECORDS, name)
        return Shelf(place, place)
    key = hashlib.sha256(os.fsencode(real)).hexdigest()[:16]
    return Shelf(os.path.join(_own_state(), "models", key), os.path.join(root, OLD_STAGING))


def list_shelves(root: str) -> List[str]:
    """Where records of the models below ``root`` may lie, for reading: this user, or root, may have written them.

    No place is among them that lies in a volume, or in a folder that others can write: a container could plant records there.
    """
    places = [find_shelf(root).records]
    if not VOLUME.fullmatch(root):
        real = os.path.realpath(root)
        parent, name = os.path.split(real)
        if parent != "/" and not is_mount(real) and _is_guarded(parent):
            places.append(os.path.join(parent, "." + RECORDS, name))
        key = hashlib.sha256(os.fsencode(real)).hexdigest()[:16]
        places.append(os.path.join(SYSTEM_STATE, "models", key))
    return list(dict.fromkeys(places))


def _own_state() -> str:
    if os.geteuid() == 0:
        return SYSTEM_STATE
    return os.path.join(pwd.getpwuid(os.geteuid()).pw_dir, ".local", "state", RECORDS)


def _is_ours(parent: str) -> bool:
    """Whether only root and this user can write to a folder, and this user can; of one that is not there, its parent."""
    while not os.path.lexists(parent):
        parent = os.path.dirname(parent)
    return _is_guarded(parent) and os.access(parent, os.W_OK | os.X_OK)


def _is_guarded(folder: str) -> bool:
    """Whether only root and this user can write to a folder."""
    try:
        seen = os.stat(folder)
    except OSError:
        return False
    return stat.S_ISDIR(seen.st_mode) and seen.st_uid in (0, os.geteuid()) and not seen.st_mode & 0o022


def is_mount(path: str) -> bool:
    """Whether a file system is mounted at a path, as the kernel lists them: a bind mount too."""
    try:
        with open(MOUNTS, encoding="utf-8", errors="surrogateescape") as stream:
            points = {re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), line.split(" ")[4]) for line in stream}
    except (OSError, IndexError):
        return os.path.ismount(path)
    return path in points


def fold_name(name: str) -> str:
    """The name of a model as one folder's; no other model has the same."""
    return name.replace("/", "+")


def prepare_folder(path: str) -> None:
    """Make a folder of records, and those above it that are missing. Raises AnvilError where another user could change it."""
    missing = []
    here = path
    while not os.path.lexists(here):
        missing.append(here)
        here = os.path.dirname(here)
    for folder in reversed(missing):
        try:
            os.mkdir(folder, 0o755)
        except FileExistsError:
            pass
        except OSError as exc:
            hint = "set become: true, or give a folder that this user may write to"
            raise fail(
                "cannot make the folder of a model's records", where=folder, why=exc.strerror or str(exc), hint=hint
            ) from exc
    while RECORDS in path and os.path.basename(path) != "":
        why = _find_objection(path)
        if why:
            raise fail(
                "the folder of the models' records is not ours",
                where=path,
                why=why,
                hint="look at it with ls -ld, and remove it: anvil_model makes it again and checks the weights once",
            )
        if os.path.basename(path).lstrip(".") == RECORDS:
            return
        path = os.path.dirname(path)


def _find_objection(path: str) -> Optional[str]:
    seen = os.lstat(path)
    if not stat.S_ISDIR(seen.st_mode):
        return "it is a link or a file, and must be a folder"
    if seen.st_uid not in (0, os.geteuid()):
        return "it belongs to user {0}".format(seen.st_uid)
    return "others may write to it (mode {0:o})".format(seen.st_mode & 0o7777) if seen.st_mode & 0o022 else None
