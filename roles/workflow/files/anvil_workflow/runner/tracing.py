# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Traces of runs, nodes and model calls, posted as OTLP to MLflow.

A run only appends spans to a list. One task posts them, keeps what MLflow does not take for now, and drops what it refuses for
good: a dead or slow MLflow never delays a run. The log has one line when delivery begins to fail, and one when it works again.
The same task deletes the traces of deleted jobs, and those that are older than ended jobs are kept. The few protobuf
messages are encoded by ``protobuf``; the SDK would be a third of the Python in the image.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import ssl
import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from anvil_workflow.runner.costs import CallCost
from anvil_workflow.runner.endpoints import show_url
from anvil_workflow.runner.protobuf import encode_attribute, encode_bytes, encode_text, read_rejected

log = logging.getLogger(__name__)

LONGEST_TEXT = 32 * 1024
MOST_WAITING = 4096
MOST_WAITING_TEXT = 16 * 1024 * 1024
BATCH = 512
LARGEST_BATCH = 1024 * 1024
LONGEST_PAUSE = 60.0
# What MLflow takes in one request.
DELETED_AT_ONCE = 100
MOST_DELETIONS = 10_000
# A refusal that is about the address, the credentials or the moment, not about the spans.
KEPT_STATUSES = frozenset({401, 403, 404, 405, 407, 408, 421, 425, 429})


@dataclass
class Span:
    """One traced piece of work. start() creates a child; fail() or finish() ends it, once."""

    tracer: Tracer | None
    name: str
    kind: str
    trace_id: bytes
    span_id: bytes
    parent: bytes
    began: int
    attributes: dict[str, str] = field(default_factory=dict)
    ended: int = 0
    error: str = ""

    def start(self, name: str, kind: str) -> Span:
        return Span(self.tracer, name, kind, self.trace_id, os.urandom(8), self.span_id, time.time_ns())

    def finish(self, inputs: Any = None, outputs: Any = None, usage: Any = None) -> None:
        if inputs is not None:
            self.attributes["mlflow.spanInputs"] = _to_json(inputs)
        if outputs is not None:
            self.attributes["mlflow.spanOutputs"] = _to_json(outputs)
        if isinstance(usage, Mapping):
            read = {"input_tokens": usage.get("prompt_tokens"), "output_tokens": usage.get("completion_tokens")}
            counts = {key: value for key, value in read.items() if isinstance(value, int)}
            self.attributes["mlflow.chat.tokenUsage"] = _to_json({**counts, "total_tokens": sum(counts.values())})
        self._end()

    def note_call(self, call: CallCost | None) -> None:
        """What a model call cost, in MLflow's words."""
        if call is not None:
            self.attributes["mlflow.llm.model"] = _to_json(call.model)
            self.note_cost(call.cost, int(call.tokens is None))
            if call.cost is not None:
                parts = {"input_cost": call.prompt_cost, "output_cost": call.completion_cost, "total_cost": call.cost}
                self.attributes["mlflow.llm.cost"] = _to_json(parts)

    def note_cost(self, cost: float | None, unknown_calls: int) -> None:
        if cost is not None:
            self.attributes["anvil.cost"] = _to_json(cost)
        if unknown_calls:
            self.attributes["anvil.unknown_calls"] = _to_json(unknown_calls)

    def fail(self, error: str) -> None:
        self.error = error or "failed"
        self._end()

    @property
    def size(self) -> int:
        """Characters of its texts."""
        return len(self.error) + sum(map(len, self.attributes.values()))

    def _end(self) -> None:
        self.ended = time.time_ns()
        if self.tracer is not None:
            self.tracer.take(self)


class _NoSpan(Span):
    """The span when tracing is off: nothing is recorded."""

    def start(self, name: str, kind: str) -> Span:
        return self

    def finish(self, inputs: Any = None, outputs: Any = None, usage: Any = None) -> None:
        return

    def note_cost(self, cost: float | None, unknown_calls: int) -> None:
        return

    def fail(self, error: str) -> None:
        return


NO_SPAN: Span = _NoSpan(None, "", "", b"", b"", b"", 0)


