# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who may use the server: API keys with names, the host names of the server, and no writes from pages of other sites.

A page of another site can make a browser send requests here. What it cannot do is set ``Authorization: Bearer`` or
``X-API-Key``, so only these hold a key: a browser adds cookies and Basic credentials by itself. Without a key the host name in a
request decides, because a name that a stranger has pointed at this server (DNS rebinding) is none of its own.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import Response

from anvil_workflow.environment.settings import ApiKey
from anvil_workflow.runner.metrics import Metrics
from anvil_workflow.server.access_log import NOBODY, AccessLog
from anvil_workflow.server.responses import refuse

LIVE_PATH = "/livez"
# The last two are pages without data; their scripts send the key.
OPEN_PATHS = frozenset({LIVE_PATH, "/readyz", "/health", "/", "/docs"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
DEFAULT_PORTS = {"http": ":80", "https": ":443"}
# Failed keys of one address: so many at once, then one in so many seconds.
FAILURES, FAILURE_SECONDS = 20, 3.0
MOST_ADDRESSES = 1024

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class ApiKeys:
    """The API keys. Without any key, every request is allowed."""

    def __init__(self, keys: tuple[ApiKey, ...]) -> None:
        self._names = {hashlib.sha256(key.value.encode()).digest(): key.name for key in keys}

    def __bool__(self) -> bool:
        return bool(self._names)

    def find_client(self, headers: Mapping[str, str]) -> str:
        """The name of the client whose key the headers hold; empty without a valid key."""
        given = headers.get("x-api-key", "").encode("latin-1")
        scheme, _unused, value = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            given = value.strip().encode("latin-1")
        digest = hashlib.sha256(given).digest()
        return next((name for key, name in self._names.items() if hmac.compare_digest(digest, key)), "")

    def allow(self, headers: Mapping[str, str]) -> bool:
        return not self._names or bool(self.find_client(headers))


class FailedKeys:
    """How many failed keys each address may still send. A client that has used its key from an address keeps its access there."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}
        self._known: dict[tuple[str, str], None] = {}

    def wait_seconds(self, address: str, client: str, now: float) -> float:
        """Seconds until this address may send a key again; 0 where it may now. client: the owner of the key, empty for none."""
        if client and (address, client) in self._known:
            return 0.0
        if address in self._left:
            left, at = self._left[address]
            left = min(FAILURES, left + (now - at) / FAILURE_SECONDS)
            if left < 1:
                return (1 - left) * FAILURE_SECONDS
        if client:
            self._keep(self._known, (address, client), None)
        return 0.0

    def count(self, address: str, now: float) -> None:
        """A key failed."""
        left, at = self._left.pop(address, (float(FAILURES), now))
        self._keep(self._left, address, (min(FAILURES, left + (now - at) / FAILURE_SECONDS) - 1, now))

    @staticmethod
    def _keep(kept: dict[Any, Any], key: Any, value: Any) -> None:
        if len(kept) >= MOST_ADDRESSES:
            del kept[next(iter(kept))]
        kept[key] = value


class HostNames:
    """The host names under which this server may be called. IP addresses and localhost always are: nobody can rebind them."""

    def __init__(self, names: tuple[str, ...]) -> None:
        lowered = [name.lower().rstrip(".") for name in names]
        self._all = "*" in lowered
        self._names = frozenset(lowered)
        self._endings = tuple(name[1:] for name in lowered if name.startswith("*."))
        self._judged: dict[str, bool] = {}

    def allow(self, host: str) -> bool:
        """host: the header Host, with or without a port."""
        found = self._judged.get(host)
        if found is None:
            if len(self._judged) >= MOST_ADDRESSES:
                self._judged.clear()
            found = self._judged[host] = self._judge(host)
        return found

    def _judge(self, host: str) -> bool:
        name = strip_port(host.lower()).rstrip(".")
        if self._all or name in self._names or name == "localhost" or name.endswith((".localhost", *self._endings)):
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True


def strip_port(host: str) -> str:
    """``name:8000`` -> name, ``[::1]:8000`` -> [::1]."""
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def is_own_origin(origin: str, host: str) -> bool:
    """Whether a request that a page of ``origin`` sends goes to the host of that page."""
    scheme, _unused, place = origin.lower().partition("://")
    port = DEFAULT_PORTS.get(scheme)
    return port is not None and bool(place) and place.removesuffix(port) == host.lower().removesuffix(port)


class AccessGuard:
    """Middleware before everything else: it judges each request, and writes its line of the access log."""

    def __init__(self, app: Any, keys: ApiKeys, hosts: HostNames, metrics: Metrics, log: AccessLog) -> None:
        self._app, self._metrics, self._keys, self._hosts, self._log = app, metrics, keys, hosts, log
        self._failed = FailedKeys()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        client, refused = self._judge(scope, Headers(scope=scope))
        status = size = 0

        async def send_counted(message: MutableMapping[str, Any]) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                size += len(message.get("body", b""))
            await send(message)

        try:
            await (refused or self._app)(scope, receive, send_counted)
        finally:
            self._log.add(scope, client, status, time.perf_counter() - began, size)

    def _judge(self, scope: Scope, headers: Headers) -> tuple[str, Response | None]:
        """The name of the client, and the answer that refuses its request, if any."""
        refused = self._check_host(scope["path"], headers)
        client = NOBODY
        if refused is None and self._keys:
            client, refused = self._check_key(scope, headers)
        if refused is None and scope["method"] not in SAFE_METHODS:
            refused = self._check_page(headers)
        return client, refused

    def _check_host(self, path: str, headers: Headers) -> Response | None:
        hosts = headers.getlist("host")
        # Every browser sends a host; programs that check whether a server lives send none, or the one they like.
        if path == LIVE_PATH or not hosts or (len(hosts) == 1 and self._hosts.allow(hosts[0])):
            return None
        self._metrics.refused.labels("host").inc()
        what = "the host name of this request is none of this server's names: add it to WORKFLOW_HOSTS (workflow_hosts)"
        return refuse(421, "host", what)

    def _check_key(self, scope: Scope, headers: Headers) -> tuple[str, Response | None]:
        client = self._keys.find_client(headers)
        if scope["path"] in OPEN_PATHS and not client:
            return NOBODY, None
        address, now = find_address(scope), time.monotonic()
        seconds = self._failed.wait_seconds(address, client, now)
        if seconds:
            self._metrics.refused.labels("key").inc()
            what = "too many API keys from this address were wrong: retry after the seconds in Retry-After"
            return NOBODY, refuse(429, "key", what, Retry_After=str(int(seconds) + 1))
        if client:
            return client, None
        if "authorization" in headers or "x-api-key" in headers:
            self._failed.count(address, now)
        self._metrics.refused.labels("key").inc()
        what = "the API key is missing or wrong: send Authorization: Bearer KEY, or X-API-Key"
        return NOBODY, refuse(401, "key", what, WWW_Authenticate="Bearer")

    def _check_page(self, headers: Headers) -> Response | None:
        origin = headers.get("origin")
        own = origin is None or is_own_origin(origin, headers.get("host", ""))
        if own and headers.get("sec-fetch-site", "none") in ("same-origin", "none"):
            return None
        self._metrics.refused.labels("origin").inc()
        what = "a page of another site may not send this request: open this server's own page; a proxy in front must keep Host"
        return refuse(403, "origin", what)


def find_address(scope: Scope) -> str:
    """The address of the client, without the half that a client of IPv6 chooses itself."""
    host = (scope.get("client") or ("",))[0]
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return str(host)
    if address.version == 4:
        return str(host)
    return str(ipaddress.ip_network((int(address) >> 64 << 64, 64)))
