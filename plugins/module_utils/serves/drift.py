# SPDX-License-Identifier: GPL-3.0-or-later
"""Drift: the fields in which a container differs from its service definition, each with its value before and after. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
    LABEL_BASE,
    LABEL_CONTENT,
    LABEL_PREFIX,
    LABEL_RESIDENCY,
    LABEL_SPEC,
    LABEL_VRAM,
    Mount,
    Service,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import (
    ObservedContainer,
    ObservedImage,
    read_environment,
)

SIGTERM = "SIGTERM"  # the stop signal of a container that names none


@dataclass(frozen=True)
class Change:
    """One field that differs. reason: a word of the vocabulary that anvil_serve documents."""

    reason: str
    before: Any
    after: Any


def _environment_change(wanted: Mapping[str, str], seen: Mapping[str, str], image: ObservedImage) -> Optional[Change]:
    """Compare values, report only names: values may be secrets."""
    inherited = read_environment(list(image.environment))
    here = {name for name, value in seen.items() if name in wanted or inherited.get(name) != value}
    marks = []
    for name in sorted(here | set(wanted)):
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


def _mount_rows(mounts: Tuple[Mount, ...], image: ObservedImage) -> List[str]:
    return [
        "{0}:{1}:{2}".format(mount.source, mount.target, "ro" if mount.read_only else "rw")
        for mount in mounts
        if not (mount.kind == "volume" and mount.target in image.volumes and len(mount.source) == 64)
    ]


def _security(options: Tuple[str, ...]) -> List[str]:
    """Without ``label=disable``: the Docker Engine adds it to every container with ``ipc: host``."""
    return [option for option in options if option != "label=disable"]


def _labels(labels: Mapping[str, str]) -> Dict[str, str]:
    """Our labels, without those whose change must not restart a serve: VRAM need and residency.

    The labels of images that we build are left out too, because images are compared by id.
    """
    kept = (LABEL_SPEC, LABEL_VRAM, LABEL_RESIDENCY, LABEL_CONTENT, LABEL_BASE)
    return {name: value for name, value in labels.items() if name.startswith(LABEL_PREFIX) and name not in kept}


def _own_labels(labels: Mapping[str, str], wanted: Mapping[str, str], origin_image: ObservedImage) -> Dict[str, str]:
    """The labels that do not come from the image: images that ``anvil_image`` builds have labels too."""
    inherited = dict(origin_image.labels)
    return {name: value for name, value in labels.items() if name in wanted or inherited.get(name) != value}


SECRET_FLAG = re.compile(r"--?[\w-]*(key|token|secret|password)", re.IGNORECASE)


def hide_secrets(words: List[str]) -> List[str]:
    """A command line to show, with the values of flags for keys, tokens and passwords hidden."""
    shown: List[str] = []
    for number, word in enumerate(words):
        flag, given, _value = word.partition("=")
        if given and SECRET_FLAG.fullmatch(flag):
            shown.append(flag + "=<hidden>")
        elif number and SECRET_FLAG.fullmatch(words[number - 1]) and not word.startswith("-"):
            shown.append("<hidden>")
        else:
            shown.append(word)
    return shown


def _capabilities(dropped: Tuple[str, ...], added: Tuple[str, ...]) -> List[str]:
    """Newer versions of Compose write CAP_NET_RAW; older ones, and the inventory, write NET_RAW."""
    return ["-" + word.removeprefix("CAP_") for word in dropped] + ["+" + word.removeprefix("CAP_") for word in added]


def _as_shown(reason: str, before: Any, after: Any) -> Change:
    if reason in ("command", "entrypoint"):
        return Change(reason, hide_secrets(before), hide_secrets(after))
    return Change(reason, before, after)


def diff_service(
    service: Service,
    secrets: Mapping[str, str],
    seen: ObservedContainer,
    origin_image: ObservedImage,
    wanted_image: Optional[ObservedImage],
) -> List[Change]:
    """Every field in which the container differs from the service.

    secrets: the variables of its env file, with values. origin_image: the image that the container was created from.
    wanted_image: the image that the service's reference names on this host now; None where the host does not have it yet.
    """
    silent = wanted_image or origin_image
    entrypoint = silent.entrypoint if service.entrypoint is None else service.entrypoint
    default_command = silent.command if service.entrypoint is None else ()
    command = default_command if service.command is None else service.command
    pairs: List[Tuple[str, Any, Any]] = [
        ("image", seen.image, service.image),
        ("command", list(seen.command), list(command)),
        ("entrypoint", list(seen.entrypoint), list(entrypoint)),
        ("gpu", sorted(seen.gpu_uuids) or ["all"] * bool(seen.gpu_count), sorted(service.gpu_uuids)),
        ("ports", [list(port) for port in seen.ports], [list(port) for port in service.ports]),
        ("mounts", _mount_rows(seen.mounts, origin_image), _mount_rows(service.mounts, silent)),
        ("networks", list(seen.networks), list(service.networks)),
        ("addresses", dict(seen.addresses), dict(service.addresses)),
        ("stop_signal", seen.stop_signal or SIGTERM, service.stop_signal or silent.stop_signal or SIGTERM),
        ("stop_grace", seen.stop_grace, service.stop_grace),
        ("working_dir", seen.working_dir, silent.working_dir if service.working_dir is None else service.working_dir),
        ("ipc", seen.ipc.replace("shareable", "private"), service.ipc.replace("shareable", "private") or "private"),
        ("shm", seen.shm_bytes, service.shm_bytes),
        ("restart_policy", seen.restart, service.restart.split(":")[0]),
        ("user", seen.user, silent.user if service.user is None else service.user),
        ("read_only", seen.read_only, service.read_only),
        ("tmpfs", list(seen.tmpfs), [entry.split(":")[0] for entry in service.tmpfs]),
        ("init", seen.init, service.init),
        ("healthcheck", list(seen.healthcheck), list(service.healthcheck or silent.healthcheck)),
        ("capabilities", _capabilities(seen.cap_drop, seen.cap_add), _capabilities(service.cap_drop, ())),
        ("security_opt", _security(seen.security_opt), _security(service.security_opt)),
        ("extra_hosts", list(seen.extra_hosts), [entry.replace("=", ":", 1) for entry in service.extra_hosts]),
        ("limits", {"memory": seen.memory_bytes, **seen.other_limits}, {"memory": service.memory_bytes}),
        ("labels", _labels(_own_labels(seen.labels, service.labels, origin_image)), _labels(service.labels)),
        ("name", seen.name, service.container),
    ]
    changes = [_as_shown(reason, before, after) for reason, before, after in pairs if before != after]
    if wanted_image is not None and wanted_image.id != seen.image_id and seen.image == service.image:
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
