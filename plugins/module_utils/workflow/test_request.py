# SPDX-License-Identifier: GPL-3.0-or-later
"""One real request to a deployed workflow, through its published port, up to the end of the run."""

from __future__ import annotations

import json
import ssl
import time
from dataclasses import dataclass
from typing import Any, Dict, Mapping, Optional

from ansible_collections.anvil.serving.plugins.module_utils.core.addresses import format_url
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import fail
from ansible_collections.anvil.serving.plugins.module_utils.core.http_request import Tls, request_http
from ansible_collections.anvil.serving.plugins.module_utils.docker.compose_service import Service
from ansible_collections.anvil.serving.plugins.module_utils.docker.container_inspect import published_address

ENDED = ("completed", "failed", "cancelled")
POLL = 0.2
SEE_LOG = "ansible-playbook playbooks/logs.yml -i INVENTORY -e containers={0}"


@dataclass(frozen=True)
class Answer:
    """An HTTP answer. body: the JSON in it, or its text. status 0: there was no answer, and the body says why."""

    status: int
    body: Any

    @property
    def job_status(self) -> str:
        return str(self.body.get("status") or "") if isinstance(self.body, Mapping) else ""

    @property
    def job_path(self) -> str:
        """Where the status of the job is read."""
        return "/status/{0}".format(self.body.get("job_id") or self.body.get("id"))


def verify_workflow(service: Service, key: str, inputs: Mapping[str, Any], timeout: float) -> Dict[str, Any]:
    """Run the workflow once, to its end; returns ``outputs`` and ``seconds``. Raises AnvilError if it does not complete."""
    began = time.monotonic()
    bind, port, _target = service.ports[0]
    where = "POST /run on port {0}".format(port)
    answer = _send(service, "POST", "/run", key, inputs)
    while answer.status == 202 or (answer.status == 200 and answer.job_status not in ("", *ENDED)):
        if time.monotonic() - began > timeout:
            raise fail(
                "the run did not end in {0:g} s".format(timeout),
                where=where,
                why="its job is still " + (answer.job_status or "running"),
                hint="raise workflow_request_timeout; this shows what it waits for: " + SEE_LOG.format(service.container),
            )
        time.sleep(POLL)
        answer = _send(service, "GET", answer.job_path, key)
    if answer.status == 0:
        raise fail(
            "the workflow does not answer",
            where=where,
            why=str(answer.body),
            hint="read its log: " + SEE_LOG.format(service.container),
        )
    if answer.status != 200 or answer.job_status not in ("", "completed"):
        text = answer.body if isinstance(answer.body, str) else json.dumps(answer.body, ensure_ascii=False)
        raise fail(
            "the workflow is up, but its test request failed",
            where=where,
            why="HTTP {0}: {1}".format(answer.status, text[:1000]),
            hint="check that the models answer: curl -sS {0}/readyz; then set other inputs with workflow_request, or"
            " skip the test request with workflow_verify=false".format(
                format_url("https" if _has_tls(service) else "http", *published_address(bind, port))
            ),
        )
    outputs = answer.body.get("outputs", answer.body) if isinstance(answer.body, Mapping) else answer.body
    return {"outputs": outputs, "seconds": round(time.monotonic() - began, 3)}


def _has_tls(service: Service) -> bool:
    return bool((service.anvil.get("ready") or {}).get("tls"))


def trust_anyone() -> ssl.SSLContext:
    """The request goes to an address of this host, which no certificate names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _send(service: Service, method: str, path: str, key: str, body: Optional[Mapping[str, Any]] = None) -> Answer:
    bind, port, _target = service.ports[0]
    tls = Tls(trust_anyone()) if _has_tls(service) else None
    reply = request_http(published_address(bind, port), method, path, 60.0, body=body, token=key, tls=tls)
    try:
        return Answer(reply.status, json.loads(reply.body))
    except ValueError:
        return Answer(reply.status, reply.body)
