# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""OpenAI-compatible endpoints: one chat completion over HTTP, and whether a failed one is worth a retry."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx

from anvil_workflow.environment.variables import SettingsError, expand, read_secret
from anvil_workflow.language.json_text import read_json
from anvil_workflow.language.schema import Llm
from anvil_workflow.language.workflow import PROVIDERS
from anvil_workflow.runner.streamed_answers import BrokenStreamError, StreamHabits, StreamReader

LARGEST_ANSWER = 16 * 1024 * 1024
# An event holds a token, and some hundred bytes around it.
LARGEST_STREAM = 256 * 1024 * 1024
LONGEST_DELAY = 30.0
RETRIED_STATUSES = frozenset({408, 409, 425, 429})
# A proxy gave up waiting; the model may go on.
GAVE_UP_STATUSES = frozenset({408, 499, 504, 524})
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.ProxyError)


class CallError(Exception):
    """A failed call. again: a retry may help. after: seconds that the endpoint asked to wait. status: of HTTP, 0 without one.

    is_open: the model may have worked on it, so it may have cost something.
    """

    def __init__(self, message: str, again: bool, after: float = 0.0, status: int = 0, is_open: bool = False) -> None:
        self.again, self.after, self.status, self.is_open = again, after, status, is_open
        super().__init__(message)


def open_client(trust: ssl.SSLContext) -> httpx.AsyncClient:
    """The client of endpoints, tools and callbacks. A proxy of the environment gets what is encrypted, and never a key in a
    plain request. Redirects are not followed: a key stays at its URL.
    """
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    plain = httpx.AsyncHTTPTransport(verify=trust, limits=limits)
    return httpx.AsyncClient(
        verify=trust, limits=limits, timeout=httpx.Timeout(30, connect=5), mounts={"http://": plain}, follow_redirects=False
    )


