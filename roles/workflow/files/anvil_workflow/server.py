# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The HTTP side: requests in, answers out. What a job is and how it runs is the runner's."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from html import escape
from importlib import resources
from typing import Any

import httpx
from fastapi import FastAPI, Request, Response
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from . import __version__
from .environment import SettingsError
from .executor import Executor
from .jobs import ENDED, STATUSES, Job, QueueFullError, Store, StoreError, open_store
from .metrics import Metrics
from .models import Endpoint, HttpEndpoint
from .openapi import build_openapi
from .runner import KeyReused, Runner, describe_job, may_call_back
from .settings import Settings
from .tracing import Tracer
from .workflow import Workflow

log = logging.getLogger(__name__)

JOB_ID = re.compile(r"[0-9a-f]{32}")
KEY = re.compile(r"[\x21-\x7e]{1,255}")
OPEN_PATHS = frozenset({"/livez", "/readyz", "/health"})
FAILURES = {"model": 502, "tool": 502, "timeout": 504}
LOOK_SECONDS = 5.0

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Answer(Response):
    """JSON as the standard library writes it."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode("utf-8", "replace")


def refuse(status: int, kind: str, message: str, **headers: str) -> Answer:
    return Answer(
        {"error": {"kind": kind, "message": message}}, status, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )


class Keys:
    """The API keys. Without any, everybody may do everything."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = [hashlib.sha256(key.encode()).digest() for key in keys]

    def allow(self, headers: Mapping[str, str]) -> bool:
        if not self._keys:
            return True
        given = headers.get("x-api-key", "").encode("latin-1")
        scheme, _unused, word = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            given = word.strip().encode("latin-1")
        elif scheme.lower() == "basic":
            # What a browser sends after it asked: any user, the key as the password.
            with contextlib.suppress(binascii.Error, ValueError):
                given = base64.b64decode(word).partition(b":")[2]
        digest = hashlib.sha256(given).digest()
        return any(hmac.compare_digest(digest, key) for key in self._keys)


