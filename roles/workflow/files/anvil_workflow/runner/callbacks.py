# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Callbacks: an ended job is posted to the URL that its caller gave, until it is accepted or given up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from urllib.parse import urlsplit

import httpx

from anvil_workflow.runner.job_view import describe_job
from anvil_workflow.runner.metrics import Metrics
from anvil_workflow.stores.jobs import Job, Store

log = logging.getLogger("anvil_workflow")
MOST_ATTEMPTS = 8
POLL = 5.0


class CallbackSender:
    """Delivers the callbacks that are due in a store."""

    def __init__(self, store: Store, client: httpx.AsyncClient, metrics: Metrics) -> None:
        self._store, self._client, self._metrics = store, client, metrics
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """A job with a callback has ended."""
        self._wake.set()

    async def send_due(self) -> None:
        """Wait until a callback may be due, then deliver all that are."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(POLL):
                await self._wake.wait()
        self._wake.clear()
        while jobs := await self._store.claim_callbacks(time.time(), time.time() + 60, 16):
            await asyncio.gather(*(self._deliver(job) for job in jobs))

    async def _deliver(self, job: Job) -> None:
        assert job.callback_url is not None
        try:
            answer = await self._client.post(
                job.callback_url, json=describe_job(job), timeout=10, follow_redirects=False, headers={"Idempotency-Key": job.id}
            )
            delivered = answer.is_success
            reason = f"HTTP {answer.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            delivered, reason = False, str(error) or type(error).__name__
        again = None
        if not delivered and job.callback_tries < MOST_ATTEMPTS:
            again = time.time() + min(3600.0, 2.0**job.callback_tries)
        if not delivered:
            log.warning("callback of job %s failed: %s%s", job.id, reason, "" if again else "; given up")
        self._metrics.callbacks.labels("delivered" if delivered else "failed").inc()
        await self._store.settle_callback(job.id, again)


def may_call_back(url: str, hosts: tuple[str, ...]) -> bool:
    """Whether a callback may go to a URL: only to hosts that the deployment names, so that no caller can reach internal hosts."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        return False
    return "*" in hosts or parts.hostname in hosts or f"{parts.hostname}:{port}" in hosts
