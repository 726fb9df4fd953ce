# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Readiness: whether the job store takes a write, the model endpoints answer, the server is not being
stopped, and traces arrive.
"""

from __future__ import annotations

import asyncio
import logging
import time

from anvil_workflow.language.workflow import Workflow
from anvil_workflow.runner.endpoints import Endpoint, HttpEndpoint
from anvil_workflow.runner.job_runner import JobRunner
from anvil_workflow.runner.tracing import Tracer
from anvil_workflow.stores.jobs import Store, StoreError

log = logging.getLogger(__name__)
KEEP_SECONDS = 5.0
# The one check whose failure stops no run: it makes a server degraded, and leaves it ready.
TRACES = "traces"


class Readiness:
    """Checks the server on demand, and at most every few seconds as long as everything is ok."""

    def __init__(self, workflow: Workflow, store: Store, endpoint: Endpoint, runner: JobRunner, tracer: Tracer | None) -> None:
        self._store, self._endpoint, self._runner, self._tracer = store, endpoint, runner, tracer
        self._llms = list(
            {(node.llm.provider, node.llm.api_base, node.llm.api_key): node.llm for node in workflow.nodes.values()}.values()
        )
        self._checks: dict[str, str] = {}
        self._at = -KEEP_SECONDS
        self._lock = asyncio.Lock()

    async def check(self) -> dict[str, str]:
        """The result of each check: "ok", or what is wrong."""
        async with self._lock:
            if time.monotonic() - self._at > KEEP_SECONDS or any(text != "ok" for text in self._checks.values()):
                before = self._checks
                checks = await asyncio.gather(self._check_store(), self._check_models())
                self._checks = {"store": checks[0], "models": checks[1]}
                for name, text in self._checks.items():
                    if before.get(name, "ok") != text:
                        log.warning("readiness: %s: %s", name, text)
                self._at = time.monotonic()
        draining = {"server": "is being stopped"} if self._runner.draining.is_set() else {}
        traces = {TRACES: self._tracer.problem or "ok"} if self._tracer else {}
        return {**self._checks, **traces, **draining}

    async def _check_store(self) -> str:
        try:
            async with asyncio.timeout(2):
                await self._store.check()
        except StoreError as error:
            return str(error)
        except TimeoutError:
            return "no answer within 2 s"
        return "ok"

    async def _check_models(self) -> str:
        if not isinstance(self._endpoint, HttpEndpoint):
            return "ok"
        found = await asyncio.gather(*(self._endpoint.check(llm) for llm in self._llms))
        return "; ".join(text for text in found if text) or "ok"
