# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether the mounts of serves lead to this host: judged where links, mounts and the options of volumes are known.

The plan has judged the words of each path. Here a path counts by the folder that it is: behind links, in another spelling, by a
bind mount of ``/``, or through a volume whose driver_opts name it.
"""

from __future__ import annotations

import os
import stat
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, Tuple
from urllib.parse import urlsplit

from ansible_collections.anvil.serving.plugins.module_utils.catalog.container_policy import (
    ENGINE,
    HOLDS,
    HOMES,
    PRIVATE_SETTINGS,
    PROGRAMS,
    SETTINGS,
    SYSTEM,
    AllowedMount,
    clean_path,
    is_below,
    is_opened,
    judge_mount,
    parse_allowed,
    suggest_opening,
)
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import Problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
    LABEL_PREFIX,
    LABEL_SERVE,
    Mount,
    Service,
)
from ansible_collections.anvil.serving.plugins.module_utils.docker.connection import is_local
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine

RECORDS = ".anvil-serving"
LABEL_WORKFLOW = LABEL_PREFIX + "workflow"
# Sockets of container engines beside that of this run.
SOCKETS = ("/run/docker.sock", "/var/run/docker.sock", "/run/containerd/containerd.sock", "/run/podman/podman.sock")
# File systems that show the kernel -> where this host has them.
KERNEL = {
    "proc": "/proc",
    "sysfs": "/sys",
    "devtmpfs": "/dev",
    "cgroup": "/sys/fs/cgroup",
    "cgroup2": "/sys/fs/cgroup",
    "debugfs": "/sys/kernel/debug",
    "tracefs": "/sys/kernel/tracing",
    "securityfs": "/sys/kernel/security",
    "bpf": "/sys/fs/bpf",
    "configfs": "/sys/kernel/config",
    "efivarfs": "/sys/firmware/efi/efivars",
}
HOLDS_RECORDS = "it holds {0}, the records of models, and the mount is not read-only"
# The most folders that are looked into for records of models.
LOOKED_INTO = 1000

# Device and inode: what a path is, whatever it is called.
Identity = Tuple[int, int]


def judge_mounts(docker: DockerEngine, services: Sequence[Service], directory: str) -> Dict[str, List[Problem]]:
    """Why serves may not have their mounts, by the name of the service. directory: of the project, whose own files are mounted.

    Only serves and experiments have mounts that an operator or a file of others has chosen; of a workflow, nobody chooses any.
    """
    if not is_local(docker.docker_host):
        return {}
    judge: Optional[_Judge] = None
    found: Dict[str, List[Problem]] = {}
    for service in services:
        if LABEL_SERVE not in service.labels or LABEL_WORKFLOW in service.labels:
            continue
        allowed = [one for one in map(parse_allowed, map(str, service.anvil.get("allow_mounts") or ())) if one is not None]
        for mount in service.mounts:
            judge = judge or _Judge(docker, directory)
            if judge.lacks_model(service, mount):
                found.setdefault(service.name, []).append(_name_missing(service, mount))
            for problem in judge.judge(service, mount, allowed):
                found.setdefault(service.name, []).append(problem)
    return found


class _Judge:
    """What is known of this host, read once for all serves."""

    def __init__(self, docker: DockerEngine, directory: str) -> None:
        self.docker, self.directory = docker, directory
        root = str(docker.info().get("DockerRootDir") or "")
        # An engine on another file system, such as that of a socket in a container, has folders that are not seen here.
        self.sees_folders = os.path.isdir(root)
        self.own = tuple(_list_projects(directory))
        self.folders = tuple(dict.fromkeys((*SYSTEM, *((root,) if root else ()))))
        self.known = {_identify(path): path for path in ("/", SETTINGS, *PROGRAMS, *self.folders, *HOMES, *self.own)}
        self.known.update({_identify(os.path.join(SETTINGS, name)): os.path.join(SETTINGS, name) for name in PRIVATE_SETTINGS})
        self.known.pop(None, None)
        places = [*SOCKETS, urlsplit(docker.docker_host).path]
        self.sockets = {_identify(path) for path in places} - {None}

    def judge(self, service: Service, mount: Mount, allowed: Sequence[AllowedMount]) -> Iterator[Problem]:
        if mount.kind == "bind" and mount.read_only and is_below(mount.source, os.path.join(self.directory, "models")):
            return  # the plan mounts its own files
        for source in self._find_sources(mount):
            real = os.path.realpath(source)
            why = self._find_objection(real, mount.read_only)
            if why and not is_opened(source, mount.read_only, allowed) and not is_opened(real, mount.read_only, allowed):
                shown = mount.source if mount.kind == "bind" else "volume {0}".format(mount.source)
                led = "" if real == shown else " (it is {0})".format(real)
                yield Problem(
                    "the serve cannot have {0}{1}".format(shown, led),
                    "serve {0}, volumes".format(service.name),
                    why,
                    suggest_opening(real, mount.read_only),
                )

    def lacks_model(self, service: Service, mount: Mount) -> bool:
        """Whether the model of a serve lies in a folder of this host that does not exist; False where that is not certain."""
        model = str(service.anvil.get("model") or "")
        if mount.kind != "bind" or not self.sees_folders or not is_below(clean_path(model), clean_path(mount.target)):
            return False
        nearest = max((one for one in service.mounts if is_below(clean_path(model), clean_path(one.target))), key=_depth)
        if nearest is not mount or is_below(mount.source, self.directory):
            return False
        try:
            os.stat(mount.source)
        except (FileNotFoundError, NotADirectoryError):
            return True
        except OSError:
            pass
        return False

    def _find_sources(self, mount: Mount) -> Sequence[str]:
        """The paths of this host that a mount gives to the container; none for a volume of its own."""
        if mount.kind == "bind":
            return (mount.source,)
        volume = self.docker.inspect_volume(mount.source) if mount.kind == "volume" and mount.source else None
        return find_named_folders((volume or {}).get("Options") or {})

    def _find_objection(self, real: str, read_only: bool) -> str:
        identity = _identify(real)
        if identity in self.sockets:
            return ENGINE
        why = judge_mount(real, read_only, self.own)
        if why:
            return why
        # The same folder by another way: a bind mount, or a file system that does not tell case apart.
        here = real
        while True:
            known = self.known.get(_identify(here))
            if known is not None and known != here:
                rest = os.path.relpath(real, here)
                spelled = known if rest == "." else os.path.join(known, rest)
                why = judge_mount(spelled, read_only, self.own)
                if known in self.folders[len(SYSTEM) :]:
                    why = why or HOLDS.format(known)
                if why:
                    return "it is {0}: {1}".format(spelled, why)
            if here == "/":
                break
            here = os.path.dirname(here)
        for folder in self.folders[len(SYSTEM) :]:
            if is_below(real, folder):
                return "it is a folder of the Docker Engine"
            if is_below(folder, real):
                return HOLDS.format(folder)
        return "" if read_only else self._find_records(real)

    def _find_records(self, real: str) -> str:
        """Whether a folder that is mounted writable holds the records of models, which only this host may write."""
        if os.path.isdir(os.path.join(real, RECORDS)):
            return HOLDS_RECORDS.format(RECORDS)
        try:
            with os.scandir(real) as entries:
                for number, entry in enumerate(entries):
                    if number >= LOOKED_INTO:
                        break
                    if entry.is_dir(follow_symlinks=False) and os.path.isdir(os.path.join(entry.path, RECORDS)):
                        return "it holds {0}/{1}, the records of models, and the mount is not read-only".format(
                            entry.name, RECORDS
                        )
        except OSError:
            pass
        return ""


def _depth(mount: Mount) -> int:
    return len(clean_path(mount.target))


def _name_missing(service: Service, mount: Mount) -> Problem:
    return Problem(
        "the model {0} is not on this host: {1} does not exist".format(service.anvil["model"], mount.source),
        "serve {0}, volumes".format(service.name),
        "the serve reads its model from this folder, which is mounted at {0}; nothing was changed".format(mount.target),
        "bring the weights there (docs/models.md), or correct volumes",
    )


def _list_projects(directory: str) -> Iterator[str]:
    """The folders of the projects of this collection beside that of this run, which hold env files with secrets."""
    root = os.path.dirname(os.path.realpath(directory))
    yield os.path.realpath(directory)
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.name.startswith("anvil-") and entry.is_dir(follow_symlinks=False):
                    yield entry.path
    except OSError:
        pass


def find_named_folders(options: Mapping[str, str]) -> Tuple[str, ...]:
    """The paths of this host that the driver_opts of a volume name; none for a file system of its own, such as NFS."""
    kind, device = str(options.get("type") or "none"), str(options.get("device") or "")
    words = str(options.get("o") or "").split(",")
    if kind in KERNEL:
        return (KERNEL[kind],)
    if kind == "overlay":
        layers = [word.partition("=")[2] for word in words if word.startswith(("lowerdir", "upperdir"))]
        return tuple(clean_path(path) for layer in layers for path in layer.split(":") if path.startswith("/"))
    if device.startswith("/") and (kind in ("none", "bind") or {"bind", "rbind"}.intersection(words)):
        return (clean_path(device),)
    try:
        disk = os.stat(device) if device.startswith("/") else None
        return ("/",) if disk is not None and stat.S_ISBLK(disk.st_mode) and disk.st_rdev == os.stat("/").st_dev else ()
    except OSError:
        return ()


def _identify(path: str) -> Optional[Identity]:
    try:
        seen = os.stat(path)
    except OSError:
        return None
    return (seen.st_dev, seen.st_ino) if path and (stat.S_ISDIR(seen.st_mode) or stat.S_ISSOCK(seen.st_mode)) else None
