# SPDX-License-Identifier: GPL-3.0-or-later
"""What no container of a serve or experiment gets: paths of the host that lead to the host, and privileges. Pure.

A path is judged by its words here, and once more on its host, where links and mounts are known (``serves/mount_admission``).
``anvil_allow_mounts`` opens a path.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

# Neither these folders, nor anything in them, nor a folder that holds one of them.
SYSTEM = (
    *("/proc", "/sys", "/dev", "/boot", "/efi", "/run", "/var/run", "/var/lib/docker", "/var/lib/containerd"),
    *("/var/lib/containers", "/var/lib/kubelet", "/var/lib/anvil-serving", "/var/lib/private", "/var/lib/systemd"),
    *("/var/spool/cron", "/lost+found"),
)
# Programs and libraries: reading them shows nothing, and writing them is the host.
PROGRAMS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/snap")
# Below /etc: what holds secrets, or decides who may do what. The rest may be read, such as certificates and settings of a server.
SETTINGS = "/etc"
PRIVATE_SETTINGS = (
    *("shadow", "shadow-", "gshadow", "gshadow-", "sudoers", "sudoers.d", "ssh", "ssl/private", "docker", "containerd"),
    *("kubernetes", "rancher", "crontab", "cron.d", "systemd", "pam.d", "security", "wireguard", "openvpn", "krb5.keytab"),
    *("NetworkManager", "netplan", "polkit-1", "ansible", "fstab", "crypttab"),
)
HOMES = ("/root", "/home")
# Folders of that name hold keys, wherever they lie.
PRIVATE = (".ssh", ".docker", ".kube", ".aws", ".azure", ".gnupg", ".ansible", ".anvil-serving", ".password-store")
SOCKETS = ("docker.sock", "docker-cli.sock", "containerd.sock", "podman.sock", "crio.sock", "buildkitd.sock")
ENGINE = "who has the engine's socket has the host"
WHOLE = "it is the whole host"
FOLDER = "it is a folder of the system"
HOLDS = "it holds {0}, a folder of the system"
STATE = "it is a folder of this collection, which holds secrets"
KEYS = "it is a folder for keys"


@dataclass(frozen=True)
class AllowedMount:
    """An entry of ``anvil_allow_mounts``: this path, and what lies below it. read_only: only for mounts that are read-only."""

    source: str
    read_only: bool = False

    def opens(self, path: str, read_only: bool) -> bool:
        return is_below(path, clean_path(self.source)) and (read_only or not self.read_only)


def parse_allowed(text: str) -> Optional[AllowedMount]:
    """An entry such as ``/etc/vllm:ro``; None for one that is not an absolute path."""
    path, _colon, mode = text.partition(":")
    return AllowedMount(path, mode == "ro") if path.startswith("/") and mode in ("", "ro", "rw") else None


def clean_path(path: str) -> str:
    """An absolute path without ``..``, doubled and trailing slashes."""
    return "/" + posixpath.normpath(path).strip("/") if path.strip("/") not in ("", ".") else "/"


def is_below(path: str, folder: str) -> bool:
    """Whether a path is a folder or lies in it; both are clean."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def judge_mount(source: str, read_only: bool, own: Sequence[str] = ()) -> str:
    """Why a container may not have a path of the host; empty: it may. own: folders of this collection, which hold secrets."""
    path = clean_path(source)
    if posixpath.basename(path) in SOCKETS:
        return ENGINE
    if path == "/":
        return WHOLE
    if set(PRIVATE).intersection(path.split("/")):
        return KEYS
    for folder in own:
        if is_below(path, clean_path(folder)):
            return STATE
        if is_below(clean_path(folder), path):
            return "it holds {0}, a folder of this collection with secrets".format(folder)
    if path in HOMES or any(is_below(path, folder) for folder in SYSTEM):
        return FOLDER
    if not read_only and any(is_below(path, folder) for folder in (*PROGRAMS, SETTINGS)):
        return FOLDER + ", and the mount is not read-only"
    private = [posixpath.join(SETTINGS, name) for name in PRIVATE_SETTINGS]
    if any(is_below(path, one) for one in private):
        return FOLDER
    held = next((one for one in (*SYSTEM, *private) if is_below(one, path)), None)
    return HOLDS.format(held) if held else ""


def is_opened(source: str, read_only: bool, allowed: Sequence[AllowedMount]) -> bool:
    return any(one.opens(clean_path(source), read_only) for one in allowed)


def suggest_opening(source: str, read_only: bool) -> str:
    """What to do about a refused mount."""
    path = clean_path(source)
    advice = {
        "/dev/shm": "set ipc: host or shm_size",
        "/var/lib/docker/volumes": "mount the volume by its name",
    }
    for folder, instead in advice.items():
        if is_below(path, folder):
            return instead
    entry = path + (":ro" if read_only else "")
    return "mount only the folder that the server needs; or allow it for this host: anvil_allow_mounts: [{0!r}]".format(entry)


# Privileges that a compose file of others may ask for -> what to do instead.
PRIVILEGES = {
    "privileged": "remove it: a model server needs no privileges, and gets its card by deploy.resources.reservations.devices",
    "cap_add": "remove it: a model server needs no capabilities",
    "pid": "remove it: an experiment sees its own processes only",
    "uts": "remove it",
    "userns_mode": "remove it",
    "cgroup": "remove it",
    "cgroup_parent": "remove it",
    "device_cgroup_rules": "remove it, and reserve the card with deploy.resources.reservations.devices",
    "volumes_from": "name the volume or folder itself under volumes",
    "secrets": "name the secret: x-anvil: {secrets: {VARIABLE: <name in anvil_secrets>}}",
    "configs": "put the file on the host and mount it under volumes with its absolute path",
    "credential_spec": "remove it",
    "isolation": "remove it",
    "storage_opt": "remove it",
    "use_api_socket": "remove it: it gives the container the engine",
}
UNCONFINED = re.compile(r"(seccomp|apparmor|systempaths)[:=]unconfined|label[:=](disable|type:.*)", re.IGNORECASE)
# The kernel keeps these apart for each container; every other one is the host's.
OWN_SYSCTLS = re.compile(r"net\..*|fs\.mqueue\..*|kernel\.(shm.*|msg.*|sem)")


def find_foreign_sysctls(value: object) -> Tuple[str, ...]:
    """The sysctls of a service that are not its own. value: a mapping, or a list of ``NAME=VALUE``."""
    names = value if isinstance(value, dict) else [str(one).partition("=")[0] for one in value] if isinstance(value, list) else ()
    return tuple(str(name) for name in names if not OWN_SYSCTLS.fullmatch(str(name).strip().replace("/", ".")))
