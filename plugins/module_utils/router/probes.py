# SPDX-License-Identifier: GPL-3.0-or-later
"""Probes: requests that a new revision must answer as expected, and whether a reply is the expected one. Pure."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, Problem, fail
from ansible_collections.anvil.serving.plugins.module_utils.core.http_request import Reply

METHODS = ("GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS")
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True)
class Probe:
    """One request and the reply that is expected.

    json: dotted path -> the value there. one_of: dotted path -> the values that are allowed there.
    doubtful: statuses that only cause a warning (a backend that is down is no fault of the new revision).
    token: whether to send the router's own token. secret: headers whose values are never shown. timeout: seconds.
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
        """For a revision's meta.json, without the secret headers: only generated probes, which have none, are stored there."""
        meta = asdict(self)
        del meta["secret"]
        return meta

    def request_headers(self, token: str) -> Dict[str, str]:
        headers = {"Connection": "close", **self.headers, **self.secret}
        if self.body is not None:
            headers.setdefault("Content-Type", "application/json")
        if self.token and token:
            headers["Authorization"] = "Bearer " + token
        return headers


def probe_from_meta(meta: Mapping[str, Any]) -> Probe:
    """The inverse of ``Probe.as_meta``."""
    return Probe(**{**meta, "status": tuple(meta["status"]), "doubtful": tuple(meta["doubtful"])})


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
    """Why this reply is not the expected one; empty if it is."""
    if reply.status == 0:
        return "no answer: " + reply.body[:300]
    if reply.status not in probe.status:
        expected = " or ".join(str(status) for status in probe.status)
        return "status {0}, not {1}: {2}".format(reply.status, expected, reply.body[:300])
    if not probe.json and not probe.one_of:
        return ""
    try:
        document = json.loads(reply.body)
    except ValueError:
        return "the answer is not JSON: " + reply.body[:300]
    exact: List[Tuple[str, Sequence[Any]]] = [(path, [value]) for path, value in probe.json.items()]
    for path, allowed in [*exact, *probe.one_of.items()]:
        try:
            found = _value_at(document, path)
        except KeyError:
            return "the answer has no {0}: {1}".format(path, reply.body[:300])
        if found not in allowed:
            return "{0} is {1!r}, not {2}".format(path, found, " or ".join(repr(value) for value in allowed))
    return ""


def parse_probes(given: Sequence[Mapping[str, Any]], read_secret: Callable[[str], str]) -> Tuple[Probe, ...]:
    """The probes of a module's option; reports all invalid ones at once.

    read_secret: path of a file on this host -> its content.
    """
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
        raise fail("not an HTTP method", where=where + ".method", why=repr(method), hint="one of " + ", ".join(METHODS))
    if not path.startswith("/") or not path.isascii() or not path.isprintable() or " " in path:
        raise fail("not a URL path", where=where + ".path", why=repr(path), hint="an absolute path such as /healthz")
    headers = {str(name): str(value) for name, value in (each.get("headers") or {}).items()}
    secret = {str(name): read_secret(str(file)).strip() for name, file in (each.get("header_files") or {}).items()}
    for name, value in [*headers.items(), *secret.items()]:
        if not TOKEN.fullmatch(name) or not value.isascii() or not value.isprintable():
            raise fail("not an HTTP header", where="{0}: {1}".format(where, name), hint="printable ASCII, one line")
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
