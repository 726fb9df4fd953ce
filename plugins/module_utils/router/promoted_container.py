# SPDX-License-Identifier: GPL-3.0-or-later
"""A container that reads its files from a config volume: its state, its reload, and the proof that it came up on a revision."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.http_request import Reply
from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import collect_values, mask_problem
from ansible_collections.anvil.serving.plugins.module_utils.docker.connection import is_local
from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import find_endpoint
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.promotion.file_sources import Choice
from ansible_collections.anvil.serving.plugins.module_utils.promotion.journal import shorten_revision
from ansible_collections.anvil.serving.plugins.module_utils.promotion.replica import (
    ContainerState,
    DryBoot,
    Proof,
    ValidatedCandidate,
)
from ansible_collections.anvil.serving.plugins.module_utils.promotion.request import PromotionRequest
from ansible_collections.anvil.serving.plugins.module_utils.promotion.revisions import Place, hash_revision
from ansible_collections.anvil.serving.plugins.module_utils.promotion.volume_reader import read_snapshot
from ansible_collections.anvil.serving.plugins.module_utils.router.container_state import (
    Process,
    ProcessWatch,
    is_stopped,
    read_container_state,
)
from ansible_collections.anvil.serving.plugins.module_utils.router.probe_runner import run_probes, send_probe
from ansible_collections.anvil.serving.plugins.module_utils.router.probes import Probe
from ansible_collections.anvil.serving.plugins.module_utils.router.router_settings import RouterSettings

# A container that was started less than this ago may still be coming up (seconds).
STARTUP_TIME = 15.0


class PromotedContainer:
    """What every kind of container has in common as a ``replica.Replica``.

    inspected: what ``docker inspect`` said last. health: the request that it must answer with 200; ``None``: none is sent.
    probes: the requests that the revision which is verified next must answer.
    """

    def __init__(self, docker: DockerEngine, settings: RouterSettings, request: PromotionRequest) -> None:
        self.docker = docker
        self.settings = settings
        self.request = request
        self.inspected: Optional[Dict[str, Any]] = None
        self.health: Optional[Probe] = None
        self.probes: Tuple[Probe, ...] = settings.probes
        self.warnings: List[str] = []
        self._image_id = ""

    @property
    def name(self) -> str:
        return self.settings.container

    def read_state(self) -> ContainerState:
        self.inspected = self.docker.inspect_container(self.name)
        if self.inspected is None:
            return ContainerState(exists=False)
        self._check_mount(self.inspected)
        return read_container_state(self.inspected)

    def _check_mount(self, inspected: Mapping[str, Any]) -> None:
        for mount in inspected.get("Mounts") or ():
            if mount.get("Destination") == self.settings.mount:
                if mount.get("Type") == "volume" and mount.get("Name") == self.settings.volume:
                    return
                why = "it mounts the {0} {1} there".format(mount.get("Type"), mount.get("Name") or mount.get("Source"))
                break
        else:
            why = "nothing is mounted there"
        raise fail(
            "the container does not read its files from volume {0} at {1}".format(self.settings.volume, self.settings.mount),
            where="container " + self.name,
            why=why,
            hint="set volume and mount to those that the container uses, or recreate it from its compose file",
        )

    def apply_meta(self, meta: Mapping[str, Any], is_candidate: bool) -> None:
        self.probes = self.settings.probes if is_candidate else ()

    def adapt_files(self, files: Mapping[str, bytes], spare: Sequence[str] = ()) -> Dict[str, bytes]:
        return dict(files)

    def is_rendered(self, name: str, content: bytes) -> bool:
        return False

    def find_image(self) -> str:
        """The id of the image that reads the files next: the container's own, unless it is about to be replaced."""
        if self._image_id:
            return self._image_id
        named = self.docker.inspect_image(self.settings.image) if self.settings.image else None
        own = str(self.inspected["Image"]) if self.inspected is not None else ""
        if own and not (named is not None and not self.request.reload):
            if named is not None and str(named["Id"]) != own:
                self.warnings.append(
                    "container {0} runs image {1}, not {2}: the candidate is validated with the image that runs".format(
                        self.name, own[7:19], self.settings.image
                    )
                )
            self._image_id = own
        elif named is not None:
            self._image_id = str(named["Id"])
        else:
            raise fail(
                "no image to validate with",
                where="image {0}".format(self.settings.image or "(none given)"),
                why="container {0} does not exist, and the image is not on this host".format(self.name),
                hint="build or pull the image first, or set image to one that is on this host; this module pulls none",
            )
        return self._image_id

    def validate(self, choice: Choice) -> ValidatedCandidate:
        raise NotImplementedError

    def select_startup_files(self, files: Mapping[str, bytes]) -> Dict[str, bytes]:
        return dict(files)

    def start_dry_boot(self, candidate: ValidatedCandidate, observation: float) -> Optional[DryBoot]:
        return None

    # ---------------------------------------------------------------------------------------------------------- health

    def endpoint(self) -> Optional[Tuple[str, int]]:
        """Where this host reaches it; ``None`` if it publishes no port here."""
        if self.inspected is None or not is_local(self.docker.docker_host):
            return None
        return find_endpoint(self.inspected)

    def read_token(self) -> str:
        return ""

    def read_environment(self) -> Dict[str, str]:
        """The environment of the container; empty if there is none."""
        lines = (self.inspected or {"Config": {}})["Config"].get("Env") or ()
        return dict(str(line).partition("=")[::2] for line in lines)

    def list_secrets(self) -> List[str]:
        """What must not be shown of the container's answers."""
        token = self.read_token()
        return collect_values(self.read_environment()) + ([token] if token else [])

    def send_probe(self, probe: Probe) -> Reply:
        endpoint = self.endpoint()
        if endpoint is None:
            return Reply(0, "the container publishes no port that this host can reach")
        return send_probe(endpoint, probe, self.read_token())

    def is_reachable(self) -> bool:
        return self.endpoint() is not None

    def is_answering(self) -> bool:
        """Whether its health request is answered; True where none can be sent."""
        return self.health is None or not self.is_reachable() or self.send_probe(self.health).status == 200

    def is_healthy(self, state: ContainerState, trust: float) -> bool:
        if state.status != "running":
            return False
        while time.time() - state.started_at < trust:
            time.sleep(0.2)
            now = self.read_state()
            if (now.status, now.started_at, now.pid) != (state.status, state.started_at, state.pid):
                return False
        age = time.time() - state.started_at
        return self.is_answering() or (0 <= age < STARTUP_TIME and _wait_for(self.is_answering, STARTUP_TIME - age))

    # ---------------------------------------------------------------------------------------------- reload and verify

    def stop_signal(self) -> str:
        """The signal that ends it before the grace period is over; empty for the container's own."""
        return ""

    def reload(self, patient: bool) -> bool:
        """Restart it, or send the reload signal if the settings name one.

        A process that has just started ignores SIGTERM too: in a crash loop it gets one second, not the grace period.
        """
        inspected = self.inspected or {}
        status = (inspected.get("State") or {}).get("Status")
        is_crashing = inspected.get("RestartCount", 0) > 0 or status != "running"
        if self.settings.reload_signal and patient and not is_crashing:
            self.docker.signal_container(self.name, self.settings.reload_signal)
            return False
        if status == "paused":
            raise fail(
                "a paused container cannot be restarted",
                where="container " + self.name,
                hint="ansible-playbook playbooks/router_up.yml unpauses a router",
            )
        grace = self.settings.grace if patient and not is_crashing else min(1, self.settings.grace)
        self.docker.restart_container(self.name, grace, self.stop_signal())
        return True

    def verify(
        self, place: Place, revision: Optional[str], switched_at: float, observation: float, may_be_unhealthy: bool
    ) -> Proof:
        """Check that it came up: one process, not restarted, healthy, every probe answered as expected.

        That must hold for the settle time after the last probe, and until ``observation`` seconds have passed. Where the
        image has a health check that failed last, or that is the only evidence, its next result is waited for.
        """
        began = time.monotonic()
        was = self.inspected
        first = self.read_state()
        was_signalled = bool(self.settings.reload_signal) and was is not None and was["State"]["StartedAt"] == self._started_at()
        if not was_signalled and not first.has_loaded(switched_at):
            raise self._failure("it was not restarted after the switch", first)
        watch = ProcessWatch(first, may_be_unhealthy, was_signalled)
        health = self.health if self.is_reachable() else None
        health_path = health.path if health else "it"
        proven = False
        steady_since = 0.0
        last = "no request was sent yet"
        processes: Tuple[Process, ...] = ()
        while True:
            now = self.read_state()
            fault = watch.find_fault(now)
            if fault:
                raise self._failure(fault, now)
            reply = self.send_probe(health) if health is not None else Reply(200, "")
            if reply.status != 200:
                last = reply.body[:200] if reply.status == 0 else "status {0}".format(reply.status)
                if proven:
                    raise self._failure("{0} answered at first, then failed: {1}".format(health_path, last), now)
                if time.monotonic() - began > self.settings.start_timeout:
                    why = "{0} did not answer 200 within {1:g} s: {2}".format(health_path, self.settings.start_timeout, last)
                    raise self._failure(why, now)
            elif not proven:
                self._check_probes(now)
                proven, steady_since = True, time.monotonic()
                processes = self._list_processes(first)
                if health is not None:
                    watch.note_answer(now)
            elif time.monotonic() - steady_since >= self.settings.settle and time.monotonic() - began >= observation:
                doubt = watch.find_doubt(now)
                if not doubt or time.monotonic() - began > self.settings.start_timeout:
                    break
            time.sleep(0.1 if proven else 0.02)
        seen = read_snapshot(self.docker, first.container_id, place)
        if seen.live != revision or hash_revision(seen.files_of(seen.live or "")) != revision:
            raise self._failure("it does not see the files of revision {0}".format(shorten_revision(revision)), first)
        left = self._list_processes(first)
        if is_stopped(first.pid, left):
            raise self._failure("its main process is stopped: it runs, but does nothing", now)
        self._warn(*watch.list_warnings(now, processes, left), *([doubt] if doubt else []))
        if self.health is not None and health is None:
            self.warnings.append(
                "container {0} publishes no port that this host can reach: no request was sent to it".format(self.name)
            )
        seconds = round(time.monotonic() - began, 3)
        return Proof(started_at=self._started_at(), pid=first.pid, seconds=seconds, may_be_unhealthy=may_be_unhealthy)

    def _list_processes(self, state: ContainerState) -> Tuple[Process, ...]:
        rows = self.docker.list_processes(state.container_id, ("pid", "stat", "comm"))
        return tuple(Process(int(pid), letters, name) for pid, letters, name in rows if pid.isdigit())

    def _warn(self, *texts: str) -> None:
        for text in texts:
            warning = "container {0}: {1}".format(self.name, text)
            if warning not in self.warnings:
                self.warnings.append(warning)

    def recheck(self, proof: Proof) -> None:
        now = self.read_state()
        if now.status != "running" or (self._started_at(), now.pid) != (proof.started_at, proof.pid):
            raise self._failure("it did not stay up: {0}, restarted {1} times".format(now.status, now.restarts), now)
        if now.is_unhealthy and not proof.may_be_unhealthy:
            raise self._failure("it was verified, but its health check fails now: " + now.complaint, now)
        if not self.is_answering():
            raise self._failure("it was verified, but no longer answers", now)

    def _check_probes(self, state: ContainerState) -> None:
        if not self.probes or not self.is_reachable():
            return
        problems, warnings = run_probes(self.probes, self.send_probe)
        self.warnings.extend(warning for warning in warnings if warning not in self.warnings)
        if problems:
            failure = self._failure("it answers, but a probe of this revision failed", state)
            raise AnvilError(*failure.problems, *(mask_problem(problem, self.list_secrets()) for problem in problems))

    def _started_at(self) -> str:
        return str((self.inspected or {"State": {"StartedAt": ""}})["State"]["StartedAt"])

    def _failure(self, why: str, state: ContainerState) -> AnvilError:
        log = self.docker.read_log(self.name, lines=15) if state.exists else []
        hint = "ansible-playbook playbooks/router_logs.yml shows more of a router's log" if state.exists else ""
        return fail("the container did not come up", where="container " + self.name, why=why, hint=hint, log=log)


def _wait_for(condition: Callable[[], bool], seconds: float, every: float = 0.1) -> bool:
    """Poll until the condition holds; whether it did within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True
