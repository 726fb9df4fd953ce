# SPDX-License-Identifier: GPL-3.0-or-later
"""The requests that watch sends to a serve: its counters, whether it sleeps or loads, and a probe that computes a token."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Callable, Optional, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.sample_requests import (
    build_sample,
    is_unsupported,
    read_answer,
)
from ansible_collections.anvil.serving.plugins.module_utils.core.http_request import Reply, send_request
from ansible_collections.anvil.serving.plugins.module_utils.watch.counters import EngineCounters, read_metrics, read_slots
from ansible_collections.anvil.serving.plugins.module_utils.watch.liveness import (
    SILENT,
    TOKENS,
    UNKNOWN,
    WRONG_ANSWER,
    Probe,
)
from ansible_collections.anvil.serving.plugins.module_utils.watch.settings import WatchedServe

# Seconds that one look may take.
LOOK_SECONDS = 3.0
# A second probe asks for so many tokens where the first answer looks broken; one character so often is no answer.
BROKEN_TOKENS, BROKEN_LENGTH = 16, 8

Send = Callable[..., Reply]


@dataclass(frozen=True)
class Look:
    """What a serve answered. metrics: the text of its counters, for an incident."""

    answered: bool
    loading: bool = False
    asleep: str = ""
    engine: Optional[EngineCounters] = None
    metrics: str = ""


class ServeClient:
    """Requests to one serve. key: its API key, or empty."""

    def __init__(self, serve: WatchedServe, key: str = "", send: Send = send_request) -> None:
        self.serve, self._key, self._send = serve, key, send
        self._tls: Any = None
        if serve.tls:
            import ssl

            from ansible_collections.anvil.serving.plugins.module_utils.core.http_request import Tls

            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # an address of this host, which no certificate names
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self._tls = Tls(context)

    def _request(self, method: str, path: str, seconds: float, content: Optional[bytes] = None, kind: str = "") -> Reply:
        headers = {"Connection": "close"}
        if self._key:
            headers["Authorization"] = "Bearer " + self._key
        if kind:
            headers["Content-Type"] = kind
        where = (self.serve.host, self.serve.port)
        return self._send(where, method, path, seconds, headers=headers, content=content, tls=self._tls, whole=True)

    def look(self) -> Look:
        """One look at the serve, within a few seconds."""
        serve = self.serve
        if serve.sleeps:
            props = self._request("GET", serve.prefix + "/props", LOOK_SECONDS)
            asleep = "it has unloaded its model until a request comes" * (
                props.status == 200 and _says(props.body, "is_sleeping")
            )
            return Look(props.status > 0, props.status == 503, asleep)
        for path, read in self._sources():
            reply = self._request("GET", path, LOOK_SECONDS)
            if reply.status == 0:
                return Look(False)
            if reply.status == 503:
                return Look(True, loading=True)
            found = read(reply.body) if reply.status == 200 else None
            if found is not None:
                return Look(True, engine=found, metrics=reply.body)
        reply = self._request("GET", serve.health_path or serve.prefix + "/v1/models", LOOK_SECONDS)
        return Look(reply.status > 0, loading=reply.status == 503)

    def _sources(self) -> Tuple[Tuple[str, Callable[[str], Optional[EngineCounters]]], ...]:
        def metrics(text: str) -> Optional[EngineCounters]:
            return read_metrics(self.serve.engine, text)

        if self.serve.engine == "llama_cpp":
            return ((self.serve.prefix + "/metrics", metrics), (self.serve.prefix + "/slots", read_slots))
        return (("/metrics", metrics),) if self.serve.engine in ("vllm", "sglang") else ()

    def is_asleep(self) -> str:
        """Why a probe would fail or wake the serve: vLLM tells whether it sleeps (level 1 or 2) in its development mode only."""
        if self.serve.engine == "vllm" and _says(self._request("GET", "/is_sleeping", LOOK_SECONDS).body, "is_sleeping"):
            return "vLLM sleeps"
        return ""

    def probe(self, seconds: float) -> Probe:
        """One small request, and what it proves. seconds: its deadline."""
        found = self._probe_once(seconds, 1)
        if found[0].outcome == TOKENS and looks_broken(found[1], 1):
            found = self._probe_once(seconds, BROKEN_TOKENS)
            if looks_broken(found[1], BROKEN_LENGTH):
                return Probe(WRONG_ANSWER, "its answer is one character repeated: " + ascii(found[1][:20]))
        return found[0]

    def _probe_once(self, seconds: float, tokens: int) -> Tuple[Probe, str]:
        serve = self.serve
        sample = build_sample(serve.kind, serve.served_name, max_tokens=tokens) if serve.kind and not serve.sleeps else None
        if sample is None:
            return Probe(UNKNOWN, "no probe is known for this kind of serve"), ""
        path = serve.prefix + sample.path
        reply = self._request("POST", path, seconds, sample.body, sample.content_type)
        if reply.status == 0:
            return Probe(SILENT, "{0} got no answer within {1:.0f} s: {2}".format(path, seconds, reply.body)), ""
        if reply.status in (401, 403):
            return Probe(UNKNOWN, "it wants an API key that watch does not find"), ""
        if reply.status in (408, 429, 502, 503, 504):
            return Probe(SILENT, "{0} answers {1}".format(path, reply.status)), ""
        text = read_answer(serve.kind, reply.body) if reply.status == 200 else None
        if text is not None:
            return _compare_model(serve, reply.body), text
        if reply.status == 404 and "model" in reply.body.lower() and not is_unsupported(reply.status, reply.body):
            return Probe(WRONG_ANSWER, "it does not serve {0}: {1}".format(serve.served_name, reply.body.strip()[:200])), ""
        if reply.status in (400, 404, 405, 415, 422, 501):
            return Probe(UNKNOWN, "{0} answers {1}: {2}".format(path, reply.status, reply.body.strip()[:200])), ""
        return Probe(WRONG_ANSWER, "{0} answers {1}: {2}".format(path, reply.status, reply.body.strip()[:200])), ""


def looks_broken(text: str, length: int) -> bool:
    """Whether an answer is what engines make of NaN: token 0, an exclamation mark, again and again; or no character at all."""
    bare = text.strip()
    return len(bare) >= length and len(set(bare)) == 1 and bare[0] in "!\ufffd\0"


def _compare_model(serve: WatchedServe, body: str) -> Probe:
    """An engine tells in its answer which model gave it; one that tells nothing, or a path of the same name, proves nothing."""
    try:
        told = json.loads(body).get("model")
    except (ValueError, AttributeError):
        told = None
    names = {serve.served_name, serve.served_name.rpartition("/")[2]}
    if isinstance(told, str) and told and names.isdisjoint({told, told.rpartition("/")[2]}):
        return Probe(WRONG_ANSWER, "model {0} answers instead of {1}".format(ascii(told[:200]), serve.served_name))
    return Probe(TOKENS)


def _says(body: str, key: str) -> bool:
    try:
        return json.loads(body).get(key) is True
    except (ValueError, AttributeError, RecursionError):
        return False
