# SPDX-License-Identifier: GPL-3.0-or-later
"""Side containers: short-lived containers that run one program for this collection, to its end or line by line."""

from __future__ import annotations

import os
import socket
import time
from typing import Any, Dict, Mapping, Optional, Sequence

from ansible_collections.anvil.serving.plugins.module_utils.core.errors import AnvilError, fail
from ansible_collections.anvil.serving.plugins.module_utils.docker.containers import CommandResult, Containers

# Of a side container: the process that started it.
LABEL_OWNER = "anvil.serving.owner"


class SideProcess:
    """A running side container; lines go to its standard input and come from its standard output."""

    def __init__(self, containers: Containers, container_id: str, attached: Any) -> None:
        self.containers = containers
        self.container_id = container_id
        self.errors = b""
        self._attached = attached
        # The SDK returns a file object on unix sockets and a socket on others.
        self._socket = getattr(attached, "_sock", attached)
        self._raw = b""
        self._lines = b""

    def send(self, content: bytes) -> None:
        try:
            self._socket.settimeout(60)
            self._socket.sendall(content)
        except OSError as exc:
            raise self._lost("writing to it failed: {0}".format(exc)) from exc

    def read_line(self, timeout: float) -> bytes:
        """The next line of its standard output, without the newline. timeout: seconds between two pieces of the line."""
        while b"\n" not in self._lines:
            while not self._take_frame():
                self._receive(timeout)
        line, _newline, self._lines = self._lines.partition(b"\n")
        return line

    def _take_frame(self) -> bool:
        """Move one whole frame (stream number, three zeros, length, content) from the raw bytes to its stream."""
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
            raise self._lost("no output within {0:g} s: {1}".format(timeout, exc)) from exc
        if not piece:
            raise self._lost("its program ended")
        self._raw += piece

    def has_ended(self) -> bool:
        """Whether the container has ended or does not exist any more."""
        found = self.containers.inspect_container(self.container_id)
        return found is None or str(found["State"]["Status"]) not in ("created", "running")

    def drain(self, seconds: float = 0.2) -> None:
        """Read what has arrived so far, so that ``errors`` holds its standard error."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                self._receive(max(0.01, deadline - time.monotonic()))
            except AnvilError:
                return
            while self._take_frame():
                pass

    def _lost(self, why: str) -> AnvilError:
        log = self.errors.decode("utf-8", "replace").splitlines()[-10:]
        return fail("the connection to a side container was lost", where=self.container_id[:12], why=why, log=log)

    def release(self) -> None:
        """Close its standard input and do not wait: the program then ends, and the Docker Engine removes the container."""
        try:
            self._socket.close()
            self._attached.close()
        except OSError:
            pass  # the Docker Engine has closed the connection already

    def close(self) -> None:
        """End it and wait until it is removed, so that its name is free when this returns."""
        self.release()
        self.containers.remove_container(self.container_id)


class SideContainers(Containers):
    """Runs side containers on one Docker Engine."""

    def open_process(self, image: str, command: Sequence[str], **options: Any) -> SideProcess:
        """Create and start a side container whose standard input and output are connected to this process.

        Its standard input closes when this process ends, even by a kill (StdinOnce); the Docker Engine then removes the
        container (``auto_remove``). networks: those besides its ``network_mode``. files: path below ``folder`` -> content,
        written before it starts. A name that is taken is an ``AnvilError`` whose text holds the word "Conflict".
        """
        options["host_config"] = dict(options.get("host_config", {}), auto_remove=True)
        networks, folder, files = (options.pop(key, None) for key in ("networks", "folder", "files"))
        created = self.create_container(image, command, stdin_open=True, **options)
        try:
            if files:
                self.put_files(created, folder or "/", files)
            for network in networks or ():
                self._call_sdk("connect to network " + network, "connect_container_to_network", created, network)
            attached = self._call_sdk(
                "attach to container " + created,
                "attach_socket",
                created,
                params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1},
            )
            self.start_container(created)
        except AnvilError:
            self.remove_container(created)
            raise
        return SideProcess(self, created, attached)

    def run_side_container(
        self,
        image: str,
        command: Sequence[str],
        timeout: int = 60,
        files: Optional[Mapping[str, bytes]] = None,
        folder: str = "/",
        **options: Any,
    ) -> CommandResult:
        """Run a container to its end; it is removed in every case.

        files: path below ``folder`` -> content, written before it starts.
        """
        created = self.create_container(image, command, **options)
        try:
            if files:
                self.put_files(created, folder, files)
            self.start_container(created)
            code = self.wait_container(created, timeout)
            return CommandResult(code, "\n".join(self.read_raw_log(created, lines=200)))
        finally:
            self.remove_container(created)


def confine(**more: Any) -> Dict[str, Any]:
    """Host options of a side container: no network, no capabilities, read-only; ``more`` adds to them or replaces them."""
    return {
        "network_mode": "none",
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges"],
        "read_only": True,
        "pids_limit": 64,
        **more,
    }


def own_volume(target: str) -> Dict[str, Any]:
    """The mount of an anonymous volume whose label names this process, so that it is found if this process is killed."""
    return {"Type": "volume", "Target": target, "VolumeOptions": {"Labels": {LABEL_OWNER: describe_owner()}}}


def is_owner_gone(owner: str) -> bool:
    """Whether the process of a ``LABEL_OWNER`` ran on this machine and has ended. False where that cannot be known."""
    host, _word, number = owner.rpartition(" pid ")
    if host != socket.gethostname() or not number.isdigit():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def describe_owner() -> str:
    """This process, as the value of ``LABEL_OWNER``."""
    return "{0} pid {1}".format(socket.gethostname(), os.getpid())
