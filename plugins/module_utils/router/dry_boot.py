# SPDX-License-Identifier: GPL-3.0-or-later
"""The dry boot of a router: a throwaway container of its image starts on the candidate and answers the probes.

It mounts neither the config volume nor any other that the router may write to, publishes no port, has no alias in the
networks, and ends when the run that started it ends: its first process starts the router as its child and watches its own
standard input. Requests are sent from inside it, so that this host need not reach it.
"""

from __future__ import annotations

import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Dict, List, Mapping, Sequence, Tuple
from urllib.parse import urlsplit

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.http_request import Reply
from ansible_collections.anvil.serving.plugins.module_utils.core.program_source import read_source
from ansible_collections.anvil.serving.plugins.module_utils.core.secret_masking import (
    collect_values,
    mask_problem,
    mask_text,
)
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.docker.side_containers import LABEL_OWNER, SideProcess, describe_owner
from ansible_collections.anvil.serving.plugins.module_utils.router.dry_boot_plan import LABEL_DRY_BOOT, ThrowawayPlan
from ansible_collections.anvil.serving.plugins.module_utils.router.probe_runner import run_probes
from ansible_collections.anvil.serving.plugins.module_utils.router.probes import Probe


class ThrowawayRouter:
    """A router that runs on the candidate in a throwaway container until it is closed."""

    def __init__(self, docker: DockerEngine, plan: ThrowawayPlan, files: Mapping[str, bytes]) -> None:
        """files: path below the mount -> content."""
        from ansible_collections.anvil.serving.plugins.module_utils.router.programs import dry_boot_router

        self.plan = plan
        environment = dict(line.partition("=")[::2] for line in plan.environment)
        self._secrets = [*collect_values(environment), plan.token]
        self.process: SideProcess = docker.open_process(
            plan.image,
            ["-c", read_source(dry_boot_router)],
            entrypoint=["python3"],
            user=plan.user,
            working_dir=plan.working_dir,
            environment=list(plan.environment),
            labels={LABEL_DRY_BOOT: "true", LABEL_OWNER: describe_owner()},
            healthcheck={"test": ["NONE"]},
            host_config=dict(plan.host_config),
            networks=plan.networks[1:],
            folder=plan.mount,
            files=files,
        )
        self._send({"argv": plan.argv, "port": plan.port})

    def close(self) -> None:
        self.process.release()

    def send_probe(self, probe: Probe) -> Reply:
        """One answer of the router; ``AnvilError`` if the router has ended."""
        answer = self._exchange(
            {
                "method": probe.method,
                "path": probe.path,
                "body": probe.body,
                "headers": probe.request_headers(self.plan.token),
                "timeout": probe.timeout,
            },
            probe.timeout + 10.0,
        )
        return Reply(int(answer["status"]), str(answer["body"]))

    def find_unreachable_tiers(self, tiers: Sequence[Mapping[str, Any]]) -> List[str]:
        """A warning for each tier at whose address nothing listens, as seen from the router's networks."""
        addresses = []
        for tier in tiers:
            parts = urlsplit(str(tier["base_url"]))
            if parts.hostname:
                port = parts.port or (443 if parts.scheme == "https" else 80)
                addresses.append((str(tier["id"]), str(tier["base_url"]), [parts.hostname, port]))
        if not addresses or self.plan.host_config["network_mode"] == "none":
            return []
        answer = self._exchange({"connect": [address for _id, _url, address in addresses]}, 30.0)
        return [
            "tier {0}: no server answers at {1} from the router's network ({2})".format(name, url, why)
            for (name, url, _address), why in zip(addresses, answer["connect"])
            if why is not None
        ]

    def wait_healthy(self, health: Probe, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            reply = self.send_probe(health)
            if reply.status == 200:
                return
            if time.monotonic() >= deadline:
                why = "{0} did not answer 200 within {1:g} s: {2}".format(health.path, seconds, reply.body[:200] or reply.status)
                raise self._failure(why)
            time.sleep(0.02)

    def check_alive(self, health: Probe) -> None:
        """Check that the router still runs and answers."""
        reply = self.send_probe(health)
        if reply.status != 200:
            why = "{0} answered at first, then failed: {1}".format(health.path, reply.body[:200] or reply.status)
            raise self._failure(why)

    def check_probes(self, probes: Sequence[Probe]) -> List[str]:
        """Send every probe; an ``AnvilError`` names all that were not answered as expected. Returns warnings."""
        problems, warnings = run_probes(probes, self.send_probe)
        if problems:
            shown = [mask_problem(problem, self._secrets) for problem in problems]
            raise AnvilError(*self._failure("it answers, but a probe of the candidate failed").problems, *shown)
        return warnings

    def _send(self, request: Mapping[str, Any]) -> None:
        self.process.send(json.dumps(request).encode("utf-8") + b"\n")

    def _exchange(self, request: Mapping[str, Any], timeout: float) -> Dict[str, Any]:
        try:
            self._send(request)
            answer = dict(json.loads(self.process.read_line(timeout).decode("utf-8")))
        except AnvilError as exc:
            raise self._failure("the throwaway container was lost: " + exc.problems[0].why) from exc
        if answer["exit"] is not None:
            # The end of its log may still be on its way.
            self.process.drain()
            raise self._failure("the router ended with exit code {0}".format(answer["exit"]))
        return answer

    def _failure(self, why: str) -> AnvilError:
        return fail(
            "a throwaway router does not start with the candidate; nothing was changed",
            where="dry boot of image " + self.plan.image[7:19],
            why=why,
            hint="correct the files, then run again (docs/promotion.md describes the risk of dry_boot: false)",
            log=[mask_text(line, self._secrets) for line in self.process.errors.decode("utf-8", "replace").splitlines()[-15:]],
        )


class RouterDryBoot:
    """A dry boot under way, in a thread (``replica.DryBoot``). seconds: until the router must answer."""

    def __init__(
        self,
        router: ThrowawayRouter,
        health: Probe,
        probes: Sequence[Probe],
        tiers: Sequence[Mapping[str, Any]],
        seconds: float,
        observation: float,
    ) -> None:
        self.router = router
        self.health = health
        self.observation = observation
        self.is_faithful = router.plan.is_faithful
        until = time.monotonic() + observation
        self._pool = ThreadPoolExecutor(1)
        self._is_confirmed = False
        self._is_closed = False

        def work() -> Tuple[str, ...]:
            unreachable = router.find_unreachable_tiers(tiers)
            router.wait_healthy(health, seconds)
            doubts = router.check_probes(probes)
            # A route whose tier is unreachable is refused; without a network every tier is.
            warnings = (*unreachable, *([] if unreachable or not router.plan.networks else doubts))
            while time.monotonic() < until:
                time.sleep(0.1)
                router.check_alive(health)
            return warnings

        self._future: Future[Tuple[str, ...]] = self._pool.submit(work)

    def confirm(self) -> Tuple[str, ...]:
        """The warnings are returned by the first call only."""
        warnings = self._future.result()
        self.router.check_alive(self.health)
        is_first, self._is_confirmed = not self._is_confirmed, True
        return warnings if is_first else ()

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            self.router.close()
            self._pool.shutdown(wait=False)
