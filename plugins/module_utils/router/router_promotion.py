# SPDX-License-Identifier: GPL-3.0-or-later
"""Promote or roll back the files of a router, its replicas, or any other container, as ``anvil_router_promote`` does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, Mapping, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.promotion.history import resolve_revision
from ansible_collections.anvil.serving.plugins.module_utils.promotion.journal import parse_journal, shorten_revision
from ansible_collections.anvil.serving.plugins.module_utils.promotion.promote import promote
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import TrafficControl
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica_group import ReplicaGroup, read_volume
from ansible_collections.anvil.serving.plugins.module_utils.promotion.request import PromotionRequest
from ansible_collections.anvil.serving.plugins.module_utils.promotion.result import PromotionResult
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import hash_revision
from ansible_collections.anvil.serving.plugins.module_utils.router.module_parameters import (
    parse_promotion_request,
    parse_settings,
)
from ansible_collections.anvil.serving.plugins.module_utils.router.module_results import format_result
from ansible_collections.anvil.serving.plugins.module_utils.router.promoted_container import PromotedContainer
from ansible_collections.anvil.serving.plugins.module_utils.router.router_settings import RouterSettings


def run_promotion_module(docker: DockerEngine, options: Mapping[str, Any], check_mode: bool, with_diff: bool) -> Dict[str, Any]:
    """The return values of ``anvil_router_promote``."""
    request = parse_promotion_request(options, check_mode)
    settings = parse_settings(options)
    result = promote_group(docker, settings, request, make_group(docker, settings, request))
    return format_result(result, with_diff)


def make_group(docker: DockerEngine, settings: RouterSettings, request: PromotionRequest) -> ReplicaGroup:
    """The replicas that read the volume, and the edge in front of them."""
    replicas = tuple(_make_container(docker, replace(settings, container=name), request) for name in settings.names)
    traffic = None
    # A single replica is not drained: that would be the outage that draining is to prevent.
    if settings.edge and len(replicas) > 1:
        traffic = _make_traffic_control(docker, settings)
    return ReplicaGroup(replicas, traffic)


def _make_container(docker: DockerEngine, settings: RouterSettings, request: PromotionRequest) -> PromotedContainer:
    if request.replace_all:
        from ansible_collections.anvil.serving.plugins.module_utils.router.generic_container import GenericContainer

        return GenericContainer(docker, settings, request)
    from ansible_collections.anvil.serving.plugins.module_utils.router.router_container import RouterContainer

    return RouterContainer(docker, settings, request)


def _make_traffic_control(docker: DockerEngine, settings: RouterSettings) -> TrafficControl:
    from ansible_collections.anvil.serving.plugins.module_utils.router.edge import Edge
    from ansible_collections.anvil.serving.plugins.module_utils.router.edge_traffic import EdgeTraffic

    return EdgeTraffic(Edge(docker, settings.edge), settings.drain_timeout, settings.start_timeout)


def promote_group(
    docker: DockerEngine, settings: RouterSettings, request: PromotionRequest, group: ReplicaGroup
) -> PromotionResult:
    """Promote or roll back; see ``promotion.promote``. In check mode the image need not be on this host yet."""
    if (
        request.check_mode
        and not request.rollback_to
        and all(docker.inspect_container(name) is None for name in settings.names)
        and not (settings.image and docker.inspect_image(settings.image))
    ):
        warning = "image {0} is not on this host yet: nothing was validated".format(settings.image or "(none given)")
        return PromotionResult(
            changed=not request.validate_only,
            old=None,
            new=hash_revision(request.files),
            before={},
            after=request.files,
            actions=("switch to " + shorten_revision(hash_revision(request.files)),),
            warnings=(warning,),
        )
    place = settings.place
    if request.replace_all:
        place = settings.place_for(_choose_stock_files(docker, group, settings, request))
    result = promote(docker, group, place, request)
    warnings = [warning for replica in group.replicas for warning in replica.warnings]
    return replace(result, warnings=tuple(dict.fromkeys((*result.warnings, *warnings))))


def _choose_stock_files(
    docker: DockerEngine, group: ReplicaGroup, settings: RouterSettings, request: PromotionRequest
) -> Tuple[str, ...]:
    """The stock files that this promotion manages: those of the candidate and those of the live revision."""
    place = settings.place_for(tuple(sorted(request.files)))
    if docker.inspect_volume(settings.volume) is None:
        return place.names
    snapshot = read_volume(docker, group, place, group.read_states())
    journal = parse_journal(snapshot.journal, "volume " + settings.volume, request.discard_journal)
    revisions = {snapshot.live, journal.old if journal else None, journal.new if journal else None}
    if request.rollback_to:
        revisions.add(resolve_revision(request.rollback_to, snapshot, journal))
    in_flight = {name for name in (journal.old, journal.new) if name} if journal and journal.in_flight else set()
    held = {name for revision in revisions - in_flight if revision for name in snapshot.files_of(revision)}
    return tuple(sorted({*place.names, *held}))
