# SPDX-License-Identifier: GPL-3.0-or-later
"""One real answer per tier (a completion, embeddings, …), requested where clients connect: at the router or its edge."""

from __future__ import annotations

import re
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Dict, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.catalog.sample_requests import (
    build_router_sample,
    is_unsupported,
    read_answer,
)
from ansible_collections.anvil.serving.plugins.module_utils.core.addresses import format_url
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.foreign_files import read_bytes
from ansible_collections.anvil.serving.plugins.module_utils.core.http_request import Reply, Tls, send_request
from ansible_collections.anvil.serving.plugins.module_utils.docker.connection import is_local
from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import find_endpoint
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.router.edge import Edge
from ansible_collections.anvil.serving.plugins.module_utils.router.edge_layout import name_certificate

# A request to a tier that is not ready (503, or no answer) is repeated for this long (seconds).
RETRY_TIME = 10.0
RETRY_PAUSE = 0.5
# X509_V_FLAG_PARTIAL_CHAIN: a listed certificate is trusted even without its issuer's. Python names it from 3.10 on.
PARTIAL_CHAIN = 0x80000
CERTIFICATE_BYTES = 4 << 20
CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class Completion:
    """The answer to one request. status 0: no answer. seconds: until the whole answer was there."""

    ok: bool
    status: int
    text: str
    seconds: float


@dataclass(frozen=True)
class CompletionRequest:
    """What is requested of each tier. timeout: seconds per answer. kinds: model -> what it answers, where that is not chat.

    last_times: how often the last model is requested, after all others. A profile router prefers the tier that answered last
    in every preset, so the check must not end with a tier that is not the first choice, in any of the replicas.
    """

    models: Sequence[str]
    prompt: str
    max_tokens: int
    token: str = field(default="", repr=False)
    timeout: float = 60.0
    kinds: Mapping[str, str] = field(default_factory=dict)
    last_times: int = 1


@dataclass(frozen=True)
class EdgeTrust:
    """How the edge's certificate is checked.

    ca_file: certificates (PEM) on this host that the edge's must be signed by, or be. Empty: the
    edge's own first certificate. server_name: the name that its certificate must be for; empty: any.
    """

    ca_file: str = ""
    server_name: str = ""


@dataclass(frozen=True)
class ClientEndpoint:
    """Where clients connect. tls: None where the connection is plain HTTP."""

    container: str
    address: Tuple[str, int]
    tls: Optional[Tls] = None

    @property
    def url(self) -> str:
        return format_url("https" if self.tls else "http", *self.address)


def find_client_endpoint(docker: DockerEngine, container: str, edge: str, trust: EdgeTrust) -> ClientEndpoint:
    """The endpoint of the router, or of the edge in front of it (a name; empty: none). Raises ``AnvilError`` if it has none."""
    name = edge or container
    inspected = docker.inspect_container(name)
    state = "absent" if inspected is None else str(inspected["State"]["Status"])
    address = find_endpoint(inspected) if inspected is not None and is_local(docker.docker_host) else None
    if inspected is None or state != "running" or address is None:
        why = "the container is " + state if state != "running" else "it publishes no port that this host can reach"
        log = docker.read_log(name, lines=15) if inspected is not None else []
        hint = "ansible-playbook playbooks/router_status.yml shows the router; ansible-playbook playbooks/site.yml starts it"
        raise fail("no request can be sent to the router", where="container " + name, why=why, hint=hint, log=log)
    has_tls = bool(edge) and Edge(docker, edge).has_tls()
    tls = Tls(build_tls_context(docker, edge, trust), trust.server_name) if has_tls else None
    return ClientEndpoint(name, address, tls)


