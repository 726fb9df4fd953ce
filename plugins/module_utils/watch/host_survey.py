# SPDX-License-Identifier: GPL-3.0-or-later
"""What watch looks at on a slow timer, without changing anything: drift, the VRAM ledger, live revisions, certificates.

Drift is the difference between a serve's container and the definition that ``site.yml`` last brought to the host, or the revision
that is pinned. Values of secrets are not compared, because watch has none; nor is the content of mounted files and weights.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.docker import documents
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import (
    LABEL_VRAM,
    Service,
    service_from_dict,
)
from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import parse_moment
from ansible_collections.anvil.serving.plugins.module_utils.host.gpus import Card
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import HASH, LIVE
from ansible_collections.anvil.serving.plugins.module_utils.router.certificate_files import read_expiry
from ansible_collections.anvil.serving.plugins.module_utils.serves.drift import diff_service
from ansible_collections.anvil.serving.plugins.module_utils.serves.gpu_claims import cards_of
from ansible_collections.anvil.serving.plugins.module_utils.serves.observed import (
    HOLDING,
    ObservedImage,
    observe_container,
    observe_image,
)
from ansible_collections.anvil.serving.plugins.module_utils.serves.serve_revision_files import read_index, read_revision
from ansible_collections.anvil.serving.plugins.module_utils.serves.serve_revisions import take_over, use_image
from ansible_collections.anvil.serving.plugins.module_utils.serves.vram_ledger import parse_claims
from ansible_collections.anvil.serving.plugins.module_utils.watch.host_engine import HostEngine
from ansible_collections.anvil.serving.plugins.module_utils.watch.settings import Pointer, WatchSettings

MIB = 1 << 20
# The most bytes of a certificate's file that are read.
MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class LiveRevision:
    """The revision that a container reads, and when it was promoted (seconds since 1970)."""

    container: str
    revision: str
    promoted: float


@dataclass(frozen=True)
class Survey:
    """drift: serve -> whether its container differs; one that does not run is not among them. claimed, budget: uuid of a card ->
    bytes; a card with a container whose claim is unknown has no sum. certificates: file -> its end, in seconds since 1970.
    finished: seconds since 1970; 0: never. failures: what could not be read."""

    drift: Mapping[str, bool]
    claimed: Mapping[str, float]
    budget: Mapping[str, float]
    revisions: Tuple[LiveRevision, ...]
    certificates: Mapping[str, float]
    finished: float
    failures: Tuple[str, ...] = ()


NOTHING = Survey({}, {}, {}, (), {}, 0.0)


def survey_host(docker: HostEngine, settings: WatchSettings, now: float) -> Survey:
    """Everything that can be read. What cannot be read is in ``failures`` and nowhere else."""
    failures: List[str] = []
    drift, claimed, revisions = {}, {}, []
    for name, service in list_definitions(settings, failures).items():
        try:
            found = has_drifted(docker, settings.project, service)
        except AnvilError as exc:
            failures.append("drift of {0}: {1}".format(name, exc.as_text()))
            continue
        if found is not None:
            drift[name] = found
    budget = {uuid: float(mib * MIB) for uuid, mib in settings.budgets.items()}
    try:
        claimed = sum_claims(docker, budget)
    except AnvilError as exc:
        failures.append("claims on cards: " + exc.as_text())
    for pointer in settings.pointers:
        try:
            live = read_live(docker, pointer)
            revisions += [] if live is None else [live]
        except AnvilError as exc:
            failures.append("live revision of {0}: {1}".format(pointer.container, exc.as_text()))
    certificates = {path: end for path in settings.certificates for end in [read_end(path)] if end is not None}
    unread = [path for path in settings.certificates if path not in certificates]
    failures += ["certificate {0}: its end cannot be read".format(path) for path in unread]
    return Survey(drift, claimed, budget, tuple(revisions), certificates, now, tuple(failures))


def list_definitions(settings: WatchSettings, failures: List[str]) -> Dict[str, Service]:
    """Serve -> what should run: its definition, or the revision that a pin keeps live."""
    found = {name: service_from_dict(raw) for name, raw in settings.services.items()}
    try:
        index, trouble = read_index(settings.directory) if found else ({}, "")
    except AnvilError as exc:
        index, trouble = {}, exc.as_text()
    failures += [trouble] if trouble else []
    for name, history in index.items():
        if history.pin is None or name not in found:
            continue
        revision, why = read_revision(settings.directory, history.pin.revision)
        if revision is None:
            failures.append("pinned revision of {0}: {1}".format(name, why))
            del found[name]
        else:
            found[name] = take_over(use_image(revision, history.pin.image), found[name])
    return found


def has_drifted(docker: HostEngine, project: str, service: Service) -> Optional[bool]:
    """None where the serve does not run, or another container has its name."""
    document = docker.inspect_container(service.container)
    if document is None or document["State"]["Status"] not in HOLDING:
        return None
    seen = observe_container(document)
    if seen.project != project:
        return None
    names = service.anvil.get("secrets") or {}
    kept = {name: seen.environment[name] for name in names if name in seen.environment}
    secrets = {**dict.fromkeys(names, ""), **kept}
    return bool(diff_service(service, secrets, seen, _read_image(docker, seen.image_id), _read_image(docker, service.image)))


def _read_image(docker: HostEngine, reference: str) -> Optional[ObservedImage]:
    found = docker.inspect_image(reference)
    return None if found is None else observe_image(found)


def sum_claims(docker: HostEngine, cards: Mapping[str, Any]) -> Dict[str, float]:
    """uuid -> bytes that the containers on it claim by their label; none for a card with a container that does not say it.

    Only the driver knows which card an index means: a container with one may be on every card.
    """
    sums: Dict[str, Optional[float]] = dict.fromkeys(cards, 0.0)
    known = [Card(None, uuid, None, None, None, None, None, None) for uuid in cards]
    for entry in docker.list_containers() if sums else ():
        if entry["State"] not in HOLDING:
            continue
        raw = docker.inspect_container(str(entry["Id"]))
        if raw is None:
            continue
        mib, by_card = parse_claims(documents.read_container(raw)["Config"]["Labels"].get(LABEL_VRAM, ""))
        uuids = cards_of(raw, known)
        if any(uuid.isdigit() for uuid in uuids):
            return {}
        for uuid in set(uuids).intersection(sums):
            held, claim = sums[uuid], by_card.get(uuid, mib)
            sums[uuid] = None if held is None or claim is None else held + claim * MIB
    return {uuid: total for uuid, total in sums.items() if total is not None}


def read_live(docker: HostEngine, pointer: Pointer) -> Optional[LiveRevision]:
    """None where the container is not there, or nothing was promoted."""
    if docker.inspect_container(pointer.container) is None:
        return None
    found = docker.read_archive(pointer.container, "{0}/{1}/{2}".format(pointer.mount, LIVE, pointer.container), limit=1 << 16)
    if found is None:
        return None
    revision = os.path.basename(str(found[0].get("linkTarget") or ""))
    promoted = parse_moment(str(found[0].get("mtime") or ""))
    return LiveRevision(pointer.container, revision[:12], promoted) if HASH.fullmatch(revision) and promoted else None


def read_end(path: str) -> Optional[float]:
    """When the certificate in a PEM file expires."""
    try:
        with open(path, encoding="ascii", errors="replace") as handle:
            return read_expiry(handle.read(MOST_BYTES))
    except OSError:
        return None
