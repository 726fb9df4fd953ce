# SPDX-License-Identifier: GPL-3.0-or-later
"""Where models lie on this host: a folder or a Docker volume, and in it one folder for each model."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any, Mapping, Optional

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_folder import ForeignFolder, open_folder
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.weights.model_record import find_anchor, find_shelf, fold_name

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*){0,3}")
VOLUME_LABELS = {"anvil.serving.volume": "models"}


@dataclass(frozen=True)
class ModelLocation:
    """Where one model lies, below ``root``, which containers may be able to write.

    record: the folder of its manifest and lock, which only this user can write. staging: its staging folder, on the file system
    of ``root``.
    """

    root: str
    name: str
    record: str
    staging: str

    @property
    def target(self) -> str:
        """The folder of the model."""
        return os.path.join(self.root, self.name)

    @property
    def files(self) -> str:
        """Files that are whole; this folder becomes the model."""
        return os.path.join(self.staging, "files")

    @property
    def parts(self) -> str:
        """Files that are not whole yet."""
        return os.path.join(self.staging, "parts")

    @property
    def home(self) -> str:
        """The cache of the hub's client library."""
        return os.path.join(self.staging, "home")


def locate(root: str, name: str) -> ModelLocation:
    """The location of a model below ``root``. Nothing is written."""
    shelf = find_shelf(root)
    return ModelLocation(root, name, *(os.path.join(place, fold_name(name)) for place in (shelf.records, shelf.staging)))


def open_root(root: str, create: bool = False) -> ForeignFolder:
    """The folder with the models; below what the operator or the Docker Engine gave, no link is followed. Raises OSError."""
    anchor, way = find_anchor(root)
    if create:
        os.makedirs(anchor, exist_ok=True)
    with open_folder(anchor) as opened:
        return opened.folder(way, create)


def open_model(location: ModelLocation) -> Optional[ForeignFolder]:
    """The folder of a model; None where there is none. Raises AnvilError for one that is a link or cannot be read."""
    try:
        with open_root(location.root) as root:
            return root.folder(location.name)
    except FileNotFoundError:
        return None
    except OSError as exc:
        hint = "check owner and permissions of the folder; with become: true, root reads it"
        raise fail("the model's folder cannot be read", location.target, exc.strerror or str(exc), hint) from exc


def make_location(root: str, name: str) -> ModelLocation:
    """The location of a model below ``root``. Raises AnvilError for a name that cannot be a folder's."""
    if not NAME.fullmatch(name):
        raise fail(
            "the model's name cannot be used as a folder",
            where="name",
            why=repr(name),
            hint="use letters, digits, '.', '_' and '-', with at most three slashes, such as openai/gpt-oss-120b",
        )
    return locate(root, name)


def resolve_path(docker: DockerEngine, volume: Optional[str], path: str, create: bool, predict: bool = False) -> str:
    """The path on this machine of a folder, or of a path in a Docker volume. Raises AnvilError.

    create: create a volume that does not exist. predict: of a volume that does not exist, return where the local driver will
    put it.
    """
    if not volume:
        if not os.path.isabs(path):
            raise fail("the path is not absolute", where="path", why=repr(path), hint="give an absolute path, or a volume")
        return os.path.normpath(path)
    inside = os.path.normpath(path.lstrip("/") or ".")
    if inside.startswith(".."):
        raise fail(
            "the path leads out of the volume", where="volume " + volume, why=repr(path), hint="give a path inside the volume"
        )
    found = docker.inspect_volume(volume)
    if found is None and create:
        docker.create_volume(volume, VOLUME_LABELS)
        found = docker.inspect_volume(volume)
    if found is None and predict:
        return os.path.normpath(os.path.join(str(docker.info().get("DockerRootDir")), "volumes", volume, "_data", inside))
    if found is None:
        raise fail(
            "the volume does not exist",
            where="volume " + volume,
            hint="ansible-playbook playbooks/models.yml creates it with the models in it (anvil_models)",
        )
    root = find_bound_folder(found) or str(found.get("Mountpoint") or "")
    if not os.path.isdir(root) or not os.access(root, os.R_OK | os.X_OK):
        raise fail(
            "the volume's folder cannot be read on this machine",
            where="volume " + volume,
            why="the Docker Engine reports {0!r} (driver {1})".format(root, found.get("Driver")),
            hint="run the task on the machine of the Docker Engine, with become: true; or keep the weights in a folder",
        )
    return os.path.normpath(os.path.join(root, inside))


def find_bound_folder(volume: Mapping[str, Any]) -> str:
    """The folder of the host that a volume is bound to by its driver_opts; empty for other volumes. Its own folder is a mount
    point, which is empty while no container uses the volume.
    """
    options = volume.get("Options") or {}
    words = str(options.get("o") or "").split(",")
    device = str(options.get("device") or "")
    return os.path.normpath(device) if device.startswith("/") and {"bind", "rbind"}.intersection(words) else ""
