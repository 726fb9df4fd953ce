# SPDX-License-Identifier: GPL-3.0-or-later
"""Promote, roll back or reload the edge's own configuration, as ``anvil_router_edge`` does."""

from __future__ import annotations

from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica_group import ReplicaGroup
from ansible_collections.anvil.serving.plugins.module_utils.promotion.request import PromotionRequest
from ansible_collections.anvil.serving.plugins.module_utils.promotion.result import PromotionResult
from ansible_collections.anvil.serving.plugins.module_utils.router.drained_backends import list_backends, list_kept
from ansible_collections.anvil.serving.plugins.module_utils.router.edge import Edge
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_container import EdgeContainer
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_files import EdgeFiles, assemble_files
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_layout import CONFIG_FOLDER, CONFIG_PATH
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_reload import ReplicaLock, reload_edge
from ansible_collections.anvil.serving.plugins.module_utils.router.module_parameters import (
    parse_promotion_request,
    parse_settings,
)
from ansible_collections.anvil.serving.plugins.module_utils.router.module_results import format_result
from ansible_collections.anvil.serving.plugins.module_utils.router.router_promotion import promote_group
from ansible_collections.anvil.serving.plugins.module_utils.router.router_settings import RouterSettings

# The options of ``anvil_router_edge`` that the plan does not give.
EDGE_DEFAULTS: Mapping[str, Any] = {
    "state": "present",
    "config": None,
    "dry_boot": True,
    "revision": "previous",
    "keep": 10,
    "reload": True,
    "force": False,
    "timeout": 15.0,
    "settle": None,
    "lock_timeout": 60.0,
}


def run_edge_module(
    docker: DockerEngine, options: Mapping[str, Any], check_mode: bool, with_diff: bool, may_rest: Sequence[str] = ()
) -> Dict[str, Any]:
    """The return values of ``anvil_router_edge``: promote the given configuration, or reload the written one.

    may_rest: replicas that may be drained meanwhile.
    """
    values: Dict[str, Any] = {"changed": False}
    if options["config"] is not None or options["state"] == "rolled_back":
        files = None
        if options["config"] is not None:
            files = assemble_files({**options, "drained": _read_drained(docker, options["container"], options["config"])})
        settings, request = parse_edge_options(options, files, check_mode)
        result = promote_edge(docker, settings, request, may_rest)
        values = format_result(result, with_diff)
        if files:
            values.update(warnings=[*values["warnings"], *files.warnings], certificates=files.expiry)
        if result.reloaded or not options["force"]:
            return values
    reloaded = reload_edge(
        docker, options["container"], options["force"], options["timeout"], options["lock_timeout"], check_mode, may_rest
    )
    return {**reloaded, **values, "changed": values["changed"] or reloaded["changed"]}


def _read_drained(docker: DockerEngine, container: str, config: str) -> Mapping[str, str]:
    """The backends that operators drained, which a promotion keeps; only a new configuration with tiers over hosts has any."""
    if not list_backends(config) or docker.inspect_container(container) is None:
        return {}
    if docker.read_archive(container, CONFIG_PATH) is None:
        return {}  # it has no configuration yet
    return list_kept(Edge(docker, container).read_config())


def parse_edge_options(
    options: Mapping[str, Any], given: Optional[EdgeFiles], check_mode: bool
) -> Tuple[RouterSettings, PromotionRequest]:
    """The settings and the request in the options of ``anvil_router_edge``. given: the files to promote; None: a roll back."""
    validator = ["haproxy", "-c", "-f", CONFIG_PATH]
    own = {"mount": CONFIG_FOLDER, "validator": validator}
    settings = parse_settings({**options, **own, "reload_signal": "SIGUSR2", "start_timeout": options["timeout"]})
    files = [{"dest": name, "content": text} for name, text in sorted(given.texts.items())] if given else None
    request = {"validate_only": False, **options, **own, "config": None, "profile": None, "files": files}
    return settings, parse_promotion_request(request, check_mode)


def promote_edge(
    docker: DockerEngine, settings: RouterSettings, request: PromotionRequest, may_rest: Sequence[str] = ()
) -> PromotionResult:
    """Promote the edge's configuration. While it is reloaded, no replica behind it is promoted or drained."""
    lock = ReplicaLock(docker, settings.container, request.lock_wait, may_rest)
    group = ReplicaGroup((EdgeContainer(docker, settings, request, may_rest),), lock)
    try:
        return promote_group(docker, settings, request, group)
    finally:
        lock.release()
