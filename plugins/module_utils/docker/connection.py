# SPDX-License-Identifier: GPL-3.0-or-later
"""Requests to the Docker Engine API: the socket, plain GETs, calls of the Docker SDK for Python, and errors.

Calls that change something go through the SDK. Reads on a unix socket are plain GETs of this room: importing the SDK costs
94 ms, almost half of a ping task (230 ms), and a run with nothing to do only reads.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
from dataclasses import dataclass
from typing import Any, ContextManager, Dict, Mapping, Optional, Tuple
from urllib.parse import quote, urlencode, urlsplit

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail

# Docker Engine 25 to 29 take 1.44, so most hosts need no negotiation. 24, the oldest one that is supported, takes up to 1.43;
# 29 takes 1.44 and newer, and a later one may take only newer ones.
PREFERRED_API, OLDEST_API, NEWEST_API = "1.44", "1.43", "1.52"
# How long a run waits for another run on the same host (seconds).
HOST_LOCK_SECONDS = 600.0
HOST_LOCK = "anvil-serving.lock"
# The most bytes of one answer. A file in a container can have any size.
LARGEST_ANSWER, PIECE = 128 << 20, 256 << 10
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
        self._api_version = ""
        self._connection: Optional[_UnixConnection] = None
        self._announced = ""

    def lock_host(self) -> ContextManager[int]:
        """Hold the lock against every other run on this host, of any project; yields the descriptor that holds it.

        The lock is a file beside the Docker Engine's socket, which only users of the Docker Engine can open: anybody else could
        hold it for ever. Root makes it. Where there is none, and this user may not make it, the folder of the socket is the lock.
        For a Docker Engine that is reached over the network it is a file in the home of this user. Raises AnvilError after
        ``HOST_LOCK_SECONDS``.
        """
        what, place, group = "another run is starting serves on this host", os.path.expanduser("~/.ansible"), None
        if is_local(self.docker_host):
            path = urlsplit(self.docker_host).path
            place = os.path.dirname(path)
            with contextlib.suppress(OSError):
                group = os.stat(path).st_gid
            if not os.access(os.path.join(place, HOST_LOCK), os.R_OK | os.W_OK) and not os.access(place, os.W_OK):
                return files.hold_folder(place, what, HOST_LOCK_SECONDS)
        return files.hold_file(os.path.join(place, HOST_LOCK), what, HOST_LOCK_SECONDS, group)

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
            from docker.errors import DockerException

            try:
                # Over the network the SDK asks for the version itself: plain requests of this room need a unix socket.
                version = self.api_version if is_local(self.docker_host) else "auto"
                self._sdk_client = docker.APIClient(base_url=self.docker_host, version=version, timeout=self._timeout)
                self._api_version = self._api_version or str(self._sdk_client.api_version)
            except (DockerException, OSError) as exc:
                raise self._failure("open a connection", exc) from exc
        return self._sdk_client

    @property
    def api_version(self) -> str:
        """The version of the API that the requests name, such as 1.44; one request where none was made before."""
        if not self._api_version:
            self._get("tell its version", "/_ping", {})
        return self._api_version

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
        """GET a path of the API. Only a failed connection is an error here; the caller judges the status.

        The first request negotiates the version: it names the one that most engines take, and costs no other request there.
        """
        target = "{0}{1}".format(path, "?" + urlencode(query) if query else "")
        if not is_local(self.docker_host):
            url = "{0}/v{1}{2}".format(self.api.base_url, self._api_version, target)
            answer = self._call_sdk(action, "get", url, timeout=self._timeout)
            return Response(answer.status_code, answer.headers, answer.content)
        response = self._get_local(action, "/v{0}{1}".format(self._api_version or PREFERRED_API, target))
        if not self._api_version and response.status == 400:
            told = self._get_local("tell its version", "/version")
            if told.status != 200:
                return response
            self._api_version = choose_api_version(read_versions(told.body), self.docker_host)
            response = self._get_local(action, "/v{0}{1}".format(self._api_version, target))
        self._api_version = self._api_version or PREFERRED_API
        return response

    def _get_local(self, action: str, target: str) -> Response:
        announced, self._announced = self._announced, ""
        try:
            if self._connection is not None:
                try:
                    if announced:
                        answer = self._read_answer(self._connection)
                        if announced == target:
                            return answer
                    return self._get_once(self._connection, target)
                except (ConnectionError, http.client.HTTPException):
                    self._connection.close()  # a restart of the Docker Engine closed the connection: open a new one
            self._connection = _UnixConnection(urlsplit(self.docker_host).path, self._timeout)
            return self._get_once(self._connection, target)
        except (OSError, http.client.HTTPException) as exc:
            self._connection = None
            raise self._failure(action, exc) from exc

    def _post_alone(self, target: str, body: Optional[Mapping[str, Any]], seconds: float, method: str = "POST") -> bytes:
        """The body of the answer to a POST on a connection of its own; ValueError for a refusal. body: None for a GET instead.

        An empty body is not sent: the Docker Engine refuses to start a container with one. 304, its answer to a start of what
        runs already, is no refusal.
        """
        connection = _UnixConnection(urlsplit(self.docker_host).path, seconds)
        try:
            headers = {"Content-Type": "application/json"} if body else {}
            text = json.dumps(body) if body else None
            connection.request("GET" if body is None else method, target, text, headers)
            reply = connection.getresponse()
            if reply.status >= 400:
                raise ValueError(read_message(reply.read()))
            return reply.read()
        finally:
            connection.close()

    def announce(self, path: str) -> None:
        """Send a GET of a path that is read next, so that the Docker Engine works at its answer meanwhile.

        A request for another path reads this answer first and drops it. Without an open connection nothing is sent.
        """
        if self._connection is None or self._announced:
            return
        target = "/v{0}{1}".format(self._api_version, path)
        try:
            self._connection.request("GET", target)
        except (OSError, http.client.HTTPException):
            self._connection.close()  # the request that follows opens a new one, or tells why it cannot
            return
        self._announced = target

    def _get_once(self, connection: _UnixConnection, target: str) -> Response:
        connection.request("GET", target)
        return self._read_answer(connection)

    @staticmethod
    def _read_answer(connection: _UnixConnection) -> Response:
        reply = connection.getresponse()
        body = _read_bounded(reply)
        if len(body) > LARGEST_ANSWER:
            connection.close()  # the rest of the answer is not read
        return Response(reply.status, dict(reply.headers), body)

    def _get_json(self, action: str, path: str, **query: str) -> Any:
        """The JSON at a path; None where the Docker Engine answers 404."""
        response = self._get(action, path, query)
        if response.status == 404:
            return None
        if response.status >= 300:
            raise self._refusal(action, read_message(response.body))
        try:
            return json.loads(response.body)
        except ValueError as exc:
            raise self._refusal(action, "its answer is not JSON: {0}".format(exc)) from exc

    def _get_object(self, action: str, path: str) -> Dict[str, Any]:
        found = self._get_json(action, path)
        if not isinstance(found, dict):
            raise self._refusal(action, "its answer is not an object")
        return found

    def _inspect(self, kind: str, path: str, name: str) -> Optional[Dict[str, Any]]:
        # The Docker Engine redirects a path with `..`, and the read would end at another object.
        if not REFERENCE.fullmatch(name) or not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise fail("the name is not valid for the Docker Engine", where=kind, why=ascii(name[:300]))
        action = "inspect {0} {1}".format(kind, name)
        found = self._get_json(action, path.format(quote(name, safe="/:@")))
        if found is not None and not isinstance(found, dict):
            raise self._refusal(action, "its answer is not an object")
        return found


def _read_bounded(reply: http.client.HTTPResponse) -> bytes:
    """The body of an answer, at most a little more than ``LARGEST_ANSWER``: a container decides how large its files are."""
    pieces, left = [], LARGEST_ANSWER
    while left >= 0:
        piece = reply.read(PIECE)
        if not piece:
            break
        pieces.append(piece)
        left -= len(piece)
    return b"".join(pieces)


def read_message(body: bytes) -> str:
    """The Docker Engine's explanation in the body of a refusal."""
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace")