def build_tls_context(docker: DockerEngine, edge: str, trust: EdgeTrust) -> ssl.SSLContext:
    """What the edge's certificate is checked against."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = bool(trust.server_name)
    context.verify_flags |= PARTIAL_CHAIN
    own = name_certificate(0)
    source = trust.ca_file or "container {0}:{1}".format(edge, own)
    try:
        text = _read(trust.ca_file) if trust.ca_file else Edge(docker, edge).read_file(own)
        # Only the certificates: the edge's file holds a private key too.
        context.load_verify_locations(cadata="\n".join(CERTIFICATE.findall(text)))
    except (AnvilError, OSError, ValueError) as exc:
        raise fail(
            "the certificate of the edge cannot be checked",
            where=source,
            why=str(exc) or type(exc).__name__,
            hint="set ca_file to a file with the edge's certificate, or with the certificate that signed it",
        ) from exc
    return context


def _read(path: str) -> str:
    return read_bytes(path, CERTIFICATE_BYTES).decode("ascii", "replace")


def request_completions(
    docker: DockerEngine, container: str, endpoint: ClientEndpoint, request: CompletionRequest
) -> Dict[str, Completion]:
    """One answer per model through the router; an ``AnvilError`` names every one that failed.

    container: a router, whose log the error shows.
    """
    if not (request.token.isascii() and request.token.isprintable()):
        why = "it holds characters that no HTTP header may hold"
        raise fail(
            "the token is not usable", where="token", why=why, hint="remove line ends and control characters from the token"
        )

    def complete(model: str) -> Completion:
        kind = request.kinds.get(model, "chat")
        sample = build_router_sample(kind, model, request.prompt, request.max_tokens)
        if sample is None:
            return Completion(False, 0, "no request is known for kind " + kind, 0.0)
        headers = {"Connection": "close", "Content-Type": sample.content_type}
        if request.token:
            headers["Authorization"] = "Bearer " + request.token
        deadline = time.monotonic() + min(request.timeout, RETRY_TIME)
        while True:
            began = time.monotonic()
            reply = send_request(
                endpoint.address, "POST", sample.path, request.timeout, headers=headers, content=sample.body, tls=endpoint.tls
            )
            seconds = round(time.monotonic() - began, 3)
            is_final = reply.status not in (0, 503) or "CERTIFICATE_VERIFY_FAILED" in reply.body
            if is_final or time.monotonic() + RETRY_PAUSE > deadline:
                return parse_completion(reply, seconds, kind)
            time.sleep(RETRY_PAUSE)

    with ThreadPoolExecutor(max_workers=max(request.last_times, min(8, len(request.models)))) as pool:
        completions = dict(zip(request.models, pool.map(complete, request.models[:-1])))
        for last in request.models[-1:]:
            answers = list(pool.map(complete, [last] * request.last_times))
            completions[last] = next((answer for answer in answers if not answer.ok), answers[0])
    failed = [model for model in request.models if not completions[model].ok]
    if failed:
        log = tuple(docker.read_log(container, lines=15))
        raise AnvilError(
            *[
                Problem(
                    "the router returned no answer",
                    where="model {0} at {1}".format(model, endpoint.url),
                    why="status {0}: {1}".format(completions[model].status, completions[model].text[:300]),
                    hint=_advise(completions[model], request.token),
                    log=log if model == failed[-1] else (),
                )
                for model in failed
            ]
        )
    return completions


def parse_completion(reply: Reply, seconds: float, kind: str = "chat") -> Completion:
    """A reply as an answer; one that holds none is not ok."""
    text = read_answer(kind, reply.body) if reply.status == 200 else None
    if text is not None:
        return Completion(True, reply.status, text, seconds)
    return Completion(False, reply.status, reply.body, seconds)


def _advise(completion: Completion, token: str) -> str:
    if completion.status in (401, 403):
        if not token:
            return "the router requires a token: set token"
        return "the router refused this token: set token to the one that it was started with"
    if is_unsupported(completion.status, completion.text):
        return "set kind of the tier's serve in the inventory (embeddings, rerank, …) if its model is no chat model"
    if completion.status in (404, 400):
        return "request a model of the router's config: its /v1/models lists them"
    if completion.status == 503:
        return (
            "the tier is down, or the profile denies it for this request: ansible-playbook playbooks/status.yml shows the serves"
        )
    if "CERTIFICATE_VERIFY_FAILED" in completion.text:
        return "if the certificate was renewed: ansible-playbook playbooks/router_reload.yml -e only=edge; otherwise set ca_file"
    return (
        "read the logs of the router and of the tier's serve: ansible-playbook playbooks/router_logs.yml, and playbooks/logs.yml"
    )
