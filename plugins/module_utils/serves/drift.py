# SPDX-License-Identifier: GPL-3.0-or-later
"""Drift: the fields in which a container differs from its service definition, each with its value before and after. Pure."""

from __future__ import annotations

import posixpath
import re
import signal
from dataclasses import dataclass
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import hide_secrets, mask_value
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
    HOST_NETWORK,
    LABEL_BASE,
    LABEL_CONTENT,
    LABEL_PREFIX,
    LABEL_RESIDENCY,
    LABEL_SPEC,
    LABEL_VRAM,
    NO_HEALTHCHECK,
    Mount,
    Service,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import (
    ObservedContainer,
    ObservedImage,
    name_restart_policy,
    read_environment,
)

# What every engine uses where a container names none: its stop signal, and the seconds between the signal and the kill.
SIGTERM, DEFAULT_GRACE = "SIGTERM", 10
# Variables that nobody asked for: Docker Compose adds the proxies of ~/.docker/config.json, Podman the others.
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
FILLED_VARIABLES = frozenset([*_PROXIES, *(name.lower() for name in _PROXIES), "container", "HOME", "HOSTNAME", "PATH", "TERM"])


@dataclass(frozen=True)
class Change:
    """One field that differs. reason: a word of the vocabulary that anvil_serve documents."""

    reason: str
    before: Any
    after: Any


def _environment_change(
    wanted: Mapping[str, str], seen: Mapping[str, str], origin_image: Optional[ObservedImage]
) -> Optional[Change]:
    """Compare values, report only names: values may be secrets."""
    here = set(wanted)
    if origin_image is not None:
        inherited = read_environment(origin_image.environment)
        here |= {name for name, value in seen.items() if inherited.get(name) != value and name not in FILLED_VARIABLES}
    marks = []
    for name in sorted(here):
        if name not in seen:
            marks.append((name, "absent", "set"))
        elif name not in wanted:
            marks.append((name, "set", "absent"))
        elif seen[name] != wanted[name]:
            marks.append((name, "set", "changed"))
    if not marks:
        return None
    return Change(
        "environment",
        {name: before for name, before, _after in marks},
        {name: after for name, _before, after in marks},
    )


def _mount_rows(mounts: Tuple[Mount, ...], origin_image: Optional[ObservedImage]) -> List[str]:
    """Without the volumes that the image declares. Where the image is unknown, every volume without a name may be one of them."""
    declared = None if origin_image is None else {posixpath.normpath(path) for path in origin_image.volumes}
    rows = []
    for mount in mounts:
        # The Docker Engine cleans paths: /models/ becomes /models.
        target = posixpath.normpath(mount.target)
        source = posixpath.normpath(mount.source) if mount.kind == "bind" else mount.source
        anonymous = mount.kind == "volume" and len(mount.source) == 64
        if not (anonymous and (declared is None or target in declared)):
            rows.append("{0}:{1}:{2}".format(source, target, "ro" if mount.read_only else "rw"))
    return sorted(rows)


def _network_rows(service: Service, seen: ObservedContainer) -> List[str]:
    """Each network, with what ``docker network connect`` set there and Compose does not: aliases, links, options, IPv6."""
    own = {service.name, service.container, seen.name}
    rows = []
    for name in seen.networks:
        end = dict(seen.endpoints.get(name, {}))
        aliases = set(end.pop("aliases", ()))
        marks = ["{0} {1}".format(key, end[key]) for key in sorted(end)]
        marks.extend("alias " + alias for alias in sorted(aliases - own))
        if name in service.networks and name != HOST_NETWORK and service.name not in aliases:
            marks.append("without its alias " + service.name)
        rows.append("{0} ({1})".format(name, ", ".join(marks)) if marks else name)
    return rows


def _security(options: Tuple[str, ...], wanted: Tuple[str, ...]) -> List[str]:
    """Without labels that nobody asked for: the Docker Engine adds ``label=disable`` to every container with ``ipc: host``."""
    named = [option for option in options if not option.startswith("label") or option in wanted]
    return sorted("no-new-privileges:true" if re.fullmatch("no-new-privileges([:=]true)?", one) else one for one in named)


def _limit_pair(service: Service, seen: ObservedContainer) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """The limits before and after.

    A limit that the container lacks although it was made of this very definition was dropped by the Docker Engine, because the
    kernel has no such limit (or a rootless engine may not set it).
    """
    asked = {"memory": service.memory_bytes, "pids": service.pids_limit}
    after = {word: value for word, value in asked.items() if value}
    before = dict(seen.limits)
    if before.get("pids") == -1 and "pids" not in after:
        del before["pids"]
    if "memory" in after and "memory" not in before and before.get("memory_swap") == -1:
        del before["memory_swap"]  # the Docker Engine sets -1 together with the limit of memory that it drops
    if set(after) - set(before) and seen.labels.get(LABEL_SPEC) == service.spec_hash():
        before = {**after, **before}
    return before, after


