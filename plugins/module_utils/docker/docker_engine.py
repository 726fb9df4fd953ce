# SPDX-License-Identifier: GPL-3.0-or-later
"""The Docker Engine of a host, through its API: the containers, images, networks, volumes and side containers in one class."""

from __future__ import annotations

import json
import time
from typing import Any, Dict

from ansible_collections.anvil.serving.plugins.module_utils.docker import documents
from ansible_collections.anvil.serving.plugins.module_utils.docker.images import Images
from ansible_collections.anvil.serving.plugins.module_utils.docker.networks_and_volumes import NetworksAndVolumes
from ansible_collections.anvil.serving.plugins.module_utils.docker.side_containers import SideContainers


class DockerEngine(SideContainers, Images, NetworksAndVolumes):
    """One Docker Engine. Every method may raise ``AnvilError``; an absent object is ``None``."""

    def version(self) -> Dict[str, Any]:
        return self._get_object("report its version", "/version")

    def info(self) -> Dict[str, Any]:
        """In the form of ``documents.read_info``."""
        return documents.read_info(self._get_object("describe itself", "/info"))

    def was_reloaded(self, since: float) -> bool:
        """Whether the Docker Engine has read its daemon.json again since then, and uses it. since: seconds since 1970."""
        moments = {"since": "{0:.9f}".format(since), "until": "{0:.9f}".format(time.time())}
        filters = json.dumps({"type": ["daemon"], "event": ["reload"]})
        answer = self._get("list its events", "/events", {**moments, "filters": filters})
        return answer.status == 200 and b"reload" in answer.body