def read_versions(body: bytes) -> Tuple[str, str, str]:
    """The engine's name and version, its newest and oldest API version, from its answer to /version. Empty: unknown."""
    try:
        told = json.loads(body)
    except ValueError:
        told = None
    told = told if isinstance(told, dict) else {}
    return name_engine(told), str(told.get("ApiVersion") or ""), str(told.get("MinAPIVersion") or "")


def name_engine(told: Mapping[str, Any]) -> str:
    """``Docker Engine 29.1.2`` or ``Podman 5.2.2``, from the answer to /version."""
    components = told.get("Components")
    names = [str(one.get("Name")) for one in components if isinstance(one, dict)] if isinstance(components, list) else []
    kind = "Podman" if any(name.startswith("Podman") for name in names) else "Docker Engine"
    return "{0} {1}".format(kind, told.get("Version") or "of unknown version")


def _parts(version: str) -> Tuple[int, ...]:
    """Major and minor; empty where the text is no version."""
    return tuple(int(part) for part in version.split(".")) if re.fullmatch(r"[0-9]{1,4}\.[0-9]{1,4}", version) else ()


def choose_api_version(versions: Tuple[str, str, str], docker_host: str) -> str:
    """The version of the API that both sides speak: ours, or the nearest one that the engine takes.

    versions: as ``read_versions`` returns them. Raises AnvilError for an engine that is too old or too new.
    """
    release, newest, oldest = versions
    engine = "{0}, API {1} to {2}".format(release, oldest or "?", newest or "?")
    if _parts(newest) and _parts(newest) < _parts(OLDEST_API):
        raise fail(
            "the Docker Engine is too old",
            where=docker_host,
            why="it is {0}; this collection needs API {1} (Docker Engine 24)".format(engine, OLDEST_API),
            hint="update the Docker Engine of this host",
        )
    if _parts(oldest) > _parts(NEWEST_API):
        raise fail(
            "the Docker Engine is too new for this release of anvil.serving",
            where=docker_host,
            why="it is {0}; this release speaks API {1} to {2}".format(engine, OLDEST_API, NEWEST_API),
            hint="update the collection: ansible-galaxy collection install --upgrade anvil.serving",
        )
    if _parts(newest) and _parts(newest) < _parts(PREFERRED_API):
        return newest
    return oldest if _parts(oldest) > _parts(PREFERRED_API) else PREFERRED_API


def is_local(docker_host: str) -> bool:
    """Whether the Docker Engine runs on this machine, so that its published ports can be reached from here."""
    return urlsplit(docker_host).scheme in ("unix", "")
