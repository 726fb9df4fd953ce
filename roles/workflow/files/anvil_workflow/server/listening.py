# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The listeners of the server: one without TLS for this host and the edge, and one with TLS where there is a certificate."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from anvil_workflow.environment.settings import Settings
from anvil_workflow.environment.variables import SettingsError


class _TlsServer(uvicorn.Server):
    """Ends when the main listener tells it to."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _MainServer(uvicorn.Server):
    """Drains the runner first, before it waits for connections to close, those of the other listener first."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, other: _TlsServer | None) -> None:
        super().__init__(config)
        self._app, self._other = app, other
        self._serving: asyncio.Task[None] | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._app.state.runner.drain()
        super().handle_exit(sig, frame)

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        if self._other is not None and not self.should_exit:
            self._serving = asyncio.create_task(self._other.serve())
            self._serving.add_done_callback(self._end)

    def _end(self, _serving: asyncio.Task[None]) -> None:
        self.should_exit = True

    async def shutdown(self, sockets: Any = None) -> None:
        if self._other is not None and self._serving is not None:
            self._other.should_exit = True
            await asyncio.gather(self._serving, return_exceptions=True)
        await super().shutdown(sockets)


def serve_app(settings: Settings, app: FastAPI) -> bool:
    """Serve until a signal ends it; returns whether it could start. Raises SettingsError for an unusable certificate."""
    options: dict[str, Any] = {
        "host": settings.host,
        "log_config": None,
        "access_log": False,
        "server_header": False,
        "loop": "asyncio",
        "ws": "none",
        "backlog": 4096,
        # Longer than clients keep an idle connection: one that both ends close at the same moment is a reset for a new request.
        "timeout_keep_alive": 75,
        "timeout_graceful_shutdown": round(settings.drain) + 2,
        "proxy_headers": bool(settings.proxies),
        "forwarded_allow_ips": list(settings.proxies),
    }
    other = None
    if settings.certificate:
        tls = uvicorn.Config(app, port=settings.tls_port, lifespan="off", ssl_certfile=settings.certificate, **options)
        try:
            tls.load()
        except (OSError, ssl.SSLError) as error:
            what = f"WORKFLOW_CERTIFICATE_FILE: {settings.certificate} has no certificate with its key, in PEM: {error}"
            raise SettingsError(what) from None
        other = _TlsServer(tls)
    server = _MainServer(uvicorn.Config(app, port=settings.port, lifespan="on", **options), app, other)
    asyncio.run(server.serve())
    return server.started
