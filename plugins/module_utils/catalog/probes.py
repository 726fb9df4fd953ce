# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests that a new revision must answer as expected, and what counts as an answer.

Who asks (this host, or a throwaway container from inside) is the caller's: ``run_probes`` is given a function.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail

# A probe is asked again for this long before its answer counts as wrong (seconds): a tier may still be connecting.
PATIENCE = 3.0
METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS")
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True)
class Reply:
    """status 0: no answer, and body says why."""

    status: int
    body: str


@dataclass(frozen=True)
class Probe:
    """One request and what its answer must be.

    json: dotted path -> the value there. one_of: dotted path -> the values that are allowed there.
    doubtful: statuses that only warn (a backend that is down is not the candidate's fault).
    token: whether to send the router's own token. secret: headers that must never be shown.
    """

    name: str
    path: str
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    secret: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: Optional[str] = None
    status: Tuple[int, ...] = (200,)
    json: Mapping[str, Any] = field(default_factory=dict)
    one_of: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    doubtful: Tuple[int, ...] = ()
    token: bool = False
    timeout: float = 10.0

    def as_meta(self) -> Dict[str, Any]:
        """For a revision's meta.json, which holds no secret: only probes of our own making are kept there."""
        told = asdict(self)
        del told["secret"]
        return told

    def wire_headers(self, token: str) -> Dict[str, str]:
        headers = {"Connection": "close", **self.headers, **self.secret}
        if self.body is not None:
            headers.setdefault("Content-Type", "application/json")
        if self.token and token:
            headers["Authorization"] = "Bearer " + token
        return headers


Ask = Callable[[Probe], Reply]


@dataclass(frozen=True)
class Tls:
    """How a server proves itself. server_name: what it is asked for (SNI), and must be if ``context`` checks names."""

    context: ssl.SSLContext
    server_name: str = ""


class _TlsConnection(http.client.HTTPConnection):
    """HTTP over TLS to an address that need not be the name in the certificate."""

    def __init__(self, endpoint: Tuple[str, int], timeout: float, tls: Tls) -> None:
        super().__init__(endpoint[0], endpoint[1], timeout=timeout)
        self._tls = tls

    def connect(self) -> None:
        super().connect()
        self.sock = self._tls.context.wrap_socket(self.sock, server_hostname=self._tls.server_name or None)


def probe_from_meta(told: Mapping[str, Any]) -> Probe:
    return Probe(**{**told, "status": tuple(told["status"]), "doubtful": tuple(told["doubtful"])})


def request_http(
    endpoint: Tuple[str, int],
    method: str,
    path: str,
    timeout: float,
    *,
    body: Optional[Mapping[str, Any]] = None,
    token: str = "",
    tls: Optional[Tls] = None,
) -> Reply:
    """One request, never through a proxy; no answer is a ``Reply`` too."""
    content = None if body is None else json.dumps(body)
    return ask_endpoint(endpoint, Probe("", path, method, body=content, token=True, timeout=timeout), token, tls)


def ask_endpoint(endpoint: Tuple[str, int], probe: Probe, token: str, tls: Optional[Tls] = None) -> Reply:
    """Ask one probe at an address."""
    address = (endpoint[0].strip("[]"), endpoint[1])
    connection = (
        _TlsConnection(address, probe.timeout, tls) if tls else http.client.HTTPConnection(*address, timeout=probe.timeout)
    )
    content = None if probe.body is None else probe.body.encode("utf-8")
    try:
        connection.request(probe.method, probe.path, body=content, headers=probe.wire_headers(token))
        answer = connection.getresponse()
        return Reply(answer.status, answer.read(4 * 1024 * 1024).decode("utf-8", "replace"))
    except (OSError, http.client.HTTPException) as exc:
        return Reply(0, "{0}: {1}".format(type(exc).__name__, exc))
    finally:
        connection.close()


def _value_at(document: Any, path: str) -> Any:
    for key in path.split("."):
        if isinstance(document, list) and key.isdigit() and int(key) < len(document):
            document = document[int(key)]
        elif isinstance(document, dict) and key in document:
            document = document[key]
        else:
            raise KeyError(path)
    return document


