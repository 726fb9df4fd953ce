# SPDX-License-Identifier: GPL-3.0-or-later
"""The throwaway container of a dry boot: image, command, environment, mounts, networks. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import list_exposed
from ansible_collections.anvil.serving.plugins.module_utils.docker.side_containers import own_volume

LABEL_DRY_BOOT = "anvil.serving.dry-boot"
# The port on which a router listens by default.
DEFAULT_PORT = 8000


@dataclass(frozen=True)
class ThrowawayPlan:
    """port: where the router listens inside the container. token: the router's own, for the probes.

    is_faithful: whether no volume of the router is replaced by an empty one.
    """

    image: str
    argv: Tuple[str, ...]
    mount: str
    port: int
    user: str = ""
    working_dir: str = ""
    environment: Tuple[str, ...] = field(default=(), repr=False)
    networks: Tuple[str, ...] = ()
    host_config: Mapping[str, Any] = field(default_factory=dict)
    token: str = field(default="", repr=False)
    is_faithful: bool = True


def find_port(config: Mapping[str, Any]) -> int:
    """The first TCP port that a container or an image exposes; ``DEFAULT_PORT`` if none."""
    exposed = list_exposed(config)
    return exposed[0] if exposed else DEFAULT_PORT


def list_folders(inspected: Mapping[str, Any], mount: str) -> Tuple[Dict[str, Tuple[str, str]], List[str]]:
    """What a container mounts besides ``mount``: path -> (type, source) of the read-only mounts, and the writable paths."""
    read_only: Dict[str, Tuple[str, str]] = {}
    writable: List[str] = []
    for each in inspected.get("Mounts") or ():
        path, kind = str(each.get("Destination")), str(each.get("Type"))
        if path == mount or kind not in ("volume", "bind"):
            continue
        if each.get("RW"):
            writable.append(path)
        else:
            read_only[path] = (kind, str(each.get("Name") if kind == "volume" else each.get("Source")))
    return read_only, writable


def mount_read_only(folders: Mapping[str, Tuple[str, str]]) -> List[Dict[str, Any]]:
    """The same folders for a side container. The Docker Engine refuses a folder of the host that does not exist."""
    return [
        {"Type": kind, "Source": source, "Target": path, "ReadOnly": True} for path, (kind, source) in sorted(folders.items())
    ]


def plan_throwaway(
    image: Mapping[str, Any],
    inspected: Optional[Mapping[str, Any]],
    mount: str,
    environment: Mapping[str, str],
    secret: Tuple[str, str],
) -> ThrowawayPlan:
    """The throwaway container for a router.

    image: its inspect. inspected: the inspect of the router's container, or None if there is none yet. environment: what
    that container will get besides. secret: name of the token variable and a stand-in for its value, which is used where no
    value is known: a router that does not exist yet gets its own later.
    """
    same_image = inspected is not None and inspected.get("Image") == image["Id"]
    config: Mapping[str, Any] = (inspected or {})["Config"] if same_image else image["Config"]
    variables = dict(line.partition("=")[::2] for line in (image["Config"].get("Env") or ()))
    if inspected is not None:
        variables.update(line.partition("=")[::2] for line in inspected["Config"].get("Env") or ())
    variables.update(environment)
    name, stand_in = secret
    if name and not variables.get(name) and not same_image:
        variables[name] = stand_in
    options: Dict[str, Any] = {
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "pids_limit": 256,
        "tmpfs": {},
    }
    # Anonymous volumes, removed with the container: for the candidate, and for every path that the router may write to.
    own = [mount]
    writable: List[str] = []
    shared: List[Dict[str, Any]] = []
    networks: Tuple[str, ...] = ()
    if inspected is not None:
        host = inspected.get("HostConfig") or {}
        options["read_only"] = bool(host.get("ReadonlyRootfs"))
        for path, tmpfs_options in (host.get("Tmpfs") or {}).items():
            options["tmpfs"].setdefault(path, tmpfs_options)
        read_only, writable = list_folders(inspected, mount)
        own += writable
        shared = mount_read_only(read_only)
        for key, option in (("ExtraHosts", "extra_hosts"), ("Dns", "dns"), ("GroupAdd", "group_add")):
            if host.get(key):
                options[option] = host[key]
        mode = str(host.get("NetworkMode") or "")
        if mode not in ("host", "none") and not mode.startswith("container:"):
            networks = tuple(sorted((inspected.get("NetworkSettings") or {}).get("Networks") or ()))
    options["mounts"] = [*shared, *(own_volume(path) for path in own)]
    options["network_mode"] = networks[0] if networks else "none"
    return ThrowawayPlan(
        image=str(image["Id"]),
        argv=(*_as_words(config.get("Entrypoint")), *_as_words(config.get("Cmd"))),
        mount=mount,
        port=find_port(config),
        user=str(config.get("User") or ""),
        working_dir=str(config.get("WorkingDir") or "/"),
        environment=tuple("{0}={1}".format(key, value) for key, value in variables.items()),
        networks=networks,
        host_config=options,
        token=variables.get(name, "") if name else "",
        is_faithful=not writable,
    )


def _as_words(value: Any) -> List[str]:
    return [value] if isinstance(value, str) else [str(word) for word in value or ()]