def _gpu_pair(service: Service, seen: ObservedContainer) -> Tuple[List[str], List[str]]:
    """The GPUs before and after. The driver counts only in a container of another definition: an engine may answer a request
    for one driver by the other."""
    before, after = sorted(seen.gpu_uuids) or ["all"] * bool(seen.gpu_count), sorted(service.gpu_uuids)
    made_of_this = bool(after) and seen.labels.get(LABEL_SPEC) == service.spec_hash()
    if before == after and seen.gpu_driver != service.gpu_driver and not made_of_this and after:
        return ["{0} ({1})".format(uuid, seen.gpu_driver) for uuid in before], [
            "{0} ({1})".format(uuid, service.gpu_driver) for uuid in after
        ]
    return before, after


def _log_pair(service: Service, seen: ObservedContainer) -> Tuple[Dict[str, str], Dict[str, str]]:
    """The logging before and after. The Docker Engine adds the options of its own log driver where the driver is the same."""
    if not service.log_driver:
        return {}, {}
    options = {name: value for name, value in seen.log_options.items() if name in service.log_options}
    return {"driver": seen.log_driver, **options}, {"driver": service.log_driver, **service.log_options}


def _labels(labels: Mapping[str, str]) -> Dict[str, str]:
    """Our labels, without those whose change must not restart a serve: VRAM need and residency.

    The labels of images that we build are left out too, because images are compared by id.
    """
    kept = (LABEL_SPEC, LABEL_VRAM, LABEL_RESIDENCY, LABEL_CONTENT, LABEL_BASE)
    return {name: value for name, value in labels.items() if name.startswith(LABEL_PREFIX) and name not in kept}


def _own_labels(labels: Mapping[str, str], wanted: Mapping[str, str], origin_image: Optional[ObservedImage]) -> Dict[str, str]:
    """The labels that do not come from the image: images that ``anvil_image`` builds have labels too."""
    inherited = None if origin_image is None else dict(origin_image.labels)
    return {
        name: value
        for name, value in labels.items()
        if name in wanted or (inherited is not None and inherited.get(name) != value)
    }


def _capabilities(dropped: Tuple[str, ...], added: Tuple[str, ...]) -> List[str]:
    """Newer versions of Compose write CAP_NET_RAW; older ones, and the inventory, write NET_RAW."""
    return ["-" + word.removeprefix("CAP_") for word in dropped] + ["+" + word.removeprefix("CAP_") for word in added]


def _as_shown(reason: str, before: Any, after: Any) -> Change:
    if reason in ("command", "entrypoint", "healthcheck"):
        return Change(reason, hide_secrets(before), hide_secrets(after))
    if reason == "labels":
        return Change(reason, mask_value(before), mask_value(after))
    return Change(reason, before, after)


def _silent_pairs(service: Service, seen: ObservedContainer, origin: ObservedImage) -> List[Tuple[str, Any, Any]]:
    """The fields whose value comes from the image where the service does not set them.

    It is the image that the container was made of: that the service names another image now is a reason of its own.
    """
    entrypoint = origin.entrypoint if service.entrypoint is None else service.entrypoint
    default_command = origin.command if service.entrypoint is None else ()
    healthcheck = service.healthcheck or origin.healthcheck
    # An image without a health check has none to switch off, and not every engine notes that it is off.
    none_either_way = seen.healthcheck in ((), NO_HEALTHCHECK) and healthcheck in ((), NO_HEALTHCHECK) and not origin.healthcheck
    return [
        ("command", list(seen.command), list(default_command if service.command is None else service.command)),
        ("entrypoint", list(seen.entrypoint), list(entrypoint)),
        ("stop_signal", _signal(seen.stop_signal) or SIGTERM, _signal(service.stop_signal or origin.stop_signal) or SIGTERM),
        (
            "working_dir",
            posixpath.normpath(seen.working_dir or "/"),
            posixpath.normpath((origin.working_dir if service.working_dir is None else service.working_dir) or "/"),
        ),
        ("user", seen.user, origin.user if service.user is None else service.user),
        ("healthcheck", list(seen.healthcheck), list(seen.healthcheck if none_either_way else healthcheck)),
    ]


def _set_pairs(service: Service, seen: ObservedContainer) -> List[Tuple[str, Any, Any]]:
    """The same fields where the image that the container was made of is gone: only those that the service sets."""
    pairs: List[Tuple[str, Any, Any]] = [
        ("command", seen.command, service.command),
        ("entrypoint", seen.entrypoint, service.entrypoint),
        ("stop_signal", _signal(seen.stop_signal), _signal(service.stop_signal) or None),
        ("working_dir", seen.working_dir, service.working_dir),
        ("user", seen.user, service.user),
        ("healthcheck", seen.healthcheck or NO_HEALTHCHECK, service.healthcheck),
    ]
    return [
        (reason, list(before) if isinstance(before, tuple) else before, list(after) if isinstance(after, tuple) else after)
        for reason, before, after in pairs
        if after is not None
    ]


def _hosts(entries: Iterable[str]) -> List[str]:
    """Each as ``name:address``; Compose also writes ``name=address``, and an IPv6 address in brackets."""
    return sorted(re.sub(r"[\[\]]", "", entry.replace("=", ":", 1)) for entry in entries)


