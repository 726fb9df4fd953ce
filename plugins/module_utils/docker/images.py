# SPDX-License-Identifier: GPL-3.0-or-later
"""Images through the Docker Engine API: inspect, pull with its progress, tag, and ask the registry for a digest."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Set
from urllib.parse import quote

from ansible_collections.anvil.serving.plugins.module_utils.docker import documents
from ansible_collections.anvil.serving.plugins.module_utils.docker.connection import Connection


@dataclass
class Pull:
    """The progress of one pull. arrived: bytes by layer. layers, complete: the ids of layers."""

    arrived: Dict[str, int] = field(default_factory=dict)
    layers: Set[str] = field(default_factory=set)
    complete: Set[str] = field(default_factory=set)

    def add_event(self, event: Mapping[str, Any]) -> None:
        """Count one event of the pull; an event without a layer changes nothing."""
        layer, status = str(event.get("id") or ""), str(event.get("status") or "")
        if not layer or status.startswith("Pulling from"):
            return
        self.layers.add(layer)
        if status == "Downloading":
            self.arrived[layer] = int((event.get("progressDetail") or {}).get("current") or 0)
        elif status in ("Pull complete", "Already exists"):
            self.complete.add(layer)


class Images(Connection):
    """The images of one Docker Engine."""

    def __init__(self, docker_host: str, timeout: int = 60) -> None:
        super().__init__(docker_host, timeout)
        # By image reference; another thread reads it while the image is pulled.
        self.pulls: Dict[str, Pull] = {}

    def inspect_image(self, reference: str) -> Optional[Dict[str, Any]]:
        """An image, in the form of ``documents.read_image``."""
        raw = self._inspect("image", "/images/{0}/json", reference)
        return None if raw is None else documents.read_image(raw)

    def pull_image(self, reference: str, find_obstacle: Callable[[], str] = lambda: "") -> None:
        """Pull an image, with the login of ``docker login`` where there is one; ``pulls`` holds the progress meanwhile.

        find_obstacle: asked about once a second; a reason ends the pull, and the Docker Engine keeps the layers that are whole.

        It has no deadline: the Docker Engine decides how long it waits for a registry.
        """
        action = "pull image " + reference
        pull = self.pulls[reference] = Pull()
        events = self._call_sdk(action, "pull", reference, stream=True, decode=True)
        from docker.errors import DockerException
        from requests.exceptions import RequestException
        from urllib3.exceptions import HTTPError

        try:
            asked = 0.0
            for event in events:
                if event.get("error"):
                    raise self._refusal(action, str(event["error"]))
                pull.add_event(event)
                if time.monotonic() - asked > 1:
                    asked, obstacle = time.monotonic(), find_obstacle()
                    if obstacle:
                        events.close()
                        raise self._refusal(action, obstacle)
        except (DockerException, RequestException, HTTPError, OSError, ValueError) as exc:
            raise self._failure(action, exc) from exc

    def tag_image(self, reference: str, other: str) -> None:
        """Give an image another name; an image that had this name loses it."""
        repository, _colon, tag = other.rpartition(":")
        self._call_sdk("tag image " + reference, "tag", reference, repository, tag)

    def inspect_distribution(self, reference: str, auth: Optional[Mapping[str, str]] = None) -> Optional[Dict[str, Any]]:
        """An image's description in its registry (``Descriptor.digest``); ``None`` if the registry has no such image."""
        action = "query the registry for " + reference
        found = self._call_sdk_or_none(action, "inspect_distribution", reference, auth_config=dict(auth) if auth else None)
        return None if found is None else dict(found)

    def read_disk_usage(self) -> Dict[str, Any]:
        """``Images`` with their sizes and ``BuildCache``, in the form of ``documents.read_disk_usage``. Sizes: bytes."""
        return documents.read_disk_usage(self._get_object("report its disk usage", "/system/df?type=image&type=build-cache"))

    def read_steps(self, image_id: str) -> List[str]:
        """The commands of an image's history, newest first."""
        action = "read the history of image " + image_id
        listed = self._get_json(action, "/images/{0}/history".format(quote(image_id, safe=":")))
        return [str(row.get("CreatedBy") or "") for row in listed or () if isinstance(row, dict)]
