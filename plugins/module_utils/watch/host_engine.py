# SPDX-License-Identifier: GPL-3.0-or-later
"""The Docker Engine as watch uses it: containers, their use of processors, their logs, and a restart, without any library."""

from __future__ import annotations

import http.client
from typing import Any, Dict, List, Optional
from urllib.parse import quote

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import collect_values, mask_text
from ansible_collections.anvil.serving.plugins.module_utils.docker.containers import Containers
from ansible_collections.anvil.serving.plugins.module_utils.docker.images import Images
from ansible_collections.anvil.serving.plugins.module_utils.docker.networks_and_volumes import NetworksAndVolumes

# Seconds that a hung process has to end by itself; then it is killed.
GRACE = 5


class HostEngine(Containers, Images, NetworksAndVolumes):
    """One Docker Engine on a Unix socket. Every method may raise AnvilError."""

    def read_processor_seconds(self, container_id: str) -> Optional[float]:
        """The processor time that a container has used since its start; None where the Docker Engine does not know."""
        path = "/containers/{0}/stats".format(container_id)
        found = self._get_json("measure a container", path, stream="false", **{"one-shot": "true"})
        try:
            return float(found["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9
        except (TypeError, KeyError, ValueError):
            return None

    def read_data_root(self) -> str:
        """The folder of its images, volumes and logs; empty where it does not say so."""
        found = self._get_json("describe itself", "/info")
        return str(found.get("DockerRootDir") or "") if isinstance(found, dict) else ""

    def restart(self, container_id: str) -> None:
        """Restart exactly this container. Once the Docker Engine has the request, it finishes it, whatever becomes of us."""
        self._post("restart", "/containers/{0}/restart?t={1}".format(container_id, GRACE))

    def start(self, container_id: str) -> None:
        """Start exactly this container; one that runs is left alone."""
        self._post("start", "/containers/{0}/start".format(container_id))

    def stop(self, container_id: str, grace: int = 60) -> None:
        """Stop exactly this container: what runs in it gets so many seconds to end its requests."""
        self._post("stop", "/containers/{0}/stop?t={1}".format(container_id, grace))

    def stop_container(self, name_or_id: str, grace: int = 30) -> None:
        self.stop(name_or_id, grace)

    def remove_container(self, name_or_id: str, volumes: bool = True) -> None:
        """Remove by force; absence is success."""
        path = "/containers/{0}?force=1&v={1:d}".format(quote(name_or_id, safe=""), volumes)
        self._delete("remove a container", path)

    def remove_network(self, name: str) -> None:
        """Remove a network that no container is attached to; absence is success."""
        self._delete("remove a network", "/networks/" + quote(name, safe=""))

    def _delete(self, action: str, path: str) -> None:
        try:
            self._post_alone("/v{0}{1}".format(self.api_version, path), {}, 120.0, "DELETE")
        except ValueError as exc:
            if "no such" not in str(exc).lower() and "not found" not in str(exc).lower():
                raise fail("the Docker Engine did not {0}".format(action), self.docker_host, str(exc)) from exc
        except (OSError, http.client.HTTPException) as exc:
            raise fail("the Docker Engine did not {0}".format(action), self.docker_host, str(exc)) from exc

    def _post(self, action: str, path: str) -> None:
        try:
            self._post_alone("/v{0}{1}".format(self.api_version, path), {}, 120.0)
        except (OSError, http.client.HTTPException, ValueError) as exc:
            raise fail("the Docker Engine did not {0} a container".format(action), self.docker_host, str(exc)) from exc

    def read_masked_log(self, found: Dict[str, Any], lines: int) -> List[str]:
        """The end of the log of an inspected container, without the secrets of its environment."""
        known = collect_values(dict(line.partition("=")[::2] for line in found["Config"].get("Env") or ()))
        return [mask_text(line, known) for line in read_frames(self.read_log_frames(found["Id"], lines, 0))]


def read_frames(raw: bytes) -> List[str]:
    """The lines in the frames of the API: each has a head of 8 bytes, the last 4 of them its length. A TTY has none."""
    if raw[:1] not in (b"\0", b"\1", b"\2") or raw[1:4] != b"\0\0\0":
        return raw.decode("utf-8", "replace").splitlines()
    pieces, place = [], 0
    while place + 8 <= len(raw):
        size = int.from_bytes(raw[place + 4 : place + 8], "big")
        pieces.append(raw[place + 8 : place + 8 + size])
        place += 8 + size
    return b"".join(pieces).decode("utf-8", "replace").splitlines()