def judge_reply(probe: Probe, reply: Reply) -> str:
    """Why this answer is not the expected one; empty if it is."""
    if reply.status == 0:
        return "no answer: " + reply.body[:300]
    if reply.status not in probe.status:
        wanted = " or ".join(str(status) for status in probe.status)
        return "status {0}, not {1}: {2}".format(reply.status, wanted, reply.body[:300])
    if not probe.json and not probe.one_of:
        return ""
    try:
        document = json.loads(reply.body)
    except ValueError:
        return "its answer is not JSON: " + reply.body[:300]
    wanted_values: List[Tuple[str, Sequence[Any]]] = [(path, [value]) for path, value in probe.json.items()]
    for path, allowed in [*wanted_values, *probe.one_of.items()]:
        try:
            found = _value_at(document, path)
        except KeyError:
            return "its answer has no {0}: {1}".format(path, reply.body[:300])
        if found not in allowed:
            return "{0} is {1!r}, not {2}".format(path, found, " or ".join(repr(value) for value in allowed))
    return ""


def run_probes(probes: Sequence[Probe], ask: Ask, patience: float = PATIENCE) -> Tuple[List[Problem], List[str]]:
    """Ask them all, each until it is answered as expected or ``patience`` seconds are over; what is wrong, and warnings."""
    problems: List[Problem] = []
    warnings: List[str] = []
    deadline = time.monotonic() + patience
    for probe in probes:
        while True:
            reply = ask(probe)
            wrong = judge_reply(probe, reply)
            if not wrong or reply.status in probe.doubtful or time.monotonic() >= deadline:
                break
            time.sleep(0.1)
        if wrong and reply.status in probe.doubtful:
            warnings.append("{0}: {1}".format(probe.name, wrong))
        elif wrong:
            problems.append(Problem("a probe was not answered as it must be", where=probe.name, why=wrong))
    return problems, warnings


def parse_probes(given: Sequence[Mapping[str, Any]], read_secret: Callable[[str], str]) -> Tuple[Probe, ...]:
    """The probes of a module's parameter. read_secret: path of a file on this host -> its content."""
    probes = []
    problems: List[Problem] = []
    for index, each in enumerate(given):
        where = "probes[{0}]".format(index)
        try:
            probes.append(_parse_probe(each, where, read_secret))
        except AnvilError as exc:
            problems += exc.problems
    if problems:
        raise AnvilError(*problems)
    return tuple(probes)


def _parse_probe(each: Mapping[str, Any], where: str, read_secret: Callable[[str], str]) -> Probe:
    method, path = str(each.get("method") or "GET").upper(), str(each["path"])
    if method not in METHODS:
        raise fail("not a method", where=where + ".method", why=repr(method), hint="one of " + ", ".join(METHODS))
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
        raise fail("not a path", where=where + ".path", why=repr(path), hint="an absolute path such as /healthz")
    headers = {str(name): str(value) for name, value in (each.get("headers") or {}).items()}
    secret = {str(name): read_secret(str(file)).strip() for name, file in (each.get("header_files") or {}).items()}
    for name, value in [*headers.items(), *secret.items()]:
        if not TOKEN.fullmatch(name) or not value.isascii() or not value.isprintable():
            raise fail("not a header", where="{0}: {1}".format(where, name), hint="printable ASCII, one line")
    body = each.get("body")
    if body is not None and not isinstance(body, str):
        body = json.dumps(body)
    return Probe(
        name=str(each.get("name") or "{0} {1}".format(method, path)),
        method=method,
        path=path,
        headers=headers,
        secret=secret,
        body=body,
        status=tuple(int(status) for status in each.get("status") or (200,)),
        json=each.get("json") or {},
        timeout=float(each.get("timeout") or 10.0),
        token=bool(each.get("token", True)) and not any(name.lower() == "authorization" for name in [*headers, *secret]),
    )
