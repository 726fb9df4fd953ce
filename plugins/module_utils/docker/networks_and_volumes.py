# SPDX-License-Identifier: GPL-3.0-or-later
"""Networks and volumes through the Docker Engine API: inspect, create, remove."""

from __future__ import annotations

import json
from typing import Any, Dict, Mapping, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError
from ansible_collections.anvil.serving.plugins.module_utils.docker import documents
from ansible_collections.anvil.serving.plugins.module_utils.docker.connection import Connection

MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"


class NetworksAndVolumes(Connection):
    """The networks and volumes of one Docker Engine."""

    def inspect_network(self, name: str) -> Optional[Dict[str, Any]]:
        raw = self._inspect("network", "/networks/{0}", name)
        return None if raw is None else documents.read_network(raw)

    def create_network(
        self, name: str, labels: Mapping[str, str], subnet: str = "", closed: bool = False, internal: bool = False
    ) -> None:
        """Create a bridge network; one that another run created in the meantime counts as success.

        subnet: CIDR, for containers with fixed addresses; where it is empty, the Docker Engine chooses one. closed: the
        addresses of its containers are not replaced by that of the host when they leave it, so no other machine answers them.
        Published ports work, unlike those of an internal network. internal: its containers reach each other only.
        """
        ipam = {"Driver": "default", "Config": [{"Subnet": subnet}]} if subnet else None
        try:
            self._call_sdk(
                "create network " + name,
                "create_network",
                name,
                driver="bridge",
                labels=dict(labels),
                ipam=ipam,
                options={MASQUERADE: "false"} if closed else None,
                internal=internal,
            )
        except AnvilError:
            if self.inspect_network(name) is None:
                raise

    def connect_network(self, name: str, container: str, aliases: Sequence[str]) -> None:
        """Attach a container to a network while it runs; one that is attached already, or gone, counts as success."""
        try:
            self._call_sdk_or_none(
                "connect {0} to network {1}".format(container, name),
                "connect_container_to_network",
                container,
                name,
                aliases=list(aliases),
            )
        except AnvilError:
            found = self.inspect_network(name) or {}
            if container not in [one.get("Name") for one in (found.get("Containers") or {}).values()]:
                raise

    def remove_network(self, name: str) -> None:
        """Remove a network that no container is attached to; absence is success."""
        self._call_sdk_or_none("remove network " + name, "remove_network", name)

    def inspect_volume(self, name: str) -> Optional[Dict[str, Any]]:
        raw = self._inspect("volume", "/volumes/{0}", name)
        return None if raw is None else documents.read_volume(raw)

    def list_unused_volumes(self, label: str) -> Dict[str, Dict[str, str]]:
        """The volumes with this label that no container has: name -> labels."""
        filters = json.dumps({"label": [label], "dangling": ["true"]})
        answer = self._get_json("list volumes", "/volumes", filters=filters)
        rows = answer.get("Volumes") if isinstance(answer, dict) else None
        return {str(row["Name"]): dict(documents.read_volume(row).get("Labels") or {}) for row in rows or ()}

    def create_volume(self, name: str, labels: Mapping[str, str]) -> None:
        self._call_sdk("create volume " + name, "create_volume", name, labels=dict(labels))

    def remove_volume(self, name: str) -> None:
        """Remove a volume with its content; absence is success."""
        self._call_sdk_or_none("remove volume " + name, "remove_volume", name)
