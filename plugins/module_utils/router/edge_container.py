# SPDX-License-Identifier: GPL-3.0-or-later
"""The edge as a container whose files are promoted: its dry boot, its reload, and the proof that it runs on them."""

from __future__ import annotations

import time
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.http_request import Reply
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.side_containers import LABEL_OWNER, confine, describe_owner
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import DryBoot, ValidatedCandidate
from ansible_collections.anvil.serving.plugins.module_utils.promotion.request import PromotionRequest
from ansible_collections.anvil.serving.plugins.module_utils.router.dry_boot_plan import LABEL_DRY_BOOT
from ansible_collections.anvil.serving.plugins.module_utils.router.edge import Edge, loaded_hash
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_layout import CONFIG_FOLDER, CONFIG_PATH, SOCKET_PATH
from ansible_collections.anvil.serving.plugins.module_utils.router.generic_container import GenericContainer
from ansible_collections.anvil.serving.plugins.module_utils.router.probes import Probe
from ansible_collections.anvil.serving.plugins.module_utils.router.router_settings import RouterSettings

HAPROXY = ("haproxy", "-W", "-db", "-f", CONFIG_PATH)
# Seconds within which a throwaway HAProxy must answer.
BOOT_TIMEOUT = 10.0


class EdgeDryBoot:
    """A throwaway HAProxy that runs on the candidate and has no clients (``replica.DryBoot``).

    HAProxy's own check opens no socket. Without a dry boot, a new process that cannot open one leaves the edge without a
    listening process for seconds.
    """

    is_faithful = True

    def __init__(
        self, docker: DockerEngine, image: str, files: Mapping[str, bytes], mounts: List[Dict[str, Any]], observation: float
    ) -> None:
        from ansible_collections.anvil.serving.plugins.module_utils.router.programs import dry_boot_edge

        self.observation = observation
        self._until = time.monotonic() + observation
        self._image = image
        self._process = docker.open_process(
            image,
            ["-e", dry_boot_edge.PERL, *HAPROXY],
            entrypoint=["perl"],
            labels={LABEL_DRY_BOOT: "true", LABEL_OWNER: describe_owner()},
            healthcheck={"test": ["NONE"]},
            host_config=confine(tmpfs={"/tmp": "size=32m"}, mounts=mounts),
            folder=CONFIG_FOLDER,
            files=files,
        )
        self._edge = Edge(docker, self._process.container_id)

    def _find_fault(self) -> str:
        """Why it does not answer; empty if it does."""
        try:
            self._edge.read_info()
        except AnvilError as exc:
            return exc.problems[0].why or exc.problems[0].what
        return ""

    def confirm(self) -> Tuple[str, ...]:
        deadline = time.monotonic() + BOOT_TIMEOUT
        while True:
            why = self._find_fault()
            if not why:
                break
            if self._process.has_ended() or time.monotonic() > deadline:
                raise self._failure(why)
            time.sleep(0.05)
        while time.monotonic() < self._until:
            time.sleep(0.25)
            why = self._find_fault()
            if why:
                raise self._failure(why)
        return ()

    def _failure(self, why: str) -> AnvilError:
        self._process.drain()
        return fail(
            "a throwaway edge does not start with the candidate; nothing was changed",
            where="dry boot of image " + self._image[7:19],
            why=why,
            hint="correct the configuration, then run again; HAProxy's messages are below",
            log=self._process.errors.decode("utf-8", "replace").splitlines()[-15:],
        )

    def close(self) -> None:
        self._process.release()


class EdgeContainer(GenericContainer):
    """The edge as a replica of its own promotion: reloaded without dropping a connection, checked through its socket."""

    def __init__(
        self, docker: DockerEngine, settings: RouterSettings, request: PromotionRequest, may_rest: Sequence[str] = ()
    ) -> None:
        super().__init__(docker, settings, request)
        self.edge = Edge(docker, settings.container)
        self.may_rest = may_rest
        self.health = Probe("runtime API", SOCKET_PATH)
        # The process that the last reload started.
        self._pid = ""

    def is_reachable(self) -> bool:
        return True

    def send_probe(self, probe: Probe) -> Reply:
        """200 if the running process has read the written configuration, and is still the one that was reloaded."""
        try:
            info, written = self.edge.read_info(), self.edge.read_written_hash()
        except AnvilError as exc:
            return Reply(0, exc.problems[0].why or exc.problems[0].what)
        if self._pid and info.get("Pid") != self._pid:
            return Reply(503, "its process {0} ended, process {1} runs".format(self._pid, info.get("Pid")))
        if loaded_hash(info) != written:
            return Reply(503, "it runs with another configuration than its file holds")
        return Reply(200, "")

    def reload(self, patient: bool) -> bool:
        self._pid = ""
        if ((self.inspected or {}).get("State") or {}).get("Status") != "running":
            return super().reload(patient=False)
        self.edge.reload(self.settings.start_timeout, self.may_rest)
        self._pid = self.edge.read_info().get("Pid", "")
        return False

    def start_dry_boot(self, candidate: ValidatedCandidate, observation: float) -> Optional[DryBoot]:
        if not self.settings.dry_boot:
            return None
        # A connection of its own: it is used while the lock is taken.
        docker = DockerEngine(self.docker.docker_host)
        return EdgeDryBoot(docker, self.find_image(), candidate.files, self.list_mounts(), observation)