class Guard:
    """Before everything else: the API key, and no writes for pages of other sites that a browser shows."""

    def __init__(self, app: Any, keys: Keys, metrics: Metrics) -> None:
        self._app, self._metrics, self._keys = app, metrics, keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            refused = None
            if scope["path"] not in OPEN_PATHS and not self._keys.allow(headers):
                refused = refuse(401, "key", "the API key is missing or wrong: send Authorization: Bearer KEY, or X-API-Key")
                refused.headers.append("WWW-Authenticate", "Bearer")
                refused.headers.append("WWW-Authenticate", 'Basic realm="workflow", charset="UTF-8"')
            elif scope["method"] not in ("GET", "HEAD") and headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
                refused = refuse(403, "origin", "a page of another site may not do this")
            if refused is not None:
                self._metrics.refused.labels("key" if refused.status_code == 401 else "origin").inc()
                await refused(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Looks:
    """Whether this server can do its work: looked at now, and at most every few seconds."""

    def __init__(self, workflow: Workflow, store: Store, endpoint: Endpoint, runner: Runner) -> None:
        self._store, self._endpoint, self._runner = store, endpoint, runner
        self._llms = list({(step.llm.provider, step.llm.api_base): step.llm for step in workflow.steps.values()}.values())
        self._checks: dict[str, str] = {}
        self._at = -LOOK_SECONDS
        self._lock = asyncio.Lock()

    async def look(self) -> dict[str, str]:
        """Each thing looked at: "ok", or what is wrong with it."""
        async with self._lock:
            if time.monotonic() - self._at > LOOK_SECONDS or any(text != "ok" for text in self._checks.values()):
                before = self._checks
                checks = await asyncio.gather(self._look_at_store(), self._look_at_models())
                self._checks = {"store": checks[0], "models": checks[1]}
                for name, text in self._checks.items():
                    if before.get(name, "ok") != text:
                        log.warning("readiness: %s: %s", name, text)
                self._at = time.monotonic()
        draining = {"server": "is being stopped"} if self._runner.draining.is_set() else {}
        return {**self._checks, **draining}

    async def _look_at_store(self) -> str:
        try:
            async with asyncio.timeout(2):
                await self._store.check()
        except StoreError as error:
            return str(error)
        except TimeoutError:
            return "does not answer in 2 s"
        return "ok"

    async def _look_at_models(self) -> str:
        if not isinstance(self._endpoint, HttpEndpoint):
            return "ok"
        found = await asyncio.gather(*(self._endpoint.look(llm) for llm in self._llms))
        return "; ".join(text for text in found if text) or "ok"


def make_app(settings: Settings, workflow: Workflow, endpoint: Endpoint | None = None) -> FastAPI:
    """The application. endpoint: what answers chat completions, else the one that the environment names.

    Raises SettingsError.
    """
    metrics = Metrics()
    store = open_store(settings.jobs, password=settings.jobs_password, lease=settings.lease, sync=settings.sync)
    # Reading the certificates takes longer than all else here: once.
    trust = httpx.create_ssl_context()
    client = httpx.AsyncClient(
        verify=trust,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        timeout=httpx.Timeout(30, connect=5),
    )
    calls = endpoint or HttpEndpoint(client, settings.environment, workflow.execution.timeout)
    if isinstance(calls, HttpEndpoint):
        for step in workflow.steps.values():
            calls.find_base(step.llm)
    experiment = settings.mlflow_experiment or workflow.name
    tracer = Tracer(settings.mlflow_uri, experiment, workflow.name, settings.mlflow_auth, trust) if settings.mlflow_uri else None
    runner = Runner(settings, Executor(workflow, calls, client), store, client, tracer, metrics)
    looks = Looks(workflow, store, calls, runner)

    @contextlib.asynccontextmanager
    async def live(_app: FastAPI) -> AsyncIterator[None]:
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

    app = FastAPI(
        title=workflow.name, version=workflow.version or "1", openapi_url=None, docs_url=None, redoc_url=None, lifespan=live
    )
    app.state.runner, app.state.tracer = runner, tracer
    keys = Keys(settings.api_keys)
    app.add_middleware(Guard, keys=keys, metrics=metrics)
    document = build_openapi(workflow, bool(settings.api_keys), settings.callback_hosts)
    app.openapi = lambda: document  # type: ignore[method-assign]
    _add_run(app, settings, workflow, runner, metrics)
    _add_jobs(app, runner)
    _add_looks(app, workflow, runner, looks, keys, metrics, tracer)
    _add_pages(app, workflow, document)
    _add_failures(app)
    return app


# --- POST /run


def _add_run(app: FastAPI, settings: Settings, workflow: Workflow, runner: Runner, metrics: Metrics) -> None:
    check = workflow.read_inputs

    def turn_away(status: int, kind: str, message: str, **headers: str) -> Answer:
        metrics.refused.labels(kind).inc()
        return refuse(status, kind, message, **headers)

    async def run(request: Request) -> Response:
        headers = request.headers
        body = await read_body(request, settings.body_limit)
        if body is None:
            return turn_away(413, "size", f"the body is larger than {settings.body_limit} bytes")
        if body and headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return turn_away(415, "type", "send the inputs as JSON, with Content-Type: application/json")
        try:
            inputs = check.model_validate_json(body or b"{}").model_dump_json(by_alias=True)
        except ValidationError as error:
            metrics.refused.labels("inputs").inc()
            return Answer({"detail": explain_inputs(error)}, 422)
        key, callback = headers.get("idempotency-key"), headers.get("callback-url")
        if key is not None and not KEY.fullmatch(key):
            return turn_away(400, "key", "Idempotency-Key: 1 to 255 visible ASCII characters")
        if callback is not None and not may_call_back(callback, settings.callback_hosts):
            what = "Callback-URL: the host is not among WORKFLOW_CALLBACK_HOSTS of this server"
            return turn_away(400, "callback", what)
        seconds = read_patience(headers.get("prefer"), settings.timeout)
        try:
            job, _unused = await runner.submit(inputs, key, callback)
        except QueueFullError:
            after = str(await runner.estimate_wait())
            return turn_away(429, "busy", f"{settings.queue} jobs wait already: try again later", Retry_After=after)
        except KeyReused:
            return turn_away(422, "key", "this Idempotency-Key was used with other inputs: send these under a new one")
        found = job if job.status in ENDED or seconds <= 0 else await runner.wait(job.id, seconds) or job
        if found.status not in ENDED:
            await runner.store.flush()
        return answer_job(found, "prefer" in headers)

    # It reads its request itself: without FastAPI's search for parameters a request costs a tenth less.
    app.add_route("/run", run, methods=["POST"])


async def read_body(request: Request, limit: int) -> bytes | None:
    """The body; None where it is longer than allowed, however it was announced."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        return None
    pieces = bytearray()
    async for piece in request.stream():
        pieces += piece
        if len(pieces) > limit:
            return None
    return bytes(pieces)


def read_patience(prefer: str | None, timeout: float) -> float:
    """Seconds to wait for the end (RFC 7240): ``respond-async`` alone is 0, ``wait=N`` is N, within the server's own limit."""
    if not prefer:
        return timeout
    words = [word.strip().lower() for word in re.split("[,;]", prefer)]
    wait = next((word.partition("=")[2].strip().strip('"') for word in words if word.startswith("wait")), "")
    if wait.isdecimal():
        return min(float(wait[:9]), timeout)
    return 0.0 if "respond-async" in words else timeout


def explain_inputs(error: ValidationError) -> list[dict[str, Any]]:
    """Every wrong input, in FastAPI's own shape; what was sent is not repeated."""
    return [
        {"loc": ["body", *entry["loc"]], "msg": entry["msg"], "type": entry["type"]}
        for entry in error.errors(include_url=False, include_context=False, include_input=False)
    ]


def answer_job(job: Job, preferred: bool) -> Answer:
    if job.status not in ENDED:
        headers = {"Location": f"/status/{job.id}", "Retry-After": "1"}
        if preferred:
            headers["Preference-Applied"] = "respond-async"
        return Answer(describe_job(job), 202, headers=headers)
    status = 200
    if job.status == "failed":
        status = FAILURES.get(json.loads(job.error or "{}").get("kind", ""), 500)
    elif job.status == "cancelled":
        status = 409
    return Answer(describe_job(job), status)


# --- jobs


def _add_jobs(app: FastAPI, runner: Runner) -> None:
    store = runner.store

    async def find(job_id: str) -> Job | None:
        return await store.get(job_id) if JOB_ID.fullmatch(job_id) else None

    def missing() -> Answer:
        return refuse(404, "job", "there is no such job: it never was, or its time to live is over")

    @app.get("/status/{job_id}")
    async def status(job_id: str) -> Response:
        job = await find(job_id)
        if job is None:
            return missing()
        held = runner.held.get(job_id)
        at = held.progress.at if held is not None and held.progress is not None else None
        headers = {} if job.status in ENDED else {"Retry-After": "1"}
        return Answer(describe_job(job, at), headers={"Cache-Control": "no-store", **headers})

    @app.get("/jobs")
    async def jobs(request: Request) -> Response:
        words = request.query_params
        status, before, limit = words.get("status"), words.get("before"), words.get("limit", "20")
        wrong = [name for name in words if name not in ("status", "before", "limit")]
        if status is not None and status not in STATUSES:
            wrong.append("status")
        if before is not None and not JOB_ID.fullmatch(before):
            wrong.append("before")
        if not re.fullmatch("[0-9]{1,3}", limit) or not 1 <= int(limit) <= 100:
            wrong.append("limit")
        if wrong:
            detail = [{"loc": ["query", name], "msg": "not understood", "type": "value_error"} for name in wrong]
            return Answer({"detail": detail}, 422)
        found = await store.list_jobs(status, before, int(limit))
        listed = [{key: value for key, value in describe_job(job).items() if key not in ("nodes", "outputs")} for job in found]
        return Answer({"jobs": listed, "next": found[-1].id if len(found) == int(limit) else None})

    @app.post("/jobs/{job_id}/cancel")
    async def cancel(job_id: str) -> Response:
        job = await find(job_id)
        if job is None:
            return missing()
        if job.status not in ENDED and not await runner.cancel(job_id):
            job = await find(job_id)
            if job is None:
                return missing()
        elif job.status not in ENDED:
            job = await find(job_id) or job
        if job.status in ("completed", "failed"):
            return refuse(409, "ended", f"the job is {job.status} already")
        return Answer(describe_job(job))

    @app.delete("/jobs/{job_id}")
    async def delete(job_id: str) -> Response:
        job = await find(job_id)
        if job is None:
            return missing()
        if not await store.delete(job_id) and await find(job_id) is not None:
            return refuse(409, "running", f"the job is {job.status}: cancel it first")
        return Response(status_code=204)


# --- looks


def _add_looks(
    app: FastAPI, workflow: Workflow, runner: Runner, looks: Looks, keys: Keys, metrics: Metrics, tracer: Tracer | None
) -> None:
    started = time.monotonic()

    async def look(request: Request) -> tuple[bool, dict[str, str]]:
        """Is all well; and each check, with its reason (addresses, paths) only for who may know it. The log has them all."""
        checks = await looks.look()
        well = all(text == "ok" for text in checks.values())
        if not keys.allow(request.headers):
            checks = {
                name: text if text == "ok" else "failed: ask with the API key, or read the log" for name, text in checks.items()
            }
        return well, checks

    @app.get("/livez")
    async def livez() -> Response:
        return Answer({"status": "alive"})

    @app.get("/readyz")
    async def readyz(request: Request) -> Response:
        ready, checks = await look(request)
        return Answer({"status": "ready" if ready else "not ready", "checks": checks}, 200 if ready else 503)

    @app.get("/health")
    async def health(request: Request) -> Response:
        healthy, checks = await look(request)
        told = {
            "status": "healthy" if healthy else "unhealthy",
            "workflow": workflow.name,
            "version": workflow.version,
            "server": __version__,
            "uptime_seconds": round(time.monotonic() - started, 1),
            "jobs_running": len(runner.held),
            "checks": checks,
        }
        return Answer(told, 200 if healthy else 503)

    @app.get("/metrics")
    async def show_metrics() -> Response:
        with contextlib.suppress(StoreError):
            metrics.waiting.set((await runner.store.count()).get("pending", 0))
        if tracer is not None:
            metrics.spans.labels("sent").set(tracer.sent)
            metrics.spans.labels("dropped").set(tracer.dropped)
        return Response(metrics.write(), media_type="text/plain; version=0.0.4; charset=utf-8")


# --- pages


def _add_pages(app: FastAPI, workflow: Workflow, document: dict[str, Any]) -> None:
    title = escape(workflow.name)
    page, docs = (_read_page(name).replace("@TITLE@", title) for name in ("page.html", "docs.html"))
    shown = {text: {"Content-Security-Policy": _write_policy(text), "X-Content-Type-Options": "nosniff"} for text in (page, docs)}
    schema = {
        "workflow": {"name": workflow.name, "version": workflow.version, "description": workflow.description},
        "inputs": workflow.build_input_schema(),
        "outputs": workflow.build_output_schema(),
    }

    @app.get("/")
    async def show_page() -> Response:
        return Response(page, media_type="text/html", headers=shown[page])

    @app.get("/docs")
    async def show_docs() -> Response:
        return Response(docs, media_type="text/html", headers=shown[docs])

    @app.get("/schema")
    async def show_schema() -> Response:
        return Answer(schema)

    @app.get("/openapi.json")
    async def show_openapi() -> Response:
        return Answer(document)


def _read_page(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _write_policy(text: str) -> str:
    """The page's own script and style and nothing else, and requests to this server alone."""
    hashes = {}
    for tag in ("script", "style"):
        inside = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in inside)
        hashes[tag] = " ".join(f"'sha256-{digest}'" for digest in digests)
    fixed = "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return f"{fixed}; script-src {hashes['script']}; style-src {hashes['style']}"


# --- failures


def _add_failures(app: FastAPI) -> None:
    async def on_store(_request: Request, error: Exception) -> Response:
        return refuse(503, "store", f"the job store cannot be used: {error}", Retry_After="5")

    async def on_http(_request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        words = {404: "there is nothing here: see /docs", 405: "this method is not allowed here: see /docs"}
        answer = refuse(error.status_code, "request", words.get(error.status_code, str(error.detail)))
        answer.headers.update(error.headers or {})
        return answer

    async def on_fault(_request: Request, error: Exception) -> Response:
        return refuse(500, "internal", f"a fault of the server: {type(error).__name__}; its log tells more")

    app.add_exception_handler(StoreError, on_store)
    app.add_exception_handler(Exception, on_fault)
    app.add_exception_handler(HTTPException, on_http)


__all__ = ["SettingsError", "make_app"]
