# SPDX-License-Identifier: GPL-3.0-or-later
"""Reload the edge without dropping a connection, and never while one of its replicas is drained."""

from __future__ import annotations

import contextlib
from typing import Any, Dict, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.promotion.volume_writer import block_promotions
from ansible_collections.anvil.serving.plugins.module_utils.router.edge import Edge


class ReplicaLock:
    """The lock of the replicas' volume, held while the edge is reloaded: no replica is promoted, drained or restarted then.

    It is the ``replica.TrafficControl`` of the edge's own promotion: a reload drops no connection, so nothing is drained.
    """

    def __init__(self, docker: DockerEngine, container: str, wait: float, may_rest: Sequence[str] = ()) -> None:
        """container: the edge. wait: seconds for a promotion of the replicas to end. may_rest: they may be drained."""
        self.docker = docker
        self.edge = Edge(docker, container)
        self.wait = wait
        self.may_rest = may_rest
        self._held = contextlib.ExitStack()

    def acquire(self) -> None:
        """Take the lock; an ``AnvilError`` if a replica is drained."""
        inspected = self.docker.inspect_container(self.edge.container)
        if inspected is None or str(inspected["State"]["Status"]) != "running":
            return  # no client reaches a replica through it
        with contextlib.ExitStack() as held:
            names = [server.name for server in self.edge.read_servers()]
            held.enter_context(block_promotions(self.docker, names, self.wait))
            self.edge.check_none_drained(self.may_rest)
            self._held = held.pop_all()

    def release(self) -> None:
        self._held.close()

    def find_drained(self) -> Sequence[str]:
        return ()

    def drain(self, replica: str) -> None:
        self.acquire()

    def readmit(self, replica: str) -> None:
        self.release()


def reload_edge(
    docker: DockerEngine,
    container: str,
    force: bool,
    timeout: float,
    lock_wait: float,
    check_mode: bool,
    may_rest: Sequence[str] = (),
) -> Dict[str, Any]:
    """Reload the edge if it has not read the written configuration, or if ``force`` says so (a renewed certificate)."""
    edge = Edge(docker, container)
    old, new = edge.read_loaded_hash(), edge.read_written_hash()
    if old == new and not force:
        return {"changed": False, "revision": {"old": old, "new": new}, "seconds": 0.0}
    if check_mode:
        edge.check_config()
        return {"changed": True, "revision": {"old": old, "new": new}, "seconds": 0.0}
    lock = ReplicaLock(docker, container, lock_wait, may_rest)
    lock.acquire()
    try:
        return {"changed": True, "seconds": edge.reload(timeout, may_rest), "revision": {"old": old, "new": new}}
    finally:
        lock.release()
