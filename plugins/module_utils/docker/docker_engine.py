# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Docker Engine, through its API: read containers, images and volumes; run side containers.

Whatever changes something goes through the Docker SDK for Python. Reading on a unix socket is a plain GET of our own: to
import the SDK costs as much as half a ping task (94 of 230 ms), and a run that finds nothing to do only reads.

Knows no business rules. An error of the engine is always an ``AnvilError``; absence is ``None``, and nothing else is.
"""

from __future__ import annotations

import base64
import datetime
import http.client
import io
import json
import os
import re
import socket
import tempfile
import time
from dataclasses import dataclass, field
from typing import Any, ContextManager, Dict, List, Mapping, Optional, Sequence, Set, Tuple
from urllib.parse import quote, urlencode, urlsplit

from ansible_collections.anvil.serving.plugins.module_utils.core import files
from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail

# Engine 24, the oldest we support: naming it saves the version request of every module call.
API_VERSION = "1.43"
HOLD_SECONDS = 600.0
# What a name, an id or an image's reference may be made of.
REFERENCE = re.compile(r"[A-Za-z0-9_.:/@-]+")
# Where no container has such a name, the engine takes it for the beginning of an id, and acts on somebody else's container.
ID_PREFIX = re.compile(r"[0-9a-f]{1,63}")


@dataclass(frozen=True)
class Finished:
    """How a side container ended. ``output`` holds both streams, as text."""

    exit_code: int
    output: str


@dataclass(frozen=True)
class Answer:
    """What the engine answered to a GET."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Pull:
    """How far the pull of an image is. arrived: bytes by layer. layers, complete: the ids of layers."""

    arrived: Dict[str, int] = field(default_factory=dict)
    layers: Set[str] = field(default_factory=set)
    complete: Set[str] = field(default_factory=set)

    def take(self, event: Mapping[str, Any]) -> None:
        """Take in one line of what the engine says while it pulls; lines that are of no layer tell nothing."""
        layer, status = str(event.get("id") or ""), str(event.get("status") or "")
        if not layer or status.startswith("Pulling from"):
            return
        self.layers.add(layer)
        if status == "Downloading":
            self.arrived[layer] = int((event.get("progressDetail") or {}).get("current") or 0)
        elif status in ("Pull complete", "Already exists"):
            self.complete.add(layer)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class SideProcess:
    """A running side container that we talk to line by line through its standard input and output."""

    def __init__(self, engine: DockerEngine, container_id: str, attached: Any) -> None:
        self.engine = engine
        self.container_id = container_id
        self.errors = b""
        self._attached = attached
        # The SDK hands out a file object on unix sockets and a socket on others.
        self._socket = getattr(attached, "_sock", attached)
        self._raw = b""
        self._lines = b""

    def send(self, content: bytes) -> None:
        try:
            self._socket.settimeout(60)
            self._socket.sendall(content)
        except OSError as exc:
            raise self._gone("it could not be written to: {0}".format(exc)) from exc

    def read_line(self, timeout: float) -> bytes:
        """The next line of its standard output, without the newline; ``timeout``: seconds between two pieces of it."""
        while b"\n" not in self._lines:
            while not self._take_frame():
                self._receive(timeout)
        line, _newline, self._lines = self._lines.partition(b"\n")
        return line

    def _take_frame(self) -> bool:
        """Move one whole frame (stream number, three zeros, length, content) from the raw bytes to where it belongs."""
        size = int.from_bytes(self._raw[4:8], "big")
        if len(self._raw) < 8 or len(self._raw) < 8 + size:
            return False
        stream, piece, self._raw = self._raw[0], self._raw[8 : 8 + size], self._raw[8 + size :]
        if stream == 2:
            self.errors = (self.errors + piece)[-20000:]
        else:
            self._lines += piece
        return True

    def _receive(self, timeout: float) -> None:
        try:
            self._socket.settimeout(timeout)
            piece = self._socket.recv(65536)
        except OSError as exc:
            raise self._gone("no answer within {0:g} s: {1}".format(timeout, exc)) from exc
        if not piece:
            raise self._gone("it ended")
        self._raw += piece

    def has_ended(self) -> bool:
        """Whether the container is gone, or ended."""
        found = self.engine.inspect_container(self.container_id)
        return found is None or str(found["State"]["Status"]) not in ("created", "running")

    def drain(self, seconds: float = 0.2) -> None:
        """Take in what it has said on its standard error so far."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                self._receive(max(0.01, deadline - time.monotonic()))
            except AnvilError:
                return
            while self._take_frame():
                pass

    def _gone(self, why: str) -> AnvilError:
        said = self.errors.decode("utf-8", "replace").splitlines()[-10:]
        return fail("a side container was lost", where=self.container_id[:12], why=why, log=said)

    def release(self) -> None:
        """Let it go without waiting: its standard input closes, so it ends, and the engine removes it."""
        try:
            self._socket.close()
            self._attached.close()
        except OSError:
            pass  # the engine is gone, and with it what was attached

    def close(self) -> None:
        """End it and see it gone, so that its name is free when this returns."""
        self.release()
        self.engine.remove_container(self.container_id)


class DockerEngine:
    """One connection to one engine. Every method may raise ``AnvilError`` (engine gone, refused, or misbehaving)."""

    def __init__(self, docker_host: str, timeout: int = 60) -> None:
        """Connect lazily: nothing is sent before the first call. ``timeout`` is seconds per API request."""
        self.docker_host = docker_host
        self._timeout = timeout
        self._sdk_client: Any = None
        self._connection: Optional[_UnixConnection] = None
        self.pulls: Dict[str, Pull] = {}

    def hold(self) -> ContextManager[int]:
        """Hold the engine against every other run on this host, whatever its project; yields the descriptor that holds it.

        The lock is the folder of the engine's socket, which whoever uses the engine can read; one that is reached otherwise
        has that of temporary files. Raises AnvilError where it is not free within ``HOLD_SECONDS``.
        """
        path = os.path.dirname(urlsplit(self.docker_host).path) if is_local(self.docker_host) else tempfile.gettempdir()
        return files.hold_folder(path, "somebody else is starting serves on this host", HOLD_SECONDS)

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

    def _trouble(self, act: str, exc: Exception) -> AnvilError:
        explanation = getattr(exc, "explanation", None)
        if explanation is not None:
            return fail("the engine refused to " + act, where=self.docker_host, why=str(explanation))
        return fail(
            "the Docker Engine does not answer",
            where=self.docker_host,
            why="while it was asked to {0}: {1}".format(act, exc),
            hint="is it running, and may this user use its socket? try: docker -H {0} version".format(self.docker_host),
        )

    def _ask(self, act: str, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the SDK's client; whatever goes wrong is an AnvilError."""
        call = getattr(self.api, method)
        from docker.errors import DockerException
        from requests.exceptions import RequestException

        try:
            return call(*args, **kwargs)
        except (DockerException, RequestException, OSError, UnicodeError) as exc:
            raise self._trouble(act, exc) from exc

    def _find(self, act: str, method: str, *args: Any, **kwargs: Any) -> Any:
        """As ``_ask``, but what is not there is None."""
        try:
            return self._ask(act, method, *args, **kwargs)
        except AnvilError as exc:
            from docker.errors import NotFound

            if isinstance(exc.__cause__, NotFound):
                return None
            raise

    def _pin(self, name_or_id: str) -> Optional[str]:
        """What the engine knows this very container by, and no other; None if it has none that is named so.

        Every call that is about a container goes through here. It costs a request only where a name could begin an id.
        """
        if not ID_PREFIX.fullmatch(name_or_id):
            return name_or_id
        filters = json.dumps({"name": ["^/?{0}$".format(name_or_id)]})
        listed = self._read("find container " + name_or_id, "/containers/json", all="1", filters=filters)
        return next((str(entry["Id"]) for entry in listed if "/" + name_or_id in (entry["Names"] or ())), None)

    def _need(self, act: str, name_or_id: str) -> str:
        """As ``_pin``, for what cannot be done to an absent container."""
        pinned = self._pin(name_or_id)
        if pinned is None:
            raise fail("the engine refused to " + act, where=self.docker_host, why="No such container: " + name_or_id)
        return pinned

    def _get(self, act: str, path: str, query: Mapping[str, str]) -> Answer:
        """GET a path of the API. Only a connection that fails is an error here; the status is the caller's."""
        target = "/v{0}{1}{2}".format(API_VERSION, path, "?" + urlencode(query) if query else "")
        if not is_local(self.docker_host):
            answer = self._ask(act, "get", self.api.base_url + target, timeout=self._timeout)
            return Answer(answer.status_code, answer.headers, answer.content)
        try:
            if self._connection is not None:
                try:
                    return self._get_once(self._connection, target)
                except (ConnectionError, http.client.HTTPException):
                    self._connection.close()  # the engine was restarted since: what it lets go of is asked anew
            self._connection = _UnixConnection(urlsplit(self.docker_host).path, self._timeout)
            return self._get_once(self._connection, target)
        except (OSError, http.client.HTTPException) as exc:
            self._connection = None
            raise self._trouble(act, exc) from exc

    @staticmethod
    def _get_once(connection: _UnixConnection, target: str) -> Answer:
        connection.request("GET", target)
        reply = connection.getresponse()
        return Answer(reply.status, dict(reply.headers), reply.read())

    def _read(self, act: str, path: str, **query: str) -> Any:
        """The JSON at a path; None if the engine says that it is not there."""
        answer = self._get(act, path, query)
        if answer.status == 404:
            return None
        if answer.status >= 300:
            raise fail("the engine refused to " + act, where=self.docker_host, why=_explain(answer.body))
        return json.loads(answer.body)

    # ------------------------------------------------------------------------------------------------------- reading

    def version(self) -> Dict[str, Any]:
        return dict(self._read("tell its version", "/version"))

    def info(self) -> Dict[str, Any]:
        return dict(self._read("describe itself", "/info"))

    def list_containers(self, labels: Sequence[str] = ()) -> List[Dict[str, Any]]:
        """All containers, running or not, as the engine's list call shows them (2 ms for dozens)."""
        filters = json.dumps({"label": list(labels)} if labels else {})
        return list(self._read("list containers", "/containers/json", all="1", filters=filters))

    def inspect_container(self, name_or_id: str) -> Optional[Dict[str, Any]]:
        """The container of exactly this name or whole id."""
        pinned = self._pin(name_or_id)
        return None if pinned is None else self._inspect("container", "/containers/{0}/json", pinned)

    def inspect_image(self, reference: str) -> Optional[Dict[str, Any]]:
        return self._inspect("image", "/images/{0}/json", reference)

    def inspect_volume(self, name: str) -> Optional[Dict[str, Any]]:
        return self._inspect("volume", "/volumes/{0}", name)

    def inspect_network(self, name: str) -> Optional[Dict[str, Any]]:
        return self._inspect("network", "/networks/{0}", name)

    def _inspect(self, kind: str, path: str, name: str) -> Optional[Dict[str, Any]]:
        # A path that begins with the name must not lead elsewhere: the engine would redirect `..`, and we would read that.
        if not REFERENCE.fullmatch(name) or not {"", ".", ".."}.isdisjoint(name.split("/")):
            raise fail("not a name that the engine can know", where=kind, why=ascii(name[:300]))
        found = self._read("inspect {0} {1}".format(kind, name), path.format(quote(name, safe="/:@")))
        return None if found is None else dict(found)

    def read_log(self, name_or_id: str, lines: int = 20, since: Optional[int] = None) -> List[str]:
        """The last lines of a container's log, both streams, oldest first; empty if the container is gone."""
        options: Dict[str, Any] = {"stdout": True, "stderr": True, "tail": lines}
        if since is not None:
            options["since"] = since
        pinned = self._pin(name_or_id)
        raw = None if pinned is None else self._find("read the log of " + name_or_id, "logs", pinned, **options)
        return [] if raw is None else raw.decode("utf-8", "replace").splitlines()

    def read_frames(self, name_or_id: str, lines: int, since: int) -> bytes:
        """A container's log as the engine frames it, so that both streams can be told apart; empty if it is gone."""
        query = {"stdout": "1", "stderr": "1", "tail": str(lines), "since": str(since)}
        pinned = self._pin(name_or_id)
        if pinned is None:
            return b""
        answer = self._get("read the log of " + name_or_id, "/containers/{0}/logs".format(quote(pinned, safe="")), query)
        if answer.status == 404:
            return b""
        if answer.status >= 400:
            raise fail("the engine refused to tell the log", where=name_or_id, why=_explain(answer.body))
        return answer.body

    # ------------------------------------------------------------------------------------------------------ changing

    def create_network(self, name: str, labels: Mapping[str, str], subnet: str = "") -> None:
        """Create a bridge network; one that somebody else made in the meantime is as good.

        subnet: CIDR, where containers get fixed addresses; otherwise the engine chooses one.
        """
        ipam = {"Driver": "default", "Config": [{"Subnet": subnet}]} if subnet else None
        try:
            self._ask("create network " + name, "create_network", name, driver="bridge", labels=dict(labels), ipam=ipam)
        except AnvilError:
            if self.inspect_network(name) is None:
                raise

    def signal_container(self, name_or_id: str, signal: str) -> None:
        """Signal its first process, from inside.

        For the engine its own kill is a stop by hand, whatever the signal: a container that ends at any time after it is not
        brought back by ``unless-stopped`` (Engine 26.1). Only an image without a shell is signalled that way.
        """
        act = "send {0} to container {1}".format(signal, name_or_id)
        pinned = self._need(act, name_or_id)
        try:
            if self.exec_in(pinned, ["sh", "-c", "kill -" + signal.replace("SIG", "", 1) + " 1"]).exit_code == 0:
                return
        except AnvilError:  # it does not run, or has no shell: the engine says which
            pass
        self._ask(act, "kill", pinned, signal=signal)

    def create_volume(self, name: str, labels: Mapping[str, str]) -> None:
        self._ask("create volume " + name, "create_volume", name, labels=dict(labels))

    def pull_image(self, reference: str) -> None:
        """Pull an image, with the login of ``docker login`` where there is one; ``pulls`` tells meanwhile how far it is.

        No deadline: how long the engine waits for a registry is the engine's own affair.
        """
        act = "pull image " + reference
        told = self.pulls[reference] = Pull()
        events = self._ask(act, "pull", reference, stream=True, decode=True)
        from docker.errors import DockerException
        from requests.exceptions import RequestException
        from urllib3.exceptions import HTTPError

        try:
            for event in events:
                if event.get("error"):
                    raise fail("the engine refused to " + act, where=self.docker_host, why=str(event["error"]))
                told.take(event)
        except (DockerException, RequestException, HTTPError, OSError, ValueError) as exc:
            raise self._trouble(act, exc) from exc

    def remove_volume(self, name: str) -> None:
        """Remove a volume and what it holds; absence is success."""
        self._find("remove volume " + name, "remove_volume", name)

    def remove_network(self, name: str) -> None:
        """Remove a network that no container is attached to; absence is success."""
        self._find("remove network " + name, "remove_network", name)

    def tag_image(self, reference: str, other: str) -> None:
        """Give an image another name; an image that had it loses it."""
        repository, _colon, tag = other.rpartition(":")
        self._ask("tag image " + reference, "tag", reference, repository, tag)

    def inspect_distribution(self, reference: str, auth: Optional[Mapping[str, str]] = None) -> Optional[Dict[str, Any]]:
        """What the registry of an image tells of it (``Descriptor.digest``); ``None`` if it has none of that name."""
        act = "ask the registry about " + reference
        found = self._find(act, "inspect_distribution", reference, auth_config=dict(auth) if auth else None)
        return None if found is None else dict(found)

    def restart_container(self, name_or_id: str, grace: int = 10, signal: str = "") -> None:
        """Restart, giving the process ``grace`` seconds to end after ``signal`` (its own stop signal if empty).

        An absent container is an ``AnvilError`` too.
        """
        act = "restart container " + name_or_id
        query: Dict[str, Any] = {"t": grace}
        if signal:
            query["signal"] = signal  # API 1.42 and newer; the SDK's restart() cannot pass it
        url = "{0}/v{1}/containers/{2}/restart".format(self.api.base_url, API_VERSION, self._need(act, name_or_id))
        answer = self._ask(act, "post", url, params=query, timeout=grace + 60)
        if answer.status_code >= 400:
            raise fail("the engine refused to " + act, where=self.docker_host, why=_explain(answer.content))

    def stop_container(self, name_or_id: str, grace: int = 30) -> None:
        """Stop, giving the process ``grace`` seconds to end by itself; absence is success."""
        pinned = self._pin(name_or_id)
        if pinned is not None:
            self._find("stop container " + name_or_id, "stop", pinned, timeout=grace)

    def rename_container(self, name_or_id: str, name: str) -> None:
        act = "rename container {0} to {1}".format(name_or_id, name)
        self._ask(act, "rename", self._need(act, name_or_id), name)

    def remove_container(self, name_or_id: str, volumes: bool = True) -> None:
        """Remove by force, with its anonymous volumes unless they are to stay; absence is success."""
        pinned = self._pin(name_or_id)
        if pinned is None:
            return
        try:
            self._find("remove container " + name_or_id, "remove_container", pinned, force=True, v=volumes)
        except AnvilError as exc:
            if "already in progress" not in exc.as_text():
                raise
            # The engine is removing it by itself (auto_remove): see it gone.
            self._find("wait for container " + name_or_id, "wait", pinned, condition="removed", timeout=60)

    def create_container(self, image: str, command: Sequence[str], **options: Any) -> str:
        """Create a side container (never pulls) and return its id.

        options are those of the SDK's low-level ``create_container``; ``host_config`` is a mapping for
        ``create_host_config``. A name that is taken is an ``AnvilError`` whose text holds the word "Conflict".
        """
        host = self.api.create_host_config(**options.pop("host_config", {}))
        made = self._ask(
            "create a container of image " + image,
            "create_container",
            image,
            command=list(command),
            host_config=host,
            **options,
        )
        return str(made["Id"])

    def start_container(self, name_or_id: str) -> None:
        act = "start container " + name_or_id
        self._ask(act, "start", self._need(act, name_or_id))

    def wait_container(self, name_or_id: str, timeout: int) -> int:
        """Wait until it ends and return its exit code; ``timeout`` in seconds."""
        act = "wait for container " + name_or_id
        ended = self._ask(act, "wait", self._need(act, name_or_id), timeout=timeout)
        return int(ended["StatusCode"])

    def put_files(self, name_or_id: str, folder: str, files: Mapping[str, bytes], mode: int = 0o644) -> None:
        """Put files (path below ``folder`` -> content) into a container (it need not run)."""
        import tarfile

        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size, member.mode = len(content), mode
                tar.addfile(member, io.BytesIO(content))
        act = "write {0} into container {1}".format(", ".join(files), name_or_id)
        self._ask(act, "put_archive", self._need(act, name_or_id), folder, archive.getvalue())

    def put_file(self, name_or_id: str, folder: str, name: str, content: bytes, mode: int = 0o600) -> None:
        """Put one file into a container's folder (the container need not run)."""
        self.put_files(name_or_id, folder, {name: content}, mode)

    def read_archive(self, name_or_id: str, path: str, limit: int = 64 * 1024 * 1024) -> Optional[Tuple[Dict[str, Any], bytes]]:
        """The engine's stat of ``path`` in a container and a tar of it; ``None`` if there is no such path.

        The container need not run, and volumes are followed as its processes see them. A symlink comes back as a
        symlink; the stat's ``linkTarget`` is where it leads. More than ``limit`` bytes, or no such container, is an
        ``AnvilError``.
        """
        act = "read {0} in container {1}".format(path, name_or_id)
        answer = self._get(act, "/containers/{0}/archive".format(quote(self._need(act, name_or_id))), {"path": path})
        if answer.status == 404 and "no such container" not in _explain(answer.body).lower():
            return None
        if answer.status >= 400:
            raise fail("the engine refused to " + act, where=self.docker_host, why=_explain(answer.body))
        if len(answer.body) > limit:
            where = "{0}:{1}".format(name_or_id, path)
            raise fail("too much to read", where=where, why="more than {0} bytes".format(limit))
        return dict(json.loads(base64.b64decode(answer.headers["X-Docker-Container-Path-Stat"]))), answer.body

    def open_process(self, image: str, command: Sequence[str], **options: Any) -> SideProcess:
        """Create and start a side container whose standard input and output are ours, and whose life ends with ours.

        Its standard input closes when this process dies, however it dies (StdinOnce), and the engine then removes it
        (``auto_remove``). networks: those besides its ``network_mode``.
        files: path below ``folder`` -> content, put there before it starts. A name that is taken is an ``AnvilError`` whose
        text holds the word "Conflict".
        """
        options["host_config"] = dict(options.get("host_config", {}), auto_remove=True)
        networks, folder, files = (options.pop(key, None) for key in ("networks", "folder", "files"))
        made = self.create_container(image, command, stdin_open=True, **options)
        try:
            if files:
                self.put_files(made, folder or "/", files)
            for network in networks or ():
                self._ask("connect to network " + network, "connect_container_to_network", made, network)
            attached = self._ask(
                "attach to container " + made,
                "attach_socket",
                made,
                params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1},
            )
            self.start_container(made)
        except AnvilError:
            self.remove_container(made)
            raise
        return SideProcess(self, made, attached)

    def run_side_container(
        self,
        image: str,
        command: Sequence[str],
        timeout: int = 60,
        files: Optional[Mapping[str, bytes]] = None,
        folder: str = "/",
        **options: Any,
    ) -> Finished:
        """Run a container to its end and remove it, whatever happens.

        files: path below ``folder`` -> content, put there before it starts.
        """
        made = self.create_container(image, command, **options)
        try:
            if files:
                self.put_files(made, folder, files)
            self.start_container(made)
            code = self.wait_container(made, timeout)
            return Finished(code, "\n".join(self.read_log(made, lines=200)))
        finally:
            self.remove_container(made)

    def exec_in(self, name_or_id: str, command: Sequence[str], **options: Any) -> Finished:
        """Run a command in a running container and wait for it."""
        act = "exec in container " + name_or_id
        made = self._ask(act, "exec_create", self._need(act, name_or_id), list(command), **options)
        raw = self._ask(act, "exec_start", made["Id"])
        deadline = time.monotonic() + 10
        while True:  # its output may end a moment before the engine knows that it has
            told = self._ask(act, "exec_inspect", made["Id"])
            if not told["Running"] and told["ExitCode"] is not None:
                return Finished(int(told["ExitCode"]), raw.decode("utf-8", "replace"))
            if time.monotonic() > deadline:
                raise fail("the engine does not tell how it ended: " + act, where=self.docker_host)
            time.sleep(0.02)


