# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The application: store, runner, endpoint and tracer put together, with all routes."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from anvil_workflow.environment.settings import Settings
from anvil_workflow.language.workflow import Workflow
from anvil_workflow.runner.costs import read_prices
from anvil_workflow.runner.endpoints import Endpoint, HttpEndpoint, open_client
from anvil_workflow.runner.executor import Executor
from anvil_workflow.runner.job_runner import JobRunner
from anvil_workflow.runner.metrics import Metrics
from anvil_workflow.runner.tracing import Tracer
from anvil_workflow.server.access import AccessGuard, ApiKeys, HostNames
from anvil_workflow.server.access_log import AccessLog
from anvil_workflow.server.job_routes import add_job_routes
from anvil_workflow.server.openapi import build_openapi
from anvil_workflow.server.pages import add_pages
from anvil_workflow.server.readiness import Readiness
from anvil_workflow.server.responses import refuse
from anvil_workflow.server.run_route import add_run_route
from anvil_workflow.server.status_routes import add_status_routes
from anvil_workflow.stores.jobs import StoreError
from anvil_workflow.stores.store_url import open_store

logger = logging.getLogger(__name__)


def make_app(settings: Settings, workflow: Workflow, endpoint: Endpoint | None = None) -> FastAPI:
    """Build the application. endpoint: answers chat completions, instead of the one that the environment names.

    Raises SettingsError.
    """
    if not settings.log_prompts:
        workflow = replace(workflow, nodes={name: replace(node, traced=False) for name, node in workflow.nodes.items()})
    metrics, log = Metrics(), AccessLog()
    store = open_store(settings.jobs, password=settings.jobs_password, lease=settings.lease, sync=settings.sync)
    # Reading the certificates takes longer than anything else here, so it is done once.
    trust = httpx.create_ssl_context()
    client = open_client(trust)
    calls = endpoint or HttpEndpoint(client, settings.environment, workflow.execution.timeout)
    if isinstance(calls, HttpEndpoint):
        for node in workflow.nodes.values():
            calls.find_base(node.llm)
        for why in {calls.explain_missing_key(node.llm) for node in workflow.nodes.values()} - {""}:
            logger.warning("%s", why)
    experiment = settings.mlflow_experiment or workflow.name
    tracer = (
        Tracer(settings.mlflow_uri, experiment, workflow.name, settings.mlflow_auth, trust, settings.ttl)
        if settings.mlflow_uri
        else None
    )
    executor = Executor(workflow, calls, client, read_prices(settings.prices), metrics.count_call)
    for model in workflow.list_unpriced(executor.prices):
        logger.warning("config.execution.max_cost does not count model %s: it has no price in config.prices", model)
    runner = JobRunner(settings, executor, store, client, tracer, metrics)
    readiness = Readiness(workflow, store, calls, runner, tracer)

    @contextlib.asynccontextmanager
    async def run_lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await store.open()
        if tracer is not None:
            tracer.open()
        runner.open()
        yield
        await runner.close()
        await store.close()
        if tracer is not None:
            await tracer.close()
        await client.aclose()
        log.flush()

    app = FastAPI(
        title=workflow.name,
        version=workflow.version or "1",
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        lifespan=run_lifespan,
    )
    app.state.runner, app.state.tracer = runner, tracer
    keys = ApiKeys(settings.api_keys)
    app.add_middleware(AccessGuard, keys=keys, hosts=HostNames(settings.hosts), metrics=metrics, log=log)
    document = build_openapi(workflow, bool(settings.api_keys), settings.callback_hosts)
    app.openapi = lambda: document  # type: ignore[method-assign]
    add_run_route(app, settings, workflow, runner, metrics)
    add_job_routes(app, runner)
    add_status_routes(app, workflow, runner, readiness, keys, metrics, tracer)
    add_pages(app, workflow, document)
    _add_error_handlers(app)
    return app


def _add_error_handlers(app: FastAPI) -> None:
    async def on_store(_request: Request, error: Exception) -> Response:
        return refuse(503, "store", f"the job store cannot be used: {error}", Retry_After="5")

    async def on_http(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        messages = {404: "this path does not exist: see /docs", 405: "this path does not allow this method: see /docs"}
        answer = refuse(error.status_code, "request", messages.get(error.status_code, str(error.detail)))
        answer.headers.update(error.headers or {})
        return answer

    async def on_fault(_request: Request, error: Exception) -> Response:
        return refuse(500, "internal", f"internal error of the server: {type(error).__name__}; its log has the details")

    app.add_exception_handler(StoreError, on_store)
    app.add_exception_handler(Exception, on_fault)
    app.add_exception_handler(HTTPException, on_http)
