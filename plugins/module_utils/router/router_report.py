# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a router, its live revision and its history, for ``anvil_router_info``."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Dict, List, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.addresses import format_url
from ansible_collections.anvil.serving.plugins.module_utils.core.http_request import request_http
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.promotion.container_troubles import describe_troubles
from ansible_collections.anvil.serving.plugins.module_utils.promotion.crash_loops import started_since
from ansible_collections.anvil.serving.plugins.module_utils.promotion.history import list_history
from ansible_collections.anvil.serving.plugins.module_utils.promotion.journal import parse_journal
from ansible_collections.anvil.serving.plugins.module_utils.promotion.loaded_revision import is_loaded
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica_group import ReplicaGroup, read_volume
from ansible_collections.anvil.serving.plugins.module_utils.promotion.request import PromotionRequest
from ansible_collections.anvil.serving.plugins.module_utils.promotion.volume_reader import read_snapshot
from ansible_collections.anvil.serving.plugins.module_utils.router.router_container import RouterContainer
from ansible_collections.anvil.serving.plugins.module_utils.router.router_settings import RouterSettings

# What ``in_flight`` says of a journal that cannot be read; a promotion then stops with what to type.
UNREADABLE = "unknown: the journal cannot be read"


def describe_router(docker: DockerEngine, settings: RouterSettings) -> Dict[str, Any]:
    """The router as found; an absent one is not a failure."""
    router = RouterContainer(docker, settings, PromotionRequest(files={}))
    state = router.read_state()
    report: Dict[str, Any] = {
        "exists": state.exists,
        "state": state.status,
        "container_id": state.container_id,
        "image_id": state.image_id,
        "started_at": str(router.inspected["State"]["StartedAt"]) if router.inspected else "",
        "restarts": state.restarts,
        "healthy": False,
        "endpoint": "",
        "token_set": None,
        "unauthorized_status": None,
        "revision": None,
        "generation": None,
        "version": None,
        "in_flight": None,
        "loaded": None,
        "history": [],
    }
    endpoint = router.endpoint()
    if endpoint is not None and state.status == "running":
        report["endpoint"] = format_url("http", *endpoint)
        report["healthy"] = router.is_answering()
        status = request_http(endpoint, "GET", "/v1/models", 5.0).status
        report["unauthorized_status"] = status
        report["token_set"] = None if status == 0 else status in (401, 403)
    if not state.exists and not _can_read_volume(docker, settings):
        return report
    snapshot = read_volume(docker, ReplicaGroup((router,)), settings.place, {settings.container: state})
    journal = parse_journal(snapshot.journal, "volume " + settings.volume, discard=True)
    meta = snapshot.meta_of(snapshot.live) if snapshot.live else {}
    report["revision"] = snapshot.live
    report["generation"], report["version"] = meta.get("generation"), meta.get("version")
    report["in_flight"] = journal.state if journal is not None and journal.in_flight else None
    if journal is None and snapshot.journal is not None:
        report["in_flight"] = UNREADABLE
    report["loaded"] = is_loaded(journal, snapshot, state) if snapshot.live and state.is_up else None
    report["history"] = list(list_history(snapshot, journal))
    return report


def list_restarts(docker: DockerEngine, settings: RouterSettings, replicas: Sequence[str]) -> List[str]:
    """A line for each trouble of a replica: a restart loop, an end by itself, a failing health check, too little memory."""
    found: List[str] = []
    for name in replicas:
        own = replace(settings, container=name)
        state = RouterContainer(docker, own, PromotionRequest(files={})).read_state()
        since = 0.0
        if state.restarts:
            snapshot = read_snapshot(docker, state.container_id, own.place)
            journal = parse_journal(snapshot.journal, "volume " + settings.volume, discard=True)
            since = started_since(journal, snapshot, name)
        found += describe_troubles(name, state, since, time.time())
    return found


def _can_read_volume(docker: DockerEngine, settings: RouterSettings) -> bool:
    """Whether the volume can be read where no container mounts it: that takes the router's image."""
    has_image = bool(settings.image) and docker.inspect_image(settings.image) is not None
    return has_image and docker.inspect_volume(settings.volume) is not None
