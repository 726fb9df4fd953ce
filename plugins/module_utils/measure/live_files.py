# SPDX-License-Identifier: GPL-3.0-or-later
"""The files that are live in a router's volume, and the image that the router runs."""

from __future__ import annotations

from typing import Dict, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica_group import ReplicaGroup, read_volume
from ansible_collections.anvil.serving.plugins.module_utils.promotion.request import PromotionRequest
from ansible_collections.anvil.serving.plugins.module_utils.router.router_container import RouterContainer
from ansible_collections.anvil.serving.plugins.module_utils.router.router_settings import RouterSettings


def read_live(docker: DockerEngine, container: str, image: str, volume: str) -> Tuple[str, Dict[str, str]]:
    """The id of the image that the router runs (``image`` where it does not run), and its live files."""
    settings = RouterSettings(container, volume, "/etc/anvil", image=image)
    router = RouterContainer(docker, settings, PromotionRequest(files={}))
    state = router.read_state()
    snapshot = read_volume(docker, ReplicaGroup((router,)), settings.place, {container: state})
    files = snapshot.files_of(snapshot.live) if snapshot.live else {}
    return state.image_id or image, {name: content.decode("utf-8", "replace") for name, content in files.items()}