class Endpoint(Protocol):
    async def complete(self, llm: Llm, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to one chat completion, put together where it was streamed. Raises CallError."""


class HttpEndpoint:
    """Calls endpoints over one pool of connections. Keys are read once and appear in no message."""

    def __init__(self, client: httpx.AsyncClient, environment: Mapping[str, str], timeout: float) -> None:
        self._client, self._environment, self._timeout = client, environment, timeout
        self._streams = StreamHabits()
        self._keys = {key: read_secret(key, environment) for _base, key, _default in PROVIDERS.values()}

    def find_base(self, llm: Llm) -> str:
        """The URL of the endpoint. Raises SettingsError where no variable names it."""
        variable, _key, default = PROVIDERS[llm.provider or "openai"]
        text = llm.api_base or (f"${{{variable}:-{default}}}" if default else f"${{{variable}}}")
        return expand(text, self._environment).rstrip("/")

    def make_headers(self, llm: Llm) -> dict[str, str]:
        key = self._find_key(llm)
        return {"Authorization": f"Bearer {key}"} if key else {}

    def _find_key(self, llm: Llm) -> str:
        """The key of a node's endpoint. The key of a provider was written for the URL of the provider, and goes nowhere else."""
        if llm.api_key is not None:
            return read_secret(llm.api_key.strip("${}"), self._environment)
        return self._keys[PROVIDERS[llm.provider or "openai"][1]] if self._is_at_provider(llm) else ""

    def _is_at_provider(self, llm: Llm) -> bool:
        if llm.api_base is None:
            return True
        try:
            return _is_same_url(self.find_base(llm), self.find_base(llm.model_copy(update={"api_base": None})))
        except SettingsError:
            return False

    def explain_missing_key(self, llm: Llm) -> str:
        """Why the key that is set is not sent to a node's endpoint; empty where it is, or none is set."""
        variable, key, _default = PROVIDERS[llm.provider or "openai"]
        if not self._keys[key] or llm.api_key is not None or self._is_at_provider(llm):
            return ""
        return (
            f"{show_url(self.find_base(llm))} gets no key: {key} is for {variable}; write llm.api_key: ${{VARIABLE}} for its own"
        )

    async def check(self, llm: Llm) -> str:
        """Why the endpoint cannot be used; empty where it answers."""
        url = self.find_base(llm)
        shown = show_url(url)
        try:
            answer = await self._client.get(f"{url}/models", headers=self.make_headers(llm), timeout=2)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"{shown} does not answer: {error or type(error).__name__}"
        if answer.status_code in (401, 403):
            return f"{shown} refuses the key"
        return f"{shown} answers HTTP {answer.status_code}" if answer.status_code >= 500 else ""

    async def complete(self, llm: Llm, body: Mapping[str, Any]) -> Mapping[str, Any]:
        url = self.find_base(llm) + "/chat/completions"
        seconds = llm.timeout or self._timeout
        while True:
            sent, began = self._streams.fit(llm, body, seconds), time.monotonic()
            try:
                return await self._request(llm, url, sent, seconds)
            except CallError as error:
                if not self._streams.learn(llm, sent, error.status, str(error), time.monotonic() - began):
                    raise

    async def _request(self, llm: Llm, url: str, body: Mapping[str, Any], seconds: float) -> Mapping[str, Any]:
        request = self._client.build_request("POST", url, json=body, headers=self.make_headers(llm), timeout=seconds)
        try:
            async with asyncio.timeout(seconds):
                return await self._send(request)
        except TimeoutError:
            raise CallError(f"no answer in {seconds:g} s", again=True, is_open=True) from None
        except httpx.HTTPError as error:
            sent = not isinstance(error, NEVER_SENT)
            raise CallError(f"the endpoint does not answer: {error or type(error).__name__}", True, is_open=sent) from None
        except httpx.InvalidURL as error:
            raise CallError(f"{show_url(url)} is not a URL: {error}", again=False) from None
        except BrokenStreamError as error:
            raise CallError(str(error), again=True, is_open=True) from None

    async def _send(self, request: httpx.Request) -> Mapping[str, Any]:
        answer = await self._client.send(request, stream=True)
        try:
            if answer.status_code == 200 and answer.headers.get("content-type", "").startswith("text/event-stream"):
                return await _read_stream(answer)
            body = bytearray()
            async for piece in answer.aiter_bytes():
                body += piece
                if len(body) > LARGEST_ANSWER:
                    raise CallError("the answer is larger than 16 MiB", again=False, is_open=True)
        finally:
            await answer.aclose()
        if answer.status_code != 200:
            again = answer.status_code >= 500 or answer.status_code in RETRIED_STATUSES
            late = answer.status_code in GAVE_UP_STATUSES
            reason = f"HTTP {answer.status_code}{_read_reason(bytes(body))}"
            raise CallError(reason, again, _read_delay(answer), answer.status_code, late)
        try:
            reply = read_json(body)
        except ValueError:
            raise CallError("the answer is not JSON", again=True, is_open=True) from None
        if not isinstance(reply, dict):
            raise CallError("the answer is not a JSON object", again=True, is_open=True)
        return reply


async def _read_stream(answer: httpx.Response) -> Mapping[str, Any]:
    """The answer in a stream. Raises BrokenStreamError where it is not whole, and httpx.HTTPError."""
    reader, size = StreamReader(), 0
    pieces = answer.aiter_bytes()
    try:
        async for piece in pieces:
            size += len(piece)
            if size > LARGEST_STREAM:
                raise CallError("the stream is larger than 256 MiB", again=False, is_open=True)
            reader.feed(piece)
            if reader.is_done:
                # A connection whose answer was read to its end is used again. Some servers do not end theirs.
                with contextlib.suppress(TimeoutError, httpx.HTTPError):
                    async with asyncio.timeout(0.5):
                        async for _unused in pieces:
                            pass
                break
    except httpx.HTTPError:
        if not reader.is_whole:
            raise
    return reader.finish()


def _is_same_url(one: str, other: str) -> bool:
    def parse(url: str) -> tuple[str, str, int | None, str, str]:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
        return parts.scheme, parts.hostname or "", port, parts.path.rstrip("/"), parts.query

    try:
        return parse(one) == parse(other)
    except ValueError:
        return False


def show_url(url: str) -> str:
    """The URL without the parts that may be secret: user, password, query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _read_reason(body: bytes) -> str:
    text = body[:2000].decode("utf-8", "replace")
    try:
        found = read_json(text)
    except ValueError:
        found = text
    return explain_error(found if isinstance(found, dict) else {"error": text})


def explain_error(answer: Mapping[str, Any]) -> str:
    """The error in an answer, as the end of a sentence. Some endpoints send one with status 200."""
    error = answer.get("error", answer.get("detail", answer.get("message", "" if "choices" in answer else answer)))
    text = " ".join(str(error.get("message", error) if isinstance(error, dict) else error or "").split())[:300]
    return f": {text}" if text else ""


def _read_delay(answer: httpx.Response) -> float:
    try:
        return min(LONGEST_DELAY, max(0.0, float(answer.headers.get("retry-after", "0"))))
    except ValueError:
        return 0.0
