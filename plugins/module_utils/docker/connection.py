# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests to the Docker Engine API: the socket, plain GETs, calls of the Docker SDK for Python, and errors.

Calls that change something go through the SDK. Reads on a unix socket are plain GETs of this room: importing the SDK costs
94 ms, almost half of a ping task (230 ms), and a run with nothing to do only reads.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import socket
import tempfile
from dataclasses import dataclass
from typing import Any, ContextManager, Dict, Mapping, Optional
from urllib.parse import quote, urlencode, urlsplit

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail

# Docker Engine 24, the oldest one that is supported. A fixed version saves the version request of every module call.
API_VERSION = "1.43"
# How long a run waits for another run on the same host (seconds).
HOST_LOCK_SECONDS = 600.0
# The characters of a name, an id or an image reference.
REFERENCE = re.compile(r"[A-Za-z0-9_.:/@-]+")


@dataclass(frozen=True)
class Response:
    """The response of the Docker Engine to a GET."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Connection:
    """One connection to one Docker Engine. Every method may raise ``AnvilError``: no answer, a refusal, or a malformed answer.

    An absent object is ``None``; an error is never reported as absence.
    """

    def __init__(self, docker_host: str, timeout: int = 60) -> None:
        """The first request opens the connection. timeout: seconds per API request."""
        self.docker_host = docker_host
        self._timeout = timeout
        self._sdk_client: Any = None
        self._connection: Optional[_UnixConnection] = None

    def lock_host(self) -> ContextManager[int]:
        """Hold the lock against every other run on this host, of any project; yields the descriptor that holds it.

        The lock is the folder of the Docker Engine's socket: every user of the Docker Engine can read it. For a Docker Engine
        that is reached over the network it is the folder of temporary files. Raises AnvilError after ``HOST_LOCK_SECONDS``.
        """
        path = os.path.dirname(urlsplit(self.docker_host).path) if is_local(self.docker_host) else tempfile.gettempdir()
        return files.hold_folder(path, "another run is starting serves on this host", HOST_LOCK_SECONDS)

    @property
    def api(self) -> Any:
        """The SDK's low-level client, imported at its first use."""
        if self._sdk_client is None:
            try:
                import docker
            except ImportError as exc:
                raise fail(
                    "the Docker SDK for Python is missing",
                    where="this host",
                    why=str(exc),
                    hint="install it for the interpreter Ansible uses here: apt install python3-docker, or pip install docker",
                ) from exc
            self._sdk_client = docker.APIClient(base_url=self.docker_host, version=API_VERSION, timeout=self._timeout)
        return self._sdk_client

    def _refusal(self, action: str, why: str) -> AnvilError:
        return fail("the Docker Engine refused to " + action, where=self.docker_host, why=why)

    def _failure(self, action: str, exc: Exception) -> AnvilError:
        explanation = getattr(exc, "explanation", None)
        if explanation is not None:
            return self._refusal(action, str(explanation))
        return fail(
            "the Docker Engine does not answer",
            where=self.docker_host,
            why="the request to {0} failed: {1}".format(action, exc),
            hint="check that it runs (systemctl status docker) and that this user may use it (docker -H {0} version)".format(
                self.docker_host
            ),
        )

    def _call_sdk(self, action: str, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the SDK's client; any failure is an AnvilError."""
        call = getattr(self.api, method)
        from docker.errors import DockerException
        from requests.exceptions import RequestException

        try:
            return call(*args, **kwargs)
        except (DockerException, RequestException, OSError, UnicodeError) as exc:
            raise self._failure(action, exc) from exc

    def _call_sdk_or_none(self, action: str, method: str, *args: Any, **kwargs: Any) -> Any:
        """As ``_call_sdk``; None where the Docker Engine answers that the object does not exist."""
        try:
            return self._call_sdk(action, method, *args, **kwargs)
        except AnvilError as exc:
            from docker.errors import NotFound

            if isinstance(exc.__cause__, NotFound):
                return None
            raise

    def _get(self, action: str, path: str, query: Mapping[str, str]) -> Response:
        """GET a path of the API. Only a failed connection is an error here; the caller judges the status."""
        target = "/v{0}{1}{2}".format(API_VERSION, path, "?" + urlencode(query) if query else "")
        if not is_local(self.docker_host):
            answer = self._call_sdk(action, "get", self.api.base_url + target, timeout=self._timeout)
            return Response(answer.status_code, answer.headers, answer.content)
        try:
            if self._connection is not None:
                try:
                    return self._get_once(self._connection, target)
                except (ConnectionError, http.client.HTTPException):
                    self._connection.close()  # a restart of the Docker Engine closed the connection: open a new one
            self._connection = _UnixConnection(urlsplit(self.docker_host).path, self._timeout)
            return self._get_once(self._connection, target)
        except (OSError, http.client.HTTPException) as exc:
            self._connection = None
            raise self._failure(action, exc) from exc

    @staticmethod
    def _get_once(connection: _UnixConnection, target: str) -> Response:
        connection.request("GET", target)
        reply = connection.getresponse()
        return Response(reply.status, dict(reply.headers), reply.read())

    def _get_json(self, action: str, path: str, **query: str) -> Any:
        """The JSON at a path; None where the Docker Engine answers 404."""
        response = self._get(action, path, query)
        if response.status == 404:
            return None
        if response.status >= 300:
            raise self._refusal(action, read_message(response.body))
        return json.loads(response.body)

    def _inspect(self, kind: str, path: str, name: str) -> Optional[Dict[str, Any]]:
        # The Docker Engine redirects a path with `..`, and the read would end at another object.
        if not REFERENCE.fullmatch(name) or not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise fail("the name is not valid for the Docker Engine", where=kind, why=ascii(name[:300]))
        found = self._get_json("inspect {0} {1}".format(kind, name), path.format(quote(name, safe="/:@")))
        return None if found is None else dict(found)


def read_message(body: bytes) -> str:
    """The Docker Engine's explanation in the body of a refusal."""
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace")


def is_local(docker_host: str) -> bool:
    """Whether the Docker Engine runs on this machine, so that its published ports can be reached from here."""
    return urlsplit(docker_host).scheme in ("unix", "")
