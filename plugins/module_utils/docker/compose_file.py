# SPDX-License-Identifier: GPL-3.0-or-later
"""Parses a compose file into services in canonical form. Pure."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
    CDI_DRIVER,
    CDI_PREFIX,
    HOST_NETWORK,
    NO_HEALTHCHECK,
    NVIDIA_DRIVER,
    Mount,
    Service,
)

_BYTES = {"b": 1, "k": 1024, "m": 1024**2, "g": 1024**3}


def parse_bytes(text: Any) -> int:
    """A size of a compose file (``16g``, ``512mb``, ``1024``) in bytes. Raises ValueError for anything else."""
    size = str(text).strip().lower()
    if size.endswith("b") and len(size) > 1 and size[-2] in "kmg":
        size = size[:-1]
    if size and size[-1] in _BYTES:
        return int(float(size[:-1]) * _BYTES[size[-1]])
    return int(size)


def parse_seconds(text: Any) -> int:
    """A duration such as ``30s`` in seconds. Raises ValueError for forms that this collection never writes (``1m30s``)."""
    return int(str(text).strip().removesuffix("s"))


def _parse_networks(raw: Any, networks: Mapping[str, Any]) -> Tuple[Tuple[str, ...], Dict[str, str]]:
    """The names of a service's networks, and its fixed addresses in them. Compose accepts a list or a mapping."""
    attached = dict.fromkeys(raw) if isinstance(raw, list) else dict(raw or {})
    names = {net: str((networks.get(net) or {}).get("name", net)) for net in attached}
    fixed = {names[net]: str(item["ipv4_address"]) for net, item in attached.items() if item and item.get("ipv4_address")}
    return tuple(sorted(names.values())), fixed


def _parse_list(value: Any) -> Optional[Tuple[str, ...]]:
    if value is None:
        return None
    if isinstance(value, str):
        raise ValueError("expected a list of strings, not the string {0!r}".format(value))
    return tuple(str(word) for word in value)


def _parse_healthcheck(raw: Mapping[str, Any]) -> Optional[Tuple[str, ...]]:
    if raw.get("disable"):
        return NO_HEALTHCHECK
    test = raw.get("test")
    return ("CMD-SHELL", test) if isinstance(test, str) else _parse_list(test)


def _parse_port(value: Any) -> Tuple[str, int, str]:
    if isinstance(value, Mapping):
        return (
            str(value.get("host_ip", "0.0.0.0")),
            int(value.get("published", 0)),
            "{0}/{1}".format(value["target"], value.get("protocol", "tcp")),
        )
    head, _colon, target = str(value).rpartition(":")
    bind, _colon, published = head.rpartition(":")
    return (bind.strip("[]") or "0.0.0.0", int(published or 0), target if "/" in target else target + "/tcp")


def _parse_mount(value: Any, volumes: Mapping[str, Any]) -> Mount:
    if isinstance(value, Mapping):
        kind, source = str(value.get("type", "volume")), str(value.get("source", ""))
        target, read_only = str(value["target"]), bool(value.get("read_only", False))
    else:
        parts = str(value).split(":")
        source, target = parts[0], parts[1]
        read_only = "ro" in (parts[2].split(",") if len(parts) > 2 else [])
        kind = "bind" if source.startswith(("/", ".", "~")) else "volume"
    if kind == "volume":
        source = str((volumes.get(source) or {}).get("name", source))
    return Mount(kind, source, target, read_only)


def _read_gpu_request(raw: Mapping[str, Any]) -> Tuple[Tuple[str, ...], str]:
    """The UUIDs of the GPUs that are reserved, and the driver that is asked for them."""
    devices = raw.get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", []) or []
    uuids = tuple(str(name).removeprefix(CDI_PREFIX) for device in devices for name in device.get("device_ids", []) or [])
    return uuids, CDI_DRIVER if any(device.get("driver") == CDI_DRIVER for device in devices) else NVIDIA_DRIVER


def _unescape_dollars(value: Any) -> Any:
    """The value with each ``$$`` as ``$``: a compose file escapes a literal dollar so."""
    if isinstance(value, str):
        return value.replace("$$", "$")
    if isinstance(value, list):
        return [_unescape_dollars(item) for item in value]
    if isinstance(value, dict):
        return {key: _unescape_dollars(item) for key, item in value.items()}
    return value


def parse_compose(document: Mapping[str, Any]) -> Dict[str, Service]:
    """The services of a compose file that was read from YAML.

    It understands the forms that this collection writes: commands as lists, the environment as a mapping, short or long ports.
    """
    volumes = document.get("volumes") or {}
    networks = document.get("networks") or {}
    services = {}
    for name, escaped in (document.get("services") or {}).items():
        raw = _unescape_dollars(escaped)
        env_files, logging = raw.get("env_file") or [], raw.get("logging") or {}
        uuids, driver = _read_gpu_request(raw)
        names, addresses = _parse_networks(raw.get("networks"), networks)
        if raw.get("network_mode") == HOST_NETWORK:
            names = (HOST_NETWORK,)
        services[name] = Service(
            name=name,
            container=str(raw.get("container_name", "")),
            image=str(raw.get("image", "")),
            command=_parse_list(raw.get("command")),
            entrypoint=_parse_list(raw.get("entrypoint")),
            environment={key: str(value) for key, value in (raw.get("environment") or {}).items()},
            env_files=tuple([env_files] if isinstance(env_files, str) else env_files),
            gpu_uuids=uuids,
            gpu_driver=driver,
            ports=tuple(sorted(_parse_port(port) for port in raw.get("ports") or [])),
            mounts=tuple(
                sorted((_parse_mount(item, volumes) for item in raw.get("volumes") or []), key=lambda mount: mount.target)
            ),
            networks=names,
            addresses=addresses,
            ipc=str(raw.get("ipc", "")),
            shm_bytes=None if raw.get("shm_size") is None else parse_bytes(raw["shm_size"]),
            restart=str(raw.get("restart", "no")),
            user=None if raw.get("user") is None else str(raw["user"]),
            read_only=bool(raw.get("read_only", False)),
            tmpfs=tuple(sorted(raw.get("tmpfs") or [])),
            init=bool(raw.get("init", False)),
            stop_signal=raw.get("stop_signal"),
            stop_grace=None if raw.get("stop_grace_period") is None else parse_seconds(raw["stop_grace_period"]),
            working_dir=raw.get("working_dir"),
            healthcheck=_parse_healthcheck(raw.get("healthcheck") or {}),
            cap_drop=tuple(sorted(raw.get("cap_drop") or [])),
            cap_add=tuple(sorted(raw.get("cap_add") or [])),
            security_opt=tuple(sorted(raw.get("security_opt") or [])),
            dns=_parse_list([raw["dns"]] if isinstance(raw.get("dns"), str) else raw.get("dns")) or (),
            extra_hosts=tuple(sorted(raw.get("extra_hosts") or [])),
            memory_bytes=parse_bytes(raw.get("mem_limit", 0)),
            pids_limit=int(raw.get("pids_limit") or 0),
            log_driver=str(logging.get("driver") or ""),
            log_options={key: str(value) for key, value in (logging.get("options") or {}).items()},
            devices=tuple(sorted(str(device).partition(":")[0] for device in raw.get("devices") or [])),
            memlock=(raw.get("ulimits") or {}).get("memlock") == -1,
            labels={key: str(value) for key, value in (raw.get("labels") or {}).items()},
            anvil=dict(raw.get("x-anvil") or {}),
        )
    return services
