# Copyright: (c) 2026, the anvil.serving authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Docker Engine, through its API (Docker SDK for Python): read containers, images and volumes; run side containers.

Knows no business rules. An error of the engine is always an ``AnvilError``; absence is ``None``, and nothing else is.
"""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple
from urllib.parse import urlsplit

from ansible_collections.anvil.serving.plugins.module_utils.errors import AnvilError, fail

try:
    import docker
    import docker.errors
    import requests.exceptions

    SDK_ERROR: Optional[str] = None
except ImportError as exc:
    SDK_ERROR = str(exc)

DEFAULT_SOCKET = "unix:///var/run/docker.sock"
# Engine 24, the oldest we support: naming it saves the version request of every module call.
API_VERSION = "1.43"


@dataclass(frozen=True)
class Finished:
    """How a side container ended. ``output`` holds both streams, as text."""

    exit_code: int
    output: str


class SideProcess:
    """A running side container that we talk to line by line through its standard input and output."""

    def __init__(self, engine: Engine, container_id: str, attached: Any) -> None:
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

    def _gone(self, why: str) -> AnvilError:
        said = self.errors.decode("utf-8", "replace").splitlines()[-10:]
        return fail("a side container was lost", where=self.container_id[:12], why=why, log=said)

    def close(self) -> None:
        """End it and see it gone, so that its name is free when this returns."""
        try:
            self._socket.close()
            self._attached.close()
        except OSError:
            pass  # the container is removed all the same
        self.engine.remove_container(self.container_id)


class Engine:
    """One connection to one engine. Every method may raise ``AnvilError`` (engine gone, refused, or misbehaving)."""

    def __init__(self, docker_host: str = DEFAULT_SOCKET, timeout: int = 60) -> None:
        """Connect lazily: nothing is sent before the first call. ``timeout`` is seconds per API request."""
        self.docker_host = docker_host or DEFAULT_SOCKET
        if SDK_ERROR is not None:
            raise fail(
                "the Docker SDK for Python is missing",
                where="this host",
                why=SDK_ERROR,
                hint="install it for the interpreter Ansible uses here: apt install python3-docker, or pip install docker",
            )
        self.api = docker.APIClient(base_url=self.docker_host, version=API_VERSION, timeout=timeout)

    def _trouble(self, act: str, exc: Exception) -> AnvilError:
        if isinstance(exc, docker.errors.APIError):
            return fail("the engine refused to " + act, where=self.docker_host, why=str(exc.explanation or exc))
        return fail(
            "the Docker Engine does not answer",
            where=self.docker_host,
            why="while it was asked to {0}: {1}".format(act, exc),
            hint="is it running, and may this user use its socket? try: docker -H {0} version".format(self.docker_host),
        )

    def _ask(self, act: str, call: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as exc:
            raise self._trouble(act, exc) from exc

    def _find(self, act: str, call: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except docker.errors.NotFound:
            return None
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as exc:
            raise self._trouble(act, exc) from exc

    # ------------------------------------------------------------------------------------------------------- reading

    def version(self) -> Dict[str, Any]:
        return dict(self._ask("tell its version", self.api.version))

    def info(self) -> Dict[str, Any]:
        return dict(self._ask("describe itself", self.api.info))

    def list_containers(self, labels: Sequence[str] = ()) -> List[Dict[str, Any]]:
        """All containers, running or not, as the engine's list call shows them (2 ms for dozens)."""
        filters = {"label": list(labels)} if labels else {}
        return list(self._ask("list containers", self.api.containers, all=True, filters=filters))

    def inspect_container(self, name_or_id: str) -> Optional[Dict[str, Any]]:
        found = self._find("inspect container " + name_or_id, self.api.inspect_container, name_or_id)
        return None if found is None else dict(found)

    def inspect_image(self, reference: str) -> Optional[Dict[str, Any]]:
        found = self._find("inspect image " + reference, self.api.inspect_image, reference)
        return None if found is None else dict(found)

    def inspect_volume(self, name: str) -> Optional[Dict[str, Any]]:
        found = self._find("inspect volume " + name, self.api.inspect_volume, name)
        return None if found is None else dict(found)

    def inspect_network(self, name: str) -> Optional[Dict[str, Any]]:
        found = self._find("inspect network " + name, self.api.inspect_network, name)
        return None if found is None else dict(found)

    def read_log(self, name_or_id: str, lines: int = 20, since: Optional[int] = None) -> List[str]:
        """The last lines of a container's log, both streams, oldest first; empty if the container is gone."""
        options: Dict[str, Any] = {"stdout": True, "stderr": True, "tail": lines}
        if since is not None:
            options["since"] = since
        raw = self._find("read the log of " + name_or_id, self.api.logs, name_or_id, **options)
        return [] if raw is None else raw.decode("utf-8", "replace").splitlines()

    # ------------------------------------------------------------------------------------------------------ changing

    def create_network(self, name: str, labels: Mapping[str, str]) -> None:
        self._ask("create network " + name, self.api.create_network, name, driver="bridge", labels=dict(labels))

    def create_volume(self, name: str, labels: Mapping[str, str]) -> None:
        self._ask("create volume " + name, self.api.create_volume, name, labels=dict(labels))

    def restart_container(self, name_or_id: str, grace: int = 10, signal: str = "") -> None:
        """Restart, giving the process ``grace`` seconds to end after ``signal`` (its own stop signal if empty).

        An absent container is an ``AnvilError`` too.
        """
        act = "restart container " + name_or_id
        query: Dict[str, Any] = {"t": grace}
        if signal:
            query["signal"] = signal  # API 1.42 and newer; the SDK's restart() cannot pass it
        url = "{0}/v{1}/containers/{2}/restart".format(self.api.base_url, API_VERSION, name_or_id)
        answer = self._ask(act, self.api.post, url, params=query, timeout=grace + 60)
        if answer.status_code >= 400:
            raise fail("the engine refused to " + act, where=self.docker_host, why=_explain(answer))

    def stop_container(self, name_or_id: str, grace: int = 30) -> None:
        """Stop, giving the process ``grace`` seconds to end by itself; absence is success."""
        self._find("stop container " + name_or_id, self.api.stop, name_or_id, timeout=grace)

    def remove_container(self, name_or_id: str) -> None:
        """Remove by force, with its anonymous volumes; absence is success."""
        try:
            self._find("remove container " + name_or_id, self.api.remove_container, name_or_id, force=True, v=True)
        except AnvilError as exc:
            if "already in progress" not in exc.as_text():
                raise
            # The engine is removing it by itself (auto_remove): see it gone.
            self._find("wait for container " + name_or_id, self.api.wait, name_or_id, condition="removed", timeout=60)

    def create_container(self, image: str, command: Sequence[str], **options: Any) -> str:
        """Create a side container (never pulls) and return its id.

        options are those of the SDK's low-level ``create_container``; ``host_config`` is a mapping for
        ``create_host_config``. A name that is taken is an ``AnvilError`` whose text holds the word "Conflict".
        """
        host = self.api.create_host_config(**options.pop("host_config", {}))
        made = self._ask(
            "create a container of image " + image,
            self.api.create_container,
            image,
            command=list(command),
            host_config=host,
            **options,
        )
        return str(made["Id"])

    def start_container(self, name_or_id: str) -> None:
        self._ask("start container " + name_or_id, self.api.start, name_or_id)

    def wait_container(self, name_or_id: str, timeout: int) -> int:
        """Wait until it ends and return its exit code; ``timeout`` in seconds."""
        ended = self._ask("wait for container " + name_or_id, self.api.wait, name_or_id, timeout=timeout)
        return int(ended["StatusCode"])

    def put_file(self, name_or_id: str, folder: str, name: str, content: bytes, mode: int = 0o600) -> None:
        """Put one file into a container's folder (the container need not run)."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            tar.addfile(member, io.BytesIO(content))
        self._ask(
            "write {0}/{1} into container {2}".format(folder, name, name_or_id),
            self.api.put_archive,
            name_or_id,
            folder,
            archive.getvalue(),
        )

    def read_archive(
        self, name_or_id: str, path: str, limit: int = 64 * 1024 * 1024
    ) -> Optional[Tuple[Dict[str, Any], bytes]]:
        """The engine's stat of ``path`` in a container and a tar of it; ``None`` if there is no such path.

        The container need not run, and volumes are followed as its processes see them. A symlink comes back as a
        symlink; the stat's ``linkTarget`` is where it leads. More than ``limit`` bytes, or no such container, is an
        ``AnvilError``.
        """
        act = "read {0} in container {1}".format(path, name_or_id)
        try:
            pieces, stat = self.api.get_archive(name_or_id, path)
            content = bytearray()
            for piece in pieces:
                content += piece
                if len(content) > limit:
                    raise fail(
                        "too much to read",
                        where="{0}:{1}".format(name_or_id, path),
                        why="more than {0} bytes".format(limit),
                    )
            return dict(stat), bytes(content)
        except docker.errors.NotFound as exc:
            if "no such container" in str(exc.explanation or exc).lower():
                raise self._trouble(act, exc) from exc
            return None
        except (docker.errors.DockerException, requests.exceptions.RequestException, OSError) as exc:
            raise self._trouble(act, exc) from exc

    def open_process(self, image: str, command: Sequence[str], **options: Any) -> SideProcess:
        """Create and start a side container whose standard input and output are ours, and whose life ends with ours.

        Its standard input closes when this process dies, however it dies (StdinOnce), and the engine then removes it
        (``auto_remove``). A name that is taken is an ``AnvilError`` whose text holds the word "Conflict".
        """
        options["host_config"] = dict(options.get("host_config", {}), auto_remove=True)
        made = self.create_container(image, command, stdin_open=True, **options)
        try:
            attached = self._ask(
                "attach to container " + made,
                self.api.attach_socket,
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
        **options: Any,
    ) -> Finished:
        """Run a container to its end and remove it, whatever happens.

        files: absolute path in the container -> content, put there before it starts.
        """
        made = self.create_container(image, command, **options)
        try:
            for path, content in (files or {}).items():
                folder, _slash, name = path.rpartition("/")
                self.put_file(made, folder or "/", name, content, 0o644)
            self.start_container(made)
            code = self.wait_container(made, timeout)
            return Finished(code, "\n".join(self.read_log(made, lines=200)))
        finally:
            self.remove_container(made)

    def exec_in(self, name_or_id: str, command: Sequence[str], **options: Any) -> Finished:
        """Run a command in a running container and wait for it."""
        made = self._ask("exec in container " + name_or_id, self.api.exec_create, name_or_id, list(command), **options)
        raw = self._ask("exec in container " + name_or_id, self.api.exec_start, made["Id"])
        code = self._ask("exec in container " + name_or_id, self.api.exec_inspect, made["Id"])["ExitCode"]
        return Finished(int(code), raw.decode("utf-8", "replace"))

    def events(self, since: int, until: int, filters: Mapping[str, Any]) -> Iterator[Dict[str, Any]]:
        """What happened between two times (seconds since the epoch)."""
        return iter(
            self._ask("list events", self.api.events, since=since, until=until, filters=dict(filters), decode=True)
        )


def _explain(answer: Any) -> str:
    """The engine's own words in a refused answer."""
    try:
        return str(answer.json()["message"])
    except (ValueError, KeyError, TypeError):
        return str(answer.text)


def published_address(bind: str, port: int) -> Tuple[str, int]:
    """Where a port published on ``bind`` is reached from this host: a wildcard is reached through loopback."""
    return ("127.0.0.1" if bind in ("", "0.0.0.0") else "[::1]" if bind == "::" else bind, port)


def is_local(docker_host: str) -> bool:
    """Whether the engine runs on this very machine, so that its published ports can be reached from here."""
    return urlsplit(docker_host).scheme in ("unix", "")