class Tracer:
    """Collects finished spans and posts them. ttl: seconds that a trace is kept. sent, dropped: numbers of spans."""

    def __init__(
        self,
        uri: str,
        experiment: str,
        service: str,
        auth: tuple[str, str] | None = None,
        trust: ssl.SSLContext | None = None,
        ttl: float = 86400.0,
    ) -> None:
        self._uri, self._experiment, self._service = uri.rstrip("/"), experiment, service
        self._auth = httpx.BasicAuth(*auth) if auth else None
        self._trust, self._ttl = trust, ttl
        self._waiting: list[Span] = []
        self._waiting_text = 0
        self._deleted: list[str] = []
        self._expire_at = 0.0
        self._experiment_id = ""
        self._client: httpx.AsyncClient | None = None
        self._task: asyncio.Task[None] | None = None
        self.sent = self.dropped = 0
        self._undelivered = self._undeleted = ""
        self._told_dropped = 0

    @property
    def problem(self) -> str:
        """Why traces are not delivered, or not deleted; empty where all is well."""
        return self._undelivered or self._undeleted

    @property
    def waiting(self) -> int:
        """Spans that are not delivered yet."""
        return len(self._waiting)

    def begin(self, name: str, job: str) -> Span:
        """The span of a whole run. Both ids derive from the id of the job, so a resumed run continues its trace."""
        trace = bytes.fromhex(job)
        span = Span(self, name, "CHAIN", trace, trace[8:], b"", time.time_ns())
        span.attributes["anvil.job"] = job
        return span

    def take(self, span: Span) -> None:
        if len(self._waiting) >= MOST_WAITING or self._waiting_text + span.size > MOST_WAITING_TEXT:
            self.dropped += 1
        else:
            self._waiting.append(span)
            self._waiting_text += span.size

    def delete(self, job: str) -> None:
        """Delete the trace of a job. While MLflow does not answer this is repeated; after a restart the trace is deleted once it
        is older than ``ttl``.
        """
        trace = bytes.fromhex(job)
        self._waiting = [span for span in self._waiting if span.trace_id != trace]
        self._waiting_text = sum(span.size for span in self._waiting)
        if len(self._deleted) < MOST_DELETIONS:
            self._deleted.append("tr-" + job)

    def open(self) -> None:
        # No proxy of the environment: the password is for MLflow only.
        self._client = httpx.AsyncClient(auth=self._auth, timeout=10, verify=self._trust or True, trust_env=False)
        self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Post the remaining spans, for at most two seconds."""
        if self._task is None or self._client is None:
            return
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(2):
                await self._post_all()
        if self._waiting:
            log.warning(
                "traces: %d spans are lost, because the server stops: %s", len(self._waiting), self.problem or "no answer"
            )
        await self._client.aclose()

    async def _work(self) -> None:
        pause = 1.0
        while True:
            await asyncio.sleep(pause)
            before = self.problem
            works = await self._post_all() and await self._delete_all()
            self._tell(before)
            pause = 1.0 if works else min(LONGEST_PAUSE, pause * 2)

    def _tell(self, before: str) -> None:
        """Log the first failure, and its end with what was lost."""
        if self.problem and not before:
            log.warning("traces do not arrive at MLflow: %s; runs go on, and spans wait", self.problem)
        elif before and not self.problem:
            log.warning("traces arrive at MLflow again; %d spans were dropped meanwhile", self.dropped - self._told_dropped)
            self._told_dropped = self.dropped

    async def _delete_all(self) -> bool:
        """Delete the traces of deleted jobs, and from time to time those that are too old; returns whether that worked."""
        try:
            while self._deleted:
                batch = self._deleted[:DELETED_AT_ONCE]
                await self._request_deletion({"request_ids": batch})
                self._deleted = [trace for trace in self._deleted if trace not in batch]
            if time.monotonic() > self._expire_at:
                self._experiment_id = ""  # so that an experiment that was deleted meanwhile is noticed
                before = int((time.time() - self._ttl) * 1000)
                old = {"max_timestamp_millis": before, "max_traces": DELETED_AT_ONCE}
                while await self._request_deletion(old) >= DELETED_AT_ONCE:
                    pass
                self._expire_at = time.monotonic() + min(600.0, max(1.0, self._ttl / 10))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            self._undeleted = f"{error or type(error).__name__}"
            self._experiment_id = ""
            return False
        self._undeleted = ""
        return True

    async def _request_deletion(self, what: Mapping[str, Any]) -> int:
        """Returns how many traces were deleted."""
        await self._find_experiment()
        assert self._client is not None
        url = f"{self._uri}/api/2.0/mlflow/traces/delete-traces"
        answer = await self._client.post(url, json={"experiment_id": self._experiment_id, **what})
        if answer.status_code != 200:
            raise ValueError(f"HTTP {answer.status_code} for the deletion of traces: {answer.text[:200]}")
        found = answer.json()
        return int(found.get("traces_deleted", 0)) if isinstance(found, dict) else 0

    async def _post_all(self) -> bool:
        """Post every span; returns whether that worked. Spans that MLflow refuses for good are dropped, others are kept."""
        while self._waiting:
            batch = self._take_batch()
            try:
                known = bool(self._experiment_id)
                await self._find_experiment()
                status, reason, rejected = await self._post(batch)
                if 400 <= status < 500 and known and status not in KEPT_STATUSES:
                    # The experiment may have been deleted since it was found. That raises, and keeps the spans.
                    self._experiment_id = ""
                    await self._find_experiment()
                    status, reason, rejected = await self._post(batch)
            except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
                self._undelivered = f"{error or type(error).__name__}"
                self._experiment_id = ""
                return False
            if status >= 500 or status in KEPT_STATUSES:
                self._undelivered = f"HTTP {status}: {reason}"
                self._experiment_id = ""
                return False
            sent = set(map(id, batch))
            self._waiting = [span for span in self._waiting if id(span) not in sent]
            self._waiting_text = sum(span.size for span in self._waiting)
            lost = len(batch) if status >= 400 else min(rejected, len(batch))
            self.dropped += lost
            self.sent += len(batch) - lost
            self._undelivered = f"HTTP {status}: {lost} spans are refused: {reason}" if lost else ""
        return True

    def _take_batch(self) -> list[Span]:
        batch: list[Span] = []
        size = 0
        for span in self._waiting[:BATCH]:
            size += span.size
            if batch and size > LARGEST_BATCH:
                break
            batch.append(span)
        return batch

    async def _post(self, batch: list[Span]) -> tuple[int, str, int]:
        """Returns the status, the reason of a refusal, and how many spans of an accepted request were rejected. Raises ValueError
        for an answer that is not of a collector, such as the page of a login.
        """
        assert self._client is not None
        headers = {"Content-Type": "application/x-protobuf", "x-mlflow-experiment-id": self._experiment_id}
        body = encode_spans(batch, self._service)
        answer = await self._client.post(f"{self._uri}/v1/traces", content=body, headers=headers)
        if 200 <= answer.status_code < 300:
            kind = answer.headers.get("content-type", "")
            if kind.startswith("text/html"):
                raise ValueError(f"{show_url(self._uri)}/v1/traces answers with a page, so it is no collector")
            rejected, reason = read_rejected(answer.content) if "protobuf" in kind else (0, "")
            return answer.status_code, reason, rejected
        if answer.status_code < 400:
            raise ValueError(
                f"{show_url(self._uri)}/v1/traces redirects (HTTP {answer.status_code}): set MLFLOW_TRACKING_URI to its address"
            )
        return answer.status_code, answer.text[:200], 0

    async def _find_experiment(self) -> None:
        if self._experiment_id:
            return
        assert self._client is not None
        base = f"{self._uri}/api/2.0/mlflow/experiments"
        answer = await self._client.get(f"{base}/get-by-name", params={"experiment_name": self._experiment})
        if answer.status_code == 404:
            created = await self._client.post(f"{base}/create", json={"name": self._experiment})
            # Another replica may have created it at the same moment.
            named = {"experiment_name": self._experiment}
            answer = created if created.status_code == 200 else await self._client.get(f"{base}/get-by-name", params=named)
            answer = created if answer.status_code == 404 else answer
        if answer.status_code != 200:
            raise ValueError(f"HTTP {answer.status_code} for the experiment {self._experiment}: {answer.text[:200]}")
        found = answer.json()
        experiment = found.get("experiment", found) if isinstance(found, dict) else {}
        number = experiment.get("experiment_id") if isinstance(experiment, dict) else None
        if not number:
            raise ValueError(f"{show_url(self._uri)} does not answer as MLflow does for the experiment {self._experiment}")
        if experiment.get("lifecycle_stage") == "deleted":
            # Somebody deleted it, so it is not restored without being asked.
            raise ValueError(
                f"the experiment {self._experiment} is deleted in MLflow: restore it (mlflow experiments restore --experiment-id "
                f"{number}), or set MLFLOW_EXPERIMENT_NAME to another name"
            )
        self._experiment_id = str(number)


def _to_json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    # Truncated JSON is not valid, so it is sent as a JSON string.
    return text if len(text) <= LONGEST_TEXT else json.dumps(text[:LONGEST_TEXT] + " … cut", ensure_ascii=False)


def _encode_span(span: Span) -> Iterator[bytes]:
    yield encode_bytes(1, span.trace_id)
    yield encode_bytes(2, span.span_id)
    if span.parent:
        yield encode_bytes(4, span.parent)
    yield encode_text(5, span.name)
    yield b"\x30\x01"  # kind (field 6): internal
    yield b"\x39" + struct.pack("<Q", span.began)
    yield b"\x41" + struct.pack("<Q", span.ended)
    for key, value in {"mlflow.spanType": span.kind, **span.attributes}.items():
        yield encode_bytes(9, encode_attribute(key, value))
    status = encode_text(2, span.error[:1000]) + b"\x18\x02" if span.error else b"\x18\x01"
    yield encode_bytes(15, status)


def encode_spans(spans: list[Span], service: str) -> bytes:
    """An ExportTraceServiceRequest."""
    resource = encode_bytes(1, encode_bytes(1, encode_attribute("service.name", service)))
    scope = encode_bytes(1, encode_text(1, "anvil_workflow"))
    encoded = b"".join(encode_bytes(2, b"".join(_encode_span(span))) for span in spans)
    return encode_bytes(1, resource + encode_bytes(2, scope + encoded))
