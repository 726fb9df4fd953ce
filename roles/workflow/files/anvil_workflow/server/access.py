# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may use the server: API keys, and no writes from pages of other sites."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from starlette.datastructures import Headers

from anvil_workflow.runner.metrics import Metrics
from anvil_workflow.server.responses import refuse

OPEN_PATHS = frozenset({"/livez", "/readyz", "/health"})

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class ApiKeys:
    """The API keys. Without any key, every request is allowed."""

    def __init__(self, keys: tuple[str, ...]) -> None:
        self._keys = [hashlib.sha256(key.encode()).digest() for key in keys]

    def allow(self, headers: Mapping[str, str]) -> bool:
        if not self._keys:
            return True
        given = headers.get("x-api-key", "").encode("latin-1")
        scheme, _unused, value = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            given = value.strip().encode("latin-1")
        elif scheme.lower() == "basic":
            # A browser sends this: any user, the key as the password.
            with contextlib.suppress(binascii.Error, ValueError):
                given = base64.b64decode(value).partition(b":")[2]
        digest = hashlib.sha256(given).digest()
        return any(hmac.compare_digest(digest, key) for key in self._keys)


class AccessGuard:
    """Middleware before everything else: checks the API key, and refuses writes that a page of another site starts."""

    def __init__(self, app: Any, keys: ApiKeys, metrics: Metrics) -> None:
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
                refused = refuse(403, "origin", "a page of another site may not send this request: open this server's own page")
            if refused is not None:
                self._metrics.refused.labels("key" if refused.status_code == 401 else "origin").inc()
                await refused(scope, receive, send)
                return
        await self._app(scope, receive, send)