def _explain(body: bytes) -> str:
    """The engine's own words in a refused answer."""
    try:
        return str(json.loads(body)["message"])
    except (ValueError, KeyError, TypeError):
        return body.decode("utf-8", "replace")


def parse_moment(text: str) -> Optional[int]:
    """The engine's ``2026-07-04T10:00:00.123456789Z`` in seconds since 1970; None for its zero time and for no time."""
    match = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)", text)
    if not match or text.startswith("0001-"):
        return None
    moment = datetime.datetime.strptime(match.group(1), "%Y-%m-%dT%H:%M:%S")
    return int(moment.replace(tzinfo=datetime.timezone.utc).timestamp())


def confine(**more: Any) -> Dict[str, Any]:
    """The host options of a side container that sees nobody and may do nothing, and what it needs besides."""
    return {
        "network_mode": "none",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "read_only": True,
        "pids_limit": 64,
        **more,
    }


def published_address(bind: str, port: int) -> Tuple[str, int]:
    """Where a port published on ``bind`` is reached from this host: a wildcard is reached through loopback."""
    return ("127.0.0.1" if bind in ("", "0.0.0.0") else "[::1]" if bind == "::" else bind, port)


def find_endpoint(found: Mapping[str, Any]) -> Optional[Tuple[str, int]]:
    """Where a container is reached from its host, by its inspect: its first published port, else its own address and first
    exposed port; ``None`` if nowhere.
    """
    network = found.get("NetworkSettings") or {}
    ports = network.get("Ports") or {}
    tcp = sorted((int(name.split("/")[0]), bound) for name, bound in ports.items() if name.endswith("/tcp"))
    for _private, bound in tcp:
        for binding in bound or ():
            return published_address(str(binding.get("HostIp", "")), int(binding["HostPort"]))
    exposed = sorted(
        int(name.split("/")[0]) for name in (found.get("Config") or {}).get("ExposedPorts") or {} if name.endswith("/tcp")
    )
    if not exposed:
        return None
    if str((found.get("HostConfig") or {}).get("NetworkMode")) == "host":
        return ("127.0.0.1", exposed[0])
    for attached in (network.get("Networks") or {}).values():
        if attached.get("IPAddress"):
            return (str(attached["IPAddress"]), exposed[0])
    return None


def is_local(docker_host: str) -> bool:
    """Whether the engine runs on this very machine, so that its published ports can be reached from here."""
    return urlsplit(docker_host).scheme in ("unix", "")