def _signal(word: Optional[str]) -> str:
    """A signal by its name: ``15`` (Podman) and ``TERM`` are SIGTERM."""
    if not word or word.startswith("SIG"):
        return word or ""
    known = {str(one.value): one.name for one in signal.Signals}
    return known.get(word, word if word.isdigit() else "SIG" + word)


def _grace(service: Service) -> int:
    return DEFAULT_GRACE if service.stop_grace is None else service.stop_grace


def _restart(policy: str) -> Tuple[str, int]:
    name, _colon, retries = policy.partition(":")
    return name, int(retries) if retries.isdigit() else 0


def _folders(paths: Iterable[str]) -> List[str]:
    return sorted(posixpath.normpath(path) for path in paths)


def _image_name(reference: str) -> str:
    """Podman writes a short name in full: ``docker.io/library/NAME:latest``, and ``localhost/NAME`` for what was built there."""
    return reference.removeprefix("docker.io/").removeprefix("library/").removeprefix("localhost/").removesuffix(":latest")


def _digest(image_id: str) -> str:
    """Podman writes the id of an image without its kind."""
    return image_id.rpartition(":")[2]


def diff_service(
    service: Service,
    secrets: Mapping[str, str],
    seen: ObservedContainer,
    origin_image: Optional[ObservedImage],
    wanted_image: Optional[ObservedImage],
) -> List[Change]:
    """Every field in which the container differs from the service. A field that the service leaves to the engine never differs.

    secrets: the variables of its env file, with values. origin_image: the image that the container was created from; None where
    it is gone (the containerd image store keeps no image without a name), and then nothing is compared with its defaults.
    wanted_image: the image that the service's reference names on this host now; None where the host does not have it yet.
    """
    pairs: List[Tuple[str, Any, Any]] = [
        ("image", _image_name(seen.image), _image_name(service.image)),
        *(_set_pairs(service, seen) if origin_image is None else _silent_pairs(service, seen, origin_image)),
        ("gpu", *_gpu_pair(service, seen)),
        ("ports", [list(port) for port in seen.ports], [list(port) for port in service.ports]),
        ("mounts", _mount_rows(seen.mounts, origin_image), _mount_rows(service.mounts, origin_image)),
        ("networks", _network_rows(service, seen), list(service.networks)),
        ("addresses", dict(seen.addresses), dict(service.addresses)),
        ("stop_grace", DEFAULT_GRACE if seen.stop_grace is None else seen.stop_grace, _grace(service)),
        ("ipc", seen.ipc.replace("shareable", "") or "private", service.ipc.replace("shareable", "") or "private"),
        ("shm", seen.shm_bytes, seen.shm_bytes if service.shm_bytes is None else service.shm_bytes),
        ("restart_policy", seen.restart, name_restart_policy(*_restart(service.restart))),
        ("read_only", seen.read_only, service.read_only),
        ("tmpfs", _folders(seen.tmpfs), _folders(entry.split(":")[0] for entry in service.tmpfs)),
        ("init", seen.init, service.init),
        ("capabilities", _capabilities(seen.cap_drop, seen.cap_add), _capabilities(service.cap_drop, service.cap_add)),
        (
            "security_opt",
            _security(seen.security_opt, service.security_opt),
            _security(service.security_opt, service.security_opt),
        ),
        ("extra_hosts", _hosts(seen.extra_hosts), _hosts(service.extra_hosts)),
        ("dns", list(seen.dns), list(service.dns)),
        ("limits", *_limit_pair(service, seen)),
        ("logging", *_log_pair(service, seen)),
        ("labels", _labels(_own_labels(seen.labels, service.labels, origin_image)), _labels(service.labels)),
        ("name", seen.name, service.container),
    ]
    changes = [_as_shown(reason, before, after) for reason, before, after in pairs if before != after]
    if (
        wanted_image is not None
        and _digest(wanted_image.id) != _digest(seen.image_id)
        and not any(one.reason == "image" for one in changes)
    ):
        changes.append(Change("image", seen.image_id, wanted_image.id))
    wanted_plain = {name: value for name, value in service.environment.items() if name not in secrets}
    seen_plain = {name: value for name, value in seen.environment.items() if name not in secrets}
    plain = _environment_change(wanted_plain, seen_plain, origin_image)
    if plain is not None:
        changes.append(plain)
    secret = _environment_change(
        secrets, {name: value for name, value in seen.environment.items() if name in secrets}, origin_image
    )
    if secret is not None:
        changes.append(Change("env_file", secret.before, secret.after))
    wanted_spec, seen_spec = service.labels.get(LABEL_SPEC, ""), seen.labels.get(LABEL_SPEC, "")
    same_format = wanted_spec.partition(":")[0] == seen_spec.partition(":")[0]
    if not changes and same_format and wanted_spec != seen_spec:
        changes.append(Change("stale_container", seen_spec, wanted_spec))
    return sorted(changes, key=lambda change: change.reason)
