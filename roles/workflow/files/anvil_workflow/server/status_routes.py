# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The routes for operators: ``/livez``, ``/readyz``, ``/health``, ``/metrics``."""

from __future__ import annotations

import contextlib
import time

from fastapi import FastAPI, Request, Response

import anvil_workflow
from anvil_workflow.language.workflow import Workflow
from anvil_workflow.runner.job_runner import JobRunner
from anvil_workflow.runner.metrics import Metrics
from anvil_workflow.runner.tracing import Tracer
from anvil_workflow.server.access import ApiKeys
from anvil_workflow.server.readiness import TRACES, Readiness
from anvil_workflow.server.responses import JsonAnswer
from anvil_workflow.stores.jobs import StoreError


def add_status_routes(
    app: FastAPI,
    workflow: Workflow,
    runner: JobRunner,
    readiness: Readiness,
    keys: ApiKeys,
    metrics: Metrics,
    tracer: Tracer | None,
) -> None:
    started = time.monotonic()

    async def check(request: Request) -> tuple[bool, bool, dict[str, str]]:
        """Whether the server can work, whether it is degraded, and each check. Only callers with the key get the reasons: they
        contain addresses.
        """
        checks = await readiness.check()
        failed = {name for name, text in checks.items() if text != "ok"}
        if not keys.allow(request.headers):
            checks = {
                name: text if text == "ok" else "failed: send the API key to see why, or read the log"
                for name, text in checks.items()
            }
        return failed <= {TRACES}, TRACES in failed, checks

    @app.get("/livez")
    async def livez() -> Response:
        return JsonAnswer({"status": "alive"})

    @app.get("/readyz")
    async def readyz(request: Request) -> Response:
        ready, degraded, checks = await check(request)
        status = "not ready" if not ready else "degraded" if degraded else "ready"
        return JsonAnswer({"status": status, "checks": checks}, 200 if ready else 503)

    @app.get("/health")
    async def health(request: Request) -> Response:
        healthy, degraded, checks = await check(request)
        body = {
            "status": "unhealthy" if not healthy else "degraded" if degraded else "healthy",
            "workflow": workflow.name,
            "version": workflow.version,
            "server": anvil_workflow.__version__,
            "uptime_seconds": round(time.monotonic() - started, 1),
            "jobs_running": len(runner.running),
            "checks": checks,
        }
        return JsonAnswer(body, 200 if healthy else 503)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        with contextlib.suppress(StoreError):
            metrics.waiting.set((await runner.store.count()).get("pending", 0))
        if tracer is not None:
            metrics.spans.labels("sent").set(tracer.sent)
            metrics.spans.labels("dropped").set(tracer.dropped)
            metrics.spans.labels("waiting").set(tracer.waiting)
            metrics.untraced.set(1 if tracer.problem else 0)
        return Response(metrics.write(), media_type="text/plain; version=0.0.4; charset=utf-8")
