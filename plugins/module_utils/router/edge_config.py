# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The edge's own configuration: promoted as a router's is, by ``promotion``, and reloaded with no connection dropped."""

from __future__ import annotations

import time
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.probes import Probe
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.http_request import Reply
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.side_containers import LABEL_OWNER, confine, describe_owner
from ansible_collections.anvil.serving.plugins.module_utils.router.dry_boot import LABEL_DRY_BOOT
from ansible_collections.anvil.serving.plugins.module_utils.router.edge import (
    CONFIG,
    SOCKET,
    Door,
    Edge,
    find_revision,
    reload_edge,
)
from ansible_collections.anvil.serving.plugins.module_utils.router.promotion import (
    Crew,
    Member,
    Order,
    Outcome,
    Rehearsal,
    Verdict,
)
from ansible_collections.anvil.serving.plugins.module_utils.router.verbs import (
    Files,
    RouterSetting,
    describe_outcome,
    order_from,
    promote_crew,
    setting_from,
)

FOLDER, _SLASH, NAME = CONFIG.rpartition("/")
HAPROXY = ("haproxy", "-W", "-db", "-f", CONFIG)

# The throwaway's first process: it starts HAProxy, and ends it when its standard input does. The image has no python.
PROGRAM = r"""
my $child = fork();
die "fork: $!\n" unless defined $child;
if (!$child) { open(STDIN, "<", "/dev/null"); exec { $ARGV[0] } @ARGV; die "$ARGV[0]: $!\n"; }
$SIG{CHLD} = sub { waitpid($child, 0); exit(1); };
1 while sysread(STDIN, my $unused, 1);
kill("KILL", $child);
"""


class EdgeBoot:
    """A throwaway HAProxy on the candidate, that leads nobody anywhere (``promotion.Rehearsal``).

    HAProxy's check opens no socket. A new process that cannot open one leaves the old one without its own for seconds.
    """

    def __init__(
        self, engine: DockerEngine, image: str, files: Mapping[str, bytes], mounts: List[Dict[str, Any]], lifetime: float
    ) -> None:
        self.lifetime = lifetime
        self._until = time.monotonic() + lifetime
        self._image = image
        self._process = engine.open_process(
            image,
            ["-e", PROGRAM, *HAPROXY],
            entrypoint=["perl"],
            labels={LABEL_DRY_BOOT: "true", LABEL_OWNER: describe_owner()},
            healthcheck={"test": ["NONE"]},
            host_config=confine(tmpfs={"/tmp": "size=32m"}, mounts=mounts),
            folder=FOLDER,
            files=files,
        )
        self._edge = Edge(engine, self._process.container_id)

    def _answers(self) -> str:
        """Why it does not; empty if it does."""
        try:
            self._edge.read_facts()
        except AnvilError as exc:
            return exc.problems[0].why or exc.problems[0].what
        return ""

    def confirm(self) -> Tuple[str, ...]:
        deadline = time.monotonic() + 10.0
        while True:
            why = self._answers()
            if not why:
                break
            if self._process.has_ended() or time.monotonic() > deadline:
                raise self._sick(why)
            time.sleep(0.05)
        while time.monotonic() < self._until:
            time.sleep(0.25)
            why = self._answers()
            if why:
                raise self._sick(why)
        return ()

    def _sick(self, why: str) -> AnvilError:
        self._process.drain()
        return fail(
            "the candidate does not come up in a throwaway edge; nothing was touched",
            where="dry boot of image " + self._image[7:19],
            why=why,
            log=self._process.errors.decode("utf-8", "replace").splitlines()[-15:],
        )

    def close(self) -> None:
        self._process.release()


class EdgeReader(Files):
    """The edge, as the reader of its own configuration: reloaded with no connection dropped, and asked through its socket."""

    def __init__(self, engine: DockerEngine, setting: RouterSetting, order: Order) -> None:
        super().__init__(engine, setting, order)
        self.edge = Edge(engine, setting.container)
        self.health = Probe("runtime API", SOCKET)
        self._worker = ""

    def can_be_asked(self) -> bool:
        return True

    def ask(self, probe: Probe) -> Reply:
        """200 where the running process has read what is written, and is still the one that was reloaded."""
        try:
            facts, written = self.edge.read_facts(), self.edge.written_revision()
        except AnvilError as exc:
            return Reply(0, exc.problems[0].why or exc.problems[0].what)
        if self._worker and facts.get("Pid") != self._worker:
            return Reply(503, "its process {0} ended, {1} runs".format(self._worker, facts.get("Pid")))
        if find_revision("description " + facts.get("description", "")) != written:
            return Reply(503, "it runs on another configuration than the one that is written")
        return Reply(200, "")

    def reload(self, patient: bool) -> bool:
        self._worker = ""
        if ((self.found or {}).get("State") or {}).get("Status") != "running":
            return super().reload(patient=False)
        self.edge.reload(self.setting.start_timeout)
        self._worker = self.edge.read_facts().get("Pid", "")
        return False

    def rehearse(self, verdict: Verdict, lifetime: float) -> Optional[Rehearsal]:
        if not self.setting.dry_boot:
            return None
        # An engine of its own: it works while the lock is taken.
        engine = DockerEngine(self.engine.docker_host)
        return EdgeBoot(engine, self.image_for_side_containers(), verdict.files, self.list_mounts(), lifetime)


def promote_edge(engine: DockerEngine, setting: RouterSetting, order: Order) -> Outcome:
    """Promote the edge's configuration. While it is reloaded nobody promotes or drains what is behind it."""
    door = Door(engine, setting.container, order.lock_wait)
    try:
        return promote_crew(engine, setting, order, Crew((Member(setting.container, EdgeReader(engine, setting, order)),), door))
    finally:
        door.open()


def parse_edge(given: Mapping[str, Any], check: bool) -> Tuple[RouterSetting, Order]:
    """The setting and the order of an edge's module parameters."""
    validator = ["haproxy", "-c", "-f", CONFIG]
    setting = setting_from(
        {**given, "mount": FOLDER, "validator": validator, "reload_signal": "SIGUSR2", "start_timeout": given["timeout"]}
    )
    files = [{"dest": NAME, "content": given["config"]}] if given["config"] is not None else None
    asked = {**given, "config": None, "profile": None, "files": files, "validator": validator, "mount": FOLDER}
    return setting, order_from({"validate_only": False, **asked}, check)


def converge_edge(engine: DockerEngine, given: Mapping[str, Any], check: bool, with_diff: bool) -> Dict[str, Any]:
    """The edge's module: promote what is given, or reload what is written; ``given`` are its parameters."""
    told: Dict[str, Any] = {"changed": False}
    if given["config"] is not None or given["state"] == "rolled_back":
        setting, order = parse_edge(given, check)
        outcome = promote_edge(engine, setting, order)
        told = {**describe_outcome(outcome, with_diff), "warnings": list(outcome.warnings)}
        if outcome.reloaded or not given["force"]:
            return told
    reloaded = reload_edge(engine, given["container"], given["force"], given["timeout"], given["lock_timeout"], check)
    return {**reloaded, **told, "changed": told["changed"] or reloaded["changed"]}
