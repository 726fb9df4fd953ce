# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Asking every tier for a completion, where clients ask: at the router's published port or its edge's, with TLS if it has it."""

from __future__ import annotations

import json
import os
import re
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.http_request import Reply, Tls, request_http
from ansible_collections.anvil.serving.plugins.module_utils.docker.connection import is_local
from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import find_endpoint
from ansible_collections.anvil.serving.plugins.module_utils.docker.docker_engine import DockerEngine
from ansible_collections.anvil.serving.plugins.module_utils.router.edge import TLS_FOLDER, Edge

# A tier that is not ready yet (503, or no answer) is asked again for this long (seconds).
NOT_READY = 10.0
# X509_V_FLAG_PARTIAL_CHAIN: a certificate that is trusted by itself, whoever signed it. Python names it from 3.10 on.
PARTIAL_CHAIN = 0x80000
CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)


@dataclass(frozen=True)
class Answer:
    """What a tier said to one chat completion. status 0: no answer. seconds: until the whole answer was there."""

    ok: bool
    status: int
    text: str
    seconds: float


@dataclass(frozen=True)
class Question:
    """What the tiers are asked. timeout: seconds per completion."""

    models: Sequence[str]
    prompt: str
    max_tokens: int
    token: str = field(default="", repr=False)
    timeout: float = 60.0


@dataclass(frozen=True)
class Trust:
    """Whom to believe that it is the edge.

    ca_file: certificates (PEM) on this host that the edge's must be signed by, or be. Empty: those of the folder that the
    edge itself reads. server_name: the name that its certificate must be for; empty: any.
    """

    ca_file: str = ""
    server_name: str = ""


@dataclass(frozen=True)
class Front:
    """What clients reach. tls: where it has a certificate."""

    container: str
    address: Tuple[str, int]
    tls: Optional[Tls] = None

    @property
    def url(self) -> str:
        return "{0}://{1}:{2}".format("https" if self.tls else "http", *self.address)


def find_front(engine: DockerEngine, container: str, edge: str, trust: Trust) -> Front:
    """The router, or the edge before it (a name, empty: none), as clients reach it; an ``AnvilError`` if they cannot."""
    name = edge or container
    raw = engine.inspect_container(name)
    state = "absent" if raw is None else str(raw["State"]["Status"])
    address = find_endpoint(raw) if raw is not None and is_local(engine.docker_host) else None
    if raw is None or state != "running" or address is None:
        why = "it is " + state if state != "running" else "it publishes no port that this host can reach"
        log = engine.read_log(name, lines=15) if raw is not None else []
        raise fail("the router cannot be asked", where="container " + name, why=why, log=log)
    encrypted = bool(edge) and Edge(engine, edge).is_encrypted()
    return Front(name, address, Tls(build_context(raw, trust), trust.server_name) if encrypted else None)


def build_context(raw: Mapping[str, Any], trust: Trust) -> ssl.SSLContext:
    """What the edge's certificate is checked against. raw: the edge's inspect."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = bool(trust.server_name)
    made.verify_flags |= PARTIAL_CHAIN
    folder = next((str(each["Source"]) for each in raw.get("Mounts") or () if each.get("Destination") == TLS_FOLDER), "")
    source = trust.ca_file or folder
    try:
        names = [source] if trust.ca_file else [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
        # Only the certificates: the keys that lie beside them in the same files are none of this check's business.
        found = [text for name in names if os.path.isfile(name) for text in CERTIFICATE.findall(_read(name))]
        made.load_verify_locations(cadata="\n".join(found))
    except (OSError, ValueError) as exc:
        raise fail(
            "no certificate to check the edge's against",
            where=source or TLS_FOLDER,
            why=str(exc) or type(exc).__name__,
            hint="name a file with the edge's certificate, or that of who signed it, in ca_file",
        ) from exc
    return made


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as stream:
        return stream.read()


def ask_tiers(engine: DockerEngine, container: str, front: Front, question: Question) -> Dict[str, Answer]:
    """One real chat completion per model through the router; an ``AnvilError`` names every one that failed.

    container: a router, whose log is told then.
    """
    if not (question.token.isascii() and question.token.isprintable()):
        raise fail("not a token", where="token", why="it holds characters that no HTTP header may", hint="a line end?")

    def ask(model: str) -> Answer:
        messages = [{"role": "user", "content": question.prompt}]
        body = {"model": model, "messages": messages, "max_tokens": question.max_tokens, "stream": False}
        patience = time.monotonic() + min(question.timeout, NOT_READY)
        while True:
            began = time.monotonic()
            path = "/v1/chat/completions"
            reply = request_http(front.address, "POST", path, question.timeout, body=body, token=question.token, tls=front.tls)
            seconds = round(time.monotonic() - began, 3)
            is_final = reply.status not in (0, 503) or "CERTIFICATE_VERIFY_FAILED" in reply.body
            if is_final or time.monotonic() + 0.5 > patience:
                return read_answer(reply, seconds)
            time.sleep(0.5)

    with ThreadPoolExecutor(max_workers=max(1, min(8, len(question.models)))) as pool:
        answers = dict(zip(question.models, pool.map(ask, question.models)))
    failed = [model for model in question.models if not answers[model].ok]
    if failed:
        said = tuple(engine.read_log(container, lines=15))
        raise AnvilError(
            *[
                Problem(
                    "no answer through the router",
                    where="model {0} at {1}".format(model, front.url),
                    why="status {0}: {1}".format(answers[model].status, answers[model].text[:300]),
                    hint=_advise(answers[model], question.token),
                    log=said if model == failed[-1] else (),
                )
                for model in failed
            ]
        )
    return answers


def read_answer(reply: Reply, seconds: float) -> Answer:
    """The text of a chat completion; whatever is not a completion with some text is not ok."""
    try:
        text = json.loads(reply.body)["choices"][0]["message"]["content"] if reply.status == 200 else None
    except (ValueError, KeyError, IndexError, TypeError):
        text = None
    if isinstance(text, str) and text.strip():
        return Answer(True, reply.status, text, seconds)
    return Answer(False, reply.status, reply.body, seconds)


def _advise(answer: Answer, token: str) -> str:
    if answer.status in (401, 403):
        return "the router refused the token that was given" if token else "the router wants a token: give it"
    if answer.status in (404, 400):
        return "is this model in the router's config? its /v1/models lists what it knows"
    if answer.status == 503:
        return "the tier behind it is down, or the profile denies every tier for this request"
    if "CERTIFICATE_VERIFY_FAILED" in answer.text:
        return "a renewed certificate is read by playbooks/router_reload.yml; ca_file says whom to trust instead"
    return "look at the router's log and at the serve behind it"
