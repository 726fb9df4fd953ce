# SPDX-License-Identifier: GPL-3.0-or-later
"""Documents of the Docker Engine API: every field that we read is there, with its type, whatever the engine sent. Pure.

An engine may leave a field out, send null, a text for a list, a number for a text, a range for a port. Podman's Docker API does,
and so do the Docker Engines of different years. A value that cannot be read becomes the empty one; fields that we do not read
stay as they are.
"""

from __future__ import annotations

import math
from typing import Any, Dict, Mapping

# A form is an example of a value: text, number, flag, a list of one form, a mapping of named fields or of any field (`*`).
_ANY = "*"
_PLAIN = frozenset((str, int, bool))
_WORDS = [""]
_TEXTS = {_ANY: ""}
_ENDPOINT = {
    "IPAddress": "",
    "MacAddress": "",
    "Aliases": _WORDS,
    "Links": _WORDS,
    "DriverOpts": _TEXTS,
    "GwPriority": 0,
    "IPAMConfig": {"IPv4Address": "", "IPv6Address": "", "LinkLocalIPs": _WORDS},
}
_NETWORKS = {"Networks": {_ANY: _ENDPOINT}}
_CONFIG = {
    "Image": "",
    "Cmd": _WORDS,
    "Entrypoint": _WORDS,
    "Env": _WORDS,
    "Labels": _TEXTS,
    "User": "",
    "WorkingDir": "",
    "Hostname": "",
    "MacAddress": "",
    "StopSignal": "",
    "Healthcheck": {"Test": _WORDS},
    "ExposedPorts": {_ANY: {}},
    "Volumes": {_ANY: {}},
}
_BINDINGS = {_ANY: [{"HostIp": "", "HostPort": ""}]}
_MOUNTS = [{"Type": "", "Name": "", "Source": "", "Destination": "", "RW": True}]
_CONTAINER = {
    "Id": "",
    "Name": "",
    "Created": "",
    "Image": "",
    "RestartCount": 0,
    "State": {
        "Status": "",
        "Running": False,
        "Paused": False,
        "Restarting": False,
        "Dead": False,
        "OOMKilled": False,
        "Pid": 0,
        "ExitCode": 0,
        "Error": "",
        "StartedAt": "",
        "FinishedAt": "",
        "Health": {"Status": "", "Log": [{"Start": "", "ExitCode": 0, "Output": ""}]},
    },
    "Config": _CONFIG,
    "HostConfig": {
        "NetworkMode": "",
        "Runtime": "",
        "PortBindings": _BINDINGS,
        "DeviceRequests": [{"Driver": "", "Count": 0, "DeviceIDs": _WORDS}],
        "Devices": [{"PathOnHost": ""}],
        "RestartPolicy": {"Name": "", "MaximumRetryCount": 0},
        "LogConfig": {"Type": "", "Config": _TEXTS},
        "Binds": _WORDS,
        "Mounts": [{"Type": "", "Source": "", "Target": ""}],
        "IpcMode": "",
        "ShmSize": 0,
        "ReadonlyRootfs": False,
        "Privileged": False,
        "AutoRemove": False,
        "Init": False,
        "Tmpfs": _TEXTS,
        "CapAdd": _WORDS,
        "CapDrop": _WORDS,
        "SecurityOpt": _WORDS,
        "ExtraHosts": _WORDS,
        "Dns": _WORDS,
        "Memory": 0,
    },
    "NetworkSettings": {"Ports": _BINDINGS, **_NETWORKS},
    "Mounts": _MOUNTS,
}
_LISTED = {
    "Id": "",
    "Names": _WORDS,
    "State": "",
    "Status": "",
    "Image": "",
    "Created": 0,
    "Labels": _TEXTS,
    "Ports": [{"IP": "", "PrivatePort": 0, "PublicPort": 0, "Type": ""}],
    "HostConfig": {"NetworkMode": ""},
    "NetworkSettings": _NETWORKS,
}
_IMAGE = {"Id": "", "RepoTags": _WORDS, "RepoDigests": _WORDS, "Os": "", "Architecture": "", "Config": _CONFIG}
_STORED_IMAGE = {
    "Id": "",
    "RepoTags": _WORDS,
    "RepoDigests": _WORDS,
    "Labels": _TEXTS,
    "Created": 0,
    "Size": 0,
    "SharedSize": 0,
}
_DISK_USAGE = {"Images": [_STORED_IMAGE], "BuildCache": [{"Size": 0, "InUse": False, "Shared": False}]}
_NETWORK = {"Labels": _TEXTS, "IPAM": {"Config": [{"Subnet": "", "Gateway": ""}]}}
_VOLUME = {"Labels": _TEXTS, "Mountpoint": ""}
_INFO = {
    "OperatingSystem": "",
    "KernelVersion": "",
    "DockerRootDir": "",
    "Driver": "",
    "CgroupDriver": "",
    "CgroupVersion": "",
    "MemoryLimit": True,
    "PidsLimit": True,
    "SecurityOptions": _WORDS,
    "Runtimes": {_ANY: {"path": ""}},
    "LiveRestoreEnabled": False,
}
# The states of Podman that Docker has under another name.
_STATES = {
    "configured": "created",
    "initialized": "created",
    "stopped": "exited",
    "stopping": "running",
    "up": "running",
    "removal": "removing",  # "Removal In Progress"
}


def read_number(value: Any) -> int:
    """A whole number: of a range of ports (``8000-8010``) the first one; 0 for anything else."""
    if isinstance(value, str):
        digits = value.strip().partition("-")[0].partition("/")[0]
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 20 else 0
    if isinstance(value, (bool, int)):
        return int(value)
    return int(value) if isinstance(value, float) and math.isfinite(value) else 0


class ContainerDocument(Dict[str, Any]):
    """An inspected container that was read."""


def read_container(raw: Any) -> ContainerDocument:
    """An inspected container. One without a name is named by its id. What was read already is returned as it is."""
    if isinstance(raw, ContainerDocument):
        return raw
    document = ContainerDocument(_fill(raw, _CONTAINER))
    document["Name"] = _with_slash(document["Name"] or document["Id"][:12])
    if document["State"]["Health"]["Status"] == "none":
        document["State"]["Health"]["Status"] = ""
    state = document["State"]
    state["Status"] = _state_word(state["Status"]) or _state_of_flags(state)
    return document


def read_listed_container(raw: Any) -> Dict[str, Any]:
    """One row of the list of containers. One without a name is named by its id."""
    row = _fill(raw, _LISTED)
    row["Names"] = [_with_slash(name) for name in row["Names"] or [row["Id"][:12]]]
    word = "paused" if "(Paused)" in row["Status"] else row["Status"].partition(" ")[0]
    row["State"] = _state_word(row["State"] or word)
    return row


def _with_slash(name: str) -> str:
    return name if name.startswith("/") else "/" + name


def read_info(raw: Any) -> Dict[str, Any]:
    """What an engine says of itself. ``CDISpecDirs`` is absent where it was: such an engine does not report it."""
    document = _fill(raw, _INFO)
    if "CDISpecDirs" in document:
        document["CDISpecDirs"] = _read(document["CDISpecDirs"], _WORDS)
    return document


def read_image(raw: Any) -> Dict[str, Any]:
    return _fill(raw, _IMAGE)


def read_disk_usage(raw: Any) -> Dict[str, Any]:
    return _fill(raw, _DISK_USAGE)


def read_network(raw: Any) -> Dict[str, Any]:
    return _fill(raw, _NETWORK)


def read_volume(raw: Any) -> Dict[str, Any]:
    return _fill(raw, _VOLUME)


def _state_word(word: str) -> str:
    return _STATES.get(word.strip().lower(), word.strip().lower())


def _state_of_flags(state: Mapping[str, Any]) -> str:
    for flag in ("Restarting", "Paused", "Running", "Dead"):
        if state[flag]:
            return flag.lower()
    return "created" if state["StartedAt"].startswith("0001-") else "exited"


def _fill(value: Any, form: Mapping[str, Any]) -> Dict[str, Any]:
    """The fields of a mapping, each in its form. A list of ``name=value`` is read as a mapping of texts."""
    # The usual cases come first, here and below: an engine answers with two hundred fields for each container.
    if value is None:
        filled: Dict[str, Any] = {}
    elif value.__class__ is dict:
        filled = dict(value)
    else:
        if isinstance(value, (list, tuple)) and form.get(_ANY) == "":
            value = dict(str(line).partition("=")[::2] for line in value)
        filled = {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else {}
    if _ANY in form:
        every = form[_ANY]
        return {key: _read(item, every) for key, item in filled.items()}
    for key, inner in form.items():
        item, kind = filled.get(key), inner.__class__
        filled[key] = item if item.__class__ is kind and kind in _PLAIN else _read(item, inner)
    return filled


def _read(value: Any, form: Any) -> Any:
    kind = form.__class__
    if kind in _PLAIN:
        return value if value.__class__ is kind else _read_plain(value, form)
    if kind is dict:
        return _fill(value, form)
    if value is None:
        return []
    if value.__class__ is not list:
        if isinstance(value, Mapping) and form[0] == "":
            value = ["{0}={1}".format(*pair) for pair in value.items()]
        value = value if isinstance(value, (list, tuple)) else [] if value == "" else [value]
    return [_read(item, form[0]) for item in value if item is not None]


def _read_plain(value: Any, form: Any) -> Any:
    """A flag, number or text that came as something else."""
    if isinstance(form, bool):
        return value.lower() == "true" if isinstance(value, str) else form if value is None else bool(value)
    if isinstance(form, int):
        return read_number(value)
    return value if isinstance(value, str) else str(value) if isinstance(value, (bool, int, float)) else ""
